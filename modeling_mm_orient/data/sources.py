# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From a folder, a saved or a published data set to raw rows, read as they are taken."""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import pyarrow.parquet
from huggingface_hub import constants

from ..tasks import MULTI_LABEL, SINGLE_LABEL
from .class_folders import class_folder_rows
from .columns import SPLIT_COLUMN, complete_columns, listed, wanted_columns
from .description import DataDescription
from .json_files import read_json
from .picture_files import Places, any_picture_below, is_regular, pictures_below
from .problems import readable, shown
from .published_tables import READERS
from .splits import SPLITS_FILE, split_called
from .tables import TABLE_SUFFIXES, Row, first_problem, has_column, table_columns, table_rows, without_halves
from .tar_shards import shard_columns, shard_rows, tar_shards

logger = logging.getLogger(__name__)

READ_BY_READERS = (*TABLE_SUFFIXES, ".json", ".txt")
BYTES = r"(large_)?binary(_view)?"
PICTURE_TYPES = re.compile(rf"{BYTES}|struct<.*bytes: ?{BYTES}.*>|(large_)?list(_view)?<.*{BYTES}.*>")


@dataclass
class Source:
    """Raw rows, read as they are taken, and what is known about them.

    Attributes:
        description: with the names of the columns that hold pictures and texts.
        declared: column -> `kind` and `labels` of those whose source says what its classes are (`ClassLabel`).
        inside: folders beside the data's own in which its pictures may lie.
        has_ids: whether a column says what posts are called: one that it does not name has no number then, which may be
            another's name.
    """

    rows: Iterator[Row]
    description: DataDescription
    declared: dict[str, dict] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)
    has_ids: bool = False


def open_rows(description: DataDescription, streaming: bool = False) -> Source:
    """The rows of the data, and its description with what its columns are called.

    Args:
        streaming: of a data set of the Hub read rows as they come, instead of downloading it first; others come so anyway.

    Raises:
        FileNotFoundError, ValueError: no such data, table or column.
    """
    path = Path(description.data)
    if not path.exists():
        return _of_hub(description, streaming)
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder, and the file's name as the labels file")
    if (path / "dataset_dict.json").exists():
        return _of_datasets(_saved(path, description.allow_outside), description)
    if (path / "state.json").exists():
        return _of_datasets({"all": _saved(path, description.allow_outside)}, description)
    if description.reader is not None:
        return Source(map(without_halves, _published_rows(path, description)), description)
    tables, description = _find_tables(path, description)
    if tables:
        rows, name = _rows_of_tables(path, tables, description), _id_column(description)
        has_ids = any(has_column(table, name, description.encoding) for table in tables)
        return Source(map(without_halves, rows), description, has_ids=has_ids)
    if shards := tar_shards(path, description.allow_outside):
        columns = shard_columns(path, shards)
        description = complete_columns(description, columns, description.data)
        has_ids = _id_column(description) in columns
        return Source(map(without_halves, shard_rows(path, shards)), description, has_ids=has_ids)
    if description.labels:
        rows, declared, columns = class_folder_rows(path, _first_picture(description))
        return Source(rows, complete_columns(description, columns, description.data), declared)
    names = [str(picture.relative_to(path)) for picture in pictures_below(path, report=True)]
    return Source((Row(readable(name), {_first_picture(description): name}) for name in names), description)


def _id_column(description: DataDescription) -> str:
    return description.id_column or "id"


def _first_picture(description: DataDescription) -> str:
    """The column that a post's first picture stands in."""
    return (description.image_columns or ["image"])[0]


def _saved(path: Path, allow_outside: list[str]):
    """A saved data set; ValueError where what lies there is none that can be loaded, or names files elsewhere."""
    try:
        for file in _files_of_saved(path):
            if not Places(path, allow_outside).allow(file):
                raise ValueError(f"{file} is a link out of the folder; --allow-outside FOLDER allows another place")
        return datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged file comes to errors of any kind
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{path}: no sound saved data set ({kind}{error})") from error


