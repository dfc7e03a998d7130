# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The relation memory of a finished run: build, add, remove, inspect. No weight changes."""

import json
import logging
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import datasets
from filelock import FileLock, Timeout

from ..data.arrays import FeatureArrays
from ..data.description import DataDescription
from ..data.json_files import write_json
from ..data.reading import read_split
from ..features.inputs import model_inputs, reads_pictures
from ..memory_file import LARGE_MEMORY, find_memory, remove_memory, verify_memory
from ..names import MODALITIES
from ..optional_dependencies import FAISS_AVAILABLE
from ..relation_memory import RelationMemory
from ..similarity_search import MOST_EXACT, require_faiss
from ..tasks import kind_of
from .run_folder import load_run, read_own_splits, read_splits

logger = logging.getLogger(__name__)

LOCK_FILE = ".relation_memory.lock"


def build_memory(
    run: str,
    data: DataDescription,
    *,
    split: str | None = None,
    output: str | None = None,
    lookup: str | None = None,
    top_k: int | None = None,
    index: str | None = None,
    feature_cache: str | None = None,
    skip_bad_posts: bool = False,
) -> tuple[RelationMemory, dict[str, float]]:
    """Make posts the relation memory of a run, replacing the one it has, and have the run use it.

    A run that was trained on batch graphs keeps its rule for edges: reference posts above its thresholds.

    Args:
        split: None takes all posts; of data that say none the one that the run drew counts.
        output: folder for a memory that is not to be part of the run; None keeps it beside the weights, above 512 MiB in a
            folder of its own there.
        lookup, top_k: `memory_lookup` and `memory_top_k` of the configuration; None leaves them.
        index: `"hnsw"` or `"ivf"`; None builds the documented one beyond 100,000 posts, where FAISS is installed.
        feature_cache: folder of stored features; None encodes the posts.

    Returns:
        The memory, and the measured recall of its index by modality (empty for exact search).

    Raises:
        ImportError: `index` is named, and FAISS is not installed. FileExistsError: `output` holds another model.
    """
    if index is not None:
        require_faiss()
    model, processor = load_run(run, load_relation_memory=False)  # the one it has may be stale or damaged
    if output and Path(output).resolve() == Path(run).resolve():
        output = None
    if output and (Path(output) / "config.json").exists():
        raise FileExistsError(f"{output} holds another model, whose memory would be replaced; choose another --output")
    inputs = _reference_inputs(run, model, processor, data, split, feature_cache, skip_bad_posts)
    memory = model.build_relation_memory(inputs, processor)
    changes = {"relation_memory": str(Path(output).resolve()) if output else LARGE_MEMORY if memory.is_large else None}
    if model.config.relation_scope == "batch":
        changes |= {"relation_scope": "memory", "memory_lookup": "threshold"}
    changes |= {"memory_lookup": lookup} if lookup else {}
    changes |= {"memory_top_k": top_k} if top_k else {}
    model.config.update(changes)
    recalls = _index(model.relation_memory, index)
    with _only_one(run, Path(output or run)):
        _save(run, model, changes, output)
    return model.relation_memory, recalls


def add_to_memory(
    run: str,
    data: DataDescription,
    *,
    split: str | None = None,
    output: str | None = None,
    feature_cache: str | None = None,
    skip_bad_posts: bool = False,
) -> tuple[int, RelationMemory, dict[str, float]]:
    """Add posts to a run's memory, as it is when they are ready: whoever changes it meanwhile is not undone.

    Args:
        output: the memory's folder, where that is not the run's: nothing outside the run is changed that is not named.

    Returns:
        How many, the memory, and the recall of an index that was built anew.
    """
    model, processor = _load_with_memory(run)
    _changeable_folder(run, model.config.relation_memory, output)
    inputs = _reference_inputs(run, model, processor, data, split, feature_cache, skip_bad_posts)
    added = model.encode_reference_posts(inputs, processor)
    recalls = _change(run, model, output, lambda memory: memory.add(added))
    return len(added), model.relation_memory, recalls


def remove_from_memory(
    run: str, ids: list[str], *, output: str | None = None
) -> tuple[RelationMemory, dict[str, float]]:
    """Remove posts from a run's memory by id; `output` as in `add_to_memory`. Returns the memory, and the recall of an index
    that was built anew."""
    model, _ = _load_with_memory(run)
    recalls = _change(run, model, output, lambda memory: memory.remove(ids))
    return model.relation_memory, recalls


