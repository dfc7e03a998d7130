# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The YAML header of a model card: what the Hub reads of a model, in its own words."""

import math

from huggingface_hub import EvalResult, ModelCardData

from ..configuration_mm_orient import hub_id
from ..names import PIPELINE_TASK
from .card_facts import CardFacts

# metric of `multi_task_metrics` -> the Hub's id, its name, its arguments
METRICS = {
    "macro_f1": ("f1", "macro-F1", {"average": "macro"}),
    "weighted_f1": ("f1", "weighted F1", {"average": "weighted"}),
    "accuracy": ("accuracy", "accuracy", None),
    "auroc": ("roc_auc", "AUROC", None),
    "mse": ("mse", "mean squared error", None),
    "mae": ("mae", "mean absolute error", None),
    "pearson": ("pearsonr", "correlation", None),
}


def card_header(config, metrics: dict, name: str, facts: CardFacts) -> str:
    """YAML, without its fences.

    Args:
        config: `MMOrientConfig`. metrics: split -> `multi_task_metrics`. name: repository id.
    """
    results = [
        result for split, values in metrics.items() for result in _results(values, split, facts.dataset or [], name)
    ]
    header = ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="transformers",
        pipeline_tag=pipeline_tag(config),
        tags=["mm-orient", PIPELINE_TASK],
        base_model=list(base_models(config).values()) or None,
        datasets=facts.dataset,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name,
        eval_results=results or None,
    )
    return header.to_yaml()


def base_models(config) -> dict[str, str]:
    """Role -> Hub id of the encoders that came from there."""
    sources = {role: hub_id(getattr(encoder, "_name_or_path", "")) for role, encoder in config.encoder_configs.items()}
    return {role: source for role, source in sources.items() if source is not None}


def pipeline_tag(config) -> str:
    """The nearest of the Hub's tags, none of which is for a picture and its text; the pipeline's own is among `tags`."""
    return "text-classification" if config.encoder_names == ["text"] else "image-classification"


def _results(values: dict, split: str, datasets: list[str], name: str) -> list[EvalResult]:
    """A split's metrics, task by task; of several data sets, or of posts that nobody published, they are of `other`."""
    data_set = datasets[0] if len(datasets) == 1 else None
    return [
        EvalResult(
            task_type=PIPELINE_TASK,
            task_name=task,
            dataset_type=data_set or "other",
            dataset_name=data_set or f"posts of {name}",
            dataset_config=task,  # results of one data set, configuration and split are one entry
            dataset_split=split,
            metric_type=METRICS[metric][0],
            metric_name=f"{task} {METRICS[metric][1]}",
            metric_value=found[metric],
            metric_args=METRICS[metric][2],
        )
        for task, found in values.items()
        if isinstance(found, dict)
        for metric in METRICS
        if found.get(metric) is not None and math.isfinite(found[metric])
    ]
