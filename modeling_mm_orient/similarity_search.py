# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The nearest of many embeddings by cosine (ours): exact by blocked matrix products, or a FAISS index.

Exact search needs little building and suits about 100,000 entries. Beyond, a FAISS index answers a query without looking at
every entry: HNSW up to 300,000 (fastest, but each entry is linked in one by one), IVF above (builds faster, smaller).

Shapes: B queries, M entries, K results, D features.
"""

import time

import torch
from torch import Tensor
from torch.nn import functional as F

from .cpu_linear import with_fast_linear
from .optional_dependencies import faiss

MOST_EXACT = 100_000
MOST_HNSW = 300_000
BLOCK = 65_536  # similarities at a time
CONVERTED = 1024  # rows at a time
LEAST_COARSE = 4096  # entries from which a coarse comparison may be worth it
MEASURED = 32  # queries and neighbours to find that out
PAIRS = 16_384  # compared in full at a time
TURNED = 64
LARGEST = (
    6.0  # value that 8 bits hold, in standard deviations of a turned dimension; a larger one only loosens the bound
)
FEW_QUERIES = 8
PRODUCTS = 2**21  # whole-number products at a time: more do not stay in the processor's cache
TILE, WIDE_TILE = 1024, 2048  # of a graph: targets and sources at a time
QUERIES = 64
ROUNDING = 1e-5  # of single precision, generously
INDEX_KINDS = ("hnsw", "ivf")
RECALL_QUERIES = 200


class ExactSearch:
    """Every entry is compared, first coarsely: products of 8-bit copies, with a bound on their error, leave a few entries
    that can be among the nearest, and those alone are compared in full. Where that was measured to be no faster (few
    entries, processors without 8-bit products), all are: both give the same entries.

    Entries stay as they are stored, in half precision and possibly memory-mapped.

    Args:
        vectors: (M, D) floating point. present: (M,) bool, False for an entry that is never found.
    """

    kind = "exact"

    def __init__(self, vectors: Tensor, present: Tensor):
        self.vectors, self._absent = vectors, ~present
        self._scale = torch.empty(len(vectors), device=vectors.device)
        for first, block in self._blocks(0, len(vectors), vectors.device):
            torch.linalg.vector_norm(block, dim=-1, out=self._scale[first : first + len(block)])
        self._scale.clamp_(min=1e-12).reciprocal_()
        self._coarse: CoarseVectors | None = None
        if len(vectors) >= LEAST_COARSE and vectors.device.type == "cpu":
            self._coarse = CoarseVectors(self._unit_blocks(), len(vectors), vectors.shape[-1])
            self._coarse_for = {few: self._coarse_is_faster(1 if few else MEASURED) for few in (True, False)}
            if not any(self._coarse_for.values()):
                self._coarse = None

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` nearest entries of `queries` (B, D), best first: cosines and entries (B, count).

        A cosine is -inf where there are not that many entries.
        """
        queries = F.normalize(queries.float(), dim=-1)
        fits = queries.device.type == "cpu" and count <= len(self.vectors) // 8
        if self._coarse is not None and fits and self._coarse_for[len(queries) < FEW_QUERIES]:
            return self._nearest_by_bound(queries, count)
        return self._nearest_of_all(queries, count)

    def pairs_above(self, queries: Tensor, threshold: float, first: int = 0):
        """Pairs of a unit query (B, D) and a later entry, its own place being `first` and its row, with a cosine above
        `threshold`: queries' rows, entries and cosines, tile by tile."""
        places = torch.arange(first, first + len(queries), device=queries.device)
        if self._coarse is not None:
            coarse, slack = self._coarse.quantise(queries)
            least = self._coarse.units(threshold - slack)[:, None]
        for start in range(first, len(self.vectors), WIDE_TILE):
            stop = min(start + WIDE_TILE, len(self.vectors))
            if self._coarse is not None:
                near = self._coarse.products(coarse, start, stop) >= least
            else:
                near = [F.linear(queries, block) for _, block in self._blocks(start, stop, queries.device)]
                near = torch.cat(near, -1)
                near = near * self._scale[start:stop] > threshold - ROUNDING
            rows, entries = near.nonzero(as_tuple=True)
            rows, entries = rows[entries + start > places[rows]], entries[entries + start > places[rows]] + start
            for r, e in _chunks(rows, entries):
                cosines = self._cosines(queries, r, e)
                above = cosines > threshold
                yield r[above], e[above], cosines[above]

    @with_fast_linear
    def _nearest_of_all(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if self._scale.device != queries.device:
            self._scale, self._absent = self._scale.to(queries.device), self._absent.to(queries.device)
        best = queries.new_full((len(queries), count), -torch.inf), queries.new_zeros(len(queries), count).long()
        for start in range(0, len(self.vectors), BLOCK):
            stop = min(start + BLOCK, len(self.vectors))
            similarity = queries.new_empty(len(queries), stop - start)
            for first, block in self._blocks(start, stop, queries.device):
                similarity[:, first - start : first - start + len(block)] = F.linear(queries, block)
            similarity.mul_(self._scale[start:stop]).masked_fill_(self._absent[start:stop], -torch.inf)
            found, entries = similarity.topk(min(count, stop - start))
            best = _better(best, (found, entries + start), count)
        return best

    def _nearest_by_bound(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        coarse, slack = self._coarse.quantise(queries)
        best = queries.new_full((len(queries), count), -torch.inf), queries.new_zeros(len(queries), count).long()
        width = max(TILE, 8 * count, PRODUCTS // len(queries))
        for start in range(0, len(self.vectors), width):
            stop = min(start + width, len(self.vectors))
            products = self._coarse.products(coarse, start, stop)
            nearest = best[0]
            if start == 0:  # the entries that seem nearest say how near the count-th nearest is at least
                rows = torch.arange(len(queries)).repeat_interleave(count)
                nearest = self._cosines(queries, rows, products.topk(count).indices.flatten()).view(-1, count)
            least = self._coarse.units(nearest.amin(-1) - slack)
            rows, entries = (products >= least[:, None]).nonzero(as_tuple=True)
            best = _better(best, self._compared(queries, rows, entries + start), count)
        return best

    def _compared(self, queries: Tensor, rows: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of pairs of a query and an entry, (P,) each and in order of queries, as padded lists (B, most pairs)."""
        found = torch.cat([self._cosines(queries, r, e) for r, e in _chunks(rows, entries)] or [queries.new_zeros(0)])
        counts = torch.bincount(rows, minlength=len(queries))
        places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        similarity = queries.new_full((len(queries), int(counts.max())), -torch.inf)
        listed = torch.zeros_like(similarity, dtype=torch.int64)
        similarity[rows, places], listed[rows, places] = found, entries
        return similarity, listed

    def _cosines(self, queries: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
        """Cosines (P,) of pairs of a unit query and an entry."""
        # index_select: an index in brackets is several times slower
        products = self.vectors.index_select(0, entries).float().mul_(queries.index_select(0, rows))
        cosines = products.sum(-1).mul_(self._scale[entries])
        return cosines.masked_fill_(self._absent[entries], -torch.inf)

    def _coarse_is_faster(self, queries: int) -> bool:
        """Whether the coarse comparison answers a sample of the entries first."""
        sample = self.vectors[:: max(1, len(self.vectors) // queries)][:queries].float()
        sample, times = F.normalize(sample, dim=-1), []
        for way in (self._nearest_by_bound, self._nearest_of_all):
            way(sample, MEASURED)
            start = time.perf_counter()
            way(sample, MEASURED)
            times.append(time.perf_counter() - start)
        return times[0] < times[1]

    def _blocks(self, start: int, stop: int, device: torch.device):
        """Rows from `start` to `stop` in float32, block by block, in one buffer: fresh ones would fragment the heap."""
        buffer = torch.empty(CONVERTED, self.vectors.shape[-1], device=device)
        for first in range(start, stop, CONVERTED):
            rows = self.vectors[first : min(first + CONVERTED, stop)]
            yield first, buffer[: len(rows)].copy_(rows)

    def _unit_blocks(self):
        for first, block in self._blocks(0, len(self.vectors), self.vectors.device):
            yield first, block.mul_(self._scale[first : first + len(block), None])


class CoarseVectors:
    """Unit vectors in 8 bits, and by how much a product of two of them can be wrong.

    Dimensions are mixed first, 64 at a time by a Hadamard matrix, so that none sticks out and one scale suits all. Of a
    vector x and its copy x' the length e of the error is known, so that |q.x - q'.x'| <= e + e_q (1 + e) (Cauchy, Schwarz).

    Args:
        blocks: (first row, unit rows (n, D)) in order. count, width: M and D.
    """

    def __init__(self, blocks, count: int, width: int):
        self.width = -(-width // TURNED) * TURNED
        generator = torch.Generator().manual_seed(0)
        self._order = torch.randperm(self.width, generator=generator)
        signs = torch.randint(0, 2, (TURNED, 1), generator=generator) * 2 - 1
        self._turn = signs * _hadamard(TURNED) / TURNED**0.5
        self.step = LARGEST / 127 / self.width**0.5
        self.vectors = torch.empty(count, self.width, dtype=torch.int8)
        self.error = 0.0
        for first, block in blocks:
            coarse, errors = self._rounded(block)
            self.vectors[first : first + len(block)] = coarse
            self.error = max(self.error, float(errors.max()))

    def quantise(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Unit rows (B, D) in 8 bits, and by how much their cosines can be wrong, (B,)."""
        coarse, errors = self._rounded(unit)
        return coarse, self.error + errors * (1 + self.error) + ROUNDING

    def products(self, coarse: Tensor, start: int, stop: int) -> Tensor:
        """Whole-number products (B, stop - start) of 8-bit rows (B, D) with the vectors from `start` to `stop`."""
        vectors = self.vectors[start:stop]
        if len(coarse) < FEW_QUERIES:
            return torch._int_mm(vectors, coarse.T.contiguous()).T.contiguous()
        return torch._int_mm(coarse, vectors.T)

    def units(self, cosine: Tensor) -> Tensor:
        """The largest whole-number product that is not above a cosine."""
        limit = 127 * 127 * self.width
        return (cosine / self.step**2).clamp(-limit, limit).floor().to(torch.int32)

    def _rounded(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        shuffled = F.pad(unit, (0, self.width - unit.shape[-1]))[:, self._order]
        turned = (shuffled.view(-1, TURNED) @ self._turn).view(len(unit), self.width)
        coarse = (turned / self.step).round_().clamp_(-127, 127)
        errors = torch.linalg.vector_norm(turned.sub_(coarse, alpha=self.step), dim=-1)
        return coarse.to(torch.int8), errors


@torch.no_grad()
def threshold_graph(vectors: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """All pairs of `vectors` (N, D) whose cosine is above `threshold`, exactly, in memory for the edges and one tile.

    The relation graph of a whole data set: only the pairs that the bound of `CoarseVectors` leaves are compared in full, or,
    where that was measured to be slower, tile by tile all of them.

    Returns:
        `edges` (2, E) int64, every pair in both directions and no self-loops, sorted by target, and their cosines (E,).
    """
    search = ExactSearch(vectors, torch.ones(len(vectors), dtype=torch.bool, device=vectors.device))
    found, count = (
        [torch.empty(0, dtype=kind, device=vectors.device) for kind in (torch.int64, torch.int64, torch.float32)],
        0,
    )
    for start in range(0, len(vectors), TILE):
        queries = F.normalize(vectors[start : start + TILE].float(), dim=-1)
        pairs = [(t + start, s, c) for t, s, c in search.pairs_above(queries, threshold, start)]
        # into one place that doubles: many small tensors kept between large ones would fragment the heap
        for kept, parts in zip(found, zip(*pairs, strict=True), strict=True):
            new = torch.cat(parts)
            if count + len(new) > len(kept):
                kept.resize_(max(2 * len(kept), count + len(new)))
            kept[count : count + len(new)] = new
        count += len(new)
    targets, sources, cosines = (kept[:count] for kept in found)
    order = torch.argsort(torch.cat([targets, sources]), stable=True)
    edges = torch.stack([torch.cat([sources, targets]), torch.cat([targets, sources])])
    return edges[:, order], torch.cat([cosines, cosines])[order]


def top_k_graph(vectors: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The `top_k` nearest others of every row of `vectors` (N, D), exactly.

    Returns:
        Sources (N, top_k) of every target's edges, nearest first, and their cosines.
    """
    search = ExactSearch(vectors, torch.ones(len(vectors), dtype=torch.bool, device=vectors.device))
    if not 0 < top_k < len(vectors):
        raise ValueError(f"`top_k` must be from 1 to {len(vectors) - 1}, the number of other rows, got {top_k}")
    parts = []
    for start in range(0, len(vectors), QUERIES):
        queries = vectors[start : start + QUERIES]
        cosines, entries = search.nearest(queries, top_k + 1)
        itself = entries == torch.arange(start, start + len(queries), device=entries.device)[:, None]
        itself[:, -1] |= ~itself.any(-1)  # crowded out by equals
        kept = (~itself).nonzero(as_tuple=True)[1].view(len(queries), top_k)
        parts.append((entries.gather(-1, kept), cosines.gather(-1, kept)))
    return torch.cat([entries for entries, _ in parts]), torch.cat([cosines for _, cosines in parts])


class IndexSearch:
    """A FAISS index over the entries that are present; nearly all of the nearest are found.

    Args:
        index: FAISS index by inner product over unit vectors. rows: (N,) int64, the entry of each indexed vector.
    """

    def __init__(self, index, rows: Tensor):
        self.index, self.rows = index, rows

    @property
    def kind(self) -> str:
        return "ivf" if hasattr(self.index, "nlist") else "hnsw"

    @classmethod
    def build(cls, vectors: Tensor, present: Tensor, kind: str) -> "IndexSearch":
        """Index `vectors` (M, D) where `present` (M,); half-precision copies are kept in the index."""
        rows = present.nonzero().squeeze(-1)
        if kind == "hnsw":
            index = faiss.index_factory(vectors.shape[-1], "HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT)
        else:
            lists = max(1, min(round(len(rows) ** 0.5), len(rows) // 39))  # FAISS wants 39 vectors to train each
            index = faiss.index_factory(vectors.shape[-1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        most = 64 * getattr(index, "nlist", 64)  # a sample spread evenly over the entries is enough to train on
        index.train(_unit_rows(vectors, rows[:: max(1, len(rows) // most)]))
        for block in rows.split(BLOCK):
            index.add(_unit_rows(vectors, block))
        return cls(index, rows)

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `ExactSearch.nearest`."""
        unit = F.normalize(queries.float(), dim=-1).cpu().contiguous().numpy()
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(128, 2 * count))
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(32, self.index.nlist // 16))
        similarity, found = self.index.search(unit, min(count, len(self.rows)), params=parameters)
        similarity, found = torch.from_numpy(similarity), torch.from_numpy(found)
        entries = self.rows[found.clamp(min=0)]
        similarity = similarity.masked_fill(found < 0, -torch.inf)
        missing = count - found.shape[-1]
        similarity, entries = F.pad(similarity, (0, missing), value=-torch.inf), F.pad(entries, (0, missing))
        return similarity.to(queries.device), entries.to(queries.device)

    def recall(self, exact: ExactSearch, count: int = 32) -> float:
        """The share of the exact `count` nearest entries that the index finds, for a sample of its own entries."""
        sample = self.rows[:: max(1, len(self.rows) // RECALL_QUERIES)][:RECALL_QUERIES]
        queries = exact.vectors[sample].float()
        count = min(count, len(self.rows))
        _, expected = exact.nearest(queries, count)
        _, found = self.nearest(queries, count)
        return float((expected[:, :, None] == found[:, None, :]).any(-1).float().mean())

    def save(self, path) -> None:
        """Write the index to `path`."""
        faiss.write_index(self.index, str(path))

    @classmethod
    def load(cls, path, present: Tensor) -> "IndexSearch":
        """Read an index; an IVF's lists stay on disk, memory-mapped.

        Raises:
            ImportError: FAISS is not installed. ValueError: the file is no index, or of other entries than `present`.
        """
        require_faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ValueError(f"{path} is damaged or no FAISS index: {error}") from error
        rows = present.nonzero().squeeze(-1)
        if index.ntotal != len(rows):
            raise ValueError(f"{path} has {index.ntotal} vectors, and the memory {len(rows)} posts: build it anew")
        return cls(index, rows)


def require_faiss() -> None:
    """Raise ImportError, saying how to get it, where FAISS is not installed."""
    if faiss is None:
        raise ImportError("an index needs FAISS: pip install faiss-cpu")


def index_kind(entries: int) -> str:
    """`"hnsw"` or `"ivf"`, the documented choice for a number of entries."""
    return "hnsw" if entries <= MOST_HNSW else "ivf"


def _better(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of two lists of cosines and entries."""
    similarity, order = torch.cat([first[0], second[0]], -1).topk(count)
    return similarity, torch.cat([first[1], second[1]], -1).gather(-1, order)


def _chunks(rows: Tensor, entries: Tensor):
    return zip(rows.split(PAIRS), entries.split(PAIRS), strict=True)


def _hadamard(size: int) -> Tensor:
    """The orthogonal matrix of 1 and -1 (size, size), size a power of two; divide it by sqrt(size)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _unit_rows(vectors: Tensor, rows: Tensor):
    return F.normalize(vectors[rows].float(), dim=-1).contiguous().numpy()
