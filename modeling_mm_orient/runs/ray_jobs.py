# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Prediction and feature extraction as Ray Data jobs: Parquet in, Parquet out, on any number of nodes.

Ray reads, schedules, retries and writes; each of its workers loads a model once. What a worker had in hand when it died is
done again by another. Every row of the input is one row of the output, a post that cannot be read with its `problem`.
"""

import functools
import logging
import operator
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import torch

from ..data.columns import complete_columns
from ..data.description import DataDescription
from ..data.labels import is_missing
from ..data.picture_files import any_picture_below, image_finder
from ..data.reading import read_post
from ..data.sources import picture_columns
from ..data.tables import Row, arrow_values
from ..features.extraction import (
    COLUMNS,
    PreparedBatch,
    Shard,
    ShardBatches,
    encode_batch,
    encoder_fingerprint,
    feature_table,
)
from ..numeric_columns import standardised
from ..partial_files import own_partial
from ..task_features import task_features
from .predictions import STRANGE_PICTURE, prediction_columns, prediction_lines, prediction_row, prediction_schema
from .presets import encoders_alone
from .run_folder import describe_data, load_run, read_run
from .settings import Workers

try:
    import ray
except ImportError:
    ray = None

logger = logging.getLogger(__name__)

POSTS_PER_TASK = 256  # what is done again when a worker dies
MOST_DEATHS = 5  # of workers on the same posts, before the job gives up
NUMBERS_AND_TIMES = {
    "integer": pa.types.is_integer, "floating": pa.types.is_floating, "decimal": pa.types.is_decimal,
    "timestamp": pa.types.is_timestamp, "date": pa.types.is_date, "time": pa.types.is_time,
}  # fmt: skip
MOST_IDS = 10_000_000  # that are compared before the job
READER_CPUS = 1  # for Ray's own tasks beside the workers


def predict_with_ray(
    run: str, posts: str, *, output: str, workers: Workers, batch_size: int | None = None, **columns
) -> dict:
    """Predict posts with a finished run; the output has the columns of `evaluation.predict`'s tables, and `problem`.

    Args:
        run, posts, output: paths that every node sees. `posts` is a Parquet file or a folder of them; pictures are
            bytes, `{"bytes", "path"}` or paths in that folder. `output` is a folder that is not there yet, and there
            complete or not at all.
        batch_size: posts per forward pass (default: as trained).
        columns: `text_column`, `image_column`, `id_column`, where they differ from the run's, and `allow_outside`.

    Returns:
        `{"folder", "rows", "with_picture", "with_text", "problems"}`, numbers of rows in all, of those that name a picture,
        that have a text, and that have a problem; and `"strange_pictures"`, of those whose picture was left out of account
        by a model that does so.

    Raises:
        ValueError: the run's verdicts depend on a post's batch mates; the posts have not the columns; the output is there.
    """
    about = read_run(run)
    description = replace(describe_data(about, _folder(posts), **columns), labels=None, split_column=None)
    model, _ = load_run(run)
    if model.config.relation_scope == "batch":
        raise ValueError(
            f"{run} predicts a post by its batch mates (relation_scope is 'batch'), and a job has none to keep "
            "together; give it a relation memory with mm-orient memory build"
        )
    if description.feature_arrays:
        raise ValueError(f"{run} reads feature arrays, which Parquet files of posts do not have")
    batch_size = batch_size or about.get("training", {}).get("batch_size", 32)
    load = partial(load_run, os.path.abspath(run))
    schema = predictions_schema(model.config)
    return _run(load, predict_batch, schema, description, posts, Path(output), workers, batch_size)


def extract_with_ray(
    preset: dict, description: DataDescription, posts: str, *, output: str, workers: Workers, batch_size: int = 32
) -> dict:
    """Features of posts by a preset's encoders; the output's folder named after their fingerprint is a feature cache.

    Args:
        preset: of `load_preset`. description: columns and treatment of the posts; its `data` is not looked at.
        posts, output, batch_size: as in `predict_with_ray`.

    Returns, raises: as `predict_with_ray`.
    """
    description = replace(description, data=_folder(posts), labels=None, split_column=None, numeric_columns=[])
    if description.feature_arrays:
        raise ValueError("--feature-arrays are features already; a job extracts them from posts")
    # workers stand elsewhere
    encoders = {role: _absolute(source) for role, source in preset["encoders"].items()}
    sources = {name: entry | {"source": _absolute(entry["source"])} for name, entry in preset["task_features"].items()}
    preset = preset | {"encoders": encoders, "task_features": sources}
    load = partial(encoders_alone, preset, description)
    folder = Path(output) / encoder_fingerprint(*load())
    return _run(load, extract_batch, COLUMNS.arrow_schema, description, posts, folder, workers, batch_size)


@torch.inference_mode()
def predict_batch(model, processor, batch: PreparedBatch) -> pa.Table:
    """Predictions of a batch's posts, in the order of their positions."""
    sources, inputs = processor.task_features, {name: value.to(model.device) for name, value in batch.inputs.items()}
    if sources:
        inputs["task_features"] = task_features(batch.texts, sources, model.device)
    if processor.numeric_columns:
        numbers = standardised(batch.numbers, processor.numeric_columns).to(model.device)
        inputs["task_features"] = torch.cat([inputs["task_features"], numbers], -1) if sources else numbers
    outputs, tasks = model(**inputs), model.config.tasks
    logits = {name: values.cpu() for name, values in outputs.logits.items()}
    strange = [False] * len(batch.ids) if outputs.strange_pictures is None else outputs.strange_pictures.tolist()
    rows = [
        prediction_row(line | {STRANGE_PICTURE: left_out}, tasks)
        for line, left_out in zip(prediction_lines(batch.ids, logits, tasks), strange, strict=True)
    ]
    in_order = [row for _, row in sorted(zip(batch.positions, rows, strict=True), key=lambda pair: pair[0])]
    return pa.Table.from_pylist(in_order, predictions_schema(model.config))


