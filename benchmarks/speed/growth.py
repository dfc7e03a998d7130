# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How time and peak memory grow with posts, batch, edges and relation memory: the exponent p of time ~ size ** p.

Every measurement is a process of its own, whose peak memory, of it some 350 MiB the libraries', is that measurement's.
Training: an epoch on feature arrays of 49 x 64 regions and 32 x 64 tokens. Extraction: encoders of two layers and width 32.
Batch: a forward pass of the fusion part on such features. Edges: message passing between 4,096 posts. Graph: the exact
threshold graph. Look-up: 32 queries, exact.
"""

import itertools
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, ViTConfig, ViTImageProcessorPil

from modeling_mm_orient import FeatureCollator, MMOrientConfig, MMOrientForMultiTaskClassification, MMOrientModel
from modeling_mm_orient.data.arrays import ArrayPosts, FeatureArrays
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.features.extraction import extract_features
from modeling_mm_orient.message_passing import Graph, aggregate_neighbours
from modeling_mm_orient.processing_mm_orient import MMOrientProcessor
from modeling_mm_orient.runs.data_set_graphs import threshold_graph
from modeling_mm_orient.runs.presets import train_tokenizer
from modeling_mm_orient.similarity_search import ExactSearch

from .extraction import write_posts
from .memory_look_up import embeddings
from .timing import markdown

TASKS = [{"name": "offensive", "labels": ["no", "yes"]}]
NODES = 4096
WIDTHS = {"image_embed_dim": 64, "text_embed_dim": 64, "region_feature_dim": 64, "token_feature_dim": 64}


def fusion_model() -> MMOrientForMultiTaskClassification:
    return MMOrientForMultiTaskClassification(
        MMOrientConfig(**WIDTHS, task_feature_dim=0, learner_hidden_sizes=[256, 128], tasks=TASKS)
    )


def training(posts: int, folder: Path) -> Callable[[], object]:
    generator, paths = np.random.default_rng(0), {}
    for name, shape in {"region_features": (49, 64), "token_features": (32, 64)}.items():
        paths[name] = str(folder / f"{name}.npy")
        array = np.lib.format.open_memmap(paths[name], "w+", np.float16, (posts, *shape))
        for start in range(0, posts, 1000):
            array[start : start + 1000] = generator.normal(size=array[start : start + 1000].shape)
    rows = [{"row": row, "offensive": row % 2} for row in range(posts)]
    loader = DataLoader(ArrayPosts(rows, FeatureArrays(paths), []), 64, shuffle=True, collate_fn=FeatureCollator(TASKS))
    model = fusion_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def epoch() -> None:
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()

    return epoch


def extraction(posts: int, folder: Path) -> Callable[[], object]:
    write_posts(folder / "posts")
    lines = (folder / "posts" / "labels.csv").read_text().splitlines()
    rows = [f"{number},{line}" for number, line in zip(range(posts), itertools.cycle(lines[1:]), strict=False)]
    (folder / "posts" / "labels.csv").write_text("\n".join([f"id,{lines[0]}", *rows]) + "\n")
    tokenizer = train_tokenizer(lines[1:], 300)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    encoders = {"text_config": BertConfig(vocab_size=len(tokenizer), **small)}
    encoders["vision_config"] = ViTConfig(image_size=64, patch_size=16, **small)
    model = MMOrientModel(MMOrientConfig(**encoders, learner_hidden_sizes=[8]))
    processor = MMOrientProcessor(ViTImageProcessorPil(size={"height": 64, "width": 64}), tokenizer)
    return lambda: extract_features(DataDescription(str(folder / "posts")), model, processor, folder / "features")


def batch(posts: int, folder: Path) -> Callable[[], object]:
    model = fusion_model().eval()
    inputs = {"image_embeds": torch.randn(posts, 64), "text_embeds": torch.randn(posts, 64)}
    inputs |= {"region_features": torch.randn(posts, 49, 64), "token_features": torch.randn(posts, 32, 64)}

    def forward() -> None:
        with torch.inference_mode():
            for _ in range(5):
                model(**inputs)

    return forward


def edges(count: int, folder: Path) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    adjacency = torch.zeros(NODES, NODES)
    adjacency[torch.randint(0, NODES, (2, count), generator=generator).unbind()] = 1.0
    features, present = torch.randn(NODES, 512), torch.ones(NODES, dtype=torch.bool)

    def pass_messages() -> None:
        for _ in range(10):
            aggregate_neighbours(features, Graph(adjacency), present)

    pass_messages()
    return pass_messages


def graph(posts: int, folder: Path) -> Callable[[], object]:
    vectors = embeddings(posts, 512, 1)
    return lambda: threshold_graph(vectors, 0.8)


def look_up(entries: int, folder: Path) -> Callable[[], object]:
    search = ExactSearch(embeddings(entries, 512, 1), torch.ones(entries, dtype=torch.bool))
    queries = embeddings(32, 512, 2).float()
    search.nearest(queries, 32)
    return lambda: [search.nearest(queries, 32) for _ in range(5)]


SIZES = {
    training: (2_000, 4_000, 8_000),
    extraction: (500, 1_000, 2_000),
    batch: (64, 256, 1024),
    edges: (32_000, 256_000, 2_048_000),
    graph: (10_000, 20_000, 40_000),
    look_up: (20_000, 80_000, 320_000),
}


def measure(kind: Callable, size: int, folder: Path, threads: int) -> tuple[float, float]:
    """Seconds and peak MiB of one measurement."""
    torch.set_num_threads(threads)
    folder.mkdir(parents=True)
    work = kind(size, folder)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: Path) -> str:
    """The benchmark's table; the plot is `growth.png` in `folder`."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    context, rows = multiprocessing.get_context("forkserver"), []
    context.set_forkserver_preload([__name__])  # the libraries are imported once
    for kind, sizes in SIZES.items():
        found = []
        for size in sizes:
            with ProcessPoolExecutor(1, context) as pool:
                place = folder / f"{kind.__name__}-{size}"
                found.append(pool.submit(measure, kind, size, place, torch.get_num_threads()).result())
        seconds, peaks = zip(*found, strict=True)
        exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        name = kind.__name__.replace("_", "-")
        rows.append([name, f"{sizes[0]:,} to {sizes[-1]:,}", f"{seconds[0]:.2f} to {seconds[-1]:.2f}"])
        rows[-1] += [f"{exponent:.2f}", f"{peaks[0]:.0f} to {peaks[-1]:.0f}"]
        for axis, values in zip(axes, (seconds, peaks), strict=True):
            axis.loglog(sizes, values, marker="o", label=f"{name} ({exponent:.2f})")
    for axis, title in zip(axes, ("seconds", "peak MiB"), strict=True):
        axis.set(xlabel="posts, edges or entries", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(folder / "growth.png", dpi=120)
    return markdown(["", "size", "seconds", "exponent", "peak MiB"], rows)
