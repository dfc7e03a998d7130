# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Markdown that people read: tables, and names from somebody's data, which say nothing but themselves."""

import re
from collections.abc import Iterable

# an underscore inside a word is only that; the colon of an address makes a link of it
SAYS_MORE = re.compile(r"[\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)")


def plain(text: str) -> str:
    """A name from the data (of a task, a class) in Markdown: no mark, link, tag or line of its own."""
    return SAYS_MORE.sub(r"\\\g<0>", " ".join(str(text).split()))


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, all columns but the first to the right; what would end a cell is escaped."""
    header = list(header)
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("\n", " "))
