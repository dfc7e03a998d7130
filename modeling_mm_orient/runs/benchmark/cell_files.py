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

import numpy as np
import pyarrow

from ...data.fields import completed
from ...data.json_files import read_json, write_json
from ...partial_files import whole_file
from ..settings import TrainingSettings
from .methods import method_called
from .noise import NoiseRow

NOISE = ".noise.json"
RESULTS = ("results.md", "results.parquet", "noise.parquet", "macro_f1.png", "differences.png", "noise.png")
NAMED = ("set", "method", "seed")  # what every row says of where it is from
NUMBERS = (
    "macro_f1", "plain_macro_f1", "weighted_f1", "accuracy", "auroc", "calibration_error", "mse", "mae", "pearson",
)  # fmt: skip
SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("set", "method")]
    + [("seed", pyarrow.int64()), ("task", pyarrow.string()), ("split", pyarrow.string())]
    + [(name, pyarrow.float64()) for name in NUMBERS]
    + [("posts", pyarrow.int64()), ("setting", pyarrow.string()), ("seconds", pyarrow.float64())]
    + [("commit", pyarrow.string())]
)
NEEDED = (*NAMED, "task", "split", "setting", "seconds", "commit")  # of a row; scores may be missing
SET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass
class Cell:
    """A method's results on a set with a seed.

    Args:
        rows: what `results.parquet` says of it, a row per task and split. keys, ids: of the test posts.
        labels, decided, probabilities: task name -> (P,) or (P, C); of a regression all are (P,).
        source: of a method that is somebody's model, its digest.
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
    source: str = ""


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
        needed = {*NoiseRow._fields} - {"noise_seed"}
        of_form = isinstance(found, list) and all(isinstance(row, dict) for row in found)
        if not of_form or not all(needed <= {*row} <= {*NoiseRow._fields} for row in found):
            raise ValueError(f"{path}: no sound rows under noise; remove it to make it again")
        rows += found
    return sorted(rows, key=lambda row: [row[name] for name in NAMED])


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell whole; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"set": cell.set, "method": cell.method, "seed": cell.seed, "rows": cell.rows, "tasks": list(cell.labels)}
    said |= {"source": cell.source} if cell.source else {}
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
    """A cell's file. Raises ValueError, with its path, where it is none, or one of another place."""
    try:
        with np.load(path, allow_pickle=False) as file:
            said = json.loads(str(file["said"]))
            parts = [
                {name: file[f"{kind}.{number}"] for number, name in enumerate(said["tasks"])}
                for kind in ("labels", "decided", "probabilities")
            ]
            keys, ids = file["keys"].tolist(), file["ids"].tolist()
        named = [said[name] for name in NAMED]
        rows = pyarrow.Table.from_pylist(said["rows"], SCHEMA)
        if not rows.num_rows or any(rows[name].null_count for name in NEEDED):
            raise ValueError(f"a row must have {', '.join(NEEDED)}")
        place = [path.parents[1].name, path.parent.name, path.stem]
        if [named[0], method_called(named[1]).folder, str(named[2])] != place:
            raise ValueError(f"it is of the set {named[0]!r}, the method {named[1]!r} and the seed {named[2]!r}")
        if any([row[name] for name in NAMED[1:]] != named[1:] for row in said["rows"]):
            raise ValueError("its rows are of another")
        return Cell(*named, said["rows"], keys, ids, *parts, said.get("source", ""))
    except Exception as error:  # NumPy's and its archive's, by where the damage is
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
    facts, methods = said.get("facts"), said.get("methods")
    of_form = isinstance(facts, dict) and isinstance(methods, list) and bool(methods)
    of_form = of_form and all(isinstance(facts.get(name, {}), dict) for name in ("posts", "tasks", "training"))
    counts = facts.get("posts", {}).values() if of_form else []
    if (
        not counts
        or not all(isinstance(count, int) for count in counts)
        or not all(isinstance(m, str) for m in methods)
    ):
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
