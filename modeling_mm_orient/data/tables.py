# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Rows of tables, with where they stand: CSV, TSV, JSONL and Parquet; and JSON files that are never half-written.

A row that cannot be read is a row with a `problem`; only a table without a header that can be read is an error.
"""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet

from .json_files import once
from .problems import shown

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LONGEST_FIELD = 2**24  # characters of a CSV field
BYTE_ORDER_MARKS = (  # the longer first: UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
UNDECODED = "\udfff"  # stands for bytes that are not in a table's encoding; no encoding gives it
SAMPLE = 2**20  # characters from which a table's line ends are told

codecs.register_error("mm_orient_undecoded", lambda error: (UNDECODED, error.end))


@dataclass
class Row:
    """One raw row: where it stands, its values, what was mended or is wrong with it, and the split that its file or its part
    of a data set says."""

    where: str
    values: dict
    repair: str | None = None
    problem: str | None = None
    split: str | None = None
    part: str | None = None


def marked_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[str, str | None]]:
    """Lines of a text file with their ends, and what is wrong with each, or None; byte order marks are obeyed and dropped.

    Lines end in a line feed, or in a carriage return where a file has no other ends.

    Raises:
        ValueError: there is no such encoding, or it needs a byte order mark that the file lacks.
    """
    encoding = encoding_of(path, encoding)
    problem = f"not {encoding.upper().removesuffix('-SIG')}; name the encoding (--encoding) or convert the file"
    with path.open(encoding=encoding, errors="mm_orient_undecoded", newline=_line_end(path, encoding)) as file:
        for line in file:
            bad = UNDECODED in line
            yield line.replace(UNDECODED, "\ufffd").removeprefix("\ufeff"), problem if bad else None


def lines_of(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Lines of a text file with their ends.

    Raises:
        ValueError: a line is not in the encoding; the message has its number.
    """
    for number, (line, problem) in enumerate(marked_lines(path, encoding), 1):
        if problem is not None:
            raise ValueError(f"{path.name}:{number}: {problem}")
        yield line


UNREADABLE = (
    UnicodeDecodeError,
    OverflowError,
    ValueError,
    pyarrow.ArrowException,
)  # of a cell: no UTF-8, a date past all


def encoding_of(path: Path, encoding: str) -> str:
    """What the file's byte order mark says, or else `encoding`."""
    try:
        "".encode(encoding)  # refuses what is no encoding of texts, as base64
    except LookupError:
        raise ValueError(
            f"there is no encoding {encoding!r}; say utf-8, utf-16, latin-1, cp1252, gb18030 or the like"
        ) from None
    with path.open("rb") as file:
        start = file.read(4)
    marked = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), None)
    if marked is None and start and (name := codecs.lookup(encoding).name) in ("utf-16", "utf-32"):
        raise ValueError(f"{path.name} has no byte order mark: say {name}-le or {name}-be")
    return marked or encoding


def delimited_rows(path: Path, delimiter: str, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a table with a header. Raises ValueError for a header that cannot be read or has a column twice."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    lines = _Lines(marked_lines(path, encoding))
    header = _header(path, lines, delimiter)
    check_once([name for name in header if name], f"{path.name}:1")
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        first = lines.begin_row()
        where = f"{path.name}:{first}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(where, {}, problem=f"no row of a table ({error})")
            lines.read_again_after_first()
            continue
        if len(lines.taken) > 1 and _goes_on_after_a_quote(lines.taken, delimiter):
            yield Row(where, {}, problem="a quote opens here, and text follows where it closes")
            lines.read_again_after_first()
            continue
        if lines.ended and len(lines.taken) > 1:
            yield Row(where, {}, problem="a quote opens here that is nowhere closed")
            lines.read_again_after_first()  # what lies behind is rows of its own
            continue
        if cells:
            row = Row(where, dict(zip(header, cells, strict=False)))
            if len(cells) != len(header):
                row.problem = f"{len(cells)} fields where the header has {len(header)}"
            row.problem = next((problem for _, problem in lines.taken if problem), row.problem)
            yield row


def _goes_on_after_a_quote(lines: list[tuple[str, str | None]], delimiter: str) -> bool:
    """Whether the lines of a row are one because a quote of a text was taken for one that opens a field: strictly read, what
    stands behind its end is neither a delimiter nor the end of the line."""
    try:
        next(csv.reader((line for line, _ in lines), delimiter=delimiter, strict=True))
    except csv.Error:
        return True
    return False


class _Lines:
    """Lines for `csv.reader`, which remembers those that the row at hand is made of."""

    def __init__(self, lines: Iterator[tuple[str, str | None]]):
        self.lines, self.number, self.taken, self.again, self.ended = lines, 0, [], [], False

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = self.again.pop() if self.again else next(self.lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line[0]

    def begin_row(self) -> int:
        """The number of the line that the next row begins with."""
        self.taken = []
        return self.number + 1

    def read_again_after_first(self) -> None:
        """Give the lines of the row at hand once more, but for the first."""
        self.again += reversed(self.taken[1:])
        self.number -= len(self.taken) - 1
        self.ended = False


def _header(path: Path, lines: _Lines, delimiter: str) -> list[str]:
    try:
        header = next(csv.reader(lines, delimiter=delimiter), [])
    except csv.Error as error:
        raise ValueError(f"{path.name}:1: no header of a table ({error})") from None
    if problem := next((problem for _, problem in lines.taken if problem), None):
        raise ValueError(f"{path.name}:1: {problem}")
    return header


def json_lines(path: Path, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a JSONL file; a line that is no object has a problem."""
    for number, (line, problem) in enumerate(marked_lines(path, encoding), 1):
        if not line.strip():
            continue
        row = Row(f"{path.name}:{number}", {}, problem=problem)
        try:
            values = json.loads(line, object_pairs_hook=once)
        except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
            row.problem = problem or f"not JSON ({error})"
        else:
            if isinstance(values, dict):
                row.values = values
            else:
                row.problem = problem or f"must be an object, got {type(values).__name__}"
        yield row


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch; a picture may stand in it as bytes or `{"bytes", "path"}`.

    Raises:
        ValueError: it is damaged.
    """
    number, batches = 0, _parquet(path).iter_batches()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path.name} is damaged behind row {number}: {error}") from None
        for values, problem in arrow_values(batch):
            yield Row(f"{path.name}[{number}]", values, problem=problem)
            number += 1


def arrow_values(rows: pyarrow.RecordBatch | pyarrow.Table) -> Iterator[tuple[dict, str | None]]:
    """Each row's values, those of it that can be read, and what is wrong with it, or None."""
    try:
        yield from ((values, None) for values in rows.to_pylist())
    except UNREADABLE:
        yield from (_values_of(rows.slice(index, 1)) for index in range(len(rows)))


def _values_of(row) -> tuple[dict, str | None]:
    values, bad = {}, []
    for name in row.schema.names:
        try:
            values[name] = row.column(name).to_pylist()[0]
        except UNREADABLE as error:
            what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error})"
            bad.append(f"{shown(name)} {what}")
    return values, ", ".join(bad) or None


