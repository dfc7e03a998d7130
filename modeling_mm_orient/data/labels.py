# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From what a table says to tasks and labels.

A class name is the text that stands there. Numbers are read only from columns that hold nothing but plain decimal numbers.
"""

import json
import logging
import math
import re
from collections.abc import Callable
from decimal import Decimal

import datasets
import numpy as np

from ..names import VERDICT_KEYS
from ..numeric_columns import LARGEST
from ..tasks import LABEL_PREFIX, MULTI_LABEL, REGRESSION, SINGLE_LABEL, kind_of
from ..text_cleaning import normalized
from .description import DataDescription
from .problems import Problem, shown

logger = logging.getLogger(__name__)

MISSING_VALUES = ("", "nan")  # not "none": that is a class in some data sets
# of posts, predictions and metrics
RESERVED_TASK_NAMES = (
    "id",
    "image",
    "text",
    "split",
    "row",
    "post_key",
    "mean_macro_f1",
    *VERDICT_KEYS,
    "problem",
    "strange_picture",
    "abstained",
    "mean of tasks",
    "mean AUROC of tasks",
)
MOST_CLASSES = 50
NO_LABEL = (dict, list, tuple, bytes)  # as a Parquet file may have them
ZERO_OR_ONE = {"0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0}
MOST_LOST = 1e-3  # deviations that rounding may move a number by
PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", re.ASCII)
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", re.ASCII)
INFINITE = re.compile(r"[-+]?inf(?:inity)?", re.ASCII | re.IGNORECASE)


def is_missing(value) -> bool:
    """Whether a table's cell says nothing."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str) and value.strip().lower() in MISSING_VALUES


def label_column(name: str) -> str:
    """The column of a task in a data set of posts."""
    return LABEL_PREFIX + name


def read_labels(
    name: str, description: DataDescription, declared: dict[str, dict], posts: list[dict], problems: list[Problem]
) -> dict:
    """Describe the task, and turn the posts' raw values in its `label_column` into class numbers, lists or floats.

    Several labels of a post are a list, in a table a JSON list (or, of a known multi-label task, `a|b`).

    Args:
        declared: column -> `kind` and `labels`, of columns whose source says what its classes are.
    """
    if name in RESERVED_TASK_NAMES:
        raise ValueError(f"a task cannot be called {name!r}; rename the column")
    mapping = description.label_maps.get(name, {})
    known = {task["name"]: dict(task) for task in description.tasks or []}.get(name)
    if known is not None and known.pop("if_it_fits", False) and not _fits(name, known, description, posts):
        known = None
    if columns := description.label_groups.get(name):
        return _read_group(name, columns, known, posts, problems)
    of_source = None if mapping else declared.get(description.label_columns.get(name, name))
    if name in (description.regression_columns or ()):
        if known is not None and kind_of(known) is not REGRESSION:
            raise ValueError(f"the task {name!r} of the model is no regression")
        of_source = {"kind": REGRESSION.name}
        _read_cells(name, mapping, posts, problems)
    if of_source is None:
        _read_cells(name, mapping, posts, problems)
    column = label_column(name)
    values = [post[column] for post in posts if post[column] is not None]
    task = {"name": name} | (known or of_source or {})
    if "kind" not in task:
        task["kind"] = _kind(values)
        lists = sum(isinstance(value, list) for value in values)
        if 0 < lists < len(values):
            said = name, lists, len(values)
            logger.warning("the task %r has several labels to a post, since %d of %d labels are lists", *said)
    kind = kind_of(task)
    if kind is REGRESSION:
        task["labels"] = []
        _convert(posts, name, finite, "a number", problems)
        if known is None and _is_too_fine([post[column] for post in posts if post[column] is not None]):
            what = "its values differ by less than single precision tells apart: subtract what they have in common"
            problems.append(Problem(f"column {name!r}", "too fine", what))
        return task
    label_of = _label_reader([part for value in values for part in _parts(value)])
    if "labels" not in task:
        task["labels"] = _class_names(name, kind, label_of, values, problems)
    numbers = {label: number for number, label in enumerate(task["labels"])}

    def number_of(label) -> int:
        return numbers[label if isinstance(label, str) and label in numbers else label_of(label)]

    def numbers_of(labels) -> list[float]:
        joined = isinstance(labels, str) and labels not in numbers
        found = {number_of(label) for label in (labels.split("|") if joined else _parts(labels))}
        return [float(number in found) for number in range(len(numbers))]

    convert = numbers_of if kind is MULTI_LABEL else number_of
    _convert(posts, name, convert, f"one of {', '.join(label[:40] for label in task['labels'][:20])}", problems)
    return task


