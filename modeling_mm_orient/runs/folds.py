# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Cross-validation: a run per fold, every post judged once by a run that has not learned from it."""

import logging
import re
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import numpy as np

from ..data.description import DataDescription
from ..data.fields import completed
from ..data.json_files import read_json, write_json
from ..data.labels import label_column, untrainable
from ..data.problems import DataProblems
from ..data.splits import VALIDATION_SHARE, keys_by_split, split_at_random
from ..features.extraction import process_state
from .continuation import without_learned
from .identity import check_identity, identity_of
from .markdown import plain
from .own_files import remove_run
from .run_folder import read_metrics
from .scoring import OF_CLASSES, OF_NUMBERS
from .settings import TrainingSettings
from .training import LOCK_FILE, Prepared, only_training, prepare, prepare_posts, train_prepared

logger = logging.getLogger(__name__)

FOLDS_FILE = "folds.json"
FOLD = re.compile(r"fold-[0-9]+")
SCALARS = (*OF_CLASSES, *OF_NUMBERS)


def cross_validate(
    data: DataDescription,
    output: str,
    folds: int,
    *,
    preset: dict,
    settings: TrainingSettings | None = None,
    config: dict | None = None,
    feature_cache: str | None = None,
    skip_bad_posts: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    start=None,
) -> dict:
    """Train and judge a run per fold in `output/fold-1`, ...; arguments as in `train`.

    All posts are shared out, whatever split they were in: alike in labels, and duplicates together. Of those that are not
    in a fold a tenth is validation.

    Args:
        resume: keep the folds that are done, and go on with the one that was interrupted.

    Returns:
        What `folds.json` says: `folds`, the test metrics of each, and `summary`, task -> metric -> `mean` and `deviation`
        (of a sample) over them.

    Raises:
        DataProblems: see `read_posts`; or a fold's training posts have a single class. FileExistsError: `output` holds
            something. ValueError: too many or too few folds, or another cross-validation is to be gone on with.
    """
    folder = Path(output)
    if folds < 2:
        raise ValueError(f"--folds must be at least 2, got {folds}")
    if data.paraphrases is not None:
        raise ValueError("--folds takes no --paraphrases: theirs would be posts of several folds")
    _check_output(folder, resume, overwrite)
    prepared = prepare(data, folder, preset, settings, config or {}, skip_bad_posts, start)
    everyone = datasets.concatenate_datasets(list(prepared.posts.values()))
    parts = [_of_fold(everyone, prepared.tasks, rows, data.split_seed, start) for rows in _folds(everyone, data, folds)]
    described = replace(prepared.description, split_column=prepared.description.split_column or None)  # as it ever was
    about = {"data": asdict(described), "training": asdict(prepared.settings), "count": folds}
    about["made_of"] = identity_of(prepared, keys_by_split(prepared.posts))
    with only_training(folder):
        return _train(prepared, parts, about, feature_cache, resume, overwrite)


def _train(
    prepared: Prepared,
    parts: list[datasets.DatasetDict],
    about: dict,
    feature_cache: str | None,
    resume: bool,
    overwrite: bool,
) -> dict:
    """A run per fold, and what `folds.json` says of them."""
    folder, folds = prepared.output, len(parts)
    if process_state().is_main_process:
        _check_output(folder, resume, overwrite)  # another training may have ended meanwhile
        if overwrite and folder.exists():
            _remove(folder)
        if resume and (folder / FOLDS_FILE).exists():
            before = _about_now(_read_folds(folder)["about"])
            check_identity(folder, before.get("made_of"), about["made_of"])
            if before | {"made_of": about["made_of"]} != about:
                raise ValueError(f"cannot resume {folder}: data, settings or folds were others")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FOLDS_FILE, {"about": about, "folds": [], "summary": {}})
    process_state().wait_for_everyone()
    found = []
    for number, posts in enumerate(parts, 1):
        place = folder / f"fold-{number}"
        if (place / "config.json").exists():
            found.append(read_metrics(place)["test"])
            continue
        logger.info("fold %d of %d: %s", number, folds, ", ".join(f"{len(p)} {name}" for name, p in posts.items()))
        place.mkdir(exist_ok=True)
        fold = replace(prepared, output=place, posts=posts, tasks=_bare(prepared), own_splits=True)
        interrupted = any(place.iterdir())
        metrics = train_prepared(prepare_posts(fold), feature_cache, interrupted, overwrite=False, with_report=False)
        found.append(metrics["test"])
    result = {"about": about, "folds": found, "summary": summary(found)}
    if process_state().is_main_process:
        write_json(folder / FOLDS_FILE, result)
    return result


