# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The files of a benchmark: a cell of set, method and seed, written whole, and what is known of a set.

In a folder BENCH: `sets/SET.json`, `cells/SET/METHOD/SEED.npz`, `cells/SET/METHOD/search.json`, `runs/`, and the results.
Shapes: P test posts, C labels of a task.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ...data.fields import completed
from ...data.json_files import read_json, write_json
from ...partial_files import whole_file
from ..settings import TrainingSettings

NOISE = ".noise.json"
RESULTS = ("results.md", "results.parquet", "noise.parquet", "macro_f1.png", "differences.png", "noise.png")
NAMED = ("set", "method", "seed")  # what every row says of where it is from
SET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass
class Cell:
    """A method's results on a set with a seed.

    Args:
        rows: what `results.parquet` says of it, a row per task and split. keys, ids: of the test posts.
        labels, decided, probabilities: task name -> (P,) or (P, C); of a regression all are (P,).
    """

    set: str
    method: str
    seed: int
    rows: list[dict]
    keys: list[str]
    ids: list[str]
    labels: dict[str, np.ndarray]
    decided: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]


def check_set_name(name: str) -> None:
    """Raise ValueError unless a set's name can be a file's."""
    if not SET_NAME.fullmatch(name):
        raise ValueError(f"--name {name!r}: letters, digits, dots, hyphens and underscores, please")


def cell_file(bench: Path, set_name: str, method_folder: str, seed: int) -> Path:
    """Where a cell lies."""
    return bench / "cells" / set_name / method_folder / f"{seed}.npz"


def noise_file(bench: Path, set_name: str, method_folder: str, seed: int) -> Path:
    """Where the cell's rows of `noise.noise_rows` lie."""
    return cell_file(bench, set_name, method_folder, seed).with_suffix(NOISE)


def read_noise(bench: Path) -> list[dict]:
    """All rows of `noise.noise_rows`, by set, method and seed. Raises ValueError, with its path, where a file has none."""
    rows = []
    for path in sorted((bench / "cells").glob(f"*/*/*{NOISE}")):
        found = read_json(path).get("rows")
        if not isinstance(found, list) or not all(isinstance(row, dict) and {*NAMED} <= {*row} for row in found):
            raise ValueError(f"{path}: no sound rows under noise; remove it to make it again")
        rows += found
    return sorted(rows, key=lambda row: [row[name] for name in NAMED])


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell whole; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"set": cell.set, "method": cell.method, "seed": cell.seed, "rows": cell.rows, "tasks": list(cell.labels)}
    arrays = {
        f"{kind}.{number}": values
        for kind in ("labels", "decided", "probabilities")
        for number, values in enumerate(getattr(cell, kind).values())
    }
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file, said=np.array(json.dumps(said)), keys=np.array(cell.keys), ids=np.array(cell.ids), **arrays
        )


def read_cell(path: Path) -> Cell:
    """A cell's file. Raises ValueError, with its path, where it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            said = json.loads(str(file["said"]))
            parts = [
                {name: file[f"{kind}.{number}"] for number, name in enumerate(said["tasks"])}
                for kind in ("labels", "decided", "probabilities")
            ]
            keys, ids = file["keys"].tolist(), file["ids"].tolist()
        return Cell(said["set"], said["method"], said["seed"], said["rows"], keys, ids, *parts)
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: no sound cell of a benchmark ({error}); remove it to make it again") from None


def read_cells(bench: Path) -> list[Cell]:
    """All finished cells, by set, method and seed."""
    found = (read_cell(path) for path in sorted((bench / "cells").glob("*/*/*.npz")))
    return sorted(found, key=lambda cell: (cell.set, cell.method, cell.seed))


def check_cells(bench: Path, cells: list[Cell], sets: dict[str, dict]) -> None:
    """Raise ValueError unless all cells of a set judge the same posts by the same labels, and the set is known."""
    first: dict[str, Cell] = {}
    for cell in cells:
        if cell.set not in sets:
            raise ValueError(f"{bench}: there are cells of {cell.set!r}, and no sets/{cell.set}.json")
        other, tasks = first.setdefault(cell.set, cell), sets[cell.set]["facts"].get("tasks", cell.labels)
        both = cell.labels.keys() & other.labels.keys()  # a chat model is asked for labels alone
        same = cell.keys == other.keys and not cell.labels.keys() - tasks.keys()
        if not same or any(not _equal(cell.labels[task], other.labels[task]) for task in both):
            said = " and ".join(f"{c.method} with seed {c.seed}" for c in (other, cell))
            raise ValueError(f"{bench}: cells of the set {cell.set!r} judge other posts or labels: {said}")


def _equal(labels: np.ndarray, others: np.ndarray) -> bool:
    return labels.shape == others.shape and np.array_equal(labels, others, equal_nan=labels.dtype.kind == "f")


def read_sets(bench: Path) -> dict[str, dict]:
    """Set name -> what is known of it, in the order of names. Raises ValueError, with its path, where a file is none."""
    return {path.stem: _read_set(path) for path in sorted((bench / "sets").glob("*.json"))}


def check_folder(bench: Path) -> None:
    """Raise ValueError, with a path, unless all that lies where results will be written is of a benchmark, or nothing is."""
    if bench.exists() and not bench.is_dir():
        raise ValueError(f"{bench} is no folder; choose another --output")
    if not read_sets(bench) and (found := [name for name in RESULTS if (bench / name).exists()]):
        raise ValueError(f"{bench / found[0]} is of no benchmark, and would be replaced; choose another --output")
    read_cells(bench)
    read_noise(bench)


def _read_set(path: Path) -> dict:
    said = read_json(path)
    if not isinstance(said.get("facts"), dict) or not isinstance(said.get("methods"), list):
        raise ValueError(f"{path}: no set of a benchmark; choose another --output, or remove it")
    return said


def enter_set(bench: Path, name: str, facts: dict, methods: list[str]) -> None:
    """Write down what a set is and which methods have been asked for, in order.

    Args:
        facts: JSON values; those of a set's name that has cells must be the same.

    Raises:
        ValueError: the name stands for something else.
    """
    path = bench / "sets" / f"{name}.json"
    begun = path.is_file() and any((bench / "cells" / name).glob("*/*"))
    before = _read_set(path) if begun else {}
    known = before.get("facts", facts)
    if "training" in known:  # a setting that is younger than the set had its default
        settings = completed(TrainingSettings, known["training"])
        known = known | {"training": {name: value for name, value in settings.items() if name != "seed"}}
    if "sources" in facts and "sources" not in known:  # of an older version: they may be anything
        known = known | {"sources": facts["sources"]}
    if other := list(_differences(known, json.loads(json.dumps(facts)))):
        raise ValueError(f"{bench} has a set {name!r} with other {other[0]}: choose another --name or --output")
    order = [*before.get("methods", []), *(method for method in methods if method not in before.get("methods", []))]
    if before.get("methods") != order:
        write_json(path, {"facts": facts, "methods": order})


def _differences(before: dict, now: dict) -> Iterator[str]:
    """What a reader calls the entries that differ."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield {"content": "posts, labels or splits"}.get(name, name.replace("_", " "))
