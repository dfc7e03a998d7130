# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Reading posts: any Hugging Face encoder brought to one form of features, and what is given completed and pooled to it.

Shapes: B posts, R regions, T tokens, L either, D features.
"""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from .hima import masked_mean
from .inputs import PostInputs

FINGERPRINT_VALUES = 4096
UNUSED_PARAMETERS = ("logit_scale", "logit_bias")
DEPTHS = (1 / 3, 2 / 3)  # of a text encoder, where `middle_layers` are


class ModalityFeatures(NamedTuple):
    """One modality of a batch of posts: `embeds` (B, D), `sequence` (B, L, D) of regions or tokens with its bool `mask`
    (B, L), and `present`, bool (B,). Zeros and False where a post lacks it."""

    embeds: Tensor
    sequence: Tensor
    mask: Tensor
    present: Tensor


@dataclass
class PostFeatures(ModelOutput):
    """A batch of posts after its encoders, as `MMOrientModel.encode_posts` returns it and `forward` takes it.

    Args:
        image_embeds, text_embeds: (B, D), zeros where the modality is missing.
        region_features, region_mask: (B, R, D) and bool (B, R).
        token_features, token_mask: (B, T, D) and bool (B, T).
        has_image, has_text: bool (B,).
        text_layers: (B, 2 D), see `middle_layers`, zeros without a text; None where no text encoder gave it.
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    region_features: Tensor | None = None
    region_mask: Tensor | None = None
    token_features: Tensor | None = None
    token_mask: Tensor | None = None
    has_image: Tensor | None = None
    has_text: Tensor | None = None
    text_layers: Tensor | None = None

    @classmethod
    def of(cls, image: ModalityFeatures, text: ModalityFeatures, text_layers: Tensor | None) -> "PostFeatures":
        """Both modalities side by side."""
        if text_layers is not None:
            text_layers = text_layers.to(text.embeds.dtype).masked_fill(~text.present[:, None], 0)
        return cls(
            *(image.embeds, text.embeds, image.sequence, image.mask, text.sequence, text.mask),
            *(image.present, text.present, text_layers),
        )

    def without(self, lost: dict[str, Tensor]) -> "PostFeatures":
        """The posts as if they lacked a modality where `lost`, modality -> bool (B,), says so."""
        has_image, has_text = self.has_image & ~lost["image"], self.has_text & ~lost["text"]
        return PostFeatures(
            *(self.image_embeds * has_image[:, None], self.text_embeds * has_text[:, None]),
            *(self.region_features, self.region_mask & has_image[:, None]),
            *(self.token_features, self.token_mask & has_text[:, None]),
            *(has_image, has_text),
            None if self.text_layers is None else self.text_layers * has_text[:, None],
        )

    @property
    def embeds(self) -> dict[str, Tensor]:
        """Modality -> E_img or E_txt (B, D)."""
        return {"image": self.image_embeds, "text": self.text_embeds}

    @property
    def present(self) -> dict[str, Tensor]:
        """Modality -> bool (B,): who has it."""
        return {"image": self.has_image, "text": self.has_text}


class Form(NamedTuple):
    """What one modality's features must be: `modality` and `unit` (region or token) for messages, widths of `embeds` and
    `sequence`, and how the former come of the latter: `"mean"`, `"pooler"`, or None where the joint encoder gives them."""

    modality: str
    unit: str
    embed_dim: int
    feature_dim: int
    pooling: str | None


