# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Evaluation and prediction with a finished run."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..features.collation import collate_labels
from ..data.reading import DataDescription, has_tables, read_posts
from ..data.arrays import FeatureArrays
from .graph_inspection import GraphStatistics, graph_statistics, look_up_statistics
from .metrics import multi_task_metrics
from ..modeling_mm_orient import MMOrientForMultiTaskClassification
from ..pipeline_mm_orient import neighbours_of, predictions_by_task
from ..processing_mm_orient import MMOrientProcessor
from ..data.tables import write_json
from ..task_heads import probabilities
from .training import RUN_FILE, encoded_sample, model_inputs, reads_pictures, training_embeds


def read_run(folder: str) -> dict:
    """`run.json` of a finished run, empty for a checkpoint from elsewhere. Raises FileNotFoundError where there is none."""
    for name in ("config.json", "processor_config.json"):
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} is no finished run: it has no {name}")
    run_file = Path(folder) / RUN_FILE
    return json.loads(run_file.read_text(encoding="utf-8")) if run_file.is_file() else {}


def load_run(
    folder: str, load_relation_memory: bool = True
) -> tuple[MMOrientForMultiTaskClassification, MMOrientProcessor]:
    """Model and processor of a finished run. Raises FileNotFoundError where there is none."""
    read_run(folder)
    model = MMOrientForMultiTaskClassification.from_pretrained(folder, load_relation_memory=load_relation_memory)
    return model, MMOrientProcessor.from_pretrained(folder)


def describe_data(run: dict, data: str, **changes) -> DataDescription:
    """The run's own description of its data, for the folder `data`, with the entries of `changes`.

    A labels file or a published data set's tables that the run had and the folder has not are forgotten.

    Raises:
        ValueError: the run was trained on feature arrays, and those of other data are not given.
    """
    before = DataDescription(**run.get("data", {"data": data}))
    description = replace(before, data=data)
    if description.feature_arrays and data != before.data and "feature_arrays" not in changes:
        raise ValueError(f"this run reads feature arrays: name those of {data} with --feature-arrays")
    if description.labels_file and not (Path(data) / description.labels_file).is_file():
        description.labels_file = None
    if description.reader and not has_tables(description):
        description.reader = None
    return replace(description, **changes)


@torch.inference_mode()
def predict_logits(
    model, inputs, collator, batch_size: int, neighbours: int = 0
) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """All posts in their order: logits, task name -> (N, C), or (N,) for regression; and each one's evidence.

    Evidence is that of `neighbours_of`, empty dicts where `neighbours` is 0.
    """
    on_cpu = model.quantised_from is not None or not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    model.to(device).eval()
    batches, evidence = [], []
    for batch in tqdm(DataLoader(inputs, batch_size, collate_fn=collator), "predicting", leave=False):
        batch = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        outputs = model(**batch, output_relations=neighbours > 0)
        batches.append({name: value.cpu() for name, value in outputs.logits.items()})
        rows = range(len(outputs.joint_representation))
        memory = model.relation_memory
        evidence += [neighbours_of(memory, outputs, row, neighbours) if neighbours else {} for row in rows]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, evidence


def evaluate(
    run_folder: str,
    description: DataDescription,
    split: str,
    batch_size: int,
    skip_bad_posts: bool = False,
    int8_encoders: bool = False,
) -> dict:
    """Metrics of a run on one split, as `multi_task_metrics`; with `int8_encoders` of its encoders in 8 bits.

    Raises:
        ValueError: the data has no such split.
    """
    model, processor = load_run(run_folder)
    if int8_encoders:
        model.quantise_encoders()
    tasks = model.config.tasks
    description = replace(description, tasks=tasks, labels=description.labels or [task["name"] for task in tasks])
    with_pictures = reads_pictures(model.config.encoder_names)
    posts = choose_split(read_posts(description, skip_bad_posts, with_pictures, training=False)[0], split)
    one = datasets.DatasetDict({split: posts})
    cache = None if int8_encoders else read_run(run_folder).get("feature_cache")
    arrays = FeatureArrays(description.feature_arrays)
    inputs, collator = model_inputs(model, processor, one, tasks, cache, arrays)
    logits, _ = predict_logits(model, inputs[split], collator, batch_size)
    scores = {task["name"]: probabilities(task["kind"], logits[task["name"]]).numpy() for task in tasks}
    references = collate_labels(
        [{name: post.get(name) for name in logits} for post in posts.remove_columns("image")], tasks
    )
    return multi_task_metrics(tasks, {name: np.asarray(value) for name, value in references.items()}, scores)


def predict(
    run_folder: str,
    description: DataDescription,
    output: str,
    split: str | None = None,
    batch_size: int = 32,
    skip_bad_posts: bool = False,
    neighbours: int = 0,
    int8_encoders: bool = False,
) -> int:
    """Predict posts without looking at labels, and write `.jsonl`, `.csv` or `.parquet` to `output`, complete or not at all.

    A line of JSON is `{"id": ..., TASK: {LABEL: probability}}`, for regression `{TASK: value}`; tables have columns `id`,
    `TASK` (the most probable label; of several labels those from .5, joined by `|`) and `TASK:LABEL`. With `neighbours` a
    line of JSON also has `"neighbours"`, up to so many posts of the relation memory per modality. `int8_encoders` are faster
    on a CPU, see `quantise_encoders`.

    Returns:
        The number of posts.
    """
    output = Path(output)
    if output.suffix not in WRITERS:
        raise ValueError(f"{output}: predictions are written to {', '.join(WRITERS)}")
    if neighbours and output.suffix != ".jsonl":
        raise ValueError(f"{output}: neighbours are written to .jsonl only")
    model, processor = load_run(run_folder)
    if neighbours and model.config.relation_scope == "batch":
        raise ValueError(f"{run_folder} has no relation memory to take neighbours from; see mm-orient memory build")
    if int8_encoders:
        model.quantise_encoders()
    tasks = model.config.tasks
    description = replace(description, labels=None, split_column=description.split_column if split else None)
    posts, inputs, collator = _unlabelled(model, processor, description, split, skip_bad_posts)
    logits, evidence = predict_logits(model, inputs, collator, batch_size, neighbours)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    lines = prediction_lines(posts["id"], logits, tasks)
    if neighbours:
        lines = (line | {"neighbours": found} for line, found in zip(lines, evidence, strict=True))
    WRITERS[output.suffix](partial, lines, tasks)
    os.replace(partial, output)
    return len(posts)