def _files_of_saved(path: Path) -> Iterator[Path]:
    """The files that a saved data set says it has; ValueError where it names any that lie elsewhere."""
    parts, whole = [path], path / "dataset_dict.json"
    if whole.exists():
        parts = [path / name for name in _plain_names(whole, read_json(whole).get("splits"))]
    for part in parts:
        state = part / "state.json"
        yield from (state, part / "dataset_info.json")
        if is_regular(state):
            named = read_json(state).get("_data_files") or []
            entries = [entry.get("filename") if isinstance(entry, dict) else entry for entry in named]
            yield from (part / name for name in _plain_names(state, entries))


def _plain_names(where: Path, names) -> list[str]:
    """Names of what lies beside a file that lists them; ValueError for any that leads elsewhere."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: no list of names, but {shown(names)}")
    if wrong := [name for name in names if name in ("", ".", "..") or {"/", os.sep, "\0"} & set(name)]:
        raise ValueError(f"{where}: {shown(wrong[0])} is no name of what lies beside it")
    return names


def _of_hub(description: DataDescription, streaming: bool) -> Source:
    name = description.data
    if Path(name).is_absolute() or name.count("/") > 1 or name.startswith("."):
        raise FileNotFoundError(f"{name}: no such folder")
    try:
        splits = datasets.load_dataset(name, streaming=streaming)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{name}: no such folder, and no data set of that name: {error}") from error
    source = _of_datasets(splits, description)
    source.inside = [str(datasets.config.HF_DATASETS_CACHE), constants.HF_HUB_CACHE]
    return source


def _rows_of_tables(folder: Path, tables: list[Path], description: DataDescription) -> Iterator[Row]:
    are_splits = len(tables) > 1 and _are_splits(tables)
    for table in tables:
        rows = _join_splits(folder, description, table_rows(table, description.encoding))
        if description.split_column is None and (are_splits or table.name in description.tables):
            for row in rows:
                row.split = description.tables.get(table.name, _split_name(table))
                yield row
        else:
            yield from rows


def _are_splits(tables: list[Path]) -> bool:
    return all(split_called(_split_name(table)) for table in tables)


def _split_name(table: Path) -> str:
    """Of `train.csv`, or of `train-00000-of-00002.parquet` as the Hub names parts."""
    return re.sub(r"-\d+-of-\d+$", "", table.stem)


def has_tables(description: DataDescription) -> bool:
    """Whether the description's reader finds its tables in the folder."""
    folder = Path(description.data)
    table = folder / description.labels_file if description.labels_file else None
    try:
        return next(iter(READERS[description.reader](folder, table)), None) is not None
    except FileNotFoundError:
        return False


def _published_rows(folder: Path, description: DataDescription) -> Iterator[Row]:
    if description.reader not in READERS:
        raise ValueError(f"`reader` must be one of {', '.join(READERS)}, got {description.reader!r}")
    table = _labels_file(folder, description) if description.labels_file else None
    places = Places(folder, description.allow_outside)
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.suffix.lower() in READ_BY_READERS and path.is_file() and not places.allow(path):
            raise ValueError(f"{path}: a link out of the folder; --allow-outside FOLDER allows another place")
    return _join_splits(folder, description, READERS[description.reader](folder, table))


def _labels_file(folder: Path, description: DataDescription) -> Path:
    """The table that is named, which lies in the folder or where the caller allows."""
    table = folder / description.labels_file
    if not is_regular(table):
        raise FileNotFoundError(f"{table}: no such labels file")
    if not Places(folder, description.allow_outside).allow(table):
        raise ValueError(f"{table}: a labels file must lie in the folder; --allow-outside FOLDER allows another place")
    return table


