# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The exact relation graph of a whole data set, pairs above a threshold or the 32 nearest, against FAISS's exact search.

Synthetic embeddings of 512 dimensions as in `memory_look_up`. At the larger size FAISS, which would take a quarter of an
hour, answers 4,096 of the posts, and its time is multiplied. What both found is compared. The larger graphs are built once,
the smaller ones twice.
"""

import resource
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from torch.nn import functional as F

from modeling_mm_orient.runs.coarse_search import CoarseVectors
from modeling_mm_orient.runs.data_set_graphs import threshold_graph, top_k_graph
from modeling_mm_orient.similarity_search import TILE

from .memory_look_up import WIDTH, embeddings
from .timing import Timing, markdown, plot_bars, timing_of

SIZES, THRESHOLD, NEAREST = {200_000: (4096, 1), 20_000: (20_000, 2)}, 0.8, 32  # posts, those FAISS answers, repeats
QUERIES = 256


def timed(repeats: int, call, *arguments) -> tuple[object, Timing]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call(*arguments)
        times.append(time.perf_counter() - start)
    return result, timing_of(times)


def unit(vectors: torch.Tensor) -> np.ndarray:
    return F.normalize(vectors.float(), dim=-1).numpy()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def left_to_compare(vectors: torch.Tensor) -> str:
    """The share of the posts that each bound leaves for a comparison in full, of queries for the nearest."""
    rows = F.normalize(vectors.float(), dim=-1)
    asked = rows[:QUERIES]
    coarse = CoarseVectors(rows.split(TILE), len(rows), WIDTH)
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
    rows, plotted, grown = [], {}, {}
    for posts, (
        sample,
        repeats,
    ) in SIZES.items():  # the largest first: the peak of anything before it would hide its own
        vectors, before = embeddings(posts, WIDTH, 1), peak_mib()
        (edges, _), ours = timed(repeats, threshold_graph, vectors, THRESHOLD)
        grown[posts] = peak_mib() - before
        (_, cosines), ours_nearest = timed(repeats, top_k_graph, vectors, NEAREST)

        index, asked = faiss.IndexFlatIP(WIDTH), unit(vectors[:sample])
        for block in vectors.split(4096):
            index.add(unit(block))
        (limits, _, _), theirs = timed(repeats, index.range_search, asked, THRESHOLD)
        (expected, _), theirs_nearest = timed(repeats, index.search, asked, NEAREST + 1)
        found = int((edges[1] < sample).sum())
        assert abs(found - (int(limits[-1]) - sample)) <= 1e-5 * found  # rounding at the threshold
        np.testing.assert_allclose(cosines[:sample].numpy(), expected[:, 1:], atol=1e-5)
        for name, count, own, faiss_own in (
            (f"cosine above {THRESHOLD}", edges.shape[1], ours, theirs),
            (f"{NEAREST} nearest", posts * NEAREST, ours_nearest, theirs_nearest),
        ):
            name, flat = f"{posts:,}, {name}", faiss_own.median * posts / sample
            spreads = ["" if repeats == 1 else f" ± {timing.spread / 2:.1g}" for timing in (own, faiss_own)]
            rows.append([name, f"{count:,}", f"{own.median:.1f}{spreads[0]}", f"{flat:.1f}{spreads[1]}"])
            rows[-1].append(f"{flat / own.median:.1f}")
            plotted[name] = {"ours": own.median, "FAISS Flat": flat}
    plot_bars(folder / "graph_building.png", plotted, "seconds", logarithmic=True)
    table = markdown(["posts, edges", "edges", "ours, s", "FAISS Flat, s", "ratio"], rows)
    memory = f"Peak memory grew by {grown[max(SIZES)]:.0f} MiB over the largest; N x N cosines would take 160,000 MiB."
    return f"{table}\n\n{memory} {left_to_compare(vectors)}"
