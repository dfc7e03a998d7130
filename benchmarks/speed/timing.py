# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Times of several ways to do the same thing, taken in turn within one run, as tables and plots."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """Median and spread (largest minus smallest; of more than 10 without the tenth at either end) in seconds."""

    median: float
    spread: float

    def __str__(self) -> str:
        return f"{_three_digits(self.median * 1000)} ± {self.spread * 500:.2g} ms"


def in_turn(
    ways: dict[str, Callable[[], object]], repeats: int, least_seconds: float = 0.0, together: float = 0.0
) -> dict[str, Timing]:
    """Time every way, one after another in rounds, every other round backwards: none always follows the same one.

    A way that takes five times as long as the fastest is timed once.

    Args:
        repeats: rounds, at least.
        least_seconds: a way that takes less is called several times per measurement, after one untimed call.
        together: seconds that the rounds go on for, at least.
    """
    calls, times = {}, {}
    for name, way in ways.items():
        seconds = _seconds(way, 1)
        if seconds < 1:  # what is made once was in that
            seconds = _seconds(way, 1)
        calls[name], times[name] = max(1, round(least_seconds / max(1e-9, seconds))), [seconds]
    fast = [name for name in ways if times[name][0] < 5 * min(seconds for [seconds] in times.values())]
    times |= {name: [] for name in fast}
    number, start = 0, time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while number < repeats or time.perf_counter() - start < together:
            for name in fast[:: -1 if number % 2 else 1]:
                if calls[name] > 1:
                    ways[name]()
                times[name].append(_seconds(ways[name], calls[name]))
            number += 1
    finally:
        gc.enable()
    return {name: timing_of(t) for name, t in times.items()}


def again(way: Callable[[], object], repeats: int, together: float) -> Timing:
    """Time a way by itself, call by call, after a first one that does not count; for `together` seconds at least."""
    way()
    times = []
    while len(times) < repeats or sum(times) < together:
        times.append(_seconds(way, 1))
    return timing_of(times)


def timing_of(times: list[float]) -> Timing:
    """Of single measurements in seconds."""
    times, outer = sorted(times), len(times) // 10 if len(times) > 10 else 0
    return Timing(statistics.median(times), times[-1 - outer] - times[outer])


def _three_digits(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(way: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - start) / calls


def plot_bars(path: Path, groups: dict[str, dict[str, float]], axis: str, logarithmic: bool = False) -> None:
    """Write a picture with a group of bars per key, in each a bar per way."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    height = 0.8 / len(names)
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.25 * len(names) * len(groups)))
    for number, name in enumerate(names):
        places = [row + number * height for row, group in enumerate(groups.values()) if name in group]
        axes.barh(places, [group[name] for group in groups.values() if name in group], height, label=name)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(groups))], groups)
    axes.set(xlabel=axis, xscale="log" if logarithmic else "linear")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first column is left-aligned."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
