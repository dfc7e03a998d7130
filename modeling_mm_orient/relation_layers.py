# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""CMRL: cross-modal relation learning (paper section 3.3): GraphSAGE layers and the four streams.

Shapes: B posts of this process, S posts of the global batch, D features.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .global_batch import GlobalBatch
from .message_passing import aggregate_neighbours


class RelationStreamKind(NamedTuple):
    """Whose features travel (`features`) over whose relation graph (`graph`)."""

    features: str
    graph: str


STREAMS = {
    "image_over_image": RelationStreamKind("image", "image"),
    "text_over_text": RelationStreamKind("text", "text"),
    "image_over_text": RelationStreamKind("image", "text"),
    "text_over_image": RelationStreamKind("text", "image"),
}


class RelationLayer(nn.Module):
    """GraphSAGE with mean aggregation: `h_i = normalise([x_i ; mean_j x_j] W + b)`, L2.

    Args:
        in_features, out_features: D before and after.
        normalize: L2-normalise the output (paper); False leaves it as it is.
        backend: see `aggregate_neighbours`.
    """

    def __init__(self, in_features: int, out_features: int, normalize: bool, backend: str):
        super().__init__()
        self.linear = nn.Linear(2 * in_features, out_features)
        self.normalize, self.backend = normalize, backend

    def forward(self, own: Tensor, sources: Tensor, adjacency: Tensor) -> Tensor:
        """`own` (B, D), `sources` (S, D), `adjacency` (B, S) edge weights -> (B, out_features)."""
        neighbourhood = aggregate_neighbours(sources, adjacency, self.backend)
        hidden = self.linear(torch.cat([own, neighbourhood], -1))
        return F.normalize(hidden, dim=-1, eps=1e-6) if self.normalize else hidden


class RelationStream(nn.Module):
    """One stream: `config.relation_layers` relation layers over one graph, ReLU between them (ours; the paper has one)."""

    def __init__(self, config, in_features: int):
        super().__init__()
        sizes = [in_features] + [config.relation_hidden_size] * config.relation_layers
        self.layers = nn.ModuleList(
            RelationLayer(size_in, size_out, config.relation_normalize, config.message_passing_backend)
            for size_in, size_out in pairwise(sizes)
        )

    def forward(self, features: Tensor, adjacency: Tensor, batch: GlobalBatch) -> Tensor:
        """`features` (B, D), `adjacency` (B, S) -> (B, relation_hidden_size)."""
        for index, layer in enumerate(self.layers):
            features = F.relu(features) if index else features
            features = layer(features, batch.gather(features), adjacency)
        return features


class CrossModalRelations(nn.Module):
    """The streams of `config.relation_streams`, concatenated in the order of `STREAMS`."""

    def __init__(self, config):
        super().__init__()
        widths = {"image": config.image_embed_dim, "text": config.text_embed_dim}
        self.streams = nn.ModuleDict(
            {
                name: RelationStream(config, widths[kind.features])
                for name, kind in STREAMS.items()
                if name in config.relation_streams
            }
        )
        self.output_size = len(self.streams) * config.relation_hidden_size

    def forward(
        self, embeds: dict[str, Tensor], graphs: dict[str, Tensor], present: dict[str, Tensor], batch: GlobalBatch
    ) -> Tensor:
        """Run every stream.

        Args:
            embeds: modality -> (B, D) embeddings, zeros where the modality is missing.
            graphs: modality -> (B, S) edge weights.
            present: modality -> (S,) bool; a post without the travelling modality sends nothing.

        Returns:
            (B, output_size).
        """
        outputs = []
        for name, stream in self.streams.items():
            kind = STREAMS[name]
            adjacency = graphs[kind.graph] * present[kind.features][None, :]
            outputs.append(stream(embeds[kind.features], adjacency, batch))
        return torch.cat(outputs, -1)
