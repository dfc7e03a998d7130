# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MM-ORIENT (arXiv 2508.16300): towers, HIMA, CMRL, MLC, heads, top to bottom as in the paper's figure.

Shapes: B posts, R regions, T tokens, K neighbours, D features of a width named by the configuration, S posts of the global
batch.
"""

import copy
import json
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple, logging

from .configuration_mm_orient import MMOrientConfig
from .cpu_speed import quantise_linear_layers, use_cpu_linear, use_plain_linear
from .encoders import (
    Form,
    PostFeatures,
    build_encoder,
    check_shape,
    complete,
    encoder_fingerprints,
    load_encoder,
    prepare_encoder,
    read_images,
    read_texts,
)
from .experts import TEXT_LAYERS, Experts, presence, verdicts
from .familiarity import without_strange_pictures
from .global_batch import GlobalBatch
from .hima import BatchAttention
from .inputs import PostInputs, takes_post_inputs
from .memory_file import HUB_OPTIONS, LARGE_MEMORY, find_memory, remove_memory
from .memory_upkeep import NeighbourRule, check_fit, differ, neighbours_in_memory, reference_posts
from .names import ENCODER_MODULES, ENCODER_NAMES, revisions_of
from .network import Member, NetworkParts, Relations
from .ngrams import BUCKETS
from .partial_files import whole_file
from .pipeline_mm_orient import AUTO_MAP, CUSTOM_PIPELINES, UPLOAD_OPTIONS
from .private_apis import attention_implementation, own_names, set_attention_implementation, weights_state
from .relation_graph import relation_graphs
from .relation_layers import ReferencePosts, RelationLayer, neighbour_votes
from .relation_memory import RelationMemory
from .task_heads import TRUST_STEP, TaskHeads, head_of, with_rules
from .tasks import are_tasks, kind_of

logger = logging.get_logger(__name__)


@dataclass
class MMOrientOutput(ModelOutput):
    """What both models return.

    Args:
        loss: scalar, with `labels`.
        joint_representation: (B, H), the learner network's output; of several members the mean.
        member_representations: (members, B, H), each member's, where there are several.
        logits: task name -> (B, C), or (B,) for regression; from the model with heads. Of several members or experts they
            are the mean of log-probabilities.
        member_logits: task name -> (members, B, C) or (members, B), with `output_members`.
        expert_scores: task name -> expert -> (B, C) or (B,), see `experts`; with `output_members`.
        task_losses: task name -> scalar, unweighted, with `labels`.
        region_vector, word_vector: (B, D), HIMA's output per modality, with `output_components`.
        relation_features: (B, streams * relation_hidden_size), CMRL's output, with `output_components`.
        merged_features: (B, M), what the learner network reads: streams, region vector, word vector, task features, in
            the order of the reference code; with `output_components`.
        image_embeds, text_embeds: (B, D), E_img and E_txt, with `output_components`.
        text_layers: (B, 2 D), where the expert that reads it has it (`PostInputs`); with `output_components`.
        has_image, has_text: (B,) bool, with `output_components`.
        region_attention, word_attention: (B, R) and (B, T), HIMA's stage 1 weights, of several members the mean; with
            `output_attentions`.
        image_adjacency, text_adjacency: (B, S), the relation graphs' edge weights in the batch, with `output_relations`.
        image_neighbours, text_neighbours: (B, K) int64, the neighbours in the relation memory, nearest first, -1 where
            there are fewer; with `output_relations` and a memory. `RelationMemory.evidence` names them.
        image_similarities, text_similarities: (B, K), their cosines.
        strange_pictures: (B,) bool, whose picture was left out of account; in `eval()` with `picture_familiarity`.
        neighbour_votes: task name -> (B, 3, C), what the labels of reference posts say, see `neighbour_votes`; where
            `neighbour_labels` is configured.
    """

    loss: Tensor | None = None
    joint_representation: Tensor | None = None
    member_representations: Tensor | None = None
    logits: dict[str, Tensor] | None = None
    member_logits: dict[str, Tensor] | None = None
    expert_scores: dict[str, dict[str, Tensor]] | None = None
    task_losses: dict[str, Tensor] | None = None
    region_vector: Tensor | None = None
    word_vector: Tensor | None = None
    relation_features: Tensor | None = None
    merged_features: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    text_layers: Tensor | None = None
    has_image: Tensor | None = None
    has_text: Tensor | None = None
    region_attention: Tensor | None = None
    word_attention: Tensor | None = None
    image_adjacency: Tensor | None = None
    text_adjacency: Tensor | None = None
    image_neighbours: Tensor | None = None
    text_neighbours: Tensor | None = None
    image_similarities: Tensor | None = None
    text_similarities: Tensor | None = None
    neighbour_votes: dict[str, Tensor] | None = None
    strange_pictures: Tensor | None = None


OF_TOWERS = ("image_embeds", "text_embeds", "text_layers", "has_image", "has_text")
COMPONENTS = (
    "region_vector", "word_vector", "merged_features", "relation_features", *OF_TOWERS,
)  # fmt: skip
# of transformers' sequence classification, which a list of tasks stands in place of
OF_ONE_TASK = ("num_labels", "id2label", "label2id", "problem_type")


class MMOrientPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = MMOrientConfig
    base_model_prefix = "mm_orient"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean already: the Trainer must not rescale it under accumulation
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["HIMA", "CrossModalRelations", "LearnerLayer"]
    quantised_from: list[str] | None = None  # fingerprints of the encoders before `quantise_encoders`

    @classmethod
    def is_custom_code(cls) -> bool:
        return False  # see `private_apis`

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
        elif isinstance(module, Experts):
            if module.rarity is not None:
                init.zeros_(module.rarity)
        elif isinstance(module, TaskHeads):
            if module.log_variances is not None:
                init.zeros_(module.log_variances)
            if module.trust is not None:
                init.constant_(module.trust, 1 / TRUST_STEP)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        load_relation_memory: bool = True,
        tasks: list[dict] | None = None,
        **kwargs,
    ):
        """As in transformers; then frozen encoders are frozen again and the relation memory is attached.

        The memory is that of the checkpoint, or the one that `relation_memory` (of the configuration, or given here) names;
        with `load_relation_memory=False` there is none yet.

        Args:
            tasks: in place of the checkpoint's, see `MMOrientForMultiTaskClassification.set_tasks`; so are those of a
                `config` that is given.

        Raises:
            ValueError: the memory is damaged, of another width, or was made by other encoders; or a field of the
                configuration is wrong.
        """
        if wrong := [name for name in OF_ONE_TASK if name in kwargs]:
            raise ValueError(f"`{wrong[0]}`: this model has a list of tasks with labels of their own; give `tasks`")
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        given = kwargs.get("config")
        if (
            tasks is None
            and hasattr(cls, "set_tasks")
            and isinstance(given, MMOrientConfig)
            and pretrained_model_name_or_path is not None
        ):
            saved = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub_options)[0].get("tasks")
            if are_tasks(saved) and [head_of(task) for task in saved] != [head_of(task) for task in given.tasks]:
                tasks, kwargs["config"] = given.tasks, copy.deepcopy(given)
                kwargs["config"].update({"tasks": saved})
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_encoders(model.config.frozen_encoders)
        if load_relation_memory:
            model._attach_memory(pretrained_model_name_or_path, hub_options)
        if tasks is not None:
            if not hasattr(model, "set_tasks"):
                raise TypeError(f"`tasks`: {type(model).__name__} has no heads, MMOrientForMultiTaskClassification has")
            model.set_tasks(tasks)
        return loaded

    def _attach_memory(self, pretrained_model_name_or_path, hub_options: dict) -> None:
        elsewhere = self.config.relation_memory
        if elsewhere == LARGE_MEMORY:
            inside = os.path.join(hub_options.get("subfolder", ""), LARGE_MEMORY)
            path = find_memory(pretrained_model_name_or_path, True, **hub_options | {"subfolder": inside})
        elif elsewhere is not None:
            of_the_hub = {name: value for name, value in hub_options.items() if name not in ("revision", "subfolder")}
            path = find_memory(elsewhere, required=True, **of_the_hub)
        else:
            path = pretrained_model_name_or_path and find_memory(pretrained_model_name_or_path, False, **hub_options)
        if path:
            try:
                self.set_relation_memory(RelationMemory.load(path))
            except ValueError as error:
                if str(path) in str(error):
                    raise
                raise ValueError(f"{path}: {error}") from error

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **kwargs):
        """As in transformers; beside the weights the relation memory, if the configuration does not say it lies elsewhere.

        Raises:
            ValueError: the memory is larger than 512 MiB: it has to be saved by itself. Or the encoders are in 8 bits.
        """
        if self.quantised_from is not None:
            raise ValueError(
                "8-bit encoders are not saved: save the model before it is put in 8 bits, and do that after loading"
            )
        memory = cast("RelationMemory | None", self.relation_memory)
        if memory is not None and self.config.relation_memory is None and memory.is_large:
            raise ValueError(
                f"a relation memory of {memory.num_bytes / 2**20:.0f} MiB is too large for a checkpoint: save it with "
                "`model.relation_memory.save(folder)` and set `model.config.relation_memory` to the folder or its Hub id"
            )
        if memory is not None and differ(memory.fingerprints, self.base_model.encoder_fingerprints()):
            logger.warning(
                "the relation memory was made by other encoders than are saved with it: %s loads with "
                "`load_relation_memory=False` alone, until `build_relation_memory` makes it anew",
                save_directory,
            )
        upload = {name: kwargs.pop(name) for name in UPLOAD_OPTIONS if name in kwargs} if push_to_hub else {}
        super().save_pretrained(save_directory, *args, **kwargs)
        if args[0] if args else kwargs.get("is_main_process", True):
            edit_json(os.path.join(save_directory, "config.json"), auto_map=AUTO_MAP, custom_pipelines=CUSTOM_PIPELINES)
            if memory is not None and self.config.relation_memory is None:
                memory.save(save_directory)
            else:
                remove_memory(save_directory)
            if push_to_hub:
                upload.setdefault("repo_id", os.path.basename(os.path.normpath(save_directory)))
                self.push_to_hub(**upload)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As in torch; the names under which `save_pretrained` writes an encoder's weights are its own as well: a Trainer
        loads its checkpoints so."""
        return super().load_state_dict(own_names(self, state_dict), *args, **kwargs)

    def for_cpu(self, int8: bool = False):
        """Have linear layers multiply as is fastest on this processor (ours), in place; `for_any_device` undoes it.

        The layers stay `nn.Linear`s with their weights and names: hooks, adapters, `torch.compile`, `deepcopy` and saving
        work as before. Call it again after layers were added or exchanged.

        Args:
            int8: put the encoders' layers in 8 bits, for good, to predict faster: such a model is neither trained nor saved.
                `mm-orient evaluate RUN --int8-encoders` prints what it costs in accuracy. The relation memory stays.

        Returns:
            The model, with `int8` in `eval()`.

        Raises:
            ValueError: with `int8`, there is no encoder with a linear layer.
        """
        use_cpu_linear(self)
        return self.quantise_encoders() if int8 else self

    def for_any_device(self):
        """Undo `for_cpu`. Returns the model.

        Raises:
            ValueError: the encoders are in 8 bits; their weights were not kept.
        """
        if self.quantised_from is not None:
            raise ValueError("the encoders' weights were not kept when they were put in 8 bits: load the model again")
        use_plain_linear(self)
        return self

    def quantise_encoders(self):
        """Put the encoders' linear layers in 8 bits; see `for_cpu`."""
        fingerprints = self.base_model.encoder_fingerprints()
        if not sum(quantise_linear_layers(encoder) for encoder in self.base_model.encoders.values()):
            raise ValueError("this model has no encoder with linear layers to put in 8 bits")
        self.quantised_from = self.base_model.quantised_from = fingerprints
        return self.eval()

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
        revisions = revisions_of(revision)
        encoders = {
            name: value if isinstance(value, nn.Module) else load_encoder(str(value), name, revisions.get(name))
            for name, value in given.items()
        }
        config_kwargs |= {f"{name}_config": encoder.config.to_dict() for name, encoder in encoders.items()}
        return cls(MMOrientConfig(**config_kwargs), encoders=encoders)


