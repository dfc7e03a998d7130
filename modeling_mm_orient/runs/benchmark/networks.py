# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Baselines that are small networks: one body, a head per task, the losses of all tasks added up.

Shapes: B posts, D features, L regions or tokens, H hidden width, C labels of a task.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...tasks import kind_of
from .baselines import Baseline, Predict, Standardised
from .features import MODALITIES, PostArrays
from .selection import validation_score

HIDDEN, DROPOUT = 128, 0.3
ATTENTION_WIDTH, ATTENTION_HEADS = 64, 2
PROJECTED = 32  # of each modality before their outer product
BATCH, EPOCHS, PATIENCE, WEIGHT_DECAY = 64, 20, 4, 0.01
PREDICTED_AT_ONCE = 512


class Network(Baseline):
    """A network, trained by AdamW; the epoch with the best score on validation is kept."""

    hyper_parameter, values = "learning_rate", (5e-4, 2e-3, 8e-3)
    seeded = True

    def body(self, sizes: dict[str, int]) -> tuple[nn.Module, int]:
        """What makes of inputs, name -> (B, D), a vector (B, H), and H; `sizes` are the inputs' last dimensions."""
        raise NotImplementedError

    def module(self, sizes: dict[str, int], tasks: list[dict]) -> nn.Module:
        """Inputs to logits by task."""
        return WithHeads(*self.body(sizes), tasks)

    def fit(self, train, validation, tasks, value, seed) -> Predict:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            scaled, scales = Standardised(train), _label_scales(tasks, train)
            inputs, seen = self._inputs(train, scaled), self._inputs(validation, scaled)
            module = self.module({name: values.shape[-1] for name, values in inputs.items()}, tasks)
            _train(module, inputs, train.labels, seen, validation.labels, tasks, scales, value)
        return lambda posts: _predicted(module, self._inputs(posts, scaled), scales)

    def _inputs(self, posts: PostArrays, scaled: Standardised) -> dict[str, Tensor]:
        return scaled(posts)


class Concatenation(Network):
    """All embeddings side by side through one hidden layer."""

    name = "concatenation"

    def body(self, sizes):
        return Joined(sum(sizes.values())), HIDDEN


class LateFusion(Network):
    """A network per modality; the mean of their logits."""

    name = "late_fusion"

    def module(self, sizes, tasks):
        return MeanOfLogits({name: WithHeads(Only(name, size), HIDDEN, tasks) for name, size in sizes.items()})


class GatedFusion(Network):
    """A gated multimodal unit (Arevalo et al. 2017): per feature, how much of which modality."""

    name = "gated_fusion"

    def body(self, sizes):
        return GatedUnit(sizes), HIDDEN


class CrossAttention(Network):
    """Tokens attend to regions and regions to tokens, both pooled."""

    name = "cross_attention"
    reads_sequences = True

    def body(self, sizes):
        return AttendingEachOther(sizes), 2 * ATTENTION_WIDTH

    def _inputs(self, posts, scaled):
        found = {name: posts.sequences[name][0] for name in MODALITIES}
        return found | {f"{name}_mask": posts.sequences[name][1] for name in MODALITIES}


class HateClipper(Network):
    """The outer product of both modalities' projections (Hate-CLIPper, Kumar and Nandakumar 2022, their cross fusion)."""

    name = "hate_clipper"

    def body(self, sizes):
        return FeatureInteractions(sizes), HIDDEN


class WithHeads(nn.Module):
    """A body and a linear head per task."""

    def __init__(self, body: nn.Module, width: int, tasks: list[dict]):
        super().__init__()
        self.body, self.tasks = body, tasks
        self.heads = nn.ModuleList([nn.Linear(width, kind_of(task).num_outputs(task)) for task in tasks])

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.body(inputs)
        heads = zip(self.tasks, self.heads, strict=True)
        return {task["name"]: kind_of(task).form(head(hidden)) for task, head in heads}


