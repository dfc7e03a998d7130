# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MLC: task descriptions to heads, losses and probabilities (paper section 3.4; kinds beyond single label are ours).

Shapes: B posts, C labels of a task, F features of the joint representation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .global_batch import num_processes, sum_over_processes

MISSING_LABEL = -100
# a handful of scalars has to find its scale while the layers below learn: a step of Adam moves a trust 30 times as far
TRUST_STEP = 30.0


def collate_labels(posts: list[dict], tasks: list[dict]) -> dict[str, Tensor]:
    """Labels of a batch of posts, one key per task always, in the forms of `TaskHeads.loss`; a missing key counts as None.

    A class is its number or its name, several labels are a list of 0 and 1 or of names.

    Raises:
        ValueError: a name is none of the task's labels.
    """
    labels = {}
    for task in tasks:
        values = [post.get(task["name"]) for post in posts]
        kind = task.get("kind", "single_label")
        if kind == "single_label":
            values = [_class_number(task, value) if isinstance(value, str) else value for value in values]
            numbers = [MISSING_LABEL if value is None or value < 0 else int(value) for value in values]
            labels[task["name"]] = torch.tensor(numbers, dtype=torch.long)
        elif kind == "multi_label":
            rows = [[float("nan")] * len(task["labels"]) if v is None else _label_row(task, list(v)) for v in values]
            labels[task["name"]] = torch.tensor(rows).float().reshape(len(posts), len(task["labels"]))
        else:
            labels[task["name"]] = torch.tensor([float("nan") if value is None else value for value in values]).float()
    return labels


def _class_number(task: dict, name: str) -> int:
    if name not in task["labels"]:
        raise ValueError(f"{name!r} is no label of the task {task['name']!r}; it has {', '.join(task['labels'])}")
    return task["labels"].index(name)


def _label_row(task: dict, values: list) -> list[float]:
    """0 and 1 per label, from the same or from names."""
    if not any(isinstance(value, str) for value in values) and len(values) == len(task["labels"]):
        return values
    numbers = {_class_number(task, value) for value in values}
    return [float(number in numbers) for number in range(len(task["labels"]))]


def single_label_losses(logits: Tensor, labels: Tensor, class_weights: Tensor | None, gamma: float):
    """Cross-entropy per post. `labels` (B,) int64, -100 where missing -> losses (B,), weights (B,) that are 0 there.

    Weights are the class weight of each label, as in `torch.nn.CrossEntropyLoss`; `gamma` > 0 makes it focal.
    """
    known = labels != MISSING_LABEL
    target = labels.clamp(min=0)
    log_probability = logits.float().log_softmax(-1).gather(-1, target[:, None]).squeeze(-1)
    weights = known.float() if class_weights is None else class_weights.float()[target] * known
    return -log_probability * (1 - log_probability.exp()) ** gamma * weights, weights


def multi_label_losses(logits: Tensor, labels: Tensor, class_weights: Tensor | None, gamma: float):
    """Binary cross-entropy per label. `labels` (B, C) float in {0, 1}, NaN where missing -> losses and weights (B, C).

    `class_weights` multiply the positive term.
    """
    known = ~labels.isnan()
    target = labels.nan_to_num(0.0).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none", pos_weight=class_weights)
    if gamma:
        probability = logits.float().sigmoid()
        losses = losses * (target * (1 - probability) + (1 - target) * probability) ** gamma
    return losses * known, known.float()


def regression_losses(logits: Tensor, labels: Tensor, class_weights: Tensor | None, gamma: float):
    """Squared error per post. `labels` (B,) float, NaN where missing -> losses and weights (B,)."""
    known = ~labels.isnan()
    return (logits.float() - labels.nan_to_num(0.0).float()) ** 2 * known, known.float()


LOSSES = {"single_label": single_label_losses, "multi_label": multi_label_losses, "regression": regression_losses}


def probabilities(kind: str, logits: Tensor) -> Tensor:
    """Softmax, sigmoid or the value itself, by the task's `kind`; same shape as `logits`, float32."""
    if kind == "single_label":
        return logits.float().softmax(-1)
    return logits.float().sigmoid() if kind == "multi_label" else logits.float()


