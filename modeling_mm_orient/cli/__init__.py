# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`mm-orient`: one command per verb."""

import argparse
import json
import logging
import os
import sys
from dataclasses import fields, replace

from accelerate import PartialState

from ..data.paraphrases import Paraphraser, paraphrase
from ..configuration_mm_orient import CHOICES, ENCODER_NAMES, MMOrientConfig
from ..runs.cpu_memory import reuse_memory
from ..data.reading import MOST_SHOWN, DataDescription, account_for_rows, read_posts
from ..runs.demo import demo
from ..runs.evaluation import choose_split, describe_data, evaluate, inspect_graph, load_run, predict, read_run, write_report
from ..data.arrays import DIMENSIONS
from ..features.extraction import REPORT_FILE, extract_features, process_state
from ..runs.graph_inspection import as_json, statistics_table
from ..runs.hub import save_for_hub
from ..runs.memory import add_to_memory, build_memory, inspect_memory, remove_from_memory
from ..runs.card import metrics_table, model_card
from ..runs.presets import encoders_alone, load_preset, preset_names
from ..runs.ray_jobs import Workers, extract_with_ray, predict_with_ray
from ..similarity_search import INDEX_KINDS
from ..task_features import OUTPUTS
from ..text_cleaning import PAPER_STEPS, STEPS
from ..data.folder_text_removal import remove_text_from_folder
from ..runs.training import DEFAULT_FEATURE_CACHE, METRICS_FILE, TrainingSettings, train


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors of the user's are one message, not a traceback."""
    options = parser().parse_args(arguments)
    reuse_memory()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        if options.traceback:
            raise
        print(f"mm-orient: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="mm-orient", description="Understand posts of a picture and a text, for many tasks at once."
    )
    verbs = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    verb = _verb(verbs, "train", _train, "fine-tune on your own posts: check, encode, train, evaluate, save")
    _data_arguments(verb)
    verb.add_argument("--output", required=True, metavar="RUN", help="folder for the trained model")
    _model_arguments(verb)
    verb.add_argument(
        "--epochs", type=int, help="at most this many passes over the training split (default: preset, 10)"
    )
    verb.add_argument("--batch-size", type=int, help="posts per process and step (default: preset, 32)")
    verb.add_argument("--learning-rate", type=float, help="of everything after the encoders (default: preset, 1e-4)")
    verb.add_argument("--encoder-learning-rate", type=float, help="of trained encoders (default: preset, 1e-5)")
    verb.add_argument("--accumulation", type=int, help="steps per update (default: 1)")
    verb.add_argument(
        "--patience", type=int, help="epochs without improvement before stopping; 0 never stops (default: 4)"
    )
    verb.add_argument("--class-weights", choices=["balanced"], help="weight classes by the inverse of their share")
    verb.add_argument(
        "--threshold-quantile",
        type=float,
        metavar="Q",
        help="relation thresholds from the training posts: a share Q of the pairs is not joined (default: the fixed ones)",
    )
    verb.add_argument(
        "--train-encoders", nargs="+", choices=ENCODER_NAMES, help="encoders to fine-tune (default: none)"
    )
    verb.add_argument(
        "--augment-images", action="store_true", default=None, help="flip pictures and jitter their colours in training"
    )
    verb.add_argument("--paraphrases", metavar="FILE", help="of mm-orient paraphrase: more training posts")
    verb.add_argument("--bf16", action="store_true", default=None, help="train in bfloat16 autocast")
    verb.add_argument("--seed", type=int, help="of weights, order and dropout (default: 0)")
    verb.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=JSON", help="any field of MMOrientConfig, say hima_stage2=false"
    )
    verb.add_argument("--feature-cache", default=DEFAULT_FEATURE_CACHE, metavar="DIR", help="default: %(default)s")
    verb.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    verb.add_argument("--overwrite", action="store_true", help="replace an existing run")

    verb = _verb(verbs, "evaluate", _evaluate, "metrics of a run on a split")
    _run_arguments(verb)
    _data_arguments(verb)
    verb.add_argument("--split", default="test", help="default: test")
    verb.add_argument(
        "--int8-encoders", action="store_true", help="also with encoders in 8 bits, and what that changes"
    )
    verb.add_argument("--json", metavar="FILE", help="write the metrics there, those in 8 bits if asked for")

    verb = _verb(verbs, "predict", _predict, "predictions for posts, labelled or not")
    _run_arguments(verb)
    _data_arguments(verb, labels=False)
    verb.add_argument("--split", help="default: all posts")
    verb.add_argument("--output", required=True, metavar="FILE", help=".jsonl, .csv or .parquet")
    verb.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="N",
        help="with each post, N posts of the relation memory per modality",
    )
    verb.add_argument("--int8-encoders", action="store_true", help="encoders in 8 bits: faster on a CPU")

    _memory_verbs(verbs)

    verb = _verb(verbs, "inspect-graph", _inspect_graph, "how dense a run's relation graphs are on some posts")
    _run_arguments(verb)
    _data_arguments(verb, labels=False)
    verb.add_argument("--split", help="default: all posts")
    verb.add_argument("--json", metavar="FILE", help="write the statistics there")

    verb = _verb(
        verbs, "inspect-data", _inspect_data, "account for every row of a data set: read, repaired or rejected"
    )
    _data_arguments(verb)
    verb.add_argument(
        "--preset", nargs="+", default=[], metavar="NAME", help="data sets of the presets, or .json files"
    )
    verb.add_argument("--no-images", action="store_true", help="do not open the pictures")
    verb.add_argument("--json", metavar="FILE", help="write the account there, every row of it")

    verb = _verb(verbs, "extract", _extract, "run encoders over posts once; train and datasets read the features")
    _data_arguments(verb, labels=False)
    _model_arguments(verb)
    verb.add_argument("--output", required=True, metavar="FEATURES", help="folder, for train a --feature-cache")
    verb.add_argument("--batch-size", type=int, default=32, help="posts per forward pass (default: 32)")
    verb.add_argument("--workers", type=int, metavar="N", help="processes that prepare posts (default: by the cores)")
    verb.add_argument("--bf16", action="store_true", help="run the encoders in bfloat16 autocast")

    _ray_verbs(verbs)

    verb = _verb(verbs, "paraphrase", _paraphrase, "have a chat model rewrite the training texts; train reads the file")
    _data_arguments(verb)
    verb.add_argument("--preset", nargs="+", default=[], metavar="NAME", help="data sets of the presets")
    verb.add_argument("--split", help="default: train, or all posts where the data has no splits")
    verb.add_argument(
        "--endpoint", required=True, metavar="URL", help="OpenAI-compatible, say http://localhost:8000/v1"
    )
    verb.add_argument("--model", required=True, metavar="NAME", help="its name at the endpoint")
    verb.add_argument("--output", required=True, metavar="FILE", help=".jsonl; one that exists is gone on with")
    verb.add_argument("--variants", type=int, default=5, metavar="N", help="per text (default: 5, the paper's)")
    verb.add_argument("--api-key-env", metavar="NAME", help="environment variable of the key (default: no key)")
    verb.add_argument("--temperature", type=float, default=0.9, help="default: %(default)s")
    verb.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="for an answer (default: 60)")
    verb.add_argument("--retries", type=int, default=5, metavar="N", help="default: %(default)s")
    verb.add_argument("--requests-per-minute", type=float, metavar="N", help="default: no limit")
    verb.add_argument("--parallel", type=int, default=4, metavar="N", help="requests at a time (default: 4)")
    verb.add_argument(
        "--price", type=float, nargs=2, metavar=("PROMPT", "ANSWER"), help="per million tokens, to print what was spent"
    )

    verb = _verb(verbs, "remove-text", _remove_text, "find the text on a folder's pictures, read it and paint over it")
    verb.add_argument("folder", metavar="FOLDER")
    verb.add_argument(
        "--output", required=True, metavar="FOLDER", help="for the pictures, and their texts in texts.jsonl"
    )
    verb.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    verb.add_argument(
        "--reader", default="rapidocr", help="of text: name or package.module:function (default: rapidocr)"
    )
    verb.add_argument("--inpainter", default="opencv", help="name or package.module:function (default: opencv)")

    verb = _verb(verbs, "export", _export, "a folder for the Hub: weights, processor, code and model card")
    verb.add_argument("model", metavar="RUN")
    verb.add_argument("--output", required=True, metavar="HUB_FOLDER")
    verb.add_argument("--name", default="mm-orient", help="repository id for the model card (default: %(default)s)")

    verb = _verb(
        verbs,
        "demo",
        lambda options: demo(options.output, options.seed),
        "train and predict on memes drawn by us; no download",
    )
    verb.add_argument("--output", default="demo_run", help="default: %(default)s")
    verb.add_argument("--seed", type=int, default=0)
    return top


