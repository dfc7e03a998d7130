# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""One process at a time, where a second would do the same work or spoil it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def only_one(lock_file, message: str) -> Iterator[None]:
    """Hold a lock while the block runs; its file is gone afterwards.

    Raises:
        FileExistsError: another process holds it; with `message`.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(message) from None
    try:
        yield
    finally:
        Path(lock_file).unlink(missing_ok=True)  # before it is released: nobody waits for this file
        lock.release()
