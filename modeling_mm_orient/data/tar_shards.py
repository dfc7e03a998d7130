# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""WebDataset: folders of .tar shards whose files of one name up to the first dot are a post, read as they come."""

import bz2
import gzip
import json
import logging
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from .json_files import once
from .picture_files import IMAGE_SUFFIXES, Places, is_regular
from .problems import readable
from .splits import split_called
from .tables import Row

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20  # of one file of a post
SAMPLE = 1000  # posts from which columns are told
TEXTS = {".txt": "text", ".cls": "cls"}
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def tar_shards(folder: Path, allow_outside: list[str]) -> list[Path]:
    """The shards in a folder and in the folders of splits in it; links that lead elsewhere are not followed."""
    places, found = Places(folder, allow_outside), []
    for path in sorted([*folder.glob("*.tar"), *folder.glob("*/*.tar")]):
        if path.name.startswith(".") or (path.parent != folder and split_called(path.parent.name) is None):
            continue
        if not is_regular(path) or not places.allow(path):
            logger.warning("not read: %s is no regular file in the folder", readable(path.name))
        else:
            found.append(path)
    return found


def shard_columns(shards: list[Path]) -> list[str]:
    """What the first posts of the first shard have. Raises ValueError where the file is damaged."""
    rows = islice(_posts_of(shards[0], Counter()), SAMPLE)
    return list(dict.fromkeys(name for row in rows for name in row.values))


def shard_rows(folder: Path, shards: list[Path]) -> Iterator[Row]:
    """Posts of shards: the fields of .json, `text` of .txt, `cls` of .cls, `image` of a picture or a list of several, and
    where the .json has no `id` the files' name.

    The split is that in the shard's name (`train-00000.tar`), or that of its folder, where all say one. Files of other kinds
    are counted.

    Raises:
        ValueError: a shard is damaged.
    """
    names = [path.stem if path.parent == folder else path.parent.name for path in shards]
    are_splits = all(split_called(name) for name in names)
    others: Counter = Counter()
    for path, name in zip(shards, names, strict=True):
        for row in _posts_of(path, others):
            if are_splits:
                row.split = name
            yield row
    if others:
        most = ", ".join(f"{count} .{kind}" for kind, count in others.most_common(5))
        logger.warning("%s: %d files of other kinds not read (%s)", folder, others.total(), most)


def _posts_of(path: Path, others: Counter) -> Iterator[Row]:
    row, key, seen = None, None, Counter()
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
                    row, key = Row(f"{path.name}:{readable(found)}{again}", {}), found
                _take(row, archive, member, kind.lower(), others)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path.name} is damaged or no .tar file, behind {key}: {error}") from None
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


def _take(row: Row, archive: tarfile.TarFile, member: tarfile.TarInfo, kind: str, others: Counter) -> None:
    suffix = f".{kind.rpartition('.')[2]}"
    if suffix not in (*TEXTS, ".json", *IMAGE_SUFFIXES):
        others[kind] += 1
        return
    if not member.isreg() or member.size > MOST_BYTES:
        row.problem = f"{readable(member.name)} is " + ("larger than 64 MiB" if member.isreg() else "no regular file")
        return
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if suffix in IMAGE_SUFFIXES:
        row.values.setdefault("image", [])
        row.values["image"].append({"path": None, "bytes": content})
        return
    try:
        text = content.decode("utf-8-sig")
        fields = json.loads(text, object_pairs_hook=once) if suffix == ".json" else {TEXTS[suffix]: text.strip()}
    except (ValueError, RecursionError) as error:
        row.problem = f".{kind} cannot be read ({error})"
        return
    if isinstance(fields, dict):
        row.values |= {name: value for name, value in fields.items() if name != "image" and name not in row.values}
    else:
        row.problem = f".{kind} must be an object, got {type(fields).__name__}"


def _complete(row: Row, key: str | None) -> Row:
    row.values.setdefault("id", readable(str(key)))
    return row
