# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Experts (ours): each speaks of every task by itself, and a task's verdict is their weighted mean.

`words` is linear in the n-grams of the text, weighed by their rarity among training posts (TF-IDF); `text`, `image` and
`both` are in E_txt, E_img and both side by side, `text_layers` in what the text encoder's middle layers say
(`PostInputs`); `neighbours` is the vote of the reference posts' labels; `network` is MM-ORIENT's network. What one says is a
score per label: a log-probability, of several labels the log-odds, for regression a value.

Shapes: B posts, C labels of a task, D features, N n-grams.
"""

from typing import cast

import torch
from torch import Tensor, nn

from .names import MODALITIES
from .ngrams import BUCKETS
from .tasks import kind_of

WORDS, NGRAMS = "words", "ngrams"
TEXT_LAYERS = "text_layers"
# expert -> what a post must have for it to speak: modalities, n-grams, layers
NEEDS: dict[str, tuple[str, ...]] = {
    WORDS: (NGRAMS,), "text": ("text",), TEXT_LAYERS: (TEXT_LAYERS,), "image": ("image",), "both": MODALITIES,
    "neighbours": (), "network": (),
}  # fmt: skip
LINEAR = ("words", "text", "text_layers", "image", "both")
LEAST_WEIGHT = 1e-3  # so that where those of weight lack their modality, the others speak


class Experts(nn.Module):
    """What each expert says; the linear ones have a layer per task.

    Args:
        names: of `NEEDS`.
        tasks: task descriptions of the configuration.
        widths: modality or layers -> D.
    """

    def __init__(self, names: list[str], tasks: list[dict], widths: dict[str, int]):
        super().__init__()
        self.names, self.tasks = names, tasks
        self.linear = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    nn.Linear(
                        sum((widths | {NGRAMS: BUCKETS})[m] for m in NEEDS[name]), kind_of(task).num_outputs(task)
                    )
                    for task in tasks
                )
                for name in names
                if name in LINEAR
            }
        ).requires_grad_(False)  # fitted when all else is trained, see `runs.blending`
        self.rarity: Tensor | None
        self.register_buffer("rarity", torch.zeros(BUCKETS) if WORDS in names else None)

    def layers(self, name: str) -> nn.ModuleList:
        """A linear expert's layer for each task."""
        return cast("nn.ModuleList", self.linear[name])

    def forward(
        self,
        embeds: dict[str, Tensor],
        network: dict[str, Tensor],
        votes: dict[str, Tensor] | None,
        averages: dict[str, tuple[Tensor, Tensor]] | None,
        ngram_ids: Tensor,
    ) -> dict[str, dict[str, Tensor]]:
        """Task -> expert -> scores (B, C), or (B,).

        Args:
            embeds: modality or layers -> (B, D). network: task -> the network's own scores.
            votes: task -> (B, 3, C), see `neighbour_votes`. averages: see `RelationMemory.label_averages`.
            ngram_ids: (B, N) int64, see `PostInputs`.
        """
        values = None if self.rarity is None else tf_idf(ngram_ids, self.rarity)
        scores: dict[str, dict[str, Tensor]] = {}
        for index, task in enumerate(self.tasks):
            kind, said = kind_of(task), {}
            for name in self.names:
                if values is not None and name == WORDS:
                    layer = cast("nn.Linear", self.layers(name)[index])
                    said[name] = kind.scores(kind.form(of_ngrams(layer, ngram_ids, values)))
                elif name in LINEAR:
                    layer = cast("nn.Linear", self.layers(name)[index])
                    features = torch.cat([embeds[m] for m in NEEDS[name]], -1).to(layer.weight.dtype)
                    said[name] = kind.scores(kind.form(layer(features)))
                elif name == "network":
                    said[name] = network[task["name"]]
                elif votes is not None and averages is not None:
                    said[name] = kind.scores_of_votes(votes[task["name"]][:, -1], *averages[task["name"]])
            scores[task["name"]] = said
        return scores

    @torch.no_grad()
    def keep_from(self, other: "Experts", tasks: list[str]) -> None:
        """Take over what `other` knows of tasks that stay."""
        old = {task["name"]: place for place, task in enumerate(other.tasks)}
        if self.rarity is not None and other.rarity is not None:
            self.rarity.copy_(other.rarity)
        for place, task in enumerate(self.tasks):
            if task["name"] in tasks:
                for name in self.linear:
                    self.layers(name)[place].load_state_dict(other.layers(name)[old[task["name"]]].state_dict())


def has_ngrams(ngram_ids: Tensor, has_text: Tensor) -> Tensor:
    """Bool (B,): whose n-grams are known; of a post without a text they are not looked at."""
    return has_text & (ngram_ids > 0).any(-1)


def presence(has_image: Tensor, has_text: Tensor, ngram_ids: Tensor, text_layers: Tensor | None) -> dict[str, Tensor]:
    """Bool (B,) of all that `NEEDS` names."""
    return {
        "image": has_image,
        "text": has_text,
        NGRAMS: has_ngrams(ngram_ids, has_text),
        TEXT_LAYERS: has_text if text_layers is not None else torch.zeros_like(has_text),
    }


def tf_idf(ngram_ids: Tensor, rarity: Tensor) -> Tensor:
    """Values (B, N) of n-grams: their `rarity` (buckets,) float, of length 1 in a post; 0 where `ngram_ids` (B, N) pad."""
    values = rarity[ngram_ids].float()
    return values / values.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-9)


def of_ngrams(layer: nn.Linear, ngram_ids: Tensor, values: Tensor) -> Tensor:
    """(B, C): a layer of all buckets, of posts' n-grams and their values (B, N)."""
    said = torch.einsum("cbn,bn->bc", layer.weight[:, ngram_ids].float(), values)
    return said.to(layer.weight.dtype) + layer.bias


def verdicts(tasks: list[dict], scores: dict[str, dict[str, Tensor]], present: dict[str, Tensor]) -> dict[str, Tensor]:
    """Task -> the weighted mean of what its experts say, as logits. Who lacks a modality is not heard on its account.

    Args:
        tasks: task descriptions; their `expert_weights` weigh, None hears the network alone.
        scores: task -> expert -> (B, C), or (B,). present: bool (B,) of all that `NEEDS` names.
    """
    logits = {}
    for task in tasks:
        said, weights = scores[task["name"]], task.get("expert_weights")
        if weights is None:
            logits[task["name"]] = said["network"]
            continue
        total, heard = torch.zeros_like(said["network"]), torch.zeros_like(said["network"])
        for name, values in said.items():
            weight = values.new_full((values.shape[0],), weights.get(name, 0.0) + LEAST_WEIGHT)
            for modality in NEEDS[name]:
                weight = weight * present[modality]
            weight = weight.reshape(-1, *[1] * (values.dim() - 1))
            total, heard = total + weight * values, heard + weight
        logits[task["name"]] = total / heard
    return logits
