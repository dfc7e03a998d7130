# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Going on from a checkpoint: its encoders, processor, architecture and the heads of tasks that stay."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets

from ..configuration_mm_orient import MMOrientConfig
from ..data.description import DataDescription
from ..data.splits import assign_known_splits
from ..memory_file import LARGE_MEMORY, MEMORY_FILE, read_memory
from ..modeling_mm_orient import MMOrientForMultiTaskClassification
from ..pictures import key_number, post_key
from ..processing_mm_orient import MMOrientProcessor
from ..tasks import FITTED
from .decisions import aims_of
from .run_folder import folder_or_download, read_run, read_splits
from .scoring import BEST, epoch_metrics, kept_by
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

OF_PROCESSOR = ("text_cleaning", "remove_overlaid_text", "read_missing_text")
# to be otherwise: they change no weight
FREE = ("frozen_encoders", "learner_dropout", "unfamiliar_pictures", "task_loss_weighting", "label_smoothing")
DESCRIBED = ("name", "kind", "labels")


@dataclass
class Start:
    """A checkpoint to go on from: `source` as it was named, its folder, `run.json` (empty for one from elsewhere),
    configuration and processor; `learned`, the keys of posts that it has learned from -> "train", as far as is known."""

    source: str
    folder: str
    run: dict
    config: MMOrientConfig
    processor: MMOrientProcessor
    freeze_body: bool = False
    learned: dict[str, str] = field(default_factory=dict)

    @property
    def roles(self) -> set[str]:
        """The encoders that it has."""
        return set(self.config.encoder_names)


def open_start(source: str, freeze_body: bool = False) -> Start:
    """A run's folder or `ID[@REVISION]` of the Hub, without its weights.

    Args:
        freeze_body: train the heads of new tasks alone.

    Raises:
        FileNotFoundError: there is none. OSError: the Hub has none, or cannot be reached.
    """
    name, _, revision = (source, "", "") if Path(source).is_dir() else source.partition("@")
    folder = folder_or_download(name, revision or None)
    run = read_run(folder)
    config, processor = MMOrientConfig.from_pretrained(folder), MMOrientProcessor.from_pretrained(folder)
    learned = {key: split for key, split in read_splits(folder).items() if split == "train"}
    return Start(source, folder, run, config, processor, freeze_body, learned)


def check_conflicts(start: Start, config: dict, said: dict) -> None:
    """Refuse what is said otherwise than the checkpoint has it.

    Args:
        config: fields of `MMOrientConfig`, those of `FREE` aside. said: fields of `DataDescription` that were named.

    Raises:
        ValueError: a field differs; the message has both values.
    """
    numbers = [column["name"] for column in start.processor.numeric_columns]
    of_checkpoint = {name: getattr(start.processor, name) for name in OF_PROCESSOR} | {"numeric_columns": numbers}
    wanted = {name: value for name, value in said.items() if name in of_checkpoint}
    config = {name: value for name, value in config.items() if name != "tasks"}  # how they are learned is free
    found = {name: getattr(start.config, name) for name in config if name not in FREE} | of_checkpoint
    for name, value in (config | wanted).items():
        if name not in FREE and value != found[name]:
            raise ValueError(f"`{name}` is {found[name]!r} in {start.source}, which is gone on from, and not {value!r}")


def described_by(start: Start, description: DataDescription) -> DataDescription:
    """The description with what the checkpoint's processor does, and its tasks for the columns that still fit them."""
    tasks = [{name: task[name] for name in DESCRIBED} | {"if_it_fits": True} for task in start.config.tasks]
    numbers = [column["name"] for column in start.processor.numeric_columns]
    treated = {name: getattr(start.processor, name) for name in OF_PROCESSOR}
    return replace(description, tasks=description.tasks or tasks, numeric_columns=numbers, **treated)


