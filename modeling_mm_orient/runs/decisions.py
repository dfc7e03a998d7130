# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How a task's probabilities become a decision (ours), fitted on validation posts: a temperature and offsets.

The temperature makes probabilities as often right as they say (Guo et al. 2017). Offsets are added to log-probabilities, of
several labels to log-odds: for the largest macro-F1 that probabilities let expect, or for a precision or recall that is
asked for.

Shapes: N validation posts with a label, C labels of a task.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from ..tasks import kind_of, probabilities_of

logger = logging.getLogger(__name__)

FEWEST_POSTS = 50  # with fewer nothing is fitted
LEAST_GAIN = 0.01  # of expected macro-F1, for offsets to be kept
# how much is drawn to none, beside a summed loss: of squared biases, of a temperature's squared logarithm
CAUTION_OF_BIASES, CAUTION_OF_TEMPERATURE = 10.0, 1.0
ROUNDS = 3  # of coordinate ascent
HOTTEST = 20.0
QUANTILES = 21  # of doubt


@dataclass(frozen=True)
class Aim:
    """What a task's decisions are for: `"macro_f1"`, `"most_probable"` (no rule), or a least `"precision"` or `"recall"`."""

    kind: str
    least: float = 0.0


def aims_of(rules: list[str], tasks: list[dict]) -> dict[str, Aim]:
    """Task name -> aim, from `KIND` for all tasks and `TASK=KIND` for one: `macro_f1` (default), `most_probable`,
    `precision:P` or `recall:R`.

    Raises:
        ValueError: a rule of another form, for no such task, or one that the task cannot have.
    """
    named = {task["name"]: task for task in tasks if kind_of(task).is_classification}
    aims = dict.fromkeys(named, Aim("macro_f1"))
    names = [rule.rpartition("=")[0] for rule in rules]
    for rule, name in zip(rules, names, strict=True):
        if names.count(name) > 1 and len({other for other in rules if other.rpartition("=")[0] == name}) > 1:
            raise ValueError(f"--decide {rule}: there is another rule for {repr(name) if name else 'all tasks'}")
    for rule in sorted(rules, key=lambda rule: "=" in rule):
        name, of_one, text = rule.rpartition("=")
        if of_one and name not in named:
            raise ValueError(f"--decide {rule}: {name!r} is no task with labels; there are {', '.join(named)}")
        aim = _aim(rule, text)
        if not named and aim.least:
            raise ValueError(f"--decide {rule}: there is no task with labels")
        for task in [name] if name else named:
            if aim.kind in ("precision", "recall") and not kind_of(named[task]).has_positives(named[task]):
                raise ValueError(
                    f"--decide {rule}: {task!r} has {len(named[task]['labels'])} classes, of two the second counts"
                )
            aims[task] = aim
    return aims


def fit_decisions(
    tasks: list[dict], logits: dict[str, Tensor], labels: dict[str, Tensor], aims: dict[str, Aim]
) -> list[dict]:
    """The tasks with `temperature`, `decision_offsets` and `doubts` fitted to validation posts.

    Args:
        logits: task name -> (N, C). labels: task name -> as the model takes them, missing ones included.
        aims: task name -> what for.
    """
    fitted = []
    for task in tasks:
        kind, truth = kind_of(task), torch.as_tensor(labels[task["name"]])
        known = kind.known(truth)
        if task["name"] in aims and int(known.sum()) >= FEWEST_POSTS:
            values, truth = torch.as_tensor(logits[task["name"]])[known].double(), truth[known]
            task = task | {"temperature": fit_temperature(task, values, truth), "decision_offsets": None}
            scores = np.maximum(probabilities_of([task], {task["name"]: values})[task["name"]].double().numpy(), 1e-12)
            task = task | {"decision_offsets": _offsets(task, scores, truth.numpy(), aims[task["name"]])}
            doubts = np.quantile(kind.doubt(task, torch.from_numpy(scores)).numpy(), np.linspace(0, 1, QUANTILES))
            task = task | {"doubts": doubts.tolist()}  # to the last digit: of sure posts they are below 1e-6
        elif task["name"] in aims and aims[task["name"]].kind != "macro_f1":
            logger.warning(
                "%s: fewer than %d validation posts have a label, no rule is fitted", task["name"], FEWEST_POSTS
            )
        fitted.append(task)
    return fitted


