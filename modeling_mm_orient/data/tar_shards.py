# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""WebDataset: folders of .tar shards whose files of one name up to the first dot are a post, read as they come."""

import bz2
import gzip
import json
import logging
import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from ..pictures import LONGEST_PREFIX, format_of
from .json_files import once
from .picture_files import IMAGE_SUFFIXES, Places, any_picture_below, is_regular
from .problems import readable
from .splits import split_called
from .tables import Row

logger = logging.getLogger(__name__)

MOST_BYTES, MOST_IN_ALL = 64 * 2**20, 256 * 2**20  # of one file of a post, of all its files
SAMPLE, SAMPLED_SHARDS = 1000, 100  # posts from which columns are told, and at most of how many shards
SHARD = re.compile(r"(.+)\.(?:tar(?:\.(?:gz|bz2|xz))?|tgz|tbz2?|txz)", re.IGNORECASE)
TEXTS = {".txt": "text", ".cls": "cls"}
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def tar_shards(folder: Path, allow_outside: list[str]) -> list[Path]:
    """The shards in a folder and in the folders of splits in it; links that lead elsewhere are not followed, and compressed
    ones not read beside pictures, which they may be an archive of."""
    places, found = Places(folder, allow_outside), []
    for path in sorted(path for path in [*folder.glob("*"), *folder.glob("*/*")] if SHARD.fullmatch(path.name)):
        if path.name.startswith("."):
            continue
        if path.parent != folder and split_called(path.parent.name) is None:
            logger.warning("not read: %s lies in a folder that is called as no split is", _place(folder, path))
        elif not is_regular(path) or not places.allow(path):
            logger.warning("not read: %s is no regular file in the folder", _place(folder, path))
        else:
            found.append(path)
    packed = {path for path in found if path.suffix.lower() != ".tar"}
    if not packed or not any_picture_below(folder):
        return found
    for path in sorted(packed):
        logger.warning("not read: %s lies beside pictures, and may be an archive of them", _place(folder, path))
    return [path for path in found if path not in packed]


@dataclass
class Passed:
    """What is not read of shards: files by kind, and what a .json says of a text beside its .txt, by name."""

    others: Counter = field(default_factory=Counter)
    replaced: Counter = field(default_factory=Counter)


def shard_columns(folder: Path, shards: list[Path]) -> list[str]:
    """What the first posts of the shards have, of many of some of them. Raises ValueError where a file is damaged."""
    some = shards[:: -(-len(shards) // SAMPLED_SHARDS)]
    rows = (row for path in some for row in islice(_posts_of(folder, path, Passed()), SAMPLE // len(some)))
    return list(dict.fromkeys(name for row in rows for name in row.values))


def shard_rows(folder: Path, shards: list[Path]) -> Iterator[Row]:
    """Posts of shards: the fields of .json, `text` of .txt, `cls` of .cls, `image` of a picture or a list of several, and
    where the .json has no `id` the files' name.

    The split is that in the shard's name (`train-00000.tar`), or that of its folder, where all say one. Files of other kinds
    are counted; where a .json says another text than the .txt, the .txt counts.

    Raises:
        ValueError: a shard is damaged.
    """
    names = [SHARD.sub(r"\1", path.name) if path.parent == folder else path.parent.name for path in shards]
    are_splits = all(split_called(name) for name in names)
    passed = Passed()
    for path, name in zip(shards, names, strict=True):
        for row in _posts_of(folder, path, passed):
            if are_splits:
                row.split = name
            yield row
    if passed.others:
        most = ", ".join(f"{count} .{kind}" for kind, count in passed.others.most_common(5))
        logger.warning("%s: %d files of other kinds not read (%s)", folder, passed.others.total(), most)
    for name, count in passed.replaced.items():
        logger.warning(
            "%s: %d posts have another %s in their .json than in a file of their own, which counts", folder, count, name
        )


def _place(folder: Path, path: Path) -> str:
    return readable(path.relative_to(folder).as_posix())


def _posts_of(folder: Path, path: Path, passed: Passed) -> Iterator[Row]:
    row, key, seen, place = None, None, Counter(), _place(folder, path)
    said: dict[str, str] = {}  # column -> the kind of file that said it
    try:
        with _opened(path) as file, tarfile.open(fileobj=_Bounded(file), mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isdir() or name.name.startswith("."):
                    continue
                stem, _, kind = name.name.partition(".")
                found = str(name.with_name(stem)).removeprefix("./")
                if row is None or found != key:
                    if row is not None:
                        yield _complete(row, key)
                    seen[found] += 1
                    again = f" ({seen[found]})" * (seen[found] > 1)
                    row, key, said = Row(f"{place}:{readable(found)}{again}", {}), found, {}
                _take(row, said, archive, member, kind.lower(), passed)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{place} is damaged or no .tar file, behind {key}: {error}") from None
    if row is not None:
        yield _complete(row, key)


def _opened(path: Path):
    """A shard's bytes, uncompressed."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opened in COMPRESSED.items():
        if start.startswith(magic):
            return opened(path, "rb")
    return path.open("rb")


class _Bounded:
    """A file of which nobody reads more than `MOST_BYTES` at once: a header may claim any length."""

    def __init__(self, file):
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_BYTES:
            raise tarfile.ReadError("a header of more than 64 MiB")
        return self.file.read(size)


def _take(
    row: Row, said: dict[str, str], archive: tarfile.TarFile, member: tarfile.TarInfo, kind: str, passed: Passed
) -> None:
    suffix = f".{kind.rpartition('.')[2]}"
    if suffix not in (*TEXTS, ".json", *IMAGE_SUFFIXES):
        passed.others[kind] += 1
        return
    is_whole = member.isreg() and not member.issparse()  # of a few bytes a sparse file makes as many as its header says
    if not is_whole or member.size > MOST_BYTES:
        row.problem = f"{readable(member.name)} is " + ("larger than 64 MiB" if is_whole else "no regular file")
        return
    file = archive.extractfile(member)
    content = b"" if file is None else file.read(LONGEST_PREFIX)
    is_read = suffix not in IMAGE_SUFFIXES or format_of(content) is not None  # else its start says what it is
    content += file.read() if file is not None and is_read else b""
    if suffix in IMAGE_SUFFIXES:
        pictures = row.values.setdefault("image", [])
        if sum(len(picture["bytes"]) for picture in pictures) + len(content) > MOST_IN_ALL:
            row.problem = f"its pictures are larger than {MOST_IN_ALL // 2**20} MiB in all"
            return
        pictures.append({"path": None, "bytes": content})
        return
    try:
        text = content.decode("utf-8-sig")
        fields = json.loads(text, object_pairs_hook=once) if suffix == ".json" else {TEXTS[suffix]: text.strip()}
    except (ValueError, RecursionError) as error:
        row.problem = f".{kind} cannot be read ({error})"
        return
    if not isinstance(fields, dict):
        row.problem = f".{kind} must be an object, got {type(fields).__name__}"
        return
    for name, value in fields.items():
        differs = name in said and row.values[name] != value
        if differs and said[name] == suffix:
            row.problem = f"{name} stands in several {suffix} files, which differ"
        elif differs:
            passed.replaced[name] += 1
        if name != "image" and (name not in said or suffix in TEXTS):
            row.values[name], said[name] = value, suffix


def _complete(row: Row, key: str | None) -> Row:
    if row.values.get("id") is None:
        row.values["id"] = readable(str(key))
    return row
