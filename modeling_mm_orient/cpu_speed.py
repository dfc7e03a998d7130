# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Linear layers on CPUs where PyTorch's own choice leaves much of the machine unused (ours); the rest runs as it would.

- MKL takes no AVX-512 path on AMD processors: on a Zen 5 float32 products were 2.1 to 2.3 times as fast by oneDNN, forward
  and backward, at the same precision.
- With AMX bfloat16 products are so fast that under autocast the copies of gradients into float32 took longer: here the
  product itself writes float32, and the gradient of a weight is not rounded to bfloat16.
"""

import functools
import threading
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FEWEST_PRODUCTS = 2**21  # multiplications below which calling oneDNN costs more than it saves
FEW_ROWS = 64  # up to which MKL is faster with the weight as the left factor
_active = threading.local()


@functools.cache
def onednn_pays() -> bool:
    """Whether this is such a processor and this PyTorch has oneDNN's linear layer."""
    found = torch.cpu.get_capabilities()
    has_layer = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_layer and bool(found.get("avx512_f")) and "AMD" in found.get("cpu_name", "")


@functools.cache
def amx_multiplies() -> bool:
    """Whether this processor multiplies bfloat16 matrices by AMX and this PyTorch lets float32 products use it."""
    found = torch.cpu.get_capabilities()
    return (
        bool(found.get("amx_bf16"))
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.backends.mkldnn, "matmul")
    )


def with_fast_linear(function):
    """Decorate a function: the linear layers called in it, also those of encoders from elsewhere, take the faster way."""

    @functools.wraps(function)
    def faster(*args, **kwargs):
        if getattr(_active, "now", False) or not _plainly_run() or not _pays():
            return function(*args, **kwargs)
        _active.now = True
        try:
            with _FastLinear():
                return function(*args, **kwargs)
        finally:
            _active.now = False

    return faster


class _FastLinear(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear and not kwargs:
            return fastest_linear(*args)
        return function(*args, **(kwargs or {}))


def fastest_linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, the faster way where there is one; for few layers, since `with_fast_linear` sees every function called."""
    if _plainly_run() and _pays() and _suits(features, weight, bias):
        if not torch.is_autocast_enabled("cpu"):
            if onednn_pays() and features.dtype == torch.float32:
                return fast_linear(features, weight, bias)
        elif _casts_to_bfloat16() and amx_multiplies() and torch.is_grad_enabled() and weight.requires_grad:
            return mixed_linear(features, weight, bias)
    return F.linear(features, weight, bias)


def _plainly_run() -> bool:
    """Not compiled, exported, traced or transformed, which want the plain linear layer."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active())


def _pays() -> bool:
    return onednn_pays() or (torch.is_autocast_enabled("cpu") and amx_multiplies())


def _casts_to_bfloat16() -> bool:
    return torch.get_autocast_dtype("cpu") == torch.bfloat16


def _suits(features, weight, bias) -> bool:
    return (
        all(type(x) in (Tensor, nn.Parameter) for x in (features, weight))
        and features.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == torch.float32
        and features.device.type == "cpu"
        and weight.dim() == 2
        and len(weight) > 1  # a product with a vector waits for memory, which MKL reads faster
        and features.numel() * len(weight) >= FEWEST_PRODUCTS
    )


def linear_of_two(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear(torch.cat([first, second], -1), weight, bias)`, the faster way; without gradients by MKL, of both apart."""
    by_mkl = _plainly_run() and not onednn_pays() and first.device.type == "cpu"
    joined = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not by_mkl
    if joined or not first.dtype == second.dtype == weight.dtype == torch.float32:
        return fastest_linear(torch.cat([first, second], -1), weight, bias)
    of_first, of_second = weight.split([first.shape[-1], second.shape[-1]], 1)
    rows, others = first.flatten(0, -2), second.flatten(0, -2)
    if len(rows) > FEW_ROWS:
        output = F.linear(rows, of_first, bias).addmm_(others, of_second.T)
    else:
        output = (of_first @ rows.T).addmm_(of_second, others.T).T.contiguous()
        output = output if bias is None else output.add_(bias)
    return output.view(*first.shape[:-1], len(weight))


def fast_linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` by oneDNN: float32 (..., I), (O, I), (O,) on the CPU -> (..., O)."""
    return _Linear.apply(features, weight, bias) if torch.is_grad_enabled() else _product(features, weight, bias)


def _product(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(features, without_gaps(weight), bias, "none", [], "")


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
            fast_linear(gradient, weight.T) if wanted[0] else None,
            fast_linear(rows.T, features.reshape(-1, features.shape[-1]).T) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


def mixed_linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` as autocast to bfloat16 has it: (..., I) of either precision, float32 (O, I), (O,) -> bfloat16 (..., O).

    The weight's gradient is float32, of products of bfloat16. There are no second derivatives.
    """
    return _MixedLinear.apply(features, weight, bias)


class _MixedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor | None):
        rounded, half = features.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rounded, half)
        ctx.dtype = features.dtype
        return F.linear(rounded, half, None if bias is None else bias.bfloat16())

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        rounded, half = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = gradient.reshape(-1, len(half))
        with _float32_products_by_bfloat16():
            of_weight = rows.float().T @ rounded.reshape(-1, rounded.shape[-1]).float() if wanted[1] else None
        return (
            (gradient @ half).to(ctx.dtype) if wanted[0] else None,
            of_weight,
            rows.sum(0, dtype=torch.float32) if wanted[2] else None,
        )


@contextmanager
def _float32_products_by_bfloat16():
    """Inputs of float32 products are rounded to bfloat16, as autocast does; sums and results stay float32."""
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
