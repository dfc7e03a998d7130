# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From logits and labels to metrics of every task: the one place where that is done.

Shapes: N posts, C labels of a task.
"""

import numpy as np
import torch

from ..tasks import kind_of, probabilities_of
from .metrics import METRICS, errors_by_coverage

# what changes from epoch to epoch; the majority's metrics are constants of the data
OF_CLASSES = ("macro_f1", "weighted_f1", "accuracy", "auroc", "calibration_error")
OF_NUMBERS = ("mse", "mae", "pearson")
BEST = "mean_macro_f1"
LESS_IS_BETTER = ("loss", "mse", "mae", "calibration_error")


def metrics_of_logits(tasks: list[dict], logits: dict, labels: dict) -> dict:
    """`multi_task_metrics` of logits, task name -> (N, C) or (N,), tensors or arrays, by each task's rule; where it has a
    temperature, with calibration `_before` that as well."""
    scores = {name: value.numpy() for name, value in probabilities_of(tasks, logits).items()}
    result = multi_task_metrics(tasks, labels, scores)
    tempered = [task for task in tasks if task.get("temperature", 1.0) != 1.0 and task["name"] in result]
    before = [task | {"temperature": 1.0} for task in tempered]
    plain = {name: value.numpy() for name, value in probabilities_of(before, logits).items()}
    for name, metrics in multi_task_metrics(before, labels, plain).items() if before else ():
        if name in logits:
            result[name] |= {f"{key}_before": metrics[key] for key in ("calibration_error", "reliability")}
    return result


def multi_task_metrics(tasks: list[dict], references: dict, scores: dict) -> dict:
    """`{task: metrics, "mean_macro_f1": mean over classification tasks}`.

    Args:
        tasks: task descriptions of the configuration.
        references: task name -> labels as the model takes them, missing ones included; such posts are left out. A task
            without any label in these posts is left out of the result.
        scores: task name -> probabilities (N, C), or values (N,).
    """
    result = {}
    for task in tasks:
        kind, labels = kind_of(task), torch.as_tensor(references[task["name"]])
        known = kind.known(labels).numpy()
        if known.any():
            labels, values = labels.numpy()[known], np.asarray(scores[task["name"]], dtype=np.float64)[known]
            labels = labels.astype(int) if kind.is_classification else labels
            decided = kind.decided(task, torch.from_numpy(values)).numpy()
            result[task["name"]] = METRICS[kind.name](labels, values, decided) | {"posts": int(known.sum())}
            if kind.is_classification:
                doubt = kind.doubt(task, torch.from_numpy(values)).numpy()
                result[task["name"]]["coverage"] = errors_by_coverage(
                    doubt, (decided != labels).reshape(len(labels), -1)
                )
    macro = [metrics["macro_f1"] for metrics in result.values() if "macro_f1" in metrics]
    result["mean_macro_f1"] = float(np.mean(macro)) if macro else None
    return result


def kept_by(trainer: dict, usual: str = BEST) -> tuple[str, bool]:
    """The metric of validation by which an epoch is kept as the best, and whether more of it is better.

    Args:
        trainer: what was said of the Trainer's own settings. usual: the metric if they say none.
    """
    name = trainer.get("metric_for_best_model", usual).removeprefix("eval_")
    return name, trainer.get("greater_is_better", not name.endswith(LESS_IS_BETTER))


def judged_split(metrics: dict[str, dict]) -> str:
    """The split, of `metrics` by split, that a run is judged by: test, or validation where no test post has a label."""
    tasks = [found for found in metrics.get("test", {}).values() if isinstance(found, dict)]
    return "test" if tasks else "validation"


def task_metrics_function(tasks: list[dict]):
    """`compute_metrics` for any `Trainer`: every task's metrics of `epoch_metrics`, as far as they are defined.

    A run of regression tasks alone has no macro-F1: there `mean_macro_f1` is the negated mean squared error.
    """

    def compute(prediction) -> dict[str, float]:
        metrics = metrics_of_logits(tasks, prediction.predictions, prediction.label_ids)
        mean = metrics.pop("mean_macro_f1")
        if mean is None:
            errors = [values["mse"] for values in metrics.values()]
            mean = -sum(errors) / max(1, len(errors))
        flat = {f"{task}_{name}": value for task, values in metrics.items() for name, value in values.items()}
        flat |= {"mean_macro_f1": mean}
        return {name: flat[name] for name in epoch_metrics(tasks) if flat.get(name) is not None}

    return compute


def epoch_metrics(tasks: list[dict]) -> list[str]:
    """Names of what `task_metrics_function` computes: `TASK_METRIC` of every task, and `mean_macro_f1`."""
    of_task = {task["name"]: OF_CLASSES if kind_of(task).is_classification else OF_NUMBERS for task in tasks}
    return [f"{task}_{name}" for task, names in of_task.items() for name in names] + ["mean_macro_f1"]
