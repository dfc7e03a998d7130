# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What is wrong with data: found everywhere, told at once."""

from collections import Counter
from dataclasses import dataclass

MOST_SHOWN = 50


@dataclass(frozen=True)
class Problem:
    """Something wrong in the data: where (file and row), of which kind, and what exactly."""

    where: str
    kind: str
    what: str


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