def predictions_schema(config) -> pa.Schema:
    """Of the Parquet files that a model of this configuration predicts. Raises ValueError as `prediction_columns`."""
    return prediction_schema(prediction_columns(config.tasks, leaves_out_pictures=config.leaves_out_pictures))


def extract_batch(model, processor, batch: PreparedBatch) -> pa.Table:
    """Features of a batch's posts, in the order of their positions."""
    return feature_table([encode_batch(model, processor, batch)])


class Worker:
    """Posts of a Parquet table to a table of answers; one lives in each of Ray's worker processes.

    Args:
        load: gives model and processor. answer: function of both and a `PreparedBatch`, such as `predict_batch`.
        schema: of its tables. description: columns of the posts. device: of the model.
    """

    def __init__(
        self, load, answer, schema: pa.Schema, description: DataDescription, batch_size: int, cpus: int, device: str
    ):
        torch.set_num_threads(cpus)
        self.model, self.processor = load()
        self.model.to(device).eval()
        self.answer, self.batch_size, self.description = answer, batch_size, description
        self.schema = schema.append(pa.field("problem", pa.string()))
        self.find_image = image_finder(Path(description.data), description.allow_outside)

    def __call__(self, rows: pa.Table) -> pa.Table:
        posts, ids, problems = [], [], []
        for values, problem in arrow_values(rows):
            post, found = read_post(self.description, self.find_image, -1, Row("", values, problem=problem))
            posts.append(post)
            name = values.get(self.description.id_column or "id")
            name = None if is_missing(name) else name
            ids.append(None if name is None else str(name))
            problems.append(found[0].what if found else "the post has no id" if ids[-1] is None else None)
        tables, positions, unreadable = [], [], []
        for batch in ShardBatches([Shard("", posts, ids, problems)], self.processor, self.batch_size):
            if batch.inputs is not None:
                tables.append(self.answer(self.model, self.processor, batch))
                positions += sorted(batch.positions)
            unreadable += [{"id": problem.where, "problem": problem.what} for problem in batch.problems]
        answered = pa.concat_tables([self.schema.empty_table(), *tables], promote_options="default")
        answered = answered.take(np.argsort(np.array(positions, np.int64)))
        failed = pa.Table.from_pylist(unreadable, pa.schema([("id", pa.string()), ("problem", pa.string())]))
        return pa.concat_tables([answered, failed], promote_options="default")


