# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Feature cache: frozen encoders run once per post, not once per epoch.

A cache is a folder per encoder fingerprint with shards as `extraction` and `ray_jobs` write them, looked up by
the posts' content: a changed picture or text has another key, changed encoders another folder.

Shapes: R regions, T tokens, D features, F task features.
"""

import ctypes
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from huggingface_hub import constants

from ..partial_files import whole_file
from .extraction import COLUMNS, NGRAM_IDS, SEQUENCES, SHARD_POSTS, VECTORS, Shard, encoder_fingerprint, write_shards

DEFAULT_FEATURE_CACHE = os.path.join(constants.HF_HOME, "mm_orient", "features")
MADVISE = ctypes.CDLL(None).madvise if os.name == "posix" else None
FEW_POSTS = 128  # not worth starting workers for
CONVERTED = ".arrow"  # folder in a cache: Parquet shards, as Ray writes them, in a form that is mapped into memory
HALF_EXPONENT = 0x7C00  # of a half-precision number: all ones in NaN and infinity


class FeatureCache:
    """Features of posts on disk, by content.

    Args:
        folder: where caches of all encoders live.
        model: `MMOrientModel` with its encoders. processor: `MMOrientProcessor`.
    """

    def __init__(self, folder, model, processor, shard_posts: int = SHARD_POSTS):
        self.model, self.processor, self.shard_posts = model, processor, shard_posts
        self.folder = Path(folder) / encoder_fingerprint(model, processor)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.load()

    def load(self) -> None:
        """Open every finished shard: memory-mapped, nothing is read but the keys and where each post's values lie.

        Raises:
            ValueError: one is damaged, or of something else.
        """
        paths = [path for path in sorted(self.folder.glob("*.arrow")) if path.name != CONVERTED]
        paths += [_converted(path) for path in sorted(self.folder.glob("*.parquet"))]
        shards = [_opened(path) for path in paths]
        table = datasets.concatenate_datasets(shards) if shards else None
        self.rows = {key: row for row, key in enumerate(table["key"]) if key is not None} if shards else {}
        self.table = table.with_format("arrow") if shards else None  # once: every call copies the description

    def missing(self, keys: list[str]) -> list[int]:
        """Positions of `keys` that are not stored, each key once."""
        first = {key: position for position, key in reversed(list(enumerate(keys)))}
        return sorted(position for key, position in first.items() if key not in self.rows)

    def add(self, posts, keys: list[str], batch_size: int = 32, share: int = 0, shares: int = 1) -> int:
        """Encode and store the posts that are missing; returns how many were.

        Args:
            posts: data set in the schema of `data.reading`; `keys` their keys.
            share, shares: take one of `shares` parts of the work (one per process). Call `load` after all have finished.

        Raises:
            ValueError: a post cannot be read; the others of its shard are stored.
        """
        # by key, not by position: what is missing differs between processes as they see each other's shards
        todo = [position for position in self.missing(keys) if int(keys[position][:8], 16) % shares == share]
        workers = None if len(todo) > FEW_POSTS else 0
        shards = _PostShards(posts, keys, todo, self.shard_posts)
        written = write_shards(self.model, self.processor, shards, self.folder, batch_size, workers, total=len(todo))
        for _, problems in written:
            if problems:
                raise ValueError(f"{problems[0].where}: {problems[0].what}")
        self.load()
        return len(todo)

    def read(self, keys: list[str]) -> list[dict]:
        """Features of posts: `image_embeds` (D,), `region_features` (R, D), ... as float16 arrays, without padding."""
        rows = [self.table[self.rows[key]] for key in keys]
        for row in rows:
            for name in SEQUENCES:
                _announce(row.column(name)[0].values)
        return [self._features(row) for row in rows]

    def _features(self, row) -> dict:
        config = self.model.config
        widths = {"region_features": config.region_feature_dim, "token_features": config.token_feature_dim}
        features = {name: np.array(row.column(name)[0].values) for name in (*VECTORS, *SEQUENCES)}
        for values in features.values():
            if ((values.view(np.uint16) & HALF_EXPONENT) == HALF_EXPONENT).any():
                key = row.column("key")[0].as_py()
                raise ValueError(
                    f"{self.folder} holds features of the post {key} that are no numbers: remove it, and encode anew"
                )
        features |= {name: features[name].reshape(-1, width) for name, width in widths.items()}
        features[NGRAM_IDS] = np.array(row.column(NGRAM_IDS)[0].values)
        if not self.processor.task_features:
            del features["task_features"]
        if not len(features["text_layers"]):  # no text encoder gave it
            del features["text_layers"]
        return features | {name: row.column(name)[0].as_py() for name in ("has_image", "has_text")}


class CachedPosts(torch.utils.data.Dataset):
    """Posts with their stored features in place of picture and text."""

    def __init__(self, posts, keys: list[str], cache: FeatureCache):
        content = [name for name in ("image", "more_images", "text") if name in posts.column_names]
        self.posts, self.keys, self.cache = posts.remove_columns(content), keys, cache

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """What a `DataLoader` asks for: the posts of a batch."""
        keys = [self.keys[index] for index in indices]
        posts = [self.posts[index] for index in indices]
        return [
            post | features | {"post_key": post.get("post_key") or key}
            for post, features, key in zip(posts, self.cache.read(keys), keys, strict=True)
        ]


def _opened(path: Path) -> datasets.Dataset:
    try:
        found = datasets.Dataset.from_file(str(path))
        found.data.table.validate(full=True)  # a place outside would end the process where it is read
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}: a damaged shard of features ({error}); remove it, to encode its posts anew"
        ) from None
    if lacking := [name for name in COLUMNS if name not in found.column_names]:
        raise ValueError(f"{path}: no shard of features, without the column {lacking[0]!r}; remove it")
    return found.select_columns(list(COLUMNS))


def _converted(path: Path) -> Path:
    """A Parquet shard's rows that have features, as an Arrow file beside it, written once."""
    state = path.stat()
    target = path.parent / CONVERTED / f"{path.stem}-{state.st_size}-{state.st_mtime_ns}.arrow"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        columns = COLUMNS.arrow_schema
        with whole_file(target) as partial, pa.ipc.new_stream(str(partial), columns) as writer:
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(columns=columns.names):
                rows = pa.Table.from_batches([batch]).select(columns.names).cast(columns)
                writer.write_table(rows.filter(rows["key"].is_valid()))
    return target


def _announce(values: pa.Array) -> None:
    """Have the system read the pages of a memory-mapped array, of all posts of a batch at once and not more than them."""
    if MADVISE is not None and len(values):
        start = values.buffers()[1].address + values.offset * values.type.bit_width // 8
        first = start - start % mmap.PAGESIZE
        MADVISE(ctypes.c_void_p(first), ctypes.c_size_t(start - first + values.nbytes), mmap.MADV_WILLNEED)


class _PostShards:
    """Shards of posts that are missing in a cache, named after their keys."""

    def __init__(self, posts, keys: list[str], positions: list[int], size: int):
        self.posts, self.keys, self.positions, self.size = posts, keys, positions, size

    def __iter__(self) -> Iterator[Shard]:
        for start in range(0, len(self.positions), self.size):
            chosen = self.positions[start : start + self.size]
            keys = [self.keys[position] for position in chosen]
            name = f"posts-{hashlib.sha256(''.join(keys).encode()).hexdigest()[:32]}.arrow"
            posts = [self.posts[p] | {"post_key": key} for p, key in zip(chosen, keys, strict=True)]
            yield Shard(name, posts, [str(post["id"]) for post in posts], [None] * len(posts))
