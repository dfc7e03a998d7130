# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The relation memory's file (ours): written whole, memory-mapped when read, found in a folder or on the Hub, checked.

A memory is a safetensors file of its own beside the weights, perhaps with FAISS indexes that it names by their content: an
index of another memory, or a damaged one, is never looked into.

Shapes: M reference posts, D features, C labels of a task.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

from .names import MODALITIES
from .partial_files import own_partial, remove_leftovers
from .tasks import are_tasks

logger = logging.get_logger(__name__)
T = TypeVar("T")

MEMORY_FILE = "relation_memory.safetensors"
INDEX_FILES = {"image": "relation_memory.image.faiss", "text": "relation_memory.text.faiss"}
LARGE_MEMORY = "relation_memory"  # the folder, inside a model's, of a memory that is not copied into every checkpoint
FORMAT = "mm-orient relation memory 1"
MOST_BYTES_IN_CHECKPOINT = 512 * 2**20
HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "subfolder")
HASHED_BLOCK, HASHED_BLOCKS = 2**20, 64  # of an index that is too large to be read at each start


def save_memory(memory, folder) -> None:
    """Write a `RelationMemory`'s file, and indexes where there are, to `folder`: that has the old memory or the new one.

    An index that a killed process left behind from another memory is known by its content, and not used.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [name.encode() for name in memory.ids]
    tensors = {f"{m}_embeds": memory.embeds[m] for m in MODALITIES}
    tensors |= {f"has_{m}": memory.present[m] for m in MODALITIES}
    tensors |= {f"labels.{name}": value for name, value in memory.labels.items()}
    tensors |= {
        "keys": memory.keys,
        "ids": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8),
        "id_lengths": torch.tensor([len(name) for name in encoded], dtype=torch.int64),
    }
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    paths = [folder / MEMORY_FILE, *(folder / INDEX_FILES[modality] for modality in memory.indexes)]
    partials, hashes = [own_partial(path) for path in paths], {}
    try:
        for partial, (modality, index) in zip(partials[1:], memory.indexes.items(), strict=True):
            index.save(partial)
            hashes[modality] = content_hash(partial)
        described = {
            "format": FORMAT,
            "fingerprints": json.dumps(memory.fingerprints),
            "tasks": json.dumps(memory.tasks),
            "indexes": json.dumps(list(hashes)),
            "index_hashes": json.dumps(hashes),
            "of_training": json.dumps(memory.of_training),
            "checksum": _checksum(tensors),
        }
        save_file(tensors, partials[0], metadata=described)
        for partial, path in zip(partials, paths, strict=True):
            os.replace(partial, path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    for modality, name in INDEX_FILES.items():
        if modality not in hashes:
            (folder / name).unlink(missing_ok=True)


def read_memory(path) -> tuple[dict, dict[str, Path]]:
    """What a memory's file, or that of the folder that has it, holds; embeddings are memory-mapped.

    Returns:
        The arguments of `RelationMemory`, and modality -> file of its indexes that are there. One that is damaged or another
        memory's is left out, with a warning.

    Raises:
        FileNotFoundError: there is none. ValueError: the file is damaged or no relation memory.
    """
    path = memory_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no relation memory there")
    tensors, described = _read(path)
    # beyond a checkpoint's size, reading every byte at each start would undo the memory mapping; `verify_memory` does it
    if sum(value.numel() * value.element_size() for value in tensors.values()) <= MOST_BYTES_IN_CHECKPOINT:
        _verify(path, tensors, described)
    return _arguments(path, tensors, described), _sound_indexes(path, described)


def verify_memory(path) -> None:
    """Compare a memory file, or the one in a folder, and its indexes with their checksums, whatever their size.

    Raises:
        ValueError: one is damaged, or an index is not this memory's.
    """
    in_one_state(path, lambda: _verify_all(memory_path(path)))


def _verify_all(path: Path) -> None:
    tensors, described = _read(path)
    _verify(path, tensors, described)
    hashes = json.loads(described.get("index_hashes", "{}"))
    for modality in json.loads(described.get("indexes", "[]")):
        index = path.with_name(INDEX_FILES[modality])
        if index.is_file() and content_hash(index, whole=True) != hashes.get(modality):
            raise ValueError(f"{index} is damaged, or an index of another memory: build it anew")


def in_one_state(path, read: Callable[[], T]) -> T:
    """What `read` gives of the memory at `path`, once more where another process has replaced that meanwhile.

    A file is opened several times by its name while it is read.
    """
    path = memory_path(path)
    while True:
        before = _identity(path)
        try:
            found = read()
        except Exception:
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return found


def memory_path(path) -> Path:
    """The memory's file, from it or the folder that has it."""
    path = Path(path)
    return path / MEMORY_FILE if path.is_dir() else path


def remove_memory(folder) -> None:
    """Delete a memory and its indexes from a folder that may have one."""
    for name in (MEMORY_FILE, *INDEX_FILES.values()):
        (Path(folder) / name).unlink(missing_ok=True)
        remove_leftovers(Path(folder) / name)