class Reading(NamedTuple):
    """What one modality's encoders gave, or the caller in their place: any of it may be None."""

    embeds: Tensor | None
    sequence: Tensor | None
    mask: Tensor | None
    pooler_output: Tensor | None
    layers: Tensor | None = None


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
    config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    sides = {"text": getattr(config, "text_config", None), "vision": getattr(config, "vision_config", None)}
    side = sides.get(role)
    if side is not None:
        kwargs["config"] = side
    kwargs.setdefault("dtype", torch.float32)
    encoder = AutoModel.from_pretrained(name_or_path, revision=revision, trust_remote_code=False, **kwargs)
    if role == "joint" and not all(hasattr(encoder, name) for name in ("get_image_features", "get_text_features")):
        raise ValueError(
            f"{name_or_path} ({config.model_type}) is no joint encoder: one embeds pictures and texts in one "
            "space, as CLIP and SigLIP do"
        )
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


def read_images(inputs: PostInputs, encoders: dict[str, PreTrainedModel]) -> Reading:
    """The picture side of a batch through the encoders that it has inputs for; of several pictures of a post as one."""
    if inputs.picture_counts is None:
        return _read_pictures(inputs, encoders)
    counts = inputs.picture_counts.clamp(min=1)  # a post without one has a blank one, which is masked later
    flat = {}
    for name in ("pixel_values", "pixel_mask", "joint_pixel_values"):
        if (value := getattr(inputs, name)) is not None:
            if len(value) != len(counts):
                raise ValueError(f"`{name}` must have {len(counts)} posts as `picture_counts` has, got {len(value)}")
            flat[name] = value[torch.arange(value.shape[1], device=value.device) < counts[:, None]]
    reading = _read_pictures(PostInputs(**flat), encoders)
    sizes = counts.tolist()

    def averaged(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else torch.stack([part.mean(0) for part in rows.split(sizes)])

    def side_by_side(rows: Tensor) -> Tensor:
        parts = [part.flatten(0, 1) for part in rows.split(sizes)]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True)

    embeds, pooled = averaged(reading.embeds), averaged(reading.pooler_output)
    if reading.sequence is None:
        return Reading(embeds, inputs.region_features, inputs.region_mask, None)
    there = torch.ones_like(reading.sequence[..., 0], dtype=torch.bool) if reading.mask is None else reading.mask
    embeds = inputs.image_embeds if embeds is None else embeds
    return Reading(embeds, side_by_side(reading.sequence), side_by_side(there), pooled)


def _read_pictures(inputs: PostInputs, encoders: dict[str, PreTrainedModel]) -> Reading:
    embeds, regions, mask, pooled = inputs.image_embeds, inputs.region_features, inputs.region_mask, None
    if inputs.pixel_values is not None:
        encoder = _encoder(encoders, "vision", "pixel_values")
        regions, mask, pooled = _regions(encoder, inputs.pixel_values.to(encoder.dtype), inputs.pixel_mask)
    if inputs.joint_pixel_values is not None:
        encoder = _encoder(encoders, "joint", "joint_pixel_values")
        pixels = inputs.joint_pixel_values.to(encoder.dtype)
        embeds = joint_embedding(encoder.get_image_features(pixel_values=pixels))
    return Reading(embeds, regions, mask, pooled)


