# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a finished run is worth on posts: its metrics, and the relation graphs that its verdicts rest on."""

from dataclasses import replace

import datasets
import torch

from ..data.arrays import FeatureArrays
from ..data.description import DataDescription
from ..data.reading import read_split
from ..features.inputs import encoded_sample, model_inputs, reads_pictures, sampled_embeds
from ..tasks import collate_labels
from .graph_inspection import GraphStatistics, graph_statistics, look_up_statistics
from .predictions import predict_logits, unlabelled
from .run_folder import load_run, read_run
from .scoring import metrics_of_logits


def evaluate(
    run: str,
    data: DataDescription,
    *,
    split: str = "test",
    batch_size: int = 32,
    skip_bad_posts: bool = False,
    int8_encoders: bool = False,
) -> dict:
    """Metrics of a run on one split, as `multi_task_metrics`; with `int8_encoders` of its encoders in 8 bits.

    Args:
        run: a finished run's folder.

    Raises:
        ValueError: the data has no such split.
    """
    model, processor = load_run(run)
    if int8_encoders:
        model.for_cpu(int8=True)
    tasks = model.config.tasks
    data = replace(data, tasks=tasks, labels=data.labels or [task["name"] for task in tasks])
    with_pictures = reads_pictures(model.config.encoder_names)
    posts = read_split(data, split, skip_bad_posts=skip_bad_posts, check_images=with_pictures)[0]
    cache, arrays = None if int8_encoders else read_run(run).get("feature_cache"), FeatureArrays(data.feature_arrays)
    inputs, collator = model_inputs(model, processor, datasets.DatasetDict({split: posts}), tasks, cache, arrays)
    logits, _ = predict_logits(model, inputs[split], collator, batch_size)
    labels = collate_labels(
        [{name: post.get(name) for name in logits} for post in posts.remove_columns("image")], tasks
    )
    return metrics_of_logits(tasks, logits, labels)


def inspect_graph(
    run: str, data: DataDescription, *, split: str | None = None, batch_size: int = 32
) -> dict[str, GraphStatistics | None]:
    """Statistics of the relation graphs that a run's predictions of posts rest on, by modality.

    Those among batches of `batch_size` posts, or with a relation memory the neighbours there; labels are not looked at.
    """
    model, processor = load_run(run)
    _, inputs, collator = unlabelled(model, processor, data, split)
    if model.config.relation_scope != "batch":
        return _memory_statistics(model.base_model, encoded_sample(inputs, model, collator))
    return {
        modality: graph_statistics(rows, model.config.thresholds[modality], batch_size)
        for modality, rows in sampled_embeds(inputs, model, collator).items()
    }


def _memory_statistics(encoder, sample) -> dict[str, GraphStatistics | None]:
    embeds, degrees = ({"image": [], "text": []} for _ in range(2))
    for posts, keys in sample:
        for modality, found in encoder.look_up_references(posts, keys, without_themselves=True).items():
            here = posts.present[modality]
            embeds[modality].append(posts.embeds[modality][here].cpu())
            degrees[modality].append((found.entries >= 0).sum(1)[here].cpu())
    config, memory, statistics = encoder.config, encoder.relation_memory.to(torch.device("cpu")), {}
    for modality, present in memory.present.items():
        threshold = None if config.memory_lookup == "top_k" else config.thresholds[modality]
        references = memory.embeds[modality][present]
        rows = torch.cat(embeds[modality]), torch.cat(degrees[modality])
        statistics[modality] = look_up_statistics(*rows, references, threshold)
    return statistics
