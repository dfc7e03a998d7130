# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What was learned, in a few lines: against the majority and the best single baseline, what is weak, and what to try."""

from dataclasses import dataclass

from ...tasks import kind_of
from ..single_baselines import best_single

NOTHING = 0.02  # of macro-F1 above the majority: less is chance
BEHIND = 0.01
FEW = 20  # training posts of a class
FAR_FROM_SURE = 0.1  # calibration error


@dataclass
class TaskSummary:
    """One task: `score` and what it stands beside, in macro-F1 (of a regression in mean squared error, where less is
    better); `baseline` None where there is none; `notes` say what is weak and what to try."""

    task: str
    metric: str
    score: float
    majority: float
    baseline: float | None
    notes: list[str]


def summarise(
    tasks: list[dict], metrics: dict, baselines: dict[str, dict], split: str, counts: dict[str, dict]
) -> tuple[list[TaskSummary], str | None]:
    """Each task that has a label in the split, and which baseline they stand beside.

    Args:
        metrics: of one split. baselines: see `single_baselines`. counts: task -> label -> training posts.
    """
    best = best_single(baselines)
    theirs = {} if best is None else baselines[best].get(split, {})
    return [
        _of_task(task, metrics[task["name"]], theirs.get(task["name"], {}), counts.get(task["name"], {}), best)
        for task in tasks
        if task["name"] in metrics
    ], best


def _of_task(task: dict, found: dict, theirs: dict, counts: dict, best: str | None) -> TaskSummary:
    name = task["name"]
    if not kind_of(task).is_classification:
        mean, baseline = found["mean_predictor_mse"], theirs.get("mse")
        notes = []
        if found["mse"] >= mean * (1 - NOTHING):
            notes.append("nothing learned: the mean is as good a guess")
        if baseline is not None and baseline < found["mse"] * (1 - BEHIND):
            notes.append(f"{best} alone is nearer")
        return TaskSummary(name, "mse", found["mse"], mean, baseline, notes)
    score, majority, baseline = found["macro_f1"], found["majority_macro_f1"], theirs.get("macro_f1")
    notes = []
    if score < majority + NOTHING:
        notes.append("nothing learned: check the labels, or that picture and text can tell")
    if baseline is not None and baseline > score + BEHIND:
        notes.append(f"{best} alone is better: more seeds tell whether by chance (mm-orient benchmark)")
    if rare := {label: count for label, count in counts.items() if count < FEW}:
        said = ", ".join(f"{label} ({count})" for label, count in sorted(rare.items(), key=lambda item: item[1])[:3])
        notes.append(f"few training posts of {said}{' and others' if len(rare) > 3 else ''}: label more of them")
    unseen = [label for label, f1 in zip(task["labels"], _f1(found), strict=True) if f1 == 0]
    if unseen and score >= majority + NOTHING:
        notes.append(f"never right about {', '.join(unseen[:3])}{' and others' if len(unseen) > 3 else ''}")
    if found["calibration_error"] > FAR_FROM_SURE:
        notes.append(f"probabilities are off by {found['calibration_error']:.2f}: read decisions, not percentages")
    return TaskSummary(name, "macro-F1", score, majority, baseline, notes)


def _f1(found: dict) -> list[float]:
    pairs = zip(found["precision"], found["recall"], found["support"], strict=True)
    return [2 * p * r / (p + r) if p + r else (0.0 if support else 1.0) for p, r, support in pairs]


def summary_text(tasks: list[TaskSummary], best: str | None, split: str) -> str:
    """The summary for a terminal."""
    width = max((len(entry.task) for entry in tasks), default=0)
    beside = "" if best is None else f", {best} (the best single baseline on validation)"
    lines = [f"on {split}: the run, the majority class{beside}"]
    for entry in tasks:
        baseline = "" if entry.baseline is None else f"  {entry.baseline:.3f}"
        lines.append(f"  {entry.task:{width}}  {entry.metric} {entry.score:.3f}  {entry.majority:.3f}{baseline}")
        lines += [f"  {'':{width}}    {note}" for note in entry.notes]
    return "\n".join(lines)
