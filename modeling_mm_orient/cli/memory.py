# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The relation memory of a run: build, add, remove, inspect."""

import argparse
from dataclasses import replace

from ..data.description import DataDescription
from ..names import INDEX_KINDS, LOOKUPS
from .options import add_data, add_feature_cache, add_json, add_verb, described_for_run, feature_cache_of


def add_verbs(verbs) -> None:
    """memory build, add, remove and inspect."""
    text = "the relation memory of a run: reference posts that its verdicts rest on"
    actions = verbs.add_parser("memory", help=text, description=text).add_subparsers(required=True, metavar="ACTION")

    verb = add_verb(
        actions,
        "build",
        _build,
        "make posts the memory of a run, replacing the one it has",
        "mm-orient memory build RUN --data FOLDER --split train",
    )
    _add_references(verb)
    verb.add_argument("--output", metavar="FOLDER", help="keep the memory there (default: in RUN)")
    verb.add_argument("--lookup", choices=LOOKUPS, help="what makes a neighbour (default: as trained)")
    verb.add_argument("--top-k", type=int, metavar="K", help="neighbours per post and modality (default: as trained)")
    verb.add_argument("--index", choices=INDEX_KINDS, help="FAISS index (default: one beyond 100,000 posts)")

    verb = add_verb(
        actions, "add", _add, "add posts to the memory of a run", "mm-orient memory add RUN --data NEW_POSTS"
    )
    _add_references(verb)
    verb.add_argument("--output", metavar="FOLDER", help="where the memory lies, if that is not RUN")

    verb = add_verb(
        actions,
        "remove",
        _remove,
        "remove posts from the memory of a run",
        "mm-orient memory remove RUN --ids 4711 4712",
    )
    verb.add_argument("model", metavar="RUN")
    chosen = verb.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--ids", nargs="+", metavar="ID", help="ids of the posts")
    chosen.add_argument("--ids-file", metavar="FILE", help="a text file with an id per line")
    verb.add_argument("--output", metavar="FOLDER", help="where the memory lies, if that is not RUN")

    text = "what the memory of a run holds, and whether its file is sound"
    verb = add_verb(actions, "inspect", _inspect, text, "mm-orient memory inspect RUN")
    verb.add_argument("model", metavar="RUN")
    add_json(verb, "write it there")


def _add_references(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="RUN")
    add_data(verb)
    verb.add_argument("--no-labels", action="store_true", help="the posts have no labels")
    verb.add_argument("--split", help="default: all posts")
    add_feature_cache(verb)


def _described(options) -> DataDescription:
    from ..configuration_mm_orient import MMOrientConfig

    data, _ = described_for_run(options)
    if options.no_labels:
        return replace(data, labels=None)
    tasks = [task["name"] for task in MMOrientConfig.from_pretrained(options.model).tasks]
    if unknown := [name for name in data.labels or [] if name not in tasks]:
        raise ValueError(f"{unknown[0]!r} is no task of {options.model}; it has {', '.join(tasks)}")
    return replace(data, labels=data.labels or tasks)


def _build(options) -> None:
    if options.top_k is not None and options.top_k < 1:
        raise ValueError(f"--top-k must be at least 1, got {options.top_k}")
    from ..runs.memory import build_memory

    memory, recalls = build_memory(
        options.model,
        _described(options),
        split=options.split,
        output=options.output,
        lookup=options.lookup,
        top_k=options.top_k,
        index=options.index,
        feature_cache=feature_cache_of(options),
        skip_bad_posts=options.skip_bad_posts,
    )
    print(f"{len(memory)} reference posts in the memory of {options.model}")
    _print_recalls(memory, recalls)


def _add(options) -> None:
    from ..runs.memory import add_to_memory

    data = _described(options)
    added, memory, recalls = add_to_memory(
        options.model,
        data,
        split=options.split,
        output=options.output,
        feature_cache=feature_cache_of(options),
        skip_bad_posts=options.skip_bad_posts,
    )
    print(f"{added} reference posts added, {len(memory)} in the memory of {options.model}")
    _print_recalls(memory, recalls)


def _remove(options) -> None:
    from ..runs.memory import remove_from_memory

    ids = options.ids
    if ids is None:
        try:
            with open(options.ids_file, encoding="utf-8-sig") as file:
                ids = [line.rstrip("\r\n") for line in file if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{options.ids_file}: not UTF-8 ({error})") from None
    memory, recalls = remove_from_memory(options.model, ids, output=options.output)
    print(f"{len(set(ids))} reference posts removed, {len(memory)} in the memory of {options.model}")
    _print_recalls(memory, recalls)


def _print_recalls(memory, recalls: dict[str, float]) -> None:
    for modality, recall in recalls.items():
        print(f"{modality} index ({memory.search(modality).kind}): recall of the 32 nearest {recall:.3f}")


def _inspect(options) -> None:
    from ..data.json_files import write_json
    from ..runs.memory import inspect_memory

    report = inspect_memory(options.model)
    for name, value in report.items():
        if name != "labels":
            print(f"{name}: {value}")
    for task, counts in report["labels"].items():
        print(f"labels of {task}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if options.json:
        write_json(options.json, report)
