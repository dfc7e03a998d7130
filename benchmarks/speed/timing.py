# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Times of several ways to do the same thing, taken in turn within one run."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Median and spread (largest minus smallest) in seconds."""

    median: float
    spread: float

    def __str__(self) -> str:
        return f"{self.median * 1000:.3g} ± {self.spread * 500:.2g} ms"


def in_turn(ways: dict[str, Callable[[], object]], repeats: int, least_seconds: float = 0.0) -> dict[str, Timing]:
    """Time every way `repeats` times, one after another in each round, after one untimed call of each.

    Args:
        least_seconds: a way that takes less is called several times per measurement.
    """
    calls = {}
    for name, way in ways.items():
        way()
        start = time.perf_counter()
        way()
        calls[name] = max(1, round(least_seconds / max(1e-9, time.perf_counter() - start)))
    times = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                for _ in range(calls[name]):
                    way()
                times[name].append((time.perf_counter() - start) / calls[name])
    finally:
        gc.enable()
    return {name: Timing(statistics.median(t), max(t) - min(t)) for name, t in times.items()}


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first column is left-aligned."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
