# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How sure a difference of macro-F1 is: a paired bootstrap over test posts.

Both methods are scored on the same resamples of posts, each as the mean over its seeds and tasks. The interval is of
percentiles. Shapes: P test posts, C labels of a task, N resamples.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
AVERAGE = "mean"  # of tasks, in place of a task's name


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


def difference_of(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Of two methods' macro-F1 (1 + N,) on the same resamples, the first on the posts themselves."""
    differences = ours - theirs
    resampled = differences[1:]
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    above = float((resampled > 0).mean() + (resampled == 0).mean() / 2)
    return Difference(float(differences[0]), float(low), float(high), above)
