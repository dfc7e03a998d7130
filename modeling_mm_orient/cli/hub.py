# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A finished run to others: export, push."""

import argparse
from dataclasses import fields

from ..runs.card_facts import CardFacts
from .options import add_fields, add_verb, given

FACTS = tuple(entry.name for entry in fields(CardFacts))


def add_verbs(verbs) -> None:
    """export, push."""
    verb = add_verb(
        verbs,
        "export",
        _export,
        "a folder for the Hub: weights, processor, code, memory, results and model card",
        "mm-orient export RUN --output HUB_FOLDER --name YOU/MODEL",
    )
    verb.add_argument("model", metavar="RUN")
    verb.add_argument("--output", required=True, metavar="HUB_FOLDER")
    verb.add_argument("--name", default="mm-orient", help="repository id for the model card (default: %(default)s)")
    _add_contents(verb)

    verb = add_verb(
        verbs,
        "push",
        _push,
        "what export writes, to the Hub in one commit",
        "mm-orient push RUN YOU/MODEL --private --license apache-2.0 --language en",
    )
    verb.add_argument("model", metavar="RUN")
    verb.add_argument("repository", metavar="YOU/MODEL", help="it is made where it is not there")
    verb.add_argument("--private", action="store_true", help="nobody but you sees it")
    verb.add_argument("--dry-run", action="store_true", help="list files and sizes; nothing is sent or asked")
    verb.add_argument("--space", action="store_true", help="also a Space of the same id where the model can be tried")
    _add_contents(verb)


def _add_contents(verb: argparse.ArgumentParser) -> None:
    add_fields(verb, CardFacts, FACTS)
    verb.add_argument("--endpoint", action="store_true", help="with what Inference Endpoints need")
    verb.add_argument("--onnx", action="store_true", help="with graphs for ONNX Runtime, compared with PyTorch")


def _export(options) -> None:
    facts = CardFacts(**given(options, CardFacts))

    from ..runs.hub import export_run

    export_run(options.model, options.output, options.name, facts, endpoint=options.endpoint, onnx=options.onnx)
    print(f"exported to {options.output}")


def _push(options) -> None:
    facts = CardFacts(**given(options, CardFacts))

    from ..runs.push import push, space_folder

    pushed = push(
        options.model,
        options.repository,
        facts,
        endpoint=options.endpoint,
        onnx=options.onnx,
        private=options.private,
        space=space_folder() if options.space else None,
        dry_run=options.dry_run,
    )
    if options.dry_run:
        _list("model", options.repository, pushed.files)
        if pushed.space_files is not None:
            _list("Space", options.repository, pushed.space_files)
        print("nothing was sent")
        _say_what_shows_posts(pushed.files)
        return
    for name in pushed.deleted:
        print(f"deleted there, from an earlier export: {name}")
    print(f"{len(pushed.files)} files in {pushed.url}, revision {pushed.revision}")
    _say_what_shows_posts(pushed.files)
    if pushed.space_url:
        print(f"Space: {pushed.space_url}")
        if options.private:
            print("the model is private: give the Space a secret HF_TOKEN that may read it")
    if facts.license is None:
        print("its card names no licence, and without one nobody may use it: say --license")


def _say_what_shows_posts(files: dict[str, int]) -> None:
    from ..runs.run_folder import REPORT_FILE

    if REPORT_FILE in files:
        print(f"{REPORT_FILE} shows pictures and texts of posts: delete it in the run's folder if nobody may see them")


def _list(kind: str, name: str, files: dict[str, int]) -> None:
    print(f"{kind} {name}: {len(files)} files, {sum(files.values()):,} bytes")
    for path, size in files.items():
        print(f"{size:>15,}  {path}")
