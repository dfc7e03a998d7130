# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The model card of a trained run: `model_card.md` filled in."""

from pathlib import Path

from huggingface_hub import ModelCardData

from ..names import PIPELINE_TASK as TASK_NAME

TEMPLATE = Path(__file__).with_name("model_card.md")

OF_BATCH = """The relation graph is built among the posts of a batch, as in the paper, so a verdict can change with its batch
mates."""
OF_MEMORY = """A verdict depends on the post and on the reference posts in `relation_memory.safetensors`, not on the batch;
`pipe(post, neighbours=3)` names those that it rests on."""


def model_card(config, metrics: dict, run: dict, name: str = "mm-orient") -> str:
    """Markdown with YAML header.

    Args:
        config: `MMOrientConfig`. metrics: split -> `multi_task_metrics`. run: what `run.json` holds.
    """
    header = ModelCardData(library_name="transformers", tags=["mm-orient", TASK_NAME, "memes"]).to_yaml()
    encoder_lines = [
        f"- {role}: `{encoder.model_type}`" + (" (frozen)" if role in config.frozen_encoders else " (trained)")
        for role, encoder in config.encoder_configs.items()
    ]
    task_lines = [
        f"- **{task['name']}** ({task['kind']}): {', '.join(task['labels']) or 'a number'}{_rule(task)}"
        for task in config.tasks
    ]
    shown = {name: value for name, value in run["training"].items() if value not in (None, False)}
    shown |= {f"posts in {split}": count for split, count in run["splits"].items()}
    return TEMPLATE.read_text(encoding="utf-8").format(
        header=header,
        name=name,
        task_name=TASK_NAME,
        tasks=", ".join(task["name"] for task in config.tasks),
        task_lines="\n".join(task_lines),
        encoder_lines="\n".join(encoder_lines),
        results="\n\n".join(f"### {split}\n\n{metrics_table(values)}" for split, values in metrics.items()),
        relations=OF_BATCH if config.relation_scope == "batch" else OF_MEMORY,
        training_lines="\n".join(f"- {name}: {value}" for name, value in shown.items()),
    )


def _rule(task: dict) -> str:
    said = ""
    if task["expert_weights"]:
        said += "; experts " + ", ".join(f"{name} {weight:.2f}" for name, weight in task["expert_weights"].items())
    said += f"; temperature {task['temperature']:.3g}" if task["temperature"] != 1 else ""
    if task["decision_offsets"] is None:
        return said
    offsets = zip(task["labels"], task["decision_offsets"], strict=True)
    return f"{said}; decided with offsets " + ", ".join(f"{label} {offset:+.2f}" for label, offset in offsets)


def metrics_table(metrics: dict) -> str:
    """A Markdown table of `multi_task_metrics`, with the majority-class predictor's row under each task's."""
    lines = ["| task | predictor | macro-F1 | weighted F1 | accuracy | AUROC |", "|---|---|--:|--:|--:|--:|"]
    errors = []
    for task, values in metrics.items():
        if task == "mean_macro_f1":
            continue
        if "mse" in values:
            errors.append(
                f"{task}: mean squared error {values['mse']:.4f}, predicting the mean {values['mean_predictor_mse']:.4f}"
            )
            continue
        auroc = "" if values["auroc"] is None else f"{values['auroc']:.3f}"
        for predictor, prefix, area in (("model", "", auroc), ("majority class", "majority_", "")):
            cells = [f"{values[prefix + name]:.3f}" for name in ("macro_f1", "weighted_f1", "accuracy")]
            lines.append(f"| {task} | {predictor} | {' | '.join(cells)} | {area} |")
    if metrics.get("mean_macro_f1") is not None:
        lines.append(f"| **mean** | model | {metrics['mean_macro_f1']:.3f} | | | |")
    table = lines if len(lines) > 2 else []
    return "\n".join(table) + ("\n\n" if table and errors else "") + "\n".join(errors)
