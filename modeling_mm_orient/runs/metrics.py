# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Metrics of one task, with the majority-class predictor's beside them; a local `evaluate` module.

    evaluate.load("modeling_mm_orient/runs/metrics.py", "single_label").compute(
        references=[0, 1], prediction_scores=[[.9, .1], [.2, .8]])

Shapes: N posts with a label, C labels.
"""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    roc_auc_score,
)

SAME = 1e-6  # of probabilities
DESCRIPTION = """Macro-F1, weighted F1, accuracy, AUROC where defined, precision and recall per class, and the same of the
majority-class predictor; for regression the mean squared and absolute error and the correlation."""
ARGUMENTS = """
Args:
    references: single_label: class numbers; multi_label: rows of 0/1; regression: values.
    prediction_scores: single_label: a row of probabilities per post; multi_label: likewise; regression: values.
"""


def single_label_metrics(references: np.ndarray, scores: np.ndarray, decided: np.ndarray | None = None) -> dict:
    """`references` (N,) int, `scores` (N, C), `decided` (N,) int (default: the most probable).

    The majority class is that of `references`. Empty lists give NaN.

    Macro averages run over all C classes, absent ones included with F1 0 (so that a split without a class is not
    flattered), as `f1_score(labels=range(C), zero_division=0)`.
    """
    classes = np.arange(scores.shape[1])
    predicted = scores.argmax(-1) if decided is None else decided
    majority = np.full_like(references, np.bincount(references, minlength=len(classes)).argmax())
    precision, recall, _, support = precision_recall_fscore_support(
        references, predicted, labels=classes, zero_division=0
    )
    return {
        **_f1_and_accuracy(references, predicted, classes, ""),
        "auroc": _mean_auroc(references[:, None] == np.arange(scores.shape[1]), scores),
        **_calibration(scores.max(-1), scores.argmax(-1) == references),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "support": support.tolist(),
        **_f1_and_accuracy(references, majority, classes, "majority_"),
    }


def multi_label_metrics(references: np.ndarray, scores: np.ndarray, decided: np.ndarray | None = None) -> dict:
    """`references`, `scores` and `decided` (N, C), all but the scores 0 and 1 (default: cut at .5); accuracy is over single
    labels.

    The majority predictor gives each label its more frequent value.
    """
    predicted = (scores >= 0.5 if decided is None else decided).astype(int)
    majority = np.tile((references.mean(0) >= 0.5).astype(int), (len(references), 1))
    precision, recall, _, support = precision_recall_fscore_support(
        references, predicted, average=None, zero_division=0
    )
    return {
        **_f1_and_accuracy(references, predicted, None, ""),
        "auroc": _mean_auroc(references == 1, scores),
        **_calibration(scores.ravel(), references.ravel()),
        "precision": np.atleast_1d(precision).tolist(),
        "recall": np.atleast_1d(recall).tolist(),
        "support": np.atleast_1d(support).tolist(),
        **_f1_and_accuracy(references, majority, None, "majority_"),
    }


def regression_metrics(references: np.ndarray, scores: np.ndarray, decided: np.ndarray | None = None) -> dict:
    """`references` and `scores` (N,); beside them the errors of always predicting the mean."""
    varies = len(references) > 1 and references.std() > 0 and scores.std() > 0
    return {
        "mse": float(mean_squared_error(references, scores)),
        "mae": float(mean_absolute_error(references, scores)),
        "pearson": float(np.corrcoef(references, scores)[0, 1]) if varies else None,
        "mean_predictor_mse": float(references.var()),
    }


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> list[list[float]]:
    """How often probabilities (N,) are right (N,), by bins of equal width: mean probability, share that is right, and posts,
    of each bin that has some."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = [np.bincount(places, values, minlength=bins) for values in (confidence, correct)]
    return [[float(said[b] / counts[b]) for said in sums] + [int(counts[b])] for b in np.flatnonzero(counts)]


def calibration_error(table: list[list[float]]) -> float:
    """Expected calibration error (Naeini et al. 2015): how far probabilities are from how often they are right, by
    `reliability`; NaN of nothing."""
    total = sum(posts for *_, posts in table)
    return sum(abs(said - right) * posts for said, right, posts in table) / total if total else float("nan")


def errors_by_coverage(doubt: np.ndarray, wrong: np.ndarray, steps: int = 20) -> list[list[float]]:
    """Share of wrong verdicts among those that are kept when the most doubtful are left to a person: `[share kept, error]`.

    Args:
        doubt: (N,). wrong: bool (N, C).
    """
    order = np.argsort(doubt, kind="stable")
    errors = np.cumsum(wrong.mean(1)[order]) / np.arange(1, len(doubt) + 1)
    kept = sorted({max(1, round(len(doubt) * step / steps)) for step in range(1, steps + 1)})
    return [[count / len(doubt), float(errors[count - 1])] for count in kept]


METRICS = {"single_label": single_label_metrics, "multi_label": multi_label_metrics, "regression": regression_metrics}


def _calibration(confidence: np.ndarray, correct: np.ndarray) -> dict:
    table = reliability(confidence, correct)
    return {"calibration_error": calibration_error(table), "reliability": table}


def _f1_and_accuracy(references, predicted, classes, prefix: str) -> dict:
    f1 = {"labels": classes, "zero_division": 0}
    return {
        f"{prefix}macro_f1": float(f1_score(references, predicted, average="macro", **f1)),
        f"{prefix}weighted_f1": float(f1_score(references, predicted, average="weighted", **f1)),
        f"{prefix}accuracy": float((references == predicted).mean())
        if references.ndim > 1
        else float(accuracy_score(references, predicted)),
    }


def _mean_auroc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Each label against the rest, `truth` and `scores` (N, C), averaged over the labels that have both; None where there is
    none."""
    labels = [c for c in range(scores.shape[1]) if truth[:, c].any() and not truth[:, c].all()]
    values = [roc_auc_score(truth[:, c], scores[:, c] if differ(scores[:, c]) else 0 * scores[:, c]) for c in labels]
    return float(np.mean(values)) if values else None


def differ(scores: np.ndarray) -> bool:
    """Whether probabilities (N,) rank posts: their last digits may differ where all are one."""
    return bool(np.ptp(scores) > SAME)


class MultimodalTaskMetrics(evaluate.Metric):
    """The `evaluate` face of `METRICS`; the configuration name is the task's kind."""

    def _info(self):
        kind = "single_label" if self.config_name == "default" else self.config_name
        if kind not in METRICS:
            raise ValueError(f"the configuration must be one of {sorted(METRICS)}, got {kind!r}")
        number, numbers = datasets.Value("float64"), datasets.Sequence(datasets.Value("float64"))
        features = {
            "single_label": {"references": datasets.Value("int64"), "prediction_scores": numbers},
            "multi_label": {"references": datasets.Sequence(datasets.Value("int64")), "prediction_scores": numbers},
            "regression": {"references": number, "prediction_scores": number},
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=ARGUMENTS,
            features=datasets.Features(features[kind]),
        )

    def _compute(self, references, prediction_scores):
        kind = "single_label" if self.config_name == "default" else self.config_name
        return METRICS[kind](np.asarray(references), np.asarray(prediction_scores, dtype=np.float64))
