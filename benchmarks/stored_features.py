# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What storing frozen encoders' features saves: a training epoch on stored features against one that encodes.

    python benchmarks/stored_features.py --data FOLDER --labels COLUMN --text-encoder ID --vision-encoder ID [--posts N]

Both sides take the same posts, model, batches and optimiser steps; their losses are compared first. Prints the median time
of an epoch of each, the ratio, and the one-off time of storing.
"""

import argparse
import statistics
import tempfile
import time

import torch
from torch.utils.data import DataLoader

from modeling_mm_orient import (
    FeatureCollator,
    MMOrientForMultiTaskClassification,
    MMOrientProcessor,
    PostCollator,
)
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.features.cache import CachedPosts, FeatureCache
from modeling_mm_orient.pictures import post_key

EPOCHS = 3


def epoch(model, optimizer, loader) -> tuple[float, list[float]]:
    """Seconds and losses of one training epoch."""
    start, losses = time.perf_counter(), []
    for batch in loader:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return time.perf_counter() - start, losses


def measure(encoders, tasks, posts, collator, batch_size) -> tuple[list[float], list[float]]:
    """Seconds of each epoch and losses of the first, from equal weights and in equal order."""
    torch.manual_seed(0)
    model = MMOrientForMultiTaskClassification.from_encoders_pretrained(**encoders, tasks=tasks, learner_dropout=0.0)
    model.train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    loader = DataLoader(posts, batch_size, collate_fn=collator)
    runs = [epoch(model, optimizer, loader) for _ in range(EPOCHS)]
    return [seconds for seconds, _ in runs], runs[0][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--image-column", default="image")
    parser.add_argument("--text-encoder", required=True)
    parser.add_argument("--vision-encoder", required=True)
    parser.add_argument("--posts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    description = DataDescription(options.data, options.labels, image_column=options.image_column)
    splits, tasks, _ = read_posts(description, check_images=False)
    posts = splits["train"].select(range(min(options.posts, len(splits["train"]))))
    encoders = {"text": options.text_encoder, "vision": options.vision_encoder}
    processor = MMOrientProcessor.from_encoders_pretrained(**encoders)
    model = MMOrientForMultiTaskClassification.from_encoders_pretrained(**encoders, tasks=tasks)
    with tempfile.TemporaryDirectory() as folder:
        cache, keys = FeatureCache(folder, model.mm_orient, processor), [post_key(post) for post in posts]
        start = time.perf_counter()
        cache.add(posts, keys, options.batch_size)
        storing = time.perf_counter() - start
        stored = CachedPosts(posts, keys, cache)
        stored_times, stored_losses = measure(encoders, tasks, stored, FeatureCollator(tasks), options.batch_size)
    encoded_times, encoded_losses = measure(encoders, tasks, posts, PostCollator(processor, tasks), options.batch_size)
    worst = max(abs(a - b) for a, b in zip(stored_losses, encoded_losses, strict=True))
    stored_time, encoded_time = statistics.median(stored_times), statistics.median(encoded_times)
    print(f"{len(posts)} posts, batch {options.batch_size}; losses of the first epoch differ by at most {worst:.1e}")
    print(f"epoch that encodes        {encoded_time:8.2f} s (spread {max(encoded_times) - min(encoded_times):.2f})")
    print(f"epoch on stored features  {stored_time:8.2f} s (spread {max(stored_times) - min(stored_times):.2f})")
    print(f"ratio                     {encoded_time / stored_time:8.1f}   storing once {storing:.2f} s")


if __name__ == "__main__":
    main()
