# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Files that are there whole or not at all: written under temporary names, and what killed processes left under those."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENDING = ".partial"
# no place is left, a file is too large, a disk fails: libraries say so without the file
OF_WRITING = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)


@contextmanager
def whole_file(path, leftovers: bool = True) -> Iterator[Path]:
    """A temporary name for what becomes `path` when the block ends, and is removed when the block fails.

    Args:
        leftovers: look for those of dead processes, which costs a look at the folder.
    """
    partial = own_partial(path) if leftovers else partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno in OF_WRITING and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_place(path) -> None:
    """Raise OSError unless a file can be written to `path`; its folder is made."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = own_partial(path)
    partial.touch()
    partial.unlink()


def own_partial(path) -> Path:
    """A hidden name beside `path` that no other process writes to; those of dead processes of this machine are removed."""
    remove_leftovers(path)
    return partial_name(path)


def partial_name(path) -> Path:
    """`own_partial` without looking for leftovers, for one of many files in a folder."""
    path = Path(path)
    return path.with_name(f"{_prefix(path)}{os.getpid()}{ENDING}")


def remove_leftovers(path) -> None:
    """Remove what processes of this machine that are no more left of `path`, files or folders, under `own_partial` names."""
    path = Path(path)
    for leftover in path.parent.glob(f"{_escaped(_prefix(path))}*{ENDING}"):
        if not is_running(leftover.name[len(_prefix(path)) : -len(ENDING)]):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def remove_all_leftovers(folder) -> None:
    """The same of all files below a folder."""
    for leftover in Path(folder).rglob(f".*.{_escaped(socket.gethostname())}-*{ENDING}"):
        if not is_running(leftover.name.removesuffix(ENDING).rpartition("-")[2]):
            leftover.unlink(missing_ok=True)


def is_running(process: str) -> bool:
    """Whether a process of this number, which may be somebody else's by now, is there."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _prefix(path: Path) -> str:
    return f".{path.name}.{socket.gethostname()}-"


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
