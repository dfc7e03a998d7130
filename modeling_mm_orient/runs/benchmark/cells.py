# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Running a benchmark: a cell for every set, method and seed that is not there yet, then the tables."""

import json
import logging
import os
import shutil
import subprocess
import time
from concurrent.futures import as_completed
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from ... import __version__
from ...data.description import DataDescription
from ...data.json_files import read_json, write_json
from ...data.locks import only_one
from ...data.splits import first_splits
from ...data.worker_processes import CONTEXT, worker_pool
from ...features.cache import DEFAULT_FEATURE_CACHE
from ...tasks import kind_of, probabilities_of
from ..cpu_memory import reuse_memory
from ..identity import digests_of_sources
from ..scoring import metrics_of_logits
from ..settings import TrainingSettings
from ..task_settings import settings_of_tasks
from ..training import check_rules
from .cell_files import (
    NOISE,
    Cell,
    cell_file,
    check_folder,
    check_set_name,
    enter_set,
    noise_file,
    read_cell,
    write_cell,
)
from .cross_fitting import BASELINES, Outcome, cross_fitted, is_choice, search
from .decision_rival import DecisionRival, check_rival, choices_of
from .features import BenchmarkData, PostArrays, PostReader, config_of, content_of, read_benchmark_data
from .methods import RIVAL, BenchmarkSettings, Method, check_fields
from .noise import CellPredictor, noise_rows, stored_features
from .own_methods import trained_outcome
from .tables import write_results

logger = logging.getLogger(__name__)

METRICS = ("macro_f1", "weighted_f1", "accuracy", "auroc", "calibration_error", "mse", "mae", "pearson", "posts")
SCORED = ("validation", "test")


def benchmark(
    description: DataDescription,
    bench: Path,
    name: str,
    methods: list[Method],
    settings: BenchmarkSettings,
    *,
    preset: dict,
    training: TrainingSettings,
    feature_cache: str | None = DEFAULT_FEATURE_CACHE,
    skip_bad_posts: bool = False,
) -> str:
    """Make the cells of one set that are missing, and the results of all sets in the folder; returns their text.

    Args:
        description: the posts of the set. bench: the benchmark's folder. name: of the set.
        preset: from `load_preset`, with its encoders. training: of our own methods.

    Raises:
        ValueError: a method's field is wrong, the data has not all splits, the name stands for another set, or the folder
            holds what is none of a benchmark's.
        DataProblems: see `read_posts`. FileExistsError: another process is at work on the set.
    """
    check_set_name(name)
    check_folder(bench)
    check_fields(methods, config_of(preset))
    rivals = {method.model: check_rival(method.model) for method in methods if method.base == RIVAL}
    check_rivals(bench, name, methods, rivals)
    data = read_benchmark_data(description, preset, training, feature_cache, skip_bad_posts)
    check_rules(training, data.tasks)
    for method in methods:
        if method.fields:
            settings_of_tasks(data.preset, method.config, data.tasks)
        if method.base == RIVAL:
            choices_of(data.tasks, method.model)
    first_splits(data.keys)  # it logs those of several
    for task in data.tasks:
        if not kind_of(task).known(data.labels["test"][task["name"]]).any():
            logger.warning("no test post has a label of %r: no table has it", task["name"])
    if settings.noise and data.arrays:
        raise ValueError("--noise makes pictures and texts worse, and encodes them: it takes no --feature-arrays")
    (bench / "sets").mkdir(parents=True, exist_ok=True)
    with only_one(bench / "sets" / f".{name}.lock", f"another process makes the cells of {name!r} in {bench}"):
        enter_set(bench, name, facts_of(data), [method.name for method in methods])
        _make_cells(_Work(data, bench, name, methods, settings, rivals), methods)
    return write_results(bench, settings.bootstrap, plots=settings.plots)


def check_rivals(bench: Path, name: str, methods: list[Method], rivals: dict[str, str]) -> None:
    """Raise ValueError where a set's cells of a chat model are of another one, at the same place.

    Args:
        rivals: model -> the digest of `check_rival`.
    """
    for method in methods:
        folder = cell_file(bench, name, method.folder, 0).parent
        for path in folder.glob("*.npz") if method.base == RIVAL else ():
            if read_cell(path).source not in ("", rivals[method.model]):  # cells of before do not say
                raise ValueError(f"{method.name} is another model than in {path}: remove {folder} to ask it anew")


def _make_cells(work: "_Work", methods: list[Method]) -> None:
    """Seed by seed, so that an interrupted benchmark has all methods of some."""
    name, settings = work.name, work.settings
    wanted = [(seed, method) for seed in settings.seeds for method in methods]
    todo = [(s, m) for s, m in wanted if not all(path.exists() for path in work.files(m, s))]
    logger.info("%s: %d cells, %d of them finished before", name, len(wanted), len(wanted) - len(todo))
    if settings.workers > 1 and len(todo) > 1:
        _make_side_by_side(work, methods, todo)
    else:
        for number, (seed, method) in enumerate(todo, 1):
            logger.info("%s: cell %d of %d, %s with seed %d", name, number, len(todo), method.name, seed)
            work.make(method, seed)
    with suppress(OSError):  # it is not there, or holds runs: of this set or of one that another process is at work on
        (work.bench / "runs").rmdir()


