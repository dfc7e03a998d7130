# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From a preset to a model and its processor."""

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from ..configuration_mm_orient import MMOrientConfig
from ..modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientModel
from ..processing_mm_orient import MMOrientProcessor
from ..task_features import check_sources, feature_sizes
from ..tasks import REGRESSION
from .preset_files import load_preset

ENCODER_CONFIGS = {"joint_config", "text_config", "vision_config"}
SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]"]


def build_model(
    preset: dict, tasks: list[dict], texts: list[str], numeric_columns: list[dict] | None = None, **config_fields
):
    """Model and processor of a preset.

    Args:
        preset: from `load_preset`, its `encoders` possibly changed.
        tasks: task descriptions.
        texts: training texts, for the vocabulary of a text encoder that is trained from scratch.
        numeric_columns: of the processor, see `numeric_columns.fitted_columns`.
        config_fields: fields of `MMOrientConfig` that override the preset's.

    Returns:
        `MMOrientForMultiTaskClassification`, `MMOrientProcessor`.
    """
    encoders = {role: source for role, source in preset["encoders"].items() if source}
    sources = check_sources([{"name": name} | entry for name, entry in preset["task_features"].items()])
    fields = preset["config"] | config_fields | {"tasks": tasks}
    sizes = feature_sizes(sources)
    if numeric_columns:
        if width := not sizes and fields.get("task_feature_dim"):
            sizes = [{"name": "task_features", "size": width}]
        sizes = [*sizes, {"name": "numbers", "size": 2 * len(numeric_columns)}]
    if sizes:
        fields |= {"task_features": sizes, "task_feature_dim": None}
    ngrams = "words" in fields.get("experts", ())
    reads = {"task_features": sources, "numeric_columns": numeric_columns or [], "ngrams": ngrams}
    if encoders:
        given = ENCODER_CONFIGS | ({"region_feature_dim"} if "vision" in encoders else set())
        fields = {name: value for name, value in fields.items() if name not in given}
        revisions = preset["revisions"]
        processor = MMOrientProcessor.from_encoders_pretrained(**encoders, revision=revisions, **reads)
        model = MMOrientForMultiTaskClassification.from_encoders_pretrained(**encoders, revision=revisions, **fields)
        return model, processor
    if not preset["processor"]:  # everything comes as arrays
        fields = {name: value for name, value in fields.items() if name not in ENCODER_CONFIGS}
        return MMOrientForMultiTaskClassification(MMOrientConfig(**fields)), MMOrientProcessor(**reads)
    tokenizer = train_tokenizer(texts, preset["processor"]["vocabulary_size"])
    size = preset["processor"]["image_size"]
    fields.setdefault("frozen_encoders", [])  # random weights are there to be trained
    for name in ("text_config", "vision_config"):
        if not isinstance(value := fields.get(name), dict):
            raise ValueError(f"`{name}` must describe an encoder, which is trained from scratch, got {value!r}")
    fields["text_config"] = fields["text_config"] | {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }
    processor = MMOrientProcessor(
        ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer,
        max_tokens=preset["processor"]["max_tokens"],
        **reads,
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
    model, processor = build_model(preset, [{"name": "none", "kind": REGRESSION.name}], [], learner_hidden_sizes=[1])
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
