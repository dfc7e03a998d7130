# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Export: a checkpoint that carries its own code, for `from_pretrained(..., trust_remote_code=True)`."""

import shutil
import tempfile
from pathlib import Path

from ..memory_file import LARGE_MEMORY, remove_memory


def save_for_hub(model, processor, folder, model_card: str | None = None) -> Path:
    """Write model, processor and their code to `folder`, complete or not at all.

    Args:
        model: `MMOrientForMultiTaskClassification` or `MMOrientModel`.
        processor: `MMOrientProcessor`, or None for a model on feature arrays.
        folder: a new or an existing directory; files of the same names are replaced.
        model_card: text of its README.md.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        scratch = Path(scratch)
        model.save_pretrained(scratch)
        if model.config.relation_memory == LARGE_MEMORY and model.relation_memory is not None:
            model.relation_memory.save(scratch / LARGE_MEMORY)
        if processor is not None:
            processor.save_pretrained(scratch)
        for path in travelling_files():
            shutil.copyfile(path, scratch / path.name)
        if model_card is not None:
            (scratch / "README.md").write_text(model_card, encoding="utf-8")
        folder.mkdir(exist_ok=True)
        remove_memory(folder)
        for path in sorted(scratch.iterdir()):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    return folder


def travelling_files() -> list[Path]:
    """The code that goes with a checkpoint: every module directly in the package, which import each other alone."""
    package = Path(__file__).parents[1]
    return sorted(path for path in package.glob("*.py") if path.stem not in ("__init__", "__main__"))
