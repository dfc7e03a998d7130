# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What of transformers' `TrainingArguments` is a user's to say, and its options: read when a run starts."""

import json
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, ArgumentError
from dataclasses import MISSING, field, fields, make_dataclass
from difflib import get_close_matches
from typing import get_args, get_origin, get_type_hints

from transformers import HfArgumentParser
from transformers.integrations import get_available_reporting_integrations

from .settings import TrainingSettings
from .trainer import MMOrientTrainingArguments

# the Trainer's names of settings of ours
OURS = {
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
}
EPOCHS = "every epoch ends with a validation and a checkpoint, of which the best is kept"
FOLDER = "a finished run is in the folder of --output, and is pushed from there"
VERBS = "the verbs train, evaluate and predict say what is done"
METRICS = "the metrics need all that the model says of whole posts"
LENGTHS = "posts have no length to be grouped by: they come in random order"
DECIDED = {
    "output_dir": "the run's folder is --output",
    "resume_from_checkpoint": "--resume goes on with the run in --output",
    "per_device_eval_batch_size": "posts that share a batch are related to each other: validation has --batch-size too",
    "label_smoothing_factor": "it is of a single task; --set label_smoothing=0.1 is of all",
    "parallelism_config": "it cannot be said in an option; accelerate launch says it",
    "local_rank": "accelerate launch says it",
    "remove_unused_columns": "the model reads columns that its signature does not name",
    "label_names": "labels are named by --labels",
    "ignore_data_skip": "a run that goes on becomes the one that was never stopped",
    "restore_callback_states_from_checkpoint": "patience is counted on where it was",
    "save_only_model": "--resume needs all of a checkpoint",
    "load_best_model_at_end": EPOCHS,
    "eval_delay": EPOCHS,
    **dict.fromkeys(("group_by_length", "length_column_name", "train_sampling_strategy"), LENGTHS),
    **dict.fromkeys(("eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit"), EPOCHS),
    **dict.fromkeys(("prediction_loss_only", "batch_eval_metrics", "include_for_metrics"), METRICS),
    **dict.fromkeys(("eval_do_concat_batches", "eval_use_gather_object"), METRICS),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), VERBS),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"), FOLDER),
    **dict.fromkeys(("hub_always_push", "hub_revision"), FOLDER),
}
SAME = {entry.name for entry in fields(TrainingSettings)}


def trainer_settings(arguments: list[str], of_file: dict[str, list[str]] | None = None, file: str = "") -> dict:
    """Options of the Trainer as fields of `TrainingSettings`: ours by the Trainer's name, and the rest as `trainer`.

    Args:
        arguments: of a command line, all that the verb's own options left.
        of_file: name -> values, of options that `file` says; those of `arguments` count more.

    Raises:
        ValueError: an option is unknown, the message has the nearest; is decided by us, with the reason; or is wrong.
    """
    parser, names = _parser(), {entry.name for entry in fields(MMOrientTrainingArguments)}
    options = {option for action in parser._actions for option in action.option_strings}
    said = {f"--{name}": f"{file}: " for name in of_file or {}}
    for argument in [*said, *arguments]:
        option = argument.partition("=")[0]
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("-") or option in options or _is_number(option):
            continue
        if reason := DECIDED.get(name):
            raise ValueError(f"{said.get(option, '')}{option} is not yours to say: {reason}")
        nearest = get_close_matches(option, [*options, *(f"--{n.replace('_', '-')}" for n in SAME | names)], 1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help and --help-trainer list them"
        raise ValueError(f"{said.get(option, '')}there is no option {option}; {hint}")
    given = [part for name, values in (of_file or {}).items() for part in (f"--{name}", *values)] + arguments
    parser.set_defaults(**dict.fromkeys(names))
    try:
        found, left = parser.parse_known_args(given)
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    if left:
        raise ValueError(f"{left[0]!r} belongs to no option")
    values = {name: _value(value) for name, value in vars(found).items() if value is not None}
    ours = {OURS[name]: _whole(name, values.pop(name)) for name in OURS if name in values}
    if missing := [
        n for n in values.get("report_to", ()) if n not in {*get_available_reporting_integrations(), "none"}
    ]:
        raise ValueError(f"--report-to {missing[0]}: there is no such reporter here; is its package installed?")
    return ours | ({"trainer": values} if values else {})


def check_one_metric(ours: dict, theirs: dict) -> None:
    """Raise ValueError where fields of `TrainingSettings` say by two names what an epoch is kept by, and not the same.

    Args:
        ours: those that were said by our names. theirs: those by the Trainer's, as `trainer_fields` gives them.
    """
    kept, metric = ours.get("keep_epoch_by"), theirs.get("trainer", {}).get("metric_for_best_model")
    if None not in (kept, metric) and kept != metric.removeprefix("eval_"):
        raise ValueError("`keep_epoch_by` and `metric_for_best_model` are one: give one of them")


def trainer_fields(values: dict) -> dict:
    """Fields of `TrainingArguments` as fields of `TrainingSettings`: ours by the Trainer's name, and the rest as `trainer`.

    Raises:
        ValueError: one is unknown, or decided by us.
    """
    names = {entry.name for entry in fields(MMOrientTrainingArguments)}
    for name in values:
        if reason := DECIDED.get(name):
            raise ValueError(f"`{name}` is not yours to say: {reason}")
        if name not in names:
            nearest = get_close_matches(name, names | SAME, 1)
            raise ValueError(f"there is no setting `{name}`" + (f"; did you mean `{nearest[0]}`?" if nearest else ""))
    ours = {OURS[name]: _whole(name, value) for name, value in values.items() if name in OURS}
    theirs = {name: value for name, value in values.items() if name not in OURS}
    return ours | ({"trainer": theirs} if theirs else {})


def help_text() -> str:
    """What the Trainer's options are."""
    return _parser().format_help()


def _parser() -> HfArgumentParser:
    """Options of all fields but those that are decided, or have an option of ours under the same name."""
    hints = get_type_hints(MMOrientTrainingArguments)
    entries = []
    for entry in fields(MMOrientTrainingArguments):
        if entry.init and entry.name not in DECIDED and entry.name not in SAME:
            default = (
                {"default_factory": entry.default_factory} if entry.default is MISSING else {"default": entry.default}
            )
            entries.append((entry.name, _as_option(hints[entry.name]), field(metadata=dict(entry.metadata), **default)))
    kind = make_dataclass("TrainerOptions", entries)
    form = {"usage": SUPPRESS, "add_help": False, "allow_abbrev": False, "exit_on_error": False}
    return HfArgumentParser(kind, formatter_class=ArgumentDefaultsHelpFormatter, **form)


def _as_option(hint):
    """The type that `HfArgumentParser` is to see: a list where there may be several, text for what JSON says."""
    origins = {get_origin(part) or part for part in (hint, *get_args(hint))}
    if list in origins:
        return list[str]
    return str | None if dict in origins else hint


def _value(value):
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise ValueError(f"--{name.replace('_', '-')} must be a whole number, got {value}")
    return int(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
