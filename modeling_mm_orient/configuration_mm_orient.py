# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MMOrientConfig: every choice of the paper and every one of ours as a field."""

import os
from collections.abc import Iterator
from difflib import get_close_matches

from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig, PreTrainedConfig

from .names import BACKENDS, ENCODER_NAMES, EXPERT_NAMES, LOOKUPS, RELATION_SCOPES, STREAM_NAMES, VERDICT_KEYS
from .tasks import KINDS, SINGLE_LABEL, kind_of

CHOICES = {
    "stage2_combine": ("sum", "concat"),
    "relation_scope": RELATION_SCOPES,
    "memory_lookup": LOOKUPS,
    "edge_weights": ("binary", "similarity", "softmax"),
    "embedding_pooling": ("mean", "pooler"),
    "message_passing_backend": BACKENDS,
    "task_loss_weighting": ("uniform", "given", "uncertainty"),
}
SWITCHES = (
    "hima_stage1",
    "attention_context_vector",
    "hima_stage2",
    "self_loops",
    "relation_normalize",
    "relation_gate",
    "neighbour_labels",
    "merge_normalize",
    "gather_global_batch",
)
LEAST_TEMPERATURE = 1e-4  # of cosines: below, single precision tells no edges apart
MOST_LABELS = 100_000  # of an encoder's configuration, which does not need them
LARGEST = 3.4e38  # that single precision holds
MOST = 1e4  # of what logits are divided by, raised by or weighed with: beyond, single precision has no room for them
TASK_DEFAULTS = {
    "kind": SINGLE_LABEL.name, "labels": [], "loss_weight": 1.0, "class_weights": None, "focal_gamma": 0.0,
    "temperature": 1.0, "decision_offsets": None, "expert_weights": None, "doubts": None, "mean": 0.0, "std": 1.0,
}  # fmt: skip

LARGEST_SIZE, MOST_PARTS = 2**20, {"members": 100, "relation_layers": 100}  # that a file may ask for
PAPER_SIZES = {
    "image_embed_dim": 512,
    "text_embed_dim": 512,
    "region_feature_dim": 2048,
    "token_feature_dim": 768,
    "task_feature_dim": 784,
}
PAPER_TASKS = [
    {"name": "sentiment", "labels": ["negative", "neutral", "positive"]},
    {"name": "humour", "labels": ["not_funny", "funny", "very_funny", "hilarious"]},
    {"name": "sarcasm", "labels": ["not_sarcastic", "general", "twisted_meaning", "very_twisted"]},
    {"name": "offensive", "labels": ["not_offensive", "slight", "very_offensive", "hateful_offensive"]},
    {"name": "motivational", "labels": ["not_motivational", "motivational"]},
]


