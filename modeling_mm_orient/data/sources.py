# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From a folder, a saved or a published data set to raw rows, read as they are taken."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets

from ..tasks import MULTI_LABEL, SINGLE_LABEL
from .description import DataDescription
from .picture_files import pictures_below
from .published_tables import READERS
from .splits import SPLIT_NAMES, SPLITS_FILE
from .tables import TABLE_SUFFIXES, Row, table_columns, table_rows


def open_rows(description: DataDescription) -> tuple[Iterator[Row], dict[str, dict]]:
    """The raw rows, read as they are taken, and column -> `kind` and `labels` of those that declare them (`ClassLabel`)."""
    path = Path(description.data)
    if not path.exists():
        if path.is_absolute() or description.data.count("/") > 1 or description.data.startswith("."):
            raise FileNotFoundError(f"{description.data}: no such folder")
        try:
            splits = datasets.load_dataset(description.data)
        except OSError as error:
            raise ValueError(f"{description.data}: no such folder, and no data set of that name: {error}") from error
        return _rows_of_datasets(splits, description)
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder, and the file's name as the labels file")
    if (path / "dataset_dict.json").exists():
        return _rows_of_datasets(datasets.load_from_disk(str(path)), description)
    if (path / "state.json").exists():
        return _rows_of_datasets({"all": datasets.load_from_disk(str(path))}, description)
    if description.reader is not None:
        return _published_rows(path, description), {}
    tables = _find_tables(path, description)
    if not tables and description.labels:
        return _rows_of_datasets(_class_folders(path), description)
    if not tables:
        names = [str(picture.relative_to(path)) for picture in pictures_below(path)]
        return (Row(name, {description.image_column or "image": name}) for name in names), {}
    return _rows_of_tables(path, tables, description), {}


def _rows_of_tables(folder: Path, tables: list[Path], description: DataDescription) -> Iterator[Row]:
    are_splits = len(tables) > 1 and _are_splits(tables)
    for table in tables:
        rows = _join_splits(folder, description, table_rows(table, description.encoding))
        if description.split_column is None and (are_splits or table.name in description.tables):
            for row in rows:
                row.values["__split__"] = description.tables.get(table.name, _split_name(table))
                yield row
        else:
            yield from rows


def _are_splits(tables: list[Path]) -> bool:
    return all(_split_name(table).lower() in SPLIT_NAMES for table in tables)


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
    table = folder / description.labels_file if description.labels_file else None
    if table is not None and not table.is_file():
        raise FileNotFoundError(f"{table}: no such labels file")
    return _join_splits(folder, description, READERS[description.reader](folder, table))


def _class_folders(folder: Path):
    """The data set of a folder per class, or per split and class, as `datasets` reads an image folder."""
    try:
        return datasets.load_dataset("imagefolder", data_dir=str(folder))
    except (ValueError, datasets.data_files.EmptyDatasetError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"{folder}: neither a table nor a folder of pictures per class ({error})") from None


def _rows_of_datasets(splits, description: DataDescription) -> tuple[Iterator[Row], dict[str, dict]]:
    declared = {}
    for split, dataset in splits.items():
        _require_columns(description, dataset.column_names, f"split {split!r} of {description.data}")
        for name, feature in dataset.features.items():
            if (classes := _classes_of(feature)) is not None:
                kind = SINGLE_LABEL if isinstance(feature, datasets.ClassLabel) else MULTI_LABEL
                declared[name] = {"kind": kind.name, "labels": list(classes.names)}
    marks_split = description.split_column is None
    return (row for split in splits for row in _rows_of_split(splits[split], split, marks_split)), declared


def _classes_of(feature) -> datasets.ClassLabel | None:
    """The classes of a column that declares them, for itself or for the entries of its lists."""
    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, datasets.ClassLabel) else None


