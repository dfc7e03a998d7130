# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a pretrained encoder or classifier is (ours): of a folder its files, of the Hub its name and revision."""

import hashlib
import json
from pathlib import Path

# what a model, tokenizer or image processor is loaded from; notes and metrics beside them may change
LOADED = (
    "config.json", "*processor_config.json", "tokenizer*", "vocab*", "merges.txt", "*.codes", "*.model",
    "special_tokens_map.json", "added_tokens.json", "model*.safetensors", "model*.index.json", "pytorch_model*",
)  # fmt: skip


def digest_of_source(source: str, revision: str | None = None) -> str:
    """Of a folder's files that are loaded, wherever it lies; of a Hub id, of that and the revision."""
    folder = Path(source)
    if not folder.is_dir():
        return digest_of([source, revision])
    files = {path for pattern in LOADED for path in folder.glob(pattern) if path.is_file()}
    return digest_of([[path.name, digest_of_file(path)] for path in sorted(files)])


def digest_of_file(path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value) -> str:
    """Of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
