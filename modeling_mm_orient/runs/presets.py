# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Presets: JSON files of `hub_configs/` that describe an architecture, a data set's tasks, or both.

A preset has any of the parts `description`, `encoders` (role -> Hub id), `revisions` (role -> commit), `task_features` (name
-> the rest of an entry of `task_features.check_sources`), `config` (fields of `MMOrientConfig`), `processor` (how to make
one without pretrained encoders), `training` (fields of `TrainingSettings`) and `data` (fields of `DataDescription`).
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from ..configuration_mm_orient import ENCODER_NAMES, MMOrientConfig
from ..modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientModel
from ..processing_mm_orient import MMOrientProcessor
from ..task_features import check_sources, feature_sizes

PARTS = ("description", "encoders", "revisions", "task_features", "config", "processor", "training", "data")
SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]"]


def preset_folder() -> Path:
    """`hub_configs/`: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "hub_configs"
    return inside if inside.is_dir() else package.with_name("hub_configs")


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in preset_folder().glob("*.json"))


def load_preset(*names: str) -> dict:
    """The parts of one or several presets, by name or path; of the same entry the last preset's counts.

    Raises:
        ValueError: there is no such preset, or it has a part of another name.
    """
    merged = {part: {} for part in PARTS if part != "description"}
    for name in names:
        path = Path(name) if name.endswith(".json") else preset_folder() / f"{name}.json"
        if not path.is_file():
            raise ValueError(
                f"no preset {name!r}; there are {', '.join(preset_names())}, or give a path to a .json file"
            )
        preset = json.loads(path.read_text(encoding="utf-8"))
        if unknown := sorted(set(preset) - set(PARTS)):
            raise ValueError(f"{path.name}: unknown part {unknown[0]!r}; a preset has {', '.join(PARTS)}")
        for part in merged:
            merged[part] |= preset.get(part, {})
    return merged


def build_model(preset: dict, tasks: list[dict], texts: list[str], **config_fields):
    """Model and processor of a preset.

    Args:
        preset: from `load_preset`, its `encoders` possibly changed.
        tasks: task descriptions.
        texts: training texts, for the vocabulary of a text encoder that is trained from scratch.
        config_fields: fields of `MMOrientConfig` that override the preset's.

    Returns:
        `MMOrientForMultiTaskClassification`, `MMOrientProcessor`.
    """
    encoders = {role: source for role, source in preset["encoders"].items() if source}
    sources = check_sources([{"name": name} | entry for name, entry in preset["task_features"].items()])
    fields = preset["config"] | config_fields | {"tasks": tasks}
    if sources:
        fields |= {"task_features": feature_sizes(sources), "task_feature_dim": None}
    if encoders:
        given = {f"{role}_config" for role in ENCODER_NAMES} | (
            {"region_feature_dim"} if "vision" in encoders else set()
        )
        fields = {name: value for name, value in fields.items() if name not in given}
        revisions = preset["revisions"]
        processor = MMOrientProcessor.from_encoders_pretrained(**encoders, revision=revisions, task_features=sources)
        model = MMOrientForMultiTaskClassification.from_encoders_pretrained(**encoders, revision=revisions, **fields)
        return model, processor
    if not preset["processor"]:  # everything comes as arrays
        return MMOrientForMultiTaskClassification(MMOrientConfig(**fields)), MMOrientProcessor(task_features=sources)
    tokenizer = train_tokenizer(texts, preset["processor"]["vocabulary_size"])
    size = preset["processor"]["image_size"]
    fields.setdefault("frozen_encoders", [])  # random weights are there to be trained
    fields["text_config"] = fields["text_config"] | {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }
    processor = MMOrientProcessor(
        ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer,
        max_tokens=preset["processor"]["max_tokens"],
        task_features=sources,
    )
    return MMOrientForMultiTaskClassification(MMOrientConfig(**fields)), processor


def encoders_alone(preset: dict, description) -> tuple[MMOrientModel, MMOrientProcessor]:
    """The pretrained encoders of a preset, with little after them, and the processor that a run on the same data has.

    Args:
        description: `DataDescription`, for what its texts and pictures go through.

    Raises:
        ValueError: no encoder is named.
    """
    encoders = {role: source for role, source in preset["encoders"].items() if source}
    if not encoders:
        raise ValueError("name the encoders to run (--joint-encoder, --text-encoder, --vision-encoder), or a preset")
    fields = {name: value for name, value in preset["config"].items() if name == "embedding_pooling"}
    preset = preset | {"config": fields}
    model, processor = build_model(preset, [{"name": "none", "kind": "regression"}], [], learner_hidden_sizes=[1])
    treat_as(processor, description)
    return model.mm_orient, processor


def treat_as(processor: MMOrientProcessor, description) -> None:
    """Have a processor clean texts and treat text on pictures as a `DataDescription` says."""
    processor.text_cleaning = list(description.text_cleaning)
    processor.remove_overlaid_text = description.remove_overlaid_text
    processor.read_missing_text = description.read_missing_text


def train_tokenizer(texts: list[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE tokenizer learnt from `texts`, deterministically; no character is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def build_on_meta(name: str) -> MMOrientForMultiTaskClassification:
    """The model of a preset without memory for its weights: shows that its configuration is complete."""
    with torch.device("meta"):
        return MMOrientForMultiTaskClassification(MMOrientConfig(**load_preset(name)["config"]))