def find_memory(name_or_path, required: bool, subfolder: str = "", **hub_options) -> str | None:
    """Path of the memory file of a folder or Hub repository, downloaded with its indexes where it has to be.

    Args:
        required: raise OSError where there is none, and do not return None.
        hub_options: of `huggingface_hub.hf_hub_download`: `revision`, `token`, `cache_dir` and so on.
    """
    name = str(name_or_path)
    if os.path.isdir(name):
        path = os.path.join(name, subfolder, MEMORY_FILE)
        if not os.path.isfile(path):
            if required:
                raise FileNotFoundError(f"no {MEMORY_FILE} in {os.path.join(name, subfolder)}")
            return None
        return path
    if os.path.isabs(name) or name.startswith("."):
        if required:
            raise FileNotFoundError(f"{name} is no folder: no {MEMORY_FILE} there")
        return None
    try:
        path = hf_hub_download(name, MEMORY_FILE, subfolder=subfolder or None, **hub_options)
        for index in index_files(path):
            hf_hub_download(name, index, subfolder=subfolder or None, **hub_options)
    except (
        EntryNotFoundError,
        LocalEntryNotFoundError,
    ) as error:  # not there, or not in the cache of an offline machine
        if required:
            raise OSError(f"no {MEMORY_FILE} in {name}: {error}") from error
        return None
    return path


def index_files(path) -> list[str]:
    """Names of the index files that belong to a memory file."""
    with safe_open(path, framework="pt") as file:
        return [INDEX_FILES[m] for m in json.loads((file.metadata() or {}).get("indexes", "[]"))]


def content_hash(path, whole: bool = False) -> str:
    """SHA-256 of a file; of one above 512 MiB, unless the `whole` is asked for, of its size and evenly spaced parts."""
    size, digest = os.path.getsize(path), hashlib.sha256()
    step = HASHED_BLOCK if whole or size <= MOST_BYTES_IN_CHECKPOINT else size // HASHED_BLOCKS
    digest.update(str(size).encode())
    with open(path, "rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            digest.update(file.read(HASHED_BLOCK))
    return digest.hexdigest()


def _arguments(path: Path, tensors: dict[str, Tensor], described: dict[str, str]) -> dict:
    """The arguments of `RelationMemory` in a file's content; raises ValueError where that is not what it has to be."""
    try:
        tasks, fingerprints = json.loads(described["tasks"]), json.loads(described["fingerprints"])
        lengths, content = tensors["id_lengths"], tensors["ids"]
        wrong = None
        if not isinstance(fingerprints, list) or not all(isinstance(name, str) for name in fingerprints):
            wrong = "its encoders' fingerprints are no list of names"
        elif not are_tasks(tasks):
            wrong = "its tasks are no task descriptions of a known kind"
        elif lengths.dtype != torch.int64 or lengths.dim() != 1 or bool((lengths < 0).any()):
            wrong = "`id_lengths` are no whole numbers of at least 0"
        elif content.dtype != torch.uint8 or content.dim() != 1 or content.numel() != max(1, int(lengths.sum())):
            wrong = "`ids` and `id_lengths` do not belong together"
        elif any(tensors[f"{m}_embeds"].dtype != torch.float16 for m in MODALITIES):
            wrong = "its embeddings are not in half precision"
        if wrong is not None:
            raise ValueError(wrong)
        names, ends = content.numpy().tobytes(), lengths.cumsum(0).tolist()
        return {
            "embeds": {m: tensors[f"{m}_embeds"] for m in MODALITIES},
            "present": {m: tensors[f"has_{m}"] for m in MODALITIES},
            "ids": [names[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)],
            "keys": tensors["keys"],
            "tasks": tasks,
            "of_training": described.get("of_training") == "true",
            "labels": {n.removeprefix("labels."): value for n, value in tensors.items() if n.startswith("labels.")},
            "fingerprints": fingerprints,
        }
    except KeyError as error:
        raise ValueError(f"{path} is no sound relation memory: it has no {error}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no sound relation memory: {error}") from None


def _sound_indexes(path: Path, described: dict[str, str]) -> dict[str, Path]:
    sound = {}
    try:
        indexed, hashes = json.loads(described.get("indexes", "[]")), json.loads(described.get("index_hashes", "{}"))
        if not isinstance(indexed, list) or not isinstance(hashes, dict) or not all(m in MODALITIES for m in indexed):
            raise ValueError("what it says of its indexes is no list of modalities")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no sound relation memory: {error}") from None
    for modality in indexed:
        index = path.with_name(INDEX_FILES[modality])
        if not index.is_file():
            logger.warning("%s is missing: exact search instead", index)
        elif content_hash(index) != hashes.get(modality):
            logger.warning("%s is damaged, or an index of another memory: exact search instead", index)
        else:
            sound[modality] = index
    return sound


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, memory-mapped, and metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors, described = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:  # the latter of torch, of a file that is too short
        raise ValueError(f"{path} is damaged: {error}") from error
    if described.get("format") != FORMAT:
        raise ValueError(f"{path} is no relation memory of format {FORMAT!r}: it says {described.get('format')!r}")
    return tensors, described


def _verify(path: Path, tensors: dict[str, Tensor], described: dict[str, str]) -> None:
    if _checksum(tensors) != described.get("checksum"):
        raise ValueError(f"{path} is damaged: its content does not match its checksum")


def _checksum(tensors: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
