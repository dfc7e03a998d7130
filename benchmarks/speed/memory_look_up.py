# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Looking up a relation memory: exact search, FAISS's own exact search, and the index that the documentation names.

Synthetic embeddings of 512 dimensions: clusters with a decaying spectrum, as pooled encoder outputs have. Both exact
searches are compared first. The median of single look-ups of the 32 nearest, for 1 and for 32 queries; what each keeps in
memory; for an index its recall of the exact 32 nearest and the seconds it took to build.
"""

import statistics
import time
from pathlib import Path

import faiss
import torch
from torch.nn import functional as F

from modeling_mm_orient.similarity_search import ExactSearch, IndexSearch, index_kind

from .timing import markdown

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


def milliseconds(search, queries: torch.Tensor) -> float:
    """Median time of one look-up, of at least 5 and for half a second, after a first one that does not count."""
    search(queries)
    times = []
    while len(times) < 5 or sum(times) < 0.5:
        start = time.perf_counter()
        search(queries)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main(folder: Path) -> str:
    """The benchmark's table."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = []
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
        exact_bytes = 3 * vectors.numel() + 5 * count  # half precision and the 8-bit copy
        index_bytes = len(faiss.serialize_index(index.index))
        for name, search, size, recall in (
            ("exact", lambda q, exact=exact: exact.nearest(q, NEAREST), exact_bytes, ""),
            ("FAISS Flat", flat_search, flat_bytes, ""),
            (index.kind, lambda q, index=index: index.nearest(q, NEAREST), index_bytes, index.recall(exact, NEAREST)),
        ):
            one, many = milliseconds(search, queries[:1]), milliseconds(search, queries)
            quality = [f"{recall:.3f}", f"{seconds:.0f}"] if recall else ["", ""]
            rows.append([f"{count:,}, {name}", f"{one:.2f}", f"{many:.1f}", f"{size / MIB:.0f}", *quality])
    return markdown(["entries, search", "1 query, ms", "32 queries, ms", "MiB", "recall", "built in, s"], rows)