def inspect_graph(
    run_folder: str, description: DataDescription, split: str | None, batch_size: int
) -> dict[str, GraphStatistics | None]:
    """Statistics of the relation graphs that a run's predictions of posts of `description` rest on, by modality.

    Those among batches of `batch_size` posts, or with a relation memory the neighbours there; labels are not looked at.
    """
    model, processor = load_run(run_folder)
    description = replace(description, labels=None, split_column=description.split_column if split else None)
    _, inputs, collator = _unlabelled(model, processor, description, split)
    if model.config.relation_scope != "batch":
        return _memory_statistics(model.mm_orient, encoded_sample(inputs, model, collator))
    embeds = training_embeds(inputs, model, collator)
    return {
        modality: graph_statistics(rows, getattr(model.config, f"{modality}_threshold"), batch_size)
        for modality, rows in embeds.items()
    }


def _memory_statistics(encoder, sample) -> dict[str, GraphStatistics | None]:
    embeds, degrees = ({"image": [], "text": []} for _ in range(2))
    for posts, keys in sample:
        for modality, found in encoder.look_up_references(posts, keys, without_themselves=True).items():
            here = posts[f"has_{modality}"]
            embeds[modality].append(posts[f"{modality}_embeds"][here].cpu())
            degrees[modality].append((found.entries >= 0).sum(1)[here].cpu())
    config, memory, statistics = encoder.config, encoder.relation_memory.to(torch.device("cpu")), {}
    for modality, present in memory.present.items():
        threshold = None if config.memory_lookup == "top_k" else getattr(config, f"{modality}_threshold")
        references = memory.embeds[modality][present]
        rows = torch.cat(embeds[modality]), torch.cat(degrees[modality])
        statistics[modality] = look_up_statistics(*rows, references, threshold)
    return statistics


def _unlabelled(model, processor, description: DataDescription, split: str | None, skip_bad_posts: bool = False):
    """The posts of a split, or all, what of them the model reads, and the collator for that."""
    with_pictures = reads_pictures(model.config.encoder_names)
    splits = read_posts(description, skip_bad_posts, with_pictures, training=False)[0]
    posts = datasets.concatenate_datasets(list(splits.values())) if split is None else choose_split(splits, split)
    arrays = FeatureArrays(description.feature_arrays)
    inputs, collator = model_inputs(model, processor, datasets.DatasetDict({"all": posts}), [], arrays=arrays)
    return posts, inputs["all"], replace(collator, labels=False)


def choose_split(splits: datasets.DatasetDict, split: str) -> datasets.Dataset:
    """One split. Raises ValueError, naming those there are, where it is missing."""
    if split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def write_report(path: str, metrics: dict) -> None:
    """Write metrics or statistics as JSON, complete or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(path), metrics)


def prediction_lines(ids: Iterable[str], logits: dict[str, torch.Tensor], tasks: list[dict]) -> Iterator[dict]:
    """Of each post its `id` and what `predictions_by_task` makes of its row of logits."""
    for row, name in enumerate(ids):
        yield {"id": name} | predictions_by_task(tasks, {task: values[row] for task, values in logits.items()})


def prediction_columns(tasks: list[dict]) -> dict[str, type]:
    """Columns of a table of predictions and what they hold: `id`, and `TASK` and every `TASK:LABEL` of the tasks."""
    columns = {"id": str}
    for task in tasks:
        columns[task["name"]] = float if task["kind"] == "regression" else str
        columns |= {f"{task['name']}:{label}": float for label in task["labels"]}
    return columns


def prediction_row(line: dict, tasks: list[dict]) -> dict:
    """One of `predictions_by_task`, with its `id`, as a row with `prediction_columns`."""
    row = {"id": line["id"]}
    for task in tasks:
        values = line[task["name"]]
        if task["kind"] == "regression":
            row[task["name"]] = values
            continue
        chosen = [max(values, key=values.get)]
        if task["kind"] == "multi_label":
            chosen = [label for label, probability in values.items() if probability >= 0.5]
        row |= {task["name"]: "|".join(chosen)} | {f"{task['name']}:{label}": p for label, p in values.items()}
    return row


def prediction_schema(tasks: list[dict]) -> pyarrow.Schema:
    """Of a Parquet file of predictions."""
    kinds = {str: pyarrow.string(), float: pyarrow.float64()}
    return pyarrow.schema({name: kinds[kind] for name, kind in prediction_columns(tasks).items()})


def _write_csv(path: Path, lines: Iterable[dict], tasks: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, prediction_columns(tasks))
        writer.writeheader()
        writer.writerows(prediction_row(line, tasks) for line in lines)


def _write_jsonl(path: Path, lines: Iterable[dict], tasks: list[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _write_parquet(path: Path, lines: Iterable[dict], tasks: list[dict]) -> None:
    rows = [prediction_row(line, tasks) for line in lines]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, prediction_schema(tasks)), path)


WRITERS = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}