def _make_side_by_side(work: "_Work", methods: list[Method], todo: list[tuple[int, Method]]) -> None:
    data, name, workers = work.data, work.name, min(work.settings.workers, len(todo))
    PostReader(data, with_sequences=False)  # what is not stored is encoded here, not by each of them
    turns = {method.folder: CONTEXT.RLock() for method in methods}
    start = _start_worker, (data, work.bench, name, methods, work.settings, work.rivals, turns)
    with worker_pool(workers, max(1, torch.get_num_threads() // workers), *start) as pool:
        waiting = {pool.submit(_make_in_worker, method, seed): (seed, method) for seed, method in todo}
        for number, made in enumerate(as_completed(waiting), 1):
            seed, method = waiting[made]
            made.result()
            logger.info("%s: made %d of %d, %s with seed %d", name, number, len(todo), method.name, seed)


def _start_worker(*arguments) -> None:
    reuse_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _Work.of_worker = _Work(*arguments)


def _make_in_worker(method: Method, seed: int) -> None:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # lines of epochs, of several runs at once
        _Work.of_worker.make(method, seed)


def facts_of(data: BenchmarkData) -> dict:
    """What a set's cells depend on, beside method and seed, as JSON values."""
    training = {name: value for name, value in asdict(data.settings).items() if name != "seed"}
    return {
        "content": content_of(data),
        "posts": {split: len(rows) for split, rows in data.posts.items()},
        "tasks": {task["name"]: task["labels"] for task in data.tasks},
        "encoders": {role: source for role, source in data.preset["encoders"].items() if source},
        "sources": digests_of_sources(data.preset, data.arrays),
        "revisions": data.preset["revisions"],
        "task_features": data.preset["task_features"],
        "text_treatment": [
            data.description.text_cleaning, data.description.remove_overlaid_text, data.description.read_missing_text,
        ],
        "feature_arrays": data.description.feature_arrays,
        "configuration": config_of(data.preset),
        "training": training,
    }  # fmt: skip


class _Work:
    """Cells of one set; its features are read when the first baseline needs them.

    Args:
        rivals: chat model -> its digest. turns: method folder -> the lock under which what all seeds share is made, where
            other processes make cells too.
    """

    of_worker: ClassVar["_Work"]  # in a process of a pool

    def __init__(
        self,
        data: BenchmarkData,
        bench: Path,
        name: str,
        methods: list[Method],
        settings: BenchmarkSettings,
        rivals: dict[str, str],
        turns=None,
    ):
        self.data, self.bench, self.name, self.settings, self.rivals = data, bench, name, settings, rivals
        self.turns = turns or {method.folder: nullcontext() for method in methods}
        baselines = [BASELINES[method.base] for method in methods if method.base in BASELINES]
        self.with_sequences = any(baseline.reads_sequences for baseline in baselines)

    @cached_property
    def reader(self) -> PostReader:
        return PostReader(self.data, self.with_sequences)

    @property
    def posts(self) -> dict[str, PostArrays]:
        return self.reader.splits

    def files(self, method: Method, seed: int) -> list[Path]:
        """Those of a finished cell."""
        place = self.bench, self.name, method.folder, seed
        return [cell_file(*place), *([noise_file(*place)] if self.settings.noise and method.base != RIVAL else [])]

    def make(self, method: Method, seed: int) -> None:
        """Make a cell and write its files."""
        own_draws = method.is_own or (method.base in BASELINES and BASELINES[method.base].seeded)
        with nullcontext() if own_draws else self.turns[method.folder]:  # else it may be another seed's
            cell, noise = self.cell(method, seed)
            if method.is_own and not self.settings.keep_runs:
                # before the cell is there: who is stopped here makes both again, and no run is left over
                shutil.rmtree(self.run_folder(method, seed), ignore_errors=True)
            if noise is not None:
                path = noise_file(self.bench, self.name, method.folder, seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {"rows": noise})
            write_cell(cell_file(self.bench, self.name, method.folder, seed), cell)

    def run_folder(self, method: Method, seed: int) -> Path:
        return self.bench / "runs" / f"{self.name}_{method.folder}_{seed}"

    def cell(self, method: Method, seed: int) -> tuple[Cell, list[dict] | None]:
        """A cell, and its rows of `noise_rows` if so asked."""
        noise = self.settings.noise
        if method.is_own:
            folder, start = self.run_folder(method, seed), time.monotonic()
            folder.parent.mkdir(exist_ok=True)
            outcome = trained_outcome(self.data, method, seed, folder)
            return self._scored(method, seed, outcome, start), self._noise(method, seed, outcome) if noise else None
        noise = noise and method.base != RIVAL
        if not (method.base in BASELINES and BASELINES[method.base].seeded):
            others = cell_file(self.bench, self.name, method.folder, seed).parent.glob("*.npz")
            others = (path for path in others if not noise or path.with_suffix(NOISE).exists())
            if (other := min(others, default=None)) is not None:
                cell = read_cell(other)  # with another seed it would come to the same
                rows = [row | {"seed": seed} for row in read_json(other.with_suffix(NOISE))["rows"]] if noise else None
                return replace(cell, seed=seed, rows=[row | {"seed": seed} for row in cell.rows]), rows
        if method.base == RIVAL:
            start = time.monotonic()
            cell = self._scored(method, seed, self._rival(method), start)
            return replace(cell, source=self.rivals[method.model]), None
        baseline, setting = BASELINES[method.base], self._search(method)
        self.posts  # noqa: B018 - read before the clock starts
        start = time.monotonic()
        outcome = cross_fitted(baseline, self.posts, self.data.tasks, setting, seed, self.data.settings.decide or [])
        cell, predict = self._scored(method, seed, outcome, start), outcome.predict
        outcome.predict = lambda others: predict(self.reader.read(others))
        return cell, self._noise(method, seed, outcome) if noise else None

    def _rival(self, method: Method) -> Outcome:
        """What a chat model says that was not trained for this; no rule is fitted for it."""
        rival = DecisionRival(method.model, self.data.tasks)
        logits = {}
        for split in SCORED:
            said = rival.predict(self.data.posts[split])
            logits[split] = {
                task["name"]: kind_of(task).logits_of(torch.from_numpy(said[task["name"]])) for task in rival.tasks
            }
        return Outcome(rival.tasks, logits)

    def _noise(self, method: Method, seed: int, outcome: Outcome) -> list[dict]:
        predictor = CellPredictor(method.name, seed, outcome.tasks, outcome.predict)
        kept = {"encode": self._encode, "encoded": self._encoded}
        rows = noise_rows(self.name, [predictor], self.data.posts["test"], self.data.tasks, **kept)
        return [row._asdict() for row in rows]

    @cached_property
    def _encode(self):
        """Stored features of degraded posts."""
        return stored_features(self.reader.cache())

    @cached_property
    def _encoded(self) -> dict:
        """Degraded posts, each made and encoded once for all methods and seeds."""
        return {}

    def _search(self, method: Method) -> dict:
        """What the search chose, once for all seeds."""
        path = cell_file(self.bench, self.name, method.folder, 0).with_name("search.json")
        baseline = BASELINES[method.base]
        with self.turns[method.folder]:
            if not path.exists():
                write_json(path, search(baseline, self.posts, self.data.tasks))
        if not is_choice(baseline, found := read_json(path)):
            raise ValueError(f"{path}: no choice of `{baseline.hyper_parameter}`; remove it, to search anew")
        return found

    def _scored(self, method: Method, seed: int, outcome: Outcome, start: float) -> Cell:
        labels, rows = self.data.labels, []
        shared = {"set": self.name, "method": method.name, "seed": seed}
        end = {
            "setting": json.dumps(outcome.setting),
            "seconds": round(time.monotonic() - start, 2),
            "commit": commit_of_package(),
        }
        without_rule = [task | {"decision_offsets": None} for task in outcome.tasks]
        for split in SCORED:
            metrics = metrics_of_logits(outcome.tasks, outcome.logits[split], labels[split])
            plain = metrics_of_logits(without_rule, outcome.logits[split], labels[split])
            for task in (task["name"] for task in outcome.tasks if task["name"] in metrics):
                found = {metric: metrics[task].get(metric) for metric in METRICS}
                found["plain_macro_f1"] = plain[task].get("macro_f1")
                rows.append(shared | {"task": task, "split": split} | found | end)
        probabilities = probabilities_of(outcome.tasks, outcome.logits["test"])
        decided = {
            task["name"]: kind_of(task).decided(task, probabilities[task["name"]].double()).numpy()
            for task in outcome.tasks
        }
        return Cell(
            set=self.name,
            method=method.name,
            seed=seed,
            rows=rows,
            keys=self.data.keys["test"],
            ids=[str(name) for name in self.data.posts["test"]["id"]],
            labels={task["name"]: labels["test"][task["name"]].numpy() for task in outcome.tasks},
            decided=decided,
            probabilities={name: values.float().numpy() for name, values in probabilities.items()},
        )


def commit_of_package() -> str:
    """The commit of the checkout that runs, with `+` where files differ from it; of an installed package its version."""
    here = Path(__file__).parent
    try:
        said = [
            subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (["ls-files", Path(__file__).name], ["rev-parse", "--short=12", "HEAD"],
                              ["status", "--porcelain", "--untracked-files=no"])
        ]  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return __version__
    is_tracked, commit, changes = said
    return commit + ("+" if changes else "") if is_tracked else __version__
