# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The batch across processes: rows gathered with gradients, so that n processes compute what one would."""

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """Number of processes that share a global batch; 1 outside `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows of all processes; the backward pass returns to each the sum of all gradients of its rows."""

    @staticmethod
    def forward(ctx, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.first, ctx.count = sum(counts[: dist.get_rank()]), rows.shape[0]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        pieces = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.first : ctx.first + ctx.count], None


class GlobalBatch:
    """Where this process's rows stand in the global batch.

    Args:
        count: number of rows B of this process; processes may differ.
        device: where the collectives' tensors live.
        gather: False keeps to this process's own rows: no communication at all.
    """

    def __init__(self, count: int, device: torch.device, gather: bool):
        self.counts, self.first = [count], 0
        if gather and num_processes() > 1:
            counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(num_processes())]
            dist.all_gather(counts, torch.tensor([count], device=device))
            self.counts = [int(c) for c in counts]
            self.first = sum(self.counts[: dist.get_rank()])

    def gather(self, rows: Tensor) -> Tensor:
        """(B, ...) -> (S, ...), differentiable for floating point; bool is carried as uint8."""
        if len(self.counts) == 1:
            return rows
        if rows.dtype == torch.bool:
            return self.gather(rows.to(torch.uint8)).bool()
        return _GatherRows.apply(rows.contiguous(), self.counts)


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a detached tensor over all processes."""
    value = value.detach().clone()
    if num_processes() > 1:
        dist.all_reduce(value)
    return value
