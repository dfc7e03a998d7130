# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MM-ORIENT for the Hugging Face ecosystem: pictures and texts together, for several tasks at once.

Names are imported when they are first used: `import modeling_mm_orient` and the command line start without PyTorch. Where
transformers is in use, its Auto classes and `pipeline` know this package's from then on.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .runs.registration import register_when_needed

if TYPE_CHECKING:
    from .configuration_mm_orient import MMOrientConfig
    from .features.collation import FeatureCollator, PostCollator
    from .modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientModel
    from .pipeline_mm_orient import MultimodalClassificationPipeline
    from .processing_mm_orient import MMOrientProcessor
    from .runs.classifier import MMOrientClassifier
    from .runs.hub import save_for_hub

__version__ = "0.2.0"

_ROOMS = {
    "FeatureCollator": "features.collation",
    "MMOrientClassifier": "runs.classifier",
    "MMOrientConfig": "configuration_mm_orient",
    "MMOrientForMultiTaskClassification": "modeling_mm_orient",
    "MMOrientModel": "modeling_mm_orient",
    "MMOrientProcessor": "processing_mm_orient",
    "MultimodalClassificationPipeline": "pipeline_mm_orient",
    "PostCollator": "features.collation",
    "save_for_hub": "runs.hub",
}

__all__ = [
    "FeatureCollator",
    "MMOrientClassifier",
    "MMOrientConfig",
    "MMOrientForMultiTaskClassification",
    "MMOrientModel",
    "MMOrientProcessor",
    "MultimodalClassificationPipeline",
    "PostCollator",
    "save_for_hub",
]


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_needed()
