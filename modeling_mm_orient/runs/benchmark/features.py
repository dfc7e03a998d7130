# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The posts of a benchmark: read and checked, and as arrays in memory, by split.

Shapes: N posts, R regions, T tokens, L either, D features, W their reduced width.
"""

from dataclasses import dataclass, field
from functools import cached_property

import datasets
import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.arrays import FeatureArrays
from ...data.description import DataDescription
from ...data.paraphrases import add_paraphrases
from ...data.reading import read_posts
from ...features.cache import FeatureCache
from ...features.extraction import process_state
from ...features.inputs import model_inputs, reads_pictures
from ...pictures import post_key
from ...tasks import collate_labels
from ..identity import digest_of_posts
from ..ngram_features import side_by_side
from ..presets import ENCODER_CONFIGS, build_model, treat_as
from ..settings import TrainingSettings

SPLITS = ("train", "validation", "test")
MODALITIES = ("image", "text")
MOST_REGIONS, MOST_TOKENS = 25, 32
REDUCED_WIDTH = 64  # of a region or token, by principal components of the training posts'
SAMPLED_ROWS = 20_000  # from which they are taken
BATCH = 64


@dataclass
class BenchmarkData:
    """What a benchmark of one set starts from: `preset` with its encoders, posts by split, and where features are stored."""

    description: DataDescription
    preset: dict
    settings: TrainingSettings
    posts: datasets.DatasetDict
    tasks: list[dict]
    arrays: FeatureArrays
    feature_cache: str | None
    skip_bad_posts: bool

    @cached_property
    def keys(self) -> dict[str, list[str]]:
        """Split -> the posts' keys by content."""
        return {split: [post.get("post_key") or post_key(post) for post in rows] for split, rows in self.posts.items()}

    @cached_property
    def labels(self) -> dict[str, dict[str, Tensor]]:
        """Split -> task name -> labels as the model takes them."""
        return {
            split: collate_labels(list(rows.remove_columns("image")), self.tasks) for split, rows in self.posts.items()
        }


@dataclass
class PostArrays:
    """Posts of one split, or some of them.

    Args:
        keys: of their content. embeds: modality -> E_img or E_txt, (N, D) float32, zeros where it is missing.
        present: modality -> bool (N,). labels: task name -> labels, missing ones included.
        ngram_ids: (N, L) int64, see `ngrams.ngram_ids`. extra: task features (N, D), or None.
        sequences: modality -> (N, L, W) and its bool mask (N, L), if asked for.
    """

    keys: list[str]
    embeds: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: dict[str, Tensor]
    ngram_ids: Tensor
    extra: Tensor | None = None
    sequences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def and_(self, other: "PostArrays") -> "PostArrays":
        """These posts, then the others."""
        parts = (self, other)
        return PostArrays(
            self.keys + other.keys,
            *({name: torch.cat([part[name] for part in many]) for name in many[0]} for many in _columns(parts)),
            side_by_side([self.ngram_ids, other.ngram_ids]),
            None if self.extra is None else torch.cat([self.extra, other.extra]),
            {name: _side_by_side([part.sequences[name] for part in parts]) for name in self.sequences},
        )

    def at(self, rows: Tensor) -> "PostArrays":
        """The posts at these positions."""
        return PostArrays(
            [self.keys[row] for row in rows.tolist()],
            *({name: value[rows] for name, value in part.items()} for part in (self.embeds, self.present, self.labels)),
            self.ngram_ids[rows],
            None if self.extra is None else self.extra[rows],
            {name: (values[rows], mask[rows]) for name, (values, mask) in self.sequences.items()},
        )


def read_benchmark_data(
    description: DataDescription,
    preset: dict,
    settings: TrainingSettings,
    feature_cache: str | None,
    skip_bad_posts: bool,
) -> BenchmarkData:
    """Read and check the posts, as `train` does.

    Raises:
        DataProblems, ValueError: see `read_posts`; no encoder is named, or a split is missing.
    """
    arrays = FeatureArrays(description.feature_arrays)
    roles = {role for role, source in preset["encoders"].items() if source}
    for role, feature in (("vision", "region_features"), ("text", "token_features")):
        if role not in roles and feature not in arrays:
            raise ValueError(f"a benchmark runs on stored features: name a --{role}-encoder, or an array of {feature}")
    posts, tasks, _ = read_posts(description, skip_bad_posts, reads_pictures(roles))
    for split in SPLITS:
        if split not in posts:
            raise ValueError(f"the data has no {split} split, and a benchmark needs all of {', '.join(SPLITS)}")
    posts = datasets.DatasetDict({split: posts[split] for split in SPLITS})
    if description.paraphrases is not None:
        posts = add_paraphrases(posts, description.paraphrases, description.text_cleaning)
    return BenchmarkData(description, preset, settings, posts, tasks, arrays, feature_cache, skip_bad_posts)


def config_of(preset: dict) -> dict:
    """A preset's fields of `MMOrientConfig` that are no encoders'."""
    return {name: value for name, value in preset["config"].items() if name not in ENCODER_CONFIGS}


def pooling_of(preset: dict) -> dict:
    """Of these what stored features depend on."""
    return {name: value for name, value in preset["config"].items() if name == "embedding_pooling"}


def content_of(data: BenchmarkData) -> str:
    """A digest of posts and labels by split, and of the tasks."""
    return digest_of_posts(data.tasks, data.posts, data.keys, bool(data.description.numeric_columns))