def feature_of(task: dict):
    """The type of the task's column in a data set of posts."""
    kind = kind_of(task)
    if kind is SINGLE_LABEL:
        return datasets.ClassLabel(names=task["labels"]) if task["labels"] else datasets.Value("int64")
    return datasets.Sequence(datasets.Value("float32")) if kind is MULTI_LABEL else datasets.Value("float32")


def label_counts(task: dict, posts: datasets.DatasetDict) -> dict[str, int]:
    """How many posts have each label; of a number, how many have one."""
    values = [value for split in posts.values() for value in split[label_column(task["name"])] if value is not None]
    kind = kind_of(task)
    if not kind.is_classification:
        return {"known": len(values)}
    return kind.counts(task, [kind.label(task, label) for label in kind.collate(task, values)])


def untrainable(tasks: list[dict], posts: list[dict]) -> list[Problem]:
    """Tasks that have no labels, or a single class, in the training posts."""
    problems = []
    for task in tasks:
        values = [post[label_column(task["name"])] for post in posts]
        used = {str(value): value for value in values if value is not None}
        if len(used) < 2:
            what = "no label at all"
            if used:
                value = next(iter(used.values()))
                what = f"only {(task['labels'][value] if kind_of(task) is SINGLE_LABEL else value)!r}"
            problems.append(
                Problem(f"column {task['name']!r}", "single class", f"{what} in training: nothing to learn")
            )
    return problems


def _fits(name: str, task: dict, description: DataDescription, posts: list[dict]) -> bool:
    """Whether the posts' raw values can be labels of a task that is known from elsewhere."""
    if columns := description.label_groups.get(name):
        return kind_of(task) is MULTI_LABEL and set(columns) == set(task["labels"])
    if (name in (description.regression_columns or ())) != (kind_of(task) is REGRESSION):
        return kind_of(task) is REGRESSION and all(_is_number(v, NUMBER) for v in _known_cells(name, posts))
    if kind_of(task) is REGRESSION:
        return True
    copies = [{"where": post["where"], label_column(name): post[label_column(name)]} for post in posts]
    _read_cells(name, description.label_maps.get(name, {}), copies, [])
    parts = [part for value in _known_cells(name, copies) for part in _parts(value)]
    listed = any(isinstance(value, list) for value in _known_cells(name, copies))
    label_of = _label_reader(parts)
    return listed == (kind_of(task) is MULTI_LABEL) and all(
        part in task["labels"] or label_of(part) in task["labels"] for part in parts
    )


def _known_cells(name: str, posts: list[dict]) -> list:
    return [post[label_column(name)] for post in posts if not is_missing(post[label_column(name)])]


def _read_group(name: str, columns: list[str], known: dict | None, posts: list[dict], problems: list[Problem]) -> dict:
    """Several columns of 0 and 1 as the labels of one task: NaN where a cell says nothing, None where none does."""
    task = {"name": name} | (known or {"kind": MULTI_LABEL.name, "labels": list(columns)})
    if kind_of(task) is not MULTI_LABEL or set(task["labels"]) != set(columns):
        said = ", ".join(task["labels"]) or "none"
        raise ValueError(f"the task {name!r} has the labels {said}, and the columns are {', '.join(columns)}")
    for post in posts:
        cells = dict(zip(columns, post[label_column(name)], strict=True))
        values = []
        for label in task["labels"]:
            value = cells[label]
            said = None if is_missing(value) else ZERO_OR_ONE.get(str(value).strip().lower())
            if said is None and not is_missing(value):
                problems.append(Problem(post["where"], "unknown label", f"{label} is {shown(value)}, not 0 or 1"))
            values.append(float("nan") if said is None else said)
        post[label_column(name)] = None if all(value != value for value in values) else values
    return task


def _read_cells(name: str, mapping: dict, posts: list[dict], problems: list[Problem]) -> None:
    """Cells of a table to values: white space cut, lists read, names mapped, None where nothing is said."""
    column = label_column(name)
    for post in posts:
        if isinstance(post[column], str):
            post[column] = post[column].strip()
    cells = _known_cells(name, posts)
    name_of = _label_reader(cells)  # in a column of numbers a map's 1 is 1.0 too
    measured = _kind([value for value in cells if not _is_infinite(value)]) == REGRESSION.name
    for post in posts:
        value = post[column]
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                what = f"{name} is {shown(value)}, no JSON list ({error})"
                problems.append(Problem(post["where"], "unknown label", what))
                value = None
        if mapping and not isinstance(value, list) and not is_missing(value):
            value = mapping.get(str(value), mapping.get(name_of(value), value))
        if not is_missing(value) and (what := _what_is_no_label(value, measured)):
            problems.append(Problem(post["where"], "unknown label", f"{name} {what}"))
            value = None
        post[column] = None if is_missing(value) else value


