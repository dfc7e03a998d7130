# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Dataclass fields that say what they are: the text is the documentation and the command line's help."""

from dataclasses import MISSING, field


def described(text: str, default=None, *, factory=None, metavar: str | None = None, choices=None):
    """A dataclass field with its explanation.

    Args:
        text: what it is, without its default.
        default, factory: as in `dataclasses.field`.
        metavar, choices: of the command line's option.
    """
    metadata = {"help": text, "metavar": metavar, "choices": choices}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=MISSING if default is MISSING else default, metadata=metadata)
