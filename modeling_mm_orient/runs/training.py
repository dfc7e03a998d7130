# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Training: a Trainer that logs every task's loss and metrics, and a whole run from a folder to a Hub-ready checkpoint."""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from huggingface_hub import constants
from torch.utils.data import DataLoader, Subset
from transformers import (
    EarlyStoppingCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..data.paraphrases import add_paraphrases
from ..features.collation import FeatureCollator, PostCollator, ReadAheadLoader
from ..configuration_mm_orient import ENCODER_NAMES
from ..data.reading import DataDescription, read_posts, without_pictures
from ..data.arrays import ArrayPosts, FeatureArrays
from ..features.cache import CachedPosts, FeatureCache
from ..features.extraction import process_state
from .graph_inspection import MOST_POSTS, graph_statistics, threshold_at_quantile
from .hub import save_for_hub
from ..data.augmentation import AugmentedPosts, ImageAugmentation
from .metrics import multi_task_metrics
from .card import model_card
from ..modeling_mm_orient import PostFeatures
from .presets import build_model, load_preset, treat_as
from ..processing_mm_orient import post_key
from ..relation_memory import LARGE_MEMORY
from ..data.tables import write_json
from ..task_heads import probabilities

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
CHECKPOINTS = "checkpoints"
DEFAULT_FEATURE_CACHE = os.path.join(constants.HF_HOME, "mm_orient", "features")


@dataclass
class TrainingSettings:
    """How to train; the `training` part of a preset.

    Args:
        epochs: at most this many (default 10). patience: stop after so many epochs without a better mean macro-F1 on the
            validation split (default 4); 0 never stops early.
        batch_size: posts per process and step (default 32); relation graphs are built among them.
        accumulation: steps per update (default 1).
        learning_rate: of everything after the encoders (default 1e-4). encoder_learning_rate: of encoders that are
            trained (default 1e-5).
        weight_decay, warmup: of AdamW (default .01) and as a share of all steps (default .1).
        class_weights: None, or `"balanced"`: each class weighted by the inverse of its share in training.
        threshold_quantile: None, or a share of pairs of training posts: each modality's relation threshold becomes the
            cosine below which that share lies (say .99: one pair in a hundred is joined). Needs frozen encoders.
        augment_images: flip and jitter the pictures of training, in the paper's ranges; they are then encoded in every
            epoch, and not stored.
        bf16: autocast to bfloat16.
        seed: of initial weights, shuffling and dropout (default 0).
    """

    epochs: int = 10
    patience: int = 4
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-4
    encoder_learning_rate: float = 1e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    class_weights: str | None = None
    threshold_quantile: float | None = None
    augment_images: bool = False
    bf16: bool = False
    seed: int = 0


@dataclass
class MMOrientTrainingArguments(TrainingArguments):
    """`TrainingArguments` with a learning rate for the encoders; None (default) trains them at `learning_rate`."""

    encoder_learning_rate: float | None = field(default=None, metadata={"help": "learning rate of the encoders"})


class MMOrientTrainer(Trainer):
    """`Trainer` that also logs each task's training loss (`loss_TASK`), has a learning rate for the encoders, and reads
    stored features ahead."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._task_losses, self._task_loss_count = {}, 0

    def get_train_dataloader(self):
        return self._reading_ahead(super().get_train_dataloader())

    def get_eval_dataloader(self, *args, **kwargs):
        return self._reading_ahead(super().get_eval_dataloader(*args, **kwargs))

    def _reading_ahead(self, loader):
        base = getattr(loader, "base_dataloader", None)  # what Accelerate iterates over
        if type(base) is DataLoader and base.num_workers == 0 and isinstance(self.data_collator, FeatureCollator):
            loader.base_dataloader = ReadAheadLoader.in_place_of(base)
        return loader

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training:
            for name, value in outputs["task_losses"].items():
                self._task_losses[name] = self._task_losses.get(name, 0.0) + value
            self._task_loss_count += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self._task_loss_count:
            totals = self.accelerator.reduce(self._task_losses, "mean")
            logs |= {f"loss_{name}": float(total) / self._task_loss_count for name, total in totals.items()}
            self._task_losses, self._task_loss_count = {}, 0
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, model=None):
        model = self.model if model is None else model
        encoder_rate = getattr(self.args, "encoder_learning_rate", None)
        if self.optimizer is None and encoder_rate is not None:
            decayed = set(self.get_decay_parameter_names(model))
            groups = []
            for of_encoder, rate in ((False, self.args.learning_rate), (True, encoder_rate)):
                for decays in (True, False):
                    parameters = [
                        value
                        for name, value in model.named_parameters()
                        if value.requires_grad
                        and is_encoder_parameter(name) == of_encoder
                        and (name in decayed) == decays
                    ]
                    decay = self.args.weight_decay if decays else 0.0
                    groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **options)
        return super().create_optimizer() if self.optimizer is None else self.optimizer


class EpochLines(ProgressCallback):
    """The progress bar, with one short line per epoch in place of every metric; all are in the Trainer's log history."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and "eval_loss" in logs:
            train_loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), float("nan"))
            self.training_bar.write(
                f"epoch {logs['epoch']:.0f}  training loss {train_loss:.4f}  validation loss {logs['eval_loss']:.4f}"
                f"  mean macro-F1 {logs['eval_mean_macro_f1']:.4f}"
            )


