# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: what lies in it, and a finished one read back."""

import logging
from dataclasses import replace
from pathlib import Path

from ..data.description import DataDescription
from ..data.fields import checked
from ..data.json_files import read_json
from ..data.picture_files import IMAGE_SUFFIXES
from ..data.problems import shown
from ..data.sources import has_tables
from ..data.tables import TABLE_SUFFIXES
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
CHECKPOINTS = "checkpoints"
EVENTS = "logs"  # of TensorBoard, where it is reported to


def check_output_file(path: str, run: str | None, data: str | None) -> None:
    """Raise ValueError where a file that is to be written is a file of the run or a table of the data that are read."""
    place = Path(path).resolve()
    if not place.is_file():
        return
    of_run = (*OF_A_MODEL, RUN_FILE, METRICS_FILE, HISTORY_FILE, BASELINES_FILE, SPLITS_FILE)
    if run and place.parent == Path(run).resolve() and place.name in of_run:
        raise ValueError(f"{path} is a file of {run}, and would be replaced; choose another output")
    if data and _lies_among(place, Path(data).resolve()):
        raise ValueError(f"{path} lies among the posts of {data}, and would be replaced; choose another output")


def _lies_among(file: Path, posts: Path) -> bool:
    """Whether a file lies in a folder of posts, or further below is a picture that a post may name."""
    if file.parent == posts:
        return True
    if not file.is_relative_to(posts) or file.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    tables = [path for path in posts.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file()]
    texts = [path for path in tables if path.suffix.lower() != ".parquet"]  # which is no text
    return not tables or len(texts) < len(tables) or any(file.name.encode() in path.read_bytes() for path in texts)


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
    return run


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
    return metrics


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
        FileNotFoundError: there is none.
    """
    import torch

    from ..modeling_mm_orient import MMOrientForMultiTaskClassification
    from ..processing_mm_orient import MMOrientProcessor

    read_run(folder)
    for name in OF_A_MODEL:
        if (path := Path(folder) / name).is_file():
            read_json(path)  # what is no JSON at all is told with its path
    model = MMOrientForMultiTaskClassification.from_pretrained(folder, load_relation_memory=load_relation_memory)
    if not torch.accelerator.is_available():
        model.for_cpu()
    processor = MMOrientProcessor.from_pretrained(folder)
    if "words" in model.config.experts and model.config.encoder_names and not processor.ngrams:
        logger.warning("%s: the expert `words` is not heard, since the processor gives no n-grams (`ngrams`)", folder)
    return model, processor


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
