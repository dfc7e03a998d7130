import evaluate
import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from modeling_mm_orient.runs import metrics as module
from modeling_mm_orient.runs.metrics import single_label_metrics
from modeling_mm_orient.runs.scoring import multi_task_metrics

from .helpers import TASKS

RNG = np.random.default_rng(0)


def test_single_label():
    references, scores = RNG.integers(0, 3, 50), RNG.dirichlet([1, 1, 1], 50)
    found, predicted = single_label_metrics(references, scores), scores.argmax(1)
    assert found["macro_f1"] == pytest.approx(f1_score(references, predicted, average="macro"))
    assert found["weighted_f1"] == pytest.approx(f1_score(references, predicted, average="weighted"))
    assert found["accuracy"] == pytest.approx((references == predicted).mean())
    assert found["auroc"] == pytest.approx(roc_auc_score(references, scores, multi_class="ovr"))
    counts = np.bincount(references)
    assert found["support"] == counts.tolist()
    assert found["majority_accuracy"] == pytest.approx(counts.max() / 50)
    assert found["majority_macro_f1"] == pytest.approx(
        f1_score(references, np.full(50, counts.argmax()), average="macro")
    )


def test_a_class_that_the_split_lacks_counts_in_macro_f1():
    found = single_label_metrics(np.array([0, 1]), np.array([[0.9, 0.1, 0], [0.1, 0.9, 0]]))
    assert found["macro_f1"] == pytest.approx(2 / 3) and found["auroc"] == 1.0


def test_auroc_is_left_out_where_it_is_not_defined():
    assert single_label_metrics(np.array([1, 1]), np.array([[0.9, 0.1], [0.1, 0.9]]))["auroc"] is None


def test_missing_labels_are_left_out_and_the_mean_is_over_classification_tasks():
    references = {
        "offensive": np.array([0, -100, 1]),
        "emotions": np.array([[0.0, 1, 1], [np.nan] * 3, [1, 0, 1]]),
        "intensity": np.array([0.5, 1.0, np.nan]),
    }
    scores = {
        "offensive": np.array([[1, 0], [0, 1], [0, 1.0]]),
        "emotions": np.nan_to_num(references["emotions"]),
        "intensity": np.array([0.5, 0.0, 9]),
    }
    found = multi_task_metrics(TASKS, references, scores)
    assert [found[task]["posts"] for task in ("offensive", "emotions", "intensity")] == [2, 2, 2]
    assert found["intensity"]["mse"] == pytest.approx(0.5)
    assert found["offensive"]["macro_f1"] == found["mean_macro_f1"] == 1.0
    references["offensive"][:] = -100
    assert "offensive" not in multi_task_metrics(TASKS, references, scores)


@pytest.mark.parametrize(
    "kind, references, scores",
    [
        ("single_label", [0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]),
        ("multi_label", [[0, 1], [1, 1]], [[0.9, 0.1], [0.2, 0.8]]),
        ("regression", [0.1, 0.2], [0.2, 0.4]),
    ],
)
def test_as_an_evaluate_module(kind, references, scores, tmp_path):
    metric = evaluate.load(module.__file__, kind, cache_dir=str(tmp_path))
    found = metric.compute(references=references, prediction_scores=scores)
    assert found == module.METRICS[kind](np.array(references), np.array(scores))
