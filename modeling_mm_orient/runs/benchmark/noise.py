# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What fitted methods are worth on test posts that are made worse, step by step: macro-F1 at every strength of every
degradation, and the area under that curve.

Posts are degraded and encoded once per degradation and strength, and every method predicts from the same.

Shapes: N posts, C labels of a task.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from ...data.degradation import Degradation, degradations_of
from ...features.cache import CachedPosts, FeatureCache
from ...pictures import post_key
from ...tasks import collate_labels, kind_of, probabilities_of
from ..metrics import METRICS
from .statistics import AVERAGE

logger = logging.getLogger(__name__)

Encode = Callable[[Any], Any]  # posts, a data set or a list, to whatever the methods predict from


class Predictor(Protocol):
    """A fitted method: its name, and the seed it was fitted with."""

    name: str
    seed: int

    def predict(self, posts) -> dict[str, np.ndarray]:
        """Task name -> probabilities (N, C) of posts, or of what `encode` made of them; of the tasks that it does."""
        ...

    def decide(self, probabilities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Task name -> what the probabilities come to: class numbers (N,), or 0 and 1 (N, C) of several labels."""
        ...


class CellPredictor:
    """A method of a benchmark, as it was fitted for a cell.

    Args:
        tasks: with the method's rule. logits: from `CachedPosts` to task name -> logits.
    """

    def __init__(self, name: str, seed: int, tasks: list[dict], logits: Callable[[Any], dict]):
        self.name, self.seed, self.tasks, self.logits = name, seed, tasks, logits

    def predict(self, posts) -> dict[str, np.ndarray]:
        """Task name -> probabilities (N, C), or values (N,), of `CachedPosts`."""
        return {
            name: found.double().numpy() for name, found in probabilities_of(self.tasks, self.logits(posts)).items()
        }

    def decide(self, probabilities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Task name -> labels (N,) or (N, C), or values (N,)."""
        return {
            task["name"]: kind_of(task).decided(task, torch.from_numpy(probabilities[task["name"]])).numpy()
            for task in self.tasks
        }


class NoiseRow(NamedTuple):
    """One method on one task at one strength; strength 0 are the sound posts. AUROC is None where there is none."""

    set: str
    method: str
    seed: int
    degradation: str
    strength: float
    task: str
    macro_f1: float
    auroc: float | None
    noise_seed: int = 0


class NoiseArea(NamedTuple):
    """One curve of macro-F1 over strength: at strength 0 (`clean`), the mean over the other strengths, the area under it
    divided by the largest strength, and the share of `clean` that the area is (None where `clean` is 0)."""

    set: str
    method: str
    seed: int
    degradation: str
    task: str
    clean: float
    mean: float
    area: float
    kept: float | None
    noise_seed: int = 0


@dataclass(frozen=True)
class NoiseSummary:
    """A method on a task of a set, over all degradations: means over its curves of every seed, and the deviations over the
    seeds of the two that sum it up (0 of one seed)."""

    set: str
    method: str
    task: str
    seeds: int
    clean: float
    mean: float
    mean_deviation: float
    area: float
    kept: float | None
    kept_deviation: float | None


def noise_rows(
    set_name: str,
    predictors: Sequence[Predictor],
    posts,
    tasks: list[dict],
    *,
    degradations: Sequence[str] | None = None,
    encode: Encode = lambda posts: posts,
    noise_seed: int = 0,
    encoded: dict | None = None,
) -> list[NoiseRow]:
    """Every method at every strength of every degradation; those that none of the posts can show are left out, with a log.

    Args:
        set_name: what the rows call the data.
        posts: labelled test posts (N), a data set in the schema of `data.reading` or a list.
        tasks: task descriptions; regression has no macro-F1 and is passed over.
        degradations: names; None takes all.
        encode: from posts to what every predictor's `predict` is given, say `stored_features`.
        noise_seed: of the degradations' draws.
        encoded: what `encode` made in earlier calls with the same posts; it is taken, and added to.

    Raises:
        ValueError: no such degradation; a predictor returns another number of posts.
    """
    tasks = [task for task in tasks if kind_of(task).is_classification]
    labels = {name: values.numpy() for name, values in collate_labels(_without_pictures(posts), tasks).items()}
    chosen = [found for found in degradations_of(degradations) if _shows(found, posts)]
    encoded = {} if encoded is None else encoded
    if (clean_inputs := encoded.get("sound")) is None:
        clean_inputs = encoded["sound"] = encode(posts)
    clean = list(_scored(predictors, clean_inputs, labels, tasks))
    rows = [
        NoiseRow(set_name, *method, degradation.name, 0.0, *score, noise_seed)
        for degradation in chosen
        for method, score in clean
    ]
    steps = [(degradation, strength) for degradation in chosen for strength in degradation.strengths]
    for degradation, strength in tqdm(steps, "degrading posts", leave=False):
        where = degradation.name, strength, noise_seed
        if where not in encoded:
            encoded[where] = degraded_features(posts, degradation, strength, noise_seed, encode)
        inputs = encoded[where]
        for method, score in _scored(predictors, inputs, labels, tasks):
            rows.append(NoiseRow(set_name, *method, degradation.name, strength, *score, noise_seed))
    return rows


def degraded_features(posts, degradation: Degradation, strength: float, seed: int, encode: Encode):
    """What `encode` makes of the degraded posts, for all methods."""
    return encode(degradation.degrade(posts, strength, seed))


def stored_features(cache: FeatureCache) -> Encode:
    """An `encode` that keeps features: each degraded post has a key of its own, and is encoded once for all runs.

    What it gives are `CachedPosts`, without texts and pictures.
    """

    def encode(posts) -> CachedPosts:
        keys = [post_key(posts[row]) for row in range(len(posts))]
        cache.add(posts, keys)
        return CachedPosts(posts, keys, cache)

    return encode


def means_over_tasks(rows: Iterable[NoiseRow]) -> list[NoiseRow]:
    """The rows' means over tasks, as rows of a task `AVERAGE`."""
    found = defaultdict(list)
    for row in rows:
        found[row.set, row.method, row.seed, row.degradation, row.strength, row.noise_seed].append(row)
    return [
        NoiseRow(*where, AVERAGE, fmean(row.macro_f1 for row in tasks), _mean_auroc(tasks), noise_seed)
        for (*where, noise_seed), tasks in found.items()
    ]


def _mean_auroc(rows: list[NoiseRow]) -> float | None:
    known = [row.auroc for row in rows if row.auroc is not None]
    return fmean(known) if known else None


def noise_areas(rows: Iterable[NoiseRow]) -> list[NoiseArea]:
    """The curve of every set, method, seed, degradation and task, in the order of the rows.

    Raises:
        ValueError: a curve lacks strength 0, or has nothing else.
    """
    curves = defaultdict(list)
    for row in rows:
        curves[row.set, row.method, row.seed, row.degradation, row.task, row.noise_seed].append(row)
    areas = []
    for (*where, noise_seed), found in curves.items():
        points = sorted((row.strength, row.macro_f1) for row in found)
        if points[0][0] != 0 or len(points) < 2:
            raise ValueError(f"{' '.join(map(str, where))}: a curve has strength 0 and others, got {points}")
        clean, area = points[0][1], curve_area(*zip(*points, strict=True))
        mean = fmean(value for _, value in points[1:])
        areas.append(NoiseArea(*where, clean, mean, area, area / clean if clean else None, noise_seed))
    return areas


def curve_area(strengths: Sequence[float], values: Sequence[float]) -> float:
    """The area under a curve by the trapezoid rule, divided by its width: the mean height; `strengths` rise.

    Raises:
        ValueError: fewer than two points, or strengths that do not rise.
    """
    widths = np.diff(strengths)
    if len(strengths) < 2 or not (widths > 0).all():
        raise ValueError(f"a curve has two points or more, at rising strengths; got {list(strengths)}")
    heights = (np.asarray(values)[1:] + np.asarray(values)[:-1]) / 2
    return float((widths * heights).sum() / widths.sum())


def noise_summary(areas: Iterable[NoiseArea]) -> list[NoiseSummary]:
    """Every method on every task of every set, in the order of the areas; each degradation counts alike."""
    found = defaultdict(lambda: defaultdict(list))
    for area in areas:
        found[area.set, area.method, area.task][area.seed].append(area)
    return [NoiseSummary(*where, len(seeds), *_over_seeds(list(seeds.values()))) for where, seeds in found.items()]


def _over_seeds(seeds: list[list[NoiseArea]]) -> tuple:
    """`clean` to `kept_deviation` of a `NoiseSummary`, from the curves of each seed."""
    clean, mean, area = (
        [fmean(getattr(a, name) for a in curves) for curves in seeds] for name in ("clean", "mean", "area")
    )
    shares = [[a.kept for a in curves if a.kept is not None] for curves in seeds]
    kept = [fmean(values) for values in shares if values]
    figures = (fmean(clean), fmean(mean), _deviation(mean), fmean(area))
    return (*figures, fmean(kept) if kept else None, _deviation(kept) if kept else None)


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _shows(degradation: Degradation, posts) -> bool:
    found = degradation.reach(posts)
    if not found:
        logger.warning("%s is left out: it can change none of the posts", degradation.name)
    return found > 0


def _scored(
    predictors: Sequence[Predictor], inputs, labels: dict[str, np.ndarray], tasks: list[dict]
) -> Iterator[tuple[tuple[str, int], tuple[str, float, float | None]]]:
    """(method, seed) and (task, macro-F1, AUROC) of every predictor and task, on posts that have the task's label."""
    for predictor in predictors:
        probabilities = predictor.predict(inputs)
        decided = predictor.decide(probabilities)
        for task in tasks:
            if (name := task["name"]) not in probabilities:
                continue
            scores, verdicts, truth = np.asarray(probabilities[name]), np.asarray(decided[name]), labels[name]
            if len(scores) != len(truth):
                raise ValueError(f"{predictor.name} gives {name} of {len(scores)} posts, not of {len(truth)}")
            kind = kind_of(task)
            known = kind.known(torch.from_numpy(truth)).numpy()
            if known.any():
                metrics = METRICS[kind.name](truth[known].astype(int), scores[known].astype(float), verdicts[known])
                yield (predictor.name, predictor.seed), (name, metrics["macro_f1"], metrics["auroc"])


def _without_pictures(posts) -> list[dict]:
    return posts if isinstance(posts, list) else list(posts.remove_columns("image"))