def _memory_verbs(verbs) -> None:
    text = "the relation memory of a run: reference posts that its verdicts rest on"
    actions = verbs.add_parser("memory", help=text, description=text).add_subparsers(required=True, metavar="ACTION")

    verb = _verb(actions, "build", _memory_build, "make posts the memory of a run, replacing the one it has")
    verb.add_argument("model", metavar="RUN")
    _reference_arguments(verb)
    verb.add_argument("--output", metavar="FOLDER", help="keep the memory there (default: in RUN)")
    verb.add_argument("--lookup", choices=CHOICES["memory_lookup"], help="what makes a neighbour (default: as trained)")
    verb.add_argument("--top-k", type=int, metavar="K", help="neighbours per post and modality (default: as trained)")
    verb.add_argument("--index", choices=INDEX_KINDS, help="FAISS index (default: one beyond 100,000 posts)")

    verb = _verb(actions, "add", _memory_add, "add posts to the memory of a run")
    verb.add_argument("model", metavar="RUN")
    _reference_arguments(verb)

    verb = _verb(actions, "remove", _memory_remove, "remove posts from the memory of a run")
    verb.add_argument("model", metavar="RUN")
    chosen = verb.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--ids", nargs="+", metavar="ID", help="ids of the posts")
    chosen.add_argument("--ids-file", metavar="FILE", help="a text file with an id per line")

    verb = _verb(actions, "inspect", _memory_inspect, "what the memory of a run holds, and whether its file is sound")
    verb.add_argument("model", metavar="RUN")
    verb.add_argument("--json", metavar="FILE", help="write it there")


