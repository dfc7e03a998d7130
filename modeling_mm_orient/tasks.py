# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The kinds of task: one object for each knows its labels, loss, probabilities and what a reader is told.

A task is a dict of the configuration: `name`, `kind`, `labels` and more. `kind_of` gives its kind; nothing else asks for the
kind's name. Single label is the paper's; the other two are ours.

Shapes: B posts, M reference posts, C labels of a task.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Real

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MISSING_LABEL = -100
FITTED = (
    "temperature",
    "decision_offsets",
    "expert_weights",
    "doubts",
)  # what a run adds to a task, see `runs.decisions`
OF_HEADS = ("mean", "std")  # what a head was trained with, which stays with it
LABEL_PREFIX = "label."  # of a task's column in a data set of posts: a task may bear the name of anything of ours
# what a post may hold that is no label, whatever its tasks are called
NOT_LABELS = (
    "id", "image", "text", "numbers", "more_images",
    "row", "post_key", "image_embeds", "text_embeds", "region_features", "region_mask",
    "token_features", "token_mask", "task_features", "has_image", "has_text", "post_keys", "ngram_ids", "text_layers",
)  # fmt: skip
LEAST_SHARE = 1e-4  # of a label among neighbours: log-probabilities of experts are averaged
LEAST_DOUBT = 1e-6  # of a probability under a fractional power, whose slope at 0 is infinite


