# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The nearest of many embeddings by cosine (ours): exact by blocked matrix products, or a FAISS index.

Exact search needs no building and suits about 100,000 entries. Beyond, a FAISS index answers a query without looking at
every entry: HNSW up to 300,000 (fastest, but each entry is linked in one by one), IVF above (builds faster, smaller).

Products find who may be near; a cosine that comes back is computed pair by pair, so that one pair has one number, alone or
in any batch. Equals stand in the order of their entries.

Shapes: B queries, M entries, K results, P pairs, D features.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .cpu_speed import fastest_linear
from .optional_dependencies import faiss

MOST_EXACT = 100_000
MOST_HNSW = 300_000
BLOCK = 65_536  # similarities at a time
TILE = 2048  # entries that are brought to single precision at a time
PAIRS = 256  # entries compared pair by pair at a time: more do not stay in the processor's cache
SPARE = 32  # results beyond those asked for, so that who is equally near as the last is seldom cut off
ROUNDING = 1e-5  # of products in single precision, generously
DECIMALS = 6  # of the cosines that decide an order: beyond, a query's own rounding shows
RECALL_QUERIES = 200


class ExactSearch:
    """Every entry is compared. Entries stay as they are stored, in half precision and possibly memory-mapped.

    Args:
        vectors: (M, D) floating point. present: (M,) bool, False for an entry that is never found.
        block, tile: entries compared, and brought to single precision, at a time.
    """

    kind = "exact"

    def __init__(self, vectors: Tensor, present: Tensor, block: int = BLOCK, tile: int = TILE):
        self.vectors, self._absent = vectors, ~present
        self._block, self._tile = block, tile
        self._scale = reciprocal_norms(vectors)

    @torch.no_grad()
    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` nearest entries of `queries` (B, D), best first and equals by entry: cosines and entries (B, count).

        A cosine is -inf where there are not that many entries.
        """
        if self._scale.device != queries.device:
            self._scale, self._absent = self._scale.to(queries.device), self._absent.to(queries.device)
        unit = F.normalize(queries.float(), dim=-1)
        roughly, entries = self._nearest_by_product(unit, count + SPARE)
        cosines = self._cosines(unit, entries).masked_fill_(roughly == -torch.inf, -torch.inf)
        cosines, entries = in_order(cosines, entries)
        last = cosines[:, count - 1 : count] - ROUNDING
        # who is as near as the last but was cut off: only where more are equally near than the spare places hold
        for row in (roughly[:, -1:] >= last).logical_and(last > -torch.inf).squeeze(-1).nonzero().flatten().tolist():
            near = self._reaching(unit[row : row + 1], float(last[row]))
            exactly = self._cosines(unit[row : row + 1], near[None])
            ordered, near = in_order(exactly, near[None])
            cosines[row, :count], entries[row, :count] = ordered[0, :count], near[0, :count]
        return cosines[:, :count], entries[:, :count]

    def _nearest_by_product(self, unit: Tensor, count: int) -> tuple[Tensor, Tensor]:
        best = unit.new_full((len(unit), count), -torch.inf), unit.new_zeros(len(unit), count).long()
        for start, similarity in self._similarities(unit):
            found, entries = similarity.topk(min(count, similarity.shape[-1]))
            best = better(best, (found, entries + start), count)
        return best

    def _reaching(self, unit: Tensor, least: float) -> Tensor:
        """Entries (P,) whose product with one query (1, D) reaches `least`, in order."""
        found = [(row[0] >= least).nonzero().squeeze(-1) + start for start, row in self._similarities(unit)]
        return torch.cat(found)

    def _similarities(self, unit: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Products (B, up to `block`) with the entries from a number on, -inf for one that is absent."""
        for start in range(0, len(self.vectors), self._block):
            stop = min(start + self._block, len(self.vectors))
            parts = [fastest_linear(unit, tile) for tile in tiles(self.vectors[start:stop], unit.device, self._tile)]
            similarity = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
            yield start, similarity.mul_(self._scale[start:stop]).masked_fill_(self._absent[start:stop], -torch.inf)

    def _cosines(self, unit: Tensor, entries: Tensor) -> Tensor:
        """Cosines (B, K) of each query (B, D) with its `entries` (B, K)."""
        rows = torch.arange(len(unit), device=unit.device).repeat_interleave(entries.shape[1])
        return pairwise_cosines(unit, self.vectors, self._scale, rows, entries.flatten()).view(entries.shape)


class IndexSearch:
    """A FAISS index over the entries that are present; nearly all of the nearest are found.

    Args:
        index: FAISS index by inner product over unit vectors. rows: (N,) int64, the entry of each indexed vector.
        vectors: (M, D), the entries themselves, which give the cosines.
    """

    def __init__(self, index, rows: Tensor, vectors: Tensor):
        self.index, self.rows, self.vectors = index, rows, vectors

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
        return cls(index, rows, vectors)

    @torch.no_grad()
    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `ExactSearch.nearest`, but for entries that the index misses."""
        unit = F.normalize(queries.float(), dim=-1).cpu().contiguous()
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(128, 2 * count))  # type: ignore[attr-defined]
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(32, self.index.nlist // 16))  # type: ignore[call-arg]
        wanted = min(count + SPARE, len(self.rows))
        # one by one: of many queries at once FAISS rounds differently, and could look into other lists
        each = [self.index.search(query[None], wanted, params=parameters)[1] for query in unit.numpy()]
        found = torch.from_numpy(np.concatenate([np.zeros((0, wanted), np.int64), *each]))
        entries = self.rows[found.clamp(min=0)]
        places = torch.arange(len(unit)).repeat_interleave(wanted)
        scale = reciprocal_norms(self.vectors.cpu()[entries.flatten()])
        cosines = pairwise_cosines(unit, self.vectors.cpu(), None, places, entries.flatten()).mul_(scale)
        cosines, entries = in_order(cosines.view(entries.shape).masked_fill_(found < 0, -torch.inf), entries)
        missing = max(0, count - wanted)
        cosines, entries = F.pad(cosines, (0, missing), value=-torch.inf), F.pad(entries, (0, missing))
        return cosines[:, :count].to(queries.device), entries[:, :count].to(queries.device)

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
    def load(cls, path, vectors: Tensor, present: Tensor) -> "IndexSearch":
        """Read an index of `vectors` (M, D) where `present` (M,); an IVF's lists stay on disk, memory-mapped.

        Raises:
            ImportError: FAISS is not installed. ValueError: the file is no index, or of other entries.
        """
        require_faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ValueError(f"{path} is damaged or no FAISS index: {error}") from error
        rows = present.nonzero().squeeze(-1)
        if index.ntotal != len(rows) or index.d != vectors.shape[-1]:
            raise ValueError(
                f"{path} has {index.ntotal} vectors of width {index.d}, and the memory {len(rows)} posts of width "
                f"{vectors.shape[-1]}: build it anew"
            )
        return cls(index, rows, vectors)


def require_faiss() -> None:
    """Raise ImportError, saying how to get it, where FAISS is not installed."""
    if faiss is None:
        raise ImportError("an index needs FAISS: pip install faiss-cpu")


def index_kind(entries: int) -> str:
    """`"hnsw"` or `"ivf"`, the documented choice for a number of entries."""
    return "hnsw" if entries <= MOST_HNSW else "ivf"


def better(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of two lists of cosines and entries, best first; there may be no first list."""
    if first is not None:
        second = torch.cat([first[0], second[0]], -1), torch.cat([first[1], second[1]], -1)
    similarity, order = second[0].topk(count)
    return similarity, second[1].gather(-1, order)


def in_order(cosines: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, K), the nearest first; what is equally near, to `DECIMALS`, by entry."""
    by_entry = entries.argsort(dim=-1)
    entries, cosines = entries.gather(-1, by_entry), cosines.gather(-1, by_entry)
    order = cosines.round(decimals=DECIMALS).argsort(dim=-1, descending=True, stable=True)
    return cosines.gather(-1, order), entries.gather(-1, order)


def pairwise_cosines(unit: Tensor, vectors: Tensor, scale: Tensor | None, rows: Tensor, entries: Tensor) -> Tensor:
    """Cosines (P,) of pairs of a unit query, its row in `unit` (B, D), and an entry of `vectors` (M, D), each computed by
    itself. `scale`: `reciprocal_norms` of the vectors; without it the products."""
    found = unit.new_empty(len(rows))
    for r, e, out in zip(rows.split(PAIRS), entries.split(PAIRS), found.split(PAIRS), strict=True):
        # index_select: an index in brackets is several times slower
        stored = vectors.index_select(0, e.to(vectors.device)).to(unit.device)
        torch.sum(stored.float().mul_(unit.index_select(0, r)), -1, out=out)
    return found if scale is None else found.mul_(scale[entries])


def reciprocal_norms(vectors: Tensor) -> Tensor:
    """One over the lengths (M,) of `vectors` (M, D), float32; those of zeros are 1e-12 long."""
    norms = [torch.linalg.vector_norm(tile, dim=-1) for tile in tiles(vectors, vectors.device)]
    return (torch.cat(norms) if norms else vectors.new_zeros(0).float()).clamp_(min=1e-12).reciprocal_()


def tiles(vectors: Tensor, device: torch.device, size: int = TILE) -> Iterator[Tensor]:
    """Rows in float32, `size` at a time, in one buffer that the next overwrites: fresh ones would fragment the heap."""
    buffer = torch.empty(min(size, len(vectors)), vectors.shape[-1], device=device)
    for rows in vectors.split(size) if len(vectors) else ():
        yield buffer[: len(rows)].copy_(rows)


def _unit_rows(vectors: Tensor, rows: Tensor):
    return F.normalize(vectors[rows].float(), dim=-1).contiguous().numpy()
