# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a finished run is worth on posts: its metrics, and the relation graphs that its verdicts rest on."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import torch
from torch.utils.data import Subset

from ..data.arrays import FeatureArrays
from ..data.description import DataDescription
from ..data.problems import Problem
from ..data.reading import read_posts, read_split
from ..data.splits import SPLITS, assign_known_splits, regrouped
from ..features.inputs import encoded_sample, model_inputs, reads_pictures, sampled_embeds
from ..names import MODALITIES
from ..pictures import key_number, post_key
from ..tasks import LABEL_PREFIX, collate_labels
from .graph_inspection import GraphStatistics, graph_statistics, look_up_statistics
from .graph_picture import MOST_DRAWN, NEAREST, draw_graph, drawn_graph, relation_edges
from .predictions import predict_logits, unlabelled
from .run_folder import load_run, read_own_splits, read_splits
from .scoring import metrics_of_logits

logger = logging.getLogger(__name__)


def evaluate(
    run: str,
    data: DataDescription,
    *,
    split: str = "test",
    batch_size: int = 32,
    feature_cache: str | None = None,
    skip_bad_posts: bool = False,
    int8_encoders: bool = False,
    known: bool = False,
) -> dict:
    """Metrics of a run on posts it has not learned from, as `multi_task_metrics`; how many they are is logged.

    Args:
        run: a finished run's folder.
        split: of the data, or a part of a `DatasetDict` by its own name; where the data say none, the one that the run drew,
            and posts that the run has never seen count to it. Data that are all new to the run are evaluated whole.
        feature_cache: folder of stored features; None encodes the posts.
        int8_encoders: with the encoders in 8 bits, which takes no stored features.
        known: of the posts of the data that the run has learned from or has in its relation memory, where they would find
            themselves, instead; they are left out otherwise.

    Raises:
        ValueError: the data has no such split, or nothing is left.
    """
    found = posts_to_evaluate(run, data, split=split, skip_bad_posts=skip_bad_posts, known=known)
    model, posts, tasks = found.model, found.posts, found.model.config.tasks
    if int8_encoders:
        model.for_cpu(int8=True)
    cache, arrays = None if int8_encoders else feature_cache, FeatureArrays(data.feature_arrays)
    inputs, collator = model_inputs(model, found.processor, datasets.DatasetDict({split: posts}), tasks, cache, arrays)
    verdicts = predict_logits(model, inputs[split], collator, batch_size)
    verdicts.say_strange()
    labelled = posts.select_columns([name for name in posts.column_names if name.startswith(LABEL_PREFIX)])
    labels = collate_labels(list(labelled), tasks)
    return metrics_of_logits(tasks, verdicts.logits, labels)


@dataclass
class PostsToScore:
    """A run and the posts it is judged by; `splits` are all that were read, `left_out` what was wrong with those that were
    not, None where that was not kept."""

    model: object
    processor: object
    posts: datasets.Dataset
    splits: dict[str, datasets.Dataset]
    left_out: list[Problem] | None = None


def posts_to_evaluate(
    run: str, data: DataDescription, *, split: str = "test", skip_bad_posts: bool = False, known: bool = False
) -> PostsToScore:
    """Load a run, and read the posts that `evaluate` scores; arguments and errors as there."""
    model, processor = load_run(run)
    tasks = model.config.tasks
    names = [task["name"] for task in tasks]
    if unknown := [label for label in data.labels or [] if label not in names]:
        raise ValueError(f"the run has no task {unknown[0]!r}; it has {', '.join(names)}")
    data = replace(data, tasks=tasks, labels=data.labels or names)
    data.numeric_columns = [column["name"] for column in processor.numeric_columns]
    with_pictures = reads_pictures(model.config.encoder_names)
    if split in SPLITS:
        splits, _, left_out = read_posts(data, skip_bad_posts, with_pictures, training=False, split_at_random=False)
        if not known and not data.split_column and set(splits) != {"all"}:
            splits = regrouped(splits, read_own_splits(run))
    else:
        left_out = None if skip_bad_posts else []
        splits = {split: read_split(data, split, skip_bad_posts=skip_bad_posts, check_images=with_pictures)[0]}
    in_memory = set() if model.relation_memory is None else set(model.relation_memory.keys.tolist())
    posts = posts_to_score(splits, read_splits(run), in_memory, split, known)
    return PostsToScore(model, processor, posts, splits, left_out)


