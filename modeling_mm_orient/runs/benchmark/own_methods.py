# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Our own methods in a benchmark: a run as `train` makes it, and what its model says of validation and test posts."""

import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch

from ...features.inputs import model_inputs
from ...tasks import LABEL_PREFIX
from ..predictions import predict_logits
from ..run_folder import HELD_OUT_FILE, load_run
from ..scoring import BEST
from ..training import train
from .cross_fitting import Outcome
from .features import BenchmarkData, pooling_of
from .methods import MM_ORIENT, Method


def trained_outcome(data: BenchmarkData, method: Method, seed: int, folder: Path) -> Outcome:
    """Train in `folder`, in place of what an interrupted benchmark left there, and predict with the run as it is loaded;
    validation posts that it learned from are judged by who left them out.

    `mm_orient` has the preset's configuration; the paper's form has the defaults of `MMOrientConfig`, but pools as the
    preset does, so that both read the same stored features. Both train as the settings say, but the paper's form keeps its
    epoch by mean macro-F1.
    """
    # a checkpoint is for the best epoch alone: who was interrupted begins anew
    trainer = data.settings.trainer | {"save_only_model": True}
    preset, settings = data.preset, replace(data.settings, seed=seed, trainer=trainer)
    if method.base != MM_ORIENT:
        preset = preset | {"config": pooling_of(preset)}
        settings = replace(settings, keep_epoch_by=BEST)  # the loss is for experts, which the paper has not
    shutil.rmtree(folder, ignore_errors=True)
    train(
        data.description,
        str(folder),
        preset=preset,
        settings=settings,
        config=method.config,
        feature_cache=data.feature_cache,
        skip_bad_posts=data.skip_bad_posts,
        with_report=False,
    )
    model, processor = load_run(str(folder))
    tasks = model.config.tasks
    posts = datasets.DatasetDict({split: data.posts[split] for split in ("validation", "test")})
    inputs, collator = model_inputs(model, processor, posts, tasks, data.feature_cache, data.arrays)
    collator = replace(collator, labels=False)
    logits = {split: predict_logits(model, rows, collator, settings.batch_size)[0] for split, rows in inputs.items()}
    if (folder / HELD_OUT_FILE).is_file():
        with np.load(folder / HELD_OUT_FILE) as found:
            logits["validation"] = {
                name.removeprefix(LABEL_PREFIX): torch.from_numpy(found[name]) for name in found.files
            }

    def predict(others):
        return predict_logits(model, others, collator, settings.batch_size)[0]

    return Outcome(tasks, logits, method.config, predict)
