# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The linear experts of `experts`, fitted to training posts (ours): a ridge penalty per task, chosen on posts left out.

Shapes: N posts, D features, F folds, C outputs of a task.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..tasks import kind_of

# of squared weights, beside a mean loss; the strongest first
PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # of standardised features
PENALTIES_OF_ROWS = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # of rows of length 1
STEPS = 60


@dataclass
class Fitted:
    """`weight` (C, D) and `bias` (C,): the mean over the folds; `left_out` (N, C): outputs for each post by the fold that
    left it out; `loss`: their mean loss; `penalty`: the one chosen."""

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    loss: float
    penalty: float


def fit_linear(task: dict, parts: list[Tensor], labels: Tensor, folds: Tensor, penalties=PENALTIES) -> Fitted:
    """A linear layer for one task, of features that are standardised first, each part of them counting alike.

    Args:
        parts: (N, D) each, side by side the features of posts that have them and a label. labels: in the form of the
            task's kind. folds: (N,) int64; the layer of a fold is fitted to the posts of the others.
    """
    features, width = torch.cat(parts, -1), sum(part.shape[1] for part in parts) / len(parts)
    share = torch.cat([part.new_full((part.shape[1],), (width / part.shape[1]) ** 0.5) for part in parts])
    mean, scale = features.mean(0), share / torch.cat([deviations(part) for part in parts])
    found = fit_rows(task, (features - mean) * scale, labels, folds, penalties)
    weight = found.weight * scale
    return replace(found, weight=weight, bias=found.bias - weight @ mean)


def deviations(features: Tensor) -> Tensor:
    """Standard deviations (D,) by which features (N, D) are divided: infinite where they are less than a hundredth of the
    usual one, for what hardly differs among these posts may be anything in others."""
    found = features.std(0, correction=0)
    least = torch.maximum(0.01 * found.square().mean().sqrt(), 1e-6 * features.mean(0).abs())  # of rounding at least
    return found.masked_fill(found <= least, float("inf"))


def fit_rows(task: dict, rows: Tensor, labels: Tensor, folds: Tensor, penalties=PENALTIES_OF_ROWS) -> Fitted:
    """As `fit_linear`, of rows (N, D) as they are; `penalties` are tried from the middle one on, while they gain."""
    kind, count = kind_of(task), kind_of(task).num_outputs(task)
    centre, scale = 0.0, 1.0
    if not kind.is_classification:  # so that a penalty means the same whatever is measured
        centre, scale = float(labels.mean()), max(float(labels.std(correction=0)), 1e-6)
        labels = (labels - centre) / scale
    numbers = folds.unique()
    learns = (folds[None] != numbers[:, None]).float()
    if len(numbers) == 1:  # nothing to leave out
        learns = torch.ones_like(learns)
    own = (folds[:, None] == numbers).long().argmax(1), torch.arange(len(rows))

    def fitted(penalty: float, start: Tensor) -> tuple[Fitted, Tensor]:
        parameters = _descend(kind, task, rows, labels, learns, start, penalty)
        left_out = _outputs(rows, parameters)[own]
        losses, weights = kind.losses(kind.form(left_out), labels, None, 0.0)
        loss = float(losses.sum() / weights.sum().clamp(min=1))
        weight, bias = parameters[..., :-1].mean(0), parameters[..., -1].mean(0)
        found = Fitted(scale * weight, scale * bias + centre, scale * left_out + centre, loss, penalty)
        return found, parameters

    middle = len(penalties) // 2
    best, parameters = fitted(penalties[middle], torch.zeros(len(numbers), count, rows.shape[1] + 1))
    for towards in (penalties[middle + 1 :], penalties[:middle][::-1]):  # weaker ones, then stronger
        for penalty in towards:
            other, at = fitted(penalty, parameters)
            if other.loss >= best.loss:
                break
            best, parameters = other, at
        if best.penalty in towards:
            break
    return best


def _outputs(rows: Tensor, parameters: Tensor) -> Tensor:
    """(N, D) and (F, C, D + 1) -> (F, N, C)."""
    # few outputs of many posts: in this order, one row of a product per output, it is several times as fast
    found = parameters[..., :-1].flatten(0, 1) @ rows.T
    return found.unflatten(0, parameters.shape[:2]).transpose(1, 2) + parameters[:, None, :, -1]


def _descend(kind, task: dict, rows: Tensor, labels: Tensor, learns: Tensor, start: Tensor, penalty: float) -> Tensor:
    """Parameters (F, C, D + 1) of least loss and penalty, by L-BFGS from `start`; `learns` (F, N) of 0 and 1."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=STEPS, tolerance_change=1e-6, line_search_fn="strong_wolfe")
    repeated = labels.repeat(len(learns), *[1] * (labels.dim() - 1))

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses, weights = kind.losses(kind.form(_outputs(rows, parameters).flatten(0, 1)), repeated, None, 0.0)
        counts = learns.flatten().reshape(-1, *[1] * (losses.dim() - 1))
        per_fold = (losses * counts).reshape(len(learns), -1).sum(1)
        total = (weights * counts).reshape(len(learns), -1).sum(1).clamp(min=1)
        loss = (per_fold / total).sum() + penalty / 2 * parameters[..., :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return parameters.detach()
