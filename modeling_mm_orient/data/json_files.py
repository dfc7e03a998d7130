# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""JSON files of ours: read as an object or refused, written whole."""

import json
from pathlib import Path

from ..partial_files import whole_file
from .problems import shown


def read_json(path) -> dict:
    """The object in a JSON file of ours. Raises ValueError, with its path, where it is none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no sound JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is expected, found {shown(content)}")
    return content


def once(pairs: list[tuple]) -> dict:
    """An object of JSON. Raises ValueError where a key stands twice: one of the values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def write_json(path, content) -> None:
    """Write JSON to a temporary name and rename it; folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
