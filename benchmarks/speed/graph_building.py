# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The exact relation graph of a whole data set, pairs above a threshold or the 32 nearest, against FAISS's exact search.

Synthetic embeddings of 512 dimensions as in `memory_look_up`; the edges of both sides are compared. FAISS is not run at the
largest size, where it would take some twelve minutes.
"""

import resource
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from torch.nn import functional as F

from modeling_mm_orient.similarity_search import threshold_graph, top_k_graph

from .memory_look_up import WIDTH, embeddings
from .timing import markdown

POSTS, LARGEST, THRESHOLD, NEAREST = (20_000, 50_000), 200_000, 0.8, 32


def timed(call, *arguments):
    start = time.perf_counter()
    return call(*arguments), time.perf_counter() - start


def main(folder: Path) -> str:
    """The benchmark's table."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    # first: the peak of anything before it would hide its own
    vectors = embeddings(LARGEST, WIDTH, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (edges, _), ours = timed(threshold_graph, vectors, THRESHOLD)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    largest = [f"{LARGEST:,}, cosine above {THRESHOLD}", f"{edges.shape[1]:,}", f"{ours:.1f}", "", ""]
    rows = []
    for posts in POSTS:
        vectors = embeddings(posts, WIDTH, 1)
        unit = F.normalize(vectors.float(), dim=-1).numpy()
        index = faiss.IndexFlatIP(WIDTH)
        index.add(unit)
        (edges, _), ours = timed(threshold_graph, vectors, THRESHOLD)
        (limits, _, _), theirs = timed(index.range_search, unit, THRESHOLD)
        assert abs(edges.shape[1] - (int(limits[-1]) - posts)) <= 1e-5 * edges.shape[1]  # rounding at the threshold
        rows.append([f"{posts:,}, cosine above {THRESHOLD}", f"{edges.shape[1]:,}", f"{ours:.1f}", f"{theirs:.1f}"])
        (_, cosines), ours = timed(top_k_graph, vectors, NEAREST)
        (expected, _), theirs = timed(index.search, unit, NEAREST + 1)
        np.testing.assert_allclose(cosines.numpy(), expected[:, 1:], atol=1e-5)
        rows.append([f"{posts:,}, {NEAREST} nearest", f"{cosines.numel():,}", f"{ours:.1f}", f"{theirs:.1f}"])
    rows = [[*row, f"{float(row[3]) / float(row[2]):.1f}"] for row in rows]
    rows.append(largest)
    table = markdown(["posts, edges", "edges", "ours, s", "FAISS Flat, s", "ratio"], rows)
    return f"{table}\n\nPeak memory grew by {grown:.0f} MiB over the largest; N x N cosines would take 160,000 MiB."


if __name__ == "__main__":
    print(main(Path()))
