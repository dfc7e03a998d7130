# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Looking up a relation memory: exact search, FAISS's own exact search, and the index that the documentation names.

    python benchmarks/relation_memory.py [--entries 10000 100000 1000000] [--width 512]

Synthetic embeddings: clusters with a decaying spectrum, as pooled encoder outputs have. Both exact searches are compared
first. Prints a Markdown table: the median of single look-ups of the 32 nearest in milliseconds, for 1 and for 32 queries;
what each keeps in memory; for an index its recall of the exact 32 nearest and the seconds it took to build.
"""

import argparse
import statistics
import time

import faiss
import torch
from torch.nn import functional as F

from modeling_mm_orient.similarity_search import ExactSearch, IndexSearch, index_kind

NEAREST, QUERIES, REPEATS = 32, 32, 7
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
    """Median time of one look-up after a first one that does not count."""
    search(queries)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        search(queries)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    print(f"{torch.get_num_threads()} threads, {options.width} dimensions, the {NEAREST} nearest\n")
    print("| entries | search | 1 query, ms | 32 queries, ms | MiB | recall | built in, s |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for count in options.entries:
        vectors, queries = embeddings(count, options.width, 1), embeddings(QUERIES, options.width, 2).float()
        present = torch.ones(count, dtype=torch.bool)
        exact = ExactSearch(vectors, present)
        flat = faiss.IndexFlatIP(options.width)
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
        exact_bytes = 2 * vectors.numel() + 5 * count
        index_bytes = len(faiss.serialize_index(index.index))
        for name, search, size, recall in (
            ("exact", lambda q, exact=exact: exact.nearest(q, NEAREST), exact_bytes, ""),
            ("FAISS Flat", flat_search, flat_bytes, ""),
            (index.kind, lambda q, index=index: index.nearest(q, NEAREST), index_bytes, index.recall(exact, NEAREST)),
        ):
            one, many = milliseconds(search, queries[:1]), milliseconds(search, queries)
            quality = f"{recall:.3f} | {seconds:.0f}" if recall else " | "
            print(f"| {count:,} | {name} | {one:.1f} | {many:.1f} | {size / MIB:.0f} | {quality} |", flush=True)


if __name__ == "__main__":
    main()