def inspect_memory(run: str) -> dict:
    """What a run's memory holds, as plain data; its file is compared with its checksum."""
    model, _ = _load_with_memory(run)
    memory, config = model.relation_memory, model.config
    path = find_memory(str(_memory_folder(run, config.relation_memory)), required=True)
    verify_memory(path)
    labels = {}
    for task in memory.tasks:
        values = [memory.label(task, entry) for entry in range(len(memory))]
        known = sum(value is not None for value in values)
        labels[task["name"]] = {"labelled": known} | kind_of(task).counts(task, values)
    return {
        "file": str(path),
        "posts": len(memory),
        **{f"with {modality}": int(memory.present[modality].sum()) for modality in MODALITIES},
        "different contents": len(set(memory.keys.tolist())),
        "MiB": round(Path(path).stat().st_size / 2**20, 3),
        "search": memory.search("image").kind,
        "scope": config.relation_scope,
        "lookup": config.memory_lookup,
        "top k": config.memory_top_k,
        "encoders": memory.fingerprints[0] if memory.fingerprints else "none (feature arrays)",
        "labels": labels,
    }


def _reference_inputs(
    run: str,
    model,
    processor,
    data: DataDescription,
    split: str | None,
    feature_cache: str | None,
    skip_bad_posts: bool,
):
    """Posts for the memory: their stored features where there is a cache, or pictures and texts."""
    tasks = model.config.tasks
    data = replace(data, tasks=tasks, split_column=data.split_column if split else None, numeric_columns=[])
    with_pictures = reads_pictures(model.config.encoder_names)
    reading = {"skip_bad_posts": skip_bad_posts, "check_images": with_pictures}
    posts, _ = read_split(data, split, **reading, of_run=read_splits(run) if split else None, own=read_own_splits(run))
    arrays, everyone = FeatureArrays(data.feature_arrays), datasets.DatasetDict({"all": posts})
    return model_inputs(model, processor, everyone, tasks, feature_cache, arrays)[0]["all"]


def _load_with_memory(run: str):
    model, processor = load_run(run)
    if model.relation_memory is None:
        raise ValueError(f"{run} has no relation memory; mm-orient memory build makes one")
    return model, processor


def _index(memory: RelationMemory, kind: str | None) -> dict[str, float]:
    if kind is None and (len(memory) <= MOST_EXACT or not FAISS_AVAILABLE):
        return {}
    return memory.build_index(kind)


def _place_now(run: str) -> str | None:
    """Where the run's configuration says that its memory is; it may have changed since the model was loaded."""
    return json.loads((Path(run) / "config.json").read_text(encoding="utf-8")).get("relation_memory")


def _memory_folder(run: str, elsewhere: str | None) -> Path:
    return Path(run) / LARGE_MEMORY if elsewhere == LARGE_MEMORY else Path(elsewhere or run)


def _changeable_folder(run: str, elsewhere: str | None, output: str | None) -> Path:
    """Where the run's memory is written: in the run, or where the caller says, never where a file says.

    Raises:
        ValueError: the memory lies elsewhere, and `output` does not name that place.
    """
    folder = _memory_folder(run, elsewhere)
    if folder.resolve().is_relative_to(Path(run).resolve()):
        return folder
    if output is None or Path(output).resolve() != folder.resolve():
        raise ValueError(
            f"the memory of {run} lies in {folder}, outside the run: --output {folder} allows to change it"
        )
    return folder


@contextmanager
def _only_one(run: str, folder: Path):
    """Wait until nobody else changes the memory of the run, or the one in `folder`."""
    with ExitStack() as locks:
        for place in dict.fromkeys((Path(run).resolve(), folder.resolve())):
            if place != Path(run).resolve() and place.is_relative_to(Path(run).resolve()):
                continue  # the run's lock is its own
            place.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place / LOCK_FILE)
            try:
                lock.acquire(timeout=1)
            except Timeout:
                logger.warning("another command is changing the memory in %s: waiting for it", place)
                lock.acquire()
            locks.callback(lock.release)
        yield


def _change(run: str, model, output: str | None, change) -> dict[str, float]:
    """Change the memory as it lies on the disk now, and save it; returns the recalls of an index that was built anew."""
    with _only_one(run, _changeable_folder(run, _place_now(run), output)):
        elsewhere = _place_now(run)
        memory = RelationMemory.load(_changeable_folder(run, elsewhere, output))
        model.config.update({"relation_memory": elsewhere})
        kind = memory.search("image").kind
        change(memory)
        model.set_relation_memory(memory)
        recalls = _index(memory, None if kind == "exact" else kind)
        _save(run, model, {}, output)
    return recalls


def _save(run: str, model, changes: dict, output: str | None) -> None:
    """Memory first, then the configuration that names it, then what is not named any more: killed in between, the run has
    the old memory or the new one."""
    elsewhere = model.config.relation_memory
    if elsewhere is None and model.relation_memory.is_large:
        elsewhere = LARGE_MEMORY
        model.config.update({"relation_memory": LARGE_MEMORY})
        changes = changes | {"relation_memory": LARGE_MEMORY}
    model.relation_memory.save(_changeable_folder(run, elsewhere, output))
    path = Path(run) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if any(config.get(name) != value for name, value in changes.items()):
        write_json(path, config | changes)
    for place in (Path(run), Path(run) / LARGE_MEMORY):
        if place != _memory_folder(run, elsewhere):
            remove_memory(place)
