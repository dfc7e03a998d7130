# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Names that the configuration, the code and the command line share; imports nothing, so that `--help` costs nothing."""

MODALITIES = ("image", "text")
ENCODER_NAMES = ("joint", "text", "vision")
ENCODER_MODULES = {"joint": "joint_encoder", "text": "text_encoder", "vision": "vision_encoder"}
STREAM_NAMES = ("image_over_image", "text_over_text", "image_over_text", "text_over_image")
EXPERT_NAMES = ("words", "text", "text_layers", "image", "both", "neighbours", "network")
BACKENDS = ("auto", "fused", "torch_scatter", "index_add", "dense")
INDEX_KINDS = ("hnsw", "ivf")
LOOKUPS = ("top_k", "threshold", "both")
RELATION_SCOPES = ("batch", "memory", "batch+memory")
CLASSIFIER_OUTPUTS = ("probabilities", "hidden_state")
PIPELINE_TASK = "multimodal-classification"
VERDICT_KEYS = ("neighbours", "decisions", "explanation", "error")  # of a verdict, beside those of tasks


def revisions_of(revision: str | dict[str, str] | None) -> dict[str, str | None]:
    """Encoder -> revision, from one for all or one for each. Raises ValueError for what is no encoder."""
    if not isinstance(revision, dict):
        return dict.fromkeys(ENCODER_NAMES, revision)
    if unknown := [name for name in revision if name not in ENCODER_NAMES]:
        raise ValueError(f"`revision` has {unknown[0]!r}, which is none of {ENCODER_NAMES}")
    return dict(revision)
