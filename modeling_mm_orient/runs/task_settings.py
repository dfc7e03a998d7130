# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How tasks are learned, where a configuration says it: the data say which tasks there are and what their labels are."""

import logging

from ..tasks import kind_of

logger = logging.getLogger(__name__)

USUAL = {"loss_weight": 1.0, "focal_gamma": 0.0, "class_weights": None}
WEIGHTING = "task_loss_weighting"


def settings_of_tasks(preset: dict, config: dict, tasks: list[dict], start=None) -> dict[str, dict]:
    """Task name -> `loss_weight`, `focal_gamma` and `class_weights` where something says them: the checkpoint that is gone
    on from, the preset's tasks, and, which count most, `config["tasks"]`.

    Args:
        preset: from `load_preset`; its tasks are an example where the data have others.
        tasks: of the data. start: a `continuation.Start`.

    Raises:
        ValueError: `config["tasks"]` names no task of the data or says what the data say, weights are for other labels, or
            one would not count.
    """
    by_name = {task["name"]: task for task in tasks}
    found = {name: {} for name in by_name} if start is None else {name: _kept(start, by_name[name]) for name in by_name}
    for task in _entries(preset["config"].get("tasks", [])):
        said = _settings(task, by_name)
        if task["name"] in by_name:
            found[task["name"]] |= said
        elif said:
            logger.warning("the preset's settings of the task %r are for none of the data's", task["name"])
    for task in _entries(config.get("tasks", [])):
        if unknown := sorted(set(task) - {"name", *USUAL}):
            what = ", ".join(f"`{name}`" for name in USUAL)
            raise ValueError(f"`tasks`: of {task['name']!r} {what} can be set, not `{unknown[0]}`: that the data say")
        if task["name"] not in by_name:
            raise ValueError(f"`tasks`: {task['name']!r} is no task of the data; there are {', '.join(by_name)}")
        found[task["name"]] |= _settings(task, by_name)
    found = {name: settings for name, settings in found.items() if settings}
    before = {WEIGHTING: "uniform" if start is None else getattr(start.config, WEIGHTING)}
    weighting = (before | preset["config"] | config)[WEIGHTING]
    if weighting != "given" and any(settings.get("loss_weight", 1) != 1 for settings in found.values()):
        raise ValueError(f"a task's `loss_weight` counts where `{WEIGHTING}` is 'given': set that too")
    return found


def _entries(said) -> list[dict]:
    entries = said if isinstance(said, list) else [None]
    if not all(isinstance(task, dict) and isinstance(task.get("name"), str) for task in entries):
        raise ValueError('`tasks` must be a list of settings by task, say [{"name": "humour", "focal_gamma": 2}]')
    for task in entries:
        labels = task.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"`tasks`: the `labels` of {task['name']!r} must be a list of names, got {labels!r}")
    names = [task["name"] for task in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"`tasks` has {twice[0]!r} twice")
    return entries


def _settings(entry: dict, tasks: dict[str, dict]) -> dict:
    """Of one task, with weights in the order of the data's labels; in the entry they go by name, or by its own labels."""
    found = {name: entry[name] for name in USUAL if name in entry}
    weights, task = found.get("class_weights"), tasks.get(entry["name"])
    if weights is None or task is None:
        return found
    if "labels" in entry and isinstance(weights, list):
        if sorted(entry["labels"]) != sorted(task["labels"]) or len(weights) != len(entry["labels"]):
            raise ValueError(f"`class_weights` of {entry['name']!r} are not for its labels {', '.join(task['labels'])}")
        weights = dict(zip(entry["labels"], weights, strict=True))
    if isinstance(weights, dict):
        if unknown := sorted(set(weights) - set(task["labels"])):
            said = ", ".join(task["labels"])
            raise ValueError(
                f"`class_weights` of {entry['name']!r}: {unknown[0]!r} is no label of it; there are {said}"
            )
        weights = [weights.get(label, 1.0) for label in task["labels"]]
    return found | {"class_weights": weights}


def _kept(start, task: dict) -> dict:
    """What a checkpoint has of a task that stays the same; balanced weights are of its own posts."""
    before = next((known for known in start.config.tasks if known["name"] == task["name"]), {})
    same = before.get("labels") == task["labels"] and kind_of(before) is kind_of(task)
    balanced = start.run.get("training", {}).get("class_weights") == "balanced"
    found = {name: before[name] for name, usual in USUAL.items() if same and before[name] != usual}
    return {name: value for name, value in found.items() if not (balanced and name == "class_weights")}
