# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A Trainer that logs every task's loss, learns encoders at a rate of their own and reads stored features ahead."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from ..features.collation import FeatureCollator, ReadAheadLoader
from ..names import ENCODER_MODULES


@dataclass
class MMOrientTrainingArguments(TrainingArguments):
    """`TrainingArguments` with a learning rate for the encoders; None (default) trains them at `learning_rate`."""

    encoder_learning_rate: float | None = field(default=None, metadata={"help": "learning rate of the encoders"})


class MMOrientTrainer(Trainer):
    """`Trainer` that also logs each task's training loss (`loss_TASK`), has a learning rate for the encoders, reads stored
    features ahead, and on a CPU calls the model's `for_cpu`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` is of a single task; weigh labels by `class_weights` of the tasks"
            )
        if self.args.device.type == "cpu":
            self.model.for_cpu()
        self._task_losses, self._task_loss_count = {}, 0
        self._body_is_frozen = not any(value.requires_grad for value in self.model.base_model.parameters())

    def get_train_dataloader(self):
        return self._reading_ahead(super().get_train_dataloader())

    def get_eval_dataloader(self, *args, **kwargs):
        with self._dropping_no_post():
            return self._reading_ahead(super().get_eval_dataloader(*args, **kwargs))

    def get_test_dataloader(self, *args, **kwargs):
        with self._dropping_no_post():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _dropping_no_post(self):
        """`dataloader_drop_last` is of training: every post is judged."""
        said, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = said

    def _reading_ahead(self, loader):
        base = getattr(loader, "base_dataloader", None)  # see `private_apis`
        if type(base) is DataLoader and base.num_workers == 0 and isinstance(self.data_collator, FeatureCollator):
            loader.base_dataloader = ReadAheadLoader.in_place_of(base)
        return loader

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        if model.training and self._body_is_frozen:
            self.model.base_model.eval()  # its running estimates are part of it
            inputs = inputs | {"without_themselves": True}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss = loss if model.training else self._comparable(loss, outputs["task_losses"])
        if model.training:
            for name, value in outputs["task_losses"].items():
                self._task_losses[name] = self._task_losses.get(name, 0.0) + value
            self._task_loss_count += 1
        return (loss, outputs) if return_outputs else loss

    def _comparable(self, loss: Tensor, task_losses: dict[str, Tensor]) -> Tensor:
        """A loss by which epochs can be compared: learned weights of tasks move with them."""
        learned = self.model.config.task_loss_weighting == "uncertainty"
        return torch.stack(list(task_losses.values())).sum() if learned else loss

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


class CrossFittedTrainer(MMOrientTrainer):
    """Where every member leaves a part of the posts out: `evaluate` judges each post by the member that left it out, so that
    posts can be learned from and judged; `predict` judges by all members."""

    _evaluates = False

    def evaluate(self, *args, **kwargs):
        self._evaluates = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluates = False

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if not self._evaluates:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            found = model(**inputs, output_members=True, without_themselves=True)
        bare, labels = self.accelerator.unwrap_model(model), inputs["labels"]
        logits = left_out_logits(found.member_logits, inputs["post_keys"])
        loss = self._comparable(*bare.task_heads.loss(logits, labels))
        return loss, {name: value.float() for name, value in logits.items()}, labels


def left_out_logits(members: dict[str, Tensor], keys: Tensor) -> dict[str, Tensor]:
    """Task -> what the member that left a post out says of it.

    Args:
        members: task -> (members, B, C) or (members, B). keys: (B,) int64, see `PostInputs`.
    """
    rows = torch.arange(len(keys), device=keys.device)
    return {name: values[keys % len(values), rows] for name, values in members.items()}


class EpochLines(ProgressCallback):
    """The progress bar, with one short line per epoch in place of every metric; all are in the Trainer's log history."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "eval_loss" in logs and not args.disable_tqdm:
            train_loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), float("nan"))
            mean = logs["eval_mean_macro_f1"]
            of_classes = any(name.endswith("_macro_f1") for name in logs if name != "eval_mean_macro_f1")
            judged = f"mean macro-F1 {mean:.4f}" if of_classes else f"mean squared error {-mean:.4f}"
            losses = f"training loss {train_loss:.4f}  validation loss {logs['eval_loss']:.4f}"
            tqdm.write(f"epoch {logs['epoch']:.0f}  {losses}  {judged}")


class EpochOfPosts(TrainerCallback):
    """Tells augmented posts which epoch it is: a run that was interrupted goes on with the variants it would have had."""

    def __init__(self, posts):
        self.posts = posts

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.posts.epoch = round(state.epoch or 0)


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
    return any(f"{module}." in name for module in ENCODER_MODULES.values())
