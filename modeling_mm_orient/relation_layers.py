# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""CMRL: cross-modal relation learning (paper section 3.3): GraphSAGE layers and the four streams.

Shapes: B posts of this process, S posts of the global batch, K reference posts listed for a post, D features, C labels.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cpu_speed import CpuLinear, fastest_linear
from .global_batch import GlobalBatch
from .message_passing import Graph, aggregate_neighbours
from .names import MODALITIES
from .private_apis import is_listened_to
from .relation_graph import listed_cosines

CHEAP_WEIGHTS = 12  # measured


class RelationStreamKind(NamedTuple):
    """Whose features travel (`features`) over whose relation graph (`graph`)."""

    features: str
    graph: str


STREAMS = {
    "image_over_image": RelationStreamKind("image", "image"),
    "text_over_text": RelationStreamKind("text", "text"),
    "image_over_text": RelationStreamKind("image", "text"),
    "text_over_image": RelationStreamKind("text", "image"),
}


class ReferencePosts(NamedTuple):
    """Neighbours in the relation memory, by one modality's graph (ours).

    `embeds` and `present`: modality -> (B, K, D) and bool (B, K); `weights` (B, K): edge weights, 0 for padding; `entries`
    (B, K) int64 and `similarity` (B, K): see `Neighbours`.
    """

    embeds: dict[str, Tensor]
    present: dict[str, Tensor]
    weights: Tensor
    entries: Tensor
    similarity: Tensor