def _ray_verbs(verbs) -> None:
    text = "predict or extract as a Ray Data job: Parquet in, Parquet out, on any number of machines"
    jobs = verbs.add_parser("ray", help=text, description=text).add_subparsers(required=True, metavar="JOB")

    verb = _verb(jobs, "predict", _ray_predict, "predictions of a run that has a relation memory")
    verb.add_argument("model", metavar="RUN")
    _job_arguments(verb)
    verb.add_argument("--batch-size", type=int, help="posts per forward pass (default: as trained)")

    verb = _verb(jobs, "extract", _ray_extract, "run encoders over posts; train reads the features")
    _model_arguments(verb)
    _job_arguments(verb)
    verb.add_argument("--batch-size", type=int, default=32, help="posts per forward pass (default: 32)")


def _job_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--data", required=True, metavar="PARQUET", help="a file or a folder of them that every node sees"
    )
    verb.add_argument("--output", required=True, metavar="FOLDER", help="that every node sees")
    _column_arguments(verb)
    verb.add_argument("--id-column", metavar="COLUMN", help="default: id")
    verb.add_argument("--workers", type=int, default=1, metavar="N", help="that each load the model (default: 1)")
    verb.add_argument("--cpus-per-worker", type=int, default=1, metavar="N", help="default: 1")
    verb.add_argument("--gpus-per-worker", type=float, default=0, metavar="N", help="default: 0")
    verb.add_argument("--address", help="of a Ray cluster, or auto (default: a Ray of this machine, for this job)")


