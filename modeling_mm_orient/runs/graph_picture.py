# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The relation graphs of some posts as a picture: who is near to whom by picture, by text, by both, and what communities
that makes.

Shapes: N posts, D features, E edges.
"""

from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from ..partial_files import whole_file
from ..relation_graph import cosine_similarity

MOST_DRAWN = 300  # posts; more are a cloud
NEAREST = 3  # neighbours of a post that are drawn where no threshold decides
SEED = 0
KINDS = {
    "pictures alone": "#2b6cb0",
    "texts alone": "#dd7a1b",
    "both": "#30363c",
}


@dataclass
class DrawnGraph:
    """`edges`: kind of `KINDS` -> pairs of posts; `communities`: (N,) numbers, the largest first; `posts`: N."""

    edges: dict[str, list[tuple[int, int]]]
    communities: np.ndarray
    posts: int

    def statistics(self) -> str:
        """One line on edges and communities."""
        counts = ", ".join(f"{len(pairs)} by {kind}" for kind, pairs in self.edges.items())
        sizes = np.bincount(self.communities)
        return f"{self.posts} posts; edges: {counts}; {(sizes > 1).sum()} communities, {(sizes == 1).sum()} posts alone"


def relation_edges(
    embeds: Tensor, present: Tensor, threshold: float | None, nearest: int | None
) -> set[tuple[int, int]]:
    """Edges (i, j), i < j, of one modality's graph: cosine above `threshold`, or among a post's `nearest`, or both.

    Args:
        embeds: (N, D). present: bool (N,), who has the modality.
    """
    cosines = cosine_similarity(embeds, embeds).float()
    joined = present[:, None] & present[None]
    joined.fill_diagonal_(False)
    if threshold is not None:
        joined &= cosines > threshold
    if nearest is not None and len(embeds) > 1:
        order = cosines.masked_fill(~joined, -torch.inf).topk(min(nearest, len(embeds) - 1), dim=1).indices
        among = torch.zeros_like(joined).scatter_(1, order, True) & joined
        joined = among | among.T
    rows, columns = torch.triu(joined | joined.T, 1).nonzero(as_tuple=True)
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def drawn_graph(by_picture: set, by_text: set, posts: int) -> DrawnGraph:
    """Both graphs of so many posts together, with the communities that their edges make (Louvain)."""
    edges = {
        "pictures alone": sorted(by_picture - by_text),
        "texts alone": sorted(by_text - by_picture),
        "both": sorted(by_picture & by_text),
    }
    graph = _graph(edges, posts)
    found = sorted(
        nx.community.louvain_communities(graph, seed=SEED), key=lambda members: (-len(members), min(members))
    )
    communities = np.zeros(posts, int)
    for number, members in enumerate(found):
        communities[list(members)] = number
    return DrawnGraph(edges, communities, posts)


def draw_graph(graph: DrawnGraph, path) -> None:
    """Write the picture, `.png`, `.svg` or `.pdf`, whole or not at all."""
    import matplotlib
    from matplotlib.figure import Figure

    places = nx.spring_layout(_graph(graph.edges, graph.posts), seed=SEED, k=1.6 / np.sqrt(max(1, graph.posts)))
    xy = np.array([places[post] for post in range(graph.posts)])
    figure = Figure(figsize=(9, 8.2), layout="constrained")
    axis = figure.subplots()
    for kind, colour in KINDS.items():
        pairs = graph.edges[kind]
        for first, second in pairs:
            axis.plot(
                *xy[[first, second]].T, color=colour, linewidth=1.4 if kind == "both" else 0.8, alpha=0.55, zorder=1
            )
        axis.plot([], [], color=colour, label=f"alike by {kind} ({len(pairs)})")
    sizes = np.bincount(graph.communities)
    palette = matplotlib.colormaps["tab20"]
    colours = [palette(number % 20) if sizes[number] > 1 else "white" for number in graph.communities]
    axis.scatter(*xy.T, c=colours, s=46, edgecolors="0.25", linewidths=0.6, zorder=2)
    axis.legend(loc="upper left", fontsize=8, frameon=False)
    axis.set_title(
        f"{graph.posts} posts in {(sizes > 1).sum()} communities (colours), {(sizes == 1).sum()} alone (white)\n"
        "In-modal streams carry pictures over blue and black, texts over orange and black; cross-modal ones the reverse.",
        fontsize=9,
    )
    axis.axis("off")
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=150, format=Path(path).suffix[1:])


def check_picture_name(path) -> None:
    """Raise ValueError unless a graph can be drawn to `path`."""
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path}: a graph is drawn to .png, .svg or .pdf")


def _graph(edges: dict[str, list[tuple[int, int]]], posts: int) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(range(posts))
    for kind, pairs in edges.items():
        graph.add_edges_from(pairs, weight=2.0 if kind == "both" else 1.0)
    return graph
