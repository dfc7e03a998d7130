# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How tasks are learned, where a configuration says it: the data say which tasks there are and what their labels are."""

import logging

logger = logging.getLogger(__name__)

LEARNING = ("loss_weight", "focal_gamma", "class_weights")


def settings_of_tasks(preset: dict, config: dict, tasks: list[dict]) -> dict[str, dict]:
    """Task name -> those fields of `LEARNING` that the preset's tasks and, which count more, `config["tasks"]` give.

    Args:
        preset: from `load_preset`; its tasks are an example where the data have others.
        tasks: of the data.

    Raises:
        ValueError: `config["tasks"]` names no task of the data or says what the data say, or a weight would not count.
    """
    names, found = [task["name"] for task in tasks], {}
    for task in preset["config"].get("tasks") or []:
        of_learning = {name: task[name] for name in LEARNING if name in task}
        if task["name"] in names:
            found[task["name"]] = of_learning
        elif of_learning:
            logger.warning("the preset's settings of the task %r are for none of the data's", task["name"])
    for task in _checked(config.get("tasks", [])):
        if task["name"] not in names:
            raise ValueError(f"`tasks`: {task['name']!r} is no task of the data; there are {', '.join(names)}")
        found[task["name"]] = found.get(task["name"], {}) | {name: task[name] for name in LEARNING if name in task}
    found = {name: settings for name, settings in found.items() if settings}
    weighting = ({"task_loss_weighting": "uniform"} | preset["config"] | config)["task_loss_weighting"]
    if weighting != "given" and any(settings.get("loss_weight", 1) != 1 for settings in found.values()):
        raise ValueError("a task's `loss_weight` counts where `task_loss_weighting` is 'given': set that too")
    return found


def _checked(said) -> list[dict]:
    entries = said if isinstance(said, list) else [None]
    if not all(isinstance(task, dict) and isinstance(task.get("name"), str) for task in entries):
        raise ValueError('`tasks` must be a list of settings by task, say [{"name": "humour", "focal_gamma": 2}]')
    for task in entries:
        if unknown := sorted(set(task) - {"name", *LEARNING}):
            what = ", ".join(f"`{name}`" for name in LEARNING)
            raise ValueError(f"`tasks`: of {task['name']!r} {what} can be set, not `{unknown[0]}`: that the data say")
    return entries