def _run(
    load: Callable,
    answer: Callable,
    schema: pa.Schema,
    description: DataDescription,
    posts: str,
    output: Path,
    workers: Workers,
    batch_size: int,
) -> dict:
    """Every row of `posts` through workers into the folder `output`."""
    if ray is None:
        raise ImportError("this needs Ray: pip install 'ray[data]'")
    if workers.workers < 1 or workers.cpus_per_worker < 1 or workers.gpus_per_worker < 0 or batch_size < 1:
        raise ValueError("workers, cores of a worker and posts per pass must be at least 1, accelerators at least 0")
    files = _files(posts)
    description = replace(description, allow_outside=[os.path.abspath(place) for place in description.allow_outside])
    description, columns, count = _columns_and_rows(files, posts, description)
    counts = _modalities(files, description)
    logger.info("%d posts: %d with a picture, %d with a text", count, counts["with_picture"], counts["with_text"])
    output = output.absolute()
    if Path(posts).is_dir() and output.is_relative_to(Path(posts).absolute()):
        raise ValueError(f"{output} lies among the posts of {posts}, and would be read as such; name another folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is there already; name a folder that is not")
    partial = own_partial(output)
    partial.mkdir(parents=True)
    arguments = {"load": load, "answer": answer, "schema": schema, "description": description}
    arguments |= {
        "batch_size": batch_size,
        "cpus": workers.cpus_per_worker,
        "device": "cuda" if workers.gpus_per_worker else "cpu",
    }

    def job() -> None:
        read = ray.data.read_parquet(files.paths, columns=columns, schema=files.schema).repartition(
            target_num_rows_per_block=POSTS_PER_TASK
        )
        read.map_batches(
            Worker,
            fn_constructor_kwargs=arguments,
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=workers.workers),
            num_cpus=workers.cpus_per_worker,
            num_gpus=workers.gpus_per_worker or None,
            ray_remote_args_fn=lambda: {"max_task_retries": MOST_DEATHS},
        ).write_parquet(str(partial))

    try:
        _with_ray(workers, job)
    except ray.exceptions.RayActorError as error:
        shutil.rmtree(partial)
        raise ChildProcessError(
            f"workers died {MOST_DEATHS + 1} times over the same {POSTS_PER_TASK} posts, or could not start: {error}"
        ) from error
    except ray.exceptions.RayTaskError as error:
        shutil.rmtree(partial)
        raise ValueError(f"{posts}: {_first_line(error)}") from error
    except BaseException:
        shutil.rmtree(partial)
        raise
    written = pyarrow.dataset.dataset(partial, format="parquet")
    rows = written.count_rows()
    if rows != count:
        raise RuntimeError(f"{posts} has {count} rows and {partial} {rows}; it is left for you to look at")
    report = {"folder": str(output), "rows": rows} | counts
    report["problems"] = written.count_rows(filter=pyarrow.dataset.field("problem").is_valid())
    if STRANGE_PICTURE in schema.names:
        report["strange_pictures"] = written.count_rows(filter=pyarrow.dataset.field(STRANGE_PICTURE))
    if output.is_dir():
        output.rmdir()
    os.replace(partial, output)
    return report


def _first_line(error: Exception) -> str:
    """What went wrong in a worker, without the tracebacks that Ray puts around it."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _with_ray(workers: Workers, job: Callable[[], None]) -> None:
    """Run a job on the cluster at the workers' address, or on a Ray of this machine that lasts as long."""
    needed = workers.workers * workers.cpus_per_worker + READER_CPUS
    at_sigterm = signal.getsignal(signal.SIGTERM)
    if workers.address:
        ray.init(address=workers.address, log_to_driver=False)
    else:
        cores = max(os.cpu_count() or 1, needed)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    if at_sigterm is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)  # Ray's own aborts
    try:
        if (found := ray.cluster_resources().get("CPU", 0)) < needed:
            raise ValueError(
                f"{workers.workers} workers of {workers.cpus_per_worker} cores and {READER_CPUS} for reading are more than "
                f"the {found:g} cores of the Ray cluster"
            )
        if (found := ray.cluster_resources().get("GPU", 0)) < workers.workers * workers.gpus_per_worker:
            raise ValueError(
                f"{workers.workers} workers of {workers.gpus_per_worker:g} accelerators are more than the {found:g} of the "
                "Ray cluster"
            )
        job()
    finally:
        ray.shutdown()


