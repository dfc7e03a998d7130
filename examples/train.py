# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune with plain `transformers.Trainer`: the same arguments as `mm-orient train`, every step in the open.

    python examples/train.py --data FOLDER --labels offensive sentiment --text-column text --image-column image_name \
        --split-column split --text-encoder ID --vision-encoder ID --output RUN

`mm-orient train` does the same and stores the frozen encoders' features, so that they run once per post and not once per
epoch; it also resumes, logs per task and writes a model card.
"""

import argparse

from transformers import Trainer, TrainingArguments, set_seed

from modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientProcessor, save_for_hub
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.features.collation import PostCollator
from modeling_mm_orient.runs.scoring import task_metrics_function


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--labels-file")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--image-column", default="image")
    parser.add_argument("--split-column")
    parser.add_argument("--joint-encoder")
    parser.add_argument("--text-encoder", required=True)
    parser.add_argument("--vision-encoder", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_seed(options.seed)

    # 1. posts in one schema, checked as a whole; tasks inferred from the label columns
    description = DataDescription(
        options.data,
        labels=options.labels,
        labels_file=options.labels_file,
        text_column=options.text_column,
        image_column=options.image_column,
        split_column=options.split_column,
    )
    posts, tasks, _ = read_posts(description)

    # 2. a new model around pretrained, frozen encoders, and the processor that goes with it
    encoders = {"joint": options.joint_encoder, "text": options.text_encoder, "vision": options.vision_encoder}
    processor = MMOrientProcessor.from_encoders_pretrained(**encoders)
    model = MMOrientForMultiTaskClassification.from_encoders_pretrained(**encoders, tasks=tasks)

    # 3. transformers' own Trainer
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=f"{options.output}-checkpoints",
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=options.batch_size,
            learning_rate=1e-4,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="mean_macro_f1",
            remove_unused_columns=False,  # the collator needs pictures and texts
            report_to="none",
            seed=options.seed,
        ),
        data_collator=PostCollator(processor, tasks),
        train_dataset=posts["train"],
        eval_dataset=posts["validation"],
        compute_metrics=task_metrics_function(tasks),
    )
    trainer.train()
    if "test" in posts:
        metrics = trainer.evaluate(posts["test"], metric_key_prefix="test")
        print({name: round(value, 4) for name, value in metrics.items() if name.endswith("macro_f1")})

    # 4. a folder for the Hub
    save_for_hub(model, processor, options.output)
    print(f"saved to {options.output}")


if __name__ == "__main__":
    main()