class RefreshRelationMemory(TrainerCallback):
    """Encodes the relation memory anew where encoders are trained: before the first step and after every epoch, ahead of
    validation and saving. Within an epoch it is up to an epoch old.

    After `load_best_model_at_end` call `rebuild(model)`: in `eval()` the model refuses a memory of other weights.

    Args:
        posts, processor: as `MMOrientModel.build_relation_memory` takes them.
    """

    def __init__(self, posts, processor):
        self.posts, self.processor = posts, processor

    def rebuild(self, model) -> None:
        """Encode the posts with the model as it is."""
        model.build_relation_memory(self.posts, self.processor)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.rebuild(model)

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.rebuild(model)


def is_encoder_parameter(name: str) -> bool:
    """Whether a parameter's full name is one of an encoder's."""
    return any(f"{encoder}_encoder." in name for encoder in ENCODER_NAMES)


def task_metrics_function(tasks: list[dict]):
    """`compute_metrics` for any `Trainer`: every task's scalar metrics as `TASK_METRIC`, and `mean_macro_f1`.

    A run of regression tasks alone has no macro-F1: there `mean_macro_f1` is the negated mean squared error.
    """

    def compute(prediction) -> dict[str, float]:
        kinds = {task["name"]: task["kind"] for task in tasks}
        scores = {
            name: probabilities(kinds[name], torch.as_tensor(v)).numpy() for name, v in prediction.predictions.items()
        }
        metrics = multi_task_metrics(tasks, prediction.label_ids, scores)
        mean = metrics.pop("mean_macro_f1")
        if mean is None:
            errors = [values["mse"] for values in metrics.values()]
            mean = -sum(errors) / max(1, len(errors))
        flat = {f"{task}_{name}": v for task, values in metrics.items() for name, v in values.items() if _is_scalar(v)}
        return flat | {"mean_macro_f1": mean}

    return compute


def balanced_class_weights(posts: datasets.Dataset, task: dict) -> list[float] | None:
    """`posts / (classes * posts of the class)` over known labels, 1 for an absent class; None unless single label."""
    if task["kind"] != "single_label":
        return None
    counts = Counter(number for number in posts[task["name"]] if number is not None)
    total = sum(counts.values())
    return [total / (len(task["labels"]) * counts[c]) if counts[c] else 1.0 for c in range(len(task["labels"]))]