def feature_width(config: PreTrainedConfig) -> int | None:
    """Width of an encoder's `last_hidden_state`, from its configuration alone; None where it does not say."""
    if config.model_type == "mobilenet_v2":
        keeps_full_width = config.finegrained_output and config.depth_multiplier < 1.0
        return 1280 if keeps_full_width else round(1280 * config.depth_multiplier / 8) * 8
    for name in ("hidden_size", "d_model"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    for name in ("neck_hidden_sizes", "hidden_sizes"):
        if getattr(config, name, None):
            return getattr(config, name)[-1]
    return getattr(config, "hidden_dim", None)


def projection_width(config: PreTrainedConfig, side_config: PreTrainedConfig | None) -> int | None:
    """Width of a dual encoder's embedding on the side of `side_config`; None where the configuration does not say."""
    if getattr(config, "projection_dim", None) is not None:
        return config.projection_dim
    for name in ("projection_size", "projection_dim", "hidden_size"):
        if isinstance(getattr(side_config, name, None), int):
            return getattr(side_config, name)
    return None


def hub_id(source: str | None) -> str | None:
    """The id that a model or data set was loaded by from the Hub; None for a folder, and where nothing is known."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return None if not source or os.path.exists(source) else source


class MMOrientConfig(PreTrainedConfig):
    """Configuration of MM-ORIENT (arXiv 2508.16300).

    Encoders, each any Hugging Face model and each optional (ours; the paper extracts features beforehand). What an
    absent encoder would compute is given as input instead. Values are a `PreTrainedConfig`, a dict with `model_type`,
    or None (default).

    Args:
        joint_config: CLIP-like dual encoder; gives E_img and E_txt. Without it they are pooled from the other two.
        text_config: text encoder; gives token features.
        vision_config: region or patch encoder; gives region features.
        image_embed_dim, text_embed_dim, region_feature_dim, token_feature_dim: feature widths. None (default) takes the
            encoder's, or without one the paper's 512, 512, 2048 and 768.
        task_feature_dim: width F of `task_features`, 0 for none. None (default) is the paper's 784 where no encoder is
            given (features come as arrays) and 0 otherwise.
        task_features: what they are made of, for the reader: a list of dicts with `name` and `size`, in their order;
            `task_feature_dim` is then their sum. The processor has the sources. None (default) says nothing.
        embedding_pooling: how E_img and E_txt are pooled without `joint_config`: `"mean"` over unmasked region or token
            features (default, ours) or the encoder's own `"pooler"` output.
        frozen_encoders: encoders that are not trained, of `"joint"`, `"text"`, `"vision"`; default all (paper).
        hima_stage1: attention within a post (paper); False takes the mean.
        attention_hidden_size: width of theta (default 256, ours; 1 in the reference code).
        attention_context_vector: learn the context vector u (paper's text, default). False, with
            `attention_hidden_size=1`, is the reference code's form.
        hima_stage2: attention across the batch (paper, figure).
        stage2_combine: `"concat"` of vector and batch bias, as the sign in the paper's figure reads (the text is silent; the
            preset `paper` has it), or `"sum"` (default, ours), which keeps the width.
        stage2_momentum: weight of the newest batch in the running batch bias (default 0.1, ours).
        relation_streams: the streams that run (paper: all four). An empty list switches CMRL off.
        image_threshold, text_threshold: tau per modality (paper .9).
        self_loops: a post is its own neighbour (paper).
        edge_weights: `"binary"` (paper), `"similarity"` (ours: the cosine) or `"softmax"` (ours: exp((cosine - 1) /
            edge_temperature), so that a mean over neighbours is their softmax).
        edge_temperature: of softmax edges (default .05, ours).
        relation_scope: where neighbours come from. `"batch"` (paper): the posts of the batch. `"memory"` (ours): the
            relation memory. `"batch+memory"` (ours): both in training, the memory alone in `eval()`.
        memory_lookup: a reference post is a neighbour if it is one of the `memory_top_k` nearest (`"top_k"`, default,
            ours), above the modality's threshold (`"threshold"`), or `"both"`.
        memory_top_k: default 32 (ours).
        relation_memory: where a memory lies that is not part of the checkpoint: folder or Hub id, or `"relation_memory"`,
            the folder of that name beside the weights (default None, ours).
        relation_gate: learn per stream and post how much of the neighbourhood is listened to (ours; default False): `m = x
            + g (mean - x)`, `g = sigmoid(w . [x; mean; cos(x, mean)] + b)`.
        relation_dropout: in training, how often a stream replaces a post's neighbourhood by the post (ours; default 0).
        neighbour_labels: let the labels of reference posts be a stream of their own, added to the logits (ours; default
            False).
        unfamiliar_pictures: the share of the memory's pictures by which `picture_familiarity` is set at the end of a run: so
            many have no other picture so near, copies aside (ours; default 0, nothing is set).
        picture_familiarity: None, or a cosine: in `eval()` a picture whose nearest reference post is farther is left out of
            account where the post has a text, of several pictures all by the mean of their embeddings: damaged ones come
            out so (ours; with a memory that is looked up by `"top_k"`, else it is not heeded).
        relation_hidden_size: output width of a stream (default 512, the paper's embedding width).
        relation_layers: relation layers per stream (paper 1).
        relation_normalize: L2-normalise a layer's output (paper).
        message_passing_backend: `"auto"` (the fastest by size and density), `"fused"` (CPU), `"torch_scatter"`,
            `"index_add"` or `"dense"`.
        gather_global_batch: in training with several processes, graphs and stage 2 see the global batch (ours).
        merge_normalize: put streams, HIMA vectors and task features on one scale, each by the mean and deviation of its
            features, before they are merged (ours; default False).
        modality_dropout: in training, how often a post loses one of its two modalities (ours; default 0).
        members: networks after the towers, each with weights of its own, whose log-probabilities are averaged (ours; default
            1). In training each of several leaves out the posts whose key has its own number for remainder: for every post
            there is one that has not learned from it.
        experts: of what a verdict is the weighted mean, of `"words"`, `"text"`, `"text_layers"`, `"image"`, `"both"`,
            `"neighbours"` and `"network"`, see `experts` (ours; default: the network alone). Weights are those of the tasks.
        learner_hidden_sizes: widths of the learner network (paper 4618, 2048).
        learner_dropout: dropout after each of its layers (paper .2).
        tasks: a list of dicts with `name`, `kind` (`"single_label"`, default, `"multi_label"`, `"regression"`), `labels`
            (label names; none for regression), `loss_weight` (1.0), `class_weights` (None or one per label),
            `focal_gamma` (0.0), `temperature` (1.0; logits are divided by it for probabilities) and `decision_offsets`
            (None or one per label, added to log-probabilities, of several labels to log-odds, before deciding),
            `expert_weights` (None or expert -> weight) and `doubts` (None or rising quantiles of doubt at equal steps); all
            four ours, and fitted to posts that were not trained on, see `runs.decisions` and `runs.blending`; of a
            regression `mean` (0.0) and `std` (1.0) of the values that its head learns standardised (ours). None
            (default) takes the paper's five tasks on Memotion.
        label_smoothing: how much of a label is spread over all in training (ours; default 0).
        task_loss_weighting: `"uniform"` (paper), `"given"` (each task's `loss_weight`) or `"uncertainty"` (learned).

    Raises:
        ValueError: a field has a wrong value, or a keyword is a field's name misspelt; the message names it.
    """

    model_type = "mm_orient"
    keys_to_ignore_at_inference = [
        "joint_representation", "member_representations", "member_logits", "expert_scores", "task_losses",
        "neighbour_votes", "strange_pictures",
    ]  # fmt: skip
    sub_configs = {"joint_config": AutoConfig, "text_config": AutoConfig, "vision_config": AutoConfig}

    joint_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    image_embed_dim: int | None = None
    text_embed_dim: int | None = None
    region_feature_dim: int | None = None
    token_feature_dim: int | None = None
    task_feature_dim: int | None = None
    task_features: list[dict] | None = None
    embedding_pooling: str = "mean"
    frozen_encoders: list[str] | tuple[str, ...] = ENCODER_NAMES

    hima_stage1: bool = True
    attention_hidden_size: int = 256
    attention_context_vector: bool = True
    hima_stage2: bool = True
    stage2_combine: str = "sum"
    stage2_momentum: float = 0.1

    relation_streams: list[str] | tuple[str, ...] = STREAM_NAMES
    image_threshold: float = 0.9
    text_threshold: float = 0.9
    self_loops: bool = True
    edge_weights: str = "binary"
    edge_temperature: float = 0.05
    relation_scope: str = "batch"
    memory_lookup: str = "top_k"
    memory_top_k: int = 32
    relation_memory: str | None = None
    relation_gate: bool = False
    relation_dropout: float = 0.0
    neighbour_labels: bool = False
    unfamiliar_pictures: float = 0.0
    picture_familiarity: float | None = None
    relation_hidden_size: int = 512
    relation_layers: int = 1
    relation_normalize: bool = True
    message_passing_backend: str = "auto"
    gather_global_batch: bool = True

    merge_normalize: bool = False
    modality_dropout: float = 0.0
    members: int = 1
    experts: list[str] | tuple[str, ...] = ()
    learner_hidden_sizes: list[int] | tuple[int, ...] = (4618, 2048)
    learner_dropout: float = 0.2
    tasks: list[dict] | None = None
    label_smoothing: float = 0.0
    task_loss_weighting: str = "uniform"

    def __post_init__(self, **kwargs):
        fields = [field for field in MMOrientConfig.__annotations__ if field not in kwargs]
        for name in kwargs:
            if close := get_close_matches(name, fields, n=1, cutoff=0.85):
                raise ValueError(f"`{name}` is no field of MMOrientConfig; did you mean `{close[0]}`?")
        self.complete()
        super().__post_init__(**kwargs)

    def complete(self) -> None:
        """Bring every field to its full form and check it; whoever has set one by hand calls this.

        Raises:
            ValueError: a field has a wrong value; the message names it.
        """
        for name in self.sub_configs:
            setattr(self, name, self._encoder_config(name))
        for name in ("frozen_encoders", "relation_streams", "learner_hidden_sizes", "experts"):
            if not isinstance(getattr(self, name), (list, tuple)):
                self._refuse(name, "a list")
            setattr(self, name, list(getattr(self, name)))
        self._set_feature_sizes()
        self.tasks = [self._task(index, task) for index, task in enumerate(self._task_list())]
        self._check()

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        for part in _parts_of(config_dict):
            if _is_number(count := part.get("num_labels", 0)) and count > MOST_LABELS:  # each would get a name
                raise ValueError(f"`num_labels` in a file is {count}, more than {MOST_LABELS}")
            kernel = part.get("attn_implementation")
            if isinstance(kernel, str) and "/" in kernel:  # code of the Hub: for who loads to ask for, not for a file
                raise ValueError(f"`attn_implementation` in a file must be a name of transformers' own, got {kernel!r}")
        found = super().from_dict(config_dict, **kwargs)
        (found[0] if isinstance(found, tuple) else found).complete()  # arguments are set after it was made
        return found

    def update(self, config_dict: dict) -> None:
        super().update(config_dict)
        self.complete()

    def save_pretrained(self, save_directory, **kwargs):
        self.complete()
        super().save_pretrained(save_directory, **kwargs)

    def to_diff_dict(self) -> dict:
        """What is saved: encoders that were loaded from folders do not say from which."""
        content = super().to_diff_dict()
        for name in self.sub_configs:
            _forget_folders(content.get(name))
        return content

    @property
    def encoder_configs(self) -> dict[str, PreTrainedConfig]:
        """The configurations of the encoders there are, by `"joint"`, `"text"`, `"vision"`."""
        configs: dict = {"joint": self.joint_config, "text": self.text_config, "vision": self.vision_config}
        return {name: config for name, config in configs.items() if config is not None}

    @property
    def encoder_names(self) -> list[str]:
        """The encoders there are, of `"joint"`, `"text"`, `"vision"`."""
        return list(self.encoder_configs)

    @property
    def embed_dims(self) -> dict[str, int]:
        """Modality -> width of E_img or E_txt."""
        return {"image": self.image_embed_dim, "text": self.text_embed_dim}

    @property
    def text_layers_dim(self) -> int:
        """Width of what the expert `text_layers` reads."""
        return 2 * self.token_feature_dim

    @property
    def thresholds(self) -> dict[str, float]:
        """Modality -> tau."""
        return {"image": self.image_threshold, "text": self.text_threshold}

    @property
    def leaves_out_pictures(self) -> bool:
        """Whether a picture is compared with those of the memory, see `picture_familiarity`."""
        return self.picture_familiarity is not None and self.relation_scope != "batch" and self.memory_lookup == "top_k"

    def set_threshold(self, modality: str, threshold: float) -> None:
        """Set a modality's tau."""
        if modality == "image":
            self.image_threshold = threshold
        else:
            self.text_threshold = threshold

    @property
    def hidden_size(self) -> int:
        """Width of the joint representation that the heads read."""
        return self.learner_hidden_sizes[-1] if self.learner_hidden_sizes else self.merged_size

    @property
    def merged_size(self) -> int:
        """Width of streams, HIMA vectors and task features side by side."""
        hima = self.region_feature_dim + self.token_feature_dim
        hima *= 2 if self.hima_stage2 and self.stage2_combine == "concat" else 1
        return len(self.relation_streams) * self.relation_hidden_size + hima + self.task_feature_dim

    def task(self, name: str) -> dict:
        """The description of one task. Raises KeyError if there is none of that name."""
        return {task["name"]: task for task in self.tasks}[name]

    def _encoder_config(self, name: str):
        value = getattr(self, name)
        if value is None or isinstance(value, PreTrainedConfig):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("model_type"), str):
            self._refuse(name, "None, a PreTrainedConfig or a dict with `model_type`")
        value = dict(value)
        try:
            return AutoConfig.for_model(value.pop("model_type"), **value)
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}") from error

    def _set_feature_sizes(self) -> None:
        joint, text, vision = (self.encoder_configs.get(name) for name in ("joint", "text", "vision"))
        sizes = {
            "region_feature_dim": feature_width(vision) if vision else None,
            "token_feature_dim": feature_width(text) if text else None,
            "image_embed_dim": projection_width(joint, getattr(joint, "vision_config", None)) if joint else None,
            "text_embed_dim": projection_width(joint, getattr(joint, "text_config", None)) if joint else None,
        }
        if not joint:
            sizes["image_embed_dim"], sizes["text_embed_dim"] = sizes["region_feature_dim"], sizes["token_feature_dim"]
        if self.encoder_names:
            sizes["task_feature_dim"] = 0
        if self.task_features is not None:
            sizes["task_feature_dim"] = self._task_feature_dim()
        for name, paper_size in PAPER_SIZES.items():
            given, found = getattr(self, name), sizes.get(name)
            if given is not None and found and given != found:
                source = "the sum of `task_features`" if name == "task_feature_dim" else "the width its encoder gives"
                self._refuse(name, f"{found}, {source} (leave it out to take that)")
            if given is None:
                setattr(self, name, paper_size if found is None else found)

    def _task_feature_dim(self) -> int:
        entries = self.task_features
        if not isinstance(entries, (list, tuple)) or not all(
            isinstance(e, dict) and set(e) == {"name", "size"} and isinstance(e["size"], int) and e["size"] > 0
            for e in entries
        ):
            self._refuse("task_features", "None or a list of dicts with `name` and `size`")
        self.task_features = [dict(entry) for entry in entries]
        return sum(entry["size"] for entry in entries)

    def _task_list(self) -> list:
        tasks = PAPER_TASKS if self.tasks is None else self.tasks
        if not isinstance(tasks, (list, tuple)):
            self._refuse("tasks", "a list of task descriptions")
        return tasks

    def _task(self, index: int, task: dict) -> dict:
        where = f"tasks[{index}]"
        if not isinstance(task, dict) or not isinstance(task.get("name"), str) or not task["name"]:
            self._refuse(where, "a dict with a non-empty string `name`", task)
        if task["name"] in VERDICT_KEYS:
            self._refuse(f"{where}.name", f"none of {', '.join(VERDICT_KEYS)}, which a verdict has too", task["name"])
        unknown = sorted(set(task) - set(TASK_DEFAULTS) - {"name"})
        if unknown:
            self._refuse(
                where, f"a dict with the keys name, {', '.join(TASK_DEFAULTS)}; not {', '.join(unknown)}", task
            )
        task = {**TASK_DEFAULTS, **task}
        kind, labels, weights = task["kind"], task["labels"], task["class_weights"]
        where = f"tasks[{index}] ({task['name']})"
        if not isinstance(kind, str) or kind not in KINDS:
            self._refuse(f"{where}.kind", f"one of {tuple(KINDS)}", kind)
        if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
            self._refuse(f"{where}.labels", "a list of strings", labels)
        least, most = kind_of(task).least_labels, kind_of(task).most_labels
        if len(labels) < least or len(set(labels)) != len(labels) or (most is not None and len(labels) > most):
            expected = f"empty for {kind}" if most == 0 else f"at least {least} different names for {kind}"
            self._refuse(f"{where}.labels", expected, labels)
        if not _is_number(task["loss_weight"]) or task["loss_weight"] < 0:
            self._refuse(f"{where}.loss_weight", "a number of at least 0", task["loss_weight"])
        if not _is_number(task["focal_gamma"]) or task["focal_gamma"] < 0:
            self._refuse(f"{where}.focal_gamma", "a number of at least 0", task["focal_gamma"])
        if weights is not None and (
            not isinstance(weights, (list, tuple))
            or len(weights) != len(labels)
            or not all(_is_number(weight) and weight >= 0 for weight in weights)
        ):
            self._refuse(f"{where}.class_weights", f"None or {len(labels)} numbers of at least 0", weights)
        if not _is_number(task["temperature"]) or not 1 / MOST <= task["temperature"] <= MOST:
            self._refuse(f"{where}.temperature", f"a number from {1 / MOST:g} to {MOST:g}", task["temperature"])
        if not _is_number(task["std"]) or not task["std"] > 0:
            self._refuse(f"{where}.std", "a number above 0", task["std"])
        if not _is_number(task["mean"]):
            self._refuse(f"{where}.mean", "a finite number", task["mean"])
        offsets = task["decision_offsets"]
        if offsets is not None and (
            not isinstance(offsets, (list, tuple))
            or len(offsets) != len(labels)
            or not all(_is_number(offset) and abs(offset) <= MOST for offset in offsets)
        ):
            expected = f"None or {len(labels)} numbers from -{MOST:g} to {MOST:g}"
            self._refuse(f"{where}.decision_offsets", expected, offsets)
        doubts = task["doubts"]
        if doubts is not None and (
            not isinstance(doubts, (list, tuple))
            or len(doubts) < 2
            or not all(map(_is_number, doubts))
            or list(doubts) != sorted(doubts)
        ):
            self._refuse(f"{where}.doubts", "None or at least two rising numbers", doubts)
        experts = task["expert_weights"]
        if experts is not None and (
            not isinstance(experts, dict)
            or not all(
                name in EXPERT_NAMES and _is_number(weight) and 0 <= weight <= MOST for name, weight in experts.items()
            )
            or not sum(experts.values()) > 0
        ):
            expected = f"None or numbers from 0 to {MOST:g} by name of {EXPERT_NAMES}"
            self._refuse(f"{where}.expert_weights", expected, experts)
        task["decision_offsets"] = None if offsets is None else [float(offset) for offset in offsets]
        task["labels"] = list(labels)
        task["class_weights"] = None if weights is None else [float(weight) for weight in weights]
        return task

    def _check(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                self._refuse(name, f"one of {choices}")
        for name, choices in {
            "frozen_encoders": ENCODER_NAMES,
            "relation_streams": STREAM_NAMES,
            "experts": EXPERT_NAMES,
        }.items():
            values = getattr(self, name)
            if not all(value in choices for value in values) or len(set(values)) != len(values):
                self._refuse(name, f"different names of {choices}")
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, "True or False")
        for name in (
            *PAPER_SIZES,
            "attention_hidden_size",
            "relation_hidden_size",
            "relation_layers",
            "memory_top_k",
            "members",
        ):
            least, most = 0 if name == "task_feature_dim" else 1, MOST_PARTS.get(name, LARGEST_SIZE)
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                self._refuse(name, f"a whole number of at least {least}")
            if value > most:
                self._refuse(name, f"at most {most}")
        if not self.attention_context_vector and self.attention_hidden_size != 1:
            self._refuse("attention_hidden_size", "1 where `attention_context_vector` is False")
        for size in self.learner_hidden_sizes:
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_SIZE:
                self._refuse("learner_hidden_sizes", f"whole numbers from 1 to {LARGEST_SIZE}")
        for name, (low, high) in {
            "image_threshold": (-1, 1),
            "text_threshold": (-1, 1),
            "stage2_momentum": (0, 1),
            "learner_dropout": (0, 1),
            "relation_dropout": (0, 1),
            "modality_dropout": (0, 1),
            "unfamiliar_pictures": (0, 1),
            "label_smoothing": (0, 1),
        }.items():
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high or (name == "learner_dropout" and value == 1):
                self._refuse(name, f"a number from {low} to {high}")
        if not _is_number(self.edge_temperature) or self.edge_temperature < LEAST_TEMPERATURE:
            self._refuse("edge_temperature", f"a number of at least {LEAST_TEMPERATURE}")
        if self.relation_memory is not None and not isinstance(self.relation_memory, str):
            self._refuse("relation_memory", "None, a folder or a Hub id")
        familiar = self.picture_familiarity
        if familiar is not None and (not _is_number(familiar) or not -1 <= familiar <= 1):
            self._refuse("picture_familiarity", "None or a cosine from -1 to 1")
        if self.experts and "network" not in self.experts:
            self._refuse("experts", "with 'network' among them")
        if "neighbours" in self.experts and self.relation_scope == "batch":
            self._refuse("relation_scope", "'memory' or 'batch+memory' where the neighbours are an expert")
        if self.neighbour_labels and self.relation_scope == "batch":
            self._refuse("relation_scope", "'memory' or 'batch+memory' where `neighbour_labels` is True")
        names = [task["name"] for task in self.tasks]
        if len(set(names)) != len(names):
            self._refuse("tasks", "tasks of different names", names)

    def _refuse(self, name: str, expected: str, value=None) -> None:
        value = getattr(self, name) if value is None and hasattr(self, name) else value
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


def _parts_of(part) -> Iterator[dict]:
    """A configuration as a file has it, and those inside it."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from _parts_of(value)


def _forget_folders(part) -> None:
    if isinstance(part, dict):
        if hub_id(part.get("_name_or_path")) is None:
            part.pop("_name_or_path", None)
        for value in part.values():
            _forget_folders(value)


def _is_number(value) -> bool:
    """Whether it is one that float32 and JSON can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


MMOrientConfig.register_for_auto_class()  # its code goes with what it is saved in
