# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""With posts themselves: inspect-data, paraphrase, remove-text."""

import os

from ..data.description import ChatModel, DataDescription
from ..runs.preset_files import load_preset
from .options import add_data, add_fields, add_json, add_preset, add_verb, described, given


def add_verbs(verbs) -> None:
    """inspect-data, paraphrase, remove-text."""
    verb = add_verb(
        verbs,
        "inspect-data",
        _inspect_data,
        "account for every row of a data set: read, repaired or rejected",
        "mm-orient inspect-data --preset memotion_task_a --data FOLDER",
    )
    add_data(verb)
    add_preset(verb)
    add_fields(verb, DataDescription, ("numeric_columns",))
    verb.add_argument("--no-images", action="store_true", help="do not open the pictures")
    add_json(verb, "write the account there, every row of it")

    verb = add_verb(
        verbs,
        "paraphrase",
        _paraphrase,
        "have a chat model rewrite the training texts; train reads the file",
        "mm-orient paraphrase --data FOLDER --endpoint http://localhost:8000/v1 --model NAME --output FILE.jsonl",
        interrupted="the same command goes on",
    )
    add_data(verb)
    add_preset(verb)
    verb.add_argument("--split", help="default: train, or all posts where the data has no splits")
    names = ("endpoint", "model", "variants", "temperature", "timeout", "retries", "requests_per_minute", "parallel")
    add_fields(verb, ChatModel, names, required=("endpoint", "model"))
    verb.add_argument("--api-key-env", metavar="NAME", help="environment variable of the key (default: no key)")
    verb.add_argument("--output", required=True, metavar="FILE", help=".jsonl; one that exists is gone on with")
    verb.add_argument(
        "--price", type=float, nargs=2, metavar=("PROMPT", "ANSWER"), help="per million tokens, to print what was spent"
    )

    verb = add_verb(
        verbs,
        "remove-text",
        _remove_text,
        "find the text on a folder's pictures, read it and paint over it",
        "mm-orient remove-text FOLDER --output CLEAN --workers 2",
        interrupted="the same command goes on",
    )
    verb.add_argument("folder", metavar="FOLDER")
    verb.add_argument(
        "--output", required=True, metavar="FOLDER", help="for the pictures, and their texts in texts.jsonl"
    )
    verb.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    verb.add_argument(
        "--reader", default="rapidocr", help="of text: name or package.module:function (default: rapidocr)"
    )
    verb.add_argument("--inpainter", default="opencv", help="name or package.module:function (default: opencv)")


def _inspect_data(options) -> None:
    from ..data.json_files import write_json
    from ..data.problems import MOST_SHOWN
    from ..data.reading import account_for_rows

    account = account_for_rows(described(options, load_preset(*options.preset)), check_images=not options.no_images)
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
        write_json(options.json, account)


def _paraphrase(options) -> None:
    key = os.environ.get(options.api_key_env) if options.api_key_env else None
    if options.api_key_env and not key:
        raise ValueError(f"the environment variable {options.api_key_env} of --api-key-env is not set")

    from ..data.paraphrases import Paraphraser, paraphrase
    from ..data.reading import read_posts

    paraphraser = Paraphraser(**given(options, ChatModel), api_key=key)
    data = described(options, load_preset(*options.preset))
    splits = read_posts(data, options.skip_bad_posts, check_images=False, training=False)[0]
    chosen = options.split or ("train" if "train" in splits else "all")
    if chosen not in splits:
        raise ValueError(f"the data has no split {chosen!r}; it has {', '.join(splits)}")
    report = paraphrase([text for text in splits[chosen]["text"] if text], paraphraser, options.output)
    print(
        f"{report.answered_now} texts of split {chosen!r} answered now, {report.answered_before} before, "
        f"{report.paraphrases} new paraphrases in {options.output}"
    )
    if report.without:
        print(f"{report.without} texts have none: what was answered is in the file, and is not asked for again")
    _print_spent("now", report.prompt_tokens, report.completion_tokens, options.price)
    _print_spent("in all", report.prompt_tokens_in_all, report.completion_tokens_in_all, options.price)
    if report.unanswered:
        text, why = next(iter(report.unanswered.items()))
        raise ValueError(
            f"{len(report.unanswered)} texts have no answer ({text[:60]!r}: {why}); run it again to go on with them"
        )


def _print_spent(when: str, prompt: int, answer: int, prices: list[float] | None) -> None:
    line = f"spent {when}: {prompt} prompt and {answer} answer tokens"
    if prices:
        line += f", {(prompt * prices[0] + answer * prices[1]) / 1e6:.4f} at these prices"
    print(line)


def _remove_text(options) -> None:
    from ..data.folder_text_removal import remove_text_from_folder

    counts = remove_text_from_folder(options.folder, options.output, options.reader, options.inpainter, options.workers)
    print(
        f"{counts['pictures']} pictures: {counts['treated']} treated, {counts['skipped']} skipped (why is in texts.jsonl), "
        f"{counts['done_before']} done before"
    )