def train(
    description: DataDescription,
    output: str,
    preset: dict | None = None,
    settings: TrainingSettings | None = None,
    config: dict | None = None,
    feature_cache: str | None = DEFAULT_FEATURE_CACHE,
    skip_bad_posts: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> dict:
    """Check the data, train, keep the best epoch by mean macro-F1 on validation, evaluate on test, write a Hub-ready folder.

    Args:
        description: the data.
        output: the run's folder. It ends up with model, processor and code, `run.json`, `metrics.json` and `README.md`.
        preset: from `load_preset`; None takes the tiny encoders, trained from scratch.
        settings: None takes the preset's.
        config: fields of `MMOrientConfig` that override the preset's.
        feature_cache: folder of the feature cache, used when all encoders are frozen; None encodes in every epoch.
        resume: go on from the last checkpoint of an interrupted run. overwrite: replace an existing run.

    Returns:
        Metrics by split, `"validation"` and `"test"`, in the form of `multi_task_metrics`.

    Raises:
        DataProblems: see `read_posts`. FileExistsError: `output` holds a run. ValueError: a setting is wrong.
    """
    preset = preset or load_preset("tiny")
    settings = settings or TrainingSettings(**preset["training"])
    output = Path(output)
    _check_output(output, resume, overwrite)
    arrays = FeatureArrays(description.feature_arrays)
    roles = _encoder_roles(preset, arrays, description.paraphrases is not None)
    arguments = _training_arguments(output, settings)
    state = process_state()
    set_seed(settings.seed)

    posts, tasks, left_out = read_posts(description, skip_bad_posts, reads_pictures(roles))
    for split in ("train", "validation"):
        if split not in posts:
            raise ValueError(f"the data has no {split} split")
    originals = len(posts["train"])
    if description.paraphrases is not None:
        posts = add_paraphrases(posts, description.paraphrases)
    if settings.class_weights == "balanced":
        tasks = [task | {"class_weights": balanced_class_weights(posts["train"], task)} for task in tasks]
    texts = [text for text in posts["train"]["text"] if text]
    fields = {"task_feature_dim": 0} | arrays.config_fields(has_joint="joint" in roles) | (config or {})
    model, processor = build_model(preset, tasks, texts, **fields)
    treat_as(processor, description)
    if settings.threshold_quantile is not None and not _all_frozen(model.config):
        raise ValueError("`threshold_quantile` needs frozen encoders: while they are trained, similarities move")
    run = {
        "data": asdict(description),
        "training": asdict(settings),
        "feature_cache": feature_cache if _all_frozen(model.config) and not settings.augment_images else None,
        "splits": {split: len(rows) for split, rows in posts.items()},
        "left_out": [asdict(problem) for problem in left_out],
    }
    if resume:
        _check_same_run(output, run)
    if state.is_main_process:
        if overwrite and not resume and output.exists():
            shutil.rmtree(output)
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / RUN_FILE, run)
    state.wait_for_everyone()

    inputs, collator = model_inputs(model, processor, posts, tasks, run["feature_cache"], arrays)
    if _all_frozen(model.config) and model.config.relation_streams:
        _fit_graphs(model.config, training_embeds(inputs["train"], model, collator), settings)
    callbacks = [EarlyStoppingCallback(settings.patience)] if settings.patience else []
    refresh = None
    if model.config.relation_scope != "batch":
        references = Subset(inputs["train"], range(originals))  # a paraphrase is no other post
        memory = model.to(state.device).build_relation_memory(references, processor)
        model.config.relation_memory = LARGE_MEMORY if memory.is_large else None
        if not _all_frozen(model.config):
            refresh = RefreshRelationMemory(references, processor)
            callbacks.append(refresh)
    if settings.augment_images:
        inputs["train"] = AugmentedPosts(inputs["train"], ImageAugmentation(seed=settings.seed))
    trainer = MMOrientTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=inputs["train"],
        eval_dataset=inputs["validation"],
        compute_metrics=task_metrics_function(tasks),
        callbacks=callbacks,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(EpochLines)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(output / CHECKPOINTS) if resume else None)

    if refresh is not None:
        refresh.rebuild(model)  # the best epoch's weights are back, the last epoch's memory is not theirs

    metrics = {}
    for split in ("validation", "test"):
        if split in inputs:
            prediction = trainer.predict(inputs[split])
            kinds = {task["name"]: task["kind"] for task in tasks}
            scores = {n: probabilities(kinds[n], torch.as_tensor(v)).numpy() for n, v in prediction.predictions.items()}
            metrics[split] = multi_task_metrics(tasks, prediction.label_ids, scores)
    if state.is_main_process:
        write_json(output / METRICS_FILE, metrics)
        save_for_hub(model, processor, output, model_card(model.config, metrics, run))
        shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    state.wait_for_everyone()
    return metrics