def _of_datasets(splits, description: DataDescription) -> Source:
    declared, completed = {}, None
    for split, dataset in splits.items():
        where = f"split {split!r} of {description.data}"
        if dataset.features is None:
            raise ValueError(f"{where} does not say what its columns are: read it without streaming")
        parts = {name: getattr(feature, "feature", feature) for name, feature in dataset.features.items()}
        pictures = [name for name, feature in parts.items() if isinstance(feature, datasets.Image)]
        found = complete_columns(description, dataset.column_names, where, pictures)
        completed = completed or found
        if found != completed:
            raise ValueError(f"{where} has other columns than the splits before it: {listed(dataset.column_names)}")
        for name, feature in dataset.features.items():
            if (classes := _classes_of(feature)) is not None:
                kind = SINGLE_LABEL if isinstance(feature, datasets.ClassLabel) else MULTI_LABEL
                before = (
                    declared[name]["labels"] if name in declared else []
                )  # parts may declare others, or another order
                declared[name] = {"kind": kind.name, "labels": list(dict.fromkeys([*before, *classes.names]))}
    wanted = {*wanted_columns(completed), "id", SPLIT_COLUMN}
    rows = (row for split in splits for row in _rows_of_split(splits[split], split, wanted))
    has_ids = any(_id_column(completed) in splits[split].column_names for split in splits)
    return Source(map(without_halves, rows), completed, declared, has_ids=has_ids)


def _classes_of(feature) -> datasets.ClassLabel | None:
    """The classes of a column that declares them, for itself or for the entries of its lists."""
    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, datasets.ClassLabel) else None


def _rows_of_split(dataset: datasets.Dataset, split: str, wanted: set[str]) -> Iterator[Row]:
    dataset = dataset.with_format(None)  # a format may leave columns out
    dataset = dataset.select_columns([name for name in dataset.column_names if name in wanted])
    classes = {name: found for name, feature in dataset.features.items() if (found := _classes_of(feature)) is not None}
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            dataset = dataset.cast_column(name, datasets.Sequence(datasets.Image(decode=False)))
    for index, values in enumerate(dataset):
        for name, found in classes.items():
            value = values[name]
            listed = isinstance(value, list)
            values[name] = [_class_name(found, number) for number in value] if listed else _class_name(found, value)
        named = None if split == "all" else split
        yield Row(f"{split}[{index}]", values, split=named, part=named)


def _class_name(classes: datasets.ClassLabel, number: int | None) -> str | None:
    if number is None or number < 0:
        return None
    return classes.names[number] if number < len(classes.names) else f"class {number} of {len(classes.names)}"


def _find_tables(folder: Path, description: DataDescription) -> tuple[list[Path], DataDescription]:
    """The table that has the columns, or one per split (`train.csv`, `test.csv`), or Parquet files that are parts of one;
    none for a folder of bare pictures. And the description with what the columns are called there.
    """
    if description.labels_file is not None:
        table = _labels_file(folder, description)
        if table.suffix.lower() not in TABLE_SUFFIXES:
            raise ValueError(f"{table}: a labels file must end in {', '.join(TABLE_SUFFIXES)}")
        return [table], _completed(folder, table, description)
    tables = _tables_in(folder, description)
    if named := [table for table in tables if table.name in description.tables]:
        for table in named:
            without_labels = replace(description, labels=None)
            completed = _completed(folder, table, without_labels)
        return named, replace(completed, labels=description.labels)
    tables = [table for table in tables if table.name != SPLITS_FILE]
    if not tables:
        return [], description
    completed, reasons = {}, {}
    for table in tables:
        try:
            completed[table] = _completed(folder, table, description)
        except ValueError as error:
            reasons[table] = error
    fitting = list(completed)
    if len(fitting) == 1 or (
        fitting and (_are_splits(fitting) or all(p.suffix.lower() == ".parquet" for p in fitting))
    ):
        if any(found != completed[fitting[0]] for found in completed.values()):
            raise ValueError(f"{folder}: the columns of {listed([p.name for p in fitting])} have different names")
        for reason in reasons.values():
            logger.warning("not read: %s", reason)
        return fitting, completed[fitting[0]]
    if len(tables) == 1:
        raise reasons[tables[0]]
    if fitting:
        raise ValueError(
            f"{folder}: several tables have the columns {', '.join(wanted_columns(description))} (found: "
            f"{listed([p.name for p in fitting])}); name the labels file"
        )
    why = "; ".join(str(reason) for reason in list(reasons.values())[:5])
    raise ValueError(
        f"{folder}: no table has the columns {', '.join(wanted_columns(description))} (found: "
        f"{listed([p.name for p in tables])}); name the labels file. {why}"
    )


