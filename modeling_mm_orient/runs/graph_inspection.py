# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How dense relation graphs are (ours): a threshold that fits one encoder leaves another without edges, or with all of them.

Shapes: N posts, D features.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..features.inputs import MOST_SAMPLED
from ..relation_graph import cosine_similarity

QUANTILES = (0.5, 0.9, 0.99, 0.999)
NEARLY_ALL = 0.95


@dataclass
class GraphStatistics:
    """One modality's relation graph: the neighbours of posts among their batch or in the relation memory, themselves not
    counted.

    Args:
        posts: posts with this modality that were looked at.
        threshold: tau; None where the nearest are neighbours, however near.
        batch_size: posts of a batch, among whom edges are drawn; None for a memory.
        memory_size: reference posts with this modality; None for a batch.
        mean_degree, median_degree, largest_degree: neighbours per post.
        isolated: share of posts without a neighbour.
        density: share of possible edges that are there.
        similarity_quantiles: quantile -> cosine, over pairs of different posts, or of posts and reference posts.
    """

    posts: int
    threshold: float | None
    batch_size: int | None
    memory_size: int | None
    mean_degree: float
    median_degree: float
    largest_degree: int
    isolated: float
    density: float
    similarity_quantiles: dict[str, float]

    def advice(self) -> str | None:
        """What is wrong with this graph, or None: nearly all posts isolated, or nearly all pairs joined."""
        near = self.similarity_quantiles
        if self.isolated > NEARLY_ALL:
            return f"{self.isolated:.0%} of the posts have no neighbour (99% of cosines are below {near['0.99']:.2f})"
        if self.density > NEARLY_ALL:
            return f"{self.density:.0%} of all pairs are neighbours (half of the cosines are above {near['0.5']:.2f})"
        return None


def pair_similarities(embeds: Tensor) -> Tensor:
    """Cosines (N (N - 1) / 2,) of all pairs of different posts of `embeds` (N, D)."""
    rows, columns = torch.triu_indices(len(embeds), len(embeds), offset=1)
    return cosine_similarity(embeds, embeds)[rows, columns]


def threshold_at_quantile(embeds: Tensor, quantile: float) -> float:
    """The cosine below which a share `quantile` of the pairs of `embeds` (N, D) lies: the others become edges.

    Of more than 4,096 posts a reproducible sample is taken.

    Raises:
        ValueError: `quantile` is not between 0 and 1, or there are fewer than two posts.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"`threshold_quantile` must be between 0 and 1, got {quantile}")
    if len(embeds) < 2:
        raise ValueError("a quantile of similarities needs at least two posts")
    similarities = pair_similarities(_sample(embeds)).sort().values
    return float(similarities[min(int(quantile * len(similarities)), len(similarities) - 1)].clamp(-1, 1))


def graph_statistics(embeds: Tensor, threshold: float, batch_size: int) -> GraphStatistics | None:
    """Statistics over random batches of `embeds` (N, D), each post in one; None for fewer than two posts."""
    embeds = _sample(embeds)
    if len(embeds) < 2:
        return None
    embeds = embeds[torch.randperm(len(embeds), generator=torch.Generator().manual_seed(0))]
    degrees = [
        ((cosine_similarity(batch, batch) > threshold).fill_diagonal_(False)).sum(1)
        for batch in embeds.split(batch_size)
    ]
    pairs = sum(len(batch) * (len(batch) - 1) for batch in degrees)
    return _statistics(torch.cat(degrees), pairs, pair_similarities(embeds), threshold, batch_size=batch_size)


def look_up_statistics(
    embeds: Tensor, degrees: Tensor, references: Tensor, threshold: float | None
) -> GraphStatistics | None:
    """Statistics of look-ups in a relation memory; None without posts or reference posts.

    Args:
        embeds: (N, D), the posts'. degrees: (N,), how many neighbours each has. references: (M, D), the memory's.
        threshold: as in `GraphStatistics`.
    """
    if not len(embeds) or not len(references):
        return None
    similarities = cosine_similarity(embeds, _sample(references)).flatten()
    pairs = len(embeds) * len(references)
    return _statistics(degrees, pairs, similarities, threshold, memory_size=len(references))


def _statistics(
    degrees: Tensor,
    pairs: int,
    similarities: Tensor,
    threshold: float | None,
    batch_size: int | None = None,
    memory_size: int | None = None,
) -> GraphStatistics:
    similarities = similarities.sort().values
    return GraphStatistics(
        posts=len(degrees),
        threshold=threshold,
        batch_size=batch_size,
        memory_size=memory_size,
        mean_degree=float(degrees.float().mean()),
        median_degree=float(degrees.float().median()),
        largest_degree=int(degrees.max()),
        isolated=float((degrees == 0).float().mean()),
        density=float(degrees.sum() / max(1, pairs)),
        similarity_quantiles={str(q): float(similarities[int(q * (len(similarities) - 1))]) for q in QUANTILES},
    )


def statistics_table(statistics: dict[str, GraphStatistics | None]) -> str:
    """A Markdown table, a row per modality."""
    heads = ["modality", "posts", "threshold", "among", "mean degree", "median", "largest", "isolated", "density"]
    heads += [f"cosine q{q:g}" for q in QUANTILES]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for modality, values in statistics.items():
        if values is not None:
            among = f"memory of {values.memory_size}" if values.batch_size is None else f"batch of {values.batch_size}"
            cells = [f"{values.posts}", "none" if values.threshold is None else f"{values.threshold:.3f}", among]
            cells += [f"{values.mean_degree:.2f}", f"{values.median_degree:.0f}", f"{values.largest_degree}"]
            cells += [f"{values.isolated:.1%}", f"{values.density:.2%}"]
            cells += [f"{values.similarity_quantiles[str(q)]:.3f}" for q in QUANTILES]
            lines.append(f"| {modality} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(statistics: dict[str, GraphStatistics | None]) -> dict:
    """The same as plain data."""
    return {modality: None if values is None else asdict(values) for modality, values in statistics.items()}


def _sample(embeds: Tensor) -> Tensor:
    chosen = torch.randperm(len(embeds), generator=torch.Generator().manual_seed(0))[:MOST_SAMPLED]
    return embeds[chosen]
