# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Options of the command line: made from dataclass fields, and those that several verbs share.

Nothing here or in the other modules of this folder imports PyTorch before a verb runs.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from ..data.description import NO_SPLITS, DataDescription
from ..data.fields import checked
from ..data.json_files import once
from ..names import CLASSIFIER_OUTPUTS, ENCODER_NAMES
from ..runs.preset_files import load_preset, preset_names, with_architecture, with_encoders
from ..runs.settings import TrainingSettings
from ..text_cleaning import PAPER_STEPS, STEPS

COLUMNS = ("text_column", "image_column")
NOT_OF_PRESETS = {"data", "allow_outside", "feature_arrays", "paraphrases"}  # places are said by who calls
OF_DATA = (
    "labels_file",
    *COLUMNS,
    "join_texts",
    "id_column",
    "split_column",
    "split_seed",
    "encoding",
    "feature_arrays",
)
NO_COLUMN = "none"  # of --image-column, --text-column and --split-column


def add_verb(
    verbs, name: str, run: Callable, text: str, example: str = "", interrupted: str | Callable = ""
) -> argparse.ArgumentParser:
    """A verb that calls `run` with the options, and the options that all have; `interrupted`, or what it makes of
    them, says how to go on."""
    form = argparse.RawDescriptionHelpFormatter
    verb = verbs.add_parser(
        name, help=text, description=text, epilog=example and f"example:\n  {example}", formatter_class=form
    )
    verb.add_argument(
        "--config", metavar="FILE", help="TOML or YAML of options by their names here; the command line counts more"
    )
    verb.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    verb.set_defaults(run=run, interrupted=interrupted)
    return verb


def add_fields(
    verb: argparse.ArgumentParser, kind: type, names: tuple[str, ...], required: tuple[str, ...] = ()
) -> None:
    """An option for each of a dataclass's fields, its type, default and help taken from there.

    An option that is not given is None, so that a preset or a run can say otherwise.
    """
    entries, hints = {entry.name: entry for entry in fields(kind)}, get_type_hints(kind)
    for name in names:
        entry, option = entries[name], f"--{name.replace('_', '-')}"
        arguments = _type_of(hints[name]) | {"help": _help(entry, name in required), "required": name in required}
        if arguments.get("action") in (None, "extend"):
            arguments["metavar"] = entry.metadata.get("metavar")
            if entry.metadata.get("choices"):
                arguments["choices"] = entry.metadata["choices"]
        verb.add_argument(option, **arguments)


def given(options: argparse.Namespace, kind: type) -> dict:
    """The options that were given, by the names of a dataclass's fields."""
    names = [entry.name for entry in fields(kind)]
    return {name: value for name in names if (value := getattr(options, name, None)) is not None}


def _type_of(hint) -> dict:
    """argparse's arguments for a type: several values where one of a union is a collection, else those of its first."""
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    for kind in kinds:
        if get_origin(kind) in (list, dict):
            of_names = {"action": "extend"} if get_origin(kind) is dict else {}
            return {"nargs": "+"} | of_names | ({"type": int} if get_args(kind) == (int,) else {})
    if kinds[0] is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None}
    return {"type": kinds[0]} if kinds[0] in (int, float) else {}


def _help(entry: Field, required: bool) -> str:
    text, default = entry.metadata["help"], entry.default
    if required or default in (None, False, MISSING, "") or "default: " in text:
        return text
    return f"{text} (default: {default:g})" if isinstance(default, float) else f"{text} (default: {default})"


def add_run(verb: argparse.ArgumentParser) -> None:
    """RUN, and how many posts share a pass."""
    verb.add_argument("model", metavar="RUN")
    verb.add_argument("--batch-size", type=int, help="posts that share a relation graph (default: as trained)")


def add_data(verb: argparse.ArgumentParser, labels: bool = True, required: bool = True) -> None:
    """Where posts are."""
    verb = verb.add_argument_group("posts")
    verb.add_argument(
        "--data",
        required=required,
        help="folder of pictures with a CSV, TSV, JSONL or Parquet table, or of WebDataset's .tar shards; a saved "
        "DatasetDict; or a Hub data set",
    )
    add_fields(verb, DataDescription, ("labels", *OF_DATA) if labels else OF_DATA)
    if labels:
        _add_by_hand(verb, "--regression", "regression_columns", nargs="+")
    add_outside(verb)
    verb.add_argument("--skip-bad-posts", action="store_true", help="leave out posts with problems, and report them")


