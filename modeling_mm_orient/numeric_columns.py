# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Numbers that say something of a post, as likes and shares do (ours): standardised by the training posts' statistics.

Shapes: B posts, N columns.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# from the mean: what lies beyond is cut, a post of a million likes says no more than one of many
MOST_DEVIATIONS = 10.0
LARGEST = torch.finfo(torch.float32).max
MOST_SHOWN = 80  # characters of a value in a message


def check_columns(columns: Sequence[dict]) -> list[dict]:
    """Complete descriptions of numeric columns: dicts with `name`, `mean` and `std`.

    Raises:
        ValueError: an entry is wrong.
    """
    for index, entry in enumerate(columns):
        if not isinstance(entry, dict) or set(entry) != {"name", "mean", "std"} or not isinstance(entry["name"], str):
            raise ValueError(f"`numeric_columns[{index}]` must have `name`, `mean` and `std`, got {entry!r}")
        if not all(isinstance(entry[key], (int, float)) for key in ("mean", "std")) or not entry["std"] > 0:
            raise ValueError(
                f"`numeric_columns[{index}]`: `mean` and `std` must be numbers, `std` above 0, got {entry!r}"
            )
    return [dict(entry) for entry in columns]


def fitted_columns(names: Sequence[str], rows: Sequence[Sequence[float]]) -> list[dict]:
    """Mean and standard deviation of each column over the rows (B, N) that have it, NaN where they do not; of one that is
    constant or empty the deviation is 1."""
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(names))
    columns = []
    for name, column in zip(names, values.T, strict=True):
        known = column[~column.isnan()]
        mean = float(known.mean()) if len(known) else 0.0
        std = float(known.std(correction=0)) if len(known) else 0.0
        columns.append({"name": name, "mean": mean, "std": std if std > 0 else 1.0})
    return columns


def standardised(numbers: Sequence[Mapping | Sequence | None], columns: Sequence[dict]) -> Tensor:
    """Posts' numbers as float32 (B, 2 N): deviations from the mean, 0 where missing, and after them 1 where missing.

    Args:
        numbers: of each post by name or in the order of `columns`; None, NaN or a name that is not there is missing.

    Raises:
        ValueError: there is another number of them, an unknown name, or what is no number; the message names the post.
    """
    rows = [numbers_of_post(post, given, columns) for post, given in enumerate(numbers)]
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(columns))
    missing = values.isnan()
    mean, std = (torch.tensor([entry[key] for entry in columns], dtype=torch.float64) for key in ("mean", "std"))
    deviations = ((values - mean) / std).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS).masked_fill(missing, 0.0)
    return torch.cat([deviations, missing], -1).float()


def numbers_of_post(post: int, given: Mapping | Sequence | None, columns: Sequence[dict]) -> list[float]:
    """One post's numbers (N,) in the order of `columns`, NaN where missing; arguments and errors as in `standardised`."""
    names = [entry["name"] for entry in columns]
    if given is None:
        given = {}
    if isinstance(given, Mapping):
        if unknown := [name for name in given if name not in names]:
            raise ValueError(f"`numbers[{post}]` has {unknown[0]!r}; the columns are {', '.join(names)}")
        given = [given.get(name) for name in names]
    if isinstance(given, str) or not hasattr(given, "__len__"):
        raise ValueError(f"`numbers[{post}]` must be numbers by name ({', '.join(names)}), or all in this order")
    if len(given) != len(names):
        raise ValueError(f"`numbers[{post}]` must be {len(names)} numbers ({', '.join(names)}), got {len(given)}")
    return [_number(post, name, value) for name, value in zip(names, given, strict=True)]


def _number(post: int, name: str, value) -> float:
    try:
        number = float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"`numbers[{post}]` must be numbers, and {name!r} is {str(value)[:MOST_SHOWN]!r}") from None
    except OverflowError:
        number = math.inf
    if abs(number) > LARGEST:
        raise ValueError(f"`numbers[{post}]` must be numbers in single precision, and {name!r} is larger than any")
    return number
