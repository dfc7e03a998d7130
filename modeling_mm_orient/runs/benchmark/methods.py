# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The methods of a benchmark by name: baselines, our own, and variants of our own; imports nothing heavy.

A variant is `METHOD:FIELD=JSON[,FIELD=JSON]`, fields of `MMOrientConfig` that override the method's.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from difflib import get_close_matches

from ...data.fields import described
from ...names import EXPERT_NAMES, STREAM_NAMES
from ..settings import LARGEST_SEED

MM_ORIENT, PAPER, RIVAL = "mm_orient", "paper", "decision"
# own method -> fields of `MMOrientConfig` beside the preset's, or for the paper's form beside the defaults
OWN_METHODS: dict[str, dict] = {MM_ORIENT: {}, PAPER: {"relation_scope": "batch", "stage2_combine": "concat"}}
BASELINE_NAMES = (
    "majority", "tfidf", "text_only", "image_only", "logistic_regression", "knn",
    "concatenation", "late_fusion", "gated_fusion", "cross_attention", "hate_clipper",
)  # fmt: skip
IN_MODAL = [name for name in STREAM_NAMES if len(set(name.split("_over_"))) == 1]
WITHOUT_VOTES = {"neighbour_labels": False, "experts": [name for name in EXPERT_NAMES if name != "neighbours"]}
# what is taken from `mm_orient` -> the fields that do so
ABLATIONS: dict[str, dict] = {
    "hima_stage1": {"hima_stage1": False},
    "hima_stage2": {"hima_stage2": False},
    **{stream: {"relation_streams": [name for name in STREAM_NAMES if name != stream]} for stream in STREAM_NAMES},
    "cross_modal": {"relation_streams": IN_MODAL},
    "in_modal": {"relation_streams": [name for name in STREAM_NAMES if name not in IN_MODAL]},
    "streams": {"relation_streams": []},
    "memory": {"relation_scope": "batch"} | WITHOUT_VOTES,
    "votes": WITHOUT_VOTES,
    "relations": {"relation_streams": [], "relation_scope": "batch"} | WITHOUT_VOTES,
    "gate": {"relation_gate": False},
    "members": {"members": 1},
    "experts": {"experts": []},
    **{expert: {"experts": [name for name in EXPERT_NAMES if name != expert]} for expert in ("words", "text_layers")},
    "linear_experts": {"experts": ["neighbours", "network"]},
    "normalisation": {"merge_normalize": False},
    "modality_dropout": {"modality_dropout": 0.0},
}


@dataclass(frozen=True)
class BenchmarkSettings:
    """What a benchmark runs and how its tables are made.

    Raises:
        ValueError: a setting is out of its range.
    """

    methods: list[str] | None = described(
        f"of {', '.join((*OWN_METHODS, *BASELINE_NAMES))}; of the first two also variants METHOD:FIELD=JSON[,FIELD=JSON] "
        "with other fields of MMOrientConfig; decision:MODEL asks a chat model, without training (default: all but those)",
        metavar="METHOD",
    )
    seeds: list[int] = described(
        "a cell each, all on the same splits (default: 0 1 2)", factory=lambda: [0, 1, 2], metavar="N"
    )
    workers: int = described("processes that make cells side by side, each with its part of the cores", 1, metavar="N")
    bootstrap: int = described("resamples of the test posts for intervals", 2000, metavar="N")
    keep_runs: bool = described("keep the folders of our own methods' runs", False)
    noise: bool = described("also on test posts that are made worse, step by step", False)
    plots: bool = described("draw the tables too", True)

    def __post_init__(self):
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must be different numbers from 0 on, got {self.seeds}")
        if max(self.seeds) > LARGEST_SEED:
            raise ValueError(f"`seeds` must be at most {LARGEST_SEED}, got {max(self.seeds)}")
        if self.workers < 1:
            raise ValueError(f"`workers` must be at least 1, got {self.workers}")
        if self.bootstrap < 100:
            raise ValueError(f"`bootstrap` must be at least 100 for an interval, got {self.bootstrap}")


