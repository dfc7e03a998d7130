# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Rows of tables, with where they stand: CSV, TSV, JSONL and Parquet; and JSON files that are never half-written."""

import csv
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass
class Row:
    """One raw row: where it stands, its values, and what was mended or is wrong with it."""

    where: str
    values: dict
    repair: str | None = None
    problem: str | None = None


def lines_of(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Lines of a text file with their ends; a byte order mark is dropped.

    Raises:
        ValueError: a line is not in the encoding; the message has its number.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode(encoding).removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path.name}:{number}: not {encoding.upper()} ({error.reason}); name the encoding or convert the file"
                ) from None


def delimited_rows(path: Path, delimiter: str, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a table with a header. Raises ValueError for a column that is there twice, or a broken quote."""
    reader = csv.reader(lines_of(path, encoding), delimiter=delimiter)
    header = next(reader, [])
    named = [name for name in header if name]
    if duplicated := [name for name, count in Counter(named).items() if count > 1]:
        raise ValueError(f"{path.name}:1: the column {duplicated[0]!r} stands there twice")
    line = reader.line_num + 1
    try:
        for cells in reader:
            if cells:
                row = Row(f"{path.name}:{line}", dict(zip(header, cells, strict=False)))
                if len(cells) != len(header):
                    row.problem = f"{len(cells)} fields where the header has {len(header)}"
                yield row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path.name}:{line}: {error}") from None


def json_lines(path: Path, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a JSONL file. Raises ValueError for a line that is no object."""
    for number, line in enumerate(lines_of(path, encoding), 1):
        if line.strip():
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name}:{number}: not JSON ({error})") from None
            if not isinstance(values, dict):
                raise ValueError(f"{path.name}:{number}: must be an object, got {type(values).__name__}")
            yield Row(f"{path.name}:{number}", values)


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch; a picture may stand in it as bytes or `{"bytes", "path"}`."""
    number = 0
    for batch in _parquet(path).iter_batches():
        for values in batch.to_pylist():
            yield Row(f"{path.name}[{number}]", values)
            number += 1


def table_rows(path: Path, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a table of any of `TABLE_SUFFIXES`."""
    if path.suffix == ".parquet":
        return parquet_rows(path)
    if path.suffix == ".jsonl":
        return json_lines(path, encoding)
    return delimited_rows(path, _delimiter(path, encoding), encoding)


def table_columns(path: Path, encoding: str = "utf-8") -> list[str]:
    """Column names: of a CSV or TSV file's first row, of all objects of a JSONL file, of a Parquet file's schema."""
    if path.suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    if path.suffix == ".jsonl":
        return list(dict.fromkeys(name for row in json_lines(path, encoding) for name in row.values))
    return next(csv.reader(lines_of(path, encoding), delimiter=_delimiter(path, encoding)), [])


def write_json(path, content) -> None:
    """Write JSON to a temporary name and rename it; folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = own_partial(path)
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def own_partial(path: Path) -> Path:
    """A temporary name beside `path` that no other process writes to."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")


def _parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path.name} is damaged or no Parquet file: {error}") from None


def _delimiter(path: Path, encoding: str) -> str:
    """Tab for .tsv; for .csv a comma, or what stands in a header without any comma."""
    header = next(lines_of(path, encoding), "")
    if path.suffix == ".tsv" or ("," not in header and "\t" in header):
        return "\t"
    return ";" if "," not in header and ";" in header else ","