class TaskHeads(nn.Module):
    """One linear head per task of `config.tasks`, and the loss over all of them.

    With `config.neighbour_labels` (ours) the votes of reference posts are added to a task's logits, each neighbourhood's by
    a learned trust: the label stream.
    """

    def __init__(self, config, feature_size: int):
        super().__init__()
        self.tasks, self.weighting = config.tasks, config.task_loss_weighting
        self.heads = nn.ModuleList(nn.Linear(feature_size, max(1, len(task["labels"]))) for task in self.tasks)
        # log-variances of Kendall et al. 2018, learned when the weighting is "uncertainty"
        self.log_variances = nn.Parameter(torch.zeros(len(self.tasks))) if self.weighting == "uncertainty" else None
        # of 1 in each neighbourhood, in units of TRUST_STEP
        self.trust = nn.Parameter(torch.full((len(self.tasks), 3), 1 / TRUST_STEP)) if config.neighbour_labels else None

    def forward(self, features: Tensor, votes: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """`features` (B, F) -> task name -> logits (B, C), or (B,) for regression. Every head runs always.

        `votes`: task name -> (B, 3, C), see `neighbour_votes`.
        """
        logits = {}
        for index, (task, head) in enumerate(zip(self.tasks, self.heads, strict=True)):
            values = head(features)
            if votes is not None:
                trust = TRUST_STEP * self.trust[index]
                values = values + torch.einsum("n,bnc->bc", trust, votes[task["name"]].to(values.dtype))
            logits[task["name"]] = values.squeeze(-1) if task["kind"] == "regression" else values
        return logits

    def loss(self, logits: dict[str, Tensor], labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of task losses, and each task's own.

        A task's loss is the mean over the labels that are there: in training over those of all processes, so that
        averaging gradients over processes gives one process's gradient. A task without labels costs 0.

        Args:
            labels: task name -> (B,) int64 with -100 missing (single label), (B, C) float with NaN missing (multi
                label), (B,) float with NaN missing (regression). A task that is left out counts as missing.

        Raises:
            ValueError: a name that is no task, or a wrong shape or dtype.
        """
        self._check(logits, labels)
        task_losses, totals = {}, []
        for index, task in enumerate(self.tasks):
            name, kind = task["name"], task["kind"]
            target = labels.get(name)
            if target is None:
                task_losses[name] = logits[name].float().sum() * 0
            else:
                class_weights = task["class_weights"]
                if class_weights is not None:
                    class_weights = torch.tensor(class_weights, device=target.device)
                losses, weights = LOSSES[kind](logits[name], target, class_weights, task["focal_gamma"])
                count = weights.sum()
                if self.training:
                    count = sum_over_processes(count) / num_processes()
                task_losses[name] = losses.sum() / torch.where(count > 0, count, torch.ones_like(count))
            totals.append(self._weighted(index, task, task_losses[name], present=target is not None))
        return torch.stack(totals).sum(), {name: value.detach() for name, value in task_losses.items()}

    def _weighted(self, index: int, task: dict, loss: Tensor, present: bool) -> Tensor:
        if self.weighting == "given":
            return loss * task["loss_weight"]
        if self.weighting == "uncertainty":
            log_variance = self.log_variances[index]
            # exactly 0 where the batch has no label of this task: log-variances drift nowhere by themselves
            return torch.where(loss.detach() != 0, (-log_variance).exp() * loss + log_variance, loss * 0)
        return loss

    def _check(self, logits: dict[str, Tensor], labels: dict[str, Tensor]) -> None:
        if not hasattr(labels, "get"):
            raise ValueError(f"`labels` must be a dict of task name to tensor, got {type(labels).__name__}")
        names = [task["name"] for task in self.tasks]
        for name in labels:
            if name not in names:
                raise ValueError(f"`labels` has {name!r}, which is none of the model's tasks {names}")
        for task in self.tasks:
            target, logit = labels.get(task["name"]), logits[task["name"]]
            if target is None:
                continue
            shape = logit.shape if task["kind"] != "single_label" else logit.shape[:1]
            if target.shape != shape:
                raise ValueError(
                    f"`labels[{task['name']!r}]` ({task['kind']}) must have shape {tuple(shape)}, got {tuple(target.shape)}"
                )
            if task["kind"] == "single_label" and target.is_floating_point():
                raise ValueError(f"`labels[{task['name']!r}]` (single_label) must be int64, got {target.dtype}")
