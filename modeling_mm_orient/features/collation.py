# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From posts or stored features to batches for the model and for `transformers.Trainer`.

Use with `TrainingArguments(remove_unused_columns=False)`. Shapes: B posts, N n-grams, L regions or tokens, D features,
C labels.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..ngrams import padded
from ..numeric_columns import standardised
from ..pictures import key_number, pictures_of, post_key
from ..tasks import collate_labels


def pad_sequences(sequences: list) -> tuple[Tensor, Tensor]:
    """Arrays (L_i, D), L_i 0 allowed, to a zero-padded float32 (B, L, D) and its bool mask (B, L); L is at least 1."""
    longest = max(1, *(len(sequence) for sequence in sequences))
    # by NumPy, which starts no threads: collation may run beside a training step
    padded = np.zeros((len(sequences), longest, sequences[0].shape[-1]), np.float32)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = True
    return torch.from_numpy(padded), mask


@dataclass
class PostCollator:
    """Posts (`image`, `text`, task columns) to model inputs, through the processor.

    Features that a post has already (as for `FeatureCollator`, of encoders that the model lacks) are kept.

    Args:
        processor: `MMOrientProcessor`.
        tasks: task descriptions; with `labels` False no labels are made.
    """

    processor: object
    tasks: list[dict]
    labels: bool = True

    def __call__(self, posts: list[dict]) -> dict:
        batch = {}
        if self.processor.get_attributes() or self.processor.joint_processor is not None:
            images, texts = [pictures_of(post) for post in posts], [post.get("text") for post in posts]
            numbers = [post.get("numbers") for post in posts] if self.processor.numeric_columns else None
            batch = dict(self.processor(images=images, text=texts, numbers=numbers, return_tensors="pt"))
        # a picture that was changed on the way is still the same post
        batch["post_keys"] = torch.tensor([key_number(post.get("post_key") or post_key(post)) for post in posts])
        features = _features(posts)
        if "task_features" in features or "task_features" not in batch:
            features = _with_numbers(features, posts, self.processor.numeric_columns)
        return batch | features | _labels(posts, self.tasks if self.labels else None)


@dataclass
class FeatureCollator:
    """Stored features (`image_embeds` (D,), `text_embeds`, `text_layers`, `region_features` (R, D), `token_features` (T, D),
    `ngram_ids` (N,), `task_features`, `post_key` as `post_key` gives it, `has_image` and `has_text`, default True, and task
    columns) to model inputs, float32 and padded; `numbers` stand among the task features as `numeric_columns` of a processor
    say."""

    tasks: list[dict]
    labels: bool = True
    numeric_columns: list[dict] = field(default_factory=list)

    def __call__(self, posts: list[dict]) -> dict:
        batch = {name: torch.ones(len(posts), dtype=torch.bool) for name in ("has_image", "has_text")}
        if posts[0].get("post_key") is not None:
            batch["post_keys"] = torch.tensor([key_number(post["post_key"]) for post in posts])
        features = _with_numbers(_features(posts), posts, self.numeric_columns)
        return batch | features | _labels(posts, self.tasks if self.labels else None)


class ReadAheadLoader(DataLoader):
    """A `DataLoader` whose next two batches a thread makes ready while one is in use: a slow read of one does not show.

    For stored features, which are large and take little work: worker processes would pass them through shared memory, of
    which containers have 64 MiB by default.
    """

    @classmethod
    def in_place_of(cls, loader: DataLoader) -> "ReadAheadLoader":
        """A loader of the same batches."""
        names = ("batch_sampler", "collate_fn", "pin_memory", "generator")
        return cls(loader.dataset, **{name: getattr(loader, name) for name in names})

    def __iter__(self) -> Iterator:
        batches = super().__iter__()
        with ThreadPoolExecutor(1) as thread:
            following = deque(thread.submit(next, batches, None) for _ in range(2))
            while (batch := following.popleft().result()) is not None:
                following.append(thread.submit(next, batches, None))
                yield batch


def _features(posts: list[dict]) -> dict:
    batch = {}
    for name in ("image_embeds", "text_embeds", "task_features"):
        if posts[0].get(name) is not None:
            batch[name] = torch.stack([torch.as_tensor(post[name]) for post in posts]).float()
    for name, mask in (("region_features", "region_mask"), ("token_features", "token_mask")):
        if posts[0].get(name) is not None:
            batch[name], batch[mask] = pad_sequences([np.asarray(post[name]) for post in posts])
    layers = [post.get("text_layers") for post in posts]
    if (one := next((each for each in layers if each is not None), None)) is not None:
        rows = [
            np.zeros_like(one) if each is None else each for each in layers
        ]  # None was stored beside no text at all
        batch["text_layers"] = torch.stack([torch.as_tensor(row) for row in rows]).float()
    ngrams = [post.get("ngram_ids") for post in posts]
    if any(ids is not None for ids in ngrams):
        batch["ngram_ids"] = torch.from_numpy(padded([() if ids is None else ids for ids in ngrams]))
    for name in ("has_image", "has_text"):
        if name in posts[0]:
            batch[name] = torch.tensor([bool(post[name]) for post in posts])
    return batch


def _with_numbers(batch: dict, posts: list[dict], columns: list[dict]) -> dict:
    if not columns:
        return batch
    numbers = standardised([post.get("numbers") for post in posts], columns)
    before = [batch["task_features"]] if "task_features" in batch else []
    return batch | {"task_features": torch.cat([*before, numbers], -1)}


def _labels(posts: list[dict], tasks: list[dict] | None) -> dict:
    return {} if tasks is None else {"labels": collate_labels(posts, tasks)}
