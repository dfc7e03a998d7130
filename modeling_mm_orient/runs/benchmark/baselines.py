# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Baselines of a benchmark, by name; those that are no networks.

A baseline gives logits: of one class among several log-probabilities up to a constant, of several labels log-odds, of a
regression its value. Shapes: N posts, D features, C labels of a task, K neighbours.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional as F

from ...tasks import kind_of
from ..linear_experts import deviations
from ..ngram_features import rarity_of, sparse_tf_idf
from .features import MODALITIES, PostArrays

Predict = Callable[[PostArrays], dict[str, Tensor]]
RAREST = 1e-4  # the least probability that is given
NEIGHBOUR_TEMPERATURE = 0.05  # of cosines, as of `edge_weights="softmax"`


class Baseline:
    """What all baselines answer.

    `values` are the three of `hyper_parameter` that are searched, none where it has none. `seeded`: chance plays a part.
    `reads_sequences`: regions and tokens are needed. `decides`: its own rule, whatever is asked for.
    """

    name: str
    hyper_parameter: str | None = None
    values: tuple = ()
    seeded = False
    reads_sequences = False
    decides: str | None = None

    def fit(self, train: PostArrays, validation: PostArrays, tasks: list[dict], value, seed: int) -> Predict:
        """Learn from the training posts that have a label; returns posts -> task name -> logits (N, C), or (N,).

        Args:
            validation: for the choice of an epoch. value: one of `values`.
        """
        raise NotImplementedError


class Majority(Baseline):
    """Every post is of the most frequent class, whatever it holds."""

    name = "majority"
    decides = "most_probable"

    def fit(self, train, validation, tasks, value, seed) -> Predict:
        constant = {task["name"]: _prior(task, train.labels[task["name"]]) for task in tasks}
        return lambda posts: {name: row.expand(len(posts), *row.shape) for name, row in constant.items()}


class Linear(Baseline):
    """Logistic regression on standardised embeddings, per task and label; ridge regression of a value."""

    name = "logistic_regression"
    hyper_parameter, values = "C", (1e-3, 1e-2, 1e-1)
    modalities: tuple[str, ...] = MODALITIES

    def fit(self, train, validation, tasks, value, seed) -> Predict:
        features_of = self.features_of(train)
        features = features_of(train)
        fits = {task["name"]: _linear(task, features, train.labels[task["name"]], value) for task in tasks}

        def predict(posts: PostArrays) -> dict[str, Tensor]:
            features = features_of(posts)
            return {name: torch.from_numpy(np.asarray(fit(features), np.float64)) for name, fit in fits.items()}

        return predict

    def features_of(self, train: PostArrays) -> Callable:
        """What gives posts' features (N, D), as the training posts say."""
        scaled = Standardised(train)
        return lambda posts: scaled.joined(posts, self.modalities).numpy()


class TextOnly(Linear):
    name = "text_only"
    modalities = ("text",)


class TfIdf(Linear):
    """The same on TF-IDF of the texts' words, pairs of words and pieces of words."""

    name = "tfidf"
    values = (1.0, 4.0, 16.0)

    def features_of(self, train: PostArrays) -> Callable:
        rarity = rarity_of(train.ngram_ids)
        return lambda posts: sparse_tf_idf(posts.ngram_ids, rarity)


class ImageOnly(Linear):
    name = "image_only"
    modalities = ("image",)


class NearestNeighbours(Baseline):
    """The labels of the training posts that are nearest by the mean cosine of both modalities, nearer ones counting more and
    classes by their inverse share."""

    name = "knn"
    hyper_parameter, values = "k", (16, 32, 64)

    def fit(self, train, validation, tasks, value, seed) -> Predict:
        references = _directions(train)
        priors = {task["name"]: _prior(task, train.labels[task["name"]]) for task in tasks}

        def predict(posts: PostArrays) -> dict[str, Tensor]:
            cosines = _directions(posts) @ references.T / len(MODALITIES)
            return {
                task["name"]: _votes(task, cosines, train.labels[task["name"]], priors[task["name"]], value)
                for task in tasks
            }

        return predict


