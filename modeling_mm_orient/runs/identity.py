# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a run is made of, beside what it was told: who goes on with it must have the same (ours)."""

import hashlib
import json
import os
from pathlib import Path

import datasets

from ..names import ENCODER_NAMES
from ..tasks import LABEL_PREFIX

POSTS = "posts, labels or splits"


def identity_of(prepared, keys: dict[str, list[str]]) -> dict[str, str]:
    """What a reader calls a part -> a digest of posts and of each encoder's name, the JSON of a field of the configuration.

    Args:
        prepared: a `training.Prepared`. keys: of its posts, see `keys_by_split`.
    """
    preset, revisions = prepared.preset, prepared.preset["revisions"]
    found = {POSTS: digest_of_posts(prepared.tasks, prepared.posts, keys, bool(prepared.description.numeric_columns))}
    for role in ENCODER_NAMES:
        if source := preset["encoders"].get(role):
            place = (
                os.path.abspath(source) if Path(source).exists() else source
            )  # which is digested: it names a machine
            found[f"{role} encoder"] = _digest([place, revisions.get(role)])
    if preset["task_features"]:
        found["task features"] = _digest(preset["task_features"])
    fields = (preset["config"] if prepared.start is None else {}) | prepared.config
    return found | {name: json.dumps(value, sort_keys=True, default=str) for name, value in fields.items()}


def check_identity(where: Path, before: dict[str, str] | None, now: dict[str, str]) -> None:
    """Raise ValueError where what is gone on with was made of something else; None, of an older version, may be anything."""
    for name in sorted(now.keys() | (before or now).keys()):
        if before is not None and before.get(name) != now.get(name):
            raise ValueError(f"cannot resume {where}: `{name}` is not what it was")


def digest_of_posts(tasks: list[dict], posts: datasets.DatasetDict, keys: dict[str, list[str]], numbers: bool) -> str:
    """Of posts by split, in their order, with their labels, of the tasks, and where `numbers` of the posts' numbers too."""
    digest = hashlib.sha256(repr([(task["name"], task["labels"]) for task in tasks]).encode())
    for split, rows in posts.items():
        names = [name for name in rows.column_names if name.startswith(LABEL_PREFIX) or (numbers and name == "numbers")]
        for key, row in zip(keys[split], rows.select_columns(names), strict=True):
            digest.update(f"{split} {key} {sorted(row.items())}".encode())
    return digest.hexdigest()[:32]


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
