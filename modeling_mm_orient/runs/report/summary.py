# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What was learned, in a few lines: against the majority and the best single baseline, what is weak, and what to try."""

from dataclasses import dataclass

from ...tasks import kind_of
from ..single_baselines import best_single

NOTHING = 0.02  # of macro-F1 above the majority: less is chance
BEHIND = 0.01
FEW = 20  # training posts of a class, or posts to judge a task by
LONGEST_NAME = 40
FAR_FROM_SURE = 0.1  # calibration error


@dataclass
class TaskSummary:
    """One task: `score` and what it stands beside, in macro-F1 (of a regression in mean squared error, where less is
    better), None where no post has a label; `baseline` None where there is none; `notes`: what is weak, what to try."""

    task: str
    metric: str
    score: float | None
    majority: float | None
    baseline: float | None
    notes: list[str]


def summarise(
    tasks: list[dict], metrics: dict, baselines: dict[str, dict], split: str, counts: dict[str, dict]
) -> tuple[list[TaskSummary], str | None]:
    """Each task, and which baseline they stand beside, where it was measured on the same posts.

    Args:
        metrics: of one split. baselines: see `single_baselines`. counts: task -> label -> training posts.
    """
    best = best_single(baselines)
    theirs = {} if best is None else baselines[best].get(split, {})
    entries = []
    for task in tasks:
        found, of_baseline = metrics.get(task["name"]), theirs.get(task["name"], {})
        if found is None:
            metric = "macro-F1" if kind_of(task).is_classification else "mse"
            entries.append(TaskSummary(task["name"], metric, None, None, None, ["no post here has a label"]))
            continue
        of_baseline = of_baseline if _of_same_posts(found, of_baseline) else {}
        entries.append(_of_task(task, found, of_baseline, counts.get(task["name"], {}), best))
    return entries, best if any(entry.baseline is not None for entry in entries) else None


def _of_same_posts(found: dict, theirs: dict) -> bool:
    """Whether what the data alone decide is equal."""
    return all(found.get(name) == theirs.get(name) for name in ("posts", "majority_macro_f1", "mean_predictor_mse"))


def _of_task(task: dict, found: dict, theirs: dict, counts: dict, best: str | None) -> TaskSummary:
    name = task["name"]
    if not kind_of(task).is_classification:
        mean, baseline = found["mean_predictor_mse"], theirs.get("mse")
        if found["posts"] < FEW:
            return TaskSummary(name, "mse", found["mse"], mean, baseline, [_too_few(found["posts"])])
        notes = []
        if found["mse"] >= mean * (1 - NOTHING):
            notes.append("nothing learned: the mean is as good a guess")
        if baseline is not None and baseline < found["mse"] * (1 - BEHIND):
            notes.append(f"{best} alone is nearer")
        return TaskSummary(name, "mse", found["mse"], mean, baseline, notes)
    score, majority, baseline = found["macro_f1"], found["majority_macro_f1"], theirs.get("macro_f1")
    enough = found["posts"] >= FEW
    notes = [] if enough else [_too_few(found["posts"])]
    if enough and score < majority + NOTHING:
        notes.append("nothing learned: check the labels, or that picture and text can tell")
    if enough and baseline is not None and baseline > score + BEHIND:
        notes.append(f"{best} alone is better: more seeds tell whether by chance (mm-orient benchmark)")
    if rare := {label: count for label, count in counts.items() if count < FEW}:
        said = ", ".join(
            f"{_short(label)} ({count})" for label, count in sorted(rare.items(), key=lambda item: item[1])[:3]
        )
        notes.append(f"few training posts of {said}{' and others' if len(rare) > 3 else ''}: label more of them")
    unseen = [_short(label) for label, f1 in zip(task["labels"], _f1(found), strict=True) if f1 == 0]
    if enough and unseen and score >= majority + NOTHING:
        notes.append(f"never right about {', '.join(unseen[:3])}{' and others' if len(unseen) > 3 else ''}")
    if enough and found["calibration_error"] > FAR_FROM_SURE:
        notes.append(f"probabilities are off by {found['calibration_error']:.2f}: read decisions, not percentages")
    return TaskSummary(name, "macro-F1", score, majority, baseline, notes)


def _too_few(posts: int) -> str:
    return f"{posts} post{'s' if posts > 1 else ''} with a label here: too few to judge by"


def _short(name: str) -> str:
    """A name of a user's on one line with others."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…"


def _f1(found: dict) -> list[float]:
    pairs = zip(found["precision"], found["recall"], found["support"], strict=True)
    return [2 * p * r / (p + r) if p + r else (0.0 if support else 1.0) for p, r, support in pairs]


def summary_text(tasks: list[TaskSummary], best: str | None, split: str) -> str:
    """The summary for a terminal."""
    names = [_short(entry.task) for entry in tasks]
    width = max((len(name) for name in names), default=0)
    against = {"macro-F1": "the majority class", "mse": "the mean (of mse less is better)"}
    said = " or ".join(said for metric, said in against.items() if any(entry.metric == metric for entry in tasks))
    beside = "" if best is None else f", {best} (the best single baseline on validation)"
    where = f"{split}, posts that it learned from" if split == "train" else split
    lines = [f"on {where}: the run, {said}{beside}"]
    for name, entry in zip(names, tasks, strict=True):
        scores = [score for score in (entry.score, entry.majority, entry.baseline) if score is not None]
        lines.append(f"  {name:{width}}  {entry.metric} {'  '.join(f'{score:.3f}' for score in scores) or 'unknown'}")
        lines += [f"  {'':{width}}    {note}" for note in entry.notes]
    return "\n".join(lines)
