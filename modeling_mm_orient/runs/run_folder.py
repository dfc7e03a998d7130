# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: what lies in it, and a finished one read back."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..data.description import DataDescription
from ..data.fields import checked
from ..data.json_files import read_json
from ..data.problems import shown
from ..data.sources import has_tables
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
METRICS_PLOT = "metrics.png"
# label.TASK -> logits of validation posts that were learned from, by who has not seen them
HELD_OUT_FILE = "held_out.npz"
HISTORY_FILE = "history.json"  # the Trainer's log
BASELINES_FILE = "baselines.json"  # see `single_baselines`
REPORT_FILE = "report.html"
NOISE_FILE = "noise.json"  # of `mm-orient benchmark --noise`
CARD_FILE = "README.md"
SPLITS_FILE = "splits.json"  # post key -> the split that a post was in
OF_A_MODEL = (
    "config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
LISTS_OF_METRICS = ("precision", "recall", "support", "reliability", "coverage")
CHECKPOINTS = "checkpoints"
EVENTS = "logs"  # of TensorBoard, where it is reported to


def read_run(folder: str) -> dict:
    """`run.json` of a finished run, empty for a checkpoint from elsewhere. Raises FileNotFoundError where there is none."""
    for name in ("config.json", "processor_config.json"):
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} is no finished run: it has no {name}")
    run_file = Path(folder) / RUN_FILE
    run = read_json(run_file) if run_file.is_file() else {}
    if run:
        checked(TrainingSettings, run.get("training", {}), f"{run_file}: `training`")
        if run.get("training", {}).get("batch_size", 1) < 1:
            raise ValueError(
                f"{run_file}: `training.batch_size` must be at least 1, got {run['training']['batch_size']}"
            )
        checked(DataDescription, run.get("data", {}), f"{run_file}: `data`")
        _check_facts(run, run_file)
    return run


def _check_facts(run: dict, file: Path) -> None:
    """Raise ValueError where what a run says of its posts has another form."""
    for name, expected, is_sound in (
        ("labels", "counts by task, split and label", lambda value: _are_counts(value, 3)),
        ("splits", "counts by split", lambda value: _are_counts(value, 1)),
        (
            "left_out",
            "a list of objects",
            lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value),
        ),
        ("feature_cache", "a folder or null", lambda value: value is None or isinstance(value, str)),
        ("own_splits", "true or false", lambda value: isinstance(value, bool)),
    ):
        if name in run and not is_sound(run[name]):
            raise ValueError(f"{file}: `{name}` must be {expected}, got {shown(run[name])}")


def _are_counts(value, depth: int) -> bool:
    """Whether a value is a whole number under so many names."""
    if depth == 0:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, dict) and all(_are_counts(inside, depth - 1) for inside in value.values())


def read_splits(folder: str) -> dict[str, str]:
    """Post key -> the split that the run had it in; empty where the run does not say."""
    path = Path(folder) / SPLITS_FILE
    splits = read_json(path) if path.is_file() else {}
    if wrong := [key for key, split in splits.items() if not isinstance(split, str)]:
        raise ValueError(f"{path}: {wrong[0][:80]!r} is in no split but {shown(splits[wrong[0]])}")
    return splits


def read_metrics(folder) -> dict[str, dict]:
    """`metrics.json`: split -> task -> metrics, and `mean_macro_f1`. Raises ValueError for another form."""
    path = Path(folder) / METRICS_FILE
    metrics = read_json(path)
    for split, found in metrics.items():
        if not isinstance(found, dict):
            raise ValueError(f"{path}: {split!r} must have metrics by task, found {shown(found)}")
        for task, values in found.items():
            if not isinstance(values, dict) and task != "mean_macro_f1":
                raise ValueError(f"{path}: {task!r} of {split!r} must have metrics by name, found {shown(values)}")
            for name, value in (values if isinstance(values, dict) else {"mean_macro_f1": values}).items():
                if not _is_metric(value, is_list=name.removesuffix("_before") in LISTS_OF_METRICS):
                    raise ValueError(
                        f"{path}: {name!r} of {task!r} in {split!r} must be a number, found {shown(value)}"
                    )
    return metrics


def _is_metric(value, is_list: bool) -> bool:
    if is_list:
        return isinstance(value, list) and all(_is_metric(inside, isinstance(inside, list)) for inside in value)
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def read_own_splits(folder: str) -> dict[str, str]:
    """`read_splits` of a run whose splits are others than its data say, a fold's among them; of others empty."""
    return read_splits(folder) if read_run(folder).get("own_splits") else {}


def folder_or_download(source: str, revision: str | None = None) -> str:
    """A folder, or where that of a repository of the Hub was downloaded to.

    Raises:
        FileNotFoundError: it is neither. OSError: the Hub has none, or cannot be reached.
    """
    if Path(source).is_dir():
        return source
    if Path(source).is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise FileNotFoundError(f"{source}: no such folder, and no id of the Hub")
    from huggingface_hub import snapshot_download

    return snapshot_download(source, revision=revision)


def load_run(folder: str, *, load_relation_memory: bool = True):
    """Model and processor of a finished run; on a machine without an accelerator with `for_cpu`'s layers.

    Raises:
        FileNotFoundError: there is none. ValueError: a file of it has not the form that it should have.
    """
    import torch

    from ..modeling_mm_orient import MMOrientForMultiTaskClassification
    from ..processing_mm_orient import MMOrientProcessor

    read_run(folder)
    for name in OF_A_MODEL:
        if (path := Path(folder) / name).is_file():
            read_json(path)  # what is no JSON at all is told with its path
    with _naming(f"{folder}: the model"):
        model = MMOrientForMultiTaskClassification.from_pretrained(folder, load_relation_memory=load_relation_memory)
    if not torch.accelerator.is_available():
        model.for_cpu()
    with _naming(f"{folder}: the processor"):
        processor = MMOrientProcessor.from_pretrained(folder)
    if "words" in model.config.experts and model.config.encoder_names and not processor.ngrams:
        logger.warning("%s: the expert `words` is not heard, since the processor gives no n-grams (`ngrams`)", folder)
    return model, processor


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """What libraries raise over files of another form, as a ValueError that says what was loaded."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{what} cannot be loaded from its files ({said})") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(f"{what} cannot be loaded: its weights have other shapes than its config.json says") from error


def describe_data(run: dict, data: str, **changes) -> DataDescription:
    """The run's own description of its data, for the folder `data`, with the entries of `changes`.

    A labels file or a published data set's tables that the run had and the folder has not are forgotten, and so is that the
    run left the data's splits aside: it has its own, see `read_own_splits`.

    Raises:
        ValueError: the run was trained on feature arrays, and those of other data are not given.
    """
    # a file allows nothing, and other data may be texts or pictures alone
    before = DataDescription(**run.get("data", {"data": data}) | {"allow_outside": [], "required_columns": []})
    description = replace(before, data=data, split_column=before.split_column or None)
    if description.feature_arrays and data != before.data and "feature_arrays" not in changes:
        raise ValueError(f"this run reads feature arrays: name those of {data} with --feature-arrays")
    if description.labels_file and not (Path(data) / description.labels_file).is_file():
        description.labels_file = None
    if description.reader and not has_tables(description):
        description.reader = None
    return replace(description, **changes)
