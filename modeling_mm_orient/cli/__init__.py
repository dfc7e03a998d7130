# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`mm-orient`: one command per verb. What a verb needs is imported when it runs: `--help` costs nothing."""

import argparse
import sys

from .. import __version__
from . import data, features, memory, training, using


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors of the user's are one message, not a traceback."""
    options = parser().parse_args(arguments)
    from ..runs.cpu_memory import reuse_memory

    reuse_memory()
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        if options.traceback:
            raise
        print(f"mm-orient: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="mm-orient", description="Understand posts of a picture and a text, for many tasks at once."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (training, using, memory, data, features):
        group.add_verbs(verbs)
    return top


if __name__ == "__main__":
    sys.exit(main())
