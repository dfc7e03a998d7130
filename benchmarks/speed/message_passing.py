# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The four relation streams as the model runs them, by every back-end, and PyTorch Geometric's `SAGEConv` for the same.

Every way starts from both adjacency matrices, which is what cosines and a threshold give; what it builds from them, once
for all streams, is counted. For PyTorch Geometric the better of its forms is taken: edge list, or sparse by rows. On a
GPU where there is one.
"""

from functools import partial
from pathlib import Path

import torch
from torch_geometric.nn import SAGEConv

from modeling_mm_orient.cpu_speed import use_cpu_linear
from modeling_mm_orient.global_batch import GlobalBatch
from modeling_mm_orient.names import BACKENDS
from modeling_mm_orient.optional_dependencies import TORCH_SCATTER_AVAILABLE
from modeling_mm_orient.relation_layers import STREAMS, CrossModalRelations

from .timing import in_turn, markdown, plot_bars

CELLS = ((32, 1.5), (120, 1.5), (120, 60), (512, 100), (2048, 1.5), (2048, 10), (2048, 100))
LARGE_CELLS = ((4096, 1.5), (4096, 100), (8192, 1.5), (8192, 10), (8192, 100))  # on a GPU
WIDTH, ROUNDS = 512, 5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LACKING = {"torch_scatter": not TORCH_SCATTER_AVAILABLE, "fused": DEVICE.type != "cpu"}
OURS = [name for name in BACKENDS if not LACKING.get(name)]


def ours(features, adjacencies, relations) -> list[torch.Tensor]:
    """The streams, as `CrossModalRelations` runs them in the model."""
    nodes = len(features["image"])
    present = dict.fromkeys(features, torch.ones(nodes, dtype=torch.bool, device=DEVICE))
    batch = GlobalBatch(nodes, DEVICE, gather=False)
    return list(relations(features, adjacencies, present, batch).split(WIDTH, -1))


def same_layers(theirs: list[SAGEConv], backend: str) -> CrossModalRelations:
    """Our streams with their weights."""
    relations = CrossModalRelations(list(STREAMS), {"image": WIDTH, "text": WIDTH}, WIDTH, backend=backend)
    with torch.no_grad():
        for stream, layer in zip(relations.streams.values(), theirs, strict=True):
            linear = stream.layers[0].linear
            linear.weight.copy_(torch.cat([layer.lin_r.weight, layer.lin_l.weight], 1))
            linear.bias.copy_(layer.lin_l.bias)
    if DEVICE.type == "cpu":
        use_cpu_linear(relations)
    return relations.to(DEVICE)


def geometric(features, adjacencies, layers, sparse: bool) -> list[torch.Tensor]:
    """The streams by PyTorch Geometric."""
    edges = {
        modality: adjacency.to_sparse_csr() if sparse else adjacency.nonzero().T.flip(0).contiguous()
        for modality, adjacency in adjacencies.items()
    }
    kinds = zip(layers, STREAMS.values(), strict=True)
    return [layer(features[kind.features], edges[kind.graph]) for layer, kind in kinds]


def forward(way, features, adjacencies, layers) -> None:
    with torch.no_grad():
        way(features, adjacencies, layers)
    finish()


def forward_backward(way, features, adjacencies, layers) -> None:
    for values in [*features.values(), *layers.parameters()]:
        values.grad = None
    sum(output.sum() for output in way(features, adjacencies, layers)).backward()
    finish()


def finish() -> None:
    """Wait for the GPU, which answers before it has computed."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def main(folder: Path) -> str:
    """The benchmark's table: times relative to the fastest of our back-ends in the row."""
    torch.manual_seed(0)
    rows, plotted = [], {}
    ways = dict.fromkeys(OURS, ours)
    ways |= {"PyG": partial(geometric, sparse=False), "PyG sparse": partial(geometric, sparse=True)}
    for nodes, degree in CELLS + LARGE_CELLS * (DEVICE.type == "cuda"):
        adjacencies = {
            modality: (torch.rand(nodes, nodes, device=DEVICE) < degree / nodes).fill_diagonal_(True).float()
            for modality in ("image", "text")
        }
        features = {m: torch.randn(nodes, WIDTH, device=DEVICE, requires_grad=True) for m in adjacencies}
        theirs = torch.nn.ModuleList(SAGEConv(WIDTH, WIDTH, normalize=True) for _ in STREAMS).to(DEVICE)
        layers = {name: same_layers(theirs, name) if name in OURS else theirs for name in ways}
        expected = ours(features, adjacencies, layers["dense"])
        for name, way in ways.items():
            for found, wanted in zip(way(features, adjacencies, layers[name]), expected, strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4, msg=name)
        for title, kind in (("forward", forward), ("forward + backward", forward_backward)):
            calls = {name: partial(kind, way, features, adjacencies, layers[name]) for name, way in ways.items()}
            times = in_turn(calls, ROUNDS, 0.02, together=1)
            best = min(times[name].median for name in OURS)
            peer = min(times["PyG"].median, times["PyG sparse"].median)
            cells = [f"{times[name].median / best:.2f}" for name in OURS]
            rows.append([f"{nodes}, {degree}, {title}", str(times["auto"]), *cells, f"{peer / best:.2f}"])
            plotted[f"{nodes}, {degree}, {title}"] = {name: times[name].median / best for name in OURS}
            plotted[f"{nodes}, {degree}, {title}"]["SAGEConv"] = peer / best
    plot_bars(folder / "message_passing.png", plotted, "time relative to the fastest back-end")
    return markdown(["nodes, mean degree", "auto", *OURS, "SAGEConv"], rows)
