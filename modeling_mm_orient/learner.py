# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MLC's learner network (paper section 3.4): everything that is known of a post, to its joint representation.

Shapes: B posts, D features.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


class LearnerLayer(GradientCheckpointingLayer):
    """Dense, ReLU, dropout."""

    def __init__(self, in_features: int, out_features: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(in_features, out_features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        return self.dropout(torch.relu(self.dense(features)))


class Learner(nn.Sequential):
    """Its layers, one after the other: (B, sizes[0]) -> (B, sizes[-1]).

    Args:
        sizes: widths, that of the input first.
        dropout: after each layer.
    """

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__(*(LearnerLayer(size_in, size_out, dropout) for size_in, size_out in pairwise(sizes)))
