# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Export: a checkpoint that carries its own code, for `from_pretrained(..., trust_remote_code=True)`."""

import json
import shutil
import tempfile
from pathlib import Path

from ..memory_file import LARGE_MEMORY, remove_memory
from ..names import PIPELINE_TASK as TASK_NAME

# the configuration as the modelling file re-exports it: a second local directory then reloads both together
AUTO_MAP = {
    "AutoConfig": "modeling_mm_orient.MMOrientConfig",
    "AutoModel": "modeling_mm_orient.MMOrientModel",
    "AutoModelForSequenceClassification": "modeling_mm_orient.MMOrientForMultiTaskClassification",
}
CUSTOM_PIPELINES = {
    TASK_NAME: {
        "impl": "pipeline_mm_orient.MultimodalClassificationPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "multimodal",
    }
}


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
        _edit_json(scratch / "config.json", auto_map=AUTO_MAP, custom_pipelines=CUSTOM_PIPELINES)
        if processor is not None:
            processor.save_pretrained(scratch)
            auto_map = {"AutoProcessor": "processing_mm_orient.MMOrientProcessor"}
            _edit_json(scratch / "processor_config.json", auto_map=auto_map)
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


def _edit_json(path: Path, **entries) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
