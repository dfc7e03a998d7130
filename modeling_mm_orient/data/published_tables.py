# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Tables of published data sets as they circulate: odd encodings, shifted rows, codes for names, labels in lists.

A reader takes the folder and, where one was named, the table, and gives a `Row` per post with the columns that the data
set's preset in `hub_configs/` describes. What it had to mend stands in the row's `repair`, what it cannot mend in its
`problem`: no row is dropped. Formats of which no real file was at hand were written from the publishers' descriptions.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from .json_files import once
from .picture_files import is_regular
from .tables import Row, delimited_rows, json_lines, lines_of, marked_lines

MEMOTION = {
    "humour": ("not_funny", "funny", "very_funny", "hilarious"),
    "sarcasm": ("not_sarcastic", "general", "twisted_meaning", "very_twisted"),
    "offensive": ("not_offensive", "slight", "very_offensive", "hateful_offensive"),
    "motivational": ("not_motivational", "motivational"),
    "overall_sentiment": ("very_negative", "negative", "neutral", "positive", "very_positive"),
}
# in every circulating file a record is one line and ends in its five labels, whatever happened to the quotes before them
MEMOTION_LABELS = re.compile(
    ","
    + r"\s*,\s*".join(f"({'|'.join(sorted(names, key=len, reverse=True))})" for names in MEMOTION.values())
    + "(.*)$"
)
MEMOTION_CODES = {"humour": "Humour", "sarcasm": "Sarcasm", "offensive": "offensive", "motivational": "Motivational"}
GOLD_SENTIMENT = {"-1": "negative", "0": "neutral", "1": "positive"}


def memotion(folder: Path, table: Path | None) -> Iterator[Row]:
    """Memotion 7k (SemEval-2020 task 8) in all circulating forms, in the columns of its `labels.csv`.

    `labels.csv` itself; the files without header, or with broken quotes, whose rows `csv` would merge or shift; those with
    numbers for labels (`merged_txt_*.csv`); and the test gold, as `Labels` (`1_1100_2100`) or as `T1`, `T2`, `T3` with lost
    zeros. The gold's texts are taken from a table beside it that has them.
    """
    table = table or folder / "labels.csv"
    header = next(csv.reader(line for line, _ in marked_lines(table)), [])
    if "img_name" in header:
        yield from _memotion_numbers(table)
    elif {"Labels", "T1"} & set(header):
        yield from _memotion_gold(folder, table)
    elif "image_name" in header:
        yield from delimited_rows(table, ",")
    else:
        yield from _memotion_lines(table)


def _memotion_lines(table: Path) -> Iterator[Row]:
    for number, (line, problem) in enumerate(marked_lines(table), 1):
        line, where = line.strip(), f"{table.name}:{number}"
        if not line or (number == 1 and line.lower().startswith("image_name,")):
            continue
        if problem is not None:
            yield Row(where, {}, problem=problem)
            continue
        found = MEMOTION_LABELS.search(line)
        if found is None:
            yield Row(
                where, {"image_name": line.split(",")[0]}, problem="the line does not end in five Memotion labels"
            )
            continue
        labels = dict(zip(MEMOTION, found.groups(), strict=False))
        cells = next(csv.reader([line]))
        row = Row(where, labels)
        if len(cells) in (9, 10) and cells[4].strip() == labels["humour"]:
            names = ("image_name", "image_url", "text_ocr", "text_corrected")
            row.values |= dict(zip(names, cells, strict=False))
        else:
            row.values |= _memotion_fields(line[: found.start()])
            row.repair = "a stray quote or comma had shifted the columns: fields read from both ends of the line"
        if (rest := found.groups()[-1].strip()) and not rest.startswith(","):
            row.repair = f"{rest!r} after the last label is no part of it: dropped"
        yield row


