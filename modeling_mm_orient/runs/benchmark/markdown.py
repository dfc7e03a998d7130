# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Tables in Markdown."""

from collections.abc import Iterable


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, all columns but the first to the right; what would end a cell is escaped."""
    header = list(header)
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(map(escaped, line)) + " |\n" for line in lines)


def escaped(text: str) -> str:
    """A text in a cell."""
    return text.replace("|", "\\|").replace("\n", " ")
