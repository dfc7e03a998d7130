# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Export: a checkpoint that carries its own code, for `from_pretrained(..., trust_remote_code=True)`."""

import os
import shutil
from pathlib import Path

from ..data.locks import only_one
from ..memory_file import LARGE_MEMORY, remove_memory
from ..partial_files import is_running

LOCK_FILE = ".export.lock"
MARKER = "config.json"  # without it nothing loads a folder: the last file to come, and the first to go


def save_for_hub(model, processor, folder, model_card: str | None = None) -> Path:
    """Write model, processor and their code to `folder`.

    A new folder is there complete or not at all. In one that is there already everything is written beside the old files
    first; a failure leaves those as they were. Killed while names are exchanged, it has no `config.json`, and does not load.

    Args:
        model: `MMOrientForMultiTaskClassification` or `MMOrientModel`.
        processor: `MMOrientProcessor`, or None for a model on feature arrays.
        folder: a new or an existing directory, also one that another file system is mounted on; files of the same names are
            replaced.
        model_card: text of its README.md.

    Returns:
        The folder.

    Raises:
        FileExistsError: another process exports to it.
    """
    folder = Path(folder)
    inside = folder.is_dir()
    # within one file system a file is renamed and not copied
    place, prefix = (folder, ".partial-") if inside else (folder.parent, f".{folder.name}.partial-")
    place.mkdir(parents=True, exist_ok=True)
    for leftover in place.glob(f"{prefix}*"):
        if not is_running(leftover.name.removeprefix(prefix)):
            shutil.rmtree(leftover, ignore_errors=True)
    scratch = place / f"{prefix}{os.getpid()}"
    scratch.mkdir()
    try:
        _write(model, processor, scratch, model_card)
        if not inside:
            os.rename(scratch, folder)
            return folder
        with only_one(folder / LOCK_FILE, f"another process exports to {folder}"):
            (folder / MARKER).unlink(missing_ok=True)
            for place in (folder, folder / LARGE_MEMORY):
                remove_memory(place)
            for path in sorted(scratch.iterdir(), key=lambda path: path.name == MARKER):
                target = folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def travelling_files() -> list[Path]:
    """The code that goes with a checkpoint: every module directly in the package, which import each other alone."""
    package = Path(__file__).parents[1]
    return sorted(path for path in package.glob("*.py") if path.stem not in ("__init__", "__main__"))


def _write(model, processor, folder: Path, model_card: str | None) -> None:
    model.save_pretrained(folder)
    if model.config.relation_memory == LARGE_MEMORY and model.relation_memory is not None:
        model.relation_memory.save(folder / LARGE_MEMORY)
    if processor is not None:
        processor.save_pretrained(folder)
    for path in travelling_files():
        shutil.copyfile(path, folder / path.name)
    if model_card is not None:
        (folder / "README.md").write_text(model_card, encoding="utf-8")
