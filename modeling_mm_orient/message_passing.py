# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Message passing: (features, graph) -> aggregated features. Knows no modality and no parameters.

Shapes: N target nodes, S source nodes, E edges, K further sources of a target, D features.
"""

import warnings
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from .names import BACKENDS
from .optional_dependencies import torch_scatter

MOST_DENSE = 64 * 64  # pairs of nodes up to which a dense product is the fastest on a CPU
MOST_DENSE_CUDA, HIGH_DENSITY_CUDA = 4096 * 4096, 0.004  # the same on a GPU, and the share of edges above them
LEAST_WEIGHT = 1e-37  # of all of a target's edges: the reciprocal of less is infinite
HIGH_DENSITY, HIGH_DENSITY_FORWARD = 0.15, 0.3  # with gradients and without


class Graph:
    """A weighted graph in the forms that the back-ends want; each is made when it is first wanted, once for all streams.

    Args:
        adjacency: (N, S) non-negative edge weights, 0 for no edge.
    """

    def __init__(self, adjacency: Tensor):
        self.adjacency = adjacency

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Targets, in ascending order, sources and weights of the edges, (E,) each."""
        targets, sources = self.adjacency.nonzero(as_tuple=True)
        return targets, sources, self.adjacency[targets, sources]

    @cached_property
    def rows(self) -> Tensor:
        """(N, S) sparse by rows, without gradients."""
        targets, sources, weights = self.edges
        return _sparse_rows(targets, sources, weights.detach(), tuple(self.adjacency.shape))

    @cached_property
    def columns(self) -> Tensor:
        """The transpose (S, N), sparse by rows."""
        targets, sources, weights = self.edges
        order = torch.argsort(sources, stable=True)
        return _sparse_rows(sources[order], targets[order], weights.detach()[order], tuple(self.adjacency.shape[::-1]))

    @cached_property
    def weight_sums(self) -> Tensor:
        """Of each target's edges, (N,)."""
        return self.adjacency.sum(-1)

    def best_backend(self) -> str:
        """The back-end measured to be the fastest for this size, density and device (`benchmarks/speed`).

        A graph being compiled or exported is aggregated densely: inductor was measured to give wrong numbers for
        torch-scatter on CPU, and the number of edges depends on the data.
        """
        pairs = self.adjacency.numel()
        if torch.compiler.is_compiling():
            return "dense"
        if self.adjacency.is_cuda:  # torch-scatter by name alone: compiled without a GPU it refuses one
            small = pairs <= MOST_DENSE_CUDA
            return "dense" if small or len(self.edges[0]) > HIGH_DENSITY_CUDA * pairs else "index_add"
        if pairs <= MOST_DENSE:
            return "dense"
        high = HIGH_DENSITY if torch.is_grad_enabled() else HIGH_DENSITY_FORWARD
        return "dense" if len(self.edges[0]) > high * pairs else "fused"


def sum_by_scatter(features: Tensor, graph: Graph) -> Tensor:
    """Weighted sum (N, D) of each target's sources in `features` (S, D), with torch-scatter."""
    targets, sources, weights = graph.edges
    messages = features.index_select(0, sources) * weights.unsqueeze(-1).to(features.dtype)
    return torch_scatter.scatter(messages, targets, dim=0, dim_size=len(graph.adjacency), reduce="sum")


def sum_by_index_add(features: Tensor, graph: Graph) -> Tensor:
    """The same from plain torch."""
    targets, sources, weights = graph.edges
    messages = features.index_select(0, sources) * weights.unsqueeze(-1).to(features.dtype)
    return features.new_zeros(len(graph.adjacency), features.shape[-1]).index_add(0, targets, messages)


def sum_by_product(features: Tensor, graph: Graph) -> Tensor:
    """The same as one matrix product, static in shape: the form for `torch.compile` and export."""
    return F.linear(graph.adjacency.to(features.dtype), features.T)


def sum_fused(features: Tensor, graph: Graph) -> Tensor:
    """The same as one sparse product, on CPU: no message is ever stored."""
    weights = graph.edges[2]
    if torch.is_grad_enabled() and (features.requires_grad or weights.requires_grad):
        return _FusedSum.apply(features, weights, graph)
    return _sparse_product(graph.rows, features)


SUMS = {"torch_scatter": sum_by_scatter, "index_add": sum_by_index_add, "dense": sum_by_product, "fused": sum_fused}


