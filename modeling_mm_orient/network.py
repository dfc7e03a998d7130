# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The network after the towers: HIMA, CMRL, MLC's learner. A model has one (paper) or several members of it (ours).

Shapes: B posts, S posts of the global batch, D features.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_mm_orient import MMOrientConfig
from .encoders import PostFeatures
from .global_batch import GlobalBatch
from .hima import HIMA
from .learner import Learner
from .relation_layers import CrossModalRelations, ReferencePosts


class Relations(NamedTuple):
    """Who is whose neighbour: `graphs`, modality -> (B, S) edge weights among the batch; `everyone`, modality -> (S,) bool,
    who of the global batch has it; `references`, modality -> neighbours in the memory; `neighbourhoods`, of several members
    what the first made of all these, see `CrossModalRelations.forward`."""

    graphs: dict[str, Tensor]
    everyone: dict[str, Tensor]
    references: dict[str, ReferencePosts]
    neighbourhoods: dict[str, Tensor] | None = None


class Understanding(NamedTuple):
    """What a network makes of posts; see `MMOrientOutput` for each."""

    joint_representation: Tensor
    merged_features: Tensor
    region_vector: Tensor
    word_vector: Tensor
    relation_features: Tensor | None
    region_attention: Tensor
    word_attention: Tensor


class NetworkParts(nn.Module):
    """The parts of a network, and how they are run. A model is the first of its members itself, under the paper's names."""

    region_hima: HIMA
    word_hima: HIMA
    relations: CrossModalRelations | None
    learner: Learner

    def add_parts(self, config: MMOrientConfig) -> None:
        """Make the parts, with random weights."""
        hima: dict[str, Any] = {
            "hidden_size": config.attention_hidden_size,
            "context_vector": config.attention_context_vector,
            "stage1": config.hima_stage1,
            "stage2": config.hima_stage2,
            "combine": config.stage2_combine,
            "momentum": config.stage2_momentum,
        }
        self.region_hima = HIMA(config.region_feature_dim, **hima)
        self.word_hima = HIMA(config.token_feature_dim, **hima)
        self.relations = None
        if config.relation_streams:
            self.relations = CrossModalRelations(
                list(config.relation_streams),
                config.embed_dims,
                config.relation_hidden_size,
                config.relation_layers,
                normalize=config.relation_normalize,
                backend=config.message_passing_backend,
                gated=config.relation_gate,
                dropout=config.relation_dropout,
            )
        self.merge_normalize = config.merge_normalize
        self.learner = Learner([config.merged_size, *config.learner_hidden_sizes], config.learner_dropout)

    def understand(
        self, posts: PostFeatures, relations: Relations, task_features: Tensor | None, batch: GlobalBatch
    ) -> Understanding:
        """From the towers' features to the joint representation, as in the paper's figure."""
        # HIMA: attention within a post, then across the batch
        region_vector, region_attention = self.region_hima(posts.region_features, posts.region_mask, batch)
        word_vector, word_attention = self.word_hima(posts.token_features, posts.token_mask, batch)

        # CMRL: in-modal and cross-modal streams over both relation graphs, in the batch and in the memory
        relation_features = None
        if self.relations is not None:
            graphs, everyone, references, neighbourhoods = relations
            relation_features = self.relations(posts.embeds, graphs, everyone, batch, references, neighbourhoods)

        # MLC: merged in the order of the reference code, then the learner network
        parts = [relation_features, region_vector, word_vector, task_features]
        merged = [part.to(region_vector.dtype) for part in parts if part is not None]
        if self.merge_normalize:
            merged = [F.layer_norm(part, part.shape[-1:]) for part in merged]
        merged_features = torch.cat(merged, -1)
        return Understanding(
            *(self.learner(merged_features), merged_features, region_vector, word_vector, relation_features),
            *(region_attention, word_attention),
        )


class Member(NetworkParts):
    """A further member: the same network with weights of its own."""

    def __init__(self, config: MMOrientConfig):
        super().__init__()
        self.add_parts(config)
