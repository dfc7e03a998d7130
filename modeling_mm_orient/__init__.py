# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MM-ORIENT for the Hugging Face ecosystem: pictures and texts together, for several tasks at once."""

from .collation import FeatureCollator, PostCollator
from .configuration_mm_orient import MMOrientConfig
from .hub_export import save_for_hub
from .modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientModel
from .pipeline_mm_orient import MultimodalClassificationPipeline
from .processing_mm_orient import MMOrientProcessor

__version__ = "0.1.0"

__all__ = [
    "FeatureCollator",
    "MMOrientConfig",
    "MMOrientForMultiTaskClassification",
    "MMOrientModel",
    "MMOrientProcessor",
    "MultimodalClassificationPipeline",
    "PostCollator",
    "save_for_hub",
]
