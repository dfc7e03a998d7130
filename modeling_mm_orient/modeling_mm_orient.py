# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MM-ORIENT (arXiv 2508.16300): towers, HIMA, CMRL, MLC, heads.

Shapes: B posts, R regions, T tokens, D features of a width named by the configuration, S posts of the global batch.
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_mm_orient import ENCODER_NAMES, MMOrientConfig
from .cpu_speed import with_fast_linear
from .encoders import (
    build_encoder,
    encoder_fingerprints,
    joint_embedding,
    load_encoder,
    prepare_encoder,
    region_features,
)
from .global_batch import GlobalBatch
from .hima import HIMA, BatchAttention, masked_mean
from .int8_linear import quantise_linear_layers
from .relation_graph import edge_weights_of, listed_cosines, relation_adjacency, self_loop_adjacency
from .relation_layers import CrossModalRelations, ReferencePosts, RelationLayer, neighbour_votes
from .relation_memory import LARGE_MEMORY, RelationMemory, find_memory, reference_posts, remove_memory
from .task_heads import TRUST_STEP, TaskHeads

HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "subfolder")


@dataclass
class MMOrientOutput(ModelOutput):
    """What both models return.

    Args:
        loss: scalar, with `labels`.
        joint_representation: (B, H), the learner network's output.
        logits: task name -> (B, C), or (B,) for regression; from the model with heads.
        task_losses: task name -> scalar, unweighted, with `labels`.
        region_vector, word_vector: (B, D), HIMA's output per modality, with `output_components`.
        relation_features: (B, streams * relation_hidden_size), CMRL's output, with `output_components`.
        merged_features: (B, M), what the learner network reads: streams, region vector, word vector, task features, in
            the order of the reference code; with `output_components`.
        image_embeds, text_embeds: (B, D), E_img and E_txt, with `output_components`.
        region_attention, word_attention: (B, R) and (B, T), HIMA's stage 1 weights, with `output_attentions`.
        image_adjacency, text_adjacency: (B, S), the relation graphs' edge weights in the batch, with `output_relations`.
        image_neighbours, text_neighbours: (B, K) int64, the neighbours in the relation memory, nearest first, -1 where
            there are fewer; with `output_relations` and a memory. `RelationMemory.evidence` names them.
        image_similarities, text_similarities: (B, K), their cosines.
        neighbour_votes: task name -> (B, 3, C), what the labels of reference posts say, see `neighbour_votes`; where
            `neighbour_labels` is configured.
    """

    loss: Tensor | None = None
    joint_representation: Tensor | None = None
    logits: dict[str, Tensor] | None = None
    task_losses: dict[str, Tensor] | None = None
    region_vector: Tensor | None = None
    word_vector: Tensor | None = None
    relation_features: Tensor | None = None
    merged_features: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    region_attention: Tensor | None = None
    word_attention: Tensor | None = None
    image_adjacency: Tensor | None = None
    text_adjacency: Tensor | None = None
    image_neighbours: Tensor | None = None
    text_neighbours: Tensor | None = None
    image_similarities: Tensor | None = None
    text_similarities: Tensor | None = None
    neighbour_votes: dict[str, Tensor] | None = None


