# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""HIMA: hierarchical interactive monomodal attention (paper section 3.2), one per modality.

Shapes: B posts, L tokens or regions, D features, S posts of the global batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .global_batch import GlobalBatch


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension in float32, zero where `mask` is False and for a row without any True."""
    scores = scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return scores.softmax(-1) * mask


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, D) of the unmasked rows of `sequence` (B, L, D); zeros where there are none."""
    weights = mask.to(sequence.dtype)
    return torch.einsum("bl,bld->bd", weights, sequence) / weights.sum(-1, keepdim=True).clamp(min=1)


class SequenceAttention(nn.Module):
    """Word-level or region-based attention: `theta = GELU(W q + b)`, `s = theta . u`, `a = softmax(s)`, `v = sum a q`.

    Args:
        feature_size: D.
        hidden_size: width of theta.
        context_vector: learn u; without it (the reference code's form) `hidden_size` must be 1 and `s = theta`.
    """

    def __init__(self, feature_size: int, hidden_size: int, context_vector: bool):
        super().__init__()
        self.hidden = nn.Linear(feature_size, hidden_size)
        self.context = nn.Linear(hidden_size, 1, bias=False) if context_vector else nn.Identity()

    def forward(self, sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`sequence` (B, L, D) and bool `mask` (B, L) -> vector (B, D) and weights (B, L), which sum to 1 or to 0."""
        # every feature is read once or twice: under autocast a copy of them all would take longer than the attention
        with torch.autocast(sequence.device.type, enabled=False):
            hidden = self.hidden(sequence.to(self.hidden.weight.dtype))
            weights = masked_softmax(self.context(F.gelu(hidden)).squeeze(-1), mask)
            return torch.einsum("bl,bld->bd", weights.to(sequence.dtype), sequence), weights


class BatchAttention(nn.Module):
    """Stage 2: the same attention over the posts of the global batch gives one vector, the batch bias.

    In training the bias is the current batch's, and a running estimate is kept as batch norm keeps its statistics; in
    `eval()` the running estimate is used, so that a prediction does not depend on the other posts (ours).
    """

    running_bias: Tensor
    num_batches_tracked: Tensor

    def __init__(self, feature_size: int, hidden_size: int, context_vector: bool, momentum: float, combine: str):
        super().__init__()
        self.attention = SequenceAttention(feature_size, hidden_size, context_vector)
        self.momentum, self.combine = momentum, combine
        self.register_buffer("running_bias", torch.zeros(feature_size))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, vectors: Tensor, present: Tensor, batch: GlobalBatch) -> Tensor:
        """`vectors` (B, D), bool `present` (B,) -> (B, D) by sum or (B, 2D) by concatenation; zeros if not present."""
        if self.training:
            everyone = batch.gather(present)
            bias, _ = self.attention(batch.gather(vectors)[None], everyone[None])
            bias = bias[0]
            self._track(bias.detach().float(), everyone.any())
        else:
            bias = self.running_bias.to(vectors.dtype)
        bias = bias.expand_as(vectors)
        combined = vectors + bias if self.combine == "sum" else torch.cat([vectors, bias], -1)
        return combined * present[:, None]

    def _track(self, bias: Tensor, seen: Tensor) -> None:
        step = torch.where(self.num_batches_tracked == 0, 1.0, self.momentum) * seen
        self.running_bias.copy_(torch.lerp(self.running_bias.float(), bias, step))
        self.num_batches_tracked.add_(seen)


class HIMA(nn.Module):
    """Both stages for one modality; `output_size` is the width of what it returns.

    Args:
        feature_size: D.
        hidden_size, context_vector: form of the attention, see `SequenceAttention`.
        stage1: attention within a post (paper); False takes the mean.
        stage2: attention across the batch (paper, figure); `combine` is `"sum"` or `"concat"`, `momentum` the weight of the
            newest batch in the running bias.
    """

    def __init__(
        self,
        feature_size: int,
        hidden_size: int,
        context_vector: bool = True,
        stage1: bool = True,
        stage2: bool = True,
        combine: str = "sum",
        momentum: float = 0.1,
    ):
        super().__init__()
        form = (feature_size, hidden_size, context_vector)
        self.within_post = SequenceAttention(*form) if stage1 else None
        self.across_batch = BatchAttention(*form, momentum, combine) if stage2 else None
        self.output_size = feature_size * (2 if stage2 and combine == "concat" else 1)

    def forward(self, sequence: Tensor, mask: Tensor, batch: GlobalBatch) -> tuple[Tensor, Tensor]:
        """`sequence` (B, L, D), bool `mask` (B, L) -> vector (B, output_size), weights (B, L).

        With stage 1 switched off the vector is the mean of the unmasked rows.
        """
        if self.within_post is not None:
            vectors, weights = self.within_post(sequence, mask)
        else:
            vectors = masked_mean(sequence, mask)
            weights = mask.float() / mask.sum(-1, keepdim=True).clamp(min=1)
        if self.across_batch is not None:
            vectors = self.across_batch(vectors, mask.any(-1), batch)
        return vectors, weights
