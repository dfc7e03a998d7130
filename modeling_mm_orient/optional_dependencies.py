# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Packages that add something but are never demanded: each is tried for here and nowhere else."""

from importlib.util import find_spec

try:
    import torch_scatter
except Exception:  # a broken compiled wheel raises OSError, not ImportError
    torch_scatter = None

try:
    import faiss
except Exception:
    faiss = None

try:
    import rapidocr
except Exception:
    rapidocr = None

try:
    import cv2
except Exception:
    cv2 = None

try:
    import nrclex
except Exception:
    nrclex = None

OPTUNA_AVAILABLE = find_spec("optuna") is not None  # imported where settings are searched
ONNX_AVAILABLE = all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))
TORCH_SCATTER_AVAILABLE = torch_scatter is not None
FAISS_AVAILABLE = faiss is not None
TEXT_REMOVAL_AVAILABLE = rapidocr is not None and cv2 is not None