@dataclass
class PostFeatures(ModelOutput):
    """A batch of posts after its encoders, as `MMOrientModel.encode_posts` returns it and `forward` takes it.

    Args:
        image_embeds, text_embeds: (B, D), zeros where the modality is missing.
        region_features, region_mask: (B, R, D) and bool (B, R).
        token_features, token_mask: (B, T, D) and bool (B, T).
        has_image, has_text: bool (B,).
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    region_features: Tensor | None = None
    region_mask: Tensor | None = None
    token_features: Tensor | None = None
    token_mask: Tensor | None = None
    has_image: Tensor | None = None
    has_text: Tensor | None = None


class LearnerLayer(GradientCheckpointingLayer):
    """One layer of the learner network: dense, ReLU, dropout (paper section 3.4)."""

    def __init__(self, in_features: int, out_features: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(in_features, out_features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(torch.relu(self.dense(features)))


class MMOrientPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = MMOrientConfig
    base_model_prefix = "mm_orient"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean already: the Trainer must not rescale it under accumulation
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["HIMA", "CrossModalRelations", "LearnerLayer"]
    quantised_from: list[str] | None = None  # fingerprints of the encoders before `quantise_encoders`

    @classmethod
    def is_custom_code(cls) -> bool:
        # for code that initialises in place, transformers skips modules without parameters of their own, and with them the
        # encoders' own schemes; `transformers.initialization`, used here, spares loaded weights by itself
        return False

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, BatchAttention):
            init.zeros_(module.running_bias)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, RelationLayer) and module.gate is not None:
            # at first everyone listens to a quarter of the neighbourhood
            init.zeros_(module.gate.weight)
            init.constant_(module.gate.bias, -1.0)
        elif isinstance(module, TaskHeads):
            if module.log_variances is not None:
                init.zeros_(module.log_variances)
            if module.trust is not None:
                init.constant_(module.trust, 1 / TRUST_STEP)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, load_relation_memory: bool = True, **kwargs):
        """As in transformers; then frozen encoders are frozen again and the relation memory is attached.

        The memory is that of the checkpoint, or the one that `relation_memory` (of the configuration, or given here) names;
        with `load_relation_memory=False` there is none yet.

        Raises:
            ValueError: the memory is damaged, of another width, or was made by other encoders.
        """
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_encoders(model.config.frozen_encoders)
        if not load_relation_memory:
            return loaded
        elsewhere = model.config.relation_memory
        if elsewhere == LARGE_MEMORY:
            inside = os.path.join(hub_options.get("subfolder", ""), LARGE_MEMORY)
            path = find_memory(pretrained_model_name_or_path, True, **hub_options | {"subfolder": inside})
        elif elsewhere is not None:
            path = find_memory(elsewhere, required=True, **_without(hub_options, "revision", "subfolder"))
        else:
            path = pretrained_model_name_or_path and find_memory(pretrained_model_name_or_path, False, **hub_options)
        if path:
            try:
                model.set_relation_memory(RelationMemory.load(path))
            except ValueError as error:
                if str(path) in str(error):
                    raise
                raise ValueError(f"{path}: {error}") from error
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers; beside the weights the relation memory, if the configuration does not say it lies elsewhere.

        Raises:
            ValueError: the memory is larger than 512 MiB: it has to be saved by itself. Or the encoders are in 8 bits.
        """
        if self.quantised_from is not None:
            raise ValueError(
                "8-bit encoders are not saved: save the model before `quantise_encoders`, and call it after loading"
            )
        memory = self.relation_memory
        if memory is not None and self.config.relation_memory is None and memory.is_large:
            raise ValueError(
                f"a relation memory of {memory.num_bytes / 2**20:.0f} MiB is too large for a checkpoint: save it with "
                "`model.relation_memory.save(folder)` and set `model.config.relation_memory` to the folder or its Hub id"
            )
        super().save_pretrained(save_directory, *args, **kwargs)
        if args[0] if args else kwargs.get("is_main_process", True):
            self._save_relation_memory(save_directory)

    def quantise_encoders(self):
        """Put the encoders' linear layers in 8 bits, in place and for good, to predict faster on a CPU (ours).

        `mm-orient evaluate RUN --int8-encoders` prints what it costs in accuracy. The relation memory stays as it is.

        Returns:
            The model, in `eval()`.

        Raises:
            ValueError: there is no encoder with a linear layer.
        """
        model = getattr(self, "mm_orient", self)
        fingerprints = encoder_fingerprints(model)
        names = model.config.encoder_names
        if not sum(quantise_linear_layers(getattr(model, f"{name}_encoder")) for name in names):
            raise ValueError("this model has no encoder with linear layers to put in 8 bits")
        self.quantised_from = model.quantised_from = fingerprints
        return self.eval()

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        self._save_relation_memory(working_dir)  # `push_to_hub` uploads before `save_pretrained` above comes back
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _save_relation_memory(self, folder) -> None:
        if self.relation_memory is not None and self.config.relation_memory is None:
            self.relation_memory.save(folder)
        else:
            remove_memory(folder)

    @classmethod
    def from_encoders_pretrained(
        cls,
        joint: str | PreTrainedModel | None = None,
        text: str | PreTrainedModel | None = None,
        vision: str | PreTrainedModel | None = None,
        revision: str | dict[str, str] | None = None,
        **config_kwargs,
    ):
        """A new model around pretrained encoders; everything after them has random weights.

        Args:
            joint, text, vision: Hub id, local path or a loaded model. Left out, its features are inputs of the model.
            revision: for all encoders, or per encoder: `{"joint": "...", "text": "..."}`.
            config_kwargs: fields of `MMOrientConfig`.

        Raises:
            ValueError: no encoder is given, or a field is wrong.
        """
        given = {
            name: value for name, value in zip(ENCODER_NAMES, (joint, text, vision), strict=True) if value is not None
        }
        if not given:
            raise ValueError("at least one of `joint`, `text` and `vision` must be given")
        revisions = revision if isinstance(revision, dict) else dict.fromkeys(ENCODER_NAMES, revision)
        encoders = {
            name: value if isinstance(value, nn.Module) else load_encoder(str(value), name, revisions.get(name))
            for name, value in given.items()
        }
        config_kwargs |= {f"{name}_config": encoder.config.to_dict() for name, encoder in encoders.items()}
        return cls(MMOrientConfig(**config_kwargs), encoders=encoders)