def add_outside(verb: argparse.ArgumentParser) -> None:
    """--allow-outside, several times."""
    _add_by_hand(verb, "--allow-outside", "allow_outside", action="append")


def _add_by_hand(verb: argparse.ArgumentParser, option: str, name: str, **form) -> None:
    """A field of `DataDescription` as an option of another form or name."""
    entry = next(entry for entry in fields(DataDescription) if entry.name == name)
    verb.add_argument(option, dest=name, metavar=entry.metadata["metavar"], help=entry.metadata["help"], **form)


def add_model(verb: argparse.ArgumentParser) -> None:
    """Which encoders, and what posts go through before them."""
    verb = verb.add_argument_group("encoders, and what texts and pictures go through before them")
    add_preset(verb, f"one or several of {', '.join(preset_names())}, or .json files")
    for name in ENCODER_NAMES:
        verb.add_argument(f"--{name}-encoder", metavar="ID", help=f"{name} encoder: Hub id, local path or none")
    verb.add_argument("--revision", metavar="REV", help="branch, tag or commit of the encoders' repositories")
    verb.add_argument(
        "--task-features",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=SOURCE",
        help="what text classifiers say of a text: Hub id or path, with @REVISION and :hidden_state or :probabilities "
        "(default); or nrc, the emotion lexicon",
    )
    verb.add_argument(
        "--clean-text",
        dest="text_cleaning",
        nargs="+",
        choices=[*STEPS, "paper"],
        metavar="STEP",
        help=f"of {', '.join(STEPS)}; paper takes all (default: none); saved with the model's processor",
    )
    add_fields(verb, DataDescription, ("remove_overlaid_text", "read_missing_text"))


class _TrainerHelp(argparse.Action):
    """Print the Trainer's options, for which transformers is imported, and leave."""

    def __call__(self, parser, *_):
        from ..runs.trainer_options import help_text

        print(help_text())
        parser.exit()


def add_trainer(verb: argparse.ArgumentParser) -> None:
    """All other options are the Trainer's, and are read when the verb runs."""
    text = (
        "any other field of transformers' TrainingArguments, say --report-to tensorboard, --metric-for-best-model "
        "offensive_macro_f1, --max-grad-norm 0.5 or --lr-scheduler-type cosine"
    )
    group = verb.add_argument_group("options of the Trainer", text)
    group.add_argument("--help-trainer", action=_TrainerHelp, nargs=0, help="list them and exit")
    verb.set_defaults(others_are_the_trainers=True)


def with_trainer_options(settings: TrainingSettings, said: dict, options: argparse.Namespace) -> TrainingSettings:
    """The settings with the Trainer's options among the arguments.

    Args:
        said: fields of `TrainingSettings` that options of ours say.

    Raises:
        ValueError: one is unknown, decided by us, wrong, or says otherwise than an option of ours.
    """
    if not options.others and not options.others_of_file:
        return settings

    from ..runs.trainer_options import OURS, check_one_metric, trainer_settings

    found = trainer_settings(options.others, options.others_of_file, options.config)
    check_one_metric(said, found)
    for name in found.keys() & said.keys():
        theirs = next(other for other, ours in OURS.items() if ours == name)
        if found[name] != said[name]:
            raise ValueError(f"--{name.replace('_', '-')} and --{theirs.replace('_', '-')} are one: give one of them")
    return replace(settings, **found | {"trainer": settings.trainer | found.get("trainer", {})})


def add_preset(verb: argparse.ArgumentParser, text: str = "data sets of the presets, or .json files") -> None:
    """--preset."""
    verb.add_argument("--preset", nargs="+", default=[], metavar="NAME", help=text)


def check_outputs(options: argparse.Namespace) -> None:
    """Raise ValueError where a file that a command writes is one of those that it reads."""
    targets = [path for name in ("json", "output", "picture") for path in _listed(getattr(options, name, None))]
    there = [path for path in targets if Path(path).is_file()]
    picture = (getattr(options, "post", None) or [None])[0]
    for path in there:
        if picture and os.path.isfile(picture) and os.path.samefile(path, picture):
            raise ValueError(f"{path} is the post's picture, and would be replaced; choose another output")
    if not there or options.interrupted:  # who goes on with an output reads it
        return
    from ..runs.own_files import check_output_file

    for path in there:
        check_output_file(path, getattr(options, "model", None), getattr(options, "data", None))


def add_json(verb: argparse.ArgumentParser, text: str) -> None:
    """--json, a file for what is printed."""
    verb.add_argument("--json", metavar="FILE", help=text)


