# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A folder of pictures per class, or per split and class: nothing is guessed from files' names, every picture is a row."""

import logging
from collections.abc import Iterator
from pathlib import Path

from ..tasks import SINGLE_LABEL
from .picture_files import IMAGE_FOLDERS, pictures_below
from .problems import readable
from .splits import SPLIT_NAMES, split_called
from .tables import Row

logger = logging.getLogger(__name__)

LABEL_COLUMN = "label"


def class_folder_rows(folder: Path, image_column: str) -> tuple[Iterator[Row], dict[str, dict], list[str]]:
    """Rows of a folder of class folders, the classes, and the columns.

    The class is the name of the folder at the top, or, where all of these are named as splits are, of the folder in it. A
    picture that lies in none has a problem.

    Raises:
        ValueError: there is no picture in any folder.
    """
    places = [path.relative_to(folder).parts for path in pictures_below(folder, report=True)]
    skipped = 0
    while all(len(parts) > skipped + 2 and parts[skipped] in IMAGE_FOLDERS for parts in places) and places:
        skipped += 1  # `images/cat/1.png`
    tops = {parts[skipped] for parts in places if len(parts) > skipped + 1}
    if not tops:
        raise ValueError(f"{folder}: neither a table nor a folder of pictures per class")
    splits = _splits_among(tops, {parts[skipped] for parts in places if len(parts) > skipped + 2})
    by_split = splits == tops
    if splits and not by_split:
        said = ", ".join(sorted(map(readable, splits)))
        logger.warning("%s: taken for classes, as other folders beside them are no splits: %s", folder, said)
    level = skipped + by_split
    classes = sorted({parts[level] for parts in places if len(parts) > level + 1})
    declared = {LABEL_COLUMN: {"kind": SINGLE_LABEL.name, "labels": [readable(name) for name in classes]}}
    rows = (_row(parts, skipped, by_split, image_column) for parts in places)
    return rows, declared, [image_column, LABEL_COLUMN]


def _splits_among(tops: set[str], with_folders: set[str]) -> set[str]:
    """Those that are called as splits are; with an addition (`dev_seen`) only where classes lie in them and there is a split
    to learn from: else `test_tube` is a class."""
    named = {top for top in tops if top.lower() in SPLIT_NAMES}
    more = {top for top in tops & with_folders if split_called(top)}
    return named | more if any(split_called(top) == "train" for top in named | more) else named


def _row(parts: tuple[str, ...], skipped: int, by_split: bool, image_column: str) -> Row:
    level = skipped + by_split
    row = Row(readable("/".join(parts)), {image_column: "/".join(parts)})
    if by_split and len(parts) > skipped + 1:
        row.split = parts[skipped]
    if len(parts) > level + 1:
        row.values[LABEL_COLUMN] = readable(parts[level])
    else:
        row.problem = "the picture lies in no class's folder"
    return row
