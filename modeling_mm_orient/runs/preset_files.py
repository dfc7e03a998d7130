# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Presets: JSON files of `hub_configs/` that describe an architecture, a data set's tasks, or both; imports nothing heavy.

A preset has any of the parts `description`, `encoders` (role -> Hub id), `revisions` (role -> commit), `task_features` (name
-> the rest of an entry of `task_features.check_sources`), `config` (fields of `MMOrientConfig`), `processor` (how to make
one without pretrained encoders), `training` (fields of `TrainingSettings`) and `data` (fields of `DataDescription`).
"""

from pathlib import Path

from ..data.json_files import read_json

PARTS = ("description", "encoders", "revisions", "task_features", "config", "processor", "training", "data")


def preset_folder() -> Path:
    """`hub_configs/`: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "hub_configs"
    return inside if inside.is_dir() else package.with_name("hub_configs")


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in preset_folder().glob("*.json"))


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
