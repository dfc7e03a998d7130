# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Exact search by 8-bit copies (ours), for graphs of whole data sets: products of the copies, with a bound on their error,
leave few pairs that have to be compared in full.

Shapes: B queries, M entries, K results, P pairs, T tiles, G groups, D features.
"""

import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..private_apis import int8_product
from ..similarity_search import ROUNDING, TILE, better, pairwise_cosines, reciprocal_norms, tiles

LEAST_COARSE = 4096  # entries from which copies pay
TURNED = 64
GROUP = 16  # entries with one scale
GROUPS = TILE // GROUP
MANY_QUERIES = 512
AT_ONCE = 12, 2**21  # tiles and products: what many queries write stays near the processor
LISTED = 64  # queries whose pairs are listed together
NONE = torch.iinfo(torch.int32).min  # less than any product


def multiplies_int8() -> bool:
    """Whether this processor has instructions for products of 8-bit numbers; without them copies do not pay."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8", "dot"))


class CoarseSearch:
    """The entries near to queries: by 8-bit copies where there are enough entries and the processor multiplies such numbers,
    else by plain products; both give the same.

    Args:
        vectors: (M, D) floating point.
        coarse: by copies or not (default: by size and processor).
        at_once: see `CoarseVectors`.
    """

    def __init__(self, vectors: Tensor, coarse: bool | None = None, at_once: tuple[int, int] = AT_ONCE):
        self.at_once = at_once
        self.vectors, self.scale = vectors, reciprocal_norms(vectors)
        if coarse is None:
            coarse = len(vectors) >= LEAST_COARSE and vectors.device.type == "cpu" and multiplies_int8()
        self.coarse = self._copies() if coarse else None

    def _copies(self) -> "CoarseVectors":
        units = (
            tile.mul_(self.scale[number * TILE : number * TILE + len(tile), None])
            for number, tile in enumerate(tiles(self.vectors, self.vectors.device))
        )
        return CoarseVectors(units, *self.vectors.shape, self.at_once)

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` nearest entries of `queries` (B, D), best first: cosines and entries (B, count)."""
        fits = count <= min(len(self.vectors) // (2 * GROUP), self.at_once[0] * GROUPS)
        room = self.coarse.room(min(len(queries), MANY_QUERIES)) if self.coarse is not None and fits else None
        parts = []
        for part in queries.split(MANY_QUERIES):
            unit = F.normalize(part.float(), dim=-1)
            parts.append(
                self._nearest_of_all(unit, count) if room is None else self._nearest_by_bound(unit, count, room)
            )
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))

    def _nearest_of_all(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        best = queries.new_full((len(queries), count), -torch.inf), queries.new_zeros(len(queries), count).long()
        start = 0
        for tile in tiles(self.vectors, queries.device):
            similarity = F.linear(queries, tile).mul_(self.scale[start : start + len(tile)])
            found, entries = similarity.topk(min(count, len(tile)))
            best, start = better(best, (found, entries + start), count), start + len(tile)
        return best

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
                near = F.linear(queries, self.vectors[start:stop].float()) * self.scale[start:stop]
                rows, entries = (near > threshold - ROUNDING).nonzero(as_tuple=True)
                entries = entries + start
            later = entries > places[rows]
            rows, entries = rows[later], entries[later]
            cosines = self._cosines(queries, rows, entries)
            above = cosines > threshold
            yield rows[above], entries[above], cosines[above]

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
        return pairwise_cosines(queries, self.vectors, self.scale, rows, entries)


class CoarseVectors:
    """Unit vectors in 8 bits, and by how much a product of two of them can be wrong.

    Dimensions are mixed first, 64 at a time by a Hadamard matrix, so that none sticks out. A group of 16 vectors shares one
    scale. Of a vector x and its copy x' the length e of the error is known, so that |q.x - q'.x'| <= e + e_q (1 + e)
    (Cauchy, Schwarz).

    Args:
        tiles: unit rows (2048, D), the last perhaps fewer, in order. count: M, their number. width: D.
        at_once: tiles, and products, that queries are compared with at a time, whichever are more.
    """

    def __init__(self, tiles: Iterable[Tensor], count: int, width: int, at_once: tuple[int, int] = AT_ONCE):
        self._at_once = at_once
        self.tiles, self.width = -(-count // TILE), -(-width // TURNED) * TURNED
        generator = torch.Generator().manual_seed(0)
        self._order = torch.randperm(self.width, generator=generator)
        signs = torch.randint(0, 2, (TURNED, 1), generator=generator) * 2 - 1
        self._turn = signs * _hadamard(TURNED) / TURNED**0.5
        self.vectors = _in_large_pages(self.tiles, TILE, self.width)
        self.step, self.error = torch.ones(2, self.tiles, GROUPS)
        self.error.zero_()
        for number, rows in enumerate(tiles):
            turned = F.pad(self._turned(rows), (0, 0, 0, TILE - len(rows)))
            self.step[number] = _step(turned.view(GROUP, GROUPS, -1).abs().amax((0, 2)))
            coarse, errors = _rounded(turned, self.step[number].repeat(GROUP))
            self.vectors[number], self.error[number] = coarse, errors.view(GROUP, GROUPS).amax(0)
        # what fills the last tile is near to nobody
        self._filling = np.arange(TILE) >= TILE - -count % TILE

    def quantise(self, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit rows (B, D) in 8 bits, their steps (B,) and errors (B,)."""
        turned = self._turned(unit)
        step = _step(turned.abs().amax(-1))
        coarse, errors = _rounded(turned, step)
        return coarse, step, errors

    def tiles_at_a_time(self, queries: int) -> int:
        """Tiles that so many queries are compared with at a time."""
        tiles, products = self._at_once
        return min(self.tiles, max(tiles, products // (queries * TILE)))

    def room(self, queries: int) -> Tensor:
        """Memory for `compare`: taken once, for fresh memory costs as much as the products that are written to it."""
        return torch.empty(self.tiles_at_a_time(queries) * queries * TILE, dtype=torch.int32)

    def compare(
        self, queries: tuple[Tensor, Tensor, Tensor], first: int, last: int, room: Tensor | None = None
    ) -> "CoarseCosines":
        """Queries of `quantise` with the tiles from `first` to `last`; `room` is overwritten by the next comparison."""
        coarse, step, errors = queries
        tiles, count = self.vectors[first:last], len(coarse)
        size = len(tiles) * count * TILE
        products = (torch.empty(size, dtype=torch.int32) if room is None else room[:size]).view(len(tiles), count, TILE)
        largest = torch.empty(len(tiles), count, GROUPS, dtype=torch.int32)
        for number, tile in enumerate(tiles):
            int8_product(coarse, tile.T, out=products[number])
            if first + number == self.tiles - 1:
                np.copyto(products[number].numpy(), NONE, where=self._filling)
            # while the products are in the processor's cache
            torch.amax(products[number].view(count, GROUP, GROUPS), 1, out=largest[number])
        largest = largest.transpose(0, 1).reshape(count, -1)
        entries = self.step[first:last].view(-1), self.error[first:last].view(-1)
        return CoarseCosines(products, largest, (step[:, None], errors[:, None]), entries, first * TILE)

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