def _column_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--text-column", nargs="+", metavar="COLUMN", help="of several the first filled one counts (default: text)"
    )
    verb.add_argument("--image-column", metavar="COLUMN", help="the pictures, or their file names (default: image)")


def _reference_arguments(verb: argparse.ArgumentParser) -> None:
    _data_arguments(verb)
    verb.add_argument("--no-labels", action="store_true", help="the posts have no labels")
    verb.add_argument("--split", help="default: all posts")


def _verb(verbs, name: str, run, text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    verb.set_defaults(run=run)
    return verb


def _data_arguments(verb: argparse.ArgumentParser, labels: bool = True) -> None:
    verb.add_argument(
        "--data",
        required=True,
        help="folder of pictures with a CSV, TSV or JSONL; a saved DatasetDict; or a Hub data set",
    )
    if labels:
        verb.add_argument(
            "--labels", nargs="+", metavar="COLUMN", help="label columns, one task each (default: preset or run)"
        )
    verb.add_argument(
        "--labels-file", metavar="FILE", help="table inside the folder (default: the one that has the columns)"
    )
    _column_arguments(verb)
    verb.add_argument("--id-column", metavar="COLUMN", help="default: id, or the picture's name")
    verb.add_argument("--split-column", metavar="COLUMN", help="train, validation, test (default: split at random)")
    verb.add_argument("--split-seed", type=int, metavar="N", help="of that random split (default: 0)")
    verb.add_argument(
        "--feature-arrays",
        nargs="+",
        metavar="FEATURE=FILE",
        help=f"features extracted elsewhere, .npy files with a row per row of the table: {', '.join(DIMENSIONS)}",
    )
    verb.add_argument("--skip-bad-posts", action="store_true", help="leave out posts with problems, and report them")


def _model_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--preset",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"one or several of {', '.join(preset_names())}, or .json files",
    )
    for name in ENCODER_NAMES:
        verb.add_argument(f"--{name}-encoder", metavar="ID", help=f"{name} encoder: Hub id, local path or none")
    verb.add_argument("--revision", metavar="REV", help="branch, tag or commit of the encoders' repositories")
    verb.add_argument(
        "--task-features",
        nargs="+",
        default=[],
        metavar="NAME=SOURCE",
        help="what text classifiers say of a text: Hub id or path, with @REVISION and :hidden_state or :probabilities "
        "(default); or nrc, the emotion lexicon",
    )
    verb.add_argument(
        "--clean-text",
        dest="text_cleaning",
        nargs="+",
        choices=[*STEPS, "paper"],
        metavar="STEP",
        help=f"of {', '.join(STEPS)}; paper takes all (default: none); saved with the model's processor",
    )
    verb.add_argument("--remove-overlaid-text", action="store_true", default=None, help="paint over text on pictures")
    verb.add_argument(
        "--read-missing-text", action="store_true", default=None, help="where a post has no text, read its picture's"
    )


def _run_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="RUN")
    verb.add_argument("--batch-size", type=int, help="posts that share a relation graph (default: as trained)")


def _described(options) -> tuple[DataDescription, int]:
    """What a run is applied to: its own description of data with the options' changes, and the batch size."""
    run = read_run(options.model)
    batch_size = options.batch_size or run.get("training", {}).get("batch_size", 32)
    return describe_data(run, options.data, **_data_changes(options)), batch_size


def _described_references(options) -> DataDescription:
    description = describe_data(read_run(options.model), options.data, **_data_changes(options))
    if options.no_labels:
        return replace(description, labels=None)
    tasks = [task["name"] for task in MMOrientConfig.from_pretrained(options.model).tasks]
    if unknown := [name for name in description.labels or [] if name not in tasks]:
        raise ValueError(f"{unknown[0]!r} is no task of {options.model}; it has {', '.join(tasks)}")
    return replace(description, labels=description.labels or tasks)