def fit_temperature(task: dict, logits: Tensor, labels: Tensor) -> float:
    """By what `logits` (N, C) are best divided, for the likelihood of `labels`; drawn to 1, or few posts that are all told
    right would have it 0."""

    def loss(log_temperature: float) -> float:
        losses, _ = kind_of(task).losses(logits / float(np.exp(log_temperature)), labels, None, 0.0)
        return float(losses.sum()) + CAUTION_OF_TEMPERATURE * log_temperature**2

    found = minimize_scalar(loss, bounds=(-np.log(HOTTEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def _aim(rule: str, text: str) -> Aim:
    kind, _, least = text.partition(":")
    try:
        aim = Aim(kind, float(least) if least else 0.0)
    except ValueError:
        aim = Aim("")
    wants = aim.kind in ("precision", "recall")
    if (
        aim.kind not in ("macro_f1", "most_probable", "precision", "recall")
        or wants != bool(least)
        or wants != (0 < aim.least <= 1)
    ):
        raise ValueError(f"--decide {rule}: want [TASK=]macro_f1, most_probable, precision:P or recall:R")
    return aim


def _offsets(task: dict, scores: np.ndarray, labels: np.ndarray, aim: Aim) -> list[float] | None:
    if aim.kind == "most_probable":
        return None
    if aim.kind == "macro_f1":
        expected = _expected(task, scores, labels)
        offsets = (_class_offsets if labels.ndim == 1 else _label_offsets)(scores, expected)
        gain = _expected_f1(task, scores, expected, offsets) - _expected_f1(task, scores, expected, None)
        offsets = offsets if gain >= LEAST_GAIN else None
    elif labels.ndim == 1:
        offset, reached = _offset_for(aim, _log_odds(scores[:, 1]), labels == 1)
        offsets = np.array([0.0, offset])
        _say(task, aim, task["labels"][1], reached)
    else:
        found = [_offset_for(aim, _log_odds(scores[:, c]), labels[:, c] == 1) for c in range(scores.shape[1])]
        offsets = np.array([offset for offset, _ in found])
        for label, (_, reached) in zip(task["labels"], found, strict=True):
            _say(task, aim, label, reached)
    return None if offsets is None else [round(float(offset), 6) for offset in offsets]


def _expected(task: dict, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How probable it is that a label is one of a post's, (N, C): `scores` with a bias per label, drawn to none, under which
    `labels` are likeliest; 0 of a label that none of these posts has."""
    # what is counted on posts instead is followed too closely: a rare label has few of them
    kind, truth = kind_of(task), torch.from_numpy(labels)
    values = torch.from_numpy(np.log(scores) if labels.ndim == 1 else _log_odds(scores))

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        bias = torch.tensor(at, requires_grad=True)
        total = kind.losses(values + bias, truth, None, 0.0)[0].sum() + CAUTION_OF_BIASES * bias.square().sum()
        total.backward()
        return float(total.detach()), bias.grad.numpy()

    bias = minimize(loss, np.zeros(scores.shape[1]), jac=True, method="L-BFGS-B").x
    there = (labels[:, None] == np.arange(len(bias)) if labels.ndim == 1 else labels == 1).any(0)
    return kind.probabilities(values + torch.from_numpy(bias)).double().numpy() * there


def _expected_f1(task: dict, scores: np.ndarray, expected: np.ndarray, offsets: np.ndarray | None) -> float:
    """The macro-F1 of what `scores` come to by `offsets`, if labels are as probable as `expected` says."""
    rule = task | {"decision_offsets": None if offsets is None else offsets.tolist()}
    decided = kind_of(task).decided(rule, torch.from_numpy(scores)).numpy()
    given = decided if decided.ndim > 1 else np.eye(scores.shape[1])[decided]
    f1 = 2 * (given * expected).sum(0) / np.maximum(given.sum(0) + expected.sum(0), 1e-9)
    return float(f1.mean())


def _class_offsets(scores: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Offsets (C,) of one class among C, by coordinate ascent on expected macro-F1; of equals those that change least."""
    logs, offsets, best = np.log(scores), np.zeros(scores.shape[1]), -1.0
    for _ in range(ROUNDS):
        before = best
        for c in range(logs.shape[1]):
            offsets[c], best = _best_offset(logs + offsets, expected, c, offsets[c])
        if best - before < 1e-9:
            break
    return offsets - offsets.mean()


def _best_offset(values: np.ndarray, expected: np.ndarray, c: int, now: float) -> tuple[float, float]:
    """The offset of class `c` with the largest macro-F1, where `values` (N, C) have the offset `now`, and that macro-F1.

    As it rises, one post after the other is given to `c`: all the tables of right and given posts are sums along that order.
    """
    count, classes = values.shape
    rest = values.copy()
    rest[:, c] = -np.inf
    other = rest.argmax(1)
    margins = rest[np.arange(count), other] - values[:, c]  # from which rise on a post is given to `c`
    order = np.argsort(margins, kind="stable")
    given, right = np.zeros((count + 1, classes)), np.zeros((count + 1, classes))
    given[0] = np.bincount(other, minlength=classes)
    right[0] = np.bincount(other, expected[np.arange(count), other], classes)
    steps, lost = np.arange(1, count + 1), other[order]
    given[steps, lost], given[steps, c] = -1, 1
    right[steps, lost], right[steps, c] = -expected[order, lost], expected[order, c]
    f1 = (2 * right.cumsum(0) / np.maximum(given.cumsum(0) + expected.sum(0), 1e-9)).mean(1)
    sorted_margins = margins[order]
    edges = np.concatenate([[sorted_margins[0] - 1], sorted_margins, [sorted_margins[-1] + 1]])
    rises = (edges[:-1] + edges[1:]) / 2
    apart = edges[1:] - edges[:-1] > 1e-12  # of equals none is given without the others
    rises, f1 = np.append(rises[apart], 0.0), np.append(f1[apart], f1[np.searchsorted(sorted_margins, 0.0)])
    best = np.lexsort((np.abs(rises), -np.round(f1, 9)))[0]
    return now + rises[best], float(f1[best])


def _label_offsets(scores: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Offsets (C,) of several labels, each for its own expected F1; 0 where no post is expected to have it."""
    totals, offsets = expected.sum(0), np.zeros(scores.shape[1])
    for c in np.flatnonzero(totals):
        odds = np.sort(_log_odds(scores[:, c]))[::-1]
        likely = np.sort(expected[:, c])[::-1]  # a bias changes no order
        f1 = 2 * likely.cumsum() / (np.arange(1, len(odds) + 1) + totals[c])
        f1[:-1][odds[:-1] == odds[1:]] = -1.0  # of equals none is given without the others
        best = f1.argmax()
        below = odds[best + 1] if best + 1 < len(odds) else odds[best] - 1
        offsets[c] = -(odds[best] + below) / 2
    return offsets


def _offset_for(aim: Aim, odds: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The offset of a label with the largest recall of those that reach a precision, or the other way round, and what it
    reaches; where none does, the one that comes nearest; 0 where no post has the label."""
    if not truth.any():
        return 0.0, 0.0
    order = np.argsort(-odds, kind="stable")
    falling, hits = odds[order], truth[order].cumsum()
    below = np.append(falling[1:], falling[-1] - 2)
    ends = falling > below  # of equals none is decided without the others
    cuts, given, hits = ((falling + below) / 2)[ends], np.arange(1, len(odds) + 1)[ends], hits[ends]
    found = {"precision": hits / given, "recall": hits / truth.sum()}
    wanted, other = found[aim.kind], found["recall" if aim.kind == "precision" else "precision"]
    reached = wanted >= aim.least
    best = np.lexsort((np.abs(cuts), -np.where(reached, other, wanted), ~reached))[0]
    return -float(cuts[best]), float(wanted[best])


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    bounded = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return np.log(bounded) - np.log1p(-bounded)


def _say(task: dict, aim: Aim, label: str, reached: float) -> None:
    if reached < aim.least:
        logger.warning(
            "%s: %s of %r comes to %.3f on validation, not %g", task["name"], aim.kind, label, reached, aim.least
        )
