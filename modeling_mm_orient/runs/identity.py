# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a run is made of, beside what it was told: who goes on with it must have the same (ours)."""

import hashlib
import json
import os
from pathlib import Path

import datasets

from ..data.arrays import FeatureArrays
from ..features.pretrained_sources import digest_of, digest_of_file, digest_of_source
from ..names import ENCODER_NAMES
from ..tasks import LABEL_PREFIX

POSTS = "posts, labels or splits"
FORM = "form"  # of these digests


def identity_of(prepared, keys: dict[str, list[str]]) -> dict[str, str]:
    """What a reader calls a part -> a digest of posts, of each encoder and array, the JSON of a field of the configuration.

    Args:
        prepared: a `training.Prepared`. keys: of its posts, see `keys_by_split`.
    """
    preset = prepared.preset
    found = {POSTS: digest_of_posts(prepared.tasks, prepared.posts, keys, bool(prepared.description.numeric_columns))}
    found |= {FORM: "2"} | digests_of_sources(preset, prepared.arrays)
    for role, source in preset["encoders"].items():
        if source and os.path.exists(source):  # digested: it names a machine
            found[f"{role} encoder"] = digest_of([os.path.abspath(source), found[f"{role} encoder"]])
    fields = (preset["config"] if prepared.start is None else {}) | prepared.config
    if prepared.task_settings:
        fields |= {"tasks": prepared.task_settings}
    return found | {name: json.dumps(value, sort_keys=True, default=str) for name, value in fields.items()}


def digests_of_sources(preset: dict, arrays: FeatureArrays) -> dict[str, str]:
    """What a reader calls it -> a digest of what features come from: encoders, classifiers of task features, arrays."""
    encoders = {role: source for role in ENCODER_NAMES if (source := preset["encoders"].get(role))}
    revisions = preset["revisions"]
    found = {f"{role} encoder": digest_of_source(source, revisions.get(role)) for role, source in encoders.items()}
    for name, entry in preset["task_features"].items():
        of_source = digest_of_source(str(entry.get("source")), entry.get("revision"))
        found[f"task feature {name}"] = digest_of([of_source, entry.get("output")])
    return found | {f"array of {name}": digest_of_file(path) for name, path in arrays.paths.items()}


def check_identity(where: Path, before: dict[str, str] | None, now: dict[str, str]) -> None:
    """Raise ValueError where what is gone on with was made of something else; None, of an older version, may be anything."""
    if before is None:
        return
    names = now.keys() | before.keys()
    if before.get(FORM) != now[FORM]:  # digests of encoders by another version
        names = {name for name in now.keys() & before.keys() if not name.endswith("encoder")}
    for name in sorted(names):
        if before.get(name) != now.get(name):
            raise ValueError(f"cannot resume {where}: `{name}` is not what it was")


def digest_of_posts(tasks: list[dict], posts: datasets.DatasetDict, keys: dict[str, list[str]], numbers: bool) -> str:
    """Of posts by split, in their order, with their labels, of the tasks, and where `numbers` of the posts' numbers too."""
    digest = hashlib.sha256(repr([(task["name"], task["labels"]) for task in tasks]).encode())
    for split, rows in posts.items():
        names = [name for name in rows.column_names if name.startswith(LABEL_PREFIX) or (numbers and name == "numbers")]
        for key, row in zip(keys[split], rows.select_columns(names), strict=True):
            digest.update(f"{split} {key} {sorted(row.items())}".encode())
    return digest.hexdigest()[:32]