def _data_changes(options) -> dict:
    names = ("labels", "labels_file", "text_column", "image_column", "id_column", "split_column", "split_seed")
    names += ("remove_overlaid_text", "read_missing_text", "paraphrases")
    changes = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    if steps := getattr(options, "text_cleaning", None):
        changes["text_cleaning"] = list(PAPER_STEPS) if "paper" in steps else steps
    if arrays := getattr(options, "feature_arrays", None):
        changes["feature_arrays"] = _pairs(arrays, "--feature-arrays", "FEATURE=FILE")
    return changes


def _pairs(values: list[str], option: str, form: str) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if wrong := [value for value, (name, _, rest) in zip(values, pairs, strict=True) if not name or not rest]:
        raise ValueError(f"{option} takes {form}, got {wrong[0]!r}")
    return {name: rest for name, _, rest in pairs}


def _task_feature_source(text: str) -> dict:
    """`SOURCE[@REVISION][:OUTPUT]` as an entry of a preset's `task_features`."""
    source, _, output = text.rpartition(":")
    if output not in OUTPUTS:
        source, output = text, OUTPUTS[0]
    source, _, revision = source.partition("@")
    return {"source": source, "output": output, "revision": revision or None}


def _preset_of(options) -> dict:
    """The preset, with the options' encoders and task features."""
    preset = load_preset(*options.preset)
    for name in ENCODER_NAMES:
        if source := getattr(options, f"{name}_encoder"):
            preset["encoders"][name] = None if source == "none" else source
            if options.revision:
                preset["revisions"][name] = options.revision
    sources = _pairs(options.task_features, "--task-features", "NAME=SOURCE")
    preset["task_features"] |= {name: _task_feature_source(source) for name, source in sources.items()}
    for part, kind in (("data", DataDescription), ("training", TrainingSettings)):
        if unknown := set(preset[part]) - {entry.name for entry in fields(kind)}:
            raise ValueError(f"the preset's part {part!r} has an unknown entry {sorted(unknown)[0]!r}")
    return preset


def _train(options) -> None:
    preset = _preset_of(options)
    description = replace(DataDescription(options.data), **preset["data"] | _data_changes(options))
    if not preset["encoders"] and not preset["processor"] and not description.feature_arrays:
        print("no encoder named: training the tiny ones from scratch; --preset modern takes pretrained encoders")
        tiny = load_preset("tiny")
        preset |= {part: tiny[part] | preset[part] for part in ("config", "processor", "training")}
    if not description.labels:
        raise ValueError("name the label columns with --labels")
    names = [entry.name for entry in fields(TrainingSettings)]
    chosen = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    config = _config_fields(options.set)
    if options.train_encoders:
        config["frozen_encoders"] = [name for name in ENCODER_NAMES if name not in options.train_encoders]
    metrics = train(
        description,
        options.output,
        preset,
        TrainingSettings(**preset["training"] | chosen),
        config,
        options.feature_cache,
        options.skip_bad_posts,
        options.resume,
        options.overwrite,
    )
    if PartialState().is_main_process:
        for split, values in metrics.items():
            print(f"\n{split}\n\n{metrics_table(values)}")
        print(f"\nsaved to {options.output}")


def _extract(options) -> None:
    state, preset = process_state(), _preset_of(options)
    changes = preset["data"] | _data_changes(options)
    description = replace(DataDescription(options.data), **changes | {"labels": None, "label_columns": {}})
    if options.batch_size < 1 or (options.workers or 0) < 0:
        raise ValueError("--batch-size must be at least 1 and --workers at least 0")
    model, processor = encoders_alone(preset, description)
    report = extract_features(
        description, model, processor, options.output, options.batch_size, options.workers, options.bf16
    )
    if state.is_main_process:
        for problem in report["problems"][:MOST_SHOWN]:
            print(f"left out: {problem['where']}: {problem['what']}")
        print(
            f"{report['rows']} rows: {report['stored']} stored, {report['encoded_now']} of them now, "
            f"{len(report['problems'])} left out; see {report['folder']}/{REPORT_FILE}"
        )


