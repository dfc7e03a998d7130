# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Every private name of PyTorch, transformers, Accelerate and argparse that this package rests on, and why nothing public
serves.

A test asks for each by name with the oldest and the newest supported versions, and goes red when one is gone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion


class PrivateName(NamedTuple):
    """`owner` is `module` or `module:Class`; `name` an attribute of it, or of its instances where `of_instances`."""

    owner: str
    name: str
    why: str
    of_instances: bool = False


PRIVATE_NAMES = (
    PrivateName(
        "transformers:PreTrainedModel",
        "is_custom_code",
        "overridden: for code that initialises in place transformers skips modules whose weights are loaded, and with "
        "them the encoders' own schemes; `transformers.initialization`, used here, spares loaded weights by itself",
    ),
    PrivateName(
        "transformers:ProcessorMixin",
        "get_attributes",
        "overridden: the mixin demands every part of the signature, and a model may lack an encoder",
    ),
    PrivateName(
        "transformers:ProcessorMixin",
        "_get_arguments_from_pretrained",
        "overridden: only the parts that a processor has are loaded",
    ),
    PrivateName(
        "transformers:ProcessorMixin",
        "_merge_kwargs",
        "the only way to sort a call's arguments as every other processor does",
    ),
    PrivateName(
        "transformers:PreTrainedConfig",
        "_attn_implementation",
        "a loaded encoder's attention has to be that of the configuration it is saved with; the public setter is a model's",
    ),
    PrivateName(
        "transformers.core_model_loading",
        "revert_weight_conversion",
        "a Trainer loads checkpoints by `load_state_dict`, which knows only today's names of an encoder's weights",
    ),
    PrivateName(
        "transformers:Trainer", "_prepare_inputs", "what its own `prediction_step` begins with, overridden here"
    ),
    PrivateName(
        "argparse:ArgumentParser", "_actions", "a file of options has those of the command line, by name", True
    ),
    PrivateName("argparse:ArgumentParser", "_option_string_actions", "the same", True),
    PrivateName("argparse:ArgumentParser", "_mutually_exclusive_groups", "what an option rules out", True),
    PrivateName("argparse:ArgumentParser", "_group_actions", "the same, of each group", True),
    PrivateName("argparse", "_AppendAction", "an option that is given once per value"),
    PrivateName("torch:Tensor", "_version", "the only sign of a weight changed in place, cheap enough for every call"),
    PrivateName(
        "torch.nn:Module", "_forward_hooks", "a weight is used without its layer only where nobody listens", True
    ),
    PrivateName("torch.nn:Module", "_forward_pre_hooks", "the same", True),
    PrivateName("torch._C", "_are_functorch_transforms_active", "faster products know no transforms"),
    PrivateName("torch", "_int_mm", "products of 8-bit matrices"),
    PrivateName("torch.ops.mkldnn", "_linear_pointwise", "oneDNN's float32 product, where PyTorch itself takes MKL's"),
    PrivateName(
        "accelerate.data_loader:DataLoaderShard",
        "base_dataloader",
        "what Accelerate iterates over: features are read ahead below it, or its end-of-epoch flag came early",
        True,
    ),
)


def attention_implementation(config) -> str | None:
    """Which attention a configuration's model uses."""
    return config._attn_implementation


def set_attention_implementation(config, name: str | None) -> None:
    """Have models of a configuration use that attention."""
    config._attn_implementation = name


def weights_state(parameters) -> tuple:
    """What changes whenever a weight may have changed: where each lies and how often it was written to."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters)


def is_listened_to(module: nn.Module) -> bool:
    """Whether somebody's hook wants to see the calls of a module."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def is_transformed() -> bool:
    """Whether `torch.func` transforms what runs."""
    return torch._C._are_functorch_transforms_active()


def has_onednn_linear() -> bool:
    """Whether this PyTorch has oneDNN's linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of float32 by oneDNN, without gradients."""
    return torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")


def int8_product(first: Tensor, second: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of 8-bit matrices (N, K) and (K, M), int32."""
    return torch._int_mm(first, second) if out is None else torch._int_mm(first, second, out=out)


def own_names(model, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state_dict` under the names of the model's own, where it has those under which `save_pretrained` writes weights."""
    own = model.state_dict()
    if not state_dict.keys() - own.keys():
        return state_dict
    places = {(value.data_ptr(), value.shape): name for name, value in own.items()}
    written = revert_weight_conversion(model, own)
    names = {name: places.get((value.data_ptr(), value.shape), name) for name, value in written.items()}
    return {names.get(name, name): value for name, value in state_dict.items()}
