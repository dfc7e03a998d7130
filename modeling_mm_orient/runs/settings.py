# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How to train; imports nothing heavy, the command line is made from it."""

import math
from dataclasses import dataclass

from ..data.fields import described

LARGEST_SEED = 2**32 - 1  # of NumPy's


@dataclass
class TrainingSettings:
    """How to train; the `training` part of a preset.

    Raises:
        ValueError: a setting is out of its range.
    """

    epochs: int = described("at most this many passes over the training split", 10)
    keep_epoch_by: str = described(
        "metric of validation by which the best epoch is kept: mean_macro_f1, loss or TASK_METRIC; the Trainer's "
        "--metric-for-best-model counts before it",
        "mean_macro_f1",
    )
    patience: int = described("epochs that are not better on validation before stopping; 0 never stops", 4)
    batch_size: int = described("posts per process and step", 32)
    accumulation: int = described("steps per update", 1)
    learning_rate: float = described("of everything after the encoders", 1e-4)
    encoder_learning_rate: float = described("of trained encoders", 1e-5)
    weight_decay: float = described("of AdamW", 0.01)
    warmup: float = described("share of all steps in which the learning rate rises", 0.1)
    class_weights: str | None = described("weight classes by the inverse of their share", choices=("balanced",))
    threshold_quantile: float | None = described(
        "relation thresholds from the training posts: a share Q of the pairs is not joined (default: the fixed ones); needs "
        "frozen encoders",
        metavar="Q",
    )
    augment_images: bool = described(
        "flip pictures and jitter their colours in training, and encode them in every epoch", False
    )
    decide: list[str] | None = described(
        "what decisions are fitted for on validation: [TASK=]macro_f1 (default), most_probable, precision:P or recall:R",
        metavar="RULE",
    )
    learn_from_validation: bool = described(
        "learn from validation posts too, each judged by the member that leaves it out; takes several members, frozen "
        "encoders and no paraphrases, and is left otherwise",
        False,
    )
    bf16: bool = described("train in bfloat16 autocast", False)
    seed: int = described("of weights, order and dropout", 0)
    trainer: dict = described("further fields of transformers' TrainingArguments", factory=dict)

    def __post_init__(self):
        if not isinstance(self.keep_epoch_by, str):
            raise ValueError(f"`keep_epoch_by` must be the name of a metric, got {self.keep_epoch_by!r}")
        for name in ("epochs", "batch_size", "accumulation"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("patience", "learning_rate", "encoder_learning_rate", "weight_decay", "warmup", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be a number and not negative, got {getattr(self, name)}")
        if self.seed > LARGEST_SEED:
            raise ValueError(f"`seed` must be at most {LARGEST_SEED}, got {self.seed}")
        for name, value in self.trainer.items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"`{name}` must be a number, got {value}")
        if self.threshold_quantile is not None and not 0 < self.threshold_quantile < 1:
            raise ValueError(f"`threshold_quantile` must be between 0 and 1, got {self.threshold_quantile}")
        if self.class_weights not in (None, "balanced"):
            raise ValueError(f"`class_weights` must be None or 'balanced', got {self.class_weights!r}")


@dataclass(frozen=True)
class Workers:
    """What a Ray job runs on."""

    workers: int = described("that each load the model", 1, metavar="N")
    cpus_per_worker: int = described("cores", 1, metavar="N")
    gpus_per_worker: float = described("accelerators; fractions share one, 0 runs on the cores", 0, metavar="N")
    address: str | None = described("of a Ray cluster, or auto (default: a Ray of this machine, for this job)")
