# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Whether the model is worth it on somebody's posts: benchmark."""

from dataclasses import fields
from pathlib import Path

from ..data.description import DataDescription
from ..runs.benchmark.methods import ABLATIONS, BenchmarkSettings, Method, chosen_methods
from ..runs.settings import TrainingSettings
from .options import (
    add_data,
    add_feature_cache,
    add_fields,
    add_model,
    add_verb,
    described,
    feature_cache_of,
    given,
    preset_with_architecture,
)

# seeds are the benchmark's, and its features are stored: no encoder is trained, no picture changes from epoch to epoch
NOT_OF_BENCHMARKS = ("seed", "augment_images", "encoder_learning_rate", "trainer")
TRAINING = tuple(entry.name for entry in fields(TrainingSettings) if entry.name not in NOT_OF_BENCHMARKS)


def add_verbs(verbs) -> None:
    """benchmark."""
    verb = add_verb(
        verbs,
        "benchmark",
        _benchmark,
        "compare the model with baselines on your own posts, each by the same protocol, with intervals",
        "mm-orient benchmark --data FOLDER --labels offensive --text-encoder ID --vision-encoder ID --output BENCH",
        interrupted="the same command goes on",
    )
    add_data(verb, required=False)
    verb.add_argument(
        "--output",
        required=True,
        metavar="BENCH",
        help="folder of results, of one or several sets",
    )
    verb.add_argument("--name", metavar="SET", help="of the data in the tables (default: their folder's name)")
    add_model(verb)
    add_fields(verb, BenchmarkSettings, tuple(entry.name for entry in fields(BenchmarkSettings)))
    verb.add_argument(
        "--ablations",
        nargs="*",
        metavar="PART",
        help=f"mm_orient without {', '.join(ABLATIONS)} (default: all of them)",
    )
    add_fields(verb, TrainingSettings, TRAINING)
    add_fields(verb, DataDescription, ("paraphrases",))
    add_feature_cache(verb)


def _benchmark(options) -> None:
    settings = BenchmarkSettings(**given(options, BenchmarkSettings))
    methods = chosen_methods(settings.methods, options.ablations)
    bench = Path(options.output)
    print(_of_set(options, bench, methods, settings) if options.data else _tables_alone(bench, settings))
    print(f"saved to {bench}")


def _of_set(options, bench: Path, methods: list[Method], settings: BenchmarkSettings) -> str:
    preset = preset_with_architecture(options)
    data = described(options, preset)
    if not data.labels:
        raise ValueError("name the label columns with --labels")
    training = TrainingSettings(**preset["training"] | given(options, TrainingSettings))

    from ..runs.benchmark.cells import benchmark

    return benchmark(
        data,
        bench,
        options.name or Path(options.data).resolve().name,
        methods,
        settings,
        preset=preset,
        training=training,
        feature_cache=feature_cache_of(options),
        skip_bad_posts=options.skip_bad_posts,
    )


def _tables_alone(bench: Path, settings: BenchmarkSettings) -> str:
    if not bench.is_dir():
        raise ValueError(f"{bench} is no folder of a benchmark; --data names the posts for one")

    from ..runs.benchmark.tables import write_results

    return write_results(bench, settings.bootstrap, plots=settings.plots)