class RelationLayer(nn.Module):
    """GraphSAGE with mean aggregation: `h_i = normalise([x_i ; m_i] W + b)`, L2, where `m_i` is the neighbours' mean.

    Args:
        in_features, out_features: D before and after.
        normalize: L2-normalise the output (paper).
        backend: of `aggregate_neighbours`.
        gated: learn per post how much of the neighbourhood is listened to (ours).
        dropout: in training, how often a post is its own neighbourhood (ours).
        cheap_weights: features that travel per weight from which both are projected apart; the result is the same.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        normalize: bool = True,
        backend: str = "auto",
        gated: bool = False,
        dropout: float = 0.0,
        cheap_weights: int = CHEAP_WEIGHTS,
    ):
        super().__init__()
        self.cheap_weights = cheap_weights
        self.linear = nn.Linear(2 * in_features, out_features)
        self.gate = nn.Linear(2 * in_features + 1, 1) if gated else None
        self.normalize, self.backend, self.dropout = normalize, backend, dropout

    def forward(
        self,
        own: Tensor,
        sources: Tensor,
        graph: Graph,
        present: Tensor,
        listed: Tensor | None = None,
        listed_weights: Tensor | None = None,
        neighbourhood: Tensor | None = None,
    ) -> Tensor:
        """`own` (B, D); `sources` (S, D), `graph`, `present` (S,), `listed` (B, K, D) and `listed_weights` (B, K) as
        `aggregate_neighbours` takes them -> (B, out_features). `neighbourhood` (B, D): its result, where that is known."""
        selective = self.gate is not None or (self.training and self.dropout > 0)
        unknown = neighbourhood is None and listed is None
        if unknown and not selective and self._projects_first(own, sources, graph):
            of_own, of_neighbours = self.linear.weight.chunk(2, 1)
            project = fastest_linear if type(self.linear) is CpuLinear else F.linear
            messages = aggregate_neighbours(project(sources, of_neighbours), graph, present, self.backend)
            return self._normalised(project(own, of_own, self.linear.bias) + messages)
        if neighbourhood is None:
            neighbourhood = aggregate_neighbours(sources, graph, present, self.backend, listed, listed_weights)
        if selective:
            share = self._share_listened_to(own, neighbourhood)
            neighbourhood = own + share * (neighbourhood - own)
        return self.combine(own, neighbourhood)

    def combine(self, own: Tensor, neighbourhood: Tensor) -> Tensor:
        """`own` and `neighbourhood` (..., D) -> (..., out_features)."""
        if type(self.linear) is CpuLinear:
            return self._normalised(self.linear(own, neighbourhood))
        return self._normalised(self.linear(torch.cat([own, neighbourhood], -1)))

    def _projects_first(self, own: Tensor, sources: Tensor, graph: Graph) -> bool:
        """Whether fewer features travel far enough to pay for the projections of own and neighbours apart; adapters,
        sharding and hooks want the layer to be called."""
        layer = self.linear
        saved = sources.shape[-1] - layer.out_features
        if torch.compiler.is_compiling() or saved <= 0 or len(sources) != len(own):
            return False
        plain = type(layer) in (nn.Linear, CpuLinear)
        pays = len(graph.edges[0]) * saved > self.cheap_weights * layer.weight.numel()
        return plain and not is_listened_to(layer) and pays

    def _normalised(self, hidden: Tensor) -> Tensor:
        return F.normalize(hidden, dim=-1, eps=1e-6) if self.normalize else hidden

    def _share_listened_to(self, own: Tensor, neighbourhood: Tensor) -> Tensor:
        share = own.new_ones(own.shape[0], 1)
        if self.gate is not None:
            # in single precision: in half the squared norms' least value is 0
            agreement = F.cosine_similarity(own.float(), neighbourhood.float(), dim=-1).unsqueeze(-1)
            share = self.gate(torch.cat([own, neighbourhood, agreement.to(own.dtype)], -1)).sigmoid()
        if self.training and self.dropout:
            share = share * (torch.rand_like(share) >= self.dropout)
        return share


class RelationStream(nn.Module):
    """One stream: relation layers over one graph, ReLU between them (ours; the paper has one).

    Args:
        in_features: D of what travels. out_features, num_layers: width and number of the layers.
        options: of every `RelationLayer`.
    """

    def __init__(self, in_features: int, out_features: int, num_layers: int = 1, **options):
        super().__init__()
        sizes = [in_features] + [out_features] * num_layers
        self.layers = nn.ModuleList(
            RelationLayer(size_in, size_out, **options) for size_in, size_out in pairwise(sizes)
        )

    def forward(
        self,
        features: Tensor,
        graph: Graph,
        present: Tensor,
        batch: GlobalBatch,
        listed: Tensor | None = None,
        listed_weights: Tensor | None = None,
        neighbourhood: Tensor | None = None,
    ) -> Tensor:
        """`features` (B, D), `graph` of B targets and S sources, `present` (S,), `listed` (B, K, D), `listed_weights`
        (B, K), `neighbourhood` (B, D) of the first layer -> (B, out_features).

        Reference posts receive no messages: in a further layer each is its own neighbourhood.
        """
        for index, layer in enumerate(self.layers):
            if index:
                features, neighbourhood = F.relu(features), None
                listed = None if listed is None else F.relu(self.layers[index - 1].combine(listed, listed))
            sources = features if neighbourhood is not None else batch.gather(features)
            features = layer(features, sources, graph, present, listed, listed_weights, neighbourhood)
        return features


class CrossModalRelations(nn.Module):
    """The streams that run, concatenated in the order of `STREAMS`.

    Args:
        names: of `STREAMS`.
        embed_dims: modality -> D of its embeddings.
        out_features, num_layers, backend, options: as `RelationStream` takes them.
    """

    def __init__(
        self,
        names: list[str],
        embed_dims: dict[str, int],
        out_features: int,
        num_layers: int = 1,
        backend: str = "auto",
        **options,
    ):
        super().__init__()
        self.backend = backend
        self.streams = nn.ModuleDict(
            {
                name: RelationStream(embed_dims[kind.features], out_features, num_layers, backend=backend, **options)
                for name, kind in STREAMS.items()
                if name in names
            }
        )

    def forward(
        self,
        embeds: dict[str, Tensor],
        graphs: dict[str, Tensor],
        present: dict[str, Tensor],
        batch: GlobalBatch,
        references: dict[str, ReferencePosts] | None = None,
        neighbourhoods: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Run every stream.

        Args:
            embeds: modality -> (B, D) embeddings, zeros where the modality is missing.
            graphs: modality -> (B, S) edge weights.
            present: modality -> (S,) bool; a post without the travelling modality sends nothing.
            references: modality -> its graph's neighbours in the relation memory.
            neighbourhoods: stream -> what its first layer hears, (B, D): filled by who finds it empty, for networks that
                read the same posts; None is not kept.

        Returns:
            (B, streams * out_features).
        """
        outputs, edges = [], {modality: Graph(adjacency) for modality, adjacency in graphs.items()}
        for name, stream in self.streams.items():
            kind = STREAMS[name]
            features, graph, here = embeds[kind.features], edges[kind.graph], present[kind.features]
            listed: tuple[Tensor | None, Tensor | None] = (None, None)
            if references:
                found = references[kind.graph]
                listed = found.embeds[kind.features], found.weights * found.present[kind.features]
            if neighbourhoods is not None and name not in neighbourhoods:
                neighbourhoods[name] = aggregate_neighbours(batch.gather(features), graph, here, self.backend, *listed)
            heard = None if neighbourhoods is None else neighbourhoods[name]
            outputs.append(stream(features, graph, here, batch, *listed, heard))
        return torch.cat(outputs, -1)


