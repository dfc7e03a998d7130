# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What the expert `words` is fitted on (ours): TF-IDF of n-grams, and the few directions in which posts differ most.

Shapes: N posts, S of them, L n-grams of a post, C labels of a task, R directions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from ..experts import tf_idf
from ..ngrams import BUCKETS

FEWEST_POSTS = 2  # that must have an n-gram for it to count
MOST_DIRECTIONS = 512
MOST_SPANNING = 2048  # posts that span them
BLOCK = 1024  # posts
SMALLEST = 1e-6  # variance of a direction that is kept


def rarity_of(ngram_ids: Tensor) -> Tensor:
    """(buckets,) float32: the smoothed logarithm of the inverse share of the posts (N, L) that have an n-gram; 0 where fewer
    than `FEWEST_POSTS` do."""
    counts = torch.bincount(ngram_ids.flatten(), minlength=BUCKETS)
    rarity = ((1 + len(ngram_ids)) / (1 + counts)).log() + 1
    rarity[counts < FEWEST_POSTS] = 0
    rarity[0] = 0
    return rarity


def sparse_tf_idf(ngram_ids: Tensor, rarity: Tensor) -> csr_matrix:
    """Posts (N, L) as rows of length 1, (N, buckets)."""
    here = ngram_ids > 0
    ends = np.concatenate([[0], here.sum(1).cumsum(0).numpy()])
    blocks = zip(ngram_ids.split(BLOCK), here.split(BLOCK), strict=True)
    values = torch.cat([tf_idf(ids.long(), rarity)[known] for ids, known in blocks])
    return csr_matrix((values.numpy(), ngram_ids[here].numpy(), ends), (len(ngram_ids), BUCKETS))


@dataclass
class Directions:
    """`rows` (N, R): posts along the directions, which are mixtures `mixed` (S, R) of the posts `spanning` (S, buckets)."""

    rows: Tensor
    spanning: csr_matrix
    mixed: np.ndarray

    def in_ngrams(self, weight: Tensor) -> Tensor:
        """A layer's weight (C, R) as one of n-grams, (C, buckets)."""
        found = self.spanning.T @ (self.mixed @ weight.double().numpy().T)
        return torch.from_numpy(np.ascontiguousarray(found.T)).float()


def directions_of(posts: csr_matrix) -> Directions:
    """Principal directions of posts (N, buckets), not centred; of many posts those of some spread over them."""
    chosen = np.unique(np.linspace(0, posts.shape[0] - 1, min(posts.shape[0], MOST_SPANNING)).astype(int))
    spanning = posts[chosen].astype(np.float64)
    variances, turns = np.linalg.eigh((spanning @ spanning.T).toarray())
    order = np.argsort(-variances, kind="stable")[:MOST_DIRECTIONS]
    order = order[variances[order] > SMALLEST]
    mixed = turns[:, order] / np.sqrt(variances[order])
    rows = posts.astype(np.float64) @ (spanning.T @ mixed)
    return Directions(torch.from_numpy(np.ascontiguousarray(rows)).float(), spanning, mixed)


def side_by_side(parts: list[Tensor]) -> Tensor:
    """Posts of several batches (N, L), one after the other, padded alike, int32."""
    longest = max(part.shape[1] for part in parts)
    parts = [part.int() for part in parts]  # one long text pads all
    return torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in parts])
