# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Looking up a relation memory: exact search, FAISS's own exact search, and the index that the documentation names.

Synthetic embeddings of 512 dimensions: clusters with a decaying spectrum, as pooled encoder outputs have. Both exact
searches are compared first. Single look-ups of the 32 nearest, for 1 and for 32 queries; what each keeps in memory; for an
index its recall of the exact 32 nearest and the seconds it took to build.
"""

import time
from functools import partial
from pathlib import Path

import faiss
import torch
from torch.nn import functional as F

from modeling_mm_orient.similarity_search import ExactSearch, IndexSearch, index_kind

from .timing import again, markdown, plot_bars

ENTRIES, WIDTH = (10_000, 100_000, 1_000_000), 512
NEAREST, QUERIES = 32, 32
MIB = 2**20


def embeddings(count: int, width: int, seed: int) -> torch.Tensor:
    """(count, width) half precision: a post of one of 1,000 clusters, dimensions of falling variance."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, width + 1) ** -0.5
    centres = torch.randn(1000, width, generator=torch.Generator().manual_seed(0)) * scale
    rows = torch.empty(count, width, dtype=torch.float16)
    for block in torch.arange(count).split(50_000):
        cluster = torch.randint(0, 1000, (len(block),), generator=generator)
        rows[block] = (centres[cluster] + 0.6 * torch.randn(len(block), width, generator=generator) * scale).half()
    return rows


def main(folder: Path) -> str:
    """The benchmark's table."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows, plotted = [], {}
    for count in ENTRIES:
        vectors, queries = embeddings(count, WIDTH, 1), embeddings(QUERIES, WIDTH, 2).float()
        present = torch.ones(count, dtype=torch.bool)
        exact = ExactSearch(vectors, present)
        flat = faiss.IndexFlatIP(WIDTH)
        for block in vectors.split(50_000):
            flat.add(F.normalize(block.float(), dim=-1).numpy())

        def flat_search(queries, flat=flat):
            return flat.search(F.normalize(queries, dim=-1).numpy(), NEAREST)

        torch.testing.assert_close(
            torch.from_numpy(flat_search(queries)[0]), exact.nearest(queries, NEAREST)[0], atol=1e-4, rtol=1e-4
        )
        start = time.perf_counter()
        index = IndexSearch.build(vectors, present, index_kind(count))
        seconds = time.perf_counter() - start
        flat_bytes = 4 * vectors.numel()
        exact_bytes = 2 * vectors.numel() + 4 * count  # half precision and one over each length
        index_bytes = len(faiss.serialize_index(index.index))
        for name, search, size, recall in (
            ("exact", lambda q, exact=exact: exact.nearest(q, NEAREST), exact_bytes, ""),
            ("FAISS Flat", flat_search, flat_bytes, ""),
            (index.kind, lambda q, index=index: index.nearest(q, NEAREST), index_bytes, index.recall(exact, NEAREST)),
        ):
            times = {}
            for asked in (1, QUERIES):
                times[asked] = again(partial(search, queries[:asked]), 5, 0.5)
                plotted.setdefault(f"{count:,} entries, {asked} at once", {})[name] = 1000 * times[asked].median
            quality = [f"{recall:.3f}", f"{seconds:.0f}"] if recall else ["", ""]
            rows.append([f"{count:,}, {name}", *map(str, times.values()), f"{size / MIB:.0f}", *quality])
    plot_bars(folder / "memory_look_up.png", plotted, "milliseconds", logarithmic=True)
    return markdown(["entries, search", "1 query", "32 queries", "MiB", "recall", "built in, s"], rows)
