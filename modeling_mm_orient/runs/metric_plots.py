# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A run's probabilities and verdicts as a picture, by matplotlib: how often probabilities are right, and what is gained by
leaving the doubtful to a person."""

from pathlib import Path

from ..partial_files import whole_file

DOTS_PER_INCH = 130
BEFORE, AFTER = "#9aa7b4", "#c8501e"
LONGEST_NAME = 24


def plot_metrics(metrics: dict, path) -> None:
    """Write `metrics_figure` as a PNG to `path`; nothing without a task with labels."""
    figure = metrics_figure(metrics)
    if figure is not None:
        with whole_file(Path(path)) as partial:
            figure.savefig(partial, dpi=DOTS_PER_INCH, format="png")


def on_figure(name: str) -> str:
    """A name of a user's on a figure: no formula, on one line, and with room for what else is there."""
    short = " ".join(name.split())
    short = short if len(short) <= LONGEST_NAME else f"{short[: LONGEST_NAME - 1]}…"
    return short.replace("$", r"\$")


def metrics_figure(metrics: dict):
    """A figure with a row per task with labels, its reliability and its error against coverage; None without such a task.

    Args:
        metrics: of one split, see `metrics_of_logits`.
    """
    from matplotlib.figure import Figure

    tasks = {name: found for name, found in metrics.items() if isinstance(found, dict) and "reliability" in found}
    if not tasks:
        return None
    figure = Figure(figsize=(8.4, 3.4 * len(tasks)), layout="constrained")
    rows = figure.subplots(len(tasks), 2, squeeze=False)
    for (name, found), (left, right) in zip(tasks.items(), rows, strict=True):
        _reliability(left, name, found)
        _coverage(right, name, found)
    return figure


def _reliability(axis, name: str, found: dict) -> None:
    axis.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1)
    curves = {"before": ("_before", BEFORE), "at its temperature": ("", AFTER)}
    for label, (ending, colour) in curves.items():
        table = found.get(f"reliability{ending}")
        if table is not None:
            said, right, posts = zip(*table, strict=True)
            error = found[f"calibration_error{ending}"]
            axis.plot(said, right, "-", color=colour, linewidth=1.5, label=f"{label}, error {error:.3f}")
            axis.scatter(said, right, s=[8 + 120 * count / sum(posts) for count in posts], color=colour)
    axis.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="probability", ylabel="share that is right")
    axis.set_title(f"{on_figure(name)}: calibration")
    axis.legend(loc="lower right", fontsize=8, frameon=False)


def _coverage(axis, name: str, found: dict) -> None:
    kept, errors = zip(*found["coverage"], strict=True)
    axis.plot(kept, errors, "o-", color=AFTER, markersize=3, linewidth=1.5)
    axis.set(xlim=(0, 1.02), ylim=(0, max(0.05, 1.15 * max(errors))), xlabel="share of posts decided", ylabel="error")
    axis.set_title(f"{on_figure(name)}: error by coverage")
    axis.grid(alpha=0.3)