class TaskKind:
    """What all kinds answer. `least_labels` is how many label names a task must have, `most_labels` how many it may;
    `target_form` says in words which labels a loss is taken of."""

    name: str
    target_form: str
    least_labels = 1
    most_labels: int | None = None
    is_classification = True

    def collate(self, task: dict, values: list) -> Tensor:
        """Labels of posts, None where missing, as a tensor in the form of `losses`.

        Raises:
            ValueError: a name is none of the task's labels.
        """
        raise NotImplementedError

    def shape_of_labels(self, logits: Tensor) -> torch.Size:
        """The shape that labels of `logits` must have."""
        return logits.shape

    def num_outputs(self, task: dict) -> int:
        """Width of the task's head."""
        return len(task["labels"])

    def form(self, outputs: Tensor) -> Tensor:
        """A head's outputs (B, `num_outputs`) as the logits of a model's output."""
        return outputs

    def at_scale(self, task: dict, logits: Tensor) -> Tensor:
        """A head's logits in the unit of the labels."""
        return logits

    def scale(self, values: list) -> dict[str, float]:
        """What of these labels, None where missing, a head of the task is to know."""
        return {}

    def losses(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None, gamma: float, smoothing: float = 0.0
    ):
        """Losses and their weights, in the shape of `labels`, 0 where one is missing.

        `gamma` > 0 makes a classification's loss focal; `class_weights` (C,); `smoothing` is how much of a label is spread
        over all.
        """
        raise NotImplementedError

    def known(self, labels: Tensor) -> Tensor:
        """Bool (B,): which posts have a label, all of them of several."""
        return ~labels.isnan().reshape(len(labels), -1).any(-1)

    def are_labels(self, task: dict, labels: Tensor) -> bool:
        """Whether all of `labels`, missing ones among them, can be labels of the task."""
        raise NotImplementedError

    def are_targets(self, task: dict, labels: Tensor) -> bool:
        """Whether a loss can be taken of `labels`."""
        return self.are_labels(task, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the logits say, float32, in their shape."""
        raise NotImplementedError

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Logits of which `probabilities` are the probabilities."""
        return probabilities

    def scores(self, logits: Tensor) -> Tensor:
        """The logits as what can be averaged over experts, float32: log-probabilities, log-odds, values."""
        return logits.float()

    def scores_of_votes(self, votes: Tensor, average: Tensor, spread: Tensor) -> Tensor:
        """What `votes` (B, C) of neighbours say, in the form of `scores`; `average` and `spread` (C,) of all labels."""
        raise NotImplementedError

    def without(self, labels: Tensor, posts: Tensor) -> Tensor:
        """`labels` with those of `posts`, bool (B,), missing."""
        return labels.masked_fill(posts.reshape(-1, *[1] * (labels.dim() - 1)), float("nan"))

    def decided(self, task: dict, probabilities: Tensor) -> Tensor:
        """What `probabilities` (B, C) come to, by the task's `decision_offsets`, in the form of labels."""
        raise NotImplementedError

    def doubt(self, task: dict, probabilities: Tensor) -> Tensor:
        """How probable it is that what `probabilities` (B, C) come to is wrong, (B,); of several labels the mean."""
        decided = self.decided(task, probabilities)
        return torch.where(decided > 0, 1 - probabilities, probabilities).mean(-1)

    def prediction(self, task: dict, probabilities) -> dict | float:
        """One post's `probabilities` for a reader: `{label: probability}`, or a value."""
        return dict(zip(task["labels"], probabilities, strict=True))

    def decision(self, task: dict, prediction) -> str | list[str] | float | None:
        """What a `prediction` comes to, as a reader knows it."""
        decided = self.decided(task, torch.tensor([list(prediction.values())], dtype=torch.float64))
        return self.label(task, decided[0])

    def cell(self, task: dict, prediction) -> str | float:
        """`decision` in a table's cell."""
        return self.decision(task, prediction)  # type: ignore[return-value]

    def listed(self, task: dict, prediction, top_k: int | None) -> list[dict]:
        """A `prediction` as transformers' classifiers give it, `[{"label", "score"}]`, the most probable first."""
        scores = sorted(prediction.items(), key=lambda item: -item[1])[:top_k]
        return [{"label": label, "score": score} for label, score in scores]

    def answer(self, task: dict, prediction) -> dict:
        """A `prediction` as transformers' `decision` pipeline answers a question (the System One format)."""
        raise NotImplementedError

    def label(self, task: dict, label: Tensor):
        """One post's label (or row of labels) as a reader knows it; None where missing."""
        raise NotImplementedError

    def summary(self, task: dict, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the labels (M,) or (M, C) of reference posts say beyond the average, (M, C), and what they know, (M, C) of 0
        and 1."""
        labels = labels.float() if labels.dim() > 1 else labels.float()[:, None]
        known = ~labels.isnan()
        return _beyond_average(labels.nan_to_num(0.0), known), known.float()

    def averages(self, task: dict, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C,) of the labels of `summary` that are known."""
        labels = labels.float() if labels.dim() > 1 else labels.float()[:, None]
        known = ~labels.isnan()
        count = known.sum(0).clamp(min=1)
        average = labels.nan_to_num(0.0).sum(0) / count
        spread = ((labels.nan_to_num(0.0) - average).square() * known).sum(0) / count
        return average, spread.sqrt().clamp(min=1e-6)

    def counts(self, task: dict, labels: list) -> dict[str, int]:
        """How often each label stands among those of `label`, None where missing."""
        raise NotImplementedError

    def has_positives(self, task: dict) -> bool:
        """Whether precision and recall are one number per label: of two classes the second counts."""
        return len(task["labels"]) == 2

    def balanced_weights(self, task: dict, labels: list) -> list[float] | None:
        """`class_weights` that give every class the same say; None where there is no such thing.

        `labels` are class numbers or rows of 0 and 1, None where missing.
        """
        return None


class SingleLabel(TaskKind):
    """One of C classes. Labels: (B,) int64, -100 where missing."""

    name = "single_label"
    target_form = "class numbers below that of the labels, or -100 where missing"
    least_labels = 2

    def collate(self, task: dict, values: list) -> Tensor:
        values = [_class_number(task, value) if isinstance(value, str) else value for value in values]
        numbers = [MISSING_LABEL if _is_nothing(value) else _whole(task, value) for value in values]
        return torch.tensor(numbers, dtype=torch.long)

    def shape_of_labels(self, logits: Tensor) -> torch.Size:
        return logits.shape[:1]

    def losses(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None, gamma: float, smoothing: float = 0.0
    ):
        """Cross-entropy; the weights are the class weight of each label, as in `torch.nn.CrossEntropyLoss`."""
        known = self.known(labels)
        target = labels.clamp(min=0)
        log_probabilities = logits.float().log_softmax(-1)
        log_probability = log_probabilities.gather(-1, target[:, None]).squeeze(-1)
        weights = known.float() if class_weights is None else class_weights.float()[target] * known
        losses = -log_probability * _focus(1 - log_probability.exp(), gamma)
        if smoothing:
            losses = (1 - smoothing) * losses - smoothing * log_probabilities.mean(-1)
        return losses * weights, weights

    def known(self, labels: Tensor) -> Tensor:
        return labels != MISSING_LABEL

    def are_labels(self, task: dict, labels: Tensor) -> bool:
        return bool(((labels == MISSING_LABEL) | ((labels >= 0) & (labels < len(task["labels"])))).all())

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1)

    def logits_of(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(min=LEAST_SHARE).log()

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().log_softmax(-1)

    def scores_of_votes(self, votes: Tensor, average: Tensor, spread: Tensor) -> Tensor:
        return (votes.float() + average).clamp(min=LEAST_SHARE).log().log_softmax(-1)

    def without(self, labels: Tensor, posts: Tensor) -> Tensor:
        return labels.masked_fill(posts, MISSING_LABEL)

    def decided(self, task: dict, probabilities: Tensor) -> Tensor:
        """The class of the largest log-probability and offset."""
        offsets = task.get("decision_offsets")
        return (probabilities if offsets is None else probabilities.log() + probabilities.new_tensor(offsets)).argmax(
            -1
        )

    def doubt(self, task: dict, probabilities: Tensor) -> Tensor:
        return 1 - probabilities.gather(-1, self.decided(task, probabilities)[:, None]).squeeze(-1)

    def answer(self, task: dict, prediction) -> dict:
        choice, count = self.decision(task, prediction), len(prediction)
        even = 1 / count
        confidence = 1.0 if count == 1 else max(0.0, (prediction[choice] - even) / (1 - even))
        return {"type": "choice", "choice": choice, "confidence": confidence, "probabilities": prediction}

    def label(self, task: dict, label: Tensor) -> str | None:
        return None if label == MISSING_LABEL else task["labels"][int(label)]

    def summary(self, task: dict, labels: Tensor) -> tuple[Tensor, Tensor]:
        known = self.known(labels)[:, None].expand(-1, len(task["labels"]))
        values = F.one_hot(labels.clamp(min=0), len(task["labels"])).float()
        return _beyond_average(values, known), known.float()

    def averages(self, task: dict, labels: Tensor) -> tuple[Tensor, Tensor]:
        values = F.one_hot(labels.clamp(min=0), len(task["labels"])).float()
        return super().averages(task, values.masked_fill(~self.known(labels)[:, None], float("nan")))

    def counts(self, task: dict, labels: list) -> dict[str, int]:
        found = Counter(labels)
        return {name: found[name] for name in task["labels"]}

    def balanced_weights(self, task: dict, labels: list) -> list[float]:
        counts = Counter(number for number in labels if number is not None)
        total = sum(counts.values())
        return [total / (len(task["labels"]) * counts[c]) if counts[c] else 1.0 for c in range(len(task["labels"]))]


class MultiLabel(TaskKind):
    """Any of C labels. Labels: (B, C) float in {0, 1}, NaN where missing."""

    name = "multi_label"
    target_form = "0 and 1, or what lies between, or NaN where missing"

    def collate(self, task: dict, values: list) -> Tensor:
        unknown = [float("nan")] * len(task["labels"])
        rows = [unknown if _is_nothing(value) else _label_row(task, value) for value in values]
        return torch.tensor(rows).float().reshape(len(values), len(task["labels"]))

    def losses(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None, gamma: float, smoothing: float = 0.0
    ):
        """Binary cross-entropy per label; `class_weights` multiply the positive term."""
        known = ~labels.isnan()
        target = labels.nan_to_num(0.0).float() * (1 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none", pos_weight=class_weights)
        if gamma:
            probability = logits.float().sigmoid()
            losses = losses * _focus(target * (1 - probability) + (1 - target) * probability, gamma)
        return losses * known, known.float()

    def are_labels(self, task: dict, labels: Tensor) -> bool:
        return bool((labels.isnan() | (labels == 0) | (labels == 1)).all())

    def are_targets(self, task: dict, labels: Tensor) -> bool:
        return bool((labels.isnan() | ((labels >= 0) & (labels <= 1))).all())

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def logits_of(self, probabilities: Tensor) -> Tensor:
        return probabilities.logit(LEAST_SHARE)

    def scores_of_votes(self, votes: Tensor, average: Tensor, spread: Tensor) -> Tensor:
        return (votes.float() + average).logit(LEAST_SHARE)

    def decided(self, task: dict, probabilities: Tensor) -> Tensor:
        """The labels whose log-odds and offset are at least 0."""
        offsets = task.get("decision_offsets")
        if offsets is None:
            return (probabilities >= 0.5).float()
        return (probabilities.logit() + probabilities.new_tensor(offsets) >= 0).float()

    def answer(self, task: dict, prediction: dict) -> dict:
        """One answer per label: each is a question of its own."""
        return {label: {"type": "noul", "noul": probability} for label, probability in prediction.items()}

    def cell(self, task: dict, prediction: dict) -> str:
        labels: list[str] = self.decision(task, prediction)  # type: ignore[assignment]
        if any("|" in label for label in task["labels"]):  # a list that reads the same way back
            return json.dumps(labels, ensure_ascii=False)
        return "|".join(labels)

    def label(self, task: dict, label: Tensor) -> list[str] | None:
        if label.isnan().all():
            return None
        return [name for name, value in zip(task["labels"], label.tolist(), strict=True) if value == 1]

    def has_positives(self, task: dict) -> bool:
        return True

    def balanced_weights(self, task: dict, labels: list) -> list[float]:
        rows = torch.tensor([row for row in labels if row is not None], dtype=torch.float64)
        rows = rows.reshape(-1, len(task["labels"]))
        there, without = ((rows == value).sum(0).tolist() for value in (1, 0))
        return [no / yes if yes and no else 1.0 for yes, no in zip(there, without, strict=True)]

    def counts(self, task: dict, labels: list) -> dict[str, int]:
        found = Counter(name for names in labels if names is not None for name in names)
        return {name: found[name] for name in task["labels"]}


class Regression(TaskKind):
    """A number. Labels: (B,) float, NaN where missing."""

    name = "regression"
    target_form = "finite, or NaN where missing"
    least_labels, most_labels = 0, 0
    is_classification = False

    def collate(self, task: dict, values: list) -> Tensor:
        return torch.tensor([float("nan") if value is None else _number(task, value) for value in values]).float()

    def num_outputs(self, task: dict) -> int:
        return 1

    def form(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def at_scale(self, task: dict, logits: Tensor) -> Tensor:
        """A head learns standardised values: years or likes are beyond what its weights reach."""
        mean, std = task.get("mean", 0.0), task.get("std", 1.0)
        return logits if (mean, std) == (0.0, 1.0) else logits.float() * std + mean

    def scale(self, values: list) -> dict[str, float]:
        known = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
        if not len(known):
            return {}
        return {"mean": float(known.mean()), "std": float(known.std(correction=0)) or 1.0}

    def losses(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None, gamma: float, smoothing: float = 0.0
    ):
        """Squared error."""
        known = ~labels.isnan()
        return (logits.float() - labels.nan_to_num(0.0).float()) ** 2 * known, known.float()

    def are_labels(self, task: dict, labels: Tensor) -> bool:
        return not bool(labels.isinf().any())

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float()

    def scores_of_votes(self, votes: Tensor, average: Tensor, spread: Tensor) -> Tensor:
        return (votes.float() * spread + average).squeeze(-1)

    def prediction(self, task: dict, probabilities) -> float:
        return probabilities

    def decided(self, task: dict, probabilities: Tensor) -> Tensor:
        return probabilities

    def decision(self, task: dict, prediction: float) -> float:
        return prediction

    def listed(self, task: dict, prediction: float, top_k: int | None) -> list[dict]:
        return [{"label": task["name"], "score": prediction}]

    def answer(self, task: dict, prediction: float) -> dict:
        return {"type": "score", "score": prediction}

    def label(self, task: dict, label: Tensor) -> float | None:
        return None if label.isnan().any() else float(str(np.float32(float(label))))  # 1.63, not 1.6299999952

    def summary(self, task: dict, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised; C is 1."""
        values, known = super().summary(task, labels)
        return values / self.averages(task, labels)[1], known

    def counts(self, task: dict, labels: list) -> dict[str, int]:
        return {}


SINGLE_LABEL, MULTI_LABEL, REGRESSION = SingleLabel(), MultiLabel(), Regression()
KINDS: dict[str, TaskKind] = {kind.name: kind for kind in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)}


def are_tasks(tasks) -> bool:
    """Whether something that was read is a list of task descriptions of different names: each with its kind and labels."""
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and task.get("kind") in KINDS for task in tasks):
        return False
    for task in tasks:
        labels, kind = task.get("labels"), kind_of(task)
        if not isinstance(task.get("name"), str) or not isinstance(labels, list) or len(labels) < kind.least_labels:
            return False
        if not all(isinstance(label, str) for label in labels) or (kind.most_labels is not None and labels):
            return False
    return len({task["name"] for task in tasks}) == len(tasks)


def kind_of(task: dict) -> TaskKind:
    """The kind of a task description; one without `kind` is single label."""
    return KINDS[task.get("kind", SINGLE_LABEL.name)]


def collate_labels(posts: list[dict], tasks: list[dict]) -> dict[str, Tensor]:
    """Labels of a batch of posts, one key per task always, in the forms of `TaskHeads.loss`; a missing key counts as None.

    A task's label stands in a post under `label.NAME`, or under its name unless that is one of `NOT_LABELS`. A class is its
    number or its name, several labels are a list of 0 and 1 or of names.

    Raises:
        ValueError: a name is none of the task's labels.
    """
    return {
        task["name"]: kind_of(task).collate(task, [label_of(post, task["name"]) for post in posts]) for task in tasks
    }


def label_of(post: dict, name: str):
    """The label of one task in a post, None where it has none."""
    if (own := f"{LABEL_PREFIX}{name}") in post:
        return post[own]
    return None if name in NOT_LABELS else post.get(name)


def probabilities_of(tasks: list[dict], logits: dict) -> dict[str, Tensor]:
    """Task name -> probabilities (B, C) at the task's temperature, or values (B,); logits are tensors or arrays."""
    found = {}
    for task in tasks:
        values, temperature = torch.as_tensor(logits[task["name"]]), task.get("temperature", 1.0)
        tempered = kind_of(task).is_classification and temperature != 1
        found[task["name"]] = kind_of(task).probabilities(values.float() / temperature if tempered else values)
    return found


def check_abstention(tasks: list[dict], share: float) -> None:
    """Raise ValueError unless a share of verdicts of each of these tasks, of those with labels, can be left to a person."""
    if not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise ValueError(f"`abstain` must be a share from 0 to below 1, got {share!r}")
    for task in tasks:
        if share and kind_of(task).is_classification and task.get("doubts") is None:
            raise ValueError(
                f"`abstain`: how doubtful verdicts of {task['name']!r} are is not known: its head is not trained, or too "
                "few posts with a label were left to fit that"
            )


def tasks_left_to_a_person(tasks: list[dict], logits: dict[str, Tensor], share: float) -> list[str]:
    """The tasks of which one post's verdict, by logits (C,), is of the `share` that is doubted most, as posts went that were
    not learned from."""
    left = []
    for task in tasks:
        doubts = task.get("doubts")
        if share and doubts is not None and kind_of(task).is_classification:
            place = (1 - share) * (len(doubts) - 1)
            low = int(place)
            most = doubts[low] + (place - low) * (doubts[min(low + 1, len(doubts) - 1)] - doubts[low])
            probabilities = probabilities_of([task], logits)[task["name"]]
            if float(kind_of(task).doubt(task, probabilities[None])[0]) > most:
                left.append(task["name"])
    return left


def predictions_by_task(tasks: list[dict], logits: dict[str, Tensor]) -> dict:
    """One post's logits, task name -> (C,) or scalar tensor, as `{task: {label: probability}}`; a regression's value."""
    found = probabilities_of(tasks, logits)
    return {task["name"]: kind_of(task).prediction(task, found[task["name"]].tolist()) for task in tasks}


def _class_number(task: dict, name: str) -> int:
    if name not in task["labels"]:
        raise ValueError(f"{name!r} is no label of the task {task['name']!r}; it has {', '.join(task['labels'])}")
    return task["labels"].index(name)


def _is_nothing(value) -> bool:
    """Whether it is None or NaN, which frames have where nothing is."""
    return value is None or (isinstance(value, Real) and value != value)


def _number(task: dict, value) -> float:
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise ValueError(f"{value!r} is no number of the task {task['name']!r}")
    return float(value)


def _whole(task: dict, value) -> int:
    """A class number, or -100 for -1 and -100, which are none."""
    number = _number(task, value)
    if not number.is_integer() or (number < 0 and number not in (-1, MISSING_LABEL)):
        raise ValueError(f"{value!r} is no class number of the task {task['name']!r}")
    return MISSING_LABEL if number < 0 else int(number)


def _label_row(task: dict, values) -> list[float]:
    """0 and 1 per label, from the same or from names."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"{values!r} is no list of labels of the task {task['name']!r}")
    values = list(values)
    if not any(isinstance(value, str) for value in values) and len(values) == len(task["labels"]):
        return values
    numbers = {_class_number(task, value) for value in values}
    return [float(number in numbers) for number in range(len(task["labels"]))]


def _focus(doubt: Tensor, gamma: float) -> Tensor:
    return doubt.clamp(min=LEAST_DOUBT) ** gamma if gamma else torch.ones_like(doubt)


def _beyond_average(values: Tensor, known: Tensor) -> Tensor:
    count = known.sum(0).clamp(min=1)
    return (values - (values * known).sum(0) / count) * known
