# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From posts to a model: train, demo."""

from dataclasses import fields
from pathlib import Path

from ..data.description import DataDescription
from ..names import ENCODER_NAMES
from ..runs.preset_files import is_from_scratch, says_architecture, with_architecture, with_tiny_encoders
from ..runs.settings import TrainingSettings
from .options import (
    add_data,
    add_feature_cache,
    add_fields,
    add_model,
    add_trainer,
    add_verb,
    data_changes,
    described,
    feature_cache_of,
    given,
    json_or_text,
    preset_of,
    with_trainer_options,
)

SETTINGS = tuple(entry.name for entry in fields(TrainingSettings) if entry.name != "trainer")


def add_verbs(verbs) -> None:
    """train, demo."""
    verb = add_verb(
        verbs,
        "train",
        _train,
        "fine-tune on your own posts: check, encode, train, evaluate, save",
        "mm-orient train --data FOLDER --labels offensive --text-encoder ID --vision-encoder ID --output RUN",
        interrupted=_how_to_go_on,
    )
    add_data(verb)
    verb.add_argument("--output", required=True, metavar="RUN", help="folder for the trained model")
    add_model(verb)
    group = verb.add_argument_group("training")
    add_fields(group, TrainingSettings, SETTINGS)
    add_fields(group, DataDescription, ("paraphrases", "numeric_columns"))
    group.add_argument(
        "--train-encoders", nargs="+", choices=ENCODER_NAMES, help="encoders to fine-tune (default: none)"
    )
    group.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=JSON",
        help="any field of MMOrientConfig, say hima_stage2=false; of tasks, how they are learned",
    )
    add_feature_cache(group)
    group = verb.add_argument_group("going on, and several runs")
    group.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    group.add_argument("--overwrite", action="store_true", help="replace an existing run")
    group.add_argument(
        "--init-from",
        metavar="RUN",
        help="go on from a run, or ID[@REVISION] of the Hub: its encoders, processor, architecture and heads",
    )
    group.add_argument("--freeze-body", action="store_true", help="with --init-from train the heads of new tasks alone")
    group.add_argument(
        "--folds", type=int, metavar="K", help="cross-validate: K runs, mean and deviation per task in folds.json"
    )
    group.add_argument(
        "--search",
        type=int,
        default=0,
        metavar="N",
        help="search learning rate, weight decay, dropout and epochs in N trials, judged on validation; train by the best",
    )
    add_trainer(verb)

    verb = add_verb(verbs, "demo", _demo, "train and predict on memes drawn by us; no download", "mm-orient demo")
    verb.add_argument("--output", default="demo_run", help="default: %(default)s")
    verb.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _how_to_go_on(options) -> str:
    from ..runs.run_folder import REPORT_FILE

    output = Path(options.output)
    if (output / "config.json").exists() and not (output / REPORT_FILE).exists():
        return f"it is trained; mm-orient report {output} --data {options.data} makes its report"
    return "the same command with --resume goes on"


def _train(options) -> None:
    preset = preset_of(options)
    _check_together(options, preset)
    start = None
    if options.init_from:
        start, data, preset = _started(options, preset)
    else:
        data = described(options, preset)
    if start is None and (preset["encoders"] or data.feature_arrays):
        preset = with_architecture(preset)
    if start is None and is_from_scratch(preset) and not data.feature_arrays:
        print("no encoder named: training the tiny ones from scratch; --preset modern takes pretrained encoders")
        preset = with_tiny_encoders(preset)
    if not data.labels:
        raise ValueError("name the label columns with --labels or --regression")
    said = given(options, TrainingSettings)
    settings = TrainingSettings(**preset["training"] | said)
    settings = with_trainer_options(settings, said, options)

    from ..data.json_files import read_json
    from ..features.extraction import process_state
    from ..runs.card import metrics_table
    from ..runs.report.writing import RunRecord, summary_of
    from ..runs.run_folder import REPORT_FILE
    from ..runs.scoring import judged_split
    from ..runs.training import train

    config = _config_fields(options.set)
    if options.train_encoders:
        config["frozen_encoders"] = [name for name in ENCODER_NAMES if name not in options.train_encoders]
    arguments = {
        "preset": preset,
        "settings": settings,
        "config": config,
        "feature_cache": feature_cache_of(options),
        "skip_bad_posts": options.skip_bad_posts,
        "resume": options.resume,
        "overwrite": options.overwrite,
        "start": start,
    }
    if options.folds is not None:
        from ..runs.folds import cross_validate, folds_table

        found = cross_validate(data, options.output, options.folds, **arguments)
        if process_state().is_main_process:
            print(f"\n{folds_table(found)}\n\nsaved to {options.output}")
        return
    metrics = train(data, options.output, **arguments, search=options.search)
    if process_state().is_main_process:
        for split, values in metrics.items():
            print(f"\n{split}\n\n{metrics_table(values)}")
        split = judged_split(metrics)
        tasks = read_json(f"{options.output}/config.json")["tasks"]
        print(f"\n{summary_of(tasks, metrics[split], split, RunRecord.read(options.output))}")
        print(f"\nsaved to {options.output}; to look at: {options.output}/{REPORT_FILE}")