def aggregate_neighbours(
    features: Tensor,
    graph: Graph,
    present: Tensor,
    backend: str = "auto",
    listed: Tensor | None = None,
    listed_weights: Tensor | None = None,
) -> Tensor:
    """Weighted mean of every target's source features, the aggregation of GraphSAGE (paper section 3.3).

    A target's sources are rows of `features` that `graph` joins it to, and rows listed for it alone; a padded list is a
    dense form already, so its sum is one batched product on every back-end. Half precision is summed in float32. A source
    whose features are not finite sends nothing (ours): times a weight of 0 they would reach everyone.

    Args:
        features: (S, D) floating point.
        graph: `Graph` of N targets and S sources.
        present: (S,) bool, False for a source that sends nothing.
        backend: `"auto"`, see `Graph.best_backend`, or one of `BACKENDS`.
        listed: (N, K, D) further sources of each target. listed_weights: (N, K) their edge weights, 0 for padding.

    Returns:
        (N, D) in the dtype of `features`; zeros for a target without edges.

    Raises:
        ValueError: `backend` is unknown, or `"fused"` elsewhere than on a CPU. ImportError: torch-scatter is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {BACKENDS}, got {backend!r}")
    if backend == "torch_scatter" and torch_scatter is None:
        raise ImportError("message passing by torch_scatter was asked for, and torch-scatter is not installed")
    if backend == "fused" and features.device.type != "cpu":
        raise ValueError(f"message passing by 'fused' runs on a CPU, these features are on {features.device}")
    if backend == "auto" or torch.compiler.is_compiling():
        backend = graph.best_backend()
    dtype, exact = features.dtype, features if features.dtype.itemsize >= 4 else features.float()
    with torch.autocast(features.device.type, enabled=False):
        if _everyone_sends(exact, present):
            total, weight_sum = SUMS[backend](exact, graph), graph.weight_sums
        else:
            sending = present & exact.isfinite().all(-1)
            exact = torch.where(sending.unsqueeze(-1), exact, torch.zeros((), dtype=exact.dtype, device=exact.device))
            total, weight_sum = SUMS[backend](exact, graph), _weight_sums(graph, backend, sending)
        if listed is not None:
            total = total + torch.einsum("nk,nkd->nd", listed_weights.to(total.dtype), listed.to(total.dtype))
            weight_sum = weight_sum + listed_weights.sum(-1)
        shares = torch.where(weight_sum > LEAST_WEIGHT, weight_sum, torch.inf).reciprocal()
        return (total * shares.unsqueeze(-1).to(total.dtype)).to(dtype)


class _FusedSum(torch.autograd.Function):
    """The sparse product by rows forward, and by the transpose's rows backward: a gather, never a scatter."""

    @staticmethod
    def forward(ctx, features: Tensor, weights: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None)
        return _sparse_product(graph.rows, features)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (features,), graph, of_weights = ctx.saved_tensors, ctx.graph, None
        gradient = gradient.contiguous()
        if features is not None:
            targets, sources, weights = graph.edges
            of_weights = (gradient[targets] * features[sources]).sum(-1).to(weights.dtype)
        of_features = None
        if ctx.needs_input_grad[0]:
            of_features = _sparse_product(graph.columns, gradient)
        return of_features, of_weights, None


def _everyone_sends(features: Tensor, present: Tensor) -> bool:
    """Whether nothing has to be masked, where that is cheap to know: a sum is finite only if all of it is."""
    if torch.compiler.is_compiling() or features.is_cuda:
        return False
    return bool(present.all()) and bool(features.detach().sum(-1).isfinite().all())


def _sparse_product(rows: Tensor, features: Tensor) -> Tensor:
    return torch.sparse.mm(rows.to(features.dtype), features, reduce="sum")


def _weight_sums(graph: Graph, backend: str, sending: Tensor) -> Tensor:
    if backend == "dense":
        return (graph.adjacency * sending[None, :]).sum(-1)
    targets, sources, weights = graph.edges
    return weights.new_zeros(len(graph.adjacency)).index_add(0, targets, weights * sending[sources])


def _sparse_rows(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    pointers = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(torch.bincount(rows, minlength=shape[0]), 0, out=pointers[1:])
    with warnings.catch_warnings():  # torch calls its sparse tensors a beta
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(pointers, columns, values, shape, check_invariants=False)