def _rows_of_split(dataset: datasets.Dataset, split: str, marks_split: bool) -> Iterator[Row]:
    classes = {name: found for name, feature in dataset.features.items() if (found := _classes_of(feature)) is not None}
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    for index, values in enumerate(dataset):
        for name, found in classes.items():
            value = values[name]
            if isinstance(value, list):
                values[name] = [found.int2str(number) for number in value]
            else:
                values[name] = None if value is None or value < 0 else found.int2str(value)
        if marks_split and split != "all":
            values["__split__"] = split
        yield Row(f"{split}[{index}]", values)


def _find_tables(folder: Path, description: DataDescription) -> list[Path]:
    """The table that has the columns, or one per split (`train.csv`, `test.csv`), or Parquet files that are parts of one.

    None for a folder of bare pictures.
    """
    if description.labels_file is not None:
        table = folder / description.labels_file
        if not table.is_file():
            raise FileNotFoundError(f"{table}: no such labels file")
        if table.suffix not in TABLE_SUFFIXES:
            raise ValueError(f"{table}: a labels file must end in {', '.join(TABLE_SUFFIXES)}")
        _require_columns(description, _columns_with_splits(folder, table, description), table.name)
        return [table]
    if named := [folder / name for name in description.tables if (folder / name).is_file()]:
        for table in named:
            _require_columns(replace(description, labels=None), table_columns(table, description.encoding), table.name)
        return named
    tables = [p for p in sorted(folder.iterdir()) if p.suffix in TABLE_SUFFIXES and p.name != SPLITS_FILE]
    if not tables:
        return []
    fitting = [p for p in tables if not _missing_columns(description, _columns_with_splits(folder, p, description))]
    if len(fitting) == 1 or (fitting and (_are_splits(fitting) or all(p.suffix == ".parquet" for p in fitting))):
        return fitting
    if len(tables) == 1:
        _require_columns(description, _columns_with_splits(folder, tables[0], description), tables[0].name)
    found = ", ".join(p.name for p in fitting or tables) or "none"
    problem = "several tables have" if fitting else "no table has"
    raise ValueError(
        f"{folder}: {problem} the columns {', '.join(_wanted_columns(description))} (found: {found}); name the labels file"
    )


def _wanted_columns(description: DataDescription) -> list[str]:
    names = [description.label_columns.get(label, label) for label in description.labels or []]
    names += [description.image_column, description.id_column, description.split_column, *description.text_columns]
    return [*dict.fromkeys(name for name in names if name)]


def _missing_columns(description: DataDescription, columns: Iterable[str]) -> list[str]:
    columns = set(columns)
    missing = [name for name in _wanted_columns(description) if name not in columns]
    defaults = {"text", "image"} - set(description.labels or [])
    # a table of texts alone or of pictures alone is fine where the column's name was not given
    has_text = any(name in columns for name in description.text_columns)
    if description.image_column in columns or has_text:
        missing = [name for name in missing if name not in defaults]
    return [name for name in missing if not (has_text and name in description.text_columns)]


def _require_columns(description: DataDescription, columns: Iterable[str], where: str) -> None:
    columns = list(columns)
    if missing := _missing_columns(description, columns):
        raise ValueError(f"{where} has no column {', '.join(missing)}; its columns are {', '.join(columns)}")


def _columns_with_splits(folder: Path, table: Path, description: DataDescription) -> list[str]:
    columns = table_columns(table, description.encoding)
    splits = folder / SPLITS_FILE
    if not description.split_column or description.split_column in columns or not splits.is_file():
        return columns
    found = table_columns(splits) if description.image_column in columns else []
    return (
        [*columns, description.split_column]
        if {description.image_column, description.split_column} <= set(found)
        else columns
    )


def _join_splits(folder: Path, description: DataDescription, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows; a split that they lack is taken from splits.csv beside them, joined on the image column."""
    column, key, splits = description.split_column, description.image_column, folder / SPLITS_FILE
    known = None
    for row in rows:
        if column and column not in row.values and splits.is_file():
            known = known or {split.values[key]: split.values[column] for split in table_rows(splits)}
            row.values[column] = known.get(row.values.get(key))
        yield row
