# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""To look at: report, explain, inspect-graph."""

import os

from .options import (
    add_data,
    add_feature_cache,
    add_json,
    add_run,
    add_verb,
    described_for_run,
    feature_cache_of,
    pairs,
)

NOTHING = "none"  # in place of a picture or a text


def add_verbs(verbs) -> None:
    """report, explain, inspect-graph."""
    verb = add_verb(
        verbs,
        "report",
        _report,
        "a run as a page: learning, confusion, calibration, the clearest errors, data, settings",
        "mm-orient report RUN --data FOLDER --split test",
    )
    add_run(verb)
    add_data(verb, required=False)
    verb.add_argument("--split", help="default: test, or what the run has not seen; without labels there, validation")
    verb.add_argument("--output", metavar="FILE", help=".html (default: report.html in the run's folder)")
    add_feature_cache(verb)

    verb = add_verb(
        verbs,
        "explain",
        _explain,
        "what the verdict on a post rests on: attention, experts, neighbours, and the verdict without each part",
        'mm-orient explain RUN --post picture.jpg "the caption" --output explanation.html',
    )
    verb.add_argument("model", metavar="RUN")
    verb.add_argument(
        "--post", nargs=2, required=True, metavar=("PICTURE", "TEXT"), help=f"a file and words; {NOTHING} for neither"
    )
    verb.add_argument(
        "--numbers", nargs="+", action="extend", default=[], metavar="COLUMN=VALUE", help="of its numeric columns"
    )
    verb.add_argument(
        "--neighbours", type=int, default=5, metavar="N", help="reference posts per modality (default: 5)"
    )
    verb.add_argument("--data", help="where the reference posts lie, to show them (default: where the run learned)")
    verb.add_argument(
        "--output", nargs="+", default=["explanation.html"], metavar="FILE", help="some of .html, .png and .json"
    )

    verb = add_verb(
        verbs,
        "inspect-graph",
        _inspect_graph,
        "how dense a run's relation graphs are on some posts, and what they look like",
        "mm-orient inspect-graph RUN --data FOLDER --picture graph.png",
    )
    add_run(verb)
    add_data(verb, labels=False)
    verb.add_argument("--split", help="default: all posts")
    verb.add_argument(
        "--picture", metavar="FILE", help=".png, .svg or .pdf: the graphs among the posts, of many a sample"
    )
    add_json(verb, "write the statistics there")


def _report(options) -> None:
    from ..runs.report.writing import report
    from ..runs.run_folder import read_run

    if not options.data:
        options.data = read_run(options.model).get("data", {}).get("data")
        if not options.data:
            raise ValueError(f"{options.model} does not say what it learned from: name posts with --data")
        if os.path.isabs(options.data) and not os.path.exists(options.data):
            raise ValueError(f"{options.data}, what {options.model} learned from, is gone: name posts with --data")
    data, batch_size = described_for_run(options)
    path, summary = report(
        options.model,
        data,
        split=options.split,
        output=options.output,
        batch_size=batch_size,
        feature_cache=feature_cache_of(options),
        skip_bad_posts=options.skip_bad_posts,
    )
    print(f"{summary}\n\nto look at: {path}")


def _explain(options) -> None:
    from ..partial_files import check_place
    from ..runs.explanation_page import check_form, explain_with_run

    for path in options.output:
        check_form(path)
        check_place(path)
    if options.neighbours < 0:
        raise ValueError(f"--neighbours must be at least 0, got {options.neighbours}")
    picture, text = (None if part == NOTHING else part for part in options.post)
    post = {"image": picture, "text": text}
    if options.numbers:
        post["numbers"] = pairs(options.numbers, "--numbers", "COLUMN=VALUE")
    explanation = explain_with_run(options.model, post, options.data, neighbours=options.neighbours)
    for task, decided in explanation.found["decisions"].items():
        print(f"{task}: {', '.join(decided) if isinstance(decided, list) else decided}")
    for path in options.output:
        explanation.save(path)
        print(f"to look at: {path}")


def _inspect_graph(options) -> None:
    from ..data.json_files import write_json
    from ..partial_files import check_place
    from ..runs.evaluation import draw_relations, inspect_graph
    from ..runs.graph_inspection import as_json, statistics_table
    from ..runs.graph_picture import check_picture_name

    if options.picture:
        check_picture_name(options.picture)
    for path in filter(None, (options.picture, options.json)):
        check_place(path)
    data, batch_size = described_for_run(options)
    statistics = inspect_graph(options.model, data, split=options.split, batch_size=batch_size)
    print(statistics_table(statistics))
    for modality, values in statistics.items():
        if values is not None and (advice := values.advice()):
            print(f"{modality}: {advice}")
    if options.json:
        write_json(options.json, as_json(statistics))
    if options.picture:
        print(draw_relations(options.model, data, options.picture, split=options.split))
        print(f"to look at: {options.picture}")