def _check_together(options, preset: dict) -> None:
    """Refuse options that contradict each other."""
    if options.folds is not None and options.search:
        raise ValueError("--folds and --search: search first, then cross-validate with the settings that were found")
    if options.search < 0:
        raise ValueError(f"--search must not be negative, got {options.search}")
    if not options.init_from:
        if options.freeze_body:
            raise ValueError("--freeze-body is of a checkpoint that is gone on from: name it with --init-from")
        return
    said = [f"--{name}-encoder" for name in ENCODER_NAMES if vars(options)[f"{name}_encoder"]]
    said += ["--revision"] if options.revision else []
    said += ["--task-features"] if options.task_features else []
    other = says_architecture(preset) or any(preset[part] for part in ("encoders", "processor", "task_features"))
    said += ["--preset"] if other else []
    if said:
        raise ValueError(
            f"{said[0]}: with --init-from encoders, processor and architecture are those of the checkpoint"
        )
    if options.freeze_body and options.train_encoders:
        raise ValueError("--freeze-body trains new heads alone, and --train-encoders names encoders to train")


def _started(options, preset: dict) -> tuple:
    """The checkpoint to go on from, the data by its description and the options, and the preset with its training."""
    from ..runs.continuation import check_conflicts, open_start
    from ..runs.run_folder import describe_data

    start = open_start(options.init_from, options.freeze_body)
    changes = preset["data"] | data_changes(options)
    check_conflicts(start, _config_fields(options.set), changes)
    changes = {"paraphrases": None} | _tasks_said(start, changes)
    data = describe_data(start.run, options.data, **changes).with_numbers_as_tasks()
    data.labels = data.labels or [task["name"] for task in start.config.tasks]
    training = start.run.get("training", {}) | preset["training"]
    if options.keep_epoch_by is not None:  # what the run before was told of it is out of date
        of_metric = ("metric_for_best_model", "greater_is_better")
        training["trainer"] = {n: value for n, value in training.get("trainer", {}).items() if n not in of_metric}
    return start, data, preset | {"training": training}


def _tasks_said(start, changes: dict) -> dict:
    """The changes, with the run's regressions among them: those that are named, or where no label is, all; numbers stay
    numbers."""
    before = start.run.get("data", {}).get("regression_columns") or []
    if changes.get("labels") is not None:
        named = {label.partition("=")[0] for label in changes["labels"]}
        before = [name for name in before if name in named]
    said = [name for name in changes.get("regression_columns") or [] if name not in before]
    return changes | {"regression_columns": [*before, *said] or None}


def _config_fields(assignments: list[str]) -> dict:
    from ..configuration_mm_orient import MMOrientConfig

    result = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if name not in MMOrientConfig.__annotations__:
            raise ValueError(f"--set {assignment}: {name!r} is no field of MMOrientConfig")
        if name in result:
            raise ValueError(f"--set {assignment}: {name!r} stands there twice")
        result[name] = json_or_text(value)
    return result


def _demo(options) -> None:
    from ..runs.demo import demo

    demo(options.output, options.seed)
