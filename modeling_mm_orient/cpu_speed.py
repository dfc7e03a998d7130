# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Linear layers for CPUs, where PyTorch's own choice leaves much of the machine unused (ours); asked for by `for_cpu`.

- MKL takes no AVX-512 path on AMD processors: `CpuLinear` multiplies float32 by oneDNN there, forward and backward, at the
  same precision.
- `Int8Linear` multiplies whole numbers, for encoders that predict: a weight has a scale per output, an input one per row.

Shapes: I inputs, O outputs of a layer.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .private_apis import has_onednn_linear, int8_product, is_transformed, onednn_linear

FEWEST_PRODUCTS = 2**21  # multiplications below which calling oneDNN costs more than it saves
FEW_ROWS = 64  # up to which that is faster by MKL


class CpuLinear(nn.Linear):
    """`nn.Linear` by the faster product; a layer becomes one in place, with its weights, hooks and name."""

    def forward(self, features: Tensor, others: Tensor | None = None) -> Tensor:
        """`features` (..., I) -> (..., O); with `others` both side by side are the input, and need not be joined."""
        if others is None:
            return fastest_linear(features, self.weight, self.bias)
        return linear_of_two(features, others, self.weight, self.bias)


class Int8Linear(nn.Module):
    """What a `nn.Linear` computes, nearly; it has no gradient.

    Args:
        layer: the layer; its bias is shared, its weight is not kept.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """(..., I) floating point on the CPU -> (..., O) of the same type."""
        if features.device.type != "cpu":
            raise RuntimeError(f"8-bit encoders run on the CPU, these are on {features.device}")
        rows = features.reshape(-1, self.in_features).float()
        scale = rows.abs().amax(-1, keepdim=True).clamp_(min=1e-12).div_(127)
        whole = int8_product((rows / scale).round_().to(torch.int8), self.weight.T)
        found = whole.float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            found.add_(self.bias)
        return found.view(*features.shape[:-1], self.out_features).to(features.dtype)


def use_cpu_linear(module: nn.Module) -> None:
    """Have every plain `nn.Linear` in a module multiply as `CpuLinear`: the same object, so that no reference breaks."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = CpuLinear


def use_plain_linear(module: nn.Module) -> None:
    """Undo `use_cpu_linear`."""
    for layer in module.modules():
        if type(layer) is CpuLinear:
            layer.__class__ = nn.Linear  # type: ignore[assignment]


def quantise_linear_layers(module: nn.Module) -> int:
    """Put an `Int8Linear` in place of every linear layer below a module; returns how many there were."""
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and type(child) in (nn.Linear, CpuLinear):
                setattr(parent, name, Int8Linear(child))
                count += 1
    return count


@functools.cache
def onednn_pays() -> bool:
    """Whether this is a processor whose float32 products are faster by oneDNN, and this PyTorch has them."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_f")) and "AMD" in found.get("cpu_name", "") and has_onednn_linear()


def fastest_linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: `features` (..., I), `weight` (O, I), `bias` (O,) -> (..., O); by oneDNN where that is faster."""
    if onednn_pays() and _plainly_run() and _suits(features, weight):
        return by_onednn(features, weight, bias)
    return F.linear(features, weight, bias)


def linear_of_two(
    first: Tensor, second: Tensor, weight: Tensor, bias: Tensor | None = None, few_rows: int = FEW_ROWS
) -> Tensor:
    """`F.linear(torch.cat([first, second], -1), weight, bias)`; where MKL multiplies and no gradient is wanted, of both
    apart, up to `few_rows` with the weight as the left factor."""
    by_mkl = _plainly_run() and not onednn_pays() and first.device.type == "cpu"
    joined = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not by_mkl
    if joined or not first.dtype == second.dtype == weight.dtype == torch.float32:
        return fastest_linear(torch.cat([first, second], -1), weight, bias)
    of_first, of_second = weight.split([first.shape[-1], second.shape[-1]], 1)
    rows, others = first.flatten(0, -2), second.flatten(0, -2)
    if len(rows) > few_rows:
        output = F.linear(rows, of_first, bias).addmm_(others, of_second.T)
    else:
        output = (of_first @ rows.T).addmm_(of_second, others.T).T.contiguous()
        output = output if bias is None else output.add_(bias)
    return output.view(*first.shape[:-1], len(weight))


def by_onednn(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` by oneDNN: float32 (..., I), (O, I), (O,) on the CPU -> (..., O)."""
    return _Linear.apply(features, weight, bias) if torch.is_grad_enabled() else _product(features, weight, bias)


def without_gaps(weight: Tensor) -> Tensor:
    """A matrix by rows or by columns: oneDNN takes a thousand times as long for a part of a larger one."""
    return weight if weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor | None):
        ctx.save_for_backward(features, weight)
        return _product(features, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        features, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = gradient.reshape(-1, len(weight))
        return (
            by_onednn(gradient, weight.T) if wanted[0] else None,
            by_onednn(rows.T, features.reshape(-1, features.shape[-1]).T) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


def _product(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return onednn_linear(features, without_gaps(weight), bias)


def _plainly_run() -> bool:
    """Not compiled, exported, traced or transformed, which want the plain linear layer."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed())


def _suits(features: Tensor, weight: Tensor) -> bool:
    return (
        all(type(x) in (Tensor, nn.Parameter) and x.dtype == torch.float32 for x in (features, weight))
        and features.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and weight.dim() == 2
        and len(weight) > 1  # a product with a vector waits for memory, which MKL reads faster
        and features.numel() * len(weight) >= FEWEST_PRODUCTS
    )
