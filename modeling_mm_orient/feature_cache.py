# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Feature cache: frozen encoders run once per post, not once per epoch.

A cache is a folder per encoder fingerprint with Arrow shards of posts in half precision, each keyed by the post's
content. A changed picture or text has another key, changed encoders another folder; shards are written to a temporary
name and renamed, so an interrupted run loses at most the shard it was at.

Shapes: R regions, T tokens, D features.
"""

import hashlib
import json
import os
import uuid
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from .processing_mm_orient import read_image

SHARD_POSTS = 512
VECTORS = ("image_embeds", "text_embeds")
SEQUENCES = {"region_features": "region_mask", "token_features": "token_mask"}
COLUMNS = datasets.Features(
    {
        "key": datasets.Value("string"),
        **{name: datasets.Sequence(datasets.Value("float16")) for name in (*VECTORS, *SEQUENCES)},
        "has_image": datasets.Value("bool"),
        "has_text": datasets.Value("bool"),
    }
)


def encoder_fingerprint(model, processor) -> str:
    """Fingerprint of what turns a post into features: encoder weights and the processor's settings and vocabularies."""
    digest = hashlib.sha256()
    for name in model.config.encoder_names:
        for key, value in getattr(model, f"{name}_encoder").state_dict().items():
            digest.update(f"{name}.{key}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(model.config.embedding_pooling.encode())
    for part in (processor, processor.joint_processor):
        if part is not None:
            digest.update(json.dumps(part.to_dict(), sort_keys=True, default=str).encode())
            vocabulary = part.tokenizer.get_vocab() if part.tokenizer is not None else {}
            digest.update(json.dumps(sorted(vocabulary.items())).encode())
    return digest.hexdigest()[:32]


class FeatureCache:
    """Features of posts on disk, by content.

    Args:
        folder: where caches of all encoders live.
        model: `MMOrientModel` with its encoders. processor: `MMOrientProcessor`.
    """

    def __init__(self, folder, model, processor):
        self.model, self.processor = model, processor
        self.folder = Path(folder) / encoder_fingerprint(model, processor)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.load()

    def load(self) -> None:
        """Open every finished shard: memory-mapped, nothing is read but the keys."""
        shards = sorted(self.folder.glob("*.arrow"))
        self.table = (
            datasets.concatenate_datasets([datasets.Dataset.from_file(str(p)) for p in shards]) if shards else None
        )
        self.rows = {key: row for row, key in enumerate(self.table["key"])} if shards else {}

    def missing(self, keys: list[str]) -> list[int]:
        """Positions of `keys` that are not stored, each key once."""
        first = {key: position for position, key in reversed(list(enumerate(keys)))}
        return sorted(position for key, position in first.items() if key not in self.rows)

    def add(self, posts, keys: list[str], batch_size: int = 32, share: int = 0, shares: int = 1) -> int:
        """Encode and store the posts that are missing; returns how many were.

        Args:
            posts: data set in the schema of `dataset_readers`; `keys` their keys.
            share, shares: take one of `shares` parts of the work (one per process). Call `load` after all have finished.
        """
        # by key, not by position: what is missing differs between processes as they see each other's shards
        todo = [position for position in self.missing(keys) if int(keys[position][:8], 16) % shares == share]
        self.model.eval()
        with tqdm(total=len(todo), desc="encoding posts", unit="post", disable=not todo or share > 0) as progress:
            for start in range(0, len(todo), SHARD_POSTS):
                positions = todo[start : start + SHARD_POSTS]
                # posts of like length together: less padding
                positions = sorted(positions, key=lambda p: len(posts[p]["text"] or ""))
                self._write_shard(posts, keys, positions, batch_size, progress)
        self.load()
        return len(todo)

    def read(self, key: str) -> dict:
        """Features of one post: `image_embeds` (D,), `region_features` (R, D), ... as float16 arrays, without padding."""
        row = self.table.with_format("arrow")[self.rows[key]]
        config = self.model.config
        widths = {"region_features": config.region_feature_dim, "token_features": config.token_feature_dim}
        features = {name: np.array(row.column(name)[0].values) for name in (*VECTORS, *SEQUENCES)}
        features |= {name: features[name].reshape(-1, width) for name, width in widths.items()}
        return features | {name: row.column(name)[0].as_py() for name in ("has_image", "has_text")}

    @torch.inference_mode()
    def _write_shard(self, posts, keys, positions, batch_size: int, progress) -> None:
        target = self.folder / f"{uuid.uuid4().hex}.arrow"
        partial = target.with_suffix(".partial")
        try:
            with ArrowWriter(features=COLUMNS, path=str(partial)) as writer:
                for start in range(0, len(positions), batch_size):
                    batch = positions[start : start + batch_size]
                    writer.write_table(self._encode([posts[p] for p in batch], [keys[p] for p in batch]))
                    progress.update(len(batch))
                writer.finalize()
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def _encode(self, posts: list[dict], keys: list[str]) -> pa.Table:
        images = [None if post["image"] is None else read_image(post["image"]) for post in posts]
        inputs = self.processor(images=images, text=[post["text"] for post in posts], return_tensors="pt")
        encoded = self.model.encode_posts(**inputs.to(self.model.device))
        columns = {"key": keys}
        for name in VECTORS:
            columns[name] = list(_half(encoded[name]))
        for name, mask in SEQUENCES.items():
            values, kept = _half(encoded[name]), encoded[mask].cpu().numpy()
            columns[name] = [rows[keep].reshape(-1) for rows, keep in zip(values, kept, strict=True)]
        for name in ("has_image", "has_text"):
            columns[name] = encoded[name].tolist()
        arrays = [
            pa.array(columns[name], type=field.type) for name, field in zip(COLUMNS, COLUMNS.arrow_schema, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=COLUMNS.arrow_schema)


class CachedPosts(torch.utils.data.Dataset):
    """Posts with their stored features in place of picture and text."""

    def __init__(self, posts, keys: list[str], cache: FeatureCache):
        self.posts, self.keys, self.cache = posts.remove_columns(["image", "text"]), keys, cache

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        key = self.keys[index]
        return self.posts[index] | self.cache.read(key) | {"post_key": key}


def _half(values: torch.Tensor) -> np.ndarray:
    largest = torch.finfo(torch.float16).max
    return values.float().clamp(-largest, largest).half().cpu().numpy()
