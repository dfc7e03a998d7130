# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Figures of a report, by matplotlib.

Shapes: N posts, C labels of a task.
"""

from collections.abc import Sequence

import numpy as np

from ..metric_plots import on_figure
from ..scoring import BEST

INK, ACCENT, FAINT = "#2b6cb0", "#c8501e", "#9aa7b4"
MOST_NAMED = 30  # classes whose names fit beside a matrix
MOST_COUNTED = 15  # classes whose numbers fit into its cells


def learning_curves(history: Sequence[dict], best_by: tuple[str, bool] = (BEST, True)):
    """Losses and macro-F1 by epoch, of the Trainer's log; None where no epoch was evaluated. `best_by`: see `kept_by`."""
    evaluated = [entry for entry in history if "eval_loss" in entry]
    if not evaluated:
        return None
    figure = _figure(9.5, 3.3)
    left, right = figure.subplots(1, 2)
    trained = [(entry["epoch"], entry["loss"]) for entry in history if "loss" in entry]
    if trained:
        left.plot(*zip(*trained, strict=True), color=FAINT, marker="o", markersize=3, label="training")
    epochs = [entry["epoch"] for entry in evaluated]
    left.plot(epochs, [e["eval_loss"] for e in evaluated], color=INK, marker="o", markersize=3, label="validation")
    left.set(xlabel="epoch", ylabel="loss", title="loss")
    means = [entry["eval_mean_macro_f1"] for entry in evaluated]
    tasks = [name for name in evaluated[-1] if name.endswith("_macro_f1") and name != f"eval_{BEST}"]
    for name in tasks:
        values = [entry.get(name, np.nan) for entry in evaluated]
        shown = on_figure(name.removeprefix("eval_").removesuffix("_macro_f1"))
        right.plot(epochs, values, linewidth=1, alpha=0.75, label=shown)
    right.plot(epochs, means, color="black", linewidth=2, marker="o", markersize=3, label="mean")
    metric, more_is_better = best_by
    scores = np.array([entry.get(f"eval_{metric}", np.nan) for entry in evaluated]) * (1 if more_is_better else -1)
    if np.isfinite(scores).any():
        best = int(np.nanargmax(scores))
        right.axvline(epochs[best], color=ACCENT, linewidth=1, linestyle=":")
    right.set(xlabel="epoch", ylabel="validation macro-F1" if tasks else "score", title="the dotted epoch was kept")
    right.legend(fontsize=7, frameon=False, ncols=2)
    left.legend(fontsize=8, frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_matrix(labels: list[str], truth: np.ndarray, decided: np.ndarray):
    """`truth` and `decided` (N,) class numbers: a row per true class, shaded by the share of it that was decided so."""
    count = len(labels)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (truth, decided), 1)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(9.0, 2.0 + 0.48 * count)
    figure = _figure(side + 0.6, side)
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= MOST_COUNTED:
        for row, column in np.ndindex(matrix.shape):
            if matrix[row, column]:
                colour = "white" if shares[row, column] > 0.6 else "black"
                axis.text(column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=colour)
    if count <= MOST_NAMED:
        names = [on_figure(label) for label in labels]
        axis.set_xticks(range(count), names, rotation=40, ha="right", fontsize=8)
        axis.set_yticks(range(count), names, fontsize=8)
    axis.set(xlabel="decided", ylabel="labelled")
    return figure


def values_against_truth(truth: np.ndarray, values: np.ndarray):
    """A regression's `values` (N,) against `truth` (N,)."""
    figure = _figure(4.2, 4.0)
    axis = figure.subplots()
    low, high = min(truth.min(), values.min()), max(truth.max(), values.max())
    axis.plot([low, high], [low, high], "--", color="0.6", linewidth=1)
    axis.scatter(truth, values, s=10, alpha=0.5, color=INK, linewidths=0)
    axis.set(xlabel="labelled", ylabel="predicted")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
