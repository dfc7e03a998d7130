# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What only its publisher knows of a model; imports nothing heavy, the command line is made from it."""

import re
from dataclasses import dataclass

from ..data.fields import described

LICENSE = re.compile(r"[a-z0-9][a-z0-9.\-]*")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual")
DATASET = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


@dataclass
class CardFacts:
    """What a model card says beside what the run knows.

    Raises:
        ValueError: a value has not the form that the Hub takes.
    """

    license: str | None = described(
        "of the model, as the Hub writes it: apache-2.0, cc-by-nc-4.0, other (default: the card names none)",
        metavar="ID",
    )
    language: list[str] | None = described(
        "of the posts' texts, ISO 639 codes or multilingual (default: the card names none)", metavar="CODE"
    )
    dataset: list[str] | None = described(
        "Hub ids of the data sets that it was trained on (default: the run's, where it was read from the Hub)",
        metavar="ID",
    )

    def __post_init__(self):
        for name, form, values in (
            ("license", LICENSE, [self.license] if self.license is not None else []),
            ("language", LANGUAGE, self.language or []),
            ("dataset", DATASET, self.dataset or []),
        ):
            for value in values:
                if not form.fullmatch(value):
                    raise ValueError(f"--{name} {value!r} has not the form of the Hub's, say {EXAMPLES[name]}")


EXAMPLES = {"license": "apache-2.0", "language": "en", "dataset": "owner/name"}
