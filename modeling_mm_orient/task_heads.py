# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MLC: task descriptions to heads, losses and probabilities (paper section 3.4; kinds beyond single label are ours).

Shapes: B posts, C labels of a task, F features of the joint representation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .global_batch import num_processes, sum_over_processes

MISSING_LABEL = -100


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
    """One linear head per task of `config.tasks`, and the loss over all of them."""

    def __init__(self, config, feature_size: int):
        super().__init__()
        self.tasks, self.weighting = config.tasks, config.task_loss_weighting
        self.heads = nn.ModuleList(nn.Linear(feature_size, max(1, len(task["labels"]))) for task in self.tasks)
        # log-variances of Kendall et al. 2018, learned when the weighting is "uncertainty"
        self.log_variances = nn.Parameter(torch.zeros(len(self.tasks))) if self.weighting == "uncertainty" else None

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """`features` (B, F) -> task name -> logits (B, C), or (B,) for regression. Every head runs always."""
        return {
            task["name"]: head(features).squeeze(-1) if task["kind"] == "regression" else head(features)
            for task, head in zip(self.tasks, self.heads, strict=True)
        }

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
