"""Tasks, texts and numbers made of several columns: read, trained, evaluated, and predicted on new posts."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientProcessor
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import account_for_rows, read_posts
from modeling_mm_orient.numeric_columns import fitted_columns, standardised
from modeling_mm_orient.runs.endpoint_handler import EndpointHandler
from modeling_mm_orient.runs.report.contents import label_counts_by_split

from .helpers import describe, write_folder

ROWS = [
    {
        "image": f"{i}.png", "title": f"title {i}", "body": "" if i % 3 else f"body {i}", "split": split,
        "joy": i % 2, "sadness": (i // 2) % 2, "likes": i * 10, "shares": "" if i == 3 else i % 4,
    }
    for i, split in enumerate(["train"] * 8 + ["val"] * 4 + ["test"] * 4)
]  # fmt: skip
GROUP = {"labels": ["emotions=joy,sadness"], "text_column": ["title", "body"]}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "posts", ROWS)


def test_columns_of_0_and_1_are_one_task(folder):
    posts, tasks, _ = read_posts(describe(folder, **GROUP))
    assert tasks == [{"name": "emotions", "kind": "multi_label", "labels": ["joy", "sadness"]}]
    assert posts["train"]["label.emotions"][:4] == [[0, 0], [1, 0], [0, 1], [1, 1]]
    account = account_for_rows(describe(folder, **GROUP))
    assert account["labels"]["emotions"] == {"joy": 8, "sadness": 8}


def test_a_cell_of_a_group_may_miss_but_not_be_anything(tmp_path):
    rows = [row | {"joy": {0: "", 1: "True", 2: "no"}.get(i, row["joy"])} for i, row in enumerate(ROWS)]
    rows[4] |= {"joy": "nan", "sadness": ""}
    posts, *_ = read_posts(describe(write_folder(tmp_path / "a", rows), **GROUP))
    first, second, third, _, fifth, *_ = posts["train"]["label.emotions"]
    assert math.isnan(first[0]) and first[1] == 0 and second == [1, 0] and third == [0, 1] and fifth is None
    rows[2]["joy"] = "maybe"
    with pytest.raises(DataProblems, match=r"labels.csv:4: joy is 'maybe', not 0 or 1"):
        read_posts(describe(write_folder(tmp_path / "b", rows), **GROUP))


def test_a_group_with_an_empty_cell_is_trained_on(tmp_path):
    rows = [row | {"joy": "" if i in (1, 9, 13) else row["joy"]} for i, row in enumerate(ROWS)]
    folder, run = write_folder(tmp_path / "posts", rows), tmp_path / "run"
    command = ["train", "--data", folder, "--labels", "emotions=joy,sadness", "--text-column", "title", "--epochs", 1]
    assert main([*map(str, command), "--output", str(run)]) == 0
    assert read_json(run / "metrics.json")["test"]["emotions"]["posts"] == 3
    posts, tasks, _ = read_posts(describe(folder, **GROUP))
    counts = label_counts_by_split(posts, tasks)["emotions"]
    assert counts["train"] == {"joy": 3, "sadness": 4, "": 0} and counts["test"] == {"joy": 1, "sadness": 2, "": 0}


@pytest.mark.parametrize("said", ["emotions=joy", "=joy,sadness", "emotions=joy,,x", "emotions=joy,joy"])
def test_a_group_that_is_none_is_refused(folder, said):
    with pytest.raises(ValueError, match="TASK=COLUMN,COLUMN"):
        describe(folder, labels=[said])


def test_whole_numbers_are_numbers_where_asked(folder):
    description = describe(
        folder, labels=["joy"], regression_columns=["likes"], text_column="title"
    ).with_numbers_as_tasks()
    posts, tasks, _ = read_posts(description)
    assert [task["kind"] for task in tasks] == ["single_label", "regression"]
    assert posts["train"]["label.likes"][:3] == [0, 10, 20]
    rows = [*ROWS, ROWS[0] | {"image": "", "likes": "many"}]
    with pytest.raises(DataProblems, match="likes is 'many', not a number"):
        read_posts(
            describe(write_folder(folder, rows), labels=["likes"], regression_columns=["likes"], text_column="title")
        )


def test_several_texts_stand_under_their_names_or_the_first_counts(folder):
    joined, *_ = read_posts(describe(folder, **GROUP, join_texts=True))
    assert joined["train"]["text"][:2] == ["title: title 0\nbody: body 0", "title: title 1"]
    first, *_ = read_posts(describe(folder, **GROUP))
    assert first["train"]["text"][:2] == ["title 0", "title 1"]


def test_numbers_are_standardised_by_what_is_there():
    columns = fitted_columns(
        ["likes", "shares", "none"], [[0, 1, math.nan], [10, math.nan, math.nan], [20, 3, math.nan]]
    )
    assert [entry["mean"] for entry in columns] == [10, 2, 0] and columns[2]["std"] == 1
    rows = standardised([{"likes": 20}, None, [1e9, 2, None]], columns)
    spread = (200 / 3) ** 0.5
    assert rows.dtype == torch.float32
    assert torch.allclose(rows[0], torch.tensor([10 / spread, 0, 0, 0, 1, 1]))
    assert rows[1].tolist() == [0, 0, 0, 1, 1, 1] and rows[2].tolist() == [10, 0, 0, 0, 0, 1]
    too_large = [math.inf, "1e999", 10**400, 1e39]
    wrongs = [({"like": 1}, "'like'"), ([1], "must be 3 numbers"), (["x", 1, 2], "must be numbers")]
    wrongs += [({"shares": value}, "must be numbers.*'shares' is larger") for value in too_large]
    wrongs += [("123", "must be numbers by name"), (3, "must be numbers by name")]
    for wrong, message in wrongs:
        with pytest.raises(ValueError, match=message):
            standardised([wrong], columns)


def test_numbers_that_are_none_are_problems_and_missing_ones_are_counted(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    read_posts(describe(folder, **GROUP, numeric_columns=["likes", "shares"]))
    assert "1 of 16 posts say nothing in the column 'shares'" in caplog.text
    rows = [ROWS[0] | {"likes": "lots"}, *ROWS[1:]]
    with pytest.raises(DataProblems, match=r"labels.csv:2: likes is 'lots', not a number"):
        read_posts(describe(write_folder(tmp_path / "b", rows), **GROUP, numeric_columns=["likes"]))
    with pytest.raises(ValueError, match="no column views"):
        read_posts(describe(folder, **GROUP, numeric_columns=["views"]))


def test_large_numbers_keep_their_last_digits(tmp_path):
    rows = [row | {"likes": 1_700_000_000 + 7 * i} for i, row in enumerate(ROWS)]
    posts, *_ = read_posts(describe(write_folder(tmp_path / "a", rows), **GROUP, numeric_columns=["likes"]))
    assert posts["train"]["numbers"] == [[1_700_000_000 + 7 * i] for i in range(8)]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_on_all_of_it_and_new_posts(folder, tmp_path, frozen, capsys, caplog):
    from .helpers import save_encoders

    run, options = tmp_path / "run", save_encoders(tmp_path) if frozen else []
    command = ["train", "--data", folder, "--labels", "emotions=joy,sadness", "--regression", "likes", "--output", run]
    command += [
        "--text-column",
        "title",
        "body",
        "--join-texts",
        "--numeric-columns",
        "shares",
        "--epochs",
        "1",
        *options,
    ]
    assert main([*map(str, command), "--feature-cache", str(tmp_path / "cache"), "--split-column", "split"]) == 0
    processor, model = MMOrientProcessor.from_pretrained(run), MMOrientForMultiTaskClassification.from_pretrained(run)
    known = [row["shares"] for row in ROWS[:8] if row["shares"] != ""]
    assert processor.numeric_columns[0]["mean"] == pytest.approx(sum(known) / len(known))
    assert model.config.task_features == [{"name": "numbers", "size": 2}]
    assert main(["evaluate", str(run), "--data", str(folder), "--feature-cache", str(tmp_path / "cache")]) == 0
    assert "| emotions | model |" in capsys.readouterr().out
    found = {}
    for shares in ("0", "3", "nan"):
        new = tmp_path / f"new{shares}"
        new.mkdir()
        with (new / "posts.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image", "title", "body", "shares"], ["", "hello", "", shares]])
        output = tmp_path / f"{shares}.jsonl"
        assert main(["predict", str(run), "--data", str(new), "--output", str(output)]) == 0
        found[shares] = json.loads(output.read_text())
        assert set(found[shares]["emotions"]) == {"joy", "sadness"} and isinstance(found[shares]["likes"], float)
    assert found["0"] != found["3"]
    assert processor(text=["title: hello"], return_tensors="np")["task_features"].dtype == np.float32
    assert main(["export", str(run), "--output", str(tmp_path / "hub"), "--endpoint"]) == 0
    answers = EndpointHandler(str(tmp_path / "hub"))(
        {"inputs": [{"text": "title: hello", "numbers": {"shares": 3}}, {"text": "title: hello"}]}
    )
    assert [answer["likes"] for answer in answers] == pytest.approx([found[s]["likes"] for s in ("3", "nan")], abs=1e-3)
    inputs = processor(text=["title: hello"], numbers=[{"shares": 3}], return_tensors="pt")
    value = float(model.eval()(**inputs).logits["likes"][0])
    assert value == pytest.approx(found["3"]["likes"], abs=1e-3)
    command = ["explain", str(run), "--post", "none", "title: hello", "--output", str(tmp_path / "why.json")]
    for numbers, said in (["--numbers", "shares=3"], "3"), ([], "nan"):
        caplog.clear()
        assert main([*command, *numbers]) == 0
        verdict = read_json(tmp_path / "why.json")["verdict"]
        assert verdict["likes"] == pytest.approx(found[said]["likes"], abs=1e-3)
        assert ("shares are missing" in caplog.text) == (not numbers)
    assert main([*command, "--numbers", "shares=x"]) == 1 and "'shares' is 'x'" in capsys.readouterr().err
