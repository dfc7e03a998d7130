import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient.task_heads import TaskHeads, with_rules
from modeling_mm_orient.tasks import REGRESSION

from .helpers import TASKS, label_batch, tiny_config


def heads(tasks=TASKS, **options):
    torch.manual_seed(0)
    module = TaskHeads(tiny_config(tasks=tasks).tasks, 16, **options)
    return module, module(torch.randn(9, 16))


def with_weights(**changes):
    return [task | changes if task["name"] == "offensive" else task for task in TASKS]


def test_task_losses_are_torchs_over_the_labels_that_are_there():
    module, logits = heads()
    labels = label_batch()
    _, losses = module.loss(logits, labels)
    known = ~labels["emotions"].isnan()
    expected = {
        "offensive": F.cross_entropy(logits["offensive"], labels["offensive"]),
        "emotions": F.binary_cross_entropy_with_logits(logits["emotions"][known], labels["emotions"][known]),
        "intensity": F.mse_loss(logits["intensity"][1:], labels["intensity"][1:]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_class_weights_are_torchs():
    module, logits = heads(tasks=with_weights(class_weights=[0.3, 2.0]))
    labels = label_batch()
    expected = F.cross_entropy(logits["offensive"], labels["offensive"], torch.tensor([0.3, 2.0]))
    torch.testing.assert_close(module.loss(logits, labels)[1]["offensive"], expected)


def test_focal_loss_turns_to_hard_posts():
    labels = {"offensive": torch.tensor([0, 0])}
    logits = {
        "offensive": torch.tensor([[4.0, 0.0], [0.0, 0.5]]),
        "emotions": torch.zeros(2, 3),
        "intensity": torch.zeros(2),
    }
    plain = F.cross_entropy(logits["offensive"], labels["offensive"], reduction="none")
    module, _ = heads(tasks=with_weights(focal_gamma=2.0))
    expected = (plain * (1 - (-plain).exp()) ** 2).mean()
    torch.testing.assert_close(module.loss(logits, labels)[0], expected)


@pytest.mark.parametrize("weighting", ["uniform", "given", "uncertainty"])
def test_a_batch_without_labels_costs_nothing(weighting):
    module, logits = heads(weighting=weighting)
    labels = {
        "offensive": torch.full((9,), -100),
        "emotions": torch.full((9, 3), float("nan")),
        "intensity": torch.full((9,), float("nan")),
    }
    for missing in (labels, {}):
        loss, _ = module.loss(logits, missing)
        assert loss == 0
        gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        assert all((gradient == 0).all() for gradient in gradients)


def test_given_weights():
    tasks = [task | {"loss_weight": weight} for task, weight in zip(TASKS, (2.0, 0.0, 0.5), strict=True)]
    module, logits = heads(tasks=tasks, weighting="given")
    loss, losses = module.loss(logits, label_batch())
    torch.testing.assert_close(loss, 2 * losses["offensive"] + 0.5 * losses["intensity"])


def test_learned_weights_fall_for_uncertain_tasks():
    module, logits = heads(weighting="uncertainty")
    labels = {"offensive": label_batch()["offensive"], "intensity": torch.full((9,), 30.0)}
    module.loss(logits, labels)[0].backward()
    gradient = module.log_variances.grad
    assert gradient[2] < 0 < gradient[0]  # descent raises the log-variance of the task with the large loss
    assert gradient[1] == 0


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"sarcasm": torch.zeros(9)}, "none of the model's tasks"),
        ({"offensive": torch.zeros(9)}, "int64"),
        ({"offensive": torch.zeros(8, dtype=torch.long)}, "must have shape"),
        ({"emotions": torch.zeros(9, 2)}, "must have shape"),
        (torch.zeros(9), "must be a dict"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    module, logits = heads()
    with pytest.raises(ValueError, match=message):
        module.loss(logits, labels)


def test_a_regression_is_learned_standardised_whatever_its_unit():
    bare = {"name": "year", "kind": "regression"}
    scaled = bare | REGRESSION.scale([2010.0, None, 2014.0])
    assert (scaled["mean"], scaled["std"]) == (2012.0, 2.0)
    (module, logits), (plain, of_plain) = heads([scaled]), heads([bare])
    assert torch.allclose(logits["year"], 2012 + 2 * of_plain["year"])
    labels = torch.tensor([2010.0, 2014.0, *[float("nan")] * 7])
    loss, _ = module.loss(logits, {"year": labels})
    expected, _ = plain.loss(of_plain, {"year": (labels - 2012) / 2})
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    stays = with_rules([bare], module.tasks)[0]
    assert (stays["mean"], stays["std"]) == (2012.0, 2.0)  # its head is the same
    with pytest.raises(ValueError, match=r"std.*above 0"):
        tiny_config(tasks=[scaled | {"std": 0.0}])
