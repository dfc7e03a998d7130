# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What is installed and what there is to run on: doctor."""

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from .. import __version__
from .options import add_json, add_verb

PACKAGE = "modeling-mm-orient"
CORE = (
    "torch", "transformers", "datasets", "accelerate", "evaluate", "huggingface-hub", "numpy", "safetensors",
    "torch-scatter",
)  # fmt: skip


def add_verbs(verbs) -> None:
    """doctor."""
    verb = add_verb(
        verbs,
        "doctor",
        _doctor,
        "versions, extras found, cores, accelerators, caches: for a bug report",
        "mm-orient doctor",
    )
    add_json(verb, "write it there")


def _doctor(options) -> None:
    from ..data.json_files import write_json

    found = {
        "versions": {"mm-orient": __version__, "Python": platform.python_version()}
        | {name: _version(name) or "missing" for name in CORE},
        "extras": extras(),
        "machine": machine(),
        "folders": folders(),
    }
    for title, entries in found.items():
        print(title)
        width = max(map(len, entries), default=0)
        for name, value in entries.items():
            print(f"  {name:{width}}  {value}")
    if options.json:
        write_json(options.json, found)


def extras() -> dict[str, str]:
    """Extra of the package -> whether all it asks for is there, or what is missing."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in distribution(PACKAGE).requires or []]
    except PackageNotFoundError:
        return {}
    names = distribution(PACKAGE).metadata.get_all("Provides-Extra") or []
    found = {}
    for extra in names:
        of_extra = [entry for entry in asked if entry.marker is not None and entry.marker.evaluate({"extra": extra})]
        missing = [entry.name for entry in of_extra if not _is_there(entry)]
        found[extra] = f"missing {', '.join(missing)}" if missing else "found"
    return found


def machine() -> dict[str, str]:
    """Cores, memory, accelerators."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "system": platform.platform(),
        "cores": f"{cores}, torch uses {torch.get_num_threads()}",
        "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        found[f"GPU {number}"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    if not torch.accelerator.is_available():
        found["GPU"] = "none"
    elif not torch.cuda.is_available():
        found["GPU"] = str(torch.accelerator.current_accelerator())
    return found


def folders() -> dict[str, str]:
    """The feature cache and the Hub's, with their sizes; whether the Hub may be asked."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    from ..features.cache import DEFAULT_FEATURE_CACHE

    found = {"feature cache": _size(DEFAULT_FEATURE_CACHE), "Hub cache": _size(HF_HUB_CACHE)}
    found["free space here"] = f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"
    found["Hub"] = "off (HF_HUB_OFFLINE)" if HF_HUB_OFFLINE else "on"
    return found | {"Python at": sys.executable}


def _size(folder) -> str:
    path = Path(folder)
    if not path.is_dir():
        return f"{path}: not there yet"
    size = 0
    for file in path.rglob("*"):
        try:
            size += file.lstat().st_size if file.is_file() else 0
        except OSError:  # it has gone meanwhile
            continue
    return f"{path}: {size / 2**20:,.0f} MiB"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_there(requirement) -> bool:
    found = _version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)