class PostReader:
    """Reads features of posts into arrays; what is not stored is encoded and stored first.

    Args:
        with_sequences: with regions and tokens, pooled to few and reduced to `REDUCED_WIDTH`, as the training posts say.

    `splits` are the arrays of all splits.
    """

    def __init__(self, data: BenchmarkData, with_sequences: bool):
        preset, has_joint = data.preset, bool(data.preset["encoders"].get("joint"))
        fields = data.arrays.config_fields(has_joint) | {"learner_hidden_sizes": [1], "relation_streams": []}
        fields = {"task_feature_dim": 0} | fields
        model, self.processor = build_model(preset | {"config": pooling_of(preset)}, data.tasks, [], **fields)
        treat_as(self.processor, data.description)
        self.with_sequences, self.feature_cache = with_sequences, data.feature_cache
        inputs, self.collator = model_inputs(
            model, self.processor, data.posts, data.tasks, data.feature_cache, data.arrays
        )
        self.encoder = model.base_model.to(process_state().device).eval()
        found = {split: self._encoded(inputs[split]) for split in SPLITS}
        self.reductions = {}
        if with_sequences:
            self.reductions = {modality: _reduction(*found["train"].sequences[modality]) for modality in MODALITIES}
        for split, posts in found.items():
            posts.keys = data.keys[split]
        self.splits = {split: self._reduced(posts) for split, posts in found.items()}

    def read(self, posts) -> PostArrays:
        """The arrays of other posts, `CachedPosts` with the labels of this set's tasks."""
        found = self._reduced(self._encoded(posts))
        found.keys = list(posts.keys)
        return found

    def cache(self) -> FeatureCache:
        """The stored features, for posts that are not of this set."""
        return FeatureCache(self.feature_cache, self.encoder, self.processor)

    def _encoded(self, posts) -> PostArrays:
        return arrays_of(self.encoder, posts, self.collator, self.with_sequences)

    def _reduced(self, posts: PostArrays) -> PostArrays:
        for modality, reduce in self.reductions.items():
            values, mask = posts.sequences[modality]
            posts.sequences[modality] = reduce(values), mask
        return posts


@torch.inference_mode()
def arrays_of(encoder, posts, collator, with_sequences: bool) -> PostArrays:
    """Posts as the model takes them, with labels, as arrays; their keys are the first 15 letters of each."""
    parts = []
    for start in range(0, len(posts), BATCH):
        batch = collator([posts[row] for row in range(start, min(start + BATCH, len(posts)))])
        labels, extra = batch.pop("labels"), batch.pop("task_features", None)
        ngrams = batch.pop("ngram_ids", torch.zeros(len(batch["has_text"]), 1, dtype=torch.long))
        numbers = batch.pop("post_keys", torch.ones(len(batch["has_image"]), dtype=torch.long))
        keys = [f"{number - 1:015x}" for number in numbers.tolist()]
        encoded = encoder.encode_posts(**{name: value.to(encoder.device) for name, value in batch.items()})
        sequences = {}
        if with_sequences:
            sequences = {
                "image": _pooled(encoded.region_features, encoded.region_mask, MOST_REGIONS),
                "text": _pooled(encoded.token_features, encoded.token_mask, MOST_TOKENS),
            }
        embeds, present = (
            {name: value.cpu() for name, value in part.items()} for part in (encoded.embeds, encoded.present)
        )
        parts.append(PostArrays(keys, embeds, present, labels, ngrams, extra, sequences))
    first = parts[0]
    return PostArrays(
        [key for part in parts for key in part.keys],
        *({name: torch.cat([part[name] for part in many]) for name in many[0]} for many in _columns(parts)),
        side_by_side([part.ngram_ids for part in parts]),
        None if first.extra is None else torch.cat([part.extra for part in parts]),
        {name: _side_by_side([part.sequences[name] for part in parts]) for name in first.sequences},
    )


def _columns(parts: list[PostArrays]):
    for name in ("embeds", "present", "labels"):
        yield [vars(part)[name] for part in parts]


def _pooled(values: Tensor, mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """A sequence (B, L, D) and mask (B, L), of more than `most` entries means of neighbouring ones, in half precision."""
    if values.shape[1] > most:
        share = -(-values.shape[1] // most)
        values, mask = F.pad(values, (0, 0, 0, -values.shape[1] % share)), F.pad(mask, (0, -mask.shape[1] % share))
        counts = mask.unflatten(1, (-1, share)).sum(2)
        values = (values * mask[..., None]).unflatten(1, (-1, share)).sum(2) / counts.clamp(min=1)[..., None]
        mask = counts > 0
    return values.half().cpu(), mask.cpu()


def _side_by_side(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    longest = max(mask.shape[1] for _, mask in parts)
    values = [F.pad(value, (0, 0, 0, longest - value.shape[1])) for value, _ in parts]
    return torch.cat(values), torch.cat([F.pad(mask, (0, longest - mask.shape[1])) for _, mask in parts])


def _reduction(values: Tensor, mask: Tensor):
    """What brings (N, L, D) to (N, L, W): principal components of the rows of `values` where `mask`, of mean size 1."""
    rows = values[mask]
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:SAMPLED_ROWS]
    rows = rows[chosen].float() if len(rows) else torch.zeros(1, values.shape[-1])
    mean = rows.mean(0)
    directions = torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors[:, -REDUCED_WIDTH:]
    scale = ((rows - mean) @ directions).std(correction=0).clamp(min=1e-6)

    def reduce(sequences: Tensor) -> Tensor:
        return torch.cat([(part.float() - mean) @ directions / scale for part in sequences.split(BATCH)])

    return reduce
