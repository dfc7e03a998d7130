# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What each linear expert reads of posts, and how its layers are fitted to that (ours).

Shapes: N posts, L n-grams of a post, C labels of a task, D features.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ..experts import NEEDS, WORDS
from .linear_experts import Fitted, fit_linear, fit_rows
from .ngram_features import directions_of, rarity_of, sparse_tf_idf


class EmbeddingReader:
    """What an expert on embeddings learns from, and how it reads other posts.

    Args:
        parts: (N, D) of the training posts, by modality.
    """

    def __init__(self, parts: list[Tensor]):
        self.parts = parts

    def fit(self, task: dict, rows: Tensor, labels: Tensor, folds: Tensor) -> Fitted:
        """A layer fitted to the posts at `rows`; see `fit_linear`."""
        return fit_linear(task, [part[rows] for part in self.parts], labels, folds)

    def outputs(self, features: Tensor, fitted: Fitted) -> Tensor:
        """(N, C): what a layer says of other posts."""
        return features @ fitted.weight.T + fitted.bias


class NgramReader:
    """What the expert `words` learns from, and how it reads other posts.

    Args:
        ngram_ids: (N, L), of the training posts.
    """

    def __init__(self, ngram_ids: Tensor):
        self.rarity = rarity_of(ngram_ids)
        self.directions = directions_of(sparse_tf_idf(ngram_ids, self.rarity))

    def fit(self, task: dict, rows: Tensor, labels: Tensor, folds: Tensor) -> Fitted:
        """A layer of n-grams, fitted to the posts at `rows`; see `fit_rows`."""
        found = fit_rows(task, self.directions.rows[rows], labels, folds)
        return replace(found, weight=self.directions.in_ngrams(found.weight))

    def outputs(self, ngram_ids: Tensor, fitted: Fitted) -> Tensor:
        """(N, C): what a layer says of other posts."""
        said = sparse_tf_idf(ngram_ids, self.rarity) @ fitted.weight.numpy().T
        return torch.from_numpy(said).float() + fitted.bias


def read_by(expert: str, posts) -> Tensor:
    """What a linear expert reads of posts that have `embeds`, modality -> (N, D), and `ngram_ids`: n-grams (N, L), or
    embeddings side by side (N, D)."""
    return posts.ngram_ids if expert == WORDS else torch.cat([posts.embeds[m] for m in NEEDS[expert]], -1)


def reader_of(expert: str, posts) -> EmbeddingReader | NgramReader:
    """The reader of a linear expert, for training posts as of `read_by`."""
    if expert == WORDS:
        return NgramReader(posts.ngram_ids)
    return EmbeddingReader([posts.embeds[m] for m in NEEDS[expert]])
