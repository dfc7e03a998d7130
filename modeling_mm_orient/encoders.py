# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The encoders a post is read with: any Hugging Face model, brought to one form of features.

Shapes: B posts, R regions, T tokens, D features.
"""

import hashlib
import inspect

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

FINGERPRINT_VALUES = 4096
UNUSED_PARAMETERS = ("logit_scale", "logit_bias")


def prepare_encoder(encoder: nn.Module, keep_pooler: bool) -> nn.Module:
    """Drop what is never used: a learned pooler that the model can do without, a contrastive temperature's gradient."""
    if not keep_pooler and "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters:
        encoder.pooler = None
    for name in UNUSED_PARAMETERS:
        if isinstance(getattr(encoder, name, None), nn.Parameter):
            getattr(encoder, name).requires_grad_(False)
    return encoder


def build_encoder(config, keep_pooler: bool = False) -> nn.Module:
    """An encoder with random weights from its configuration."""
    return prepare_encoder(AutoModel.from_config(config), keep_pooler)


def load_encoder(name_or_path: str, role: str, revision: str | None = None, **kwargs) -> nn.Module:
    """A pretrained encoder by Hub id or local path.

    Args:
        role: `"joint"`, `"text"` or `"vision"`; of a dual encoder (CLIP, SigLIP) the last two take their side alone.
        revision: branch, tag or commit of a Hub repository.
        kwargs: passed on to `AutoModel.from_pretrained`.
    """
    config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    side = getattr(config, f"{role}_config", None)
    if side is not None:
        kwargs["config"] = side
    kwargs.setdefault("dtype", torch.float32)
    encoder = AutoModel.from_pretrained(name_or_path, revision=revision, **kwargs)
    encoder.config.architectures = None
    return encoder


def region_features(outputs, pixel_values: Tensor, config) -> Tensor:
    """Regions (B, R, D) of a vision encoder's `last_hidden_state`.

    Feature maps (B, D, H, W) are flattened; of a transformer's sequence the patch tokens are kept, without the class and
    register tokens before them, or a detector's detection tokens at its end; object queries (B, R, D) stay as they are.
    """
    hidden = outputs.last_hidden_state
    if hidden.dim() == 4:
        return hidden.flatten(2).transpose(1, 2)
    if detections := getattr(config, "num_detection_tokens", None):
        return hidden[:, -detections:]
    patch_size = getattr(config, "patch_size", None)
    if patch_size is None:
        return hidden
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    num_patches = (pixel_values.shape[-2] // height) * (pixel_values.shape[-1] // width)
    return hidden[:, -num_patches:] if hidden.shape[1] > num_patches else hidden


def joint_embedding(outputs) -> Tensor:
    """The projected embedding (B, D) from a dual encoder's `get_image_features` or `get_text_features`."""
    return outputs if isinstance(outputs, Tensor) else outputs.pooler_output


def encoder_fingerprints(model) -> list[str]:
    """What names a model's encoders, so that a relation memory of others is noticed; empty without encoders.

    Of every weight up to 4,096 evenly spaced values are hashed, once rounded to bfloat16 and once to float16: a model that
    is loaded in half precision shares one of both with the one it was saved from. Encoders in 8 bits have the fingerprints
    of those they were made from.
    """
    if model.quantised_from is not None:
        return model.quantised_from
    names = model.config.encoder_names
    if not names or any(parameter.is_meta for parameter in model.parameters()):
        return []
    digests = [hashlib.sha256(model.config.embedding_pooling.encode()) for _ in range(2)]
    for name in names:
        for key, value in getattr(model, f"{name}_encoder").state_dict().items():
            if value.is_floating_point():
                sample = value.detach().flatten()[:: max(1, value.numel() // FINGERPRINT_VALUES)].cpu()
                for digest, dtype in zip(digests, (torch.bfloat16, torch.float16), strict=True):
                    rounded = sample.to(dtype).view(torch.int16).numpy()
                    digest.update(f"{name}.{key}".encode() + rounded.tobytes())
    return [digest.hexdigest()[:32] for digest in digests]