def _regions(encoder, pixels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Regions (B, R, D) of pictures, their mask (B, R) where pictures differ in size, and the pooler's output.

    Pictures of one size go through the encoder together, without padding: whatever it makes of padding would differ with the
    batch.
    """
    extents = None if mask is None or torch.compiler.is_compiling() else _extents(mask)
    if extents is None:
        extra = {} if mask is None else {"pixel_mask": mask}
        outputs = encoder(pixel_values=pixels, **extra, return_dict=True)
        return region_features(outputs, pixels, encoder.config), None, getattr(outputs, "pooler_output", None)
    regions: list[Tensor] = []
    pools, order = [], []
    for height, width in dict.fromkeys(extents):
        rows = [row for row, extent in enumerate(extents) if extent == (height, width)]
        part = pixels[rows, :, :height, :width]
        outputs = encoder(pixel_values=part, return_dict=True)
        regions += region_features(outputs, part, encoder.config).unbind()
        pools.append(getattr(outputs, "pooler_output", None))
        order += rows
    back = torch.tensor(order, device=pixels.device).argsort()
    counts = torch.tensor([len(row) for row in regions], device=pixels.device)[back]
    padded = nn.utils.rnn.pad_sequence(regions, batch_first=True)[back]
    present = torch.arange(padded.shape[1], device=pixels.device) < counts[:, None]
    return padded, present, None if pools[0] is None else torch.cat(pools)[back]


def _extents(mask: Tensor) -> list[tuple[int, int]] | None:
    """Height and width of each picture from its mask (B, H, W); None where one is no rectangle at the upper left."""
    mask = mask.bool()
    heights, widths = mask.any(2).sum(1), mask.any(1).sum(1)
    if bool((mask.sum((1, 2)) != heights * widths).any()):
        return None
    return list(zip(heights.tolist(), widths.tolist(), strict=True))


def read_texts(inputs: PostInputs, encoders: dict[str, PreTrainedModel], with_layers: bool) -> Reading:
    """The text side of a batch through the encoders that it has inputs for, with `middle_layers` if so asked."""
    embeds, tokens, mask, pooled = inputs.text_embeds, inputs.token_features, inputs.token_mask, None
    layers = inputs.text_layers
    if inputs.input_ids is not None:
        encoder = _encoder(encoders, "text", "input_ids")
        extra = {"attention_mask": inputs.attention_mask, "token_type_ids": inputs.token_type_ids}
        extra = {name: value for name, value in extra.items() if value is not None}
        asked = {"output_hidden_states": True} if with_layers else {}
        outputs = encoder(input_ids=inputs.input_ids, **extra, **asked, return_dict=True)
        tokens, mask = outputs.last_hidden_state, inputs.attention_mask
        if with_layers:
            layers = middle_layers(outputs, mask)
        pooled = getattr(outputs, "pooler_output", None)
    if inputs.joint_input_ids is not None:
        encoder = _encoder(encoders, "joint", "joint_input_ids")
        extra = {} if inputs.joint_attention_mask is None else {"attention_mask": inputs.joint_attention_mask}
        embeds = joint_embedding(encoder.get_text_features(input_ids=inputs.joint_input_ids, **extra))
    return Reading(embeds, tokens, mask, pooled, layers)


def middle_layers(outputs, mask: Tensor | None) -> Tensor | None:
    """(B, 2 D): an encoder's hidden states a third and two thirds of the way, each the mean over tokens at length
    sqrt(D); None of an encoder whose layers differ in form (ours). They know of wording and syntax what E_txt has forgotten.

    Args:
        mask: (B, T) of the tokens, 0 where they pad.
    """
    states, last = getattr(outputs, "hidden_states", None) or (), outputs.last_hidden_state
    chosen = [states[round(share * (len(states) - 1))] for share in DEPTHS] if states else []
    if not chosen or any(state.shape != last.shape for state in chosen):
        return None
    there = torch.ones_like(last[..., 0], dtype=torch.bool) if mask is None else mask.bool()
    pooled = [nn.functional.normalize(masked_mean(state.float(), there), dim=-1) for state in chosen]
    return (torch.cat(pooled, -1) * last.shape[-1] ** 0.5).to(last.dtype)


def _encoder(encoders: dict[str, PreTrainedModel], role: str, argument: str) -> PreTrainedModel:
    if role not in encoders:
        raise ValueError(f"`{argument}` was given, and this model has no {role} encoder: pass its features instead")
    return encoders[role]


def complete(
    reading: Reading, present: Tensor | None, form: Form, like: Tensor, dtype: torch.dtype
) -> ModalityFeatures:
    """Check, pool and mask one modality; `like` (B, ...) gives batch size and device. One that nothing is given of is
    missing for the whole batch.

    Raises:
        ValueError: some of it is given and the rest missing, or a shape is wrong; the message names the input.
    """
    embeds, sequence, mask, pooled = reading[:4]
    count = like.shape[0]
    if embeds is None and sequence is None:
        embeds = torch.zeros(count, form.embed_dim, dtype=dtype, device=like.device)
        sequence = torch.zeros(count, 1, form.feature_dim, dtype=dtype, device=like.device)
        present = torch.zeros(count, dtype=torch.bool, device=like.device)
    if sequence is None:
        raise ValueError(f"`{form.modality}_embeds` came without `{form.unit}_features` or what its encoder reads")
    length = sequence.shape[1] if sequence.dim() == 3 else form.unit[0].upper()
    check_shape(f"{form.unit}_features", sequence, (count, length, form.feature_dim))
    everything = torch.ones(sequence.shape[:2], dtype=torch.bool, device=like.device)
    may_miss = mask is not None or present is not None
    mask = everything if mask is None else mask.bool()
    check_shape(f"{form.unit}_mask", mask, (count, length))
    present = everything.any(-1) if present is None else present.bool()
    check_shape(f"has_{form.modality}", present, (count,))
    present = present & mask.any(-1)
    mask = mask & present[:, None]
    if may_miss and not _all_is_there(mask):  # what is masked may hold anything, and NaN times a weight of 0 is NaN
        sequence = torch.where(mask[..., None], sequence, torch.zeros((), dtype=sequence.dtype, device=like.device))
    if embeds is None:
        embeds = _pooled(form, sequence, mask, pooled)
    check_shape(f"{form.modality}_embeds", embeds, (count, form.embed_dim))
    return ModalityFeatures(embeds.to(dtype).masked_fill(~present[:, None], 0), sequence.to(dtype), mask, present)


def _all_is_there(mask: Tensor) -> bool:
    """Whether nothing has to be masked, where that is cheap to know."""
    return not torch.compiler.is_compiling() and mask.device.type == "cpu" and bool(mask.all())


def _pooled(form: Form, sequence: Tensor, mask: Tensor, pooled: Tensor | None) -> Tensor:
    if form.pooling is None:
        raise ValueError(f"`{form.modality}_embeds` or what the joint encoder reads is missing")
    if form.pooling == "mean":
        if sequence.shape[-1] != form.embed_dim:
            raise ValueError(
                f"`{form.modality}_embeds` is missing, and `{form.unit}_features` have another width to pool from"
            )
        return masked_mean(sequence, mask)
    if pooled is None:
        raise ValueError(
            f"`embedding_pooling` is 'pooler', and no pooler output of an encoder gives `{form.modality}_embeds`"
        )
    return pooled.flatten(1)


def check_shape(name: str, value: Tensor, shape: tuple) -> None:
    """Raise ValueError, naming the input, unless `value` has that shape."""
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {tuple(value.shape)}")


def encoder_fingerprints(encoders: Mapping[str, nn.Module], pooling: str) -> list[str]:
    """What names a model's encoders, so that a relation memory of others is noticed; empty without encoders.

    Of every weight up to 4,096 evenly spaced values are hashed, once rounded to bfloat16 and once to float16: a model that
    is loaded in half precision shares one of both with the one it was saved from.

    Args:
        encoders: role -> encoder. pooling: `embedding_pooling` of the configuration.
    """
    if not encoders or any(p.is_meta for encoder in encoders.values() for p in encoder.parameters()):
        return []
    digests = [hashlib.sha256(pooling.encode()) for _ in range(2)]
    for name, encoder in encoders.items():
        for key, value in encoder.state_dict().items():
            if value.is_floating_point():
                sample = value.detach().flatten()[:: max(1, value.numel() // FINGERPRINT_VALUES)].cpu()
                for digest, dtype in zip(digests, (torch.bfloat16, torch.float16), strict=True):
                    rounded = sample.to(dtype).view(torch.int16).numpy()
                    digest.update(f"{name}.{key}".encode() + rounded.tobytes())
    return [digest.hexdigest()[:32] for digest in digests]
