# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The four relation streams by every back-end, and PyTorch Geometric's `SAGEConv` for the same, on the same edges.

Every way starts from the edge lists of both graphs; what a back-end builds from them, once for all streams, is counted. For
PyTorch Geometric the better of its forms is taken: edge list, or sparse by rows, built once as well.
"""

from functools import partial
from pathlib import Path

import torch
from torch_geometric.nn import SAGEConv

from modeling_mm_orient import MMOrientConfig
from modeling_mm_orient.message_passing import BACKENDS, Graph
from modeling_mm_orient.optional_dependencies import TORCH_SCATTER_AVAILABLE
from modeling_mm_orient.relation_layers import STREAMS, RelationLayer

from .timing import in_turn, markdown, plot_bars

CELLS = ((32, 1.5), (120, 1.5), (120, 60), (512, 100), (2048, 1.5), (2048, 10), (2048, 100))
WIDTH, ROUNDS = 512, 5
OURS = [name for name in BACKENDS if name != "torch_scatter" or TORCH_SCATTER_AVAILABLE]


def ours(features, edges, layers, backend: str) -> list[torch.Tensor]:
    """The streams by one of our back-ends."""
    nodes = len(features["image"])
    graphs = {modality: Graph.from_edges(listed, nodes, nodes) for modality, listed in edges.items()}
    outputs = []
    for layer, kind in zip(layers, STREAMS.values(), strict=True):
        layer.backend, own = backend, features[kind.features]
        outputs.append(layer(own, own, graphs[kind.graph]))
    return outputs


def same_layer(theirs: SAGEConv) -> RelationLayer:
    """Our layer with their weights."""
    layer = RelationLayer(MMOrientConfig(), WIDTH, WIDTH)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.cat([theirs.lin_r.weight, theirs.lin_l.weight], 1))
        layer.linear.bias.copy_(theirs.lin_l.bias)
    return layer


def geometric(features, edges, layers, sparse: bool) -> list[torch.Tensor]:
    """The streams by PyTorch Geometric."""
    nodes = len(features["image"])
    if sparse:
        edges = {
            modality: torch.sparse_coo_tensor(
                listed.flip(0), torch.ones(listed.shape[1]), (nodes, nodes)
            ).to_sparse_csr()
            for modality, listed in edges.items()
        }
    kinds = zip(layers, STREAMS.values(), strict=True)
    return [layer(features[kind.features], edges[kind.graph]) for layer, kind in kinds]


def forward(way, features, edges, layers) -> None:
    with torch.no_grad():
        way(features, edges, layers)


def forward_backward(way, features, edges, layers) -> None:
    for values in [*features.values(), *(p for layer in layers for p in layer.parameters())]:
        values.grad = None
    sum(output.sum() for output in way(features, edges, layers)).backward()


def main(folder: Path) -> str:
    """The benchmark's table: times relative to the fastest of our back-ends in the row."""
    torch.manual_seed(0)
    rows, plotted = [], {}
    ways = {name: partial(ours, backend=name) for name in OURS}
    ways |= {"PyG": partial(geometric, sparse=False), "PyG sparse": partial(geometric, sparse=True)}
    for nodes, degree in CELLS:
        edges = {}
        for modality in ("image", "text"):
            adjacency = (torch.rand(nodes, nodes) < degree / nodes).fill_diagonal_(True)
            edges[modality] = adjacency.nonzero().T.flip(0).contiguous()
        features = {modality: torch.randn(nodes, WIDTH, requires_grad=True) for modality in edges}
        theirs = [SAGEConv(WIDTH, WIDTH, normalize=True) for _ in STREAMS]
        layers = {name: [same_layer(layer) for layer in theirs] if name in OURS else theirs for name in ways}
        expected = ours(features, edges, layers["dense"], "dense")
        for name, way in ways.items():
            for found, wanted in zip(way(features, edges, layers[name]), expected, strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4, msg=name)
        for title, kind in (("forward", forward), ("forward + backward", forward_backward)):
            calls = {name: partial(kind, way, features, edges, layers[name]) for name, way in ways.items()}
            times = in_turn(calls, ROUNDS, 0.02, together=1)
            best = min(times[name].median for name in OURS)
            peer = min(times["PyG"].median, times["PyG sparse"].median)
            cells = [f"{times[name].median / best:.2f}" for name in OURS]
            rows.append([f"{nodes}, {degree}, {title}", str(times["auto"]), *cells, f"{peer / best:.2f}"])
            plotted[f"{nodes}, {degree}, {title}"] = {name: times[name].median / best for name in OURS}
            plotted[f"{nodes}, {degree}, {title}"]["SAGEConv"] = peer / best
    plot_bars(folder / "message_passing.png", plotted, "time relative to the fastest back-end")
    return markdown(["nodes, mean degree", "auto", *OURS, "SAGEConv"], rows)
