# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Processes that work side by side and end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext

from tqdm import tqdm

CONTEXT: SpawnContext = multiprocessing.get_context("spawn")  # not forked: the threads of engines do not survive a fork


@contextmanager
def worker_pool(
    count: int, threads: int = 1, start: Callable | None = None, arguments: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes with `threads` threads each, without progress bars. Whatever ends the block before its time, an
    interrupt or an error, ends what they are at.

    Args:
        start: called with `arguments` in each process first.
    """
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(count, CONTEXT, _start_worker, (start, arguments))
    with _inherited(OMP_NUM_THREADS=str(threads), TQDM_DISABLE="1"), pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise


@contextmanager
def _inherited(**values: str) -> Iterator[None]:
    """Environment variables for the processes that are started meanwhile: libraries read them when they are imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker(start: Callable | None, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent is told too, and ends us
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and would be left behind
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