def add_feature_cache(verb: argparse.ArgumentParser) -> None:
    """--feature-cache; a run's own file does not say where features are written."""
    verb.add_argument(
        "--feature-cache", metavar="DIR", help="of frozen encoders' features (default: mm_orient/features in HF_HOME)"
    )


def feature_cache_of(options: argparse.Namespace) -> str:
    """The folder that --feature-cache names, or the default."""
    from ..features.cache import DEFAULT_FEATURE_CACHE

    return options.feature_cache or DEFAULT_FEATURE_CACHE


def data_changes(options: argparse.Namespace) -> dict:
    """Fields of `DataDescription` that the options say."""
    changes = given(options, DataDescription)
    changes.pop("data", None)
    if "paper" in (changes.get("text_cleaning") or ()):
        changes["text_cleaning"] = list(PAPER_STEPS)
    if "feature_arrays" in changes:
        changes["feature_arrays"] = pairs(changes["feature_arrays"], "--feature-arrays", "FEATURE=FILE")
    if isinstance(columns := changes.get("text_column"), list) and len(columns) == 1:
        changes["text_column"] = [] if columns[0] == NO_COLUMN else columns[0]
    if isinstance(columns := changes.get("image_column"), list) and len(columns) == 1:
        changes["image_column"] = None if columns[0] == NO_COLUMN else columns[0]
    if changes.get("split_column") == NO_COLUMN:
        changes["split_column"] = NO_SPLITS
    said = [column for name in COLUMNS for column in _listed(changes.get(name))]
    return changes | ({"required_columns": said} if said else {})


def _listed(columns: str | list[str] | None) -> list[str]:
    return [columns] if isinstance(columns, str) else columns or []


def described(options: argparse.Namespace, preset: dict) -> DataDescription:
    """The data that the options and a preset describe."""
    checked(DataDescription, preset["data"], "the preset's part 'data'")
    if places := NOT_OF_PRESETS & set(preset["data"]):
        raise ValueError(f"the preset's part 'data' has {sorted(places)[0]!r}, a place: that is an argument's to say")
    said = replace(DataDescription(options.data), **preset["data"] | data_changes(options))
    return said.with_numbers_as_tasks()


def described_for_run(options: argparse.Namespace) -> tuple[DataDescription, int]:
    """What a run is applied to: its own description of data with the options' changes, and the batch size."""
    from ..runs.run_folder import describe_data, read_run

    run = read_run(options.model)
    batch_size = getattr(options, "batch_size", None)
    if batch_size is None:
        batch_size = run.get("training", {}).get("batch_size", 32)
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    return describe_data(run, options.data, **data_changes(options)), batch_size


def preset_of(options: argparse.Namespace) -> dict:
    """The preset, with the options' encoders and task features."""
    encoders = {"joint": options.joint_encoder, "text": options.text_encoder, "vision": options.vision_encoder}
    preset = with_encoders(load_preset(*options.preset), encoders, options.revision)
    sources = pairs(options.task_features, "--task-features", "NAME=SOURCE")
    preset["task_features"] |= {name: _task_feature_source(source) for name, source in sources.items()}
    checked(TrainingSettings, preset["training"], "the preset's part 'training'")
    return preset


def preset_with_architecture(options: argparse.Namespace) -> dict:
    """`preset_of`; where no preset says an architecture, that of `modern` and how it is trained."""
    return with_architecture(preset_of(options))


def pairs(values: list[str], option: str, form: str) -> dict[str, str]:
    """`NAME=VALUE` arguments. Raises ValueError for one of another form."""
    found = [value.partition("=") for value in values]
    if wrong := [value for value, (name, _, rest) in zip(values, found, strict=True) if not name or not rest]:
        raise ValueError(f"{option} takes {form}, got {wrong[0]!r}")
    said = {name: rest for name, _, rest in found}
    if twice := [name for name, _, rest in found if said[name] != rest]:
        raise ValueError(f"{option}: {twice[0]!r} stands there twice")
    return said


def json_or_text(value: str):
    """A value as JSON, or where it is none the text itself."""
    try:
        return json.loads(value, object_pairs_hook=once)
    except json.JSONDecodeError:
        return value


def _task_feature_source(text: str) -> dict:
    """`SOURCE[@REVISION][:OUTPUT]` as an entry of a preset's `task_features`."""
    source, _, output = text.rpartition(":")
    if output not in CLASSIFIER_OUTPUTS:
        source, output = text, CLASSIFIER_OUTPUTS[0]
    source, _, revision = source.partition("@")
    return {"source": source, "output": output, "revision": revision or None}
