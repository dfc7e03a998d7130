# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a report says of a run: tables, and the clearest errors with what they rest on.

Shapes: N posts, C labels of a task.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...pictures import read_image, reduced, undecoded
from ...tasks import LABEL_PREFIX, kind_of, predictions_by_task, probabilities_of
from ..explanation_page import thumbnail_of
from ..pages import picture_url

ERRORS = 6  # cards per task
NEIGHBOURS = 3  # of each modality on a card


@dataclass
class Judged:
    """Posts of one split, in the schema of `data.reading`, with what a run says of them: `logits` and `labels` by task,
    `evidence` of each post by modality, `references` the posts of the memory by id."""

    posts: object
    tasks: list[dict]
    logits: dict[str, Tensor]
    labels: dict[str, Tensor]
    evidence: list[dict]
    references: dict[str, dict]

    def __post_init__(self):
        self.probabilities = probabilities_of(self.tasks, self.logits)

    def known(self, task: dict) -> Tensor:
        """Rows (K,) of the posts with a label of the task."""
        return kind_of(task).known(self.labels[task["name"]]).nonzero()[:, 0]

    def decided(self, task: dict) -> np.ndarray:
        """What the task's rule makes of all posts, in the form of labels."""
        return kind_of(task).decided(task, self.probabilities[task["name"]]).numpy()


def label_counts_by_split(posts_by_split: dict, tasks: list[dict]) -> dict[str, dict[str, dict[str, int]]]:
    """Task -> split -> label -> posts; with `""`, how many have none."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for task in tasks:
        counts[task["name"]] = {}
        for split, posts in posts_by_split.items():
            column = LABEL_PREFIX + task["name"]
            values = posts[column] if column in posts.column_names else [None] * len(posts)
            kind = kind_of(task)
            named = [kind.label(task, label) for label in kind.collate(task, values)] if len(values) else []
            none = sum(label is None for label in named)
            found = kind.counts(task, named) if kind.is_classification else {"a number": len(named) - none}
            counts[task["name"]][split] = found | {"": none}
    return counts


def class_table(task: dict, found: dict, counts: dict[str, dict[str, int]]) -> list[dict]:
    """A row per class: posts in training, posts here, precision, recall, F1."""
    rows = []
    for place, label in enumerate(task["labels"]):
        precision, recall = found["precision"][place], found["recall"][place]
        rows.append(
            {
                "label": label,
                "train": counts.get("train", {}).get(label),
                "posts": found["support"][place],
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            }
        )
    return rows


def clearest_errors(judged: Judged, task: dict, most: int = ERRORS) -> list[dict]:
    """Cards of the posts whose verdict was surest and wrong (of a regression: farthest off)."""
    kind, name = kind_of(task), task["name"]
    rows = judged.known(task).numpy()
    truth, decided = judged.labels[name].numpy()[rows], judged.decided(task)[rows]
    if kind.is_classification:
        wrong = (decided != truth).reshape(len(rows), -1).any(1)
        doubt = kind.doubt(task, judged.probabilities[name]).numpy()[rows]
        order = [place for place in np.argsort(doubt, kind="stable") if wrong[place]]
    else:
        order = np.argsort(-np.abs(decided - truth), kind="stable").tolist()
    return [_card(judged, task, int(rows[place])) for place in order[:most]]


def _card(judged: Judged, task: dict, row: int) -> dict:
    kind, name = kind_of(task), task["name"]
    post = undecoded(judged.posts)[row]
    logits = {other: values[row] for other, values in judged.logits.items()}
    said = predictions_by_task(judged.tasks, logits)
    try:
        picture = None if post["image"] is None else picture_url(reduced(read_image(post["image"])))
    except ValueError:
        picture = None
    evidence = {m: found[:NEIGHBOURS] for m, found in judged.evidence[row].items()}
    return {
        "id": post["id"],
        "picture": picture,
        "text": post["text"],
        "labelled": kind.label(task, judged.labels[name][row]),
        "decided": kind.decision(task, said[name]),
        "scores": sorted(said[name].items(), key=lambda item: -item[1])[:3] if kind.is_classification else [],
        "others": {
            other["name"]: kind_of(other).decision(other, said[other["name"]])
            for other in judged.tasks
            if other["name"] != name
        },
        "neighbours": evidence,
    }


def thumbnails(cards: list[dict], references: dict[str, dict]) -> dict[str, dict]:
    """The reference posts that cards name, small."""
    wanted = {post["id"] for card in cards for found in card["neighbours"].values() for post in found}
    return {name: thumbnail_of(references[name]) for name in sorted(wanted) if name in references}
