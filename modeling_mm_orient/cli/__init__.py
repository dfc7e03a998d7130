# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`mm-orient`: one command per verb. What a verb needs is imported when it runs: `--help` costs nothing."""

import argparse
import gc
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .. import __version__
from .config_file import Parser

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors of the user's and of the machine's are one line, not a traceback."""
    try:
        options = parsed(arguments)
    except KeyboardInterrupt:
        print("mm-orient: interrupted", file=sys.stderr)
        return 130
    from ..runs.cpu_memory import reuse_memory

    reuse_memory()
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpx2", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _signals_answered():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        with _no_signal_lost():
            from .options import check_outputs

            check_outputs(options)
            options.run(options)
    except KeyboardInterrupt as error:
        signals = {"": (130, "interrupted"), "SIGTERM": (143, "terminated")}
        stopped = signals[str(error)]
        for number in SIGNALS if _may_set_handlers() else ():  # a second one would cut the line off
            signal.signal(number, signal.SIG_IGN)
    except Exception as error:
        if options.traceback:
            raise
        unexpected = "" if _is_told(error) else f"unexpected {type(error).__name__} (--traceback shows where): "
        print(f"mm-orient: {unexpected}{_said(error)}", file=sys.stderr)
        return 1
    else:
        return 0
    gc.collect()  # of progress bars, which write a last line when they go
    status, what = stopped
    how = options.interrupted(options) if callable(options.interrupted) else options.interrupted
    print(f"mm-orient: {what}{'; ' + how if how else ''}", file=sys.stderr)
    return status


@contextmanager
def _signals_answered() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does; afterwards both do what they did before."""
    if not _may_set_handlers():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _may_set_handlers() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _no_signal_lost() -> Iterator[None]:
    """Python drops an exception that a signal raises in a finaliser: the signal is sent once more then."""
    before = sys.unraisablehook

    def look(lost):
        if isinstance(lost.exc_value, KeyboardInterrupt):
            number = signal.SIGTERM if str(lost.exc_value) == "SIGTERM" else signal.SIGINT
            if number == signal.SIGTERM:
                signal.signal(number, _interrupt)
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()  # here it would be dropped again
        else:
            before(lost)

    sys.unraisablehook = look
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: who sends it to a process and its group sends it twice
    raise KeyboardInterrupt("SIGTERM")


def _is_told(error: Exception) -> bool:
    """Whether an error is the user's or the machine's (a full disk, too little memory), whose message says all there is."""
    if isinstance(error, (ValueError, OSError, ImportError, MemoryError)):
        return True
    # what writes for us has errors of its own for a disk that is full
    return type(error).__name__ == "SafetensorError" or "PytorchStreamWriter" in str(error)


def _said(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"too little memory ({error})" if str(error) else "too little memory"
    return str(error) or type(error).__name__


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options of a command; what only the Trainer may know is in `others`."""
    top = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(top)
    options, others = top.parse_known_args(arguments)
    if others and not getattr(options, "others_are_the_trainers", False):
        top.error(f"unrecognized arguments: {' '.join(others)}")
    options.others = others
    return options


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from . import benchmark, data, doctor, features, hub, looking, memory, serving, training, using

    top = Parser(
        prog="mm-orient",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="Understand posts of a picture and a text, for many tasks at once.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = top.add_subparsers(
        prog=top.prog, required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )  # in groups below
    groups = {
        "train": training,
        "predict and evaluate": using,
        "look": looking,
        "try on a page": serving,
        "publish": hub,
        "compare": benchmark,
        "relation memory": memory,
        "data": data,
        "at scale": features,
        "this machine": doctor,
    }
    said = []
    for title, group in groups.items():
        before = set(verbs.choices)
        group.add_verbs(verbs)
        said += [f"\n{title}:", *(_line(name, verbs.choices[name]) for name in verbs.choices if name not in before)]
    top.epilog = "\n".join(said)[1:] + "\n\nmm-orient COMMAND --help says the rest, with an example."
    return top


def _line(name: str, verb: argparse.ArgumentParser) -> str:
    return textwrap.fill(str(verb.description), 100, initial_indent=f"  {name:14}", subsequent_indent=" " * 16)


if __name__ == "__main__":
    sys.exit(main())
