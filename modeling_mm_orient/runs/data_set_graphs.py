# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Exact relation graphs of a whole data set (ours), in memory for its edges: all pairs above a threshold, or the nearest of
every post.

Each pair is compared once, coarsely, for both of its posts, and in full only where it can be an edge.

Shapes: N posts, K neighbours, D features.
"""

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.arrays import FeatureArrays
from ..data.description import DataDescription
from ..data.reading import read_split
from ..features.inputs import model_inputs, reads_pictures
from ..names import MODALITIES
from ..partial_files import whole_file
from ..private_apis import int8_product
from ..similarity_search import ROUNDING, TILE, better
from .coarse_search import GROUP, GROUPS, MANY_QUERIES, NONE, CoarseSearch, CoarseVectors, whole_limits

SCHEMA = pa.schema(
    [("modality", pa.string()), ("source", pa.string()), ("target", pa.string()), ("cosine", pa.float32())]
)
FIRST = 8
LEAST_MUTUAL = 4 * FIRST * TILE  # posts from which comparing each pair once pays
SPARE = 32  # places in a list that one more tile may fill


def write_graph(
    data: DataDescription,
    model,
    processor,
    output: str,
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    feature_cache: str | None = None,
    skip_bad_posts: bool = False,
) -> dict[str, tuple[int, int]]:
    """The exact relation graphs of all posts of a data set, by both modalities' embeddings, to a Parquet file.

    Its columns are `modality`, `source` and `target` (ids; a message goes from source to target) and `cosine`. With
    `threshold` every pair above it is there in both directions, with `top_k` each target's nearest sources; no self-loops.

    Args:
        data: labels and splits are not looked at. model: `MMOrientModel`. processor: `MMOrientProcessor`.
        output: .parquet, complete or not at all.
        feature_cache: folder of stored features; None encodes the posts.

    Returns:
        Modality -> numbers of posts that have it and of edges.

    Raises:
        ValueError: `output` is no .parquet file, or `top_k` does not suit the number of posts.
    """
    path = Path(output)
    if path.suffix != ".parquet":
        raise ValueError(f"{path}: a graph is written to a .parquet file")
    if threshold is not None and not -1 <= threshold <= 1:
        raise ValueError(f"the threshold must be a cosine from -1 to 1, got {threshold}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    data = replace(data, labels=None, label_columns={}, split_column=None)
    with_pictures = reads_pictures(model.config.encoder_names)
    posts, _ = read_split(data, None, skip_bad_posts=skip_bad_posts, check_images=with_pictures)
    arrays, everyone = FeatureArrays(data.feature_arrays), datasets.DatasetDict({"all": posts})
    inputs, collator = model_inputs(model, processor, everyone, [], feature_cache, arrays)
    embeds, present = _all_embeds(inputs["all"], model, collator)
    tables, counts, ids = [], {}, np.array(posts["id"], dtype=object)
    for modality in MODALITIES:
        here = present[modality].nonzero().squeeze(-1)
        if top_k is not None and len(here) > 1 and not 0 < top_k < len(here):
            raise ValueError(
                f"{len(here)} posts have {modality} features: top_k must be from 1 to {len(here) - 1}, got {top_k}"
            )
        if len(here) < 2:
            (sources, targets), cosines = torch.empty(2, 0, dtype=torch.int64), torch.empty(0)
        elif top_k is None:
            (sources, targets), cosines = threshold_graph(embeds[modality][here], threshold)
        else:
            nearest, cosines = top_k_graph(embeds[modality][here], top_k)
            sources, cosines = nearest.flatten(), cosines.flatten()
            targets = torch.arange(len(here)).repeat_interleave(top_k)
        names = ids[here.numpy()]
        columns = [[modality] * len(cosines), names[sources.numpy()], names[targets.numpy()], cosines.numpy()]
        tables.append(
            pa.Table.from_arrays([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)
        )
        counts[modality] = len(here), len(cosines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        pa.parquet.write_table(pa.concat_tables(tables), partial)
    return counts


@torch.inference_mode()
def _all_embeds(posts, model, collator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """E_img and E_txt (N, D) of all posts, and who has the modality (N,)."""
    parts, model = [], model.eval()
    loader = DataLoader(posts, 64, collate_fn=replace(collator, labels=False))
    for batch in tqdm(loader, "encoding posts", leave=False):
        unused = ("task_features", "post_keys")
        encoded = model.encode_posts(**{n: v.to(model.device) for n, v in batch.items() if n not in unused})
        parts.append((encoded.embeds, encoded.present))
    embeds = {m: torch.cat([part[0][m].float().cpu() for part in parts]) for m in MODALITIES}
    return embeds, {m: torch.cat([part[1][m].cpu() for part in parts]) for m in MODALITIES}


@torch.no_grad()
def threshold_graph(vectors: Tensor, threshold: float, coarse: bool | None = None) -> tuple[Tensor, Tensor]:
    """All pairs of `vectors` (N, D) whose cosine is above `threshold`, exactly, in memory for the edges, 8-bit copies
    and one tile.

    The relation graph of a whole data set: only the pairs that the bound of `CoarseVectors` leaves are compared in full, or,
    where copies do not pay (`CoarseSearch`), tile by tile all of them.

    Args:
        coarse: see `CoarseSearch`.

    Returns:
        `edges` (2, E) int64, every pair in both directions and no self-loops, sorted by target, and their cosines (E,).
    """
    search = CoarseSearch(vectors, coarse)
    kinds, count = (torch.int64, torch.int64, torch.float32), 0
    found = [torch.empty(0, dtype=kind, device=vectors.device) for kind in kinds]
    for start in range(0, len(vectors), MANY_QUERIES):
        queries = F.normalize(vectors[start : start + MANY_QUERIES].float(), dim=-1)
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


@torch.no_grad()
def top_k_graph(
    vectors: Tensor, top_k: int, coarse: bool | None = None, first_tiles: int = FIRST, least_mutual: int = LEAST_MUTUAL
) -> tuple[Tensor, Tensor]:
    """The `top_k` nearest others of every row of `vectors` (N, D), exactly.

    Args:
        coarse: see `CoarseSearch`. first_tiles: see `MutualCandidates`. least_mutual: rows from which these are made.

    Returns:
        Sources (N, top_k) of every target's edges, nearest first, and their cosines.
    """
    if not 0 < top_k < len(vectors):
        raise ValueError(f"`top_k` must be from 1 to {len(vectors) - 1}, the number of other rows, got {top_k}")
    search = CoarseSearch(vectors, coarse)
    sources = torch.empty(len(vectors), top_k, dtype=torch.int64, device=vectors.device)
    cosines = torch.empty(len(vectors), top_k, device=vectors.device)
    alone = torch.ones(len(vectors), dtype=torch.bool)
    if search.coarse is not None and len(vectors) >= least_mutual and top_k <= TILE // 8:
        candidates = MutualCandidates(search.coarse, len(vectors), top_k, first_tiles)
        alone = torch.from_numpy(candidates.crowded)
        for targets in (~alone).nonzero().squeeze(-1).split(MANY_QUERIES):
            queries = F.normalize(vectors[targets].float(), dim=-1)
            nearest = search.nearest_of(queries, *candidates.likeliest(targets), top_k)
            others = search.nearest_of(queries, *candidates.others(targets, nearest[0][:, -1]), top_k)
            cosines[targets], sources[targets] = better(nearest, others, top_k)
    for targets in alone.nonzero().squeeze(-1).split(32 * MANY_QUERIES):
        near, entries = search.nearest(vectors[targets], top_k + 1)
        itself = entries == targets.to(entries.device)[:, None]
        itself[:, -1] |= ~itself.any(-1)  # crowded out by equals
        kept = (~itself).nonzero(as_tuple=True)[1].view(len(targets), top_k)
        sources[targets], cosines[targets] = entries.gather(-1, kept), near.gather(-1, kept)
    return sources, cosines


class MutualCandidates:
    """For every post the others that can be among its `top_k` nearest, by products of 8-bit copies, each pair's taken once.

    With e the length of an error, the cosine of posts i and j is within e_i (1 + e_j) + e_j of their product: where L is the
    K-th largest product less e_j, post i needs look no further than products of L - 2 e_i (1 + e) - e_j. Lists hold what is
    above that, and are cut to it again whenever they have grown by half.

    Args:
        coarse, count: N posts' copies, and N. first_tiles: of these, that all posts are compared with first.

    Attributes:
        crowded: (N,) bool, posts with more candidates than a list holds: these are to be searched for one by one.
    """

    def __init__(self, coarse: CoarseVectors, count: int, top_k: int, first_tiles: int = FIRST):
        self.first = first_tiles
        self.coarse, self.posts, self.top_k = coarse, count, top_k
        self.room = 4 * top_k + 2 * SPARE
        self.step, self.error = (np.tile(x.numpy(), (1, GROUP)).ravel() for x in (coarse.step, coarse.error))
        self.doubt = 2 * (self.error * (1 + self.error.max()) + np.float32(ROUNDING))
        self.products = torch.empty(self.first, MANY_QUERIES, TILE, dtype=torch.int32)
        self.near = np.empty((MANY_QUERIES, TILE), bool)
        places = len(self.step)
        self.values = np.full((places, self.room), -np.inf, np.float32)  # products less the other's error
        self.entries = np.zeros((places, self.room), np.int32)
        self.count, self.full = np.zeros(places, np.int32), np.full(places, top_k + SPARE, np.int32)
        self.crowded, self.least = np.zeros(places, bool), np.full(places, np.inf, np.float32)
        for tile in range(coarse.tiles):
            self._compare(tile, range(self.first), mutually=tile >= self.first)
        for tile in range(self.first, coarse.tiles):
            for other in range(tile, coarse.tiles):
                self._compare(tile, range(other, other + 1), mutually=other > tile)
        self._cut(np.flatnonzero(~self.crowded[:count]), closely=True)
        self.crowded = self.crowded[:count]

    def likeliest(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of `targets` (P,), in order, and K candidates of each, those of the largest products (P K,)."""
        return self._listed(targets, lambda values, errors: self._largest(values))

    def others(self, targets: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """The same of all other candidates whose cosine can be more than `least` (P,)."""
        sure = (least.numpy() - self.doubt[targets.numpy()] / 2)[:, None]
        return self._listed(targets, lambda values, errors: (values + 2 * errors > sure) & ~self._largest(values))

    def _listed(self, targets: Tensor, chosen) -> tuple[Tensor, Tensor]:
        values, entries = self.values[targets.numpy()], self.entries[targets.numpy()]
        rows, columns = np.nonzero(chosen(values, self.error[entries]))
        return torch.from_numpy(rows), torch.from_numpy(entries[rows, columns].astype(np.int64))

    def _largest(self, values: np.ndarray) -> np.ndarray:
        largest = np.zeros(values.shape, bool)
        places = np.argpartition(values, self.room - self.top_k, axis=1)[:, self.room - self.top_k :]
        np.put_along_axis(largest, places, True, axis=1)
        return largest

    def _compare(self, tile: int, others: range, mutually: bool) -> None:
        """Posts of a tile with those of `others`; `mutually`: also these with them."""
        if mutually:
            group = slice(tile * TILE, tile * TILE + GROUPS)
            limits = [self._limits(_posts(other)).T - self.error[group][:, None] for other in others]
            limits = [
                whole_limits(least, self.step[group][:, None] * self.step[_posts(other)])
                for least, other in zip(limits, others, strict=True)
            ]
        for start in range(tile * TILE, min((tile + 1) * TILE, self.posts), MANY_QUERIES):
            rows = slice(start, start + MANY_QUERIES)
            mine = self.coarse.vectors.view(-1, self.coarse.width)[rows]
            for other, products in zip(others, self.products, strict=False):
                int8_product(mine, self.coarse.vectors[other].T, out=products)
                if (other + 1) * TILE > self.posts:  # what fills the last tile is no post
                    products[:, self.posts - other * TILE :] = NONE
                products[max(0, self.posts - start) :] = NONE
                if other == tile:
                    products[:, start % TILE :].fill_diagonal_(NONE)
            if others == range(self.first):
                self._begin(rows)
            for number, other in enumerate(others):
                products = self.products[number].numpy()
                group = slice(other * TILE, other * TILE + GROUPS)
                least = self._limits(rows) - self.error[group]
                least = whole_limits(least, self.step[rows][:, None] * self.step[group])
                near = self._reached(products.reshape(-1, GROUP, GROUPS), least[:, None])
                self._list(near, products, start, other * TILE)
                if mutually:
                    near = self._reached(products.reshape(-1, GROUPS, TILE), limits[number])
                    near = near[np.argsort((near % TILE).astype(np.int16), kind="stable")]
                    self._list(near, products, start, other * TILE, of_columns=True)

    def _reached(self, products: np.ndarray, least: np.ndarray) -> np.ndarray:
        near = np.greater_equal(products, least, out=self.near.reshape(products.shape))
        return np.flatnonzero(near)

    def _limits(self, posts: slice) -> np.ndarray:
        """What products of `posts` must reach, but for the other's error, as a column."""
        return (self.least[posts] - self.doubt[posts])[:, None]

    def _begin(self, rows: slice) -> None:
        """A first L of posts, of the largest products of groups of the first tiles."""
        largest = self.products.view(self.first, MANY_QUERIES, GROUP, GROUPS).amax(2).transpose(0, 1)
        largest = largest * self.coarse.step[: self.first] * torch.from_numpy(self.step[rows])[:, None, None]
        largest = (largest - self.coarse.error[: self.first]).flatten(1)
        self.least[rows] = largest.topk(self.top_k, sorted=False).values.amin(-1).numpy()
        self.least[self.posts :] = np.inf

    def _list(self, near: np.ndarray, products: np.ndarray, row: int, column: int, of_columns: bool = False) -> None:
        """Put the products at the places `near` into the lists of rows, or of columns; these are in order.

        `row` and `column`: the posts of the first.
        """
        if not len(near):
            return
        owners, entries = near // TILE + row, near % TILE + column
        if of_columns:
            owners, entries = entries, owners
        values = products.ravel()[near] * self.step[owners] * self.step[entries] - self.error[entries]
        firsts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        counts, listed = np.diff(np.append(firsts, len(owners))), owners[firsts]
        places = np.repeat(self.count[listed] - firsts, counts) + np.arange(len(owners))
        fits = places < self.room
        owners, places = owners[fits], places[fits]
        self.values[owners, places], self.entries[owners, places] = values[fits], entries[fits]
        self.count[listed] += counts
        crowded = listed[self.count[listed] > self.room]
        self.crowded[crowded], self.least[crowded], self.count[crowded] = True, np.inf, self.room
        self._cut(listed[(self.count[listed] >= self.full[listed]) & ~self.crowded[listed]])

    def _cut(self, owners: np.ndarray, closely: bool = False) -> None:
        """Leave in the lists of `owners` what can still be among the nearest; not `closely`: by the largest error of all."""
        if not len(owners):
            return
        values = self.values[owners]
        least = np.partition(values, self.room - self.top_k, axis=1)[:, self.room - self.top_k]
        self.least[owners] = least = np.maximum(least, self.least[owners])
        errors = self.error[self.entries[owners]] if closely else self.error.max()
        kept = np.flatnonzero(values >= (least - self.doubt[owners])[:, None] - 2 * errors)
        row = kept // self.room
        count = np.bincount(row, minlength=len(owners)).astype(np.int32)
        first, theirs = owners * self.room, np.repeat(np.cumsum(count) - count, count)
        entries = self.entries.ravel()[first[row] + kept % self.room]
        self.values[owners] = -np.inf
        places = first[row] + np.arange(len(row)) - theirs
        self.values.ravel()[places], self.entries.ravel()[places] = values.ravel()[kept], entries
        self.count[owners] = count
        self.full[owners] = np.minimum(self.room - SPARE, count + np.maximum(SPARE, count // 2))


def _posts(tile: int) -> slice:
    return slice(tile * TILE, (tile + 1) * TILE)
