# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Dataclass fields that say what they are: the text is the documentation and the command line's help."""

from dataclasses import MISSING, asdict, field, fields
from types import UnionType
from typing import get_args, get_origin, get_type_hints


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


def checked(kind: type, entries, where: str) -> dict:
    """Entries of a file for a dataclass, each of its type.

    Raises:
        ValueError: one is unknown or of another type; the message begins with `where`.
    """
    if not isinstance(entries, dict):
        raise ValueError(f"{where} must be an object of entries by name, got {str(entries)[:80]!r}")
    hints, known = get_type_hints(kind), {entry.name for entry in fields(kind)}
    for name, value in entries.items():
        if name not in known:
            raise ValueError(f"{where} has an unknown entry {name!r}")
        if not _fits(value, hints[name]):
            raise ValueError(f"{where}: {name!r} is {str(value)[:80]!r}, and must be {_said(hints[name])}")
    return entries


def completed(kind: type, values: dict) -> dict:
    """The fields of a dataclass that were written down earlier; one that is younger has its default."""
    return asdict(kind(**values))


def _fits(value, hint) -> bool:
    if get_origin(hint) is UnionType:
        return any(_fits(value, part) for part in get_args(hint))
    if hint is type(None) or hint is None:
        return value is None
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(part, get_args(hint)[0]) for part in value)
    if get_origin(hint) is dict:
        of_name, of_value = get_args(hint)
        return isinstance(value, dict) and all(_fits(n, of_name) and _fits(v, of_value) for n, v in value.items())
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def _said(hint) -> str:
    return str(hint) if get_origin(hint) else getattr(hint, "__name__", str(hint))
