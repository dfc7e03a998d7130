# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The nearest of many embeddings by cosine (ours): exact by blocked matrix products, or a FAISS index.

Exact search needs little building and suits about 100,000 entries. Beyond, a FAISS index answers a query without looking at
every entry: HNSW up to 300,000 (fastest, but each entry is linked in one by one), IVF above (builds faster, smaller).

Shapes: B queries, M entries, K results, D features.
"""

import math
import mmap
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .cpu_speed import with_fast_linear
from .optional_dependencies import faiss

MOST_EXACT = 100_000
MOST_HNSW = 300_000
BLOCK = 65_536  # similarities at a time
LEAST_COARSE = 4096  # entries from which a coarse comparison may be worth it
MEASURED = 32  # queries and neighbours to find that out
PAIRS = 256  # entries compared in full at a time: more do not stay in the processor's cache
TURNED = 64
TILE, GROUP = 2048, 16  # entries at a time, and of those the ones with one scale
GROUPS = TILE // GROUP
MANY_QUERIES = 512
STAYS_IN_CACHE = 2**24  # bytes that a processor is sure to keep near between two look-ups
TILES, PRODUCTS = 12, 2**21  # compared at a time, whichever is more: what many queries write stays near the processor
LISTED = 64  # queries whose pairs are listed together
NONE = torch.iinfo(torch.int32).min  # less than any product
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
        for first, block in self._blocks(0, len(vectors)):
            torch.linalg.vector_norm(block, dim=-1, out=self._scale[first : first + len(block)])
        self._scale.clamp_(min=1e-12).reciprocal_()
        self.coarse: CoarseVectors | None = None
        if len(vectors) >= LEAST_COARSE and vectors.device.type == "cpu":
            blocks = self._blocks(0, len(vectors))
            units = (block.mul_(self._scale[first : first + len(block), None]) for first, block in blocks)
            self.coarse = CoarseVectors(units, self._absent, vectors.shape[-1])
            self._coarse_for = {alone: self._coarse_is_faster(1 if alone else MEASURED) for alone in (True, False)}
            if not any(self._coarse_for.values()):
                self.coarse = None

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` nearest entries of `queries` (B, D), best first: cosines and entries (B, count).

        A cosine is -inf where there are not that many entries.
        """
        alone = len(queries) == 1
        fits = queries.device.type == "cpu" and count <= min(len(self.vectors) // (2 * GROUP), TILES * GROUPS)
        coarsely = self.coarse is not None and fits and len(queries) > 0 and self._coarse_for[alone]
        if coarsely and alone:
            return self._nearest_of_one(queries.detach().float(), count)
        room = self.coarse.room(min(len(queries), MANY_QUERIES)) if coarsely else None
        parts = []
        for part in queries.split(MANY_QUERIES):
            unit = F.normalize(part.float(), dim=-1)
            parts.append(self._nearest_by_bound(unit, count, room) if coarsely else self._nearest_of_all(unit, count))
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))

    def pairs_above(self, queries: Tensor, threshold: float, first: int = 0):
        """Pairs of a unit query (B, D) and a later entry, its own place being `first` and its row, with a cosine above
        `threshold`: queries' rows, entries and cosines, tile by tile."""
        places = torch.arange(first, first + len(queries), device=queries.device)
        coarse = None if self.coarse is None else self.coarse.quantise(queries)
        for start in range(first - first % TILE, len(self.vectors), TILE):
            if coarse is not None:
                compared = self.coarse.compare(coarse, start // TILE, start // TILE + 1)
                rows, entries = compared.at_least(queries.new_full((len(queries),), threshold))
            else:
                stop = min(start + TILE, len(self.vectors))
                near = torch.cat([F.linear(queries, block) for _, block in self._blocks(start, stop)], -1)
                rows, entries = (near * self._scale[start:stop] > threshold - ROUNDING).nonzero(as_tuple=True)
                entries = entries + start
            later = entries > places[rows]
            rows, entries = rows[later], entries[later]
            cosines = self._cosines(queries, rows, entries)
            above = cosines > threshold
            yield rows[above], entries[above], cosines[above]

    @with_fast_linear
    def _nearest_of_all(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if self._scale.device != queries.device:
            self._scale, self._absent = self._scale.to(queries.device), self._absent.to(queries.device)
        best = queries.new_full((len(queries), count), -torch.inf), queries.new_zeros(len(queries), count).long()
        for start in range(0, len(self.vectors), BLOCK):
            stop = min(start + BLOCK, len(self.vectors))
            similarity = queries.new_empty(len(queries), stop - start)
            for first, block in self._blocks(start, stop):
                similarity[:, first - start : first - start + len(block)] = F.linear(queries, block)
            similarity.mul_(self._scale[start:stop]).masked_fill_(self._absent[start:stop], -torch.inf)
            found, entries = similarity.topk(min(count, stop - start))
            best = better(best, (found, entries + start), count)
        return best

    def _nearest_of_one(self, query: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`nearest` of one query (1, D), in few steps: with 10,000 entries they take as long as the products."""
        unit = query[0].numpy()
        unit = unit * np.float32(1 / max(1e-12, math.sqrt(unit @ unit)))
        entries, unit = self.coarse.can_be_nearest(unit, count), torch.from_numpy(unit)
        parts = [torch.mv(self.vectors.index_select(0, some).float(), unit) for some in entries.split(PAIRS)]
        cosines = (parts[0] if len(parts) == 1 else torch.cat(parts)).mul_(self._scale.index_select(0, entries))
        if (missing := count - len(entries)) > 0:
            cosines, entries = F.pad(cosines, (0, missing), value=-torch.inf), F.pad(entries, (0, missing))
        cosines, order = cosines.topk(count)
        return cosines[None], entries.index_select(0, order)[None]

    def _nearest_by_bound(self, queries: Tensor, count: int, room: Tensor | None = None) -> tuple[Tensor, Tensor]:
        coarse, best = self.coarse.quantise(queries), None
        tiles = self.coarse.tiles_at_a_time(len(queries))
        for first in range(0, self.coarse.tiles, tiles):
            compared = self.coarse.compare(coarse, first, min(first + tiles, self.coarse.tiles), room)
            known = best is not None and bool(best[0].isfinite().all())
            least = best[0][:, -1] if known else compared.reached(count)
            best = better(best, self.nearest_of(queries, *compared.at_least(least), count), count)
        return best

    def nearest_of(self, queries: Tensor, rows: Tensor, entries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of pairs of a unit query and an entry, (P,) each and in order of queries, the `count` nearest of each query, best
        first: cosines and entries (B, `count`); -inf where it has fewer."""
        cosines = self._cosines(queries, rows, entries)
        counts = torch.bincount(rows, minlength=len(queries))
        places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        lists, done = [], 0
        for members in counts.split(LISTED):  # a query that is near to all makes the lists of a part long, not of all
            pairs = slice(done, done := done + int(members.sum()))
            where = rows[pairs] - len(lists) * LISTED, places[pairs]
            similarity = cosines.new_full((len(members), max(int(members.max()), count)), -torch.inf)
            listed = torch.zeros_like(similarity, dtype=torch.int64)
            similarity[where], listed[where] = cosines[pairs], entries[pairs]
            lists.append(better(None, (similarity, listed), count))
        return tuple(map(torch.cat, zip(*lists, strict=True)))

    def _cosines(self, queries: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
        """Cosines (P,) of pairs of a unit query and an entry."""
        found = queries.new_empty(len(rows))
        for r, e, out in zip(rows.split(PAIRS), entries.split(PAIRS), found.split(PAIRS), strict=True):
            # index_select: an index in brackets is several times slower
            products = self.vectors.index_select(0, e).float().mul_(queries.index_select(0, r))
            torch.sum(products, -1, out=out)
        return found.mul_(self._scale[entries]).masked_fill_(self._absent[entries], -torch.inf)

    def _coarse_is_faster(self, queries: int) -> bool:
        """Whether the coarse comparison answers a sample of the entries first."""
        sample = self.vectors[:: max(1, len(self.vectors) // queries)][:queries].float()
        sample, times = F.normalize(sample, dim=-1), []
        for way in (self._nearest_of_one if queries == 1 else self._nearest_by_bound, self._nearest_of_all):
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                way(sample, MEASURED)
                taken.append(time.perf_counter() - start)
            times.append(min(taken))
        return times[0] < times[1]

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Rows from `start` to `stop` in float32, a tile at a time, in one buffer: fresh ones would fragment the heap."""
        buffer = torch.empty(TILE, self.vectors.shape[-1], device=self._scale.device)
        for first in range(start, stop, TILE):
            rows = self.vectors[first : min(first + TILE, stop)]
            yield first, buffer[: len(rows)].copy_(rows)


class CoarseVectors:
    """Unit vectors in 8 bits, and by how much a product of two of them can be wrong.

    Dimensions are mixed first, 64 at a time by a Hadamard matrix, so that none sticks out. A group of 16 vectors shares one
    scale. Of a vector x and its copy x' the length e of the error is known, so that |q.x - q'.x'| <= e + e_q (1 + e)
    (Cauchy, Schwarz).

    Args:
        tiles: unit rows (2048, D), the last perhaps fewer, in order. absent: (M,) bool, rows that are never near.
        width: D.
    """

    def __init__(self, tiles: Iterable[Tensor], absent: Tensor, width: int):
        self.tiles, self.width = -(-len(absent) // TILE), -(-width // TURNED) * TURNED
        generator = torch.Generator().manual_seed(0)
        self._order = torch.randperm(self.width, generator=generator)
        signs = torch.randint(0, 2, (TURNED, 1), generator=generator) * 2 - 1
        self._turn = signs * _hadamard(TURNED) / TURNED**0.5
        self.vectors = _in_large_pages(self.tiles, TILE, self.width)
        self._far = self.vectors.numel() > STAYS_IN_CACHE
        self.step, self.error = torch.ones(2, self.tiles, GROUPS)
        self.error.zero_()
        for number, rows in enumerate(tiles):
            turned = F.pad(self._turned(rows), (0, 0, 0, TILE - len(rows)))
            self.step[number] = _step(turned.view(GROUP, GROUPS, -1).abs().amax((0, 2)))
            coarse, errors = _rounded(turned, self.step[number].repeat(GROUP))
            self.vectors[number], self.error[number] = coarse, errors.view(GROUP, GROUPS).amax(0)
        self._arrays = [values.numpy() for values in (self._order, self._turn, self.step, self.error)]
        absent = F.pad(absent, (0, -len(absent) % TILE), value=True).view(self.tiles, TILE)
        self._absent = {number: absent[number].numpy() for number in absent.any(1).nonzero().flatten().tolist()}

    def quantise(self, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit rows (B, D) in 8 bits, their steps (B,) and errors (B,)."""
        turned = self._turned(unit)
        step = _step(turned.abs().amax(-1))
        coarse, errors = _rounded(turned, step)
        return coarse, step, errors

    def tiles_at_a_time(self, queries: int) -> int:
        """Tiles that so many queries are compared with at a time."""
        return min(self.tiles, max(TILES, PRODUCTS // (queries * TILE)))

    def room(self, queries: int) -> Tensor:
        """Memory for `compare`: taken once, for fresh memory costs as much as the products that are written to it."""
        return torch.empty(self.tiles_at_a_time(queries) * queries * TILE, dtype=torch.int32)

    def compare(
        self, queries: tuple[Tensor, Tensor, Tensor], first: int, last: int, room: Tensor | None = None
    ) -> "CoarseCosines":
        """Queries of `quantise` with the tiles from `first` to `last`; `room` is overwritten by the next comparison."""
        coarse, step, errors = queries
        tiles, count = self.vectors[first:last], len(coarse)
        absent = {number - first: mask for number, mask in self._absent.items() if first <= number < last}
        size = len(tiles) * count * TILE
        products = (torch.empty(size, dtype=torch.int32) if room is None else room[:size]).view(len(tiles), count, TILE)
        largest = torch.empty(len(tiles), count, GROUPS, dtype=torch.int32)
        for number, tile in enumerate(tiles):
            self._fetch(tile)
            torch._int_mm(coarse, tile.T, out=products[number])
            if number in absent:
                np.copyto(products[number].numpy(), NONE, where=absent[number])
            # while the products are in the processor's cache
            torch.amax(products[number].view(count, GROUP, GROUPS), 1, out=largest[number])
        largest = largest.transpose(0, 1).reshape(count, -1)
        entries = self.step[first:last].view(-1), self.error[first:last].view(-1)
        return CoarseCosines(products, largest, (step[:, None], errors[:, None]), entries, first * TILE)

    def can_be_nearest(self, unit: np.ndarray, count: int) -> Tensor:
        """Entries (P,), in order, that can be among the `count` nearest of one unit row (D,), as `compare` finds them."""
        order, turn, group_step, group_error = self._arrays
        if len(unit) < self.width:
            unit = np.pad(unit, (0, self.width - len(unit)))
        turned = (unit[order].reshape(-1, TURNED) @ turn).ravel()
        step = max(0.01, float(turned.max()), -float(turned.min())) / 127
        steps = turned * np.float32(1 / step)
        coarse = np.rint(steps)
        steps -= coarse
        error = step * math.sqrt(steps @ steps)
        products = np.empty((self.tiles, GROUP, GROUPS), np.int32)
        column, found = torch.from_numpy(coarse.astype(np.int8))[:, None], torch.from_numpy(products).view(-1, 1)
        if self._far:
            for tile, part in zip(self.vectors, found.split(TILE), strict=True):
                self._fetch(tile)
                torch._int_mm(tile, column, out=part)
        else:
            torch._int_mm(self.vectors.view(-1, self.width), column, out=found)
        for number, mask in self._absent.items():
            np.copyto(products[number], NONE, where=mask.reshape(GROUP, GROUPS))
        # all in steps of the query
        doubts = group_error * np.float32((1 + error) / step)
        reached = (products.max(1) * group_step - doubts).ravel()
        least = float(np.partition(reached, -count)[-count]) if count <= len(reached) else -np.inf
        limits = whole_limits(np.float32(least - 2 * (error + ROUNDING) / step) - doubts, group_step)
        return torch.from_numpy(np.flatnonzero(products >= limits[:, None]))

    def _fetch(self, tile: Tensor) -> None:
        """Read a tile in order, as products do not read it: what is not near comes twice as fast."""
        if self._far:
            tile.view(torch.int32).amax()

    def _turned(self, unit: Tensor) -> Tensor:
        if unit.shape[-1] < self.width:
            unit = F.pad(unit, (0, self.width - unit.shape[-1]))
        shuffled = unit.index_select(1, self._order)
        return (shuffled.view(-1, TURNED) @ self._turn).view(len(unit), self.width)


@dataclass
class CoarseCosines:
    """Products of 8-bit queries with T tiles of entries, and what they say about the cosines.

    The cosine of a product is that product times the steps of both, and can be wrong by what `CoarseVectors` says.

    Attributes:
        products: (T, B, 2048) int32.
        largest: (B, G) int32, of each group of 16 entries, 128 apart: so their largest is found the fastest.
        queries: steps and errors of the queries, (B, 1) each. groups: the same of the groups, (G,) each.
        start: the first entry.
    """

    products: Tensor
    largest: Tensor
    queries: tuple[Tensor, Tensor]
    groups: tuple[Tensor, Tensor]
    start: int

    def reached(self, count: int) -> Tensor:
        """A cosine that at least `count` entries reach, (B,); -inf where that is not known."""
        (step, error), (group_step, group_error) = self.queries, self.groups
        nearest = (self.largest * group_step).mul_(step).sub_(error + ROUNDING).addcmul_(group_error, -1 - error)
        if (together := nearest.shape[-1] // (8 * count)) > 1:  # fewer to choose from, and nearly as near
            nearest = nearest[:, : nearest.shape[-1] // together * together].view(len(nearest), together, -1).amax(1)
        if count > nearest.shape[-1]:
            return nearest.new_full((len(nearest),), -torch.inf)
        return nearest.topk(count, sorted=False).values.amin(-1)

    def at_least(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, in order, and entries of all pairs whose cosine can be `cosines` (B,) or more."""
        (step, error), (group_step, group_error) = self.queries, self.groups
        limits = torch.addcmul((cosines[:, None] - error - ROUNDING) / step, group_error, (-1 - error) / step)
        limits = whole_limits(limits.numpy(), group_step.numpy())
        near = np.flatnonzero(self.largest.numpy() >= limits)
        rows, groups = np.divmod(near, limits.shape[1])
        tiles, places = np.divmod(groups, GROUPS)
        members = ((tiles * len(limits) + rows) * TILE + places)[:, None] + np.arange(0, TILE, GROUPS)
        inside = self.products.numpy().ravel().take(members) >= limits.ravel().take(near)[:, None]
        found, members = np.divmod(np.flatnonzero(inside), GROUP)
        entries = (tiles * TILE + places + self.start)[found] + members * GROUPS
        return torch.from_numpy(rows[found]), torch.from_numpy(entries)


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


def better(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of two lists of cosines and entries, best first; there may be no first list."""
    if first is not None:
        second = tuple(torch.cat(parts, -1) for parts in zip(first, second, strict=True))
    similarity, order = second[0].topk(count)
    return similarity, second[1].gather(-1, order)


def _step(largest: Tensor) -> Tensor:
    """The step with which a largest value becomes 127; never so small that `NONE` steps were no less than a cosine."""
    return largest.clamp(min=0.01) / 127


def whole_limits(limits: np.ndarray, group_step: np.ndarray) -> np.ndarray:
    """The least products, int32, that reach `limits` in steps of groups: whole numbers compare as such; above `NONE`."""
    # within int32 by what single precision can tell apart; a query that is not a number reaches nothing
    return np.ceil(np.maximum(np.fmin(limits / group_step, -NONE - 1024), NONE + 1024)).astype(np.int32)


def _rounded(turned: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, D) in whole steps (N,), and the length of what is lost, (N,)."""
    steps = turned / step[:, None]
    coarse = steps.round()
    return coarse.to(torch.int8), torch.linalg.vector_norm(steps.sub_(coarse), dim=-1).mul_(step)


def _in_large_pages(*shape: int) -> Tensor:
    """8-bit zeros of that shape, in large pages where the system has them: small ones are as slow to look up as to read."""
    size = math.prod(shape)
    if not size or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=torch.int8)
    pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.int8).view(shape)


def _hadamard(size: int) -> Tensor:
    """The orthogonal matrix of 1 and -1 (size, size), size a power of two; divide it by sqrt(size)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _unit_rows(vectors: Tensor, rows: Tensor):
    return F.normalize(vectors[rows].float(), dim=-1).contiguous().numpy()