class Standardised:
    """Embeddings of mean 0 and deviation 1 by the training posts that have the modality; 0 where it is missing."""

    def __init__(self, train: PostArrays):
        self.scales = {}
        for name, values in self._parts(train):
            here = values[train.present[name]] if name in train.present else values
            here = here if len(here) else values
            # task features are each in a unit of its own
            parts = [here] if name in train.present else here.split(1, 1)
            self.scales[name] = here.mean(0), torch.cat([deviations(part) for part in parts])

    def __call__(self, posts: PostArrays) -> dict[str, Tensor]:
        """`"image"`, `"text"`, and `"extra"` where there are task features, (N, D) each."""
        found = {}
        for name, values in self._parts(posts):
            mean, deviation = self.scales[name]
            found[name] = (values - mean) / deviation
            if name in posts.present:
                found[name] = found[name] * posts.present[name][:, None]
        return found

    def joined(self, posts: PostArrays, modalities: tuple[str, ...] = MODALITIES) -> Tensor:
        """Modalities side by side, (N, D); both of them with the task features."""
        parts = self(posts)
        wanted = modalities if len(modalities) < len(MODALITIES) else parts
        return torch.cat([parts[name] for name in wanted], 1)

    def _parts(self, posts: PostArrays):
        yield from posts.embeds.items()
        if posts.extra is not None:
            yield "extra", posts.extra


def _prior(task: dict, labels: Tensor) -> Tensor:
    """What the labels say of a post that nothing is known of, (C,) or (): logits, or the mean value."""
    kind = kind_of(task)
    labels = labels[kind.known(labels)]
    if not kind.is_classification:
        return labels.double().mean() if len(labels) else torch.zeros((), dtype=torch.double)
    classes = len(task["labels"])
    if labels.ndim == 1:
        counts = torch.bincount(labels, minlength=classes).double()
        return (counts / max(1, len(labels))).clamp(min=RAREST).log()
    share = labels.double().mean(0) if len(labels) else torch.full((classes,), 0.5, dtype=torch.double)
    return share.clamp(RAREST, 1 - RAREST).logit()


def _linear(task: dict, features: np.ndarray, labels: Tensor, strength: float):
    """A function of features (N, D) to logits; `strength` is the inverse of the penalty."""
    kind, truth = kind_of(task), labels.numpy()
    known = kind.known(labels).numpy()
    if not kind.is_classification:
        if not known.any():
            return lambda features: np.zeros(features.shape[0])
        return Ridge(alpha=1 / strength).fit(features[known], truth[known]).predict
    if truth.ndim == 1:
        return _classes(features[known], truth[known], len(task["labels"]), strength)
    columns = []
    for column in truth.T:
        has = ~np.isnan(column)
        columns.append(_classes(features[has], column[has].astype(int), 2, strength))
    return lambda features: np.stack([np.subtract(*fit(features).T[::-1]) for fit in columns], 1)


def _classes(features: np.ndarray, truth: np.ndarray, classes: int, strength: float):
    """A function of features (N, D) to log-probabilities (N, `classes`); a class without a post is all but impossible."""
    seen = np.unique(truth)
    model = LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(features, truth) if len(seen) > 1 else None

    def logits(features: np.ndarray) -> np.ndarray:
        found = np.full((features.shape[0], classes), np.log(RAREST))
        if model is None:
            found[:, seen] = 0.0
        else:
            found[:, seen] = np.log(np.maximum(model.predict_proba(features), RAREST))
        return found

    return logits


def _directions(posts: PostArrays) -> Tensor:
    """Both modalities' embeddings of length 1 side by side, so that a product is the sum of both cosines."""
    return torch.cat([F.normalize(posts.embeds[name], dim=1) for name in MODALITIES], 1)


def _votes(task: dict, cosines: Tensor, labels: Tensor, prior: Tensor, k: int) -> Tensor:
    """Logits of posts by their cosines (P, N) to the posts of `labels`; `prior` as of `_prior`."""
    kind = kind_of(task)
    known = kind.known(labels)
    if not known.any():
        return prior.expand(len(cosines), *prior.shape)
    values, places = cosines[:, known].topk(min(k, int(known.sum())), dim=1)
    weights, labels = (values.double() / NEIGHBOUR_TEMPERATURE).softmax(1), labels[known]
    if not kind.is_classification:
        return (weights * labels[places]).sum(1)
    if labels.ndim == 1:
        share = prior.exp()
        votes = (
            torch.zeros(len(cosines), len(share), dtype=torch.double).scatter_add(1, labels[places], weights) / share
        )
        return (votes / votes.sum(1, keepdim=True)).clamp(min=RAREST).log()
    yes = (weights[..., None] * labels[places]).sum(1)
    return yes.clamp(RAREST, 1 - RAREST).logit() - prior
