# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Does reading stored features keep up with training? The share of an epoch that the Trainer waits for its next batch.

3,600 posts of the paper's sizes (100 x 2048 regions, 128 x 768 tokens in half precision: 0.6 MB each) in the shards that
`mm-orient extract` writes, which the system has forgotten since; shuffled, batches of 120, the paper's network and AdamW.
Our Trainer reads the next batch while it computes, the plain one before it does; for the first both must wait.
"""

import gc
import os
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from transformers import Trainer, TrainingArguments

from modeling_mm_orient import (
    FeatureCollator,
    MMOrientConfig,
    MMOrientForMultiTaskClassification,
    MMOrientModel,
    MMOrientProcessor,
)
from modeling_mm_orient.features.cache import CachedPosts, FeatureCache
from modeling_mm_orient.features.extraction import SHARD_POSTS, feature_table
from modeling_mm_orient.runs.trainer import MMOrientTrainer

from .timing import markdown

POSTS, BATCH = 3_600, 120
WIDTHS = {"image_embeds": 512, "text_embeds": 512, "region_features": 100 * 2048, "token_features": 128 * 768}
TASKS = [{"name": "offensive", "labels": ["no", "yes"]}]


def key(post: int) -> str:
    return f"{post:064x}"


def write_shards(folder: Path) -> None:
    """Random features of every post."""
    generator = np.random.default_rng(0)
    for start in range(0, POSTS, SHARD_POSTS):
        posts = range(start, min(start + SHARD_POSTS, POSTS))
        part = {
            name: [generator.random(width, np.float32).astype(np.float16) for _ in posts]
            for name, width in WIDTHS.items()
        }
        part |= {"position": list(posts), "id": list(map(str, posts)), "key": list(map(key, posts))}
        part |= {"task_features": [np.zeros(0, np.float16)] * len(posts)}
        part |= {name: [True] * len(posts) for name in ("has_image", "has_text")}
        table = feature_table([part])
        with pa.ipc.new_stream(str(folder / f"rows-{start}.arrow"), table.schema) as writer:
            writer.write_table(table)


def stored_posts(cache: FeatureCache, count: int) -> CachedPosts:
    """The first `count` posts, with labels."""
    table = {"id": list(map(str, range(count))), "image": [None] * count, "text": [None] * count}
    table |= {"offensive": [post % 2 for post in range(count)]}
    return CachedPosts(datasets.Dataset.from_dict(table), list(map(key, range(count))), cache)


def forget(folder: Path) -> None:
    """Have the system drop the shards from memory."""
    gc.collect()
    for path in folder.glob("*.arrow"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def epoch(kind: type[Trainer], posts, folder: Path) -> tuple[float, list[float]]:
    """Seconds of an epoch, and of them those spent waiting for each batch."""

    waited = []

    class Timed(kind):
        def get_batch_samples(self, *args):
            start = time.perf_counter()
            batches = super().get_batch_samples(*args)
            waited.append(time.perf_counter() - start)
            return batches

    model = MMOrientForMultiTaskClassification(MMOrientConfig(tasks=TASKS, task_feature_dim=0))
    arguments = TrainingArguments(
        str(folder), num_train_epochs=1, per_device_train_batch_size=BATCH, remove_unused_columns=False, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Timed(model=model, args=arguments, train_dataset=posts, data_collator=FeatureCollator(TASKS))
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start, waited


def main(folder: Path) -> str:
    """The benchmark's table."""
    model, processor = MMOrientModel(MMOrientConfig(learner_hidden_sizes=[1])), MMOrientProcessor()
    write_shards(FeatureCache(folder, model, processor).folder)
    rows = []
    for name, kind in (("ours", MMOrientTrainer), ("plain Trainer", Trainer)):
        epoch(
            kind, stored_posts(FeatureCache(folder, model, processor), 2 * BATCH), folder / "run"
        )  # everything is loaded
        cache = FeatureCache(folder, model, processor)
        forget(cache.folder)
        seconds, waited = epoch(kind, stored_posts(cache, POSTS), folder / "run")
        rows.append([name, f"{seconds:.1f}", f"{sum(waited):.2f}", f"{waited[0]:.2f}", f"{sum(waited) / seconds:.3f}"])
    return markdown(["", "epoch, s", "waiting, s", "for the first batch", "share"], rows)
