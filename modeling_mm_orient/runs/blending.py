# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How much each expert is heard (ours), fitted to what experts say of posts that they have not learned from.

Training posts are told apart by their keys: what is said of a fold comes from the member and the linear layers that left it
out, and from neighbours without the post itself. Validation posts count as well.

Shapes: N posts, C labels of a task, D features.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..experts import LINEAR, NEEDS, TEXT_LAYERS, WORDS, presence, verdicts
from ..tasks import kind_of
from .expert_readers import read_by, reader_of
from .ngram_features import side_by_side

logger = logging.getLogger(__name__)

FOLDS = 5  # where the model has one member
MOST_POSTS = 20_000  # of training, to which linear experts and weights are fitted: more would change neither
LEAST_HEARD = 0.02  # weights below are taken for 0
CAUTION = 0.1  # how much weights are drawn to those that are expected before any post is seen


@dataclass
class Testimony:
    """What a model says of posts: `embeds` by modality or layers, `ngram_ids` (N, L), `present` by what `NEEDS` names;
    `scores`, task -> expert -> (N, C) or (N,), `members`, task -> (members, N, C) or (members, N), `keys` (N,) and `labels`
    by task."""

    embeds: dict[str, Tensor]
    ngram_ids: Tensor
    present: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]
    members: dict[str, Tensor]
    keys: Tensor
    labels: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, rows: slice) -> "Testimony":
        """Of some of the posts."""
        return Testimony(
            {m: values[rows] for m, values in self.embeds.items()},
            self.ngram_ids[rows],
            {m: values[rows] for m, values in self.present.items()},
            {task: {name: values[rows] for name, values in said.items()} for task, said in self.scores.items()},
            {task: values[:, rows] for task, values in self.members.items()},
            self.keys[rows],
            {task: values[rows] for task, values in self.labels.items()},
        )


def heard_posts(references, seed: int, most: int = MOST_POSTS):
    """Those training posts to which experts are fitted, a random part of many; that it is one is logged."""
    if len(references) <= most:
        return references
    logger.info("experts are fitted to %d of %d training posts", most, len(references))
    rows = torch.randperm(len(references), generator=torch.Generator().manual_seed(seed))[:most]
    return Subset(references, sorted(rows.tolist()))


@torch.no_grad()
def hear(model, inputs, collator, batch_size: int) -> Testimony:
    """Ask a model of posts with labels, none of which is its own neighbour."""
    model.eval()
    parts = []
    for batch in DataLoader(inputs, batch_size, collate_fn=collator):
        labels, batch = batch.pop("labels"), {name: value.to(model.device) for name, value in batch.items()}
        ngrams = batch.get("ngram_ids", torch.zeros(len(batch["has_text"]), 1, dtype=torch.long)).cpu()
        found = model(**batch, output_components=True, output_members=True, without_themselves=True)
        layers = found.text_layers
        embeds = {"image": found.image_embeds, "text": found.text_embeds}
        embeds[TEXT_LAYERS] = torch.zeros(len(found.has_text), 0) if layers is None else layers
        parts.append(
            Testimony(
                {name: value.float().cpu() for name, value in embeds.items()},
                ngrams,
                presence(found.has_image.cpu(), found.has_text.cpu(), ngrams, layers),
                {
                    task: {name: value.cpu() for name, value in said.items()}
                    for task, said in found.expert_scores.items()
                },
                {task: value.cpu() for task, value in found.member_logits.items()},
                batch["post_keys"].cpu(),
                labels,
            )
        )
    return joined(parts)


def joined(parts: list[Testimony]) -> Testimony:
    """What is said of the posts of all parts, one after the other."""
    first = parts[0]
    return Testimony(
        {m: torch.cat([part.embeds[m] for part in parts]) for m in first.embeds},
        side_by_side([part.ngram_ids for part in parts]),
        {m: torch.cat([part.present[m] for part in parts]) for m in first.present},
        {
            task: {name: torch.cat([part.scores[task][name] for part in parts]) for name in said}
            for task, said in first.scores.items()
        },
        {task: torch.cat([part.members[task] for part in parts], 1) for task in first.members},
        torch.cat([part.keys for part in parts]),
        {task: torch.cat([part.labels[task] for part in parts]) for task in first.labels},
    )