def model_inputs(
    model,
    processor,
    posts: datasets.DatasetDict,
    tasks: list[dict],
    feature_cache: str | None = None,
    arrays: FeatureArrays | None = None,
):
    """Data sets for the model by split, and the collator they need: stored features, or the posts themselves; and arrays."""
    names = model.config.encoder_names
    if not reads_pictures(names):
        posts = datasets.DatasetDict({split: without_pictures(rows) for split, rows in posts.items()})
    inputs, collator = posts, PostCollator(processor, tasks)
    if feature_cache is not None and names:
        inputs, collator = _stored_features(model, processor, posts, feature_cache), FeatureCollator(tasks)
    if arrays:
        inputs = {split: ArrayPosts(rows, arrays, names) for split, rows in inputs.items()}
    return inputs, collator


def reads_pictures(encoder_names) -> bool:
    """Whether any of these encoders needs pictures."""
    return bool({"joint", "vision"} & set(encoder_names))


def _stored_features(model, processor, posts: datasets.DatasetDict, feature_cache: str) -> dict[str, CachedPosts]:
    encoder = getattr(model, "mm_orient", model)
    cache, state = FeatureCache(feature_cache, encoder, processor), PartialState()
    encoder.to(state.device)
    keys = {split: [post_key(post) for post in rows] for split, rows in posts.items()}
    for split, rows in posts.items():
        cache.add(rows, keys[split], share=state.process_index, shares=state.num_processes)
    state.wait_for_everyone()
    cache.load()
    return {split: CachedPosts(rows, keys[split], cache) for split, rows in posts.items()}


def training_embeds(posts, model, collator) -> dict[str, torch.Tensor]:
    """E_img and E_txt, modality -> (N, D), of those posts of `encoded_sample` that have the modality."""
    found = {"image": [], "text": []}
    for encoded, _ in encoded_sample(posts, model, collator):
        for modality, rows in found.items():
            rows.append(encoded[f"{modality}_embeds"][encoded[f"has_{modality}"]].cpu())
    return {modality: torch.cat(rows) for modality, rows in found.items()}


@torch.inference_mode()
def encoded_sample(posts, model, collator) -> Iterator[tuple[PostFeatures, torch.Tensor | None]]:
    """Up to `MOST_POSTS` posts, a reproducible sample, 32 at a time: their features and the `post_keys` of `forward`."""
    order = torch.randperm(len(posts), generator=torch.Generator().manual_seed(0))[:MOST_POSTS].tolist()
    encoder = getattr(model, "mm_orient", model)
    encoder.eval()
    for start in range(0, len(order), 32):
        batch = collator([posts[index] for index in order[start : start + 32]])
        inputs = {
            name: value.to(encoder.device) for name, value in batch.items() if name not in ("labels", "task_features")
        }
        keys = inputs.pop("post_keys", None)
        yield encoder.encode_posts(**inputs), keys


def _fit_graphs(config, embeds: dict[str, torch.Tensor], settings: TrainingSettings) -> None:
    """Set thresholds by quantile where asked, and warn of graphs with hardly any or nearly all edges."""
    for modality, rows in embeds.items():
        name = f"{modality}_threshold"
        if settings.threshold_quantile is not None and len(rows) > 1:
            setattr(config, name, threshold_at_quantile(rows, settings.threshold_quantile))
        if config.relation_scope == "memory" and config.memory_lookup == "top_k":
            continue  # no threshold decides
        among = len(rows) if config.relation_scope == "memory" else settings.batch_size
        statistics = graph_statistics(rows, getattr(config, name), among)
        if statistics is not None and (advice := statistics.advice()) and PartialState().is_main_process:
            logger.warning(
                "the %s graph says little at `%s` %.3f: %s; see --threshold-quantile and mm-orient inspect-graph",
                *(modality, name, statistics.threshold, advice),
            )


