# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Predictions of a finished run: posts to lines and tables.

A line of JSON is `{"id": ..., TASK: {LABEL: probability}}`, for regression `{TASK: value}`, with `"strange_picture": true`
if the picture was left out of account; tables have columns `id`, `TASK` (what is decided: a label, or several joined by `|`)
and `TASK:LABEL`, where verdicts may be left to a person `abstained` (their tasks, joined by `|`), and where a model leaves
pictures out `strange_picture`.

Shapes: N posts, C labels of a task.
"""

import csv
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow
import pyarrow.parquet
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.arrays import FeatureArrays
from ..data.description import DataDescription
from ..data.picture_files import image_problems
from ..data.problems import DataProblems, Problem
from ..data.reading import read_split, stream_posts
from ..features.collation import PostCollator
from ..features.inputs import model_inputs, reads_pictures
from ..partial_files import whole_file
from ..pictures import pictures_of
from ..pipeline_mm_orient import neighbours_of
from ..tasks import check_abstention, kind_of, predictions_by_task, tasks_left_to_a_person
from .run_folder import load_run, read_own_splits

logger = logging.getLogger(__name__)

ROWS_OF_A_GROUP = 100_000  # of a Parquet file
STREAMED_POSTS = 256  # that are held at a time
STRANGE_PICTURE = "strange_picture"
ABSTAINED = "abstained"
NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?")


class Verdicts(NamedTuple):
    """Of posts in their order: `logits`, task name -> (N, C), or (N,) for regression; `evidence`, `neighbours_of` each;
    `strange`, whose picture was left out of account."""

    logits: dict[str, torch.Tensor]
    evidence: list[dict]
    strange: list[bool]

    def say_strange(self) -> None:
        """Log how many pictures were left out, if any."""
        say_strange(sum(self.strange), len(self.strange))


def say_strange(count: int, posts: int) -> None:
    """Log how many pictures were left out of account, if any."""
    if count:
        logger.warning("%d pictures of %d posts left out of account: unlike every reference post's", count, posts)


@torch.inference_mode()
def predict_logits(model, inputs, collator, batch_size: int, neighbours: int = 0) -> Verdicts:
    """A model's verdicts on all posts; evidence is empty dicts where `neighbours` is 0."""
    on_cpu = model.quantised_from is not None or not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    model.to(device).eval()
    batches, evidence, strange = [], [], []
    for batch in tqdm(DataLoader(inputs, batch_size, collate_fn=collator), "predicting", leave=False):
        batch = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        outputs = model(**batch, output_relations=neighbours > 0)
        batches.append({name: value.cpu() for name, value in outputs.logits.items()})
        rows = range(len(outputs.joint_representation))
        strange += [False] * len(rows) if outputs.strange_pictures is None else outputs.strange_pictures.tolist()
        memory = model.relation_memory
        evidence += [neighbours_of(memory, outputs, row, neighbours) if neighbours else {} for row in rows]
    return Verdicts({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, evidence, strange)


def predict(
    run: str,
    data: DataDescription,
    *,
    output: str,
    split: str | None = None,
    batch_size: int = 32,
    skip_bad_posts: bool = False,
    neighbours: int = 0,
    int8_encoders: bool = False,
    abstain: float = 0.0,
    streaming: bool = False,
) -> int:
    """Predict posts without looking at labels, and write `.jsonl`, `.csv` or `.parquet` to `output`, complete or not at all.

    Args:
        run: a finished run's folder. split: None takes all posts.
        neighbours: a line of JSON also has `"neighbours"`, up to so many posts of the relation memory per modality.
        int8_encoders: faster on a CPU, see `for_cpu`.
        abstain: leave this share of each task's verdicts, those doubted most, to a person: a table's cell is empty then, and
            the task's name stands under `abstained`.
        streaming: read, check and predict posts as they come, in bounded memory, those of the Hub from there.

    Returns:
        The number of posts.
    """
    path = Path(output)
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: predictions are written to {', '.join(WRITERS)}")
    if neighbours and path.suffix != ".jsonl":
        raise ValueError(f"{path}: neighbours are written to .jsonl only")
    model, processor = load_run(run)
    if neighbours and model.config.relation_scope == "batch":
        raise ValueError(f"{run} has no relation memory to take neighbours from; see mm-orient memory build")
    check_abstention(model.config.tasks, abstain)
    columns = None
    if path.suffix != ".jsonl":
        columns = prediction_columns(model.config.tasks, abstain > 0, model.config.leaves_out_pictures)
    if int8_encoders:
        model.for_cpu(int8=True)
    asked = batch_size, neighbours, abstain
    if streaming:
        if split is not None or data.feature_arrays:
            raise ValueError("streaming takes all posts, without a split and without feature arrays")
        lines = _lines_of_stream(model, processor, data, skip_bad_posts, *asked)
    else:
        own = read_own_splits(run)
        posts, inputs, collator = unlabelled(model, processor, data, split, skip_bad_posts, own)
        lines = _lines(model, posts["id"], inputs, collator, *asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    counted = _Counted(lines)
    with whole_file(path) as partial:
        WRITERS[path.suffix](partial, counted, model.config.tasks, columns)
    say_strange(counted.strange, counted.count)
    return counted.count


class _Counted:
    """Lines as they come, how many there were, and with how many strange pictures."""

    def __init__(self, lines: Iterable[dict]):
        self.lines, self.count, self.strange = lines, 0, 0

    def __iter__(self) -> Iterator[dict]:
        for line in self.lines:
            self.count += 1
            self.strange += STRANGE_PICTURE in line
            yield line


def _lines(model, ids, inputs, collator, batch_size: int, neighbours: int, abstain: float) -> Iterator[dict]:
    found = predict_logits(model, inputs, collator, batch_size, neighbours)
    lines = prediction_lines(ids, found.logits, model.config.tasks, abstain)
    for line, evidence, strange in zip(lines, found.evidence, found.strange, strict=True):
        yield line | ({"neighbours": evidence} if neighbours else {}) | ({STRANGE_PICTURE: True} if strange else {})


def _lines_of_stream(
    model, processor, data: DataDescription, skip_bad_posts: bool, batch_size: int, *asked
) -> Iterator[dict]:
    """Lines of posts, some batches of them at a time; batches are those of a whole pass."""
    data = replace(data, numeric_columns=[column["name"] for column in processor.numeric_columns])
    with_pictures = reads_pictures(model.config.encoder_names)
    collator, left_out = PostCollator(processor, [], labels=False), 0
    stream = stream_posts(data, from_hub=True)
    sound, at_a_time = [], batch_size * max(1, STREAMED_POSTS // batch_size)

    def lines(posts: list[dict]) -> Iterator[dict]:
        inputs = posts if with_pictures else [post | {"image": None, "more_images": []} for post in posts]
        yield from _lines(model, [post["id"] for post in posts], inputs, collator, batch_size, *asked)

    while rows := list(islice(stream, at_a_time)):
        problems = [Problem(where, "malformed row", what) for where, _, what in rows if what is not None]
        kept = [(where, post) for where, post, what in rows if what is None]
        if with_pictures:
            pictures = [(where, picture) for where, post in kept for picture in pictures_of(post)]
            found = image_problems([picture for _, picture in pictures], Path(data.data))
            problems += [Problem(w, *p) for (w, _), p in zip(pictures, found, strict=True) if p is not None]
        bad = {problem.where for problem in problems}
        if bad and not skip_bad_posts:
            raise DataProblems(problems)
        if bad:
            left_out += len(bad)
            logger.warning("%d post(s) left out: %s", len(bad), DataProblems(problems))
        sound += [post for where, post in kept if where not in bad]
        while len(sound) >= at_a_time:
            yield from lines(sound[:at_a_time])
            sound = sound[at_a_time:]
    if sound:
        yield from lines(sound)
    if left_out:
        logger.warning("%d posts left out in all", left_out)


def unlabelled(
    model, processor, data: DataDescription, split: str | None, skip_bad_posts: bool = False, own: dict | None = None
):
    """The posts of a split, or all, what of them the model reads, and the collator for that; labels are not looked at. `own`
    as in `read_split`."""
    data = replace(data, labels=None, split_column=data.split_column if split else None)
    data.numeric_columns = [column["name"] for column in processor.numeric_columns]
    with_pictures = reads_pictures(model.config.encoder_names)
    posts = read_split(data, split, skip_bad_posts=skip_bad_posts, check_images=with_pictures, own=own)[0]
    arrays = FeatureArrays(data.feature_arrays)
    inputs, collator = model_inputs(model, processor, datasets.DatasetDict({"all": posts}), [], arrays=arrays)
    return posts, inputs["all"], replace(collator, labels=False)


def prediction_lines(
    ids: Iterable[str], logits: dict[str, torch.Tensor], tasks: list[dict], abstain: float = 0.0
) -> Iterator[dict]:
    """Of each post its `id` and what `predictions_by_task` makes of its row of logits; with `abstain` also `"abstained"`,
    the tasks whose verdict is left to a person.

    Raises:
        ValueError: a verdict is no finite number.
    """
    for row, name in enumerate(ids):
        of_post = {task: values[row] for task, values in logits.items()}
        found = predictions_by_task(tasks, of_post)
        for task, said in found.items():
            if not all(map(math.isfinite, said.values() if isinstance(said, dict) else [said])):
                raise ValueError(
                    f"{name}: no finite number comes out for {task!r}; weights or configuration are damaged"
                )
        left = {ABSTAINED: tasks_left_to_a_person(tasks, of_post, abstain)} if abstain else {}
        yield {"id": name} | found | left


def prediction_columns(tasks: list[dict], abstains: bool = False, leaves_out_pictures: bool = False) -> dict[str, type]:
    """Columns of a table of predictions and what they hold: `id`, `TASK` and every `TASK:LABEL` of the tasks, `abstained`
    where verdicts are left to a person, and `strange_picture` of a model that leaves pictures out of account.

    Raises:
        ValueError: two would have the same name.
    """
    columns = [("id", str)]
    for task in tasks:
        columns.append((task["name"], str if kind_of(task).is_classification else float))
        columns += [(f"{task['name']}:{label}", float) for label in task["labels"]]
    columns += [(ABSTAINED, str)] * abstains + [(STRANGE_PICTURE, bool)] * leaves_out_pictures
    name, times = Counter(name for name, _ in columns).most_common(1)[0]
    if times > 1:
        raise ValueError(f"a table of predictions would have two columns {name!r}, of two tasks: write lines of JSON")
    return dict(columns)


def prediction_row(line: dict, tasks: list[dict]) -> dict:
    """One of `predictions_by_task`, with its `id`, as a row with all of `prediction_columns`."""
    left = line.get(ABSTAINED, [])
    row = {"id": line["id"], ABSTAINED: "|".join(left), STRANGE_PICTURE: line.get(STRANGE_PICTURE, False)}
    for task in tasks:
        values = line[task["name"]]
        row[task["name"]] = None if task["name"] in left else kind_of(task).cell(task, values)
        row |= {f"{task['name']}:{label}": values[label] for label in task["labels"]}
    return row


def prediction_schema(columns: dict[str, type]) -> pyarrow.Schema:
    """Of a Parquet file of `prediction_columns`."""
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return pyarrow.schema({name: kinds[kind] for name, kind in columns.items()})


def _write_csv(path: Path, lines: Iterable[dict], tasks: list[dict], columns: dict[str, type]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(harmless, columns))
        for line in lines:
            row = prediction_row(line, tasks)
            writer.writerow(harmless(row[name]) for name in columns)


def harmless(cell):
    """A cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe, numbers stay."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def _write_jsonl(path: Path, lines: Iterable[dict], tasks: list[dict], columns: None) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _write_parquet(path: Path, lines: Iterable[dict], tasks: list[dict], columns: dict[str, type]) -> None:
    lines, schema = iter(lines), prediction_schema(columns)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while rows := [prediction_row(line, tasks) for line in islice(lines, ROWS_OF_A_GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))


WRITERS = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}
