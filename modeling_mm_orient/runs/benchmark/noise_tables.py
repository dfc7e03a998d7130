# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The noise study for readers: Markdown tables, and a picture of every curve."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from ...data.degradation import DEGRADATIONS
from ...partial_files import whole_file
from ..markdown import plain, table
from .methods import MM_ORIENT
from .noise import NoiseArea, NoiseRow, NoiseSummary, means_over_tasks, noise_areas, noise_summary

PANELS_PER_ROW = 4
MARKERS = "osD^vPX*<>"


def noise_report(rows: Sequence[NoiseRow]) -> str:
    """The tables, with what their columns mean: over all tasks, then task by task."""
    means = noise_areas(means_over_tasks(rows))
    return (
        "Macro-F1 on sound posts, its mean over all degradations and strengths, the mean area under its curves, and the "
        "share of the sound posts' macro-F1 that the area is; ± is the deviation over seeds. Means over the tasks of a "
        "set:\n\n"
        f"{summary_table(noise_summary(means))}\n"
        "The share of macro-F1 kept under each degradation, mean over seeds:\n\n"
        f"{kept_table(means)}\n"
        "Task by task:\n\n"
        f"{summary_table(noise_summary(noise_areas(rows)))}"
    )


def summary_table(summaries: Sequence[NoiseSummary]) -> str:
    """A line per set, task and method, the largest area first."""
    lines = [
        [
            *(summary.set, plain(summary.task), summary.method, str(summary.seeds), f"{summary.clean:.3f}"),
            f"{summary.mean:.3f} ± {summary.mean_deviation:.3f}",
            f"{summary.area:.3f}",
            "-" if summary.kept is None else f"{summary.kept:.1%} ± {100 * summary.kept_deviation:.1f}",
        ]
        for summary in sorted(summaries, key=lambda s: (s.set, s.task, -s.area))
    ]
    return table(["set", "task", "method", "seeds", "sound", "under noise", "area", "kept"], lines)


def kept_table(areas: Sequence[NoiseArea]) -> str:
    """A line per set, task and method, a column per degradation."""
    found, names = defaultdict(lambda: defaultdict(list)), list(dict.fromkeys(area.degradation for area in areas))
    for area in areas:
        if area.kept is not None:
            found[area.set, plain(area.task), area.method][area.degradation].append(area.kept)
    lines = [
        [*where, *(f"{fmean(kept[name]):.1%}" if kept[name] else "-" for name in names)]
        for where, kept in sorted(found.items())
    ]
    return table(["set", "task", "method", *(spoken(name) for name in names)], lines)


def plot_noise(rows: Sequence[NoiseRow], path) -> Path:
    """A PNG: a panel per degradation, a line per method, macro-F1 over strength; the band is the deviation over seeds.

    Values are means over the sets' tasks. Needs matplotlib.

    Raises:
        ValueError: no rows.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("there is nothing to plot")
    names = list(dict.fromkeys(row.degradation for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    across = min(PANELS_PER_ROW, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(3.4 * across, 2.9 * down + 0.6), layout="constrained")
    axes = figure.subplots(down, across, sharey=True, squeeze=False)
    for number, method in enumerate(methods):
        ours = method == MM_ORIENT
        for axis, name in zip(axes.flat, names, strict=False):
            strengths, means, deviations = curve([r for r in rows if (r.method, r.degradation) == (method, name)])
            colour = "black" if ours else colormaps["tab20"](number % 20)
            line = {"marker": MARKERS[number % len(MARKERS)], "color": colour, "markersize": 4}
            line |= {"linewidth": 2.2 if ours else 1.2, "zorder": 3 if ours else 2}
            axis.plot(strengths, means, label=method, **line)
            axis.fill_between(strengths, means - deviations, means + deviations, color=line["color"], alpha=0.15)
    for axis, name in zip(axes.flat, names, strict=False):
        unit = DEGRADATIONS[name].unit if name in DEGRADATIONS else "strength"
        axis.set_title(spoken(name), fontsize=11)
        axis.set_xlabel(unit, fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("macro-F1")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(across + 1, len(methods)), frameon=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return path


def curve(rows: Sequence[NoiseRow]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strengths, and the mean and deviation over seeds of macro-F1 there, itself a mean over sets and tasks; each (S,)."""
    strengths, values = sorted({row.strength for row in rows}), defaultdict(list)
    for row in rows:
        values[row.strength, row.seed, row.noise_seed].append(row.macro_f1)
    by_seed = [[fmean(values[key]) for key in values if key[0] == strength] for strength in strengths]
    deviations = [np.std(found, ddof=1) if len(found) > 1 else 0.0 for found in by_seed]
    return np.array(strengths), np.array([fmean(found) for found in by_seed]), np.array(deviations)


def spoken(name: str) -> str:
    """A degradation's name for readers."""
    return name.replace("_", " ")
