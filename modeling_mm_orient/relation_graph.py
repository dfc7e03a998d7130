# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Relation graphs: embeddings -> edges. Knows no weights.

Shapes: B posts of this process (targets), S posts of the global batch (sources), D features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosines (B, S) of `queries` (B, D) and `keys` (S, D), float32 even under autocast; 0 for a zero vector."""
    with torch.autocast(queries.device.type, enabled=False):
        return F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).T


def relation_adjacency(
    queries: Tensor,
    keys: Tensor,
    query_mask: Tensor,
    key_mask: Tensor,
    first_key: int = 0,
    threshold: float = 0.9,
    self_loops: bool = True,
    edge_weights: str = "binary",
) -> Tensor:
    """The relation graph of one modality: `A_ij = 1 if cos(E_i, E_j) > threshold`, self-loops on (paper section 3.3).

    Args:
        queries: (B, D) embeddings of the posts that receive messages.
        keys: (S, D) embeddings of the posts that send them; row `first_key + i` is query i itself.
        query_mask, key_mask: (B,) and (S,) bool, False for a post without this modality: it has no edge at all (ours).
        edge_weights: `"binary"` (paper) or `"similarity"` (ours: the cosine, at least 0; 1 for a self-loop).

    Returns:
        (B, S) float32 edge weights, 0 for no edge. Gradients reach the embeddings through `"similarity"` alone.
    """
    similarity = cosine_similarity(queries, keys)
    columns = torch.arange(keys.shape[0], device=keys.device)
    rows = torch.arange(queries.shape[0], device=queries.device)
    itself = columns[None, :] == rows[:, None] + first_key
    weights = similarity.clamp(min=0) if edge_weights == "similarity" else torch.ones_like(similarity)
    adjacency = torch.where((similarity > threshold) & ~itself, weights, torch.zeros_like(weights))
    if self_loops:
        adjacency = torch.where(itself, torch.ones_like(adjacency), adjacency)
    return adjacency * (query_mask[:, None] & key_mask[None, :])