VOTERS = ("image", "text", "both")
DOUBT = 0.5


def votes_of_neighbours(similarity: Tensor, values: Tensor, known: Tensor, temperature: float) -> Tensor:
    """What the neighbours' labels say beyond the average (ours): a mean weighted by exp((cosine - best) / temperature).

    It is drawn to 0 as if half a neighbour of the best one's weight knew nothing but the average.

    Args:
        similarity: (B, K), -inf for padding. values, known: (B, K, C), see `RelationMemory.label_summaries`.

    Returns:
        (B, C), zeros where no neighbour knows anything.
    """
    if not similarity.shape[-1]:
        return values.new_zeros(values.shape[0], values.shape[-1])
    best = similarity.amax(-1, keepdim=True).clamp(min=-1)
    weights = ((similarity - best) / temperature).exp().unsqueeze(-1)
    return (weights * values).sum(1) / ((weights * known).sum(1) + DOUBT)


def neighbour_votes(
    references: dict[str, ReferencePosts],
    embeds: dict[str, Tensor],
    summaries: dict[str, tuple[Tensor, Tensor]],
    temperature: float,
) -> dict[str, Tensor]:
    """Votes of three neighbourhoods: of the image graph, of the text graph, and of both, by mean cosine.

    Args:
        references: modality -> neighbours in the memory. embeds: modality -> (B, D), the posts' own.
        summaries: what its labels say, see `RelationMemory.label_summaries`.

    Returns:
        Task name -> (B, 3, C), in the order of `VOTERS`.
    """
    lists = {
        m: (found.entries, found.similarity.masked_fill(found.entries < 0, -torch.inf))
        for m, found in references.items()
    }
    lists["both"] = _neighbours_in_either(references, embeds)
    votes = {}
    for name, (values, known) in summaries.items():
        ballots = []
        for entries, similarity in (lists[voter] for voter in VOTERS):
            rows = entries.clamp(min=0).to(values.device)
            said, knew = values[rows].to(similarity.device), known[rows].to(similarity.device)
            ballots.append(votes_of_neighbours(similarity, said, knew, temperature))
        votes[name] = torch.stack(ballots, 1)
    return votes


def _neighbours_in_either(references: dict[str, ReferencePosts], embeds: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The neighbours in either graph, K1 + K2 of them, by the mean of both cosines: entries and means (B, K1 + K2)."""
    image, text = references["image"], references["text"]
    # a post that both graphs found counts once
    again = (text.entries[:, :, None] == image.entries[:, None, :]).any(-1)
    entries = torch.cat([image.entries, text.entries.masked_fill(again, -1)], -1)
    cosines = [
        torch.cat(
            [
                references[by].similarity if m == by else listed_cosines(embeds[m].detach(), references[by].embeds[m])
                for by in MODALITIES
            ],
            -1,
        )
        for m in MODALITIES
    ]
    return entries, (sum(cosines) / len(cosines)).masked_fill(entries < 0, -torch.inf)