def fit_experts(
    model, train: Testimony, validation: Testimony, apart: bool = True
) -> tuple[list[dict], dict[str, Tensor], dict[str, Tensor]]:
    """Fit the linear experts of `model`, in place, and the weights of all.

    Args:
        validation: posts that none has learned from; there may be none.
        apart: whether what was left out of a fold is unknown to it; else weights come from validation posts alone.

    Returns:
        The tasks with `expert_weights`; task -> logits of posts by who did not learn from them, and their labels: training
        posts, then validation posts.
    """
    config, tasks, logits, labels = model.config, [], {}, {}
    members = config.members
    folds = train.keys % (members if members > 1 else FOLDS)
    unseen = (train.keys != 0) & (members > 1) & apart
    readers = {expert: reader_of(expert, train) for expert in config.experts if expert in LINEAR}
    if WORDS in readers:
        model.experts.rarity.copy_(readers[WORDS].rarity)
    for index, task in enumerate(config.tasks):
        name, kind = task["name"], kind_of(task)
        said = dict(train.scores[name])
        if members > 1:
            said["network"] = kind.scores(train.members[name][folds, torch.arange(len(folds))])
        heard = dict(validation.scores[name])
        for expert, reader in readers.items():
            layer = model.experts.layers(expert)[index]
            known = kind.known(train.labels[name])
            for modality in NEEDS[expert]:
                known = known & train.present[modality]
            rows = known.nonzero().squeeze(1)
            if len(rows) < 2:  # nothing to learn from: it says nothing of this task
                with torch.no_grad():
                    layer.weight.zero_()
                    layer.bias.zero_()
                said.pop(expert, None)
                heard.pop(expert, None)
                continue
            labelled = train.labels[name][rows], folds[rows]
            fitted = reader.fit(task, rows, *labelled)
            outputs = reader.outputs(read_by(expert, validation), fitted)
            with torch.no_grad():
                layer.weight.copy_(fitted.weight)
                layer.bias.copy_(fitted.bias)
            said[expert][rows] = kind.scores(kind.form(fitted.left_out))
            heard[expert] = kind.scores(kind.form(outputs))
        scores = {expert: torch.cat([said[expert][unseen], heard[expert]]) for expert in said}
        truth = torch.cat([train.labels[name][unseen], validation.labels[name]])
        present = {m: torch.cat([train.present[m][unseen], here]) for m, here in validation.present.items()}
        task = task | {"expert_weights": expert_weights(task, scores, truth, present)}
        tasks.append(task)
        logits |= verdicts([task], {name: scores}, present)
        labels[name] = truth
    return tasks, logits, labels


def expected_weights(names: list[str]) -> list[float]:
    """What experts of these names are expected to weigh, of sum 1: all the same."""
    # both experts on the text encoder count as one, or texts would outweigh neighbours
    sources = ["text" if name == TEXT_LAYERS else name for name in names]
    return [1 / len(set(sources)) / sources.count(name) for name in sources]


def expert_weights(
    task: dict, scores: dict[str, Tensor], labels: Tensor, present: dict[str, Tensor]
) -> dict[str, float] | None:
    """Weights of experts, of sum 1, under which the labels are likeliest; None without labels.

    They are drawn to weights that are expected of any task, so that few posts do not silence an expert.

    Args:
        scores: expert -> (N, C) or (N,). labels: in the form of the task's kind. present: modality -> bool (N,); of a post
            without it no expert speaks who needs it.
    """
    kind, known = kind_of(task), kind_of(task).known(labels)
    speaks = {name: torch.ones_like(known) for name in scores}
    for name in scores:
        for modality in NEEDS[name]:
            speaks[name] = speaks[name] & present[modality]
    names = [name for name in scores if (speaks[name] & known).any()]
    if not names:
        return None
    said = torch.stack([scores[name][known] for name in names]).double()
    spread = 1.0 if kind.is_classification else max(float(labels[known].double().std(correction=0)), 1e-6)
    heard = torch.stack([speaks[name][known] for name in names]).double()
    truth = labels[known]
    shape = (1,) if said.dim() == 2 else (said.shape[-1],)
    expected = torch.tensor(expected_weights(names), dtype=torch.float64)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.tensor(values, requires_grad=True)
        weight, bias = values[: len(names)], values[len(names) :]
        total = weight.sum().clamp(min=1e-3)
        if not kind.is_classification:  # the mean of values is one: neither a sharper one nor one beside it
            weight, bias, total = weight / total, 0 * bias, torch.ones((), dtype=torch.float64)
        shares = weight[:, None] * heard
        shares = shares / shares.sum(0).clamp(min=1e-3) * total
        losses, counts = kind.losses(torch.einsum("en,en...->n...", shares, said) + bias, truth, None, 0.0)
        mean = losses.sum() / counts.sum() / spread**2 + CAUTION * (weight / total - expected).square().sum()
        mean.backward()
        return float(mean.detach()), values.grad.numpy()

    start = np.concatenate([expected.numpy(), np.zeros(shape)])
    bounds = [(0.0, 10.0)] * len(names) + [(None, None)] * shape[0]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[: len(names)]
    found = found / max(found.sum(), 1e-9)
    found = np.where(found < LEAST_HEARD, 0.0, found)
    if found.sum() == 0:
        return None
    return {name: round(float(weight), 4) for name, weight in zip(names, found / found.sum(), strict=True) if weight}
