# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Posts that somebody holds in Python, as data that the readers read: written to a folder that is removed afterwards."""

import io
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet

from ..data.picture_files import URL
from ..data.tables import Row, without_halves
from ..pictures import read_image, undecoded

logger = logging.getLogger(__name__)

TABLE = "posts.parquet"
TEXTS = ("string", "large_string", "string_view")  # a frame's texts come as any of these
ID = "id"


@contextmanager
def write_posts(data, pictures: str | Iterable[str], root=None) -> Iterator[dict]:
    """The fields `data`, and where pictures may lie `allow_outside`, of a `DataDescription` of such posts.

    Args:
        data: a `pandas.DataFrame`, a list of dicts, one dict, a `datasets.Dataset` or `DatasetDict`; the path of a folder or
            a Hub id stays what it is.
        pictures: columns of a frame that hold pictures: paths, or whatever else `read_image` takes.
        root: folder of pictures that are given by their paths (default: the working directory).

    Raises:
        ValueError, TypeError: they are none, or have a value that no table can hold.
    """
    if isinstance(data, (str, os.PathLike)):
        yield {"data": str(data)}
        return
    base = Path(root or ".").absolute()
    names = {pictures} if isinstance(pictures, str) else set(pictures)
    with tempfile.TemporaryDirectory(prefix="mm_orient_posts_") as folder:
        if isinstance(data, (datasets.Dataset, datasets.DatasetDict)):
            outside = _save(data, names, base, folder)
            yield {"data": folder, "allow_outside": [str(base), *outside]}
        else:
            outside = _write_table(_rows(data), names, base, Path(folder) / TABLE)
            yield {"data": folder, "allow_outside": [str(base), *outside]}


def _save(data, pictures: set[str], base: Path, folder: str) -> list[str]:
    """Returns folders as `_write_table` does."""
    parts, outside = data if isinstance(data, datasets.DatasetDict) else {"": data}, set()
    saved = {name: undecoded(part.with_format(None)) for name, part in parts.items()}  # a format may leave columns out
    for part_name, part in saved.items():
        for name in part.column_names:
            feature = part.features[name]
            kind = getattr(getattr(feature, "feature", feature), "dtype", None)
            if (name in pictures or name.lower() in pictures) and kind in TEXTS:
                values = list(part[name])
                each = [place for value in values for place in (value if isinstance(value, list) else [value])]
                outside |= {str(Path(place).parent) for place in each if place and os.path.isabs(place)}
                part = part.remove_columns(name).add_column(name, [placed(value, base) for value in values])
        if ID not in part.column_names:  # else posts would be called as the places of their pictures are
            part = part.add_column(ID, [str(number) for number in range(len(part))])
        saved[part_name] = part
    if isinstance(data, datasets.DatasetDict):
        datasets.DatasetDict(saved).save_to_disk(folder)
    else:
        saved[""].save_to_disk(folder)
    return sorted(outside)


def placed(value, base: Path):
    """The path of a picture, or those of a list, as it is from anywhere; what is no path stays what it is."""
    if isinstance(value, (list, tuple)):
        return [placed(part, base) for part in value]
    return str(base / value) if _is_path(value) and str(value) and not URL.match(str(value)) else value


def _rows(data) -> list[dict]:
    if isinstance(data, pandas.DataFrame):
        names = [str(name) for name in data.columns]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the column {twice[0]!r} stands there twice")
        return data.to_dict("records")
    rows = [data] if isinstance(data, Mapping) else data
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(f"posts are a data frame, a list of dicts, a data set or a folder, not {type(data).__name__}")
    return [dict(row) for row in rows]


def _write_table(rows: list[dict], pictures: set[str], base: Path, path: Path) -> list[str]:
    """Returns the folders in which pictures lie that were given by absolute paths: a caller's own word allows them."""
    if not rows:
        raise ValueError("there are no posts")
    mended = [without_halves(Row(f"row {number}", row)) for number, row in enumerate(rows)]
    if deep := [row for row in mended if row.problem]:
        raise ValueError(f"{deep[0].where}: {deep[0].problem}")
    if repaired := [row for row in mended if row.repair]:
        logger.warning("%d row(s) repaired, say %s: %s", len(repaired), repaired[0].where, repaired[0].repair)
    rows = [row.values for row in mended]
    columns, outside = {}, set()
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        values = [list(value) if _is_list(value) else value for value in values]
        if name in pictures or str(name).lower() in pictures:
            each = [part for value in values for part in (value if isinstance(value, (list, tuple)) else [value])]
            outside |= {str(Path(part).parent) for part in each if _is_path(part) and os.path.isabs(part)}
            values = [_picture(value, base, f"row {row}, column {name!r}") for row, value in enumerate(values)]
        columns[str(name)] = values
    if ID not in columns:  # a frame's rows are told apart by their order
        columns[ID] = [str(number) for number in range(len(rows))]
    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pyarrow.array(values, from_pandas=True)
            if _has_no_fields(arrays[name].type):
                raise TypeError("no file can hold it")
        except (pyarrow.ArrowException, TypeError, OverflowError):
            arrays[name] = pyarrow.array([_as_text(value) for value in values])
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)
    return sorted(outside)


def _picture(value, base: Path, where: str):
    """A picture as the readers take it: `{"path", "bytes"}`, or a list of them; None where there is none."""
    if isinstance(value, (list, tuple)):
        return [_picture(part, base, where) for part in value]
    if isinstance(value, (bytes, bytearray)):
        return {"path": None, "bytes": bytes(value)}
    if _is_path(value):
        return {"path": str(placed(value, base)), "bytes": None} if str(value).strip() else None
    if isinstance(value, dict) or value is None or (pandas.api.types.is_scalar(value) and pandas.isna(value)):
        return value if isinstance(value, dict) else None
    buffer = io.BytesIO()
    try:
        read_image(value).save(buffer, "PNG")  # as it is read everywhere else: upright, 16 bits scaled
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return {"path": None, "bytes": buffer.getvalue()}


def _is_list(value) -> bool:
    """Whether it is an array of anything, which is how a frame that is read from Parquet has lists."""
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == object


def _has_no_fields(kind: pyarrow.DataType) -> bool:
    """Whether somewhere in a type is a record of nothing, which Parquet does not have."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return (pyarrow.types.is_struct(kind) and not inner) or any(map(_has_no_fields, inner))


def _is_path(value) -> bool:
    return isinstance(value, (str, os.PathLike))


def _as_text(value) -> str | None:
    if value is None or value != value:
        return None
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)
