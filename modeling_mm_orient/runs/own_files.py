# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Which files are ours: what a run and its exports write. Whatever else somebody keeps beside them stays."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

from ..data.picture_files import IMAGE_SUFFIXES
from ..data.tables import TABLE_SUFFIXES
from ..memory_file import INDEX_FILES, LARGE_MEMORY, MEMORY_FILE
from ..processing_mm_orient import JOINT_FOLDER
from .card import RESPONSIBLE_USE
from .hub import MARKER, OF_A_RUN, ONNX_FOLDER
from .onnx_export import DESCRIPTION, END_TO_END, FEATURES
from .run_folder import (
    BASELINES_FILE,
    CARD_FILE,
    CHECKPOINTS,
    EVENTS,
    HELD_OUT_FILE,
    HISTORY_FILE,
    REPORT_FILE,
    RUN_FILE,
    SPLITS_FILE,
)

logger = logging.getLogger(__name__)

HEADER = b"# Copyright 2026 The MM-ORIENT authors."
OF_A_PROCESSOR = (
    *("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
)
CODE = ("*.py", "requirements.txt")  # ours where their first line says so
KEPT_OF_A_RUN = (RUN_FILE, SPLITS_FILE, HISTORY_FILE, BASELINES_FILE, HELD_OUT_FILE)
OF_A_CHECKPOINT = (MARKER, CARD_FILE, RESPONSIBLE_USE.name)
IN_FOLDERS = {
    CHECKPOINTS: ("checkpoint-[0-9]*",),
    EVENTS: ("events.out.tfevents.*", "*/events.out.tfevents.*"),
    LARGE_MEMORY: (MEMORY_FILE, *INDEX_FILES.values()),
    JOINT_FOLDER: OF_A_PROCESSOR,
    ONNX_FOLDER: tuple(f"{name}*" for name in (END_TO_END, FEATURES, DESCRIPTION)),
}
# what an export writes beside code, and what no other export wrote: where a new one has it not, it is out of date
EXPORTED = (
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *(MEMORY_FILE, *INDEX_FILES.values(), *OF_A_PROCESSOR, *OF_A_RUN),
    *(f"{folder}/{name}" for folder in (LARGE_MEMORY, JOINT_FOLDER, ONNX_FOLDER) for name in IN_FOLDERS[folder]),
)
LEFTOVER = re.compile(r"\.partial-[0-9]+")  # of an export that was killed
MOST_NAMED = 5


def check_output_file(path: str, run: str | None, data: str | None) -> None:
    """Raise ValueError where a file that is to be written is a file of the run, or one of the data, that are read; a report
    is made anew."""
    place = Path(path).resolve()
    if not place.is_file():
        return
    inside = place.relative_to(root).as_posix() if run and place.is_relative_to(root := Path(run).resolve()) else None
    if inside not in (None, REPORT_FILE) and _is_of_a_run(inside, place):
        raise ValueError(f"{path} is a file of {run}, and would be replaced; choose another output")
    if data and _lies_among(place, Path(data).resolve()):
        raise ValueError(f"{path} lies among the posts of {data}, and would be replaced; choose another output")


def _is_of_a_run(name: str, path: Path) -> bool:
    """Whether a run wrote the file of this path, relative to its folder."""
    if name in (*KEPT_OF_A_RUN, *OF_A_CHECKPOINT) or name.split("/")[0] in (CHECKPOINTS, EVENTS):
        return True
    return is_exported(name, partial(_start, path))


def _lies_among(file: Path, posts: Path) -> bool:
    """Whether a file lies in a folder of posts, or further below is a picture that a post may name."""
    if file.parent == posts:
        return True
    if not file.is_relative_to(posts) or file.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    tables = [path for path in posts.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file()]
    texts = [path for path in tables if path.suffix.lower() != ".parquet"]  # which is no text
    return not tables or len(texts) < len(tables) or any(_names_picture(path.read_bytes(), file) for path in texts)


def _names_picture(table: bytes, file: Path) -> bool:
    """Whether a table has a cell, or the end of a path in one, that is the file's name, perhaps without its ending."""
    stems = "|".join(re.escape(stem) for stem in {file.stem, json.dumps(file.stem)[1:-1]})
    begin, end = r"(?:^|[\r\n\t\"',;|/\\])", r"(?:$|[\r\n\t\"',;|\\])"
    form = re.compile(f"{begin}(?:{stems})(?:{re.escape(file.suffix)})?{end}", re.IGNORECASE)
    wide = ("utf-16-le", "utf-16-be") if b"\0" in table[:1000] else ()
    return any(form.search(table.decode(code, "ignore")) for code in ("utf-8-sig", "cp1252", *wide))


def is_exported(name: str, first_bytes: Callable[[int], bytes]) -> bool:
    """Whether an export wrote the file of this path, relative to its folder.

    Args:
        first_bytes: gives so many bytes from its start; only code is looked into.
    """
    return _is_one_of(name, EXPORTED) or (is_code(name) and first_bytes(len(HEADER)) == HEADER)


def is_code(name: str) -> bool:
    """Whether a path is one that an export's code may have."""
    return _is_one_of(name, CODE)


def remove_run(folder: Path, stays: tuple[str, ...] = ()) -> None:
    """Remove what a run wrote from its folder; what stays of others is logged.

    Args:
        stays: names that are left alone, and not spoken of.
    """
    others = []
    for path in sorted(folder.iterdir()):
        if path.name in stays:
            continue
        if path.is_symlink():
            others.append(path.name)
        elif path.is_dir():
            others += [path.name] if remove_inside(path) else []
        elif path.name in (*KEPT_OF_A_RUN, *OF_A_CHECKPOINT) or is_exported(path.name, partial(_start, path)):
            path.unlink()
        else:
            others.append(path.name)
    if others:
        said = ", ".join(others[:MOST_NAMED]) + (f" and {len(others) - MOST_NAMED} more" * (len(others) > MOST_NAMED))
        logger.warning("%s: none of the run's files, and left there: %s", folder, said)


def remove_inside(folder: Path) -> bool:
    """Remove what is ours in a folder of a run; whether anything stays."""
    if LEFTOVER.fullmatch(folder.name):
        shutil.rmtree(folder)
    is_graphs = folder.name != ONNX_FOLDER or (folder / DESCRIPTION).is_file()  # others may call a folder so
    ours = [path for pattern in IN_FOLDERS.get(folder.name, ()) if is_graphs for path in folder.glob(pattern)]
    for path in ours:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for place in sorted({path.parent for path in ours} | ({folder} if ours else set()), reverse=True):
        with suppress(OSError):  # something stays in it
            place.rmdir()
    return folder.exists()


def _start(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path has one of the forms; an asterisk stands for no folder."""
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in patterns)
