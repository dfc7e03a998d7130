# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""With a finished run: evaluate, predict."""

from .options import add_data, add_feature_cache, add_json, add_run, add_verb, described_for_run, feature_cache_of


def add_verbs(verbs) -> None:
    """evaluate, predict."""
    verb = add_verb(
        verbs, "evaluate", _evaluate, "metrics of a run on a split", "mm-orient evaluate RUN --data FOLDER --split test"
    )
    add_run(verb)
    add_data(verb)
    verb.add_argument("--split", default="test", help="default: test, or what the run has not seen")
    verb.add_argument("--known", action="store_true", help="of the posts that the run has learned from, instead")
    add_feature_cache(verb)
    verb.add_argument(
        "--int8-encoders", action="store_true", help="also with encoders in 8 bits, and what that changes"
    )
    add_json(verb, "write the metrics there, those in 8 bits if asked for")

    verb = add_verb(
        verbs,
        "predict",
        _predict,
        "predictions for posts, labelled or not",
        "mm-orient predict RUN --data FOLDER --output predictions.jsonl",
    )
    add_run(verb)
    add_data(verb, labels=False)
    verb.add_argument("--split", help="default: all posts")
    verb.add_argument("--output", required=True, metavar="FILE", help=".jsonl, .csv or .parquet")
    verb.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="N",
        help="with each post, N posts of the relation memory per modality",
    )
    verb.add_argument(
        "--streaming", action="store_true", help="read, check and predict posts as they come, in bounded memory"
    )
    verb.add_argument("--int8-encoders", action="store_true", help="encoders in 8 bits: faster on a CPU")
    verb.add_argument(
        "--abstain",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave this share of verdicts, those doubted most, to a person",
    )


def _evaluate(options) -> None:
    from ..data.json_files import write_json
    from ..runs.card import metrics_table
    from ..runs.evaluation import evaluate

    data, batch_size = described_for_run(options)
    arguments = {"split": options.split, "batch_size": batch_size, "skip_bad_posts": options.skip_bad_posts}
    arguments |= {"known": options.known, "feature_cache": feature_cache_of(options)}
    metrics = evaluate(options.model, data, **arguments)
    print(metrics_table(metrics))
    if options.int8_encoders:
        before, metrics = metrics, evaluate(options.model, data, **arguments, int8_encoders=True)
        print(f"\nwith encoders in 8 bits\n\n{metrics_table(metrics)}\n")
        for task, found in metrics.items():
            if task != "mean_macro_f1":
                name = "macro_f1" if "macro_f1" in found else "mse"
                old, new = before[task][name], found[name]
                print(f"{task}: {name} {old:.3f}, in 8 bits {new:.3f} ({new - old:+.3f})")
    if options.json:
        write_json(options.json, metrics)


def _predict(options) -> None:
    from ..runs.predictions import predict

    data, batch_size = described_for_run(options)
    count = predict(
        options.model,
        data,
        output=options.output,
        split=options.split,
        batch_size=batch_size,
        skip_bad_posts=options.skip_bad_posts,
        neighbours=options.neighbours,
        int8_encoders=options.int8_encoders,
        abstain=options.abstain,
        streaming=options.streaming,
    )
    print(f"{count} posts predicted in {options.output}")
