# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Train on arrays extracted beforehand, as the authors did; no encoder is needed.

    python examples/train_on_feature_arrays.py FEATURES.npz --output MODEL [--epochs N]

FEATURES.npz holds, for N posts: image_embeds (N, D), text_embeds (N, D), region_features (N, R, D), token_features
(N, T, D), task_features (N, F), optionally region_mask (N, R) and token_mask (N, T), and integer labels (N,), -100 where
missing, under `label.TASK`. The defaults of the configuration are the paper's (512, 512, 100 x 2048, 128 x 768, 784).
"""

import argparse

import numpy as np
from transformers import Trainer, TrainingArguments

from modeling_mm_orient import FeatureCollator, MMOrientConfig, MMOrientForMultiTaskClassification, save_for_hub
from modeling_mm_orient.runs.scoring import task_metrics_function


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", metavar="FEATURES.npz")
    parser.add_argument("--output", required=True, metavar="MODEL")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=120)
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    options = parser.parse_args()
    with np.load(options.features) as file:
        arrays = dict(file)

    tasks = [
        {"name": name.removeprefix("label."), "labels": [str(c) for c in range(int(values.max()) + 1)]}
        for name, values in arrays.items()
        if name.startswith("label.")
    ]
    config = MMOrientConfig(
        image_embed_dim=arrays["image_embeds"].shape[-1],
        text_embed_dim=arrays["text_embeds"].shape[-1],
        region_feature_dim=arrays["region_features"].shape[-1],
        token_feature_dim=arrays["token_features"].shape[-1],
        task_feature_dim=arrays["task_features"].shape[-1],
        tasks=tasks,
    )
    posts = [post_of(arrays, row) for row in range(len(arrays["image_embeds"]))]
    held_out = len(posts) // 10
    model = MMOrientForMultiTaskClassification(config)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=f"{options.output}-checkpoints",
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
        ),
        data_collator=FeatureCollator(tasks),
        train_dataset=posts[held_out:],
        eval_dataset=posts[:held_out],
        compute_metrics=task_metrics_function(config.tasks),
    )
    trainer.train()
    print({name: round(value, 4) for name, value in trainer.evaluate().items() if name.endswith("macro_f1")})
    save_for_hub(model, None, options.output)
    print(f"saved to {options.output}")


def post_of(arrays: dict[str, np.ndarray], row: int) -> dict:
    """One post as `FeatureCollator` takes it: padding cut off, labels under their task's name."""
    post = {name: arrays[name][row] for name in ("image_embeds", "text_embeds", "task_features")}
    for name, mask in (("region_features", "region_mask"), ("token_features", "token_mask")):
        post[name] = arrays[name][row][arrays[mask][row].astype(bool)] if mask in arrays else arrays[name][row]
    return post | {name.removeprefix("label."): int(v[row]) for name, v in arrays.items() if name.startswith("label.")}


if __name__ == "__main__":
    main()
