# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How sure a difference of macro-F1 or AUROC is: a paired bootstrap over test posts.

Both methods are scored on the same resamples of posts, each as the mean over its seeds and tasks. The interval is of
percentiles. Shapes: P test posts, C labels of a task, N resamples.
"""

from dataclasses import dataclass

import numpy as np

from ..metrics import differ

LEVEL = 0.95
AVERAGE = "mean of tasks"  # in place of a task's name
AVERAGE_AUROC = "mean AUROC of tasks"


@dataclass(frozen=True)
class Difference:
    """A difference, its interval, and the share of resamples in which it is above 0 (those in which it is 0 count half)."""

    value: float
    low: float
    high: float
    above: float


def resample_weights(posts: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each post stands in each resample, (1 + N, P) float32; the first row is the posts themselves."""
    draw = np.random.default_rng(seed).multinomial(posts, np.full(posts, 1 / posts), size=resamples)
    return np.concatenate([np.ones((1, posts)), draw]).astype(np.float32)


def macro_f1_of_resamples(weights: np.ndarray, labels: np.ndarray, decided: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 (1 + N,) under weights (1 + N, P), over all classes, one without a post or a verdict counting 0.

    Args:
        labels, decided: class numbers (P,), a negative label missing; or 0 and 1 (P, C), NaN missing.
    """
    if labels.ndim == 1:
        known, numbers = labels >= 0, np.arange(classes)
        truth, found = labels[:, None] == numbers, decided[:, None] == numbers
    else:
        known = ~np.isnan(labels).any(1)
        truth, found = labels == 1, decided == 1
    truth, found = truth & known[:, None], found & known[:, None]
    hits = weights @ (truth & found).astype(np.float32)
    both = weights @ (truth.astype(np.float32) + found.astype(np.float32))
    return (2 * hits / np.maximum(both, 1)).mean(1, dtype=np.float64)


def auroc_of_resamples(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """AUROC (1 + N,) under weights (1 + N, P), one class against the rest, the mean over classes that have both there; NaN
    where none has. Labels as in `macro_f1_of_resamples`, `probabilities` (P, C)."""
    known = labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).any(1)
    truth = labels[:, None] == np.arange(probabilities.shape[1]) if labels.ndim == 1 else labels == 1
    weights, truth, probabilities = weights[:, known], truth[known], probabilities[known]
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for label in range(probabilities.shape[1]):
        order = np.argsort(probabilities[:, label], kind="stable")
        scores, is_of = probabilities[order, label], truth[order, label]
        if is_of.all() or not is_of.any():
            continue
        scores = scores if differ(scores) else 0 * scores
        of, others = weights[:, order[is_of]], weights[:, order[~is_of]]
        below = np.concatenate([np.zeros((len(weights), 1)), others.cumsum(1, dtype=np.float64)], 1)
        rank = [np.searchsorted(scores[~is_of], scores[is_of], side=side) for side in ("left", "right")]
        won = (of * (below[:, rank[0]] + below[:, rank[1]])).sum(1) / 2  # equals count half
        pairs = of.sum(1, dtype=np.float64) * below[:, -1]
        total += np.divide(won, pairs, out=np.zeros_like(won), where=pairs > 0)
        count += pairs > 0
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def difference_of(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Of two methods' macro-F1 or AUROC (1 + N,) on the same resamples, the first on the posts themselves; resamples without
    one, NaN, are left out."""
    differences = ours - theirs
    resampled = differences[1:][~np.isnan(differences[1:])]
    if not len(resampled):
        return Difference(float("nan"), float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    above = float((resampled > 0).mean() + (resampled == 0).mean() / 2)
    return Difference(float(differences[0]), float(low), float(high), above)
