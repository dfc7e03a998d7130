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
