# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What Hugging Face Inference Endpoints need beside a model: `handler.py`, and `requirements.txt`."""

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..task_features import NRC

HANDLER = Path(__file__).with_name("endpoint_handler.py")
REQUIREMENTS = """# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
# What handler.py needs, in the versions that this model was exported with.
"""
ALWAYS = ("transformers", "safetensors", "pillow", "numpy")


def write_endpoint(model, processor, folder: Path) -> None:
    """Write `handler.py` and `requirements.txt`.

    Args:
        model, processor: whose verdicts may need optional packages: an index, text on pictures, an emotion lexicon.
    """
    shutil.copyfile(HANDLER, folder / "handler.py")
    needed = list(ALWAYS)
    if processor.remove_overlaid_text or processor.read_missing_text:
        needed += ["rapidocr", "onnxruntime", "opencv-python-headless"]
    if any(entry["source"] == NRC for entry in processor.task_features):
        needed.append("nrclex")
    if model.relation_memory is not None and model.relation_memory.indexes:
        needed.append("faiss-cpu")
    # an endpoint's image has a torch that fits its accelerator: a newer one stays
    lines = [f"torch>={_installed('torch')}", *(_pinned(name) for name in needed)]
    (folder / "requirements.txt").write_text(REQUIREMENTS + "\n".join(lines) + "\n", encoding="utf-8")


def _installed(name: str) -> str:
    return version(name).split("+")[0]  # without the build, say +cpu


def _pinned(name: str) -> str:
    try:
        return f"{name}=={_installed(name)}"
    except PackageNotFoundError:  # an optional one, which exporting does not need
        return name
