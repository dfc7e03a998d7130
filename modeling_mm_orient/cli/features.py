# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Posts through encoders, here or over many machines: extract, graph, ray predict, ray extract."""

import argparse
from dataclasses import fields, replace

from ..data.description import DataDescription
from ..runs.settings import Workers
from .options import (
    COLUMNS,
    add_data,
    add_feature_cache,
    add_fields,
    add_model,
    add_outside,
    add_verb,
    data_changes,
    described,
    feature_cache_of,
    given,
    preset_of,
)

OF_JOB = (*COLUMNS, "id_column")


def add_verbs(verbs) -> None:
    """extract, graph, ray predict and ray extract."""
    verb = add_verb(
        verbs,
        "extract",
        _extract,
        "run encoders over posts once; train and datasets read the features",
        "mm-orient extract --data FOLDER --text-encoder ID --vision-encoder ID --output FEATURES",
        interrupted="the same command goes on",
    )
    add_data(verb, labels=False)
    add_model(verb)
    verb.add_argument("--output", required=True, metavar="FEATURES", help="folder, for train a --feature-cache")
    verb.add_argument("--batch-size", type=int, default=32, help="posts per forward pass (default: 32)")
    verb.add_argument("--workers", type=int, metavar="N", help="processes that prepare posts (default: by the cores)")
    verb.add_argument("--bf16", action="store_true", help="run the encoders in bfloat16 autocast")

    verb = add_verb(
        verbs,
        "graph",
        _graph,
        "the exact relation graph of all posts: every pair above a threshold, or the nearest of each",
        "mm-orient graph --data FOLDER --text-encoder ID --vision-encoder ID --threshold 0.9 --output edges.parquet",
    )
    add_data(verb, labels=False)
    add_model(verb)
    kind = verb.add_mutually_exclusive_group(required=True)
    kind.add_argument("--threshold", type=float, metavar="TAU", help="join pairs whose cosine is above it (paper: .9)")
    kind.add_argument("--top-k", type=int, metavar="K", help="join each post to its K nearest")
    verb.add_argument("--output", required=True, metavar="FILE", help=".parquet: modality, source, target, cosine")
    add_feature_cache(verb)

    text = "predict or extract as a Ray Data job: Parquet in, Parquet out, on any number of machines"
    jobs = verbs.add_parser("ray", help=text, description=text).add_subparsers(required=True, metavar="JOB")
    verb = add_verb(
        jobs,
        "predict",
        _ray_predict,
        "predictions of a run that has a relation memory",
        "mm-orient ray predict RUN --data PARQUET --output FOLDER --workers 8",
    )
    verb.add_argument("model", metavar="RUN")
    _add_job(verb)
    verb.add_argument("--batch-size", type=int, help="posts per forward pass (default: as trained)")
    verb = add_verb(
        jobs,
        "extract",
        _ray_extract,
        "run encoders over posts; train reads the features",
        "mm-orient ray extract --data PARQUET --text-encoder ID --vision-encoder ID --output FOLDER --workers 8",
    )
    add_model(verb)
    _add_job(verb)
    verb.add_argument("--batch-size", type=int, default=32, help="posts per forward pass (default: 32)")


def _add_job(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--data", required=True, metavar="PARQUET", help="a file or a folder of them that every node sees"
    )
    verb.add_argument("--output", required=True, metavar="FOLDER", help="that every node sees")
    add_fields(verb, DataDescription, OF_JOB)
    add_outside(verb)
    add_fields(verb, Workers, tuple(entry.name for entry in fields(Workers)))


def _extract(options) -> None:
    if options.batch_size < 1 or (options.workers or 0) < 0:
        raise ValueError("--batch-size must be at least 1 and --workers at least 0")
    preset = preset_of(options)
    data = replace(described(options, preset), labels=None, label_columns={})

    from ..data.problems import MOST_SHOWN
    from ..features.extraction import REPORT_FILE, extract_features, process_state
    from ..runs.presets import encoders_alone

    state = process_state()
    model, processor = encoders_alone(preset, data)
    report = extract_features(data, model, processor, options.output, options.batch_size, options.workers, options.bf16)
    if state.is_main_process:
        for problem in report["problems"][:MOST_SHOWN]:
            print(f"left out: {problem['where']}: {problem['what']}")
        print(
            f"{report['rows']} rows: {report['stored']} stored, {report['encoded_now']} of them now, "
            f"{len(report['problems'])} left out; see {report['folder']}/{REPORT_FILE}"
        )


def _graph(options) -> None:
    preset = preset_of(options)
    data = described(options, preset)

    from ..runs.data_set_graphs import write_graph
    from ..runs.presets import encoders_alone

    model, processor = encoders_alone(preset, data)
    counts = write_graph(
        data,
        model,
        processor,
        options.output,
        threshold=options.threshold,
        top_k=options.top_k,
        feature_cache=feature_cache_of(options),
        skip_bad_posts=options.skip_bad_posts,
    )
    for modality, (posts, edges) in counts.items():
        print(f"{modality}: {posts} posts, {edges} edges")
    print(f"written to {options.output}")


def _ray_predict(options) -> None:
    from ..runs.ray_jobs import predict_with_ray

    columns = {
        name: value
        for name, value in data_changes(options).items()
        if name in (*OF_JOB, "allow_outside", "required_columns")
    }
    arguments = {
        "output": options.output,
        "workers": Workers(**given(options, Workers)),
        "batch_size": options.batch_size,
    }
    _print_job(predict_with_ray(options.model, options.data, **arguments, **columns), "predicted")


def _ray_extract(options) -> None:
    preset = preset_of(options)
    data = described(options, preset)

    from ..runs.ray_jobs import extract_with_ray

    arguments = {
        "output": options.output,
        "workers": Workers(**given(options, Workers)),
        "batch_size": options.batch_size,
    }
    _print_job(extract_with_ray(preset, data, options.data, **arguments), "encoded")


def _print_job(report: dict, done: str) -> None:
    print(
        f"{report['rows']} rows: {report['rows'] - report['problems']} {done}, {report['problems']} with a problem (the "
        f"column says which), in {report['folder']}"
    )
    if report.get("strange_pictures"):
        print(
            f"{report['strange_pictures']} pictures left out of account: unlike every reference post's (`strange_picture`)"
        )
