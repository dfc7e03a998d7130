# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Which split a post is in: as the data says, or at random."""

import random

from .description import DataDescription
from .labels import is_missing
from .problems import Problem

SPLITS_FILE = "splits.csv"
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def assign_splits(description: DataDescription, posts: list[dict], problems: list[Problem]) -> None:
    if all(is_missing(post["split"]) for post in posts):
        for post in posts:
            post["split"] = "all"
    else:
        for post in posts:
            name = SPLIT_NAMES.get(str(post["split"]).strip().lower())
            if name is None:
                what = f"split is {post['split']!r}, not one of {', '.join(SPLIT_NAMES)}"
                problems.append(Problem(post["where"], "unknown split", what))
            post["split"] = name
    if description.labels is None:
        return
    everyone = [post for post in posts if post["split"] == "all"]
    seed = description.split_seed
    _move(everyone, 0.8, "all", "train", seed)
    _move(everyone, 0.5, "all", "validation", seed)
    _move(everyone, 1.0, "all", "test", seed)
    if not any(post["split"] == "validation" for post in posts):
        _move([post for post in posts if post["split"] == "train"], 0.1, "train", "validation", seed)


def _move(posts: list[dict], share: float, source: str, target: str, seed: int) -> None:
    """Reproducibly move a random share of the posts of one split, at least one, to another."""
    left = sorted((post for post in posts if post["split"] == source), key=lambda post: post["id"])
    random.Random(seed).shuffle(left)
    for post in left[: max(1, round(share * len(left)))]:
        post["split"] = target
