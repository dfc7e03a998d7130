# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MLC's heads: one per task, and the loss over all of them (paper section 3.4).

Shapes: B posts, C labels of a task, F features of the joint representation.
"""

import torch
from torch import Tensor, nn

from .global_batch import num_processes, sum_over_processes
from .tasks import FITTED, OF_HEADS, SINGLE_LABEL, are_tasks, kind_of

# a handful of scalars has to find its scale while the layers below learn: a step of Adam moves a trust 30 times as far
TRUST_STEP = 30.0


class TaskHeads(nn.Module):
    """One linear head per task, and the loss over all of them.

    Args:
        tasks: task descriptions of the configuration.
        feature_size: F.
        weighting: of the tasks' losses: `"uniform"` (paper), `"given"` (each task's `loss_weight`) or `"uncertainty"`
            (learned, Kendall et al. 2018).
        label_smoothing: how much of a label is spread over all in the losses of training (ours).
        neighbour_labels: the votes of reference posts are added to a task's logits, each neighbourhood's by a learned trust:
            the label stream (ours).
    """

    def __init__(
        self,
        tasks: list[dict],
        feature_size: int,
        weighting: str = "uniform",
        neighbour_labels: bool = False,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.tasks, self.weighting, self.label_smoothing = tasks, weighting, label_smoothing
        self.heads = nn.ModuleList(nn.Linear(feature_size, kind_of(task).num_outputs(task)) for task in tasks)
        self.log_variances = nn.Parameter(torch.zeros(len(tasks))) if weighting == "uncertainty" else None
        # of 1 in each neighbourhood, in units of TRUST_STEP
        self.trust = nn.Parameter(torch.full((len(tasks), 3), 1 / TRUST_STEP)) if neighbour_labels else None

    def forward(self, features: Tensor, votes: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """`features` (B, F) -> task name -> logits (B, C), or (B,) for regression. Every head runs always.

        `votes`: task name -> (B, 3, C), see `neighbour_votes`.
        """
        logits = {}
        for index, (task, head) in enumerate(zip(self.tasks, self.heads, strict=True)):
            outputs = head(features)
            if votes is not None and self.trust is not None:
                trust = TRUST_STEP * self.trust[index]
                outputs = outputs + torch.einsum("n,bnc->bc", trust, votes[task["name"]].to(outputs.dtype))
            logits[task["name"]] = kind_of(task).at_scale(task, kind_of(task).form(outputs))
        return logits

    @torch.no_grad()
    def keep_from(self, other: "TaskHeads") -> list[str]:
        """Take over weights and trust of tasks that are the same in `other`; returns their names."""
        kept, places = [], {head_of(task): place for place, task in enumerate(other.tasks)}
        for place, task in enumerate(self.tasks):
            old = places.get(head_of(task))
            if old is None:
                continue
            self.heads[place].load_state_dict(other.heads[old].state_dict())
            for ours, theirs in ((self.log_variances, other.log_variances), (self.trust, other.trust)):
                if ours is not None and theirs is not None:
                    ours[place] = theirs[old]
            kept.append(task["name"])
        return kept

    def loss(self, logits: dict[str, Tensor], labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of task losses, and each task's own.

        A task's loss is the mean over the labels that are there: in training over those of all processes, so that
        averaging gradients over processes gives one process's gradient. A task without labels costs 0.

        Args:
            labels: task name -> labels in the form of the task's kind: (B,) int64 with -100 missing (single label), (B, C)
                float with NaN missing (multi label), (B,) float with NaN missing (regression). A task that is left out
                counts as missing.

        Raises:
            ValueError: a name that is no task, or a wrong shape or dtype.
        """
        self._check(logits, labels)
        task_losses, totals = {}, []
        for index, task in enumerate(self.tasks):
            name, target = task["name"], labels.get(task["name"])
            if target is None:
                task_losses[name] = logits[name].float().sum() * 0
            else:
                class_weights = task["class_weights"]
                if class_weights is not None:
                    class_weights = torch.tensor(class_weights, device=target.device)
                form = (class_weights, task["focal_gamma"], self.label_smoothing if self.training else 0.0)
                losses, weights = kind_of(task).losses(logits[name], target, *form)
                losses = losses / task.get("std", 1.0) ** 2  # a task does not count for its unit
                count = weights.sum()
                if self.training:
                    count = sum_over_processes(count) / num_processes()
                task_losses[name] = losses.sum() / torch.where(count > 0, count, torch.ones_like(count))
            totals.append(self._weighted(index, task, task_losses[name]))
        return torch.stack(totals).sum(), {name: value.detach() for name, value in task_losses.items()}

    def _weighted(self, index: int, task: dict, loss: Tensor) -> Tensor:
        if self.weighting == "given":
            return loss * task["loss_weight"]
        if self.log_variances is not None:
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
            kind, target = kind_of(task), labels.get(task["name"])
            if target is None:
                continue
            if not isinstance(target, Tensor):
                raise ValueError(f"`labels[{task['name']!r}]` must be a tensor, got {type(target).__name__}")
            shape = kind.shape_of_labels(logits[task["name"]])
            if target.shape != shape:
                raise ValueError(
                    f"`labels[{task['name']!r}]` ({kind.name}) must have shape {tuple(shape)}, got {tuple(target.shape)}"
                )
            wanted = kind.collate(task, []).dtype
            if not wanted.is_floating_point and target.dtype not in (torch.int64, torch.int32, torch.bool):
                raise ValueError(f"`labels[{task['name']!r}]` ({kind.name}) must be int64, got {target.dtype}")
            # on a GPU a look at the values would have every step wait
            looked_at = target.device.type == "cpu" and not torch.compiler.is_compiling()
            if looked_at and not kind.are_targets(task, target):
                raise ValueError(f"`labels[{task['name']!r}]` ({kind.name}) must be {kind.target_form}")


def with_rules(tasks: list[dict], before: list[dict]) -> list[dict]:
    """`tasks`, those that stay with what was fitted for them `before`, where they say nothing of it."""
    if not are_tasks([{"kind": SINGLE_LABEL.name, "labels": []} | task for task in tasks if isinstance(task, dict)]):
        return tasks  # the configuration says what is wrong
    old = {head_of(task): task for task in before}
    carried = (*FITTED, *OF_HEADS)
    fitted = [{name: old[head_of(task)][name] for name in carried} if head_of(task) in old else {} for task in tasks]
    return [rules | task for rules, task in zip(fitted, tasks, strict=True)]


def head_of(task: dict) -> tuple:
    """What two tasks that one head serves have in common."""
    return task["name"], kind_of(task).name, tuple(task.get("labels", ()))
