"""The kinds of task: labels to tensors, losses, probabilities, and what a reader is told."""

import math

import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient.tasks import (
    KINDS,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    collate_labels,
    kind_of,
    predictions_by_task,
    probabilities_of,
)

from .helpers import TASKS


def test_labels_have_every_task_and_missing_marks():
    posts = [{"offensive": 1, "emotions": [1.0, 0.0, 1.0], "intensity": 0.5}, {"offensive": None}, {"offensive": -1}]
    labels = collate_labels(posts, TASKS)
    assert labels["offensive"].tolist() == [1, -100, -100] and labels["offensive"].dtype == torch.int64
    assert labels["emotions"][0].tolist() == [1, 0, 1] and labels["emotions"][1:].isnan().all()
    assert labels["intensity"][0] == 0.5 and math.isnan(labels["intensity"][1])


def test_a_task_without_kind_is_single_label():
    assert [kind_of(task) for task in TASKS] == [SINGLE_LABEL, MULTI_LABEL, REGRESSION] == list(KINDS.values())


def test_probabilities():
    logits = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(SINGLE_LABEL.probabilities(logits), logits.softmax(-1))
    torch.testing.assert_close(MULTI_LABEL.probabilities(logits), logits.sigmoid())
    torch.testing.assert_close(REGRESSION.probabilities(logits), logits)
    by_task = probabilities_of(TASKS[:1], {"offensive": logits.numpy()})
    torch.testing.assert_close(by_task, {"offensive": logits.softmax(-1)})


def test_predictions_name_labels():
    logits = {"offensive": torch.zeros(2), "emotions": torch.tensor([0.0, 9e9, -9e9]), "intensity": torch.tensor(2.5)}
    found = predictions_by_task(TASKS, logits)
    assert found == {
        "offensive": {"no": 0.5, "yes": 0.5}, "emotions": {"joy": 0.5, "anger": 1.0, "fear": 0.0}, "intensity": 2.5,
    }  # fmt: skip
    decisions = [kind_of(task).cell(task, found[task["name"]]) for task in TASKS]
    assert decisions == ["no", "joy|anger", 2.5]


@pytest.mark.parametrize("kind", [SINGLE_LABEL, MULTI_LABEL])
def test_focal_losses_have_finite_gradients_where_nothing_is_in_doubt(kind):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([0, 1]) if kind is SINGLE_LABEL else torch.eye(2)
    losses, _ = kind.losses(logits, labels, None, 0.5)
    losses.sum().backward()
    assert losses.sum() == 0 and logits.grad.isfinite().all()


def test_losses_of_missing_labels_weigh_nothing():
    logits, nan = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), float("nan")
    class_weights = torch.tensor([2.0, 3.0])
    losses, weights = SINGLE_LABEL.losses(logits, torch.tensor([1, -100]), class_weights, 0.0)
    assert weights.tolist() == [3, 0] and losses[1] == 0
    torch.testing.assert_close(losses[0], 3 * F.cross_entropy(logits[:1], torch.tensor([1])))
    losses, weights = MULTI_LABEL.losses(logits, torch.tensor([[1.0, nan], [nan, nan]]), None, 0.0)
    assert weights.tolist() == [[1, 0], [0, 0]] and (losses > 0).tolist() == [[True, False], [False, False]]
    losses, weights = REGRESSION.losses(logits[0], torch.tensor([3.0, nan]), None, 0.0)
    assert weights.tolist() == [1, 0] and losses.tolist() == [4, 0]


def test_balanced_weights_give_every_class_the_same_say():
    task = {"name": "x", "labels": ["a", "b", "never"]}
    assert SINGLE_LABEL.balanced_weights(task, [0, 0, 0, 1, None]) == pytest.approx([4 / 9, 4 / 3, 1.0])
    assert REGRESSION.balanced_weights(task, [0.5]) is None
    rows = [[1, 0, 1], None, [1, 0, 0], [0, 0, 0], [1, 0, 0]]  # of a label its absence says as much as its presence
    assert MULTI_LABEL.balanced_weights(task, rows) == pytest.approx([1 / 3, 1.0, 3.0])
    unknown = [[math.nan, 1.0, math.nan]] * 50 + [[math.nan] * 3, None]  # empty cells are no zeros
    assert MULTI_LABEL.balanced_weights(task, [*rows, *unknown])[::2] == pytest.approx([1 / 3, 3.0])


def test_what_is_known_of_several_labels_is_told():
    task = {"name": "mood", "kind": "multi_label", "labels": ["joy", "sad"]}
    rows = torch.tensor([[1.0, math.nan], [math.nan, 0.0], [math.nan, math.nan], [1.0, 1.0]])
    said = [MULTI_LABEL.label(task, row) for row in rows]
    assert said == [["joy"], [], None, ["joy", "sad"]]
    assert MULTI_LABEL.counts(task, said) == {"joy": 2, "sad": 1}