def _absolute(source: str | None) -> str | None:
    return os.path.abspath(source) if source and os.path.isdir(source) else source


def _folder(posts: str) -> str:
    """Where pictures are looked for that a Parquet file names by their paths."""
    path = Path(posts).absolute()
    return str(path.parent if path.is_file() else path)


@dataclass(frozen=True)
class Files:
    """Parquet files that are read as one table: each may lack some of the columns of `schema`. `mixed` has columns that
    are none of the table, as a file, which stands there, has another type of them than those before; `widened` those whose
    values are read as numbers of a type that writes them in another way."""

    paths: list[str]
    schema: pa.Schema
    mixed: dict[str, str]
    widened: dict[str, str]

    @property
    def table(self) -> pyarrow.dataset.Dataset:
        return pyarrow.dataset.dataset(self.paths, schema=self.schema, format="parquet")


def _files(posts: str) -> Files:
    path = Path(posts).absolute()
    below = [path] if path.is_file() else path.rglob("*.parquet")
    # what begins with a dot is of a job that was killed, or of another program
    paths = sorted(file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not paths:
        raise FileNotFoundError(f"{posts}: no Parquet file, and no folder with any")
    whole: dict[str, pa.Field] = {}
    mixed: dict[str, str] = {}
    widened: dict[str, str] = {}
    for file in map(str, paths):
        try:
            found = pyarrow.parquet.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: damaged or no Parquet file: {error}") from None
        for entry in found:
            before = whole.setdefault(entry.name, entry)
            if before.type != entry.type:
                one, other = (pa.schema([pa.field(entry.name, _plain(each.type))]) for each in (before, entry))
                try:
                    whole[entry.name] = pa.unify_schemas([one, other], promote_options="permissive").field(0)
                    if len({_writing(each) for each in (before.type, entry.type, whole[entry.name].type)} - {""}) > 1:
                        widened.setdefault(entry.name, file)
                except (pa.ArrowTypeError, pa.ArrowInvalid):
                    mixed.setdefault(entry.name, file)
    schema = pa.schema([entry for name, entry in whole.items() if name not in mixed])
    return Files([str(path) for path in paths], schema, mixed, widened)


def _writing(kind: pa.DataType) -> str:
    """What values of a type look like as a text; nothing of a type that has none."""
    kind = _plain(kind)
    if pa.types.is_null(kind):
        return ""
    for name, is_one in NUMBERS_AND_TIMES.items():
        if is_one(kind):
            return f"{name} {getattr(kind, 'tz', '')} {getattr(kind, 'scale', '')}"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "other"


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without the way it is stored."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _columns_and_rows(files: Files, posts: str, description: DataDescription) -> tuple[DataDescription, list[str], int]:
    """The description with what the columns are called, those to read, and the number of rows."""
    try:
        there, count = [*files.schema.names, *files.mixed], files.table.count_rows()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{posts}: damaged or no Parquet file: {error}") from None
    if not count:
        raise ValueError(f"{posts} has no rows")
    name, folder = description.id_column or "id", Path(description.data)
    if name not in there:
        raise ValueError(f"{posts} has no column {name!r}; --id-column names the one that tells posts apart")
    pictures = picture_columns(files.schema)
    beside = Path(posts).is_dir()  # a lone file may lie anywhere
    description = complete_columns(description, there, posts, pictures, lambda: beside and any_picture_below(folder))
    wanted = (*description.text_columns, *description.image_columns, *description.numeric_columns)
    read = [name for name in wanted if name in there]
    written = [column for column in (name, *read) if column not in description.numeric_columns]
    odd = files.mixed | {column: files.widened[column] for column in written if column in files.widened}
    if unclear := [column for column in (name, *read) if column in odd]:
        raise ValueError(f"{odd[unclear[0]]} has another type in the column {unclear[0]!r} than the files before it")
    if count <= MOST_IDS and (twice := _doubled(files.table.to_table(columns=[name])[name])):
        logger.warning("%s: %d of %d ids stand there before: their rows are not told apart", posts, twice, count)
    return description, list(dict.fromkeys([name, *read])), count


def _doubled(ids: pa.ChunkedArray) -> int:
    """How many ids stand before in the column; 0 of a type that Arrow does not compare, which is no id's."""
    try:
        known = pc.drop_null(ids.cast(_plain(ids.type)))
        return len(known) - pc.count_distinct(known).as_py() if len(known) else 0
    except pa.ArrowNotImplementedError:
        return 0


def _modalities(files: Files, description: DataDescription) -> dict[str, int]:
    """How many rows name a picture, and how many have a text; pictures' bytes are not read where the files count them."""
    found = files.table
    texts = [name for name in description.text_columns if name in found.schema.names]
    filled = [_says_something(name, found.schema.field(name).type) for name in texts]
    with_text = found.count_rows(filter=functools.reduce(operator.or_, filled)) if filled else 0
    pictures = [name for name in description.image_columns if name in found.schema.names]
    with_picture = sum(_rows_with_any(file, pictures) for file in files.paths) if pictures else 0
    return {"with_picture": with_picture, "with_text": with_text}


def _says_something(name: str, kind: pa.DataType) -> pc.Expression:
    """Whether a column's value is there and, of words or bytes, not empty; whether it is sound is the row's own matter."""
    column = pc.field(name)
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.is_valid() & (column != "")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column.is_valid() & (pc.binary_length(column) > 0)
    return column.is_valid()


def _rows_with_any(file: str, columns: list[str]) -> int:
    """Rows of a Parquet file in which one of the columns has a value in any of its parts."""
    opened, total = pq.ParquetFile(file), 0
    there = [name for name in columns if name in opened.schema_arrow.names]
    for group in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(group)
        known = [_counted(rows, name, opened.schema_arrow.field(name).type) for name in there]
        if rows.num_rows in known:
            total += rows.num_rows
        elif len(there) == 1 and known[0] is not None:
            total += known[0]
        elif there:
            values = opened.read_row_group(group, columns=there)
            filled = [np.concatenate([_filled(chunk) for chunk in values[name].chunks]) for name in there]
            total += int(np.logical_or.reduce(filled).sum())
    return total


def _counted(rows: pq.RowGroupMetaData, name: str, kind: pa.DataType) -> int | None:
    """How many rows of a group have a value of bytes, or of a struct a part that is nowhere missing, by its statistics; None
    where they do not say."""
    parts = [rows.column(number) for number in range(rows.num_columns)]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        parts = [part for part in parts if part.path_in_schema == name]
    elif pa.types.is_struct(kind):
        of_struct = [f"{name}.{entry.name}" for entry in kind if not pa.types.is_nested(entry.type)]
        parts = [part for part in parts if part.path_in_schema in of_struct]
    else:
        return None
    found = [
        part.statistics.null_count for part in parts if part.statistics is not None and part.statistics.has_null_count
    ]
    if pa.types.is_struct(kind):
        return rows.num_rows if 0 in found else None
    return rows.num_rows - found[0] if found else None


def _filled(values: pa.Array) -> np.ndarray:
    """Which entries (N,) have a value in any of their parts."""
    here, kind = values.is_valid().to_numpy(zero_copy_only=False), values.type
    if pa.types.is_struct(kind):
        return here & np.logical_or.reduce([_filled(part) for part in values.flatten()])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        parents = pc.list_parent_indices(values).to_numpy()[_filled(values.flatten())]
        return here & (np.bincount(parents, minlength=len(values)) > 0)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return here & pc.fill_null(pc.not_equal(values, ""), False).to_numpy(zero_copy_only=False)
    return here