def summary(folds: list[dict]) -> dict:
    """Task -> metric -> `mean` and `deviation` over the folds that have it, of a sample; `mean_macro_f1` likewise."""
    result: dict = {}
    for task in dict.fromkeys(name for metrics in folds for name in metrics if name != "mean_macro_f1"):
        values = {name: [metrics.get(task, {}).get(name) for metrics in folds] for name in SCALARS}
        result[task] = {name: _spread(numbers) for name, numbers in values.items() if _spread(numbers)}
    if mean := _spread([metrics.get("mean_macro_f1") for metrics in folds]):
        result["mean_macro_f1"] = mean
    return result


def folds_table(result: dict) -> str:
    """The summary in Markdown: a row per task and metric."""
    lines = ["| task | metric | mean | deviation | folds |", "|---|---|--:|--:|--:|"]
    for task, metrics in result["summary"].items():
        named = {"": metrics} if task == "mean_macro_f1" else metrics
        for name, found in named.items():
            lines.append(
                f"| {plain(task)} | {name} | {found['mean']:.3f} | {found['deviation']:.3f} | {found['folds']} |"
            )
    return "\n".join(lines)


def _read_folds(folder: Path) -> dict:
    """`folds.json`. Raises ValueError for another form."""
    found, parts = read_json(folder / FOLDS_FILE), {"about": dict, "summary": dict, "folds": list}
    if wrong := [name for name, kind in parts.items() if not isinstance(found.get(name), kind)]:
        raise ValueError(f"{folder / FOLDS_FILE}: no file of a cross-validation, whose {wrong[0]!r} says nothing")
    return found


def _about_now(before: dict) -> dict:
    """What a cross-validation is; a setting that is younger than it had its default."""
    kinds = {"data": DataDescription, "training": TrainingSettings}
    return before | {part: completed(kind, before[part]) for part, kind in kinds.items()}


def _spread(values: list) -> dict | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return None
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)), "deviation": deviation, "folds": len(known)}


def _folds(everyone: datasets.Dataset, data: DataDescription, count: int) -> list[list[int]]:
    posts = [_outline(post, row, data.labels or []) for row, post in enumerate(everyone)]
    if len(posts) < 3 * count:
        raise ValueError(f"{len(posts)} posts are too few for {count} folds of training, validation and test")
    split_at_random(posts, {str(number): 1 / count for number in range(count)}, data.labels or [], data.split_seed)
    return [[post["row"] for post in posts if post["split"] == str(number)] for number in range(count)]


def _of_fold(everyone: datasets.Dataset, tasks: list[dict], test: list[int], seed: int, start) -> datasets.DatasetDict:
    names, held = [task["name"] for task in tasks], set(test)
    rest = [_outline(post, row, names) for row, post in enumerate(everyone) if row not in held]
    split_at_random(rest, {"train": 1 - VALIDATION_SHARE, "validation": VALIDATION_SHARE}, names, seed)
    rows = {name: [post["row"] for post in rest if post["split"] == name] for name in ("train", "validation")}
    parts = {name: everyone.select(sorted(found)) for name, found in (rows | {"test": test}).items()}
    if start is not None:
        parts = without_learned(start, datasets.DatasetDict(parts))
        if "test" not in parts:
            raise ValueError(f"no test post of a fold is left that {start.source} has not learned from")
    if problems := untrainable(tasks, parts["train"].to_list()):
        raise DataProblems(problems)
    return datasets.DatasetDict(parts)


def _outline(post: dict, row: int, labels: list[str]) -> dict:
    """What of a post decides where it goes."""
    known = {name: post.get(name) for name in ("id", "image", "more_images", "text")}
    return known | {label_column(name): post.get(label_column(name)) for name in labels} | {"row": row}


def _bare(prepared: Prepared) -> list[dict]:
    """The tasks without class weights, which are a fold's own."""
    return [{name: value for name, value in task.items() if name != "class_weights"} for task in prepared.tasks]


def _remove(folder: Path) -> None:
    """Remove the runs of a cross-validation; what somebody keeps beside them stays."""
    for place in folder.glob("fold-*"):
        if FOLD.fullmatch(place.name) and place.is_dir() and not place.is_symlink():
            remove_run(place)
            with suppress(OSError):  # something stays in it
                place.rmdir()
    (folder / FOLDS_FILE).unlink(missing_ok=True)


def _check_output(folder: Path, resume: bool, overwrite: bool) -> None:
    if not folder.exists() or all(path.name == LOCK_FILE for path in folder.iterdir()):
        return
    if not (folder / FOLDS_FILE).exists():
        raise FileExistsError(f"{folder} exists and is no cross-validation; choose another output")
    if overwrite:
        return
    if _read_folds(folder)["summary"]:
        raise FileExistsError(f"{folder} holds a finished cross-validation; choose another output, or say --overwrite")
    if not resume:
        raise FileExistsError(f"{folder} holds an interrupted cross-validation; say --resume to go on, or --overwrite")
