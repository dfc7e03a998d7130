# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The model card of a trained run: `model_card.md` filled in."""

import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from ..configuration_mm_orient import hub_id
from ..data.json_files import read_json
from ..names import PIPELINE_TASK as TASK_NAME
from ..tasks import kind_of
from .card_facts import DATASET, LICENSE, CardFacts
from .card_header import base_models, card_header
from .markdown import plain
from .run_folder import CARD_FILE, NOISE_FILE
from .scoring import judged_split

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("model_card.md")
RESPONSIBLE_USE = Path(__file__).with_name("MODEL_CARD.md")  # goes with every model that is published
HUB_TIMEOUT = 5.0  # seconds, for an encoder's licence
FEW_POSTS = 100  # of a class: its recall is known to about 10 points

OF_BATCH = """The relation graph is built among the posts of a batch, as in the paper, so a verdict can change with its batch
mates."""
OF_MEMORY = """A verdict depends on the post and on the reference posts in `relation_memory.safetensors`, not on the batch;
`pipe(post, neighbours=3)` names those that it rests on."""


def model_card(
    config,
    metrics: dict,
    run: dict,
    name: str = "mm-orient",
    facts: CardFacts | None = None,
    licenses: dict[str, str] | None = None,
    noise: list[dict] | None = None,
) -> str:
    """Markdown with YAML header.

    Args:
        config: `MMOrientConfig`. metrics: split -> `multi_task_metrics`. run: what `run.json` holds. name: repository id.
        facts: None takes the data set's id, where the run has just read it from the Hub.
        licenses: Hub id -> licence of the encoders, where known. noise: rows of `noise_rows`, of this model alone.
    """
    facts = facts or CardFacts(dataset=_dataset_of(run))
    data = "only as the figures above"
    if facts.dataset:
        data = ", ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in facts.dataset)
    settings = {name: value for name, value in run["training"].items() if value is not None and value is not False}
    counts = [f"- posts in {split}: {count}" for split, count in run["splits"].items()]
    left_out = len({problem.get("where", number) for number, problem in enumerate(run.get("left_out", []))})
    text = TEMPLATE.read_text(encoding="utf-8").format(
        header=card_header(config, metrics, name, facts),
        name=name,
        task_name=TASK_NAME,
        tasks=", ".join(plain(task["name"]) for task in config.tasks),
        task_lines="\n".join(map(_task_line, config.tasks)),
        encoder_lines="\n".join(_encoder_lines(config, licenses or {})) or "None: features come as arrays.",
        license_line=_license_line(facts),
        results="\n\n".join(f"### {split}\n\n{metrics_table(values)}" for split, values in metrics.items()),
        calibration=_calibration(metrics),
        noise=_noise(noise or []),
        relations=OF_BATCH if config.relation_scope == "batch" else OF_MEMORY,
        data_lines="\n".join(
            [
                f"- data sets: {data}",
                *counts,
                f"- posts left out: {left_out}",
                *_label_counts(run),
            ]
        ),
        training_lines="\n".join(f"- {name}: {value}" for name, value in settings.items()),
        limits="\n".join(f"- {line}" for line in _limits(config, metrics, facts)),
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # of parts that this model has not


def encoder_licenses(config) -> dict[str, str]:
    """Hub id -> licence of the encoders that came from the Hub, as it says; nothing where it cannot be asked."""
    found = {}
    for source in dict.fromkeys(base_models(config).values()):
        try:
            card = HfApi().model_info(source, timeout=HUB_TIMEOUT).card_data
        except HfHubHTTPError:  # gated, or gone
            continue
        except (HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # or no Hub's answer
            logger.info("the encoders' licences were not looked up: %s", error)
            return found
        # what stands in somebody's card is text of theirs in this one
        if card is not None and isinstance(license := card.get("license"), str) and LICENSE.fullmatch(license):
            found[source] = license
    return found


def datasets_in_card(folder) -> list[str] | None:
    """The data sets that a run's own card names: those that it was read from on the Hub, which only training knew."""
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        return None
    try:
        named = ModelCard.load(path, ignore_metadata_errors=True).data.get("datasets") or []
    except ValueError:  # somebody has edited it
        return None
    return [name for name in ([named] if isinstance(named, str) else named) if DATASET.fullmatch(str(name))] or None


def noise_in(folder) -> list[dict]:
    """The rows of a run's `noise.json`, a `.noise.json` of `mm-orient benchmark --noise` put there; empty without one.

    Raises:
        ValueError: it has another form.
    """
    path = Path(folder) / NOISE_FILE
    if not path.is_file():
        return []
    rows = read_json(path).get("rows")
    needed = {"degradation", "strength", "task", "macro_f1"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= set(row) for row in rows):
        raise ValueError(f"{path}: `rows` must be a list of objects with {', '.join(sorted(needed))}")
    return rows


def _dataset_of(run: dict) -> list[str] | None:
    source = hub_id(run.get("data", {}).get("data"))
    return [source] if source is not None and DATASET.fullmatch(source) else None


def _label_counts(run: dict) -> list[str]:
    """How many training posts have each label."""
    lines = []
    for task, of in run.get("labels", {}).items():
        named = [f"{plain(label)} {count}" for label, count in of.get("train", {}).items() if label]
        without = of.get("train", {}).get("", 0)
        said = f"- {plain(task)} in training: {', '.join(named)}"
        lines.append(said + (f"; without a label {without}" if without else ""))
    return lines


def _encoder_lines(config, licenses: dict[str, str]) -> list[str]:
    sources = base_models(config)
    lines = []
    for role, encoder in config.encoder_configs.items():
        source = sources.get(role)
        what = f"`{encoder.model_type}`" if source is None else f"[{source}](https://huggingface.co/{source})"
        license = f", licence {licenses[source]}" if source in licenses else ""
        lines.append(f"- {role}: {what} ({'frozen' if role in config.frozen_encoders else 'trained'}){license}")
    return lines


def _license_line(facts: CardFacts) -> str:
    if facts.license is None:
        return "Nobody has said under which licence this model is: ask before you use it."
    return f"Licence of this model: {facts.license}. Those of its encoders and of the training posts hold as well."


def _task_line(task: dict) -> str:
    labels = ", ".join(map(plain, task["labels"])) or "a number"
    return f"- **{plain(task['name'])}** ({task['kind']}): {labels}{_rule(task)}"


def _rule(task: dict) -> str:
    said = ""
    if task["expert_weights"]:
        said += "; experts " + ", ".join(f"{name} {weight:.2f}" for name, weight in task["expert_weights"].items())
    said += f"; temperature {task['temperature']:.3g}" if task["temperature"] != 1 else ""
    if task["decision_offsets"] is None:
        return said
    offsets = zip(task["labels"], task["decision_offsets"], strict=True)
    return f"{said}; decided with offsets " + ", ".join(f"{plain(label)} {offset:+.2f}" for label, offset in offsets)


def _calibration(metrics: dict) -> str:
    """The expected calibration error by split and task, before and after the temperature."""
    lines = []
    for split, values in metrics.items():
        for task, found in values.items():
            if isinstance(found, dict) and found.get("calibration_error") is not None:
                before = found.get("calibration_error_before")
                was = "" if before is None else f" (before the temperature {before:.3f})"
                lines.append(f"- {split}, {plain(task)}: {found['calibration_error']:.3f}{was}")
    if not lines:
        return ""
    head = "Expected calibration error: how far a probability is, on average, from how often it is right."
    return "### Calibration\n\n" + head + "\n\n" + "\n".join(lines)


def _noise(rows: list[dict]) -> str:
    """What is left of macro-F1 as posts are made worse."""
    if not rows:
        return ""
    from .benchmark.noise import NoiseRow, noise_areas

    whole = {"set": "", "method": "", "seed": 0, "auroc": None}
    known = [{name: value for name, value in (whole | row).items() if name in NoiseRow._fields} for row in rows]
    areas = noise_areas(NoiseRow(**row) for row in known)
    lines = ["| task | degradation | sound | area | kept |", "|---|---|--:|--:|--:|"]
    for area in areas:
        kept = "" if area.kept is None else f"{area.kept:.2f}"
        lines.append(
            f"| {plain(area.task)} | {plain(area.degradation)} | {area.clean:.3f} | {area.area:.3f} | {kept} |"
        )
    head = "Macro-F1 on sound posts, the mean height of its curve as they are made worse, and the share that this is of it."
    return "### Posts that are made worse\n\n" + head + "\n\n" + "\n".join(lines)


def _limits(config, metrics: dict, facts: CardFacts) -> list[str]:
    """What these figures and this model's form allow to be said."""
    values = metrics.get(judged_split(metrics), {})
    lines = []
    for task in config.tasks:
        found, name = values.get(task["name"]), plain(task["name"])
        if found is None:
            lines.append(f"{name}: no test post has a label: nothing is known of how well it does")
            continue
        if "macro_f1" not in found:
            continue
        if found["macro_f1"] <= found["majority_macro_f1"]:
            lines.append(f"{name}: it is no better than always saying the most frequent label")
        counted = kind_of(task).is_classification and len(found.get("support", [])) == len(task["labels"])
        few = [
            f"{plain(label)} ({count})"
            for label, count in zip(task["labels"], found["support"] if counted else [], strict=False)
            if count < FEW_POSTS
        ]
        if few:
            lines.append(f"{name}: few test posts speak for {', '.join(few)}")
    language = ", ".join(facts.language) if facts.language else None
    lines.append(
        f"texts in other languages than {language} were not tried" if language else "its languages are not said"
    )
    lines.append("errors were not counted per group of people: count them before you use it")
    if judged_split(metrics) != "test":
        lines.append(
            "there were no labelled test posts: the figures are of the posts that the best epoch was chosen on"
        )
    return lines


def metrics_table(metrics: dict) -> str:
    """A Markdown table of `multi_task_metrics`, with the majority-class predictor's row under each task's."""
    lines = ["| task | predictor | macro-F1 | weighted F1 | accuracy | AUROC |", "|---|---|--:|--:|--:|--:|"]
    errors = []
    for task, values in metrics.items():
        if task == "mean_macro_f1":
            continue
        if "mse" in values:
            of_mean = f"predicting the mean {values['mean_predictor_mse']:.4f}"
            errors.append(f"{plain(task)}: mean squared error {values['mse']:.4f}, {of_mean}")
            continue
        auroc = "" if values["auroc"] is None else f"{values['auroc']:.3f}"
        for predictor, prefix, area in (("model", "", auroc), ("majority class", "majority_", "")):
            cells = [f"{values[prefix + name]:.3f}" for name in ("macro_f1", "weighted_f1", "accuracy")]
            lines.append(f"| {plain(task)} | {predictor} | {' | '.join(cells)} | {area} |")
    if metrics.get("mean_macro_f1") is not None:
        lines.append(f"| **mean** | model | {metrics['mean_macro_f1']:.3f} | | | |")
    table = lines if len(lines) > 2 else []
    return "\n".join(table) + ("\n\n" if table and errors else "") + "\n".join(errors) or "No post has a label."