@dataclass(frozen=True)
class Method:
    """A method: its `base`, a baseline or one of ours, and for a variant its fields as canonical JSON; of a rival without
    training its `model`."""

    base: str
    fields: tuple[tuple[str, str], ...] = ()
    model: str = ""

    @property
    def name(self) -> str:
        """As it stands in tables, and as it may be asked for."""
        if self.model:
            return f"{self.base}:{self.model}"
        return self.base + (":" + ",".join(f"{name}={value}" for name, value in self.fields) if self.fields else "")

    @property
    def folder(self) -> str:
        """A file name of its own."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{self.base}-{digest}" if self.fields or self.model else self.base

    @property
    def is_own(self) -> bool:
        return self.base in OWN_METHODS

    @property
    def config(self) -> dict:
        """Fields of `MMOrientConfig` that the method sets."""
        return OWN_METHODS[self.base] | {name: json.loads(value) for name, value in self.fields}


def chosen_methods(names: list[str] | None, ablations: list[str] | None = None) -> list[Method]:
    """The methods of these names and those that take something from `mm_orient`, each once, in this order.

    Args:
        names: None takes all but variants. ablations: of `ABLATIONS`; an empty list takes all, None none.

    Raises:
        ValueError: there is no such method, field or ablation, with the name that is nearest.
    """
    found = [method_called(name) for name in names or (*OWN_METHODS, *BASELINE_NAMES)]
    for name in [] if ablations is None else ablations or ABLATIONS:
        if name not in ABLATIONS:
            raise ValueError(f"--ablations {name}: {_no_such('ablation', name, ABLATIONS)}")
        found.append(Method(MM_ORIENT, _canonical(ABLATIONS[name])))
    return list(dict.fromkeys(found))


def method_called(text: str) -> Method:
    """The method of a name, or a variant. Raises ValueError: see `chosen_methods`."""
    base, colon, rest = text.partition(":")
    if base == RIVAL:
        if not rest:
            raise ValueError(f"--methods {text}: {RIVAL}:MODEL names a chat model, a folder or a Hub id")
        return Method(base, model=rest)
    if base not in OWN_METHODS and base not in BASELINE_NAMES:
        raise ValueError(f"--methods {text}: {_no_such('method', base, (*OWN_METHODS, *BASELINE_NAMES))}")
    if not colon:
        return Method(base)
    if base not in OWN_METHODS:
        raise ValueError(f"--methods {text}: {base} has no variants; {' and '.join(OWN_METHODS)} have")
    return Method(base, _canonical(_assignments(text, rest)))


def check_fields(methods: list[Method], config: dict) -> None:
    """Raise ValueError where a variant names no field of `MMOrientConfig` or gives one a wrong value.

    Args:
        config: the preset's fields, without encoders.
    """
    from ...configuration_mm_orient import MMOrientConfig

    for method in methods:
        for name, _ in method.fields:
            if name not in MMOrientConfig.__annotations__:
                raise ValueError(f"--methods {method.name}: {_no_such('field', name, MMOrientConfig.__annotations__)}")
        if method.fields:
            fields = (config if method.base == MM_ORIENT else {}) | method.config
            try:  # tasks are checked beside the data's
                MMOrientConfig(**{name: value for name, value in fields.items() if name != "tasks"})
            except (ValueError, TypeError) as error:
                raise ValueError(f"--methods {method.name}: {error}") from None


def _assignments(text: str, rest: str) -> dict:
    """`FIELD=JSON[,FIELD=JSON]`; a value that is no JSON is a text up to the next comma."""
    found, decoder = {}, json.JSONDecoder()
    while rest:
        match = re.match(r"(\w+)=(?=.)", rest)
        if match is None:
            raise ValueError(f"--methods {text}: FIELD=JSON is expected at {rest!r}")
        rest = rest[match.end() :]
        try:
            value, end = decoder.raw_decode(rest)
        except json.JSONDecodeError:
            value, end = None, None
        if end is None or rest[end : end + 1] not in ("", ","):
            if rest[0] in "[{":
                raise ValueError(f"--methods {text}: {rest!r} is no JSON")
            value = rest.partition(",")[0]
            end = len(value)
        if match[1] in found:
            raise ValueError(f"--methods {text}: {match[1]!r} stands there twice")
        found[match[1]], rest = value, rest[end + 1 :]
    if not found:
        raise ValueError(f"--methods {text}: FIELD=JSON is expected after the colon")
    return found


def _canonical(fields: dict) -> tuple[tuple[str, str], ...]:
    return tuple((name, json.dumps(fields[name], separators=(",", ":"))) for name in sorted(fields))


def _no_such(what: str, name: str, known) -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"no {what} {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")
