# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Linear layers by oneDNN on CPUs where PyTorch's own choice, MKL, leaves half of the machine unused (ours).

MKL takes no AVX-512 path on AMD processors: on a Zen 5 float32 products were 2.1 to 2.3 times as fast by oneDNN, forward and
backward, at the same precision. Everything else runs as it would.
"""

import functools
import threading

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FEWEST_PRODUCTS = 2**21  # multiplications below which calling oneDNN costs more than it saves
_active = threading.local()


@functools.cache
def onednn_pays() -> bool:
    """Whether this is such a processor and this PyTorch has oneDNN's linear layer."""
    found = torch.cpu.get_capabilities()
    has_layer = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_layer and bool(found.get("avx512_f")) and "AMD" in found.get("cpu_name", "")


def with_fast_linear(function):
    """Decorate a function: the linear layers called in it, also those of encoders from elsewhere, take the faster way."""

    @functools.wraps(function)
    def faster(*args, **kwargs):
        if getattr(_active, "now", False) or torch.compiler.is_compiling() or not onednn_pays():
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
        if function is F.linear and not kwargs and _suits(*args):
            return fast_linear(*args)
        return function(*args, **(kwargs or {}))


def _suits(features, weight, bias=None) -> bool:
    return (
        all(type(x) in (Tensor, nn.Parameter) and x.dtype == torch.float32 for x in (features, weight))
        and features.device.type == "cpu"
        and weight.dim() == 2
        and len(weight) > 1  # a product with a vector waits for memory, which MKL reads faster
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and features.numel() * len(weight) >= FEWEST_PRODUCTS
    )


def fast_linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` by oneDNN: float32 (..., I), (O, I), (O,) on the CPU -> (..., O)."""
    return _Linear.apply(features, weight, bias) if torch.is_grad_enabled() else _product(features, weight, bias)


def _product(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")


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