class MMOrientModel(MMOrientPreTrainedModel):
    """Posts to a joint representation.

    Args:
        config: `MMOrientConfig`.
        encoders: loaded encoders by name, `"joint"`, `"text"`, `"vision"`; those left out are built from the config.
    """

    def __init__(self, config: MMOrientConfig, encoders: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        encoders = encoders or {}
        keep_pooler = config.embedding_pooling == "pooler" and config.joint_config is None
        for name in config.encoder_names:
            if name in encoders:
                encoder = prepare_encoder(encoders[name], keep_pooler)
                getattr(config, f"{name}_config")._attn_implementation = encoder.config._attn_implementation
                encoder.config = getattr(config, f"{name}_config")
            else:
                encoder = build_encoder(getattr(config, f"{name}_config"), keep_pooler)
            setattr(self, f"{name}_encoder", encoder)

        self.relation_memory, self._checked_weights = None, None
        self.region_hima = HIMA(config, config.region_feature_dim)
        self.word_hima = HIMA(config, config.token_feature_dim)
        self.relations = CrossModalRelations(config) if config.relation_streams else None
        sizes = [config.merged_size, *config.learner_hidden_sizes]
        self.learner = nn.ModuleList(
            LearnerLayer(size_in, size_out, config.learner_dropout) for size_in, size_out in pairwise(sizes)
        )
        self.post_init()
        self.freeze_encoders(config.frozen_encoders)

    def build_relation_memory(self, posts, processor=None, batch_size: int = 32) -> RelationMemory:
        """Make `posts` the relation memory (ours); `relation_scope` says whether it is used.

        To add posts to a memory: `model.relation_memory.add(model.encode_reference_posts(posts, processor))`.

        Args:
            posts: a `datasets.Dataset` or a list of dicts with `image` and `text` (anything the processor takes), or with
                `image_embeds` and `text_embeds`; optionally `id`, and a label per task: its number or its name.
            processor: `MMOrientProcessor`, for pictures and texts.

        Returns:
            The memory, also `model.relation_memory`.

        Raises:
            ValueError: an id is there twice, a label is unknown, or something is missing; the old memory stays.
        """
        self.set_relation_memory(self.encode_reference_posts(posts, processor, batch_size))
        return self.relation_memory

    @torch.no_grad()
    def encode_reference_posts(self, posts, processor=None, batch_size: int = 32) -> RelationMemory:
        """A relation memory that the model does not use yet; arguments as in `build_relation_memory`."""
        training = self.training
        self.eval()
        try:
            return reference_posts(self, posts, processor, batch_size)
        finally:
            self.train(training)

    def set_relation_memory(self, memory: RelationMemory | None) -> None:
        """Use a relation memory, or none.

        Raises:
            ValueError: it was made by other encoders, its embeddings have other widths, or it lacks a task whose labels
                are a stream.
        """
        if memory is not None:
            for modality, values in memory.embeds.items():
                width = getattr(self.config, f"{modality}_embed_dim")
                if values.shape[-1] != width:
                    raise ValueError(
                        f"the relation memory's {modality} embeddings are {values.shape[-1]} wide, the model's {width}"
                    )
            if self.config.neighbour_labels:
                labels = {task["name"]: task["labels"] for task in memory.tasks}
                for task in self.config.tasks:
                    if labels.get(task["name"]) != task["labels"]:
                        raise ValueError(
                            f"the relation memory has no labels for the task {task['name']!r} as the model knows it"
                        )
            if _differ(memory.fingerprints, encoder_fingerprints(self)):
                raise ValueError("the relation memory was made by other encoders than the model's: build it anew")
        self.relation_memory = memory
        self._checked_weights = None

    def freeze_encoders(self, names=ENCODER_NAMES) -> None:
        """Train exactly the encoders that are not in `names`, and record it in the configuration.

        A frozen encoder has no gradients and stays in `eval()` mode, batch statistics included.
        """
        self.config.frozen_encoders = [name for name in ENCODER_NAMES if name in names]
        for name in self.config.encoder_names:
            encoder = getattr(self, f"{name}_encoder")
            encoder.requires_grad_(name not in names)
            prepare_encoder(encoder, keep_pooler=True)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for name in self.config.encoder_names:
            if name in self.config.frozen_encoders:
                getattr(self, f"{name}_encoder").eval()
        return self

    def get_input_embeddings(self):
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.text_encoder.set_input_embeddings(value)

    @with_fast_linear
    def encode_posts(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        joint_pixel_values: Tensor | None = None,
        joint_input_ids: Tensor | None = None,
        joint_attention_mask: Tensor | None = None,
        has_image: Tensor | None = None,
        has_text: Tensor | None = None,
        **features,
    ) -> PostFeatures:
        """Run the encoders and complete the masks; arguments as in `forward`. Features that are given are kept.

        A modality none of whose inputs is given is missing for the whole batch.

        Raises:
            ValueError: some inputs of a modality are given and others missing, or a shape is wrong; it names the input.
        """
        images = self._read_images(pixel_values, pixel_mask, joint_pixel_values, features)
        texts = self._read_texts(
            input_ids, attention_mask, token_type_ids, joint_input_ids, joint_attention_mask, features
        )
        known = [value for read in (images, texts) for value in (read.embeds, read.sequence) if value is not None]
        if not known:
            raise ValueError("no input: give images, texts or their features")
        return PostFeatures(
            **self._complete("image", "region", images, has_image, known[0]),
            **self._complete("text", "token", texts, has_text, known[0]),
        )

    @can_return_tuple
    @with_fast_linear
    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        joint_pixel_values: Tensor | None = None,
        joint_input_ids: Tensor | None = None,
        joint_attention_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        text_embeds: Tensor | None = None,
        region_features: Tensor | None = None,
        region_mask: Tensor | None = None,
        token_features: Tensor | None = None,
        token_mask: Tensor | None = None,
        task_features: Tensor | None = None,
        has_image: Tensor | None = None,
        has_text: Tensor | None = None,
        post_keys: Tensor | None = None,
        output_attentions: bool | None = None,
        output_relations: bool = False,
        output_components: bool = False,
        **kwargs,
    ) -> MMOrientOutput:
        """From pixels and tokens, from features, or from any mixture; `MMOrientProcessor` makes the former.

        Args:
            pixel_values, pixel_mask: input of the vision encoder.
            input_ids, attention_mask, token_type_ids: (B, T), input of the text encoder.
            joint_pixel_values, joint_input_ids, joint_attention_mask: input of the joint encoder.
            image_embeds, text_embeds: (B, D), E_img and E_txt.
            region_features, region_mask: (B, R, D) and (B, R), bool or 0/1; default all regions.
            token_features, token_mask: (B, T, D) and (B, T), bool or 0/1; default all tokens.
            task_features: (B, task_feature_dim), required unless that is 0.
            has_image, has_text: (B,) bool, False where a post lacks the modality: it is masked, has no edges and gets no
                attention; default True.
            post_keys: (B,) int64, a number for each post's content (`key_number`), 0 where unknown. In training with a
                relation memory it leaves the post itself and its duplicates out of its neighbours.
            output_attentions, output_relations, output_components: see `MMOrientOutput`.

        Raises:
            ValueError: an input is missing or has a wrong shape; the message names it. Or the relation memory that the
                configuration asks for is missing or was made by other encoders.
        """
        posts = self.encode_posts(
            pixel_values=pixel_values,
            pixel_mask=pixel_mask,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            joint_pixel_values=joint_pixel_values,
            joint_input_ids=joint_input_ids,
            joint_attention_mask=joint_attention_mask,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            region_features=region_features,
            region_mask=region_mask,
            token_features=token_features,
            token_mask=token_mask,
            has_image=has_image,
            has_text=has_text,
        )
        count = posts.image_embeds.shape[0]
        if self.config.task_feature_dim and task_features is None:
            raise ValueError(f"`task_features` of shape {(count, self.config.task_feature_dim)} is missing")
        if self.config.task_feature_dim:
            _check_shape("task_features", task_features, (count, self.config.task_feature_dim))
        batch = GlobalBatch(
            count,
            posts.image_embeds.device,
            gather=self.training and self.config.gather_global_batch,
        )

        region_vector, region_attention = self.region_hima(posts.region_features, posts.region_mask, batch)
        word_vector, word_attention = self.word_hima(posts.token_features, posts.token_mask, batch)
        merged, graphs = [region_vector, word_vector], {}
        relation_features = None
        embeds = {"image": posts.image_embeds, "text": posts.text_embeds}
        references = {}
        if self.config.relation_scope != "batch":
            references = self.look_up_references(posts, post_keys, without_themselves=self.training)
        if self.relations is not None:
            graphs, present = self._relation_graphs(posts, batch)
            relation_features = self.relations(embeds, graphs, present, batch, references)
            merged = [relation_features, *merged]
        if self.config.task_feature_dim:
            merged.append(task_features.to(region_vector.dtype))
        merged_features = torch.cat(merged, -1)
        hidden = merged_features
        for layer in self.learner:
            hidden = layer(hidden)

        parts = {"joint_representation": hidden}
        if self.config.neighbour_labels:
            temperature = self.config.edge_temperature
            parts["neighbour_votes"] = neighbour_votes(references, embeds, self.relation_memory, temperature)
        if output_components:
            parts |= {"region_vector": region_vector, "word_vector": word_vector, "merged_features": merged_features}
            parts |= {"image_embeds": posts.image_embeds, "text_embeds": posts.text_embeds}
            parts |= {"relation_features": relation_features}
        if self.config.output_attentions if output_attentions is None else output_attentions:
            parts |= {"region_attention": region_attention, "word_attention": word_attention}
        if output_relations:
            parts |= {f"{modality}_adjacency": adjacency for modality, adjacency in graphs.items()}
            parts |= {f"{modality}_neighbours": found.entries for modality, found in references.items()}
            parts |= {f"{modality}_similarities": found.similarity for modality, found in references.items()}
        return MMOrientOutput(**parts)

    @torch.compiler.disable
    def look_up_references(
        self, posts: PostFeatures, post_keys: Tensor | None = None, without_themselves: bool = False
    ) -> dict[str, ReferencePosts]:
        """The neighbours of `posts` in the relation memory, by modality; without the posts themselves and their exact
        duplicates, by `post_keys` (see `forward`) and embeddings, if so asked.

        Raises:
            ValueError: there is no memory, or in `eval()` it was made by other encoders.
        """
        self._check_relation_memory(post_keys)
        config, memory = self.config, self.relation_memory
        embeds = {modality: posts[f"{modality}_embeds"] for modality in ("image", "text")}
        present = {modality: posts[f"has_{modality}"] for modality in ("image", "text")}
        found = {}
        for modality in ("image", "text"):
            neighbours = memory.look_up(
                modality,
                embeds[modality],
                present[modality],
                None if config.memory_lookup == "threshold" else config.memory_top_k,
                None if config.memory_lookup == "top_k" else getattr(config, f"{modality}_threshold"),
                (lambda entries: memory.same_posts(entries, post_keys, embeds, present))
                if without_themselves
                else None,
            )
            theirs = {m: memory.embeds_of(m, neighbours.entries) for m in ("image", "text")}
            similarity = listed_cosines(embeds[modality], theirs[modality][0])
            weights = edge_weights_of(similarity, config.edge_weights, config.edge_temperature)
            found[modality] = ReferencePosts(
                {m: values.to(embeds[m].dtype) for m, (values, _) in theirs.items()},
                {m: here for m, (_, here) in theirs.items()},
                weights * (neighbours.entries >= 0),
                neighbours.entries,
                similarity.detach(),
            )
        return found

    def _read_images(self, pixel_values, pixel_mask, joint_pixel_values, features) -> "_Reading":
        embeds, regions, mask = (features.get(name) for name in ("image_embeds", "region_features", "region_mask"))
        pooler_output = None
        if pixel_values is not None:
            encoder = self._encoder("vision", "pixel_values")
            extra = {} if pixel_mask is None else {"pixel_mask": pixel_mask}
            outputs = encoder(pixel_values=pixel_values.to(encoder.dtype), **extra, return_dict=True)
            regions, mask = region_features(outputs, pixel_values, encoder.config), None
            pooler_output = getattr(outputs, "pooler_output", None)
        if joint_pixel_values is not None:
            encoder = self._encoder("joint", "joint_pixel_values")
            embeds = joint_embedding(encoder.get_image_features(pixel_values=joint_pixel_values.to(encoder.dtype)))
        return _Reading(embeds, regions, mask, pooler_output)

    def _read_texts(
        self, input_ids, attention_mask, token_type_ids, joint_input_ids, joint_attention_mask, features
    ) -> "_Reading":
        embeds, tokens, mask = (features.get(name) for name in ("text_embeds", "token_features", "token_mask"))
        pooler_output = None
        if input_ids is not None:
            encoder = self._encoder("text", "input_ids")
            extra = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
            extra = {name: value for name, value in extra.items() if value is not None}
            outputs = encoder(input_ids=input_ids, **extra, return_dict=True)
            tokens, mask = outputs.last_hidden_state, attention_mask
            pooler_output = getattr(outputs, "pooler_output", None)
        if joint_input_ids is not None:
            encoder = self._encoder("joint", "joint_input_ids")
            extra = {} if joint_attention_mask is None else {"attention_mask": joint_attention_mask}
            embeds = joint_embedding(encoder.get_text_features(input_ids=joint_input_ids, **extra))
        return _Reading(embeds, tokens, mask, pooler_output)

    def _encoder(self, name: str, argument: str) -> PreTrainedModel:
        if name not in self.config.encoder_names:
            raise ValueError(f"`{argument}` was given, and this model has no {name} encoder: pass its features instead")
        return getattr(self, f"{name}_encoder")

    def _complete(
        self, modality: str, unit: str, reading: "_Reading", present: Tensor | None, like: Tensor
    ) -> dict[str, Tensor]:
        """Check, pool and mask one modality; names as in `PostFeatures`. `like` gives batch size and device."""
        widths = getattr(self.config, f"{modality}_embed_dim"), getattr(self.config, f"{unit}_feature_dim")
        count, options = like.shape[0], {"dtype": self.dtype, "device": like.device}
        embeds, sequence, mask, pooler_output = reading
        if embeds is None and sequence is None:
            sequence, embeds = torch.zeros(count, 1, widths[1], **options), torch.zeros(count, widths[0], **options)
            present = torch.zeros(count, dtype=torch.bool, device=like.device)
        if sequence is None:
            raise ValueError(f"`{modality}_embeds` came without `{unit}_features` or what its encoder reads")
        length = sequence.shape[1] if sequence.dim() == 3 else unit[0].upper()
        _check_shape(f"{unit}_features", sequence, (count, length, widths[1]))
        everything = torch.ones(sequence.shape[:2], dtype=torch.bool, device=like.device)
        may_miss = mask is not None or present is not None
        mask = everything if mask is None else mask.bool()
        _check_shape(f"{unit}_mask", mask, (count, length))
        present = everything.any(-1) if present is None else present.bool()
        _check_shape(f"has_{modality}", present, (count,))
        present = present & mask.any(-1)
        mask = mask & present[:, None]
        if may_miss:  # what is masked may hold anything, NaN included, and NaN times a weight of 0 is NaN
            sequence = torch.where(mask[..., None], sequence, torch.zeros((), dtype=sequence.dtype, device=like.device))
        if embeds is None:
            embeds = self._pool(modality, unit, sequence, mask, pooler_output)
        _check_shape(f"{modality}_embeds", embeds, (count, widths[0]))
        return {
            f"{modality}_embeds": embeds.to(self.dtype).masked_fill(~present[:, None], 0),
            f"{unit}_features": sequence.to(self.dtype),
            f"{unit}_mask": mask,
            f"has_{modality}": present,
        }

    def _pool(self, modality: str, unit: str, sequence: Tensor, mask: Tensor, pooler_output: Tensor | None) -> Tensor:
        if self.config.joint_config is not None:
            raise ValueError(f"`{modality}_embeds` or what the joint encoder reads is missing")
        if self.config.embedding_pooling == "mean":
            if sequence.shape[-1] != getattr(self.config, f"{modality}_embed_dim"):
                raise ValueError(
                    f"`{modality}_embeds` is missing, and `{unit}_features` have another width to pool from"
                )
            return masked_mean(sequence, mask)
        if pooler_output is None:
            raise ValueError(
                f"`embedding_pooling` is 'pooler', and no pooler output of an encoder gives `{modality}_embeds`"
            )
        return pooler_output.flatten(1)

    def _relation_graphs(self, posts: PostFeatures, batch: GlobalBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Edge weights (B, S) per modality, and who of the global batch has it, (S,)."""
        graphs, present, config = {}, {}, self.config
        among_batch = config.relation_scope == "batch" or (config.relation_scope == "batch+memory" and self.training)
        for modality in ("image", "text"):
            embeds, has_modality = posts[f"{modality}_embeds"], posts[f"has_{modality}"]
            present[modality] = batch.gather(has_modality)
            if not among_batch:
                loops = has_modality if config.self_loops else torch.zeros_like(has_modality)
                graphs[modality] = self_loop_adjacency(loops, len(present[modality]), batch.first)
                continue
            graphs[modality] = relation_adjacency(
                embeds,
                batch.gather(embeds),
                has_modality,
                present[modality],
                first_key=batch.first,
                threshold=getattr(config, f"{modality}_threshold"),
                self_loops=config.self_loops,
                edge_weights=config.edge_weights,
                edge_temperature=config.edge_temperature,
            )
        return graphs, present

    def _check_relation_memory(self, post_keys: Tensor | None) -> None:
        """Refuse to go on without a memory, with a stale one in `eval()`, or where a post could find itself in training."""
        scope, memory = self.config.relation_scope, self.relation_memory
        if memory is None:
            raise ValueError(
                f"`relation_scope` is {scope!r} and the model has no relation memory: make one with "
                "`build_relation_memory` or `mm-orient memory build`"
            )
        trained = set(self.config.encoder_names) - set(self.config.frozen_encoders)
        if self.training and trained and post_keys is None:
            raise ValueError(
                "`post_keys` are needed to train encoders with a relation memory: a post must not find itself"
            )
        if not self.training and memory.fingerprints:
            weights = _versions(self)
            if weights != self._checked_weights and _differ(memory.fingerprints, encoder_fingerprints(self)):
                raise ValueError(
                    "the relation memory is stale: the encoders have changed since it was made; build it anew with "
                    "`build_relation_memory`"
                )
            self._checked_weights = weights


class MMOrientForMultiTaskClassification(MMOrientPreTrainedModel):
    """MM-ORIENT with a head per task of `config.tasks` and their joint loss."""

    def __init__(self, config: MMOrientConfig, encoders: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        if not config.tasks:
            raise ValueError("`tasks` must have at least one task for a model with heads")
        self.mm_orient = MMOrientModel(config, encoders)
        self.task_heads = TaskHeads(config, config.hidden_size)
        self.post_init()

    @property
    def relation_memory(self) -> RelationMemory | None:
        """The relation memory in use."""
        return self.mm_orient.relation_memory

    def build_relation_memory(self, posts, processor=None, batch_size: int = 32) -> RelationMemory:
        """See `MMOrientModel.build_relation_memory`."""
        return self.mm_orient.build_relation_memory(posts, processor, batch_size)

    def encode_reference_posts(self, posts, processor=None, batch_size: int = 32) -> RelationMemory:
        """See `MMOrientModel.encode_reference_posts`."""
        return self.mm_orient.encode_reference_posts(posts, processor, batch_size)

    def set_relation_memory(self, memory: RelationMemory | None) -> None:
        """See `MMOrientModel.set_relation_memory`."""
        self.mm_orient.set_relation_memory(memory)

    def freeze_encoders(self, names=ENCODER_NAMES) -> None:
        """See `MMOrientModel.freeze_encoders`."""
        self.mm_orient.freeze_encoders(names)

    def get_input_embeddings(self):
        return self.mm_orient.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.mm_orient.set_input_embeddings(value)

    @can_return_tuple
    @with_fast_linear
    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        joint_pixel_values: Tensor | None = None,
        joint_input_ids: Tensor | None = None,
        joint_attention_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        text_embeds: Tensor | None = None,
        region_features: Tensor | None = None,
        region_mask: Tensor | None = None,
        token_features: Tensor | None = None,
        token_mask: Tensor | None = None,
        task_features: Tensor | None = None,
        has_image: Tensor | None = None,
        has_text: Tensor | None = None,
        post_keys: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
        output_attentions: bool | None = None,
        output_relations: bool = False,
        output_components: bool = False,
        **kwargs,
    ) -> MMOrientOutput:
        """Logits of every task, and with `labels` the loss. Inputs as in `MMOrientModel.forward`.

        Args:
            labels: task name -> labels; forms and missing values as in `TaskHeads.loss`.
        """
        outputs = self.mm_orient(
            pixel_values=pixel_values,
            pixel_mask=pixel_mask,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            joint_pixel_values=joint_pixel_values,
            joint_input_ids=joint_input_ids,
            joint_attention_mask=joint_attention_mask,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            region_features=region_features,
            region_mask=region_mask,
            token_features=token_features,
            token_mask=token_mask,
            task_features=task_features,
            has_image=has_image,
            has_text=has_text,
            post_keys=post_keys,
            output_attentions=output_attentions,
            output_relations=output_relations,
            output_components=output_components,
            return_dict=True,
        )
        logits = self.task_heads(outputs.joint_representation, outputs.neighbour_votes)
        loss, task_losses = (None, None) if labels is None else self.task_heads.loss(logits, labels)
        return MMOrientOutput(loss=loss, logits=logits, task_losses=task_losses, **outputs)


class _Reading(NamedTuple):
    """What one modality's encoders gave, or the caller in their place: any of it may be None."""

    embeds: Tensor | None
    sequence: Tensor | None
    mask: Tensor | None
    pooler_output: Tensor | None


def _differ(fingerprints: list[str], others: list[str]) -> bool:
    """Whether two known encoders share no fingerprint."""
    return bool(fingerprints and others) and not set(fingerprints) & set(others)


def _versions(model: MMOrientModel) -> tuple:
    """What changes whenever an encoder's weights may have changed; cheap enough for every call."""
    parameters = [p for name in model.config.encoder_names for p in getattr(model, f"{name}_encoder").parameters()]
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters)


def _without(options: dict, *names: str) -> dict:
    return {name: value for name, value in options.items() if name not in names}


def _check_shape(name: str, value: Tensor, shape: tuple) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {tuple(value.shape)}")


__all__ = [
    "MMOrientConfig",
    "MMOrientForMultiTaskClassification",
    "MMOrientModel",
    "MMOrientOutput",
    "MMOrientPreTrainedModel",
]
