# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What simple methods come to on a run's own posts and embeddings (ours): the yardstick of its report.

Logistic regression (of a value: ridge) on words, on the text, on the picture and on both, and a vote of the nearest
neighbours, each cross-fitted and with a decision rule fitted to posts left out, as the run itself.
"""

import logging

import torch
from torch.utils.data import Subset

from ..experts import NEEDS, NGRAMS, WORDS, has_ngrams
from ..tasks import kind_of
from .benchmark.baselines import NearestNeighbours
from .benchmark.cross_fitting import cross_fitted, folds_of
from .benchmark.features import PostArrays, arrays_of
from .decisions import aims_of, fit_decisions
from .expert_readers import read_by, reader_of
from .scoring import metrics_of_logits
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

LINEAR = {"tfidf": WORDS, "text_only": "text", "image_only": "image", "logistic_regression": "both"}
MOST_POSTS = 5_000  # of training that they learn from, so that a report stays a matter of seconds
NEIGHBOURS = 32


def single_baselines(
    model, inputs: dict, collator, references, tasks: list[dict], settings: TrainingSettings
) -> dict[str, dict]:
    """Baseline -> split -> task -> its metrics that are numbers, and `"mean_macro_f1"`; of validation and, where there is
    one, test. Empty where training posts are too few.

    Args:
        inputs: split -> posts as the model takes them. references: the training posts that are no paraphrases. settings: of
            the run, whose rules they decide by.
    """
    decide = settings.decide or []
    splits = [split for split in ("validation", "test") if split in inputs]
    posts = {split: _arrays(model, inputs[split], collator) for split in splits}
    learned = _arrays(model, _part_of(references, settings.seed), collator)
    posts = {"test": posts["validation"]} | posts | {"train": learned}
    if len(folds_of(posts["train"].keys).unique()) < 2:
        logger.warning("no single baselines to compare with: %d training posts are too few", len(posts["train"]))
        return {}
    found = {name: _linear(tasks, posts, expert, decide) for name, expert in LINEAR.items()}
    if not posts["train"].ngram_ids.any():  # nobody gave any
        del found["tfidf"]
    knn = cross_fitted(NearestNeighbours(), posts, tasks, {"k": NEIGHBOURS}, settings.seed, decide)
    found[NearestNeighbours.name] = (knn.tasks, knn.logits)
    return {
        name: {split: _numbers(metrics_of_logits(rules, logits[split], posts[split].labels)) for split in splits}
        for name, (rules, logits) in found.items()
    }


def best_single(baselines: dict[str, dict]) -> str | None:
    """The baseline of the largest mean macro-F1 on validation, of numbers alone of the least squared error; None without
    one."""
    scores = {name: _score(found["validation"]) for name, found in baselines.items()}
    known = {name: score for name, score in scores.items() if score is not None}
    return max(known, key=lambda name: known[name]) if known else None


def _score(found: dict) -> float | None:
    if found["mean_macro_f1"] is not None:
        return found["mean_macro_f1"]
    # each error as a share of the mean's, so that no task counts for its unit
    shares = [
        of["mse"] / of["mean_predictor_mse"]
        for of in found.values()
        if isinstance(of, dict) and of["mean_predictor_mse"]
    ]
    return -sum(shares) / len(shares) if shares else None


def _linear(tasks: list[dict], posts: dict[str, PostArrays], expert: str, decide: list[str]):
    """Tasks with their fitted rule, and split -> task -> logits."""
    learned = posts["train"].and_(posts["validation"])
    folds, left_out, of_test = folds_of(learned.keys), {}, {}
    present = learned.present | {NGRAMS: has_ngrams(learned.ngram_ids, learned.present["text"])}
    reader = reader_of(expert, learned)
    for task in tasks:
        name, kind = task["name"], kind_of(task)
        known = kind.known(learned.labels[name])
        for needed in NEEDS[expert]:
            known = known & present[needed]
        rows = known.nonzero()[:, 0]
        if len(rows) < 2:  # nothing to learn from: every label is as likely
            outputs = [torch.zeros(len(part), kind.num_outputs(task)) for part in (learned, posts["test"])]
        else:
            fitted = reader.fit(task, rows, learned.labels[name][rows], folds[rows])
            outputs = [reader.outputs(read_by(expert, part), fitted) for part in (learned, posts["test"])]
            outputs[0][rows] = fitted.left_out
        left_out[name], of_test[name] = (kind.form(values) for values in outputs)
    rules = fit_decisions(tasks, left_out, learned.labels, aims_of(decide, tasks))
    of_validation = {name: values[len(posts["train"]) :] for name, values in left_out.items()}
    return rules, {"validation": of_validation, "test": of_test}


def _numbers(metrics: dict) -> dict:
    """The metrics of each task that are one number."""
    mean = metrics.pop("mean_macro_f1")
    numbers = {
        task: {name: value for name, value in found.items() if isinstance(value, (int, float))}
        for task, found in metrics.items()
    }
    return numbers | {"mean_macro_f1": mean}


def _part_of(references, seed: int):
    if len(references) <= MOST_POSTS:
        return references
    logger.info("single baselines learn from %d of %d training posts", MOST_POSTS, len(references))
    rows = torch.randperm(len(references), generator=torch.Generator().manual_seed(seed))[:MOST_POSTS]
    return Subset(references, sorted(rows.tolist()))


def _arrays(model, posts, collator) -> PostArrays:
    return arrays_of(model.base_model.eval(), posts, collator, with_sequences=False)
