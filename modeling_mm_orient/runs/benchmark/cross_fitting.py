# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The one protocol of all baselines: a small search, five models that each leave a part of the training and validation posts
out, a rule.

Shapes: N posts, C labels of a task.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..decisions import aims_of, fit_decisions
from .baselines import Baseline, ImageOnly, Linear, Majority, NearestNeighbours, TextOnly, TfIdf
from .features import PostArrays
from .networks import Concatenation, CrossAttention, GatedFusion, HateClipper, LateFusion
from .selection import validation_score

logger = logging.getLogger(__name__)

FOLDS = 5
SEARCH_SEED = 0
BASELINES: dict[str, Baseline] = {
    kind.name: kind()
    for kind in (
        Majority, TfIdf, TextOnly, ImageOnly, Linear, NearestNeighbours,
        Concatenation, LateFusion, GatedFusion, CrossAttention, HateClipper,
    )
}  # fmt: skip


@dataclass
class Outcome:
    """What a method comes to: tasks with their fitted rule, split -> task name -> logits, what was chosen, and what gives
    logits of other posts."""

    tasks: list[dict]
    logits: dict[str, dict[str, Tensor]]
    setting: dict = field(default_factory=dict)
    predict: Callable | None = None


def search(baseline: Baseline, posts: dict[str, PostArrays], tasks: list[dict]) -> dict:
    """The value of the hyper-parameter with the best score on validation, fitted to all training posts.

    Returns:
        `{hyper-parameter: value, "validation": {value: score}}`, empty where there is nothing to choose.
    """
    if not baseline.values:
        return {}
    scores = {}
    for value in baseline.values:
        predict = baseline.fit(posts["train"], posts["validation"], tasks, value, SEARCH_SEED)
        scores[value] = validation_score(tasks, predict(posts["validation"]), posts["validation"].labels)
    best = max(scores, key=scores.get)
    return {baseline.hyper_parameter: best, "validation": {f"{value:g}": round(s, 4) for value, s in scores.items()}}


def is_choice(baseline: Baseline, setting: dict) -> bool:
    """Whether `setting` is what `search` may give."""
    return not baseline.values or setting.get(baseline.hyper_parameter) in baseline.values


def cross_fitted(
    baseline: Baseline,
    posts: dict[str, PostArrays],
    tasks: list[dict],
    setting: dict,
    seed: int,
    decide: Sequence[str] = (),
) -> Outcome:
    """Fit a model per fold of the training and validation posts to the other folds, and a rule to what they say of posts
    they have not learned from.

    Of a training or validation post that is the model that left it out, of a test post the mean of all models' log-
    probabilities (of several labels log-odds, of a regression values). A network's epoch is chosen on what it leaves out.

    Args:
        posts: by split. setting: of `search`. decide: rules as of `decisions.aims_of`.

    Raises:
        ValueError: there are too few posts.
    """
    learned, value = posts["train"].and_(posts["validation"]), setting.get(baseline.hyper_parameter)
    folds = folds_of(learned.keys)
    held_out, of_test, models = {}, [], []
    for fold in folds.unique().tolist():
        inside, outside = (folds == fold).nonzero()[:, 0], (folds != fold).nonzero()[:, 0]
        if not len(outside):
            raise ValueError(f"{len(learned)} posts are too few: all of them fall into one of {FOLDS} folds")
        predict = baseline.fit(learned.at(outside), learned.at(inside), tasks, value, seed)
        for row, logits in _rows(inside, predict(learned.at(inside))):
            held_out[row] = logits
        models.append(predict)
        of_test.append(predict(posts["test"]))
    names = [task["name"] for task in tasks]
    left_out = {name: torch.stack([held_out[row][name] for row in range(len(learned))]) for name in names}
    aims = aims_of([baseline.decides] if baseline.decides else [*decide], tasks)
    rules = fit_decisions(tasks, left_out, learned.labels, aims)
    of_validation = {name: values[len(posts["train"]) :] for name, values in left_out.items()}
    logits = {"validation": of_validation, "test": _mean(of_test)}
    return Outcome(rules, logits, setting, lambda others: _mean([predict(others) for predict in models]))


def folds_of(keys: list[str]) -> Tensor:
    """The fold (N,) of each post by its content, so that duplicates stay together."""
    return torch.tensor([int(key[:8], 16) % FOLDS for key in keys], dtype=torch.long)


def _rows(places: Tensor, logits: dict[str, Tensor]):
    for row, place in enumerate(places.tolist()):
        yield place, {name: values[row] for name, values in logits.items()}


def _mean(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over models. A constant that one adds to all logits of a post changes no probability, nor the mean's."""
    return {name: torch.stack([logits[name] for logits in found]).mean(0) for name in found[0]}