def _ray_predict(options) -> None:
    columns = {name: value for name, value in _data_changes(options).items() if name.endswith("_column")}
    report = predict_with_ray(
        options.model, options.data, options.output, _workers(options), options.batch_size, **columns
    )
    _print_job(report, "predicted")


def _ray_extract(options) -> None:
    preset = _preset_of(options)
    description = replace(DataDescription(options.data), **preset["data"] | _data_changes(options))
    report = extract_with_ray(preset, description, options.data, options.output, _workers(options), options.batch_size)
    _print_job(report, "encoded")


def _workers(options) -> Workers:
    return Workers(options.workers, options.cpus_per_worker, options.gpus_per_worker, options.address)


def _print_job(report: dict, done: str) -> None:
    print(
        f"{report['rows']} rows: {report['rows'] - report['problems']} {done}, {report['problems']} with a problem (the "
        f"column says which), in {report['folder']}"
    )


def _paraphrase(options) -> None:
    key = os.environ.get(options.api_key_env) if options.api_key_env else None
    if options.api_key_env and not key:
        raise ValueError(f"the environment variable {options.api_key_env} of --api-key-env is not set")
    names = ("endpoint", "model", "variants", "temperature", "timeout", "retries", "requests_per_minute", "parallel")
    paraphraser = Paraphraser(**{name: getattr(options, name) for name in names}, api_key=key)
    description = replace(
        DataDescription(options.data), **load_preset(*options.preset)["data"] | _data_changes(options)
    )
    splits = read_posts(description, options.skip_bad_posts, check_images=False, training=False)[0]
    chosen = options.split or ("train" if "train" in splits else "all")
    texts = [text for text in choose_split(splits, chosen)["text"] if text]
    report = paraphrase(texts, paraphraser, options.output)
    print(
        f"{report.answered_now} texts of split {chosen!r} answered now, {report.answered_before} before, "
        f"{report.paraphrases} new paraphrases in {options.output}"
    )
    for when, suffix in (("now", ""), ("in all", "_in_all")):
        spent = [getattr(report, f"{name}_tokens{suffix}") for name in ("prompt", "completion")]
        line = f"spent {when}: {spent[0]} prompt and {spent[1]} answer tokens"
        if options.price:
            line += (
                f", {sum(n * price for n, price in zip(spent, options.price, strict=True)) / 1e6:.4f} at these prices"
            )
        print(line)
    if report.unanswered:
        text, why = next(iter(report.unanswered.items()))
        raise ValueError(
            f"{len(report.unanswered)} texts have no answer ({text[:60]!r}: {why}); run it again to go on with them"
        )


def _evaluate(options) -> None:
    description, batch_size = _described(options)
    arguments = (options.model, description, options.split, batch_size, options.skip_bad_posts)
    metrics = evaluate(*arguments)
    print(metrics_table(metrics))
    if options.int8_encoders:
        before, metrics = metrics, evaluate(*arguments, int8_encoders=True)
        print(f"\nwith encoders in 8 bits\n\n{metrics_table(metrics)}\n")
        for task, found in metrics.items():
            if task != "mean_macro_f1":
                name = "macro_f1" if "macro_f1" in found else "mse"
                old, new = before[task][name], found[name]
                print(f"{task}: {name} {old:.3f}, in 8 bits {new:.3f} ({new - old:+.3f})")
    if options.json:
        write_report(options.json, metrics)


def _predict(options) -> None:
    description, batch_size = _described(options)
    count = predict(
        options.model,
        description,
        options.output,
        options.split,
        batch_size,
        options.skip_bad_posts,
        options.neighbours,
        options.int8_encoders,
    )
    print(f"{count} posts predicted in {options.output}")


