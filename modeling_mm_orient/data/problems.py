# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What is wrong with data: found everywhere, told at once."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

MOST_SHOWN = 50
LONGEST_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Problem:
    """Something wrong in the data: where (file and row), of which kind, and what exactly."""

    where: str
    kind: str
    what: str


LINK_OUT = "link out of the folder"  # where such a link leads comes last, after a comma


def without_places(problem: Problem, folders: Iterable[str]) -> Problem:
    """A problem for others to read: without the folders of this machine that its files lie in."""
    what = problem.what.rpartition(", to ")[0] if problem.kind == LINK_OUT else problem.what
    for folder in sorted({os.path.abspath(folder) for folder in folders}, key=len, reverse=True):
        what = what.replace(folder + os.sep, "")
        if len(folder) >= LONGEST_SHOWN:  # a message has no more of it
            what = what.replace(f"{folder[:LONGEST_SHOWN]}...", "...")
    return replace(problem, what=what)


class DataProblems(ValueError):
    """All problems of a data set at once."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        counts = Counter(problem.kind for problem in problems)
        lines = [f"{len(problems)} problem(s) in the data:"]
        for kind, count in counts.items():
            shown = [problem for problem in problems if problem.kind == kind][:MOST_SHOWN]
            lines += [f"  {problem.where}: {problem.what}" for problem in shown]
            if count > len(shown):
                lines.append(f"  ... and {count - len(shown)} more of this kind ({kind})")
        super().__init__("\n".join(lines))


def shown(value) -> str:
    """A table's value for a message: short, without the bytes of a picture."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"({len(value)} bytes)"
    if isinstance(value, dict):
        return "{" + ", ".join(str(name)[:LONGEST_SHOWN] for name in list(value)[:5]) + "}"
    if isinstance(value, (list, tuple)):
        return f"(a list of {len(value)})"
    text = readable(str(value))
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text)} characters)")


def readable(text: str) -> str:
    """A text with what no file can hold (half a character, as a file name in another encoding has) written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
