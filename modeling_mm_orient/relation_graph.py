# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Relation graphs: embeddings -> edges. Knows no parameters.

Shapes: B posts of this process (targets), S posts of the global batch (sources), D features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .global_batch import GlobalBatch

LEAST_EXPONENT = -60.0  # of the nearest neighbour's weight, beside a self-loop's of 1


def cosine_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosines (B, S) of `queries` (B, D) and `keys` (S, D), float32 even under autocast; 0 for a zero vector."""
    with torch.autocast(queries.device.type, enabled=False):
        return F.linear(F.normalize(queries.float(), dim=-1), F.normalize(keys.float(), dim=-1))


def edge_weights_of(similarity: Tensor, kind: str, temperature: float) -> Tensor:
    """Weights of edges from their cosines, of any shape.

    `kind` is `"binary"` (paper: 1), `"similarity"` (ours: the cosine, at least 0) or `"softmax"` (ours: exp((cosine - 1) /
    `temperature`), so that a mean over neighbours is their softmax and a self-loop weighs 1).
    """
    if kind == "binary":
        return torch.ones_like(similarity)
    if kind == "similarity":
        return similarity.clamp(min=0)
    if not similarity.shape[-1]:
        return similarity
    # as far as the nearest is: far from 1 every exponential would be 0, or so small that its reciprocal is infinite
    nearest = similarity.detach().amax(-1, keepdim=True)
    return ((similarity - nearest) / temperature).exp() * ((nearest - 1) / temperature).clamp(min=LEAST_EXPONENT).exp()


def relation_adjacency(
    queries: Tensor,
    keys: Tensor,
    query_mask: Tensor,
    key_mask: Tensor,
    first_key: int = 0,
    threshold: float = 0.9,
    self_loops: bool = True,
    edge_weights: str = "binary",
    edge_temperature: float = 0.05,
) -> Tensor:
    """The relation graph of one modality: `A_ij = 1 if cos(E_i, E_j) > threshold`, self-loops on (paper section 3.3).

    Args:
        queries: (B, D) embeddings of the posts that receive messages.
        keys: (S, D) embeddings of the posts that send them; row `first_key + i` is query i itself.
        query_mask, key_mask: (B,) and (S,) bool, False for a post without this modality: it has no edge at all (ours).
        edge_weights, edge_temperature: see `edge_weights_of`; a self-loop weighs 1.

    Returns:
        (B, S) float32 edge weights, 0 for no edge. Gradients reach the embeddings unless the weights are binary.
    """
    # a post whose embedding is not finite is near to nobody
    similarity = cosine_similarity(queries, keys).nan_to_num(-1.0)
    columns = torch.arange(keys.shape[0], device=keys.device)
    rows = torch.arange(queries.shape[0], device=queries.device)
    itself = columns[None, :] == rows[:, None] + first_key
    weights = edge_weights_of(similarity, edge_weights, edge_temperature)
    adjacency = torch.where((similarity > threshold) & ~itself, weights, torch.zeros_like(weights))
    if self_loops:
        adjacency = torch.where(itself, torch.ones_like(adjacency), adjacency)
    return adjacency * (query_mask[:, None] & key_mask[None, :])


def relation_graphs(
    embeds: dict[str, Tensor],
    present: dict[str, Tensor],
    batch: GlobalBatch,
    thresholds: dict[str, float],
    among_batch: bool,
    self_loops: bool,
    edge_weights: str,
    edge_temperature: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both modalities' graphs of a batch, and who of the global batch has the modality.

    Args:
        embeds, present: modality -> (B, D) and bool (B,).
        batch: where this process's posts stand in the global batch.
        thresholds: modality -> tau.
        among_batch: False leaves a post no neighbour in the batch but itself (the memory has its neighbours).
        self_loops, edge_weights, edge_temperature: as in `relation_adjacency`.

    Returns:
        Modality -> (B, S) edge weights, and modality -> bool (S,).
    """
    graphs, everyone = {}, {}
    for modality, queries in embeds.items():
        here = present[modality]
        everyone[modality] = batch.gather(here)
        if among_batch:
            keys, tau = batch.gather(queries), thresholds[modality]
            form = (batch.first, tau, self_loops, edge_weights, edge_temperature)
            graphs[modality] = relation_adjacency(queries, keys, here, everyone[modality], *form)
        else:
            loops = here if self_loops else torch.zeros_like(here)
            graphs[modality] = self_loop_adjacency(loops, everyone[modality].shape[0], batch.first)
    return graphs, everyone


def self_loop_adjacency(query_mask: Tensor, num_keys: int, first_key: int = 0) -> Tensor:
    """The graph (B, S) in which a post has no neighbour but itself; arguments as in `relation_adjacency`."""
    columns = torch.arange(num_keys, device=query_mask.device)
    rows = torch.arange(query_mask.shape[0], device=query_mask.device) + first_key
    return ((columns[None, :] == rows[:, None]) & query_mask[:, None]).float()


def listed_cosines(queries: Tensor, listed: Tensor) -> Tensor:
    """Cosines (B, K) of each query (B, D) with the rows listed for it (B, K, D), float32 even under autocast.

    Computed pair by pair, so that a value does not depend on the batch; gradients reach the queries.
    """
    with torch.autocast(queries.device.type, enabled=False):
        products = torch.einsum("bd,bkd->bk", F.normalize(queries.float(), dim=-1), listed.float())
        return products / torch.linalg.vector_norm(listed.float(), dim=-1).clamp(min=1e-12)