def without_gone(start: Start, settings: TrainingSettings, tasks: list[dict]) -> TrainingSettings:
    """The settings without what the checkpoint's own run was told for tasks that are gone or other now: rules of decisions,
    and the metric by which an epoch is kept, in place of which the loss comes; what is left out is logged."""
    before = start.run.get("training", {})
    if settings.decide and settings.decide == before.get("decide"):
        kept = [rule for rule in settings.decide if _is_for(rule, tasks)]
        for rule in (rule for rule in settings.decide if rule not in kept):
            logger.warning("%s was told --decide %s, which is for no task of now: left out", start.source, rule)
        settings = replace(settings, decide=kept or None)
    metric, _ = kept_by(settings.trainer, settings.keep_epoch_by)
    told, _ = kept_by(before.get("trainer", {}), before.get("keep_epoch_by", BEST))
    if metric == told and metric not in (*epoch_metrics(tasks), "loss"):
        logger.warning("%s kept its epoch by %s, which is of no task of now: the loss counts", start.source, metric)
        of_metric = ("metric_for_best_model", "greater_is_better")
        trainer = {name: value for name, value in settings.trainer.items() if name not in of_metric}
        settings = replace(settings, keep_epoch_by="loss", trainer=trainer)
    return settings


def _is_for(rule: str, tasks: list[dict]) -> bool:
    try:
        aims_of([rule], tasks)
    except ValueError:
        return False
    return True


def without_learned(start: Start, posts: datasets.DatasetDict) -> datasets.DatasetDict:
    """Validation and test without posts that the checkpoint has learned from, which are `start.learned` afterwards; how many
    those are is logged. Of one without `splits.json`, as on the Hub, they are those of its relation memory.

    Raises:
        ValueError: nothing is left of validation.
    """
    remembered, is_all = (set(), True) if start.learned else _keys_in_memory(start.folder)
    if not is_all:
        logger.warning(
            "what %s has learned from is not known: posts of validation and test may be among it", start.source
        )
    kept = {}
    for split, rows in posts.items():
        keys = [post_key(post) for post in rows] if remembered else []
        start.learned.update({key: "train" for key in keys if key_number(key) in remembered})
        known = [] if split == "train" else assign_known_splits(rows, start.learned).get("train", [])
        if known:
            logger.warning("%d posts of %s left out: %s has learned from them", len(known), split, start.source)
            rows = rows.select(sorted(set(range(len(rows))) - set(known)))
        if len(rows):
            kept[split] = rows
        elif split == "validation":
            raise ValueError(f"no validation post is left that {start.source} has not learned from")
    return datasets.DatasetDict(kept)


def _keys_in_memory(folder: str) -> tuple[set[int], bool]:
    """The `key_number`s of the posts in a checkpoint's relation memory, and whether all that it learned from is there."""
    for place in (Path(folder), Path(folder) / LARGE_MEMORY):
        if (place / MEMORY_FILE).is_file():
            found = read_memory(place)[0]
            return set(found["keys"].tolist()) - {0}, found["of_training"]
    return set(), False


def model_of(start: Start, tasks: list[dict], config: dict) -> MMOrientForMultiTaskClassification:
    """The checkpoint's model with these tasks; which weights are kept and which begin anew is logged.

    Args:
        config: of its fields those of `FREE` count, which change no weight.

    Raises:
        ValueError: the new heads alone are to be trained, and there are none.
    """
    free = {name: config[name] for name in FREE if name in config}
    model = MMOrientForMultiTaskClassification.from_pretrained(start.folder, load_relation_memory=False, **free)
    stays = model.set_tasks(tasks)
    new = [task["name"] for task in tasks if task["name"] not in stays]
    # what was fitted to the posts of before is fitted to those of now
    fresh = [{name: value for name, value in task.items() if name not in FITTED} for task in model.config.tasks]
    model.config.update({"tasks": fresh, "relation_memory": None, "picture_familiarity": None})
    logger.info(
        "from %s: encoders, network and the heads of %s; beginning anew: the heads of %s",
        *(start.source, ", ".join(stays) or "no task", ", ".join(new) or "no task"),
    )
    if start.freeze_body:
        if not new:
            raise ValueError(f"nothing to train: {start.source} has all of these tasks, and its body is frozen")
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.config.update({"frozen_encoders": model.config.encoder_names})
        for heads in model.member_heads:
            for task, head in zip(heads.tasks, heads.heads, strict=True):
                head.requires_grad_(task["name"] in new)
    return model
