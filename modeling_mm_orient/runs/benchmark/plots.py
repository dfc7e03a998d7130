# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Plots of a benchmark, by matplotlib: macro-F1 per method, and our method's differences to the others."""

import statistics
from pathlib import Path

from ...partial_files import whole_file
from .baselines import Majority
from .comparisons import Comparison, Results
from .statistics import AVERAGE

OURS, OTHERS = "#c8501e", "#3c5a78"
FLOOR = Majority.name  # far below the others, which would not be told apart beside it
DOTS_PER_INCH = 150
LONGEST_NAME = 44


def draw(results: Results, comparisons: dict[str | None, list[Comparison]], folder: Path) -> None:
    """Write `macro_f1.png`, a panel per set, and where there is something to compare `differences.png`."""
    sets = [name for name in results.sets if results.tasks(name)]
    if sets:
        _save(_scores(results, sets), folder / "macro_f1.png")
    # over all sets together, those that are in all
    panels = {name: [c for c in found if name or c.sets == results.sets] for name, found in comparisons.items()}
    panels = {name: found for name, found in panels.items() if found and (name or len(results.sets) > 1)}
    if any(comparison.other != FLOOR for found in panels.values() for comparison in found):
        _save(_differences(results, panels), folder / "differences.png")


def _scores(results: Results, sets: list[str]):
    """Mean macro-F1 of every method with its deviation over seeds, and each seed; of what is far below the number alone."""
    methods = results.methods()
    figure, panels = _panels(len(sets), methods)
    for panel, name in zip(panels, sets, strict=True):
        found = {method: results.over_seeds(name, method, "macro_f1") for method in methods}
        found = {method: values for method, values in found.items() if values}
        near = [value for method, values in found.items() if method != FLOOR or len(found) == 1 for value in values]
        margin = 0.15 * (max(near) - min(near)) + 0.005
        left, right = min(near) - margin, max(near) + margin
        for method, values in found.items():
            place, colour = methods.index(method), OURS if method == results.reference else OTHERS
            mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
            if mean < left:
                panel.text(left, place, f" \N{BLACK LEFT-POINTING TRIANGLE} {mean:.3f}", color=colour, va="center")
                continue
            panel.plot(values, [place] * len(values), "|", color=colour, alpha=0.5, markersize=10)
            panel.errorbar(mean, place, xerr=spread, fmt="o", color=colour, capsize=3, markersize=5)
        panel.set_xlim(left, right)
        panel.set_title(name)
        panel.set_xlabel("mean macro-F1 on test")
    return figure


def _differences(results: Results, found: dict[str | None, list[Comparison]]):
    """The reference minus every other method but the majority class, with intervals of the bootstrap."""
    methods = [method for method in results.methods() if method not in (results.reference, FLOOR)]
    figure, panels = _panels(len(found), methods)
    for panel, (name, comparisons) in zip(panels, found.items(), strict=True):
        panel.axvline(0, color="black", linewidth=0.8)
        for comparison in comparisons:
            if comparison.other == FLOOR:
                continue
            difference, place = comparison.differences[AVERAGE], methods.index(comparison.other)
            panel.plot([difference.low, difference.high], [place] * 2, "-|", color=OTHERS)
            panel.plot(difference.value, place, "o", color=OTHERS, markersize=5)
        panel.set_title(name or "all sets")
        panel.set_xlabel(f"{results.reference} minus the other")
    return figure


def _panels(count: int, methods: list[str]):
    """A figure and its panels side by side, with the methods from above."""
    from matplotlib.figure import Figure

    longest = max(len(_short(method)) for method in methods)
    figure = Figure((0.09 * longest + 3.4 * count, 1.2 + 0.32 * len(methods)), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(methods)), [_short(method) for method in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    for panel in panels:
        panel.grid(axis="x", alpha=0.3)
        panel.locator_params(axis="x", nbins=4)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _short(method: str) -> str:
    return method if len(method) <= LONGEST_NAME else method[: LONGEST_NAME - 1] + "…"


def _save(figure, path: Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)
