# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Between a model and its relation memory (ours): posts to reference posts, whether both fit, and a batch's neighbours.

Shapes: B posts, K neighbours, D features.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .encoders import PostFeatures
from .names import MODALITIES
from .pictures import key_number, pictures_of, post_key, undecoded
from .relation_graph import edge_weights_of, listed_cosines
from .relation_layers import ReferencePosts
from .relation_memory import RelationMemory
from .tasks import collate_labels


class NeighbourRule(NamedTuple):
    """What makes a reference post a neighbour: one of the `top_k` nearest (None: does not matter), above the modality's
    threshold (None: does not matter); and its weight, see `edge_weights_of`."""

    top_k: int | None
    thresholds: dict[str, float | None]
    edge_weights: str
    edge_temperature: float


def reference_posts(
    posts, encode: Callable[..., PostFeatures], tasks: list[dict], fingerprints: list[str], processor, batch_size: int
) -> RelationMemory:
    """Encode posts for a relation memory; see `MMOrientModel.build_relation_memory`.

    Args:
        encode: `MMOrientModel.encode_posts`, of inputs on the CPU. tasks: whose labels are kept.
        fingerprints: of the encoders.

    Raises:
        TypeError: posts are no list and no data set. ValueError: `batch_size` is below 1, or see `_embeds_and_presence`.
    """
    if isinstance(posts, Mapping) or not hasattr(posts, "__len__"):
        raise TypeError(f"reference posts are a list or a data set, not {type(posts).__name__}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    posts = undecoded(posts)
    tensors, labels, ids, keys = [], [], [], []
    progress = logging.tqdm(total=len(posts), desc="encoding reference posts", unit="post", leave=False)
    for start in range(0, len(posts), batch_size):
        batch = [posts[row] for row in range(start, min(start + batch_size, len(posts)))]
        tensors.append(_embeds_and_presence(batch, encode, processor))
        labels.append(collate_labels(batch, tasks))
        keys += [post.get("post_key") or _content_key(post) for post in batch]
        ids += [None if post.get("id") is None else str(post["id"]) for post in batch]
        progress.update(len(batch))
    if not tensors:
        raise ValueError("a relation memory needs at least one post")
    return RelationMemory(
        {m: torch.cat([embeds[m] for embeds, _ in tensors]) for m in MODALITIES},
        {m: torch.cat([present[m] for _, present in tensors]) for m in MODALITIES},
        _complete_ids(ids, keys),
        torch.tensor([0 if key is None else key_number(key) for key in keys]),
        tasks,
        {task["name"]: torch.cat([part[task["name"]] for part in labels]) for task in tasks},
        fingerprints,
    )


def check_fit(
    memory: RelationMemory,
    embed_dims: dict[str, int],
    labelled_tasks: list[dict],
    fingerprints: list[str],
) -> None:
    """Raise ValueError unless a model can use the memory.

    Args:
        embed_dims: modality -> the model's D. labelled_tasks: those whose labels are a stream.
        fingerprints: of the model's encoders.
    """
    for modality, values in memory.embeds.items():
        if values.shape[-1] != embed_dims[modality]:
            raise ValueError(
                f"the relation memory's {modality} embeddings are {values.shape[-1]} wide, the model's "
                f"{embed_dims[modality]}"
            )
    labels = {task["name"]: (task["kind"], task["labels"]) for task in memory.tasks}
    for task in labelled_tasks:
        if labels.get(task["name"]) != (task["kind"], task["labels"]):
            raise ValueError(f"the relation memory has no labels for the task {task['name']!r} as the model knows it")
    if fingerprints and not memory.fingerprints:
        raise ValueError("the relation memory does not say by which encoders it was made: build it anew")
    if differ(memory.fingerprints, fingerprints):
        raise ValueError(
            "the relation memory was made by other encoders than the model's: build it anew (a model loads without it with "
            "`load_relation_memory=False`)"
        )


def differ(fingerprints: list[str], others: list[str]) -> bool:
    """Whether two known sets of encoders share no fingerprint."""
    return bool(fingerprints and others) and not set(fingerprints) & set(others)


def neighbours_in_memory(
    memory: RelationMemory,
    posts: PostFeatures,
    rule: NeighbourRule,
    post_keys: Tensor | None = None,
    without_themselves: bool = False,
) -> dict[str, ReferencePosts]:
    """Modality -> the neighbours of `posts` by its graph; without the posts themselves and their exact duplicates, by
    `post_keys` (B,) and embeddings, if so asked."""

    def themselves(entries: Tensor) -> Tensor:
        return memory.same_posts(entries, post_keys, posts.embeds, posts.present)

    found = {}
    for modality, queries in posts.embeds.items():
        asked = modality, queries, posts.present[modality], rule.top_k, rule.thresholds[modality]
        if torch.compiler.is_exporting():
            neighbours = memory.look_up_static(*asked)
        else:
            neighbours = memory.look_up(*asked, themselves if without_themselves else None)
        theirs = {m: memory.embeds_of(m, neighbours.entries) for m in MODALITIES}
        similarity = listed_cosines(queries, theirs[modality][0])
        weights = edge_weights_of(similarity, rule.edge_weights, rule.edge_temperature)
        found[modality] = ReferencePosts(
            {m: values.to(queries.dtype) for m, (values, _) in theirs.items()},
            {m: here for m, (_, here) in theirs.items()},
            weights * (neighbours.entries >= 0),
            neighbours.entries,
            similarity.detach(),
        )
    return found


def _embeds_and_presence(posts: list[dict], encode, processor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if posts[0].get("image_embeds") is not None:
        rows = {m: [torch.as_tensor(post[f"{m}_embeds"]) for post in posts] for m in MODALITIES}
        here = {m: [bool(post.get(f"has_{m}", True)) for post in posts] for m in MODALITIES}
        return {m: torch.stack(rows[m]).float() for m in MODALITIES}, {m: torch.tensor(here[m]) for m in MODALITIES}
    if processor is None:
        raise ValueError("posts of pictures and texts need a `processor`; without one they must have `image_embeds`")
    images, texts = [pictures_of(post) for post in posts], [post.get("text") for post in posts]
    inputs = dict(processor(images=images, text=texts, return_tensors="pt"))
    inputs.pop("task_features", None)
    for name in ("region_features", "token_features"):
        if posts[0].get(name) is not None:  # of encoders that the model lacks
            sequences = [torch.as_tensor(post[name]).float() for post in posts]
            inputs[name] = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    encoded = encode(**inputs)
    return {m: v.cpu() for m, v in encoded.embeds.items()}, {m: v.cpu() for m, v in encoded.present.items()}


def _content_key(post: dict) -> str | None:
    return post_key(post) if post.get("image") is not None or post.get("text") else None


def _complete_ids(ids: list[str | None], keys: list[str | None]) -> list[str]:
    """A post without an id is named by its content, or where that is unknown by its row; a second one of a name gets #2."""
    names, seen = [], Counter(name for name in ids if name is not None)
    for row, (name, key) in enumerate(zip(ids, keys, strict=True)):
        if name is None:
            base = str(row) if key is None else key[:16]
            seen[base] += 1
            name = base if seen[base] == 1 else f"{base}#{seen[base]}"
        names.append(name)
    return names