def last_complete_checkpoint(folder: Path) -> str | None:
    """The newest of the Trainer's checkpoints that was written to its end (its state comes last); None if there is none."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def _training_arguments(output: Path, settings: TrainingSettings) -> MMOrientTrainingArguments:
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
            raise ValueError(f"`{entry.name}` must not be negative, got {value}")
    for name in ("epochs", "batch_size", "accumulation"):
        if getattr(settings, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(settings, name)}")
    if settings.threshold_quantile is not None and not 0 < settings.threshold_quantile < 1:
        raise ValueError(f"`threshold_quantile` must be between 0 and 1, got {settings.threshold_quantile}")
    if settings.class_weights not in (None, "balanced"):
        raise ValueError(f"`class_weights` must be None or 'balanced', got {settings.class_weights!r}")
    return MMOrientTrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        encoder_learning_rate=settings.encoder_learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        bf16=settings.bf16,
        use_cpu=settings.bf16 and not torch.accelerator.is_available(),  # else they refuse bfloat16 without a GPU
        seed=settings.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="mean_macro_f1",
        greater_is_better=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )


def _check_output(output: Path, resume: bool, overwrite: bool) -> None:
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / RUN_FILE).exists():
        raise FileExistsError(f"{output} exists and is no run; choose another output")
    if overwrite:
        return
    if (output / "config.json").exists():
        raise FileExistsError(f"{output} holds a finished run; choose another output, or say --overwrite")
    if not resume:
        raise FileExistsError(f"{output} holds an interrupted run; say --resume to go on, or --overwrite")


def _check_same_run(output: Path, run: dict) -> None:
    """Refuse to resume on other data or with other settings; more epochs and another patience are fine."""
    if not (output / RUN_FILE).exists():
        return
    before = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
    for part, free in (("data", ()), ("splits", ()), ("training", ("epochs", "patience"))):
        for name in before[part].keys() | run[part].keys():
            old, new = before[part].get(name), run[part].get(name)
            if old != new and name not in free:
                raise ValueError(f"cannot resume {output}: `{name}` was {old!r} and is {new!r} now")


def _all_frozen(config) -> bool:
    return set(config.encoder_names) <= set(config.frozen_encoders)


def _encoder_roles(preset: dict, arrays: FeatureArrays, paraphrased: bool) -> set[str]:
    """The encoders of a run: those named, or the preset's own that are trained from scratch, or none where all is arrays.

    Raises:
        ValueError: neither an encoder nor an array gives regions or tokens, or both do.
    """
    roles = {role for role, source in preset["encoders"].items() if source}
    if not roles and not arrays and preset["processor"]:
        return {"text", "vision"}
    for role, feature in (("vision", "region_features"), ("text", "token_features")):
        if role not in roles and feature not in arrays:
            raise ValueError(f"no {role} encoder is named: name it, or give an array of {feature} (--feature-arrays)")
        if role in roles and feature in arrays:
            raise ValueError(f"{feature} come from the {role} encoder and from an array: give one of them")
    for feature in ("image_embeds", "text_embeds"):
        if feature in arrays and "joint" in roles:
            raise ValueError(f"{feature} come from the joint encoder and from an array: give one of them")
    if paraphrased and "token_features" in arrays:
        raise ValueError("paraphrases change nothing where token_features come from an array")
    if preset["task_features"] and "task_features" in arrays:
        raise ValueError("task_features come from sources and from an array: give one of them")
    return roles


def _is_scalar(value) -> bool:
    return isinstance(value, (int, float))
