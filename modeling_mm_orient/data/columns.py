# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Which columns of a table hold pictures, texts and splits: those that were named, or those that people call so."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import fields, replace

from .description import DataDescription
from .labels import is_missing
from .problems import shown
from .splits import SPLIT_NAMES

logger = logging.getLogger(__name__)

IMAGE_NAMES = (
    "image",
    "file_name",
    "image_name",
    "image_path",
    "img",
    "filename",
    "path",
    "picture",
    "images",
    "file_names",
)
TEXT_NAMES = ("text", "caption", "sentence", "tweet_text", "title", "comment")
SPLIT_COLUMN = "split"
DEFAULTS = {entry.name: entry.default for entry in fields(DataDescription)}
MOST_SHOWN = 30


def complete_columns(
    description: DataDescription,
    columns: Iterable[str],
    where: str,
    pictures: Iterable[str] = (),
    has_pictures: Callable[[], bool] = lambda: False,
) -> DataDescription:
    """The description with the names of the columns of `where` that hold pictures and texts.

    A default name that is no column gives way to the one column that bears a usual name, whatever its case.

    Args:
        pictures: columns that hold pictures by their type. has_pictures: whether files of pictures lie beside the table.

    Raises:
        ValueError: a named column is not there; several bear usual names; or there are pictures and no column names them.
    """
    columns = list(columns)
    named = [*_label_columns(description), *description.numeric_columns]
    named += [description.id_column, description.split_column]
    changes = {}
    if _is_default(description, "image_column") and DEFAULTS["image_column"] not in columns:
        found = [name for name in pictures if name not in named] or _usual(
            IMAGE_NAMES, columns, named, description.text_columns
        )
        changes["image_column"] = _the_one(found, where, "pictures", "--image-column") or description.image_column
        if not found:
            _refuse_unread_pictures(description, columns, where, has_pictures)
    if _is_default(description, "text_column") and DEFAULTS["text_column"] not in columns:
        found = _usual(TEXT_NAMES, columns, named, _names(changes.get("image_column", description.image_column)))
        changes["text_column"] = _the_one(found, where, "texts", "--text-column") or description.text_column
    changes = {name: value for name, value in changes.items() if value != getattr(description, name)}
    for name, value in changes.items():
        logger.info("%s: %s is the column %r", where, name, value)
    description = replace(description, **changes)
    if missing := missing_columns(description, columns):
        hint = "; where no column says the splits: --split-column none" if description.split_column in missing else ""
        raise ValueError(f"{where} has no column {', '.join(missing)}; its columns are {listed(columns)}{hint}")
    if absent := [name for name in description.text_columns if name not in columns]:
        some = [name for name in description.text_columns if name in columns]
        if some:
            logger.warning("%s has no column %s: its texts are those of %s", where, listed(absent), listed(some))
    return description


def missing_columns(description: DataDescription, columns: Iterable[str]) -> list[str]:
    """The wanted columns that are not there; a table of texts alone or of pictures alone has all where neither is named."""
    columns = set(columns)
    missing = [name for name in wanted_columns(description) if name not in columns]
    has_text = any(name in columns for name in description.text_columns)
    if any(name in columns for name in description.image_columns) or has_text:
        needed = {*_label_columns(description), *description.numeric_columns, *description.required_columns}
        defaults = {DEFAULTS["text_column"], DEFAULTS["image_column"]} - needed
        missing = [name for name in missing if name not in defaults]
    optional = {*description.text_columns} - {*description.required_columns} if has_text else set()
    return [name for name in missing if name not in optional]


def wanted_columns(description: DataDescription) -> list[str]:
    """All columns that the description names."""
    names = [*_label_columns(description), *description.numeric_columns]
    names += [*description.image_columns, description.id_column, description.split_column, *description.text_columns]
    return [*dict.fromkeys(name for name in names if name)]


def complete_split(description: DataDescription, rows: list) -> DataDescription:
    """The description with the column `split` of the rows, where none is named, nothing else says the splits and it does."""
    if description.split_column is not None or SPLIT_COLUMN in _label_columns(description):
        return description
    if any(row.split is not None for row in rows) or not any(SPLIT_COLUMN in row.values for row in rows):
        return description
    values = {str(value).strip().lower() for row in rows if not is_missing(value := row.values.get(SPLIT_COLUMN))}
    if values and values <= set(SPLIT_NAMES):
        logger.info("the column %r says which split a post is in", SPLIT_COLUMN)
        return replace(description, split_column=SPLIT_COLUMN)
    if values:
        other = next(iter(sorted(values - set(SPLIT_NAMES))))
        logger.warning("the column %r is not used: it holds %s, which is no split", SPLIT_COLUMN, shown(other))
    return description


def listed(names: list[str]) -> str:
    """Names for a message, long ones and many cut short."""
    short = [name if len(str(name)) <= MOST_SHOWN else f"{str(name)[:MOST_SHOWN]}..." for name in names[:MOST_SHOWN]]
    return ", ".join(map(str, short)) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")


def _label_columns(description: DataDescription) -> list[str]:
    return [column for label in description.labels or [] for column in description.columns_of(label)]


def _is_default(description: DataDescription, name: str) -> bool:
    return getattr(description, name) == DEFAULTS[name] and DEFAULTS[name] not in description.required_columns


def _names(columns: str | list[str] | None) -> list[str]:
    return [columns] if isinstance(columns, str) else columns or []


def _usual(names: tuple[str, ...], columns: list[str], *taken: Iterable[str]) -> list[str]:
    used = {name for part in taken for name in part}
    return [name for name in columns if isinstance(name, str) and name.lower() in names and name not in used]


def _the_one(found: list[str], where: str, what: str, option: str) -> str | None:
    if len(found) > 1:
        raise ValueError(f"{where}: which of {', '.join(found)} holds the {what}? Say {option}")
    return found[0] if found else None


def _refuse_unread_pictures(
    description: DataDescription, columns: list[str], where: str, has_pictures: Callable
) -> None:
    if {"region_features", "image_embeds"} & set(description.feature_arrays) or not has_pictures():
        return
    raise ValueError(
        f"{where} has no column of pictures ({', '.join(IMAGE_NAMES)}), and pictures lie beside it; its columns are "
        f"{listed(columns)}. Name the column with --image-column, or say --image-column none to read texts alone"
    )
