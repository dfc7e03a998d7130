# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Message passing: (features, edges, weights) -> aggregated features. Knows no modality and no parameters.

Shapes: N target nodes, S source nodes, E edges, D features.
"""

import torch
from torch import Tensor

from .optional_dependencies import torch_scatter

BACKENDS = ("auto", "torch_scatter", "index_add", "dense")


def sum_by_scatter(features: Tensor, edges: Tensor, weights: Tensor, num_targets: int) -> tuple[Tensor, Tensor]:
    """Weighted sum (N, D) of each target's sources, and the sum (N,) of their weights, with torch-scatter.

    `edges` (2, E) are sources and targets, `weights` (E,).
    """
    sources, targets = edges
    messages = features[sources] * weights.unsqueeze(-1).to(features.dtype)
    total = torch_scatter.scatter(messages, targets, dim=0, dim_size=num_targets, reduce="sum")
    return total, torch_scatter.scatter(weights, targets, dim=0, dim_size=num_targets, reduce="sum")


def sum_by_index_add(features: Tensor, edges: Tensor, weights: Tensor, num_targets: int) -> tuple[Tensor, Tensor]:
    """The same from plain torch."""
    sources, targets = edges
    messages = features[sources] * weights.unsqueeze(-1).to(features.dtype)
    total = features.new_zeros(num_targets, features.shape[-1]).index_add(0, targets, messages)
    return total, weights.new_zeros(num_targets).index_add(0, targets, weights)


def sum_by_product(features: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
    """The same as one matrix product, static in shape: the form for `torch.compile` and export."""
    return adjacency.to(features.dtype) @ features, adjacency.sum(-1)


def aggregate_neighbours(
    features: Tensor,
    adjacency: Tensor,
    backend: str = "auto",
    listed: Tensor | None = None,
    listed_weights: Tensor | None = None,
) -> Tensor:
    """Weighted mean of every target's source features, the aggregation of GraphSAGE (paper section 3.3).

    A target's sources are rows of `features` that `adjacency` joins it to, and rows listed for it alone; a padded list is a
    dense form already, so its sum is one batched product on every back-end.

    Args:
        features: (S, D) floating point.
        adjacency: (N, S) non-negative edge weights, 0 for no edge.
        backend: `"auto"` (torch-scatter where it is installed, `index_add` otherwise), `"torch_scatter"`,
            `"index_add"` or `"dense"`. A graph being compiled or exported is always aggregated densely: inductor
            was measured to give wrong numbers for torch-scatter on CPU, and the edge count is data-dependent.
        listed: (N, K, D) further sources of each target. listed_weights: (N, K) their edge weights, 0 for padding.

    Returns:
        (N, D) in the dtype of `features`; zeros for a target without edges.

    Raises:
        ValueError: `backend` is unknown. ImportError: `"torch_scatter"` is asked for and not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {BACKENDS}, got {backend!r}")
    if backend == "torch_scatter" and torch_scatter is None:
        raise ImportError("message passing by torch_scatter was asked for, and torch-scatter is not installed")
    if backend == "dense" or torch.compiler.is_compiling():
        total, weight_sum = sum_by_product(features, adjacency)
    else:
        targets, sources = adjacency.nonzero(as_tuple=True)
        edges, weights = torch.stack([sources, targets]), adjacency[targets, sources]
        by_edges = sum_by_index_add if backend == "index_add" or torch_scatter is None else sum_by_scatter
        total, weight_sum = by_edges(features, edges, weights, adjacency.shape[0])
    if listed is not None:
        total = total + torch.einsum("nk,nkd->nd", listed_weights.to(listed.dtype), listed)
        weight_sum = weight_sum + listed_weights.sum(-1)
    divisor = torch.where(weight_sum > 0, weight_sum, torch.ones_like(weight_sum))
    return total / divisor.unsqueeze(-1).to(total.dtype)
