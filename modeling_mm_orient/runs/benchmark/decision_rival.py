# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A rival without training: any chat model, asked about each post which label fits, by transformers' `decision` pipeline.

Its probabilities are those of the answers' tokens, from one forward pass per question: nothing is generated or sampled.

Shapes: N posts, C labels of a task.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, pipeline
from transformers.pipelines import get_supported_tasks

from ...features.pretrained_sources import digest_of, digest_of_file, digest_of_source
from ...pictures import read_image, reduced, undecoded
from ...tasks import MULTI_LABEL, kind_of

logger = logging.getLogger(__name__)

PIPELINE = "decision"
NO_TEXT = "(no text)"


def check_rival(model: str) -> str:
    """A digest of what the model is: of a folder's files, of the Hub its commit.

    Raises:
        ValueError: there is no such pipeline, or no model of this name.
    """
    if PIPELINE not in get_supported_tasks():
        raise ValueError(f"decision:{model}: this version of transformers has no {PIPELINE!r} pipeline; 5.24 has")
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"decision:{model}: {error}") from error
    templates = [[path.name, digest_of_file(path)] for path in sorted(Path(model).glob("chat_template*"))]
    return digest_of([digest_of_source(model, getattr(config, "_commit_hash", None)), templates])


def choices_of(tasks: list[dict], model: str) -> list[dict]:
    """The tasks that a model can be asked for: a number is no choice.

    Raises:
        ValueError: there is none, or one has more labels than the model reads options.
    """
    from transformers.decision import DecisionConfig  # older versions have none

    found = [task for task in tasks if kind_of(task).is_classification]
    if not found:
        raise ValueError(f"decision:{model}: there is no task with labels to ask for")
    most = len(DecisionConfig.from_pretrained(model).labels.get("choice") or ascii_uppercase)
    for task in found:
        if kind_of(task) is not MULTI_LABEL and (count := len(task["labels"])) > most:
            raise ValueError(
                f"decision:{model}: it reads at most {most} options, and {task['name']!r} has {count} labels"
            )
    return found


class DecisionRival:
    """A chat model as a benchmark's method; one that reads pictures is given them.

    Args:
        model: folder or Hub id of a chat model (`AutoModelForImageTextToText` or `AutoModelForCausalLM`), or of one with a
            head for decisions.
        tasks: task descriptions. Of a single label the model chooses one, of several each is a question of its own, to be
            answered yes or no; a number cannot be asked for, and regression is passed over with a log.
        instructions: task name -> what is asked in place of the default question.
        options: further arguments of `transformers.pipeline`, say `device` or `dtype`.

    Raises:
        ValueError: an old transformers has no such pipeline; no task can be asked for, or one has more labels than the model
            has letters for; instructions for no such task; there is no such model.
    """

    seed = 0  # nothing is drawn

    def __init__(
        self, model: str, tasks: list[dict], instructions: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        check_rival(model)
        self.name = f"decision:{model}"
        self.tasks = choices_of(tasks, model)
        if passed_over := [task["name"] for task in tasks if task not in self.tasks]:
            logger.warning("%s is not asked for %s: a number is no choice", self.name, ", ".join(passed_over))
        names = [task["name"] for task in self.tasks]
        if unknown := sorted(set(instructions or {}) - set(names)):
            raise ValueError(f"instructions for {', '.join(unknown)}: the tasks with labels are {', '.join(names)}")
        self.questions = {task["name"]: _questions(task, (instructions or {}).get(task["name"])) for task in self.tasks}
        self.pipeline = pipeline(PIPELINE, model=model, **options)
        self.reads_pictures = getattr(self.pipeline.processor, "image_processor", None) is not None

    def predict(self, posts: Sequence[dict]) -> dict[str, np.ndarray]:
        """Task name -> probabilities (N, C) of posts in the schema of `data.reading`; of several labels each its own.

        Raises:
            ValueError: a picture cannot be read, or the model gives no probabilities.
        """
        posts = undecoded(posts)
        rows = [self._answers(posts[row]) for row in tqdm(range(len(posts)), self.name, leave=False)]
        return {
            task["name"]: np.array([row[task["name"]] for row in rows]).reshape(len(rows), len(task["labels"]))
            for task in self.tasks
        }

    def decide(self, probabilities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Task name -> the most probable class (N,), or 0 and 1 (N, C) cut at .5."""
        return {
            task["name"]: kind_of(task).decided(task, torch.from_numpy(probabilities[task["name"]])).numpy()
            for task in self.tasks
        }

    def _answers(self, post: dict) -> dict[str, list[float]]:
        """Task name -> probabilities (C,) of one post."""
        request = self._request(post)
        found = {
            task["name"]: _probabilities(task, self.pipeline(request | {"questions": self.questions[task["name"]]}))
            for task in self.tasks
        }
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise ValueError(
                    f"{self.name}: its probabilities of {name!r} are no numbers, of the post {post.get('id')!r}"
                )
        return found

    def _request(self, post: dict) -> dict:
        """What the model is told of a post: its text, and if it reads pictures the picture, at a place named there."""
        text = post.get("text") or NO_TEXT
        if post.get("image") is None or not self.reads_pictures:
            return {"state": f"Text of the post: {text}"}
        said, place = f"{text} {self.questions}", "[picture]"
        while place in said:  # a post's text or a label shows no picture of its own
            place = f"[{place}]"
        picture = reduced(read_image(post["image"]))
        return {"state": f"Picture of the post: {place}\nText of the post: {text}", "assets": {place: picture}}


def _questions(task: dict, instruction: str | None) -> dict[str, dict]:
    """The questions of a task, name -> question."""
    name = task["name"].replace("_", " ")
    if kind_of(task) is not MULTI_LABEL:
        choice = instruction or f"Which label of {name!r} fits the post?"
        return {task["name"]: {"type": "choice", "instructions": choice, "criteria": dict.fromkeys(task["labels"])}}
    asked = f"{instruction or f'Does this label of {name!r} fit the post?'} Label: "
    return {label: {"type": "noul", "instructions": asked + label} for label in task["labels"]}


def _probabilities(task: dict, answers: dict[str, dict]) -> list[float]:
    """Probabilities (C,) from the answers to a task's questions."""
    if kind_of(task) is MULTI_LABEL:
        return [float(answers[label]["noul"]) for label in task["labels"]]
    answer = answers[task["name"]]
    found = answer.get("probabilities") or {answer["choice"]: 1.0}
    return [float(found.get(label, 0.0)) for label in task["labels"]]
