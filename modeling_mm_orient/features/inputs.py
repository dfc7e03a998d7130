# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a model is given of posts: the posts themselves, or their stored features, or arrays, each with its collator.

Shapes: N posts, D features.
"""

from collections.abc import Iterator

import datasets
import torch
from accelerate import PartialState

from ..data.arrays import ArrayPosts
from ..data.reading import without_pictures
from ..encoders import PostFeatures
from ..pictures import post_key
from .cache import CachedPosts, FeatureCache
from .collation import FeatureCollator, PostCollator

MOST_SAMPLED = 4096  # posts from which graphs are judged
SAMPLE_BATCH = 32


def model_inputs(
    model, processor, posts: datasets.DatasetDict, tasks: list[dict], feature_cache: str | None = None, arrays=None
) -> tuple[dict, PostCollator | FeatureCollator]:
    """Data sets for the model by split, and the collator they need.

    Args:
        feature_cache: folder of stored features; None gives the posts themselves.
        arrays: `FeatureArrays`, beside or in place of what encoders give.
    """
    names = model.config.encoder_names
    keys = {split: [post_key(post) for post in rows] for split, rows in posts.items()} if arrays else {}
    if not reads_pictures(names):
        posts = datasets.DatasetDict({split: without_pictures(rows) for split, rows in posts.items()})
    inputs, collator = posts, PostCollator(processor, tasks)
    if feature_cache is not None and names:
        inputs, collator = _stored_features(model.base_model, processor, posts, feature_cache), FeatureCollator(tasks)
        collator.numeric_columns = processor.numeric_columns
    if arrays:
        inputs = {split: ArrayPosts(rows, keys[split], arrays, names) for split, rows in inputs.items()}
    return inputs, collator


def reads_pictures(encoder_names) -> bool:
    """Whether any of these encoders needs pictures."""
    return bool({"joint", "vision"} & set(encoder_names))


def sampled_embeds(posts, model, collator) -> dict[str, torch.Tensor]:
    """E_img and E_txt, modality -> (N, D), of those posts of `encoded_sample` that have the modality."""
    found = {"image": [], "text": []}
    for encoded, _ in encoded_sample(posts, model, collator):
        for modality, rows in found.items():
            rows.append(encoded.embeds[modality][encoded.present[modality]].cpu())
    return {modality: torch.cat(rows) for modality, rows in found.items()}


@torch.inference_mode()
def encoded_sample(posts, model, collator) -> Iterator[tuple[PostFeatures, torch.Tensor | None]]:
    """Up to `MOST_SAMPLED` posts, reproducibly, a few at a time: their features and the `post_keys` of `forward`."""
    order = torch.randperm(len(posts), generator=torch.Generator().manual_seed(0))[:MOST_SAMPLED].tolist()
    encoder = model.base_model.eval()
    for start in range(0, len(order), SAMPLE_BATCH):
        batch = collator([posts[index] for index in order[start : start + SAMPLE_BATCH]])
        inputs = {
            name: value.to(encoder.device) for name, value in batch.items() if name not in ("labels", "task_features")
        }
        keys = inputs.pop("post_keys", None)
        yield encoder.encode_posts(**inputs), keys


def _stored_features(encoder, processor, posts: datasets.DatasetDict, feature_cache: str) -> dict[str, CachedPosts]:
    cache, state = FeatureCache(feature_cache, encoder, processor), PartialState()
    encoder.to(state.device)
    keys = {split: [post_key(post) for post in rows] for split, rows in posts.items()}
    for split, rows in posts.items():
        cache.add(rows, keys[split], share=state.process_index, shares=state.num_processes)
    state.wait_for_everyone()
    cache.load()
    return {split: CachedPosts(rows, keys[split], cache) for split, rows in posts.items()}