def _memotion_fields(head: str) -> dict[str, str]:
    """Image name, URL (which ends at its first comma) and the two texts, which hold equally many commas."""
    name, _, rest = head.partition(",")
    url, _, texts = rest.partition(",")
    pieces = texts.split(",")
    half = max(1, len(pieces) // 2)
    ocr, corrected = ",".join(pieces[:half]), ",".join(pieces[half:])
    texts = {"text_ocr": ocr, "text_corrected": corrected}
    return {"image_name": name, "image_url": url.strip('"'), **{key: text.strip(' "') for key, text in texts.items()}}


def _memotion_numbers(table: Path) -> Iterator[Row]:
    for row in delimited_rows(table, ","):
        values = {"image_name": row.values.get("img_name"), "text_corrected": row.values.get("text")}
        columns = MEMOTION_CODES | {"overall_sentiment": "Overall_Sentiment"}
        for label, column in columns.items():
            code = str(row.values.get(column, "")).strip()
            if code.isdigit() and int(code) < len(MEMOTION[label]):
                values[label] = MEMOTION[label][int(code)]
            elif code:
                row.problem = f"{column} is {code!r}, not a number from 0 to {len(MEMOTION[label]) - 1}"
        yield Row(row.where, values, row.repair, row.problem)


def _memotion_gold(folder: Path, gold: Path) -> Iterator[Row]:
    texts = {}
    for path in sorted(folder.glob("*.csv")):
        header = [] if path.name.startswith(".") else next(csv.reader(line for line, _ in marked_lines(path)), [])
        columns = {name.lower(): name for name in header}
        if path != gold and {"image_name", "corrected_text"} <= set(columns):
            for row in delimited_rows(path, ","):
                text = row.values.get(columns["corrected_text"]) or row.values.get(
                    columns.get("ocr_extracted_text", "")
                )
                texts[row.values[columns["image_name"]]] = text
    for row in delimited_rows(gold, ","):
        image = row.values.get("Image_name") or row.values.get("image_name")
        parts = str(row.values.get("Labels", "")).strip().split("_")
        if "T1" in row.values:
            # numbers have lost the zeros that they began with
            parts = [str(row.values["T1"]), str(row.values["T2"]).zfill(4), str(row.values["T3"]).zfill(4)]
            if "" not in (row.values["T2"], row.values["T3"]) and len(str(row.values["T3"])) < 4:
                row.repair = "leading zeros given back"
        values = {"image_name": image, "text_corrected": texts.get(image)}
        problem = row.problem or _gold_problem(parts)
        if problem is None:
            values["overall_sentiment"] = GOLD_SENTIMENT[parts[0]]
            values |= {name: MEMOTION[name][int(d)] for name, d in zip(MEMOTION_CODES, parts[2], strict=True)}
        yield Row(row.where, values, row.repair, problem)


def _gold_problem(parts: list[str]) -> str | None:
    shape = [len(part) for part in parts[1:]]
    if len(parts) != 3 or parts[0] not in GOLD_SENTIMENT or shape != [4, 4] or not "".join(parts[1:]).isdigit():
        return f"{'_'.join(parts)!r} is not sentiment_FOURDIGITS_FOURDIGITS"
    for name, yes, degree in zip(MEMOTION_CODES, parts[1], parts[2], strict=True):
        if int(degree) >= len(MEMOTION[name]) or (yes != "0") != (degree != "0"):
            return f"{name}: task B says {yes} and task C says {degree}"
    return None


HARM_TARGETS = ("individual", "organization", "community", "society")


def harmeme(folder: Path, table: Path | None) -> Iterator[Row]:
    """Harm-C and Harm-P: `labels` is a list, the degree of harm and then whom it aims at.

    Columns `harm` and `target` (a list); the target of a post that is not harmful is left out.
    """
    tables = [table] if table else [folder / f"{name}.jsonl" for name in ("train", "val", "test")]
    for path in _existing(folder, tables):
        for row in json_lines(path):
            labels = row.values.pop("labels", None) or [""]
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                row.problem, labels = row.problem or "labels are no list of names", [""]
            harm, targets = labels[0].strip(), labels[1:]
            row.values |= {"split": path.stem, "harm": harm or None, "target": targets or None}
            if not harm:
                row.repair = "the degree of harm is empty: taken as missing"
            elif harm == "not harmful" and targets:
                row.values["target"], row.repair = (
                    None,
                    f"not harmful, yet aimed at {', '.join(targets)}: target left out",
                )
            yield row


MET_MEME_CODES = {
    "sentiment": ("sentiment category", ("happiness", "love", "anger", "sorrow", "fear", "hate", "surprise"), 1),
    "sentiment_degree": ("sentiment degree", ("slightly", "moderately", "very"), 1),
    "intention": ("intention detection", ("interactive", "expressive", "entertaining", "offensive", "other"), 1),
    "offensiveness": ("offensiveness detection", ("non-offensive", "slightly", "moderately", "very"), 0),
    "metaphor": ("metaphor occurrence", ("literal", "metaphorical"), 0),
}
MET_MEME_CODE = re.compile(r"([0-9]{1,3})(?:\((.*)\))?")
MET_MEME_WORDS = {"表达情感": "expressive"}


def met_meme(folder: Path, table: Path | None) -> Iterator[Row]:
    """MET-Meme: `label_E.csv` and `label_C.csv` with `E_text.csv` and `C_text.csv`, in GB 18030, codes such as `6(hate)`."""
    tables = [table] if table else [folder / "label_E.csv", folder / "label_C.csv"]
    for path in _existing(folder, tables):
        letter = path.stem[-1]
        texts, several = {}, set()
        for row in delimited_rows(folder / f"{letter}_text.csv", ",", "gb18030"):
            name, text = list(row.values.values())[:2]
            if texts.setdefault(name, text) != text:
                several.add(name)
        for row in delimited_rows(path, ",", "gb18030"):
            absent = [column for column, *_ in MET_MEME_CODES.values() if column not in row.values]
            if absent and not row.problem:
                raise ValueError(f"{path.name} has no column {absent[0]!r}; it has {', '.join(map(repr, row.values))}")
            name = next(iter(row.values.values()))
            values = {"image_name": name, "text": texts.get(name), "language": {"E": "en", "C": "zh"}.get(letter)}
            for label, (column, names, first) in MET_MEME_CODES.items():
                value = str(row.values.get(column, "")).strip()
                code = MET_MEME_CODE.fullmatch(value)
                if value in MET_MEME_WORDS:
                    row.repair = f"{column} is {value!r}: read as {MET_MEME_WORDS[value]!r}"
                    values[label] = MET_MEME_WORDS[value]
                elif code and 0 <= int(code[1]) - first < len(names) and code[2] in (None, names[int(code[1]) - first]):
                    values[label] = names[int(code[1]) - first]
                elif value:
                    codes = ", ".join(f"{number}({name})" for number, name in enumerate(names, first))
                    row.problem = f"{column} is {value!r}, none of {codes}"
            if name in several:
                row.problem = f"{letter}_text.csv has several texts of {name}"
            yield Row(row.where, values, row.repair, row.problem)


MMHS_LABELS = ("not_hate", "racist", "sexist", "homophobe", "religion", "other_hate")


def mmhs150k(folder: Path, table: Path | None) -> Iterator[Row]:
    """MMHS150K: `MMHS150K_GT.json`, `splits/*_ids.txt`, `img_resized/`, and the pictures' texts in `img_txt/`.

    `hate` is what two of the three annotators say, missing where all differ; `hateful` whether two see any hate.
    """
    table = table or folder / "MMHS150K_GT.json"
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such file; MMHS150K keeps its labels there")
    splits: dict[str, list[str]] = {}
    for path in sorted((folder / "splits").glob("*_ids.txt")):
        for line in filter(None, map(str.strip, lines_of(path))):
            splits.setdefault(line, []).append(path.name.removesuffix("_ids.txt"))
    for name, tweet in _json_object(table).items():
        if not isinstance(tweet, dict):
            yield Row(f"{table.name}[{name}]", {"id": name}, problem=f"must be an object, got {type(tweet).__name__}")
            continue
        # the table names no file that lies elsewhere
        votes, on_picture = tweet.get("labels", []), folder / "img_txt" / f"{Path(name).name}.json"
        values = {
            "id": name,
            "image": f"{name}.jpg",
            "text": tweet.get("tweet_text"),
            "split": splits.get(name, ["train"])[0],
        }
        row = Row(f"{table.name}[{name}]", values)
        if is_regular(on_picture):
            try:
                values["picture_text"] = _json_object(on_picture).get("img_text")
            except ValueError as error:
                row.problem = str(error)
        if (
            not isinstance(votes, list)
            or len(votes) != 3
            or not all(isinstance(vote, int) and 0 <= vote < len(MMHS_LABELS) for vote in votes)
        ):
            row.problem = f"labels are {votes!r}, not three numbers from 0 to {len(MMHS_LABELS) - 1}"
        else:
            (most, count), hateful = Counter(votes).most_common(1)[0], sum(vote > 0 for vote in votes)
            values["hate"] = MMHS_LABELS[most] if count > 1 else None
            values["hateful"] = "hateful" if hateful > 1 else "not_hateful"
            if count == 1:
                row.repair = "three annotators, three labels: hate is missing"
        if len(said := dict.fromkeys(splits.get(name, ()))) > 1:
            row.problem = f"it is in the lists of {' and '.join(said)}"
        if name not in splits and splits:
            row.repair = "in no list of splits: taken for training"
        yield row


MAMI_LABELS = ("misogynous", "shaming", "stereotype", "objectification", "violence")


def mami(folder: Path, table: Path | None) -> Iterator[Row]:
    """MAMI (SemEval-2022 task 5): tab-separated `training.csv`, `trial.csv`, and `Test.csv` with its labels in
    `test_labels.txt` without header."""
    tables = (
        [table]
        if table
        else [p for p in sorted(folder.glob("*.csv")) if p.stem.lower() in ("training", "trial", "test")]
    )
    gold, contradicted = {}, set()
    for path in folder.glob("*labels*.txt"):
        for line in lines_of(path):
            name, *values = line.rstrip("\r\n").split("\t")
            if gold.setdefault(name, values) != values:
                contradicted.add(name)
    for path in _existing(folder, tables):
        for row in delimited_rows(path, "\t"):
            values = {"text": row.values.get("Text Transcription"), "image": row.values.get("file_name")}
            values["split"] = "test" if path.stem.lower() == "test" else "train"
            labels, problem = {name: row.values[name] for name in MAMI_LABELS if name in row.values}, row.problem
            if not labels and gold:
                found = gold.get(values["image"])
                if found is None or len(found) != len(MAMI_LABELS):
                    what = "no line" if found is None else f"{len(found)} labels instead of {len(MAMI_LABELS)}"
                    problem = problem or f"the labels' file has {what} for {values['image']!r}"
                if values["image"] in contradicted:
                    problem = problem or f"the labels' file has lines that differ for {values['image']!r}"
                labels = dict(zip(MAMI_LABELS, found or (), strict=False))
            for name in MAMI_LABELS:
                value = str(labels.get(name, "")).strip()
                if value and value not in ("0", "1"):
                    problem = f"{name} is {value!r}, neither 0 nor 1"
                values[name] = {"0": f"not_{name}", "1": name}.get(value)
            yield Row(row.where, values, row.repair, problem)


def _json_object(path: Path) -> dict:
    """A JSON file's object. Raises ValueError where it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: must be an object, got {type(content).__name__}")
    return content


def _existing(folder: Path, tables: list[Path]) -> list[Path]:
    found = [path for path in tables if path.is_file()]
    if not found:
        raise FileNotFoundError(f"{folder}: none of {', '.join(path.name for path in tables) or 'its tables'} is there")
    return found


READERS: dict[str, Callable[[Path, Path | None], Iterator[Row]]] = {
    "memotion": memotion,
    "harmeme": harmeme,
    "met_meme": met_meme,
    "mmhs150k": mmhs150k,
    "mami": mami,
}
