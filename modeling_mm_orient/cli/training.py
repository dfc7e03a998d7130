# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From posts to a model: train, export, demo."""

from dataclasses import fields

from ..data.description import DataDescription
from ..names import ENCODER_NAMES
from ..runs.preset_files import is_from_scratch, with_architecture, with_tiny_encoders
from ..runs.settings import TrainingSettings
from .options import (
    add_data,
    add_feature_cache,
    add_fields,
    add_model,
    add_trainer,
    add_verb,
    described,
    feature_cache_of,
    given,
    json_or_text,
    preset_of,
    with_trainer_options,
)

SETTINGS = tuple(entry.name for entry in fields(TrainingSettings) if entry.name != "trainer")


def add_verbs(verbs) -> None:
    """train, export, demo."""
    verb = add_verb(
        verbs,
        "train",
        _train,
        "fine-tune on your own posts: check, encode, train, evaluate, save",
        "mm-orient train --data FOLDER --labels offensive --text-encoder ID --vision-encoder ID --output RUN",
        interrupted="the same command with --resume goes on",
    )
    add_data(verb)
    verb.add_argument("--output", required=True, metavar="RUN", help="folder for the trained model")
    add_model(verb)
    add_fields(verb, TrainingSettings, SETTINGS)
    add_fields(verb, DataDescription, ("paraphrases", "numeric_columns"))
    verb.add_argument(
        "--train-encoders", nargs="+", choices=ENCODER_NAMES, help="encoders to fine-tune (default: none)"
    )
    verb.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=JSON", help="any field of MMOrientConfig, say hima_stage2=false"
    )
    add_feature_cache(verb)
    verb.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    verb.add_argument("--overwrite", action="store_true", help="replace an existing run")
    add_trainer(verb)

    verb = add_verb(
        verbs,
        "export",
        _export,
        "a folder for the Hub: weights, processor, code and model card",
        "mm-orient export RUN --output HUB_FOLDER --name YOU/MODEL",
    )
    verb.add_argument("model", metavar="RUN")
    verb.add_argument("--output", required=True, metavar="HUB_FOLDER")
    verb.add_argument("--name", default="mm-orient", help="repository id for the model card (default: %(default)s)")

    verb = add_verb(verbs, "demo", _demo, "train and predict on memes drawn by us; no download", "mm-orient demo")
    verb.add_argument("--output", default="demo_run", help="default: %(default)s")
    verb.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _train(options) -> None:
    preset = preset_of(options)
    data = described(options, preset)
    if preset["encoders"] or data.feature_arrays:
        preset = with_architecture(preset)
    if is_from_scratch(preset) and not data.feature_arrays:
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
    from ..runs.training import train

    config = _config_fields(options.set)
    if options.train_encoders:
        config["frozen_encoders"] = [name for name in ENCODER_NAMES if name not in options.train_encoders]
    metrics = train(
        data,
        options.output,
        preset=preset,
        settings=settings,
        config=config,
        feature_cache=feature_cache_of(options),
        skip_bad_posts=options.skip_bad_posts,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    if process_state().is_main_process:
        for split, values in metrics.items():
            print(f"\n{split}\n\n{metrics_table(values)}")
        split = "test" if "test" in metrics else "validation"
        tasks = read_json(f"{options.output}/config.json")["tasks"]
        print(f"\n{summary_of(tasks, metrics[split], split, RunRecord.read(options.output))}")
        print(f"\nsaved to {options.output}; to look at: {options.output}/{REPORT_FILE}")


def _config_fields(assignments: list[str]) -> dict:
    from ..configuration_mm_orient import MMOrientConfig

    result = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if name not in MMOrientConfig.__annotations__:
            raise ValueError(f"--set {assignment}: {name!r} is no field of MMOrientConfig")
        result[name] = json_or_text(value)
    return result


def _export(options) -> None:
    from ..data.json_files import read_json
    from ..runs.card import model_card
    from ..runs.hub import save_for_hub
    from ..runs.run_folder import METRICS_FILE, load_run, read_run

    model, processor = load_run(options.model)
    run, card = read_run(options.model), None
    if run:
        card = model_card(model.config, read_json(f"{options.model}/{METRICS_FILE}"), run, options.name)
    save_for_hub(model, processor, options.output, card)
    print(f"exported to {options.output}")


def _demo(options) -> None:
    from ..runs.demo import demo

    demo(options.output, options.seed)
