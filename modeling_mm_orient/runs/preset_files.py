# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Presets: JSON files of `hub_configs/` that describe an architecture, a data set's tasks, or both; imports nothing heavy.

A preset has any of the parts `description`, `encoders` (role -> Hub id), `revisions` (role -> commit), `task_features` (name
-> the rest of an entry of `task_features.check_sources`), `config` (fields of `MMOrientConfig`), `processor` (how to make
one without pretrained encoders), `training` (fields of `TrainingSettings`) and `data` (fields of `DataDescription`).
"""

from pathlib import Path

from ..data.json_files import read_json

NO_ARCHITECTURE = {"tasks", "task_loss_weighting", "label_smoothing"}  # of `config`: how it is learned
PARTS = ("description", "encoders", "revisions", "task_features", "config", "processor", "training", "data")


def preset_folder() -> Path:
    """`hub_configs/`: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "hub_configs"
    return inside if inside.is_dir() else package.with_name("hub_configs")


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in preset_folder().glob("*.json"))


def with_encoders(preset: dict, encoders: dict[str, str | None], revision: str | None = None) -> dict:
    """The preset with those encoders that are named: role -> Hub id or path, or `"none"`; all at one revision."""
    named = {role: source for role, source in encoders.items() if source}
    chosen = {role: None if source == "none" else source for role, source in named.items()}
    revisions = dict.fromkeys(named, revision) if revision else {}
    return preset | {
        "encoders": preset["encoders"] | chosen,
        "revisions": preset["revisions"] | revisions,
    }


def with_architecture(preset: dict) -> dict:
    """The preset; where it says no architecture, with that of `modern` and how it is trained."""
    if says_architecture(preset):
        return preset
    modern = load_preset("modern")
    return preset | {part: modern[part] | preset[part] for part in ("config", "training")}


def says_architecture(preset: dict) -> bool:
    """Whether it has fields of `MMOrientConfig` other than those of learning."""
    return bool(preset["config"].keys() - NO_ARCHITECTURE)


def is_from_scratch(preset: dict) -> bool:
    """Whether it names no encoder and none to be made."""
    return not preset["encoders"] and not preset["processor"]


def with_tiny_encoders(preset: dict) -> dict:
    """The preset with the encoders of `tiny`, which are trained from scratch."""
    tiny = load_preset("tiny")
    return preset | {part: tiny[part] | preset[part] for part in ("config", "processor", "training")}


def load_preset(*names: str) -> dict:
    """The parts of one or several presets, by name or path; of the same entry the last preset's counts.

    Raises:
        ValueError: there is no such preset, or it has a part of another name.
    """
    merged = {part: {} for part in PARTS if part != "description"}
    for name in names:
        path = Path(name) if name.endswith(".json") else preset_folder() / f"{name}.json"
        if not path.is_file():
            raise ValueError(
                f"no preset {name!r}; there are {', '.join(preset_names())}, or give a path to a .json file"
            )
        preset = read_json(path)
        if unknown := sorted(set(preset) - set(PARTS)):
            raise ValueError(f"{path.name}: unknown part {unknown[0]!r}; a preset has {', '.join(PARTS)}")
        for part in merged:
            if not isinstance(preset.get(part, {}), dict):
                raise ValueError(f"{path.name}: the part {part!r} must be an object of entries by name")
            merged[part] |= preset.get(part, {})
    return merged
