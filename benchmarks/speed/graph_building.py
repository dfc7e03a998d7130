# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The exact relation graph of a whole data set, pairs above a threshold or the 32 nearest, against FAISS's exact search.

Synthetic embeddings of 512 dimensions as in `memory_look_up`. At the smaller size the edges of both sides are compared. At
the larger one FAISS, which would take a quarter of an hour, answers 4,096 of the posts, and its time is multiplied; so is
ours for the 32 nearest.
"""

import resource
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from torch.nn import functional as F

from modeling_mm_orient.similarity_search import TILE, CoarseVectors, ExactSearch, threshold_graph, top_k_graph

from .memory_look_up import WIDTH, embeddings
from .timing import markdown

POSTS, LARGEST, SAMPLE, THRESHOLD, NEAREST = 20_000, 200_000, 4096, 0.8, 32
QUERIES = 256


def timed(call, *arguments):
    start = time.perf_counter()
    return call(*arguments), time.perf_counter() - start


def flat_index(vectors: torch.Tensor) -> faiss.Index:
    index = faiss.IndexFlatIP(WIDTH)
    for block in vectors.split(SAMPLE):
        index.add(unit(block))
    return index


def unit(vectors: torch.Tensor) -> np.ndarray:
    return F.normalize(vectors.float(), dim=-1).numpy()


def left_to_compare(vectors: torch.Tensor) -> str:
    """The share of the posts that each bound leaves for a comparison in full, of queries for the nearest."""
    rows = F.normalize(vectors.float(), dim=-1)
    asked = rows[:QUERIES]
    coarse = CoarseVectors(rows.split(TILE), torch.zeros(len(rows), dtype=torch.bool), WIDTH)
    compared = coarse.compare(coarse.quantise(asked), 0, coarse.tiles)
    found = {"the 8-bit bound": len(compared.at_least(compared.reached(NEAREST + 1))[0])}
    least = (asked @ rows.T).topk(NEAREST + 1).values[:, -1:]
    components = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)
    for width in (64, 128, 256):
        prefix = rows @ components[:, :width]
        rest = (1 - prefix.square().sum(-1)).clamp(min=0).sqrt()
        found[f"{width} principal components"] = (
            prefix[:QUERIES] @ prefix.T + rest[:QUERIES, None] * rest >= least
        ).sum()
    shares = [f"{name} {100 * count / QUERIES / len(rows):.1f}%" for name, count in found.items()]
    return f"Of {len(rows):,} posts these are left to compare in full for the {NEAREST} nearest: {', '.join(shares)}."


def main(folder: Path) -> str:
    """The benchmark's table."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    # first: the peak of anything before it would hide its own
    vectors = embeddings(LARGEST, WIDTH, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (edges, _), ours = timed(threshold_graph, vectors, THRESHOLD)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    times = LARGEST / SAMPLE
    search = ExactSearch(vectors, torch.ones(LARGEST, dtype=torch.bool))
    (cosines, _), nearest = timed(search.nearest, vectors[:SAMPLE], NEAREST + 1)
    index, asked = flat_index(vectors), unit(vectors[:SAMPLE])
    _, theirs = timed(index.range_search, asked, THRESHOLD)
    (expected, _), theirs_nearest = timed(index.search, asked, NEAREST + 1)
    np.testing.assert_allclose(cosines.numpy(), expected, atol=1e-5)
    large = [
        (f"{LARGEST:,}, cosine above {THRESHOLD}", edges.shape[1], ours, theirs * times),
        (f"{LARGEST:,}, {NEAREST} nearest", LARGEST * NEAREST, nearest * times, theirs_nearest * times),
    ]

    vectors = embeddings(POSTS, WIDTH, 1)
    index, asked = flat_index(vectors), unit(vectors)
    (edges, _), ours = timed(threshold_graph, vectors, THRESHOLD)
    (limits, _, _), theirs = timed(index.range_search, asked, THRESHOLD)
    assert abs(edges.shape[1] - (int(limits[-1]) - POSTS)) <= 1e-5 * edges.shape[1]  # rounding at the threshold
    small = [(f"{POSTS:,}, cosine above {THRESHOLD}", edges.shape[1], ours, theirs)]
    (_, cosines), ours = timed(top_k_graph, vectors, NEAREST)
    (expected, _), theirs = timed(index.search, asked, NEAREST + 1)
    np.testing.assert_allclose(cosines.numpy(), expected[:, 1:], atol=1e-5)
    small.append((f"{POSTS:,}, {NEAREST} nearest", cosines.numel(), ours, theirs))
    rows = [[n, f"{e:,}", f"{o:.1f}", f"{t:.1f}", f"{t / o:.1f}"] for n, e, o, t in small + large]
    table = markdown(["posts, edges", "edges", "ours, s", "FAISS Flat, s", "ratio"], rows)
    memory = f"Peak memory grew by {grown:.0f} MiB over the largest; N x N cosines would take 160,000 MiB."
    return f"{table}\n\n{memory} {left_to_compare(vectors)}"


if __name__ == "__main__":
    print(main(Path()))