def table_rows(path: Path, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a table of any of `TABLE_SUFFIXES`."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_rows(path)
    if suffix == ".jsonl":
        return json_lines(path, encoding)
    return delimited_rows(path, _delimiter(path, encoding), encoding)


def table_columns(path: Path, encoding: str = "utf-8") -> list[str]:
    """Column names: of a CSV or TSV file's first row, of all objects of a JSONL file, of a Parquet file's schema.

    Raises:
        ValueError: no header of a table, or no Parquet file.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    if suffix == ".jsonl":
        return list(dict.fromkeys(name for row in json_lines(path, encoding) for name in row.values))
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    return _header(path, _Lines(marked_lines(path, encoding)), _delimiter(path, encoding))


def has_column(path: Path, name: str, encoding: str = "utf-8") -> bool:
    """Whether a table has the column; of a JSONL file no more is read than it takes to tell."""
    if path.suffix.lower() == ".jsonl":
        return any(name in row.values for row in json_lines(path, encoding))
    return name in table_columns(path, encoding)


def first_problem(path: Path, encoding: str = "utf-8") -> str | None:
    """The first row's of a JSONL file that is none, with its place: where columns are missing, it may be why."""
    if path.suffix.lower() != ".jsonl":
        return None
    return next((f"{row.where}: {row.problem}" for row in json_lines(path, encoding) if row.problem), None)


def without_halves(row: Row) -> Row:
    """The row with every half of a character (a lone surrogate, which JSON can say and no file can hold) replaced."""
    try:
        values = _whole(row.values)
    except RecursionError:
        return Row(row.where, {}, problem="nested too deeply")
    if values is not row.values:
        row.values, row.repair = values, row.repair or "half a character (a lone surrogate) was replaced by \ufffd"
    return row


def _whole(value):
    """The value itself where nothing is to be mended."""
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    elif isinstance(value, list):
        mended = [_whole(part) for part in value]
        return mended if any(new is not old for new, old in zip(mended, value, strict=True)) else value
    elif isinstance(value, dict):
        mended = {_whole(name): _whole(part) for name, part in value.items()}
        same = len(mended) == len(value) and all(mended.get(name) is part for name, part in value.items())
        return value if same else mended
    return value


def _parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        found = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path.name} is damaged or no Parquet file: {error}") from None
    check_once(found.schema_arrow.names, path.name)
    return found


def check_once(names: list[str], where: str) -> None:
    """Raise ValueError where a column stands twice: one of the values of each row would be lost."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{where}: the column {shown(twice[0])} stands there twice")


def _line_end(path: Path, encoding: str) -> str:
    """A carriage return where the first line ends in one alone and most others do, as of an old Mac; else a line feed."""
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        text = file.read(SAMPLE)
    text = text.replace("\r\n", "\n")
    first = min((text.find(end) for end in "\r\n" if end in text), default=-1)
    return "\r" if first >= 0 and text[first] == "\r" and text.count("\r") > text.count("\n") else "\n"


def _delimiter(path: Path, encoding: str) -> str:
    """Tab for .tsv; for .csv a comma, or what stands in a header without any comma."""
    header = next((line for line, _ in islice(marked_lines(path, encoding), 1)), "")
    if path.suffix.lower() == ".tsv" or ("," not in header and "\t" in header):
        return "\t"
    return ";" if "," not in header and ";" in header else ","