def posts_to_score(
    splits: dict[str, datasets.Dataset], of_run: dict[str, str], in_memory: set[int], split: str, known: bool
) -> datasets.Dataset:
    """The posts that a run is judged by; what is left out is logged.

    Args:
        splits: posts by split, `"all"` where the data say none. of_run: post key -> the split that the run had it in.
        in_memory: the `key_number`s of the posts in the run's relation memory. split, known: see `evaluate`.
    """
    if split not in splits and set(splits) != {"all"}:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}")
    posts = splits[split] if split in splits else splits["all"]
    places = assign_known_splits(posts, of_run)
    learned = places.pop("train", [])
    rows = [row for found in places.values() for row in found]
    if split not in splits:
        rows = places.get(split, []) + places.get(None, [])
        drawn, new = len(places.get(split, [])), len(places.get(None, []))
        logger.info("the data say no splits: %d posts that the run had in %r, %d new to it", drawn, split, new)
    seen = {"has learned from": learned}
    if split == "train":
        rows += learned
    else:
        looked_up = [row for row in rows if in_memory and key_number(post_key(posts[row])) in in_memory]
        rows, seen["has in its relation memory"] = sorted(set(rows) - set(looked_up)), looked_up
    if learned and split == "train" and not known:
        logger.warning("%d of these posts the run has learned from: others say how good it is", len(learned))
    for how, found in seen.items():
        if found and split != "train" and not known:
            said = ", ".join(posts["id"][row] for row in found[:3])
            logger.warning("%d posts left out that the run %s, say %s", len(found), how, said)
    chosen = sorted(row for found in seen.values() for row in found) if known else sorted(rows)
    if not chosen:
        raise ValueError(f"no post to score: the run knows {'none' if known else 'all'} of them")
    logger.info("%d posts scored", len(chosen))
    return posts.select(chosen)


def inspect_graph(
    run: str, data: DataDescription, *, split: str | None = None, batch_size: int = 32
) -> dict[str, GraphStatistics | None]:
    """Statistics of the relation graphs that a run's predictions of posts rest on, by modality.

    Those among batches of `batch_size` posts, or with a relation memory the neighbours there; labels are not looked at.
    """
    model, processor = load_run(run)
    _, inputs, collator = unlabelled(model, processor, data, split, own=read_own_splits(run))
    if model.config.relation_scope != "batch":
        return _memory_statistics(model.base_model, encoded_sample(inputs, model, collator))
    return {
        modality: graph_statistics(rows, model.config.thresholds[modality], batch_size)
        for modality, rows in sampled_embeds(inputs, model, collator).items()
    }


def draw_relations(run: str, data: DataDescription, path: str, *, split: str | None = None) -> str:
    """Draw the relation graphs among some posts by a run's rule, of many a reproducible sample; returns a line on them.

    A run that looks up so many nearest has few of them drawn: `graph_picture.NEAREST`.
    """
    model, processor = load_run(run)
    _, inputs, collator = unlabelled(model, processor, data, split, own=read_own_splits(run))
    rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:MOST_DRAWN].sort().values
    found = [posts for posts, _ in encoded_sample(Subset(inputs, rows.tolist()), model, collator)]
    config, edges = model.config, {}
    by_threshold = config.relation_scope == "batch" or config.memory_lookup != "top_k"
    nearest = None if config.relation_scope == "batch" or config.memory_lookup == "threshold" else NEAREST
    for modality in MODALITIES:
        embeds = torch.cat([posts.embeds[modality].cpu() for posts in found])
        present = torch.cat([posts.present[modality].cpu() for posts in found])
        edges[modality] = relation_edges(
            embeds, present, config.thresholds[modality] if by_threshold else None, nearest
        )
    graph = drawn_graph(edges["image"], edges["text"], len(rows))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    draw_graph(graph, path)
    return graph.statistics()


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