def _what_is_no_label(value, measured: bool) -> str | None:
    """What is wrong with a cell that no label can be read from, in a column of measured values or another; else None."""
    if isinstance(value, list):
        if any(map(is_missing, value)):
            return "is a list with an entry that says nothing"
        strange = next((part for part in value if isinstance(part, NO_LABEL)), None)
        return None if strange is None else f"is a list with {shown(strange)}, no label"
    if isinstance(value, NO_LABEL):
        return f"is {shown(value)}, no label"
    if _is_infinite(value) and (measured or isinstance(value, float)):
        return f"is {value}, no number"
    return None


def _class_names(name: str, kind, label_of: Callable, values: list, problems: list[Problem]) -> list[str]:
    labels = {label_of(label) for value in values for label in (_parts(value) if kind is MULTI_LABEL else [value])}
    if kind is SINGLE_LABEL and len(labels) > max(MOST_CLASSES, len(values) // 2):
        problems.append(
            Problem(f"column {name!r}", "not a class column", f"{len(labels)} different values: not a label")
        )
    for names in _alike(labels):
        same = "case, white space or Unicode form"
        logger.warning("%r has labels that differ in %s alone, each a class of its own: %s", name, same, names)
    return sorted(labels, key=_label_order)


def _alike(labels: set[str]) -> list[str]:
    """Class names that a reader takes for one, those of a group shown together."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        form = normalized(normalized(label, "NFKC").casefold(), "NFKC")
        groups.setdefault(" ".join(form.split()), []).append(label)
    return [", ".join(map(ascii, names)) for names in groups.values() if len(names) > 1]


def _convert(posts: list[dict], name: str, convert: Callable, expected: str, problems: list[Problem]) -> None:
    column = label_column(name)
    for post in posts:
        if post[column] is not None:
            try:
                post[column] = convert(post[column])
            except (KeyError, TypeError, ValueError, OverflowError):
                what = f"{name} is {shown(post[column])}, not {expected}"
                problems.append(Problem(post["where"], "unknown label", what))
                post[column] = None


def finite(value) -> float:
    """A number that single precision holds; ValueError, TypeError or OverflowError for any other value."""
    number = float(value)
    if not abs(number) <= LARGEST:  # in single precision, which the model has
        raise ValueError(f"{number} is no number")
    return number


def _is_too_fine(values: list[float]) -> bool:
    """Whether single precision, which the model has, takes a part of what makes the values differ."""
    exact = np.array(values, np.float64)
    lost = np.abs(exact.astype(np.float32) - exact)
    return len(exact) > 1 and bool(lost.max() > MOST_LOST * exact.std() > 0)


def _kind(values: list) -> str:
    if any(isinstance(value, list) for value in values):
        return MULTI_LABEL.name
    if not values or not all(_is_number(value, NUMBER) for value in values):
        return SINGLE_LABEL.name
    fractions = [value for value in values if _is_number(value, PLAIN_NUMBER) and not _is_whole(value)]
    return REGRESSION.name if fractions else SINGLE_LABEL.name


def _is_number(value, form: re.Pattern) -> bool:
    if isinstance(value, str):
        return form.fullmatch(value) is not None
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_infinite(value) -> bool:
    if isinstance(value, str):
        return INFINITE.fullmatch(value) is not None
    return isinstance(value, float) and math.isinf(value)


def _is_whole(value) -> bool:
    return isinstance(value, int) or float(value).is_integer()


def _label_reader(values: list) -> Callable:
    """A function from a raw value to its class name: of a column of plain numbers 1 and 1.0 are one class, elsewhere the
    text is the name."""
    if not all(_is_number(value, PLAIN_NUMBER) for value in values):
        return lambda value: str(value)

    def name(value) -> str:
        whole, _, fraction = (repr(int(value)) if _is_whole_float(value) else str(value)).partition(".")
        if fraction.strip("0"):
            return str(value)
        return "0" if whole == "-0" else whole  # digit by digit: a number of an account has more than a float

    return name


def _is_whole_float(value) -> bool:
    return isinstance(value, float) and value.is_integer()


def _parts(value) -> list:
    """The labels in a cell: a list's, or the one."""
    return value if isinstance(value, list) else [value]


def _label_order(label: str):
    return (0, Decimal(label), "") if PLAIN_NUMBER.fullmatch(label) else (1, 0, label)
