# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a baseline's epoch and hyper-parameter are chosen by."""

import numpy as np
from torch import Tensor

from ...tasks import kind_of, probabilities_of
from .statistics import macro_f1_of_resamples


def validation_score(tasks: list[dict], logits: dict[str, Tensor], labels: dict[str, Tensor]) -> float:
    """Mean macro-F1 of the most probable labels over the classification tasks; of regressions alone the negated mean squared
    error. 0 where nothing has a label.

    Args:
        logits, labels: task name -> (N, C) or (N,), missing labels included.
    """
    probabilities, scores, errors = probabilities_of(tasks, logits), [], []
    for task in tasks:
        kind, truth = kind_of(task), labels[task["name"]]
        known = kind.known(truth)
        if not known.any():
            continue
        values, truth = probabilities[task["name"]][known], truth[known]
        if not kind.is_classification:
            errors.append(float((values - truth).square().mean()))
            continue
        decided = kind.decided(task | {"decision_offsets": None}, values)
        everyone = np.ones((1, len(truth)), np.float32)
        scores.append(macro_f1_of_resamples(everyone, truth.numpy(), decided.numpy(), values.shape[1])[0])
    return float(np.mean(scores)) if scores else -float(np.mean(errors)) if errors else 0.0