class MMOrientModel(MMOrientPreTrainedModel, NetworkParts):
    """Posts to a joint representation.

    Args:
        config: `MMOrientConfig`.
        encoders: loaded encoders by name, `"joint"`, `"text"`, `"vision"`; those left out are built from the config.
    """

    def __init__(self, config: MMOrientConfig, encoders: dict[str, PreTrainedModel] | None = None):
        config.complete()
        super().__init__(config)
        keep_pooler = config.embedding_pooling == "pooler" and config.joint_config is None
        for name, encoder_config in config.encoder_configs.items():
            if encoder := (encoders or {}).get(name):
                set_attention_implementation(encoder_config, attention_implementation(encoder.config))
                prepare_encoder(encoder, keep_pooler)
                encoder.config = encoder_config
            self.add_module(ENCODER_MODULES[name], encoder or build_encoder(encoder_config, keep_pooler))

        self.add_parts(config)
        self.further_members = nn.ModuleList(Member(config) for _ in range(config.members - 1))
        self.relation_memory: RelationMemory | None = None
        self._checked_weights: tuple | None = None
        self.post_init()
        self.freeze_encoders(config.frozen_encoders)

    @property
    def members(self) -> list[NetworkParts]:
        """The networks after the towers; the model itself is the first."""
        return [self, *cast("list[NetworkParts]", self.further_members)]

    @property
    def encoders(self) -> dict[str, PreTrainedModel]:
        """The encoders there are, by name."""
        modules = {name: self.get_submodule(ENCODER_MODULES[name]) for name in self.config.encoder_names}
        return cast("dict[str, PreTrainedModel]", modules)

    @can_return_tuple
    @takes_post_inputs
    def forward(
        self,
        inputs: PostInputs,
        output_attentions: bool | None = None,
        output_relations: bool = False,
        output_components: bool = False,
        without_themselves: bool = False,
        without_neighbours: bool = False,
    ) -> MMOrientOutput:
        """From pixels and tokens, from features, or from any mixture; `MMOrientProcessor` makes the former.

        Args:
            inputs: the fields of `PostInputs`, each an argument of its own.
            output_attentions, output_relations, output_components: see `MMOrientOutput`.
            without_themselves: in `eval()` too, posts that are in the memory are not their own neighbours.
            without_neighbours: nothing is looked up in the memory, as if no reference post were near.

        Raises:
            ValueError: an input is missing or has a wrong shape; the message names it. Or the relation memory that the
                configuration asks for is missing or was made by other encoders. TypeError: there is no input of a name.
        """
        # the towers: E_img and E_txt, Q_img and Q_txt, and what else is known
        posts = self._without_a_modality(self._encoded(inputs, TEXT_LAYERS in self.config.experts))
        count = posts.image_embeds.shape[0]
        batch = GlobalBatch(count, posts.image_embeds.device, self._sees_global_batch())
        task_features = self._checked_task_features(inputs.task_features, count)

        # who is whose neighbour, in the batch and in the memory
        references: dict[str, ReferencePosts] = {}
        strange = None
        graphs: dict[str, Tensor] = {}
        everyone: dict[str, Tensor] = {}
        if self.config.relation_scope != "batch":
            apart = self.training or without_themselves
            references = self.look_up_references(posts, inputs.post_keys, without_themselves=apart)
            if self.config.leaves_out_pictures and not self.training:
                given = posts.has_image
                posts, references = without_strange_pictures(posts, references, self.config.picture_familiarity)
                strange = given & ~posts.has_image
            if without_neighbours:
                references = self.look_up_references(_of_nobody(posts), inputs.post_keys, without_themselves=apart)
        if self.relations is not None:
            graphs, everyone = self._relation_graphs(posts, batch)
        relations = Relations(graphs, everyone, references, {} if len(self.members) > 1 else None)

        # HIMA, CMRL, MLC: see `NetworkParts.understand`; one network, or each member's
        understood = [member.understand(posts, relations, task_features, batch) for member in self.members]
        first = understood[0]
        parts: dict[str, Any] = {"joint_representation": first.joint_representation}
        if len(understood) > 1:
            every = torch.stack([member.joint_representation for member in understood])
            parts = {"joint_representation": every.mean(0), "member_representations": every}
        parts |= {"neighbour_votes": self._neighbour_votes(posts, references), "strange_pictures": strange}

        if output_components:
            parts |= {"region_vector": first.region_vector, "word_vector": first.word_vector}
            parts |= {"merged_features": first.merged_features, "relation_features": first.relation_features}
            parts |= {name: getattr(posts, name) for name in OF_TOWERS}
        if self.config.output_attentions if output_attentions is None else output_attentions:
            for name in ("region_attention", "word_attention"):
                parts[name] = torch.stack([getattr(member, name) for member in understood]).mean(0)
        if output_relations:
            parts |= _relations(graphs, references)
        return MMOrientOutput(**parts)

    @takes_post_inputs
    def encode_posts(self, inputs: PostInputs) -> PostFeatures:
        """Run the encoders and complete the masks; arguments as in `forward`. Features that are given are kept.

        A modality none of whose inputs is given is missing for the whole batch.

        Raises:
            ValueError: some inputs of a modality are given and others missing, or a shape is wrong; it names the input.
        """
        return self._encoded(inputs, with_layers=True)

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

        def encode(**inputs) -> PostFeatures:
            return self.encode_posts(**{name: value.to(self.device) for name, value in inputs.items()})

        try:
            fingerprints = self.encoder_fingerprints()
            return reference_posts(posts, encode, self.config.tasks, fingerprints, processor, batch_size)
        finally:
            self.train(training)

    def set_relation_memory(self, memory: RelationMemory | None) -> None:
        """Use a relation memory, or none.

        Raises:
            ValueError: it was made by other encoders, its embeddings have other widths, or it lacks a task whose labels
                are a stream.
        """
        if memory is not None:
            votes = self.config.neighbour_labels or "neighbours" in self.config.experts
            labelled = self.config.tasks if votes else []
            check_fit(memory, self.config.embed_dims, labelled, self.encoder_fingerprints())
        self.relation_memory, self._checked_weights = memory, None

    def look_up_references(
        self, posts: PostFeatures, post_keys: Tensor | None = None, without_themselves: bool = False
    ) -> dict[str, ReferencePosts]:
        """The neighbours of `posts` in the relation memory, by modality; without the posts themselves and their exact
        duplicates, by `post_keys` (see `PostInputs`) and embeddings, if so asked.

        Raises:
            ValueError: there is no memory, or in `eval()` it was made by other encoders.
        """
        if torch.compiler.is_exporting():
            return self._neighbours(posts, None, False)
        return self._neighbours_eagerly(posts, post_keys, without_themselves)

    @torch.compiler.disable
    def _neighbours_eagerly(self, posts: PostFeatures, post_keys: Tensor | None, without_themselves: bool):
        self._check_memory(post_keys)
        return self._neighbours(posts, post_keys, without_themselves)

    def _neighbours(
        self, posts: PostFeatures, post_keys: Tensor | None, without_themselves: bool
    ) -> dict[str, ReferencePosts]:
        config = self.config
        top_k = None if config.memory_lookup == "threshold" else config.memory_top_k
        thresholds = dict.fromkeys(config.thresholds) if config.memory_lookup == "top_k" else config.thresholds
        rule = NeighbourRule(top_k, thresholds, config.edge_weights, config.edge_temperature)
        return neighbours_in_memory(self.relation_memory, posts, rule, post_keys, without_themselves)

    def encoder_fingerprints(self) -> list[str]:
        """See `encoders.encoder_fingerprints`; encoders in 8 bits have those of the ones they were made from."""
        if self.quantised_from is not None:
            return self.quantised_from
        return encoder_fingerprints(self.encoders, self.config.embedding_pooling)

    def freeze_encoders(self, names=ENCODER_NAMES) -> None:
        """Train exactly the encoders that are not in `names`, and record it in the configuration.

        A frozen encoder has no gradients and stays in `eval()` mode, batch statistics included.

        Raises:
            ValueError: a name is none of an encoder's.
        """
        if isinstance(names, str) or (unknown := [name for name in names if name not in ENCODER_NAMES]):
            raise ValueError(
                f"`names` are some of {ENCODER_NAMES}, got {names if isinstance(names, str) else unknown!r}"
            )
        self.config.frozen_encoders = [name for name in ENCODER_NAMES if name in names]
        for name, encoder in self.encoders.items():
            encoder.requires_grad_(name not in names)
            prepare_encoder(encoder, keep_pooler=True)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for name, encoder in self.encoders.items():
            if name in self.config.frozen_encoders:
                encoder.eval()
        return self

    def get_input_embeddings(self):
        return self._text_encoder().get_input_embeddings()

    def set_input_embeddings(self, value):
        self._text_encoder().set_input_embeddings(value)

    def _text_encoder(self) -> PreTrainedModel:
        if "text" not in self.encoders:
            raise NotImplementedError("this model has no text encoder, and so no input embeddings")
        return self.encoders["text"]

    def _encoded(self, inputs: PostInputs, with_layers: bool) -> PostFeatures:
        images, texts = read_images(inputs, self.encoders), read_texts(inputs, self.encoders, with_layers)
        known = [
            value for reading in (images, texts) for value in (reading.embeds, reading.sequence) if value is not None
        ]
        if not known:
            raise ValueError("no input: give images, texts or their features")
        config = self.config
        pooling = None if config.joint_config is not None else config.embedding_pooling
        of_image = Form("image", "region", config.image_embed_dim, config.region_feature_dim, pooling)
        of_text = Form("text", "token", config.text_embed_dim, config.token_feature_dim, pooling)
        if texts.layers is not None:
            check_shape(TEXT_LAYERS, texts.layers, (known[0].shape[0], config.text_layers_dim))
        return PostFeatures.of(
            complete(images, inputs.has_image, of_image, known[0], self.dtype),
            complete(texts, inputs.has_text, of_text, known[0], self.dtype),
            texts.layers,
        )

    def _without_a_modality(self, posts: PostFeatures) -> PostFeatures:
        """In training, `posts` of which some have lost a modality, as `modality_dropout` says; of two only."""
        share = self.config.modality_dropout
        if not self.training or not share:
            return posts
        drawn = torch.rand(len(posts.has_image), device=posts.has_image.device)
        both = posts.has_image & posts.has_text
        return posts.without({"image": both & (drawn < share / 2), "text": both & (drawn > 1 - share / 2)})

    def _sees_global_batch(self) -> bool:
        return self.training and self.config.gather_global_batch

    def _checked_task_features(self, task_features: Tensor | None, count: int) -> Tensor | None:
        if not self.config.task_feature_dim:
            return None
        shape = (count, self.config.task_feature_dim)
        if task_features is None:
            raise ValueError(f"`task_features` of shape {shape} is missing")
        check_shape("task_features", task_features, shape)
        return task_features

    def _relation_graphs(self, posts: PostFeatures, batch: GlobalBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        config = self.config
        among_batch = config.relation_scope == "batch" or (config.relation_scope == "batch+memory" and self.training)
        form = (config.self_loops, config.edge_weights, config.edge_temperature)
        return relation_graphs(posts.embeds, posts.present, batch, config.thresholds, among_batch, *form)

    def _neighbour_votes(self, posts: PostFeatures, references: dict[str, ReferencePosts]) -> dict[str, Tensor] | None:
        if not self.config.neighbour_labels and "neighbours" not in self.config.experts:
            return None
        summaries = self.relation_memory.label_summaries()
        return neighbour_votes(references, posts.embeds, summaries, self.config.edge_temperature)

    def _check_memory(self, post_keys: Tensor | None) -> None:
        """Refuse to go on without a memory, with a stale one in `eval()`, or where a post could find itself in training."""
        memory = self.relation_memory
        if memory is None:
            raise ValueError(
                f"`relation_scope` is {self.config.relation_scope!r} and the model has no relation memory: make one with "
                "`build_relation_memory` or `mm-orient memory build`"
            )
        if self.training and post_keys is None and set(self.config.encoder_names) - set(self.config.frozen_encoders):
            raise ValueError(
                "`post_keys` are needed to train encoders with a relation memory: a post must not find itself"
            )
        if not self.training and memory.fingerprints:
            weights = weights_state(p for encoder in self.encoders.values() for p in encoder.parameters())
            if weights != self._checked_weights and differ(memory.fingerprints, self.encoder_fingerprints()):
                raise ValueError(
                    "the relation memory is stale: the encoders have changed since it was made; build it anew with "
                    "`build_relation_memory`"
                )
            self._checked_weights = weights


class MMOrientForMultiTaskClassification(MMOrientPreTrainedModel):
    """MM-ORIENT with a head per task of `config.tasks` and their joint loss."""

    def __init__(self, config: MMOrientConfig, encoders: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        config.complete()
        if not config.tasks:
            raise ValueError("`tasks` must have at least one task for a model with heads")
        self.mm_orient = MMOrientModel(config, encoders)
        self._add_heads()
        self.post_init()

    def _add_heads(self) -> None:
        """Heads for the configuration's tasks, of every member and of every expert, with random weights."""
        config = self.config
        form = (config.tasks, config.hidden_size, config.task_loss_weighting, config.neighbour_labels)
        self.task_heads = TaskHeads(*form, config.label_smoothing)
        self.further_heads = nn.ModuleList(TaskHeads(*form, config.label_smoothing) for _ in range(config.members - 1))
        widths = config.embed_dims | {TEXT_LAYERS: config.text_layers_dim}
        self.experts = Experts(config.experts or ["network"], config.tasks, widths)

    @property
    def member_heads(self) -> list[TaskHeads]:
        """The heads of every member."""
        return [self.task_heads, *cast("list[TaskHeads]", self.further_heads)]

    def set_tasks(self, tasks: list[dict]) -> list[str]:
        """Give the model other tasks: a head whose task stays, by name, kind and labels, keeps its weights and its place is
        where its task is now; the others begin anew. The relation memory keeps the labels of the tasks that stay.

        Args:
            tasks: task descriptions, as the configuration takes them.

        Returns:
            Names of the tasks that stay.

        Raises:
            ValueError: a description is wrong; nothing is changed then.
        """
        if not isinstance(tasks, (list, tuple)) or not all(isinstance(task, dict) for task in tasks):
            raise ValueError(f"`tasks` must be a list of task descriptions, got {tasks!r}")
        before, heads, experts = self.config.tasks, self.member_heads, self.experts
        try:
            self.config.update({"tasks": with_rules(tasks, before)})
            if not self.config.tasks:
                raise ValueError("`tasks` must have at least one task for a model with heads")
        except ValueError:
            self.config.update({"tasks": before})
            raise
        self._add_heads()
        for part in (*self.member_heads, self.experts):
            part.to(self.device, self.dtype).apply(self._init_weights).train(self.training)
        stays = [kept.keep_from(old) for kept, old in zip(self.member_heads, heads, strict=True)].pop()
        self.experts.keep_from(experts, stays)
        if self.relation_memory is not None:
            self.set_relation_memory(self.relation_memory.with_tasks(self.config.tasks))
        return stays

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
    @takes_post_inputs
    def forward(
        self,
        inputs: PostInputs,
        labels: dict[str, Tensor] | None = None,
        output_attentions: bool | None = None,
        output_relations: bool = False,
        output_components: bool = False,
        output_members: bool = False,
        without_themselves: bool = False,
        without_neighbours: bool = False,
    ) -> MMOrientOutput:
        """Logits of every task, and with `labels` the loss. Inputs as in `MMOrientModel.forward`.

        Args:
            labels: task name -> labels; forms and missing values as in `TaskHeads.loss`.
            output_members: see `MMOrientOutput`.
        """
        several = self.config.members > 1 or bool(self.config.experts)
        components = output_components or several or output_members
        asked = (output_attentions, output_relations, components, without_themselves, without_neighbours)
        outputs = self.mm_orient(*vars(inputs).values(), *asked, return_dict=True)
        every = outputs.member_representations
        representations = [outputs.joint_representation] if every is None else every.unbind(0)
        votes = outputs.neighbour_votes if self.config.neighbour_labels else None
        members = [heads(seen, votes) for heads, seen in zip(self.member_heads, representations, strict=True)]
        loss, task_losses = (None, None) if labels is None else self._loss(members, labels, inputs.post_keys)
        parts: dict[str, Any] = {"logits": members[0]}
        if several or output_members:
            parts = self._verdicts(members, outputs, inputs.ngram_ids) | ({} if several else parts)
        if output_members:
            parts["member_logits"] = {name: torch.stack([each[name] for each in members]) for name in members[0]}
        else:
            parts.pop("expert_scores", None)
        kept = {name: value for name, value in outputs.items() if output_components or name not in COMPONENTS}
        return MMOrientOutput(loss=loss, task_losses=task_losses, **parts, **kept)

    def _verdicts(self, members: list[dict[str, Tensor]], outputs: MMOrientOutput, ngram_ids: Tensor | None) -> dict:
        """The members' mean, and the experts' where there are any, as parts of the output."""
        network = {}
        for task in self.config.tasks:
            said = [kind_of(task).scores(each[task["name"]]) for each in members]
            network[task["name"]] = torch.stack(said).mean(0)
        ngram_ids = _checked_ngrams(ngram_ids, outputs.has_text)
        layers = outputs.text_layers
        present = presence(outputs.has_image, outputs.has_text, ngram_ids, layers)
        if layers is None:
            layers = outputs.text_embeds.new_zeros(len(outputs.has_text), self.config.text_layers_dim)
        embeds = {"image": outputs.image_embeds, "text": outputs.text_embeds, TEXT_LAYERS: layers}
        votes = outputs.neighbour_votes if "neighbours" in self.config.experts else None
        averages = None if votes is None else self.relation_memory.label_averages()
        scores = self.experts(embeds, network, votes, averages, ngram_ids)
        return {"logits": verdicts(self.config.tasks, scores, present), "expert_scores": scores}

    def _loss(self, members, labels, post_keys) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of the members' losses. In training each of several leaves out its own part of the posts."""
        losses = []
        for number, (heads, logits) in enumerate(zip(self.member_heads, members, strict=True)):
            kept = labels
            if self.training and len(members) > 1 and post_keys is not None:
                left_out = (post_keys % len(members) == number) & (post_keys != 0)
                kept = {
                    task["name"]: kind_of(task).without(labels[task["name"]], left_out)
                    for task in self.config.tasks
                    if labels.get(task["name"]) is not None
                }
            losses.append(heads.loss(logits, kept))
        task_losses = {name: torch.stack([each[name] for _, each in losses]).mean() for name in losses[0][1]}
        return torch.stack([loss for loss, _ in losses]).mean(), task_losses


MMOrientModel.register_for_auto_class("AutoModel")  # their code goes with what they are saved in
MMOrientForMultiTaskClassification.register_for_auto_class("AutoModelForSequenceClassification")


def edit_json(path, **entries) -> None:
    """Set entries of a JSON file; it has the old content or the new one."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file) | entries
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _checked_ngrams(ngram_ids: Tensor | None, has_text: Tensor) -> Tensor:
    """(B, N) int64; none where none are given."""
    count = has_text.shape[0]
    if ngram_ids is None:
        return has_text.new_zeros((count, 1), dtype=torch.long)
    if ngram_ids.dim() != 2 or ngram_ids.shape[0] != count or ngram_ids.dtype != torch.long:
        raise ValueError(
            f"`ngram_ids` must be int64 of shape ({count}, n-grams), got {ngram_ids.dtype} of {tuple(ngram_ids.shape)}"
        )
    if not torch.compiler.is_compiling() and bool(((ngram_ids < 0) | (ngram_ids >= BUCKETS)).any()):
        raise ValueError(f"`ngram_ids` must be from 0 to {BUCKETS - 1}, as `ngrams.ngram_ids` gives them")
    return ngram_ids


def _of_nobody(posts: PostFeatures) -> PostFeatures:
    """`posts` as if they had neither picture nor text: no reference post is near to them."""
    nobody = torch.zeros_like(posts.has_image)
    return PostFeatures(**posts | {"has_image": nobody, "has_text": nobody})


def _relations(graphs: dict[str, Tensor], references: dict[str, ReferencePosts]) -> dict[str, Tensor]:
    """Which edges were used, in the batch and in the memory, as parts of `MMOrientOutput`."""
    parts: dict[str, Tensor] = {}
    if graphs:
        parts |= {"image_adjacency": graphs["image"], "text_adjacency": graphs["text"]}
    if references:
        image, text = references["image"], references["text"]
        parts |= {"image_neighbours": image.entries, "text_neighbours": text.entries}
        parts |= {"image_similarities": image.similarity, "text_similarities": text.similarity}
    return parts


__all__ = [
    "MMOrientConfig",
    "MMOrientForMultiTaskClassification",
    "MMOrientModel",
    "MMOrientOutput",
    "MMOrientPreTrainedModel",
]