class MeanOfLogits(nn.Module):
    def __init__(self, parts: dict[str, nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts.values())

    def forward(self, inputs):
        found = [part(inputs) for part in self.parts]
        return {name: torch.stack([logits[name] for logits in found]).mean(0) for name in found[0]}


class Joined(nn.Sequential):
    def __init__(self, size: int):
        super().__init__(*_layer(size))

    def forward(self, inputs):
        return super().forward(torch.cat(list(inputs.values()), 1))


class Only(nn.Sequential):
    def __init__(self, name: str, size: int):
        super().__init__(*_layer(size))
        self.name = name

    def forward(self, inputs):
        return super().forward(inputs[self.name])


class GatedUnit(nn.Module):
    """`h = z * tanh(W_i x_i) + (1 - z) * tanh(W_t x_t)`, `z = sigmoid(W_z [x_i; x_t])`."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        self.image, self.text = (nn.Linear(sizes[name], HIDDEN) for name in MODALITIES)
        self.gate, self.dropout = nn.Linear(sizes["image"] + sizes["text"], HIDDEN), nn.Dropout(DROPOUT)

    def forward(self, inputs):
        image, text = inputs["image"], inputs["text"]
        gate = self.gate(torch.cat([image, text], 1)).sigmoid()
        return self.dropout(gate * self.image(image).tanh() + (1 - gate) * self.text(text).tanh())


class AttendingEachOther(nn.Module):
    """(B, R, D) and (B, T, D) with their masks to (B, 2 W): each sequence's mean and what its entries hear of the other.

    A learned entry before each sequence is always there. What comes after attention is linear and follows the means.
    """

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        width = ATTENTION_WIDTH
        self.first = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(sizes[name])) for name in MODALITIES})
        self.own, self.query = (
            nn.ModuleDict({name: nn.Linear(sizes[name], width) for name in MODALITIES}) for _ in range(2)
        )
        others = zip(MODALITIES, MODALITIES[::-1], strict=True)
        self.key_value = nn.ModuleDict({name: nn.Linear(sizes[other], 2 * width) for name, other in others})
        self.heard = nn.ModuleDict({name: nn.Linear(width, width) for name in MODALITIES})
        self.norm, self.dropout = nn.LayerNorm(2 * width), nn.Dropout(DROPOUT)

    def forward(self, inputs):
        values, masks, pooled = {}, {}, []
        for name in MODALITIES:
            first = self.first[name].expand(len(inputs[name]), 1, -1)
            values[name] = torch.cat([first, inputs[name]], 1)
            masks[name] = F.pad(inputs[f"{name}_mask"], (1, 0), value=True)
        for name, other in (MODALITIES, MODALITIES[::-1]):
            query, key, value = (
                part.unflatten(2, (ATTENTION_HEADS, -1)).transpose(1, 2)
                for part in (self.query[name](values[name]), *self.key_value[name](values[other]).chunk(2, 2))
            )
            heard = F.scaled_dot_product_attention(query, key, value, attn_mask=masks[other][:, None, None])
            share = masks[name] / masks[name].sum(1, keepdim=True)
            own, heard = (
                torch.einsum("bl,bld->bd", share, part) for part in (values[name], heard.transpose(1, 2).flatten(2))
            )
            pooled.append(self.own[name](own) + self.heard[name](heard))
        return self.dropout(self.norm(torch.cat(pooled, 1)))


class FeatureInteractions(nn.Module):
    """The flattened outer product of both projections, (B, P * P), through a hidden layer."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        self.image, self.text = (
            nn.Sequential(nn.Linear(sizes[name], PROJECTED), nn.ReLU(), nn.Dropout(DROPOUT)) for name in MODALITIES
        )
        self.after = nn.Sequential(*_layer(PROJECTED * PROJECTED))

    def forward(self, inputs):
        image, text = self.image(inputs["image"]), self.text(inputs["text"])
        return self.after((image[:, :, None] * text[:, None, :]).flatten(1))


def _layer(size: int) -> list[nn.Module]:
    return [nn.Linear(size, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT)]


def _label_scales(tasks: list[dict], train: PostArrays) -> dict[str, tuple[float, float]]:
    """Task name -> mean and deviation of a regression's labels, 0 and 1 of other tasks."""
    scales = {}
    for task in tasks:
        kind, labels = kind_of(task), train.labels[task["name"]]
        labels = labels[kind.known(labels)]
        scaled = not kind.is_classification and len(labels) > 0
        deviation = float(labels.std(correction=0)) if scaled else 1.0
        scales[task["name"]] = (float(labels.mean()) if scaled else 0.0, deviation or 1.0)
    return scales


def _train(module, inputs, labels, seen, seen_labels, tasks, scales, learning_rate: float) -> None:
    """Train in place; afterwards the module has its best epoch's weights."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, foreach=True)
    best, kept, waited, count = -math.inf, None, 0, len(next(iter(inputs.values())))
    for _ in range(EPOCHS):
        module.train()
        for rows in torch.randperm(count).split(BATCH):
            logits = module({name: values[rows] for name, values in inputs.items()})
            loss = sum(_loss(task, logits, labels, rows, scales[task["name"]]) for task in tasks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = validation_score(tasks, _predicted(module, seen, scales), seen_labels)
        waited = 0 if score > best else waited + 1
        if score > best:
            best, kept = score, copy.deepcopy(module.state_dict())
        if waited == PATIENCE:
            break
    module.load_state_dict(kept)
    module.eval()


def _loss(task: dict, logits: dict, labels: dict, rows: Tensor, scale: tuple[float, float]) -> Tensor:
    kind, truth = kind_of(task), labels[task["name"]][rows]
    truth = truth if kind.is_classification else (truth - scale[0]) / scale[1]
    losses, weights = kind.losses(logits[task["name"]], truth, None, 0.0)
    return losses.sum() / weights.sum().clamp(min=1.0)


@torch.inference_mode()
def _predicted(module, inputs: dict[str, Tensor], scales: dict) -> dict[str, Tensor]:
    module.eval()
    names, parts = list(inputs), zip(*(values.split(PREDICTED_AT_ONCE) for values in inputs.values()), strict=True)
    found = [module(dict(zip(names, part, strict=True))) for part in parts]
    return {
        name: torch.cat([logits[name] for logits in found]).double() * deviation + mean
        for name, (mean, deviation) in scales.items()
    }
