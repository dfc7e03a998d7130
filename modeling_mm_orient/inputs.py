# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What the models take, named once: `PostInputs`, and a `forward` whose signature lists its fields.

Shapes: B posts, R regions, T tokens, N n-grams, D features, F task features.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import wraps

from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)

# what transformers, Accelerate and PEFT pass to any model, and which of it this one has no use for
PASSED_BY_OTHERS = (
    "return_dict",
    "num_items_in_batch",
    "output_hidden_states",
    "use_cache",
    "inputs_embeds",
    "task_ids",
)


@dataclass
class PostInputs:
    """A batch of posts: pixels and tokens, features, or any mixture; `MMOrientProcessor` makes the former.

    Args:
        pixel_values, pixel_mask: input of the vision encoder.
        input_ids, attention_mask, token_type_ids: (B, T), input of the text encoder.
        joint_pixel_values, joint_input_ids, joint_attention_mask: input of the joint encoder.
        image_embeds, text_embeds: (B, D), E_img and E_txt.
        region_features, region_mask: (B, R, D) and (B, R), bool or 0/1; default all regions.
        token_features, token_mask: (B, T, D) and (B, T), bool or 0/1; default all tokens.
        task_features: (B, F), required unless the configuration's `task_feature_dim` is 0.
        has_image, has_text: (B,) bool, False where a post lacks the modality: it is masked, has no edges and gets no
            attention; default True.
        post_keys: (B,) int64, a number for each post's content (`key_number`), 0 where unknown. In training with a
            relation memory it leaves the post itself and its duplicates out of its neighbours.
        picture_counts: (B,) int64, where a post has several pictures (ours): pixels and their masks are then (B, K, ...), of
            which so many are there. Their regions are those of one picture, their embeddings averaged.
        ngram_ids: (B, N) int64, what the expert `words` reads (ours): the texts' n-grams, see `ngrams.ngram_ids`, 0 after
            the end; without them it is not heard.
        text_layers: (B, 2 D), what the expert `text_layers` reads (ours), see `encoders.middle_layers`; without it or
            `input_ids` it is not heard.
    """

    pixel_values: Tensor | None = None
    pixel_mask: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    joint_pixel_values: Tensor | None = None
    joint_input_ids: Tensor | None = None
    joint_attention_mask: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    region_features: Tensor | None = None
    region_mask: Tensor | None = None
    token_features: Tensor | None = None
    token_mask: Tensor | None = None
    task_features: Tensor | None = None
    has_image: Tensor | None = None
    has_text: Tensor | None = None
    post_keys: Tensor | None = None
    picture_counts: Tensor | None = None
    ngram_ids: Tensor | None = None
    text_layers: Tensor | None = None


INPUT_NAMES = tuple(field.name for field in fields(PostInputs))


def takes_post_inputs(method: Callable) -> Callable:
    """Let a method `(self, inputs: PostInputs, ...)` be called with the fields of `PostInputs` as arguments of its own.

    Its signature, which Trainer, `torch.export` and PEFT read, lists them first. What others pass to any model is accepted;
    any other keyword is refused with the nearest name there is.
    """
    own = list(inspect.signature(method).parameters.values())[2:]
    places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in INPUT_NAMES]
    places = [place.replace(annotation=Tensor | None) for place in places] + own
    order, known = tuple(place.name for place in places), frozenset(place.name for place in places)

    @wraps(method)
    def with_fields(self, *args, **kwargs):
        if args:
            kwargs = _by_name(method.__name__, order, args, kwargs)
        if not known.issuperset(kwargs):
            kwargs = _without_others(method.__name__, order, kwargs)
        inputs = PostInputs(**{name: value for name, value in kwargs.items() if name in INPUT_NAMES})
        return method(self, inputs, **{name: value for name, value in kwargs.items() if name not in INPUT_NAMES})

    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    with_fields.__signature__ = inspect.Signature([this, *places])  # type: ignore[attr-defined]
    return with_fields


def _by_name(method: str, order: tuple[str, ...], args: tuple, kwargs: dict) -> dict:
    if len(args) > len(order):
        raise TypeError(f"{method}() takes {len(order)} inputs, got {len(args)}")
    if twice := [name for name in order[: len(args)] if name in kwargs]:
        raise TypeError(f"{method}() got `{twice[0]}` twice")
    return dict(zip(order, args, strict=False)) | kwargs


def _without_others(method: str, order: tuple[str, ...], kwargs: dict) -> dict:
    for name in kwargs:
        if name not in order and name not in PASSED_BY_OTHERS:
            close = get_close_matches(name, order, n=1)
            raise TypeError(
                f"{method}() has no input `{name}`"
                + (f"; did you mean `{close[0]}`?" if close else f"; it has {order}")
            )
    if kwargs.get("inputs_embeds") is not None:
        raise ValueError(f"{method}() takes no `inputs_embeds`: give `input_ids`, or `token_features`")
    if kwargs.get("output_hidden_states"):
        logger.warning_once(
            "`output_hidden_states`: the encoders' hidden states are not returned; call an encoder by itself, "
            "say `model.base_model.text_encoder(..., output_hidden_states=True)`"
        )
    return {name: value for name, value in kwargs.items() if name in order}
