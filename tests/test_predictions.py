import csv
import json

import datasets
import pyarrow.parquet
import pytest
import torch

from modeling_mm_orient.cli import main
from modeling_mm_orient.runs.predictions import (
    WRITERS,
    harmless,
    prediction_columns,
    prediction_lines,
)

from .helpers import TASKS, save_run, write_folder


@pytest.mark.parametrize(
    "cell, written",
    [
        ("=1+1.png", "'=1+1.png"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+49 170", "'+49 170"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("\t=1", "'\t=1"),
        ("-12", "-12"),
        ("+3.5", "+3.5"),
        ("a=b", "a=b"),
        (-0.5, -0.5),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(cell, written):
    assert harmless(cell) == written


def test_a_table_of_predictions_has_no_formulas(tmp_path):
    logits = {"offensive": torch.randn(2, 2), "emotions": torch.randn(2, 3), "intensity": torch.tensor([-1.0, 2.0])}
    tasks = [{"kind": "single_label", "labels": [], **task} for task in TASKS]
    lines = prediction_lines(["=HYPERLINK()", "ok"], logits, tasks)
    WRITERS[".csv"](tmp_path / "p.csv", lines, tasks, prediction_columns(tasks))
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["'=HYPERLINK()", "ok"]
    assert float(rows[0]["intensity"]) == -1.0


@pytest.mark.parametrize(
    "tasks",
    [
        [{"name": "a", "labels": ["b", "c"]}, {"name": "a:b", "labels": ["x", "y"]}],
        [{"name": "a", "labels": ["b", "c:d"]}, {"name": "a:c", "labels": ["d", "e"]}],
    ],
)
def test_two_columns_of_one_name_are_refused(tasks):
    with pytest.raises(ValueError, match="two columns 'a:"):
        prediction_columns(tasks)
    lines = prediction_lines(["1"], {task["name"]: torch.zeros(1, 2) for task in tasks}, tasks)
    assert next(iter(lines))["a"] == dict.fromkeys(tasks[0]["labels"], 0.5)  # lines have no columns


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_no_label_and_left_to_a_person_are_told_apart(tmp_path, kind):
    doubts = [0.0, 0.2, 0.5]
    tasks = [
        {"name": "tags", "kind": "multi_label", "labels": ["a", "b"], "doubts": doubts},
        {"name": "mood", "kind": "single_label", "labels": ["x", "y"], "doubts": doubts},
    ]
    logits = {"tags": torch.tensor([[-9.0, -9.0], [0.0, 0.0]]), "mood": torch.tensor([[9.0, 0.0], [0.0, 0.0]])}
    path = tmp_path / f"p{kind}"
    lines = prediction_lines(["sure", "doubtful"], logits, tasks, 0.5)
    WRITERS[kind](path, lines, tasks, prediction_columns(tasks, abstains=True))
    if kind == ".csv":
        sure, doubtful = csv.DictReader(path.open(newline=""))
    else:
        sure, doubtful = pyarrow.parquet.read_table(path).to_pylist()
    assert (sure["tags"], sure["mood"], sure["abstained"]) == ("", "x", "")
    assert not doubtful["tags"] and not doubtful["mood"] and doubtful["abstained"] == "tags|mood"


def test_a_verdict_that_is_no_number_is_an_error():
    tasks = [{"name": "mood", "kind": "single_label", "labels": ["x", "y"]}]
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="second: no finite number comes out for 'mood'"):
            list(prediction_lines(["first", "second"], {"mood": torch.tensor([[0.0, 1.0], [0.0, value]])}, tasks))


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_post_without_an_id_is_called_the_same_in_a_stream(tmp_path, form):
    run = save_run(tmp_path / "run")
    ids = [None, 3, "0", None, "posts.jsonl:1"]
    rows = [{"text": f"text {n}"} | ({} if name is None else {"id": name}) for n, name in enumerate(ids)]
    if form == "csv":
        rows = [{"id": ""} | row for row in rows]
    folder = write_folder(tmp_path / "d", rows, f"posts.{form}", pictures=False)
    found = {}
    for way in ((), ("--streaming",)):
        output = tmp_path / f"{len(way)}.jsonl"
        assert main(["predict", str(run), "--data", str(folder), "--output", str(output), *way]) == 0
        found[way] = [json.loads(line)["id"] for line in output.read_text().splitlines()]
    expected = [f"posts.{form}:{2 if form == 'csv' else 1}", "3", "0", f"posts.{form}:{5 if form == 'csv' else 4}"]
    if form == "jsonl":  # somebody's own name is the place of another: the whole pass tells them apart
        assert found["--streaming",] == [*expected, "posts.jsonl:1"]
        expected[0] += "'"
    assert found[()] == [*expected, "posts.jsonl:1"]


def test_posts_of_several_parts_have_names_of_their_own_in_a_stream(tmp_path):
    run = save_run(tmp_path / "run")
    parts = {part: [{"id": str(i), "text": f"{part} {i}"} for i in range(2)] for part in ("train", "test")}
    datasets.DatasetDict({part: datasets.Dataset.from_list(rows) for part, rows in parts.items()}).save_to_disk(
        tmp_path / "d"
    )
    found = {}
    for way in ((), ("--streaming",)):
        output = tmp_path / f"{len(way)}.jsonl"
        assert main(["predict", str(run), "--data", str(tmp_path / "d"), "--output", str(output), *way]) == 0
        found[way] = [json.loads(line)["id"] for line in output.read_text().splitlines()]
    assert found[()] == found["--streaming",] == ["0", "1", "test/0", "test/1"]