def _memory_build(options) -> None:
    if options.top_k is not None and options.top_k < 1:
        raise ValueError(f"--top-k must be at least 1, got {options.top_k}")
    memory, recalls = build_memory(
        options.model,
        _described_references(options),
        options.split,
        options.output,
        options.lookup,
        options.top_k,
        options.index,
        options.skip_bad_posts,
    )
    print(f"{len(memory)} reference posts in the memory of {options.model}")
    _print_recalls(memory, recalls)


def _memory_add(options) -> None:
    added, memory, recalls = add_to_memory(
        options.model, _described_references(options), options.split, options.skip_bad_posts
    )
    print(f"{added} reference posts added, {len(memory)} in the memory of {options.model}")
    _print_recalls(memory, recalls)


def _memory_remove(options) -> None:
    ids = options.ids
    if ids is None:
        with open(options.ids_file, encoding="utf-8") as file:
            ids = [line.rstrip("\r\n") for line in file if line.strip()]
    memory, recalls = remove_from_memory(options.model, ids)
    print(f"{len(set(ids))} reference posts removed, {len(memory)} in the memory of {options.model}")
    _print_recalls(memory, recalls)


def _print_recalls(memory, recalls: dict[str, float]) -> None:
    for modality, recall in recalls.items():
        print(f"{modality} index ({memory.search(modality).kind}): recall of the 32 nearest {recall:.3f}")


def _memory_inspect(options) -> None:
    report = inspect_memory(options.model)
    for name, value in report.items():
        if name != "labels":
            print(f"{name}: {value}")
    for task, counts in report["labels"].items():
        print(f"labels of {task}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if options.json:
        write_report(options.json, report)


def _inspect_graph(options) -> None:
    description, batch_size = _described(options)
    statistics = inspect_graph(options.model, description, options.split, batch_size)
    print(statistics_table(statistics))
    for modality, values in statistics.items():
        if values is not None and (advice := values.advice()):
            print(f"{modality}: {advice}")
    if options.json:
        write_report(options.json, as_json(statistics))


def _inspect_data(options) -> None:
    preset = load_preset(*options.preset)
    description = replace(DataDescription(options.data), **preset["data"] | _data_changes(options))
    account = account_for_rows(description, check_images=not options.no_images)
    print(
        f"{account['rows']} rows: {account['read']} posts read, {len(account['repaired'])} of them repaired, "
        f"{account['rows'] - account['read']} rejected"
    )
    for part in ("repaired", "rejected"):
        for entry in account[part][:MOST_SHOWN]:
            print(f"  {part} {entry['where']}: {entry['what']}")
        if len(account[part]) > MOST_SHOWN:
            print(f"  ... and {len(account[part]) - MOST_SHOWN} more {part}; --json writes all")
    print("posts: " + ", ".join(f"{split} {count}" for split, count in account["posts"].items()))
    for task, counts in account["labels"].items():
        print(f"labels of {task}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if options.json:
        write_report(options.json, account)


def _remove_text(options) -> None:
    counts = remove_text_from_folder(options.folder, options.output, options.reader, options.inpainter, options.workers)
    print(
        f"{counts['pictures']} pictures: {counts['treated']} treated, {counts['skipped']} skipped (why is in texts.jsonl), "
        f"{counts['done_before']} done before"
    )


def _export(options) -> None:
    model, processor = load_run(options.model)
    run = read_run(options.model)
    card = None
    if run:
        with open(f"{options.model}/{METRICS_FILE}", encoding="utf-8") as file:
            card = model_card(model.config, json.load(file), run, options.name)
    save_for_hub(model, processor, options.output, card)
    print(f"exported to {options.output}")


def _config_fields(assignments: list[str]) -> dict:
    known = MMOrientConfig.__annotations__
    result = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if name not in known:
            raise ValueError(f"--set {assignment}: {name!r} is no field of MMOrientConfig")
        try:
            result[name] = json.loads(value)
        except json.JSONDecodeError:
            result[name] = value
    return result


if __name__ == "__main__":
    sys.exit(main())