def _tables_in(folder: Path, description: DataDescription) -> list[Path]:
    """Files that may be tables, but for hidden ones (as a Mac's archives have beside each file) and links elsewhere."""
    places, found = Places(folder, description.allow_outside), []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in TABLE_SUFFIXES or path.is_dir():
            continue
        if path.name.startswith("."):
            logger.warning("not read: %s is a hidden file", readable(path.name))
        elif not is_regular(path):
            logger.warning("not read: %s is no regular file", readable(path.name))
        elif not places.allow(path):
            logger.warning("not read: %s is a link out of the folder", readable(path.name))
        else:
            found.append(path)
    return found


def _completed(folder: Path, table: Path, description: DataDescription) -> DataDescription:
    """The description with what the table's columns are called; ValueError where one is missing."""
    columns = _columns_with_splits(folder, table, description)
    pictures = picture_columns(pyarrow.parquet.read_schema(table)) if table.suffix.lower() == ".parquet" else []
    try:
        return complete_columns(description, columns, table.name, pictures, lambda: any_picture_below(folder))
    except ValueError as error:
        problem = first_problem(table, description.encoding)
        raise ValueError(f"{problem}; and {error}" if problem else str(error)) from None


def picture_columns(schema: pyarrow.Schema) -> list[str]:
    """Columns of a Parquet file that hold pictures' bytes by their type."""
    return [entry.name for entry in schema if PICTURE_TYPES.fullmatch(str(entry.type))]


def _columns_with_splits(folder: Path, table: Path, description: DataDescription) -> list[str]:
    columns = table_columns(table, description.encoding)
    splits = _splits_file(folder, description)
    if not description.split_column or description.split_column in columns or splits is None:
        return columns
    key = _first_picture(description)
    found = table_columns(splits, _splits_encoding(splits, description)) if key in columns else []
    return [*columns, description.split_column] if {key, description.split_column} <= set(found) else columns


def _splits_file(folder: Path, description: DataDescription) -> Path | None:
    """splits.csv of the folder, if it is there and lies where the data's files may."""
    path = folder / SPLITS_FILE
    return path if is_regular(path) and Places(folder, description.allow_outside).allow(path) else None


def _join_splits(folder: Path, description: DataDescription, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows; a split that they lack is taken from splits.csv beside them, joined on the image column.

    Raises:
        ValueError: a row of splits.csv is malformed, or says another split of a picture than one before it.
    """
    column, key, splits = description.split_column, _first_picture(description), _splits_file(folder, description)
    known = None
    for row in rows:
        if column and column not in row.values and splits is not None:
            if known is None:
                known = _splits_by_picture(splits, key, column, _splits_encoding(splits, description))
            row.values[column] = known.get(_name_of(row.values.get(key)))
        yield row


def _name_of(picture) -> str | None:
    """What a cell calls its first picture, by which `splits.csv` knows the post."""
    while isinstance(picture, (list, tuple)) and picture:
        picture = picture[0]
    name = picture.get("path") if isinstance(picture, dict) else picture
    return name if isinstance(name, (str, int, float)) else None


def _splits_encoding(splits: Path, description: DataDescription) -> str:
    """UTF-8 where splits.csv is that, else the table's."""
    try:
        splits.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return description.encoding
    return "utf-8"


def _splits_by_picture(table: Path, key: str, column: str, encoding: str) -> dict:
    known: dict = {}
    for row in table_rows(table, encoding):
        if row.problem:
            raise ValueError(f"{row.where}: {row.problem}")
        name, split = row.values.get(key), row.values.get(column)
        if known.setdefault(name, split) != split:
            raise ValueError(f"{row.where}: {shown(name)} is in {shown(split)}, and in {shown(known[name])} before")
    return known
