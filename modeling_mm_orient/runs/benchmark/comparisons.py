# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What the cells of a benchmark say of its methods: means over seeds, the best baseline, paired differences.

Shapes: P test posts, N resamples.
"""

import zlib
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from .cell_files import Cell
from .methods import BASELINE_NAMES, MM_ORIENT, OWN_METHODS, RIVAL
from .statistics import (
    AVERAGE,
    AVERAGE_AUROC,
    Difference,
    auroc_of_resamples,
    difference_of,
    macro_f1_of_resamples,
    resample_weights,
)


@dataclass
class Results:
    """All finished cells.

    Args:
        cells: every one. orders: set -> its methods in the order they were asked for.
    """

    cells: list[Cell]
    orders: dict[str, list[str]]
    _values: dict = field(init=False, repr=False)

    def __post_init__(self):
        self._values = defaultdict(dict)
        for cell in self.cells:
            for row in cell.rows:
                self._values[cell.set, cell.method, row["split"]][cell.seed, row["task"]] = row

    @property
    def sets(self) -> list[str]:
        return sorted({cell.set for cell in self.cells})

    @property
    def reference(self) -> str:
        """The method that the others are compared with: ours if it is there, else the first."""
        there = {cell.method for cell in self.cells}
        asked = [method for name in self.sets for method in self.orders.get(name, []) if method in there]
        return MM_ORIENT if MM_ORIENT in there else asked[0]

    def methods(self, set_name: str | None = None) -> list[str]:
        """Methods with a finished cell, of a set or of any: ours, each before its variants, then the baselines."""
        there = {cell.method for cell in self.cells if set_name in (None, cell.set)}
        bases = [*OWN_METHODS, *BASELINE_NAMES, RIVAL]
        return sorted(there, key=lambda method: (bases.index(method.partition(":")[0]), method))

    def seeds(self, set_name: str, method: str) -> list[int]:
        return [cell.seed for cell in self.cells if (cell.set, cell.method) == (set_name, method)]

    def tasks(self, set_name: str, metric: str = "macro_f1") -> list[str]:
        """The tasks that have a metric on test, in their order."""
        cells = [cell for cell in self.cells if cell.set == set_name]
        rows = [row for cell in cells for row in cell.rows if row["split"] == "test"]
        return list(dict.fromkeys(row["task"] for row in rows if row[metric] is not None))

    def over_seeds(
        self, set_name: str, method: str, metric: str, task: str = AVERAGE, split: str = "test"
    ) -> list[float]:
        """A metric by seed, of one task or the mean of those that have it; empty where none has."""
        rows, found = self._values[set_name, method, split], defaultdict(list)
        for (seed, name), row in sorted(rows.items()):
            if row[metric] is not None and task in (AVERAGE, name):
                found[seed].append(row[metric])
        return [float(np.mean(values)) for values in found.values()]

    def best_baseline(self, set_names: list[str]) -> str | None:
        """The one with the largest mean macro-F1 on validation over these sets; None where none is in all of them."""
        scores = {}
        for method in BASELINE_NAMES:
            values = [self.over_seeds(name, method, "macro_f1", split="validation") for name in set_names]
            if method != self.reference and all(values):
                scores[method] = float(np.mean([np.mean(found) for found in values]))
        return max(scores, key=scores.get) if scores else None


@dataclass
class Comparison:
    """`reference` minus `other`, macro-F1 by task of one set, or over several sets, and `AVERAGE_AUROC`; `sets`, which have
    both."""

    other: str
    sets: list[str]
    differences: dict[str, Difference]


def compare(results: Results, bootstrap: int) -> dict[str | None, list[Comparison]]:
    """Set -> the comparisons of the reference with every other method; None -> those over all sets that have both, of which
    each counts the same.

    Args:
        bootstrap: resamples N.
    """
    by_set, resampled = {}, defaultdict(dict)
    for name in results.sets:
        scores = _resampled_scores([cell for cell in results.cells if cell.set == name], bootstrap)
        by_set[name] = []
        ours = scores.get(results.reference)
        for other in results.methods(name):
            if ours is None or other == results.reference:
                continue
            seeds = sorted(ours.keys() & scores[other].keys())
            if seeds and ours[seeds[0]]:
                pair = [_over_seeds(method, seeds) for method in (ours, scores[other])]
                resampled[other][name] = pair
                differences = {task: difference_of(pair[0][task], pair[1][task]) for task in pair[0]}
                by_set[name].append(Comparison(other, [name], differences))
    together = []
    for other in (method for method in results.methods() if method in resampled):
        pairs, differences = list(resampled[other].values()), {}
        for average in (AVERAGE, AVERAGE_AUROC):
            ours, theirs = (np.mean([pair[side][average] for pair in pairs], axis=0) for side in (0, 1))
            differences[average] = difference_of(ours, theirs)
        together.append(Comparison(other, list(resampled[other]), differences))
    return by_set | {None: together}


def _resampled_scores(cells: list[Cell], bootstrap: int) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Method -> seed -> task, and `AVERAGE` -> macro-F1 (1 + N,), and `AVERAGE_AUROC` likewise, all of one set on the same
    resamples."""
    weights = resample_weights(len(cells[0].keys), bootstrap, zlib.crc32(cells[0].set.encode()))
    found = defaultdict(dict)
    for cell in cells:
        tasks = [row["task"] for row in cell.rows if row["split"] == "test" and row["macro_f1"] is not None]
        scores = {
            task: macro_f1_of_resamples(
                weights, cell.labels[task], cell.decided[task], cell.probabilities[task].shape[1]
            )
            for task in tasks
        }
        if tasks:
            ranked = [auroc_of_resamples(weights, cell.labels[task], cell.probabilities[task]) for task in tasks]
            ranked = [values for values in ranked if not np.isnan(values[0])] or [np.full(len(weights), np.nan)]
            scores |= {AVERAGE: np.mean(list(scores.values()), axis=0), AVERAGE_AUROC: np.mean(ranked, axis=0)}
        found[cell.method][cell.seed] = scores
    return found


def _over_seeds(scores: dict[int, dict[str, np.ndarray]], seeds: list[int]) -> dict[str, np.ndarray]:
    return {task: np.mean([scores[seed][task] for seed in seeds], axis=0) for task in scores[seeds[0]]}
