"""From what a table says to tasks and labels."""

import math
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from modeling_mm_orient.data.labels import RESERVED_TASK_NAMES, is_missing
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import account_for_rows, read_posts
from modeling_mm_orient.tasks import MULTI_LABEL

from .helpers import ROWS, describe, write_folder


@pytest.mark.parametrize(
    "cells, labels",
    [
        (["1.0", "0", "1"], ["0", "1"]),  # one class by two names: all are plain numbers
        (["-1.0", "10", "2"], ["-1", "2", "10"]),
        (["1.0", "0", "none"], ["0", "1.0", "none"]),  # a name among them: what stands there is the name
        (["01", "1", "2"], ["1", "2", "01"]),
        (["1e3", "1000", "2"], ["2", "1000", "1e3"]),
        (["²", "٣", "x"], ["x", "²", "٣"]),
        (["inf", "nan", "1"], ["1", "inf"]),
        (["True", "False", "true"], ["False", "True", "true"]),
    ],
)
def test_a_class_is_called_what_stands_there_but_plain_numbers_are_numbers(tmp_path, cells, labels):
    rows = [row | {"mood": cells[i % 3]} for i, row in enumerate(ROWS)]
    posts, tasks, _ = read_posts(describe(write_folder(tmp_path / "d", rows)))
    assert tasks == [{"name": "mood", "kind": "single_label", "labels": labels}]
    numbers = {cell: posts["train"]["label.mood"][i] for i, cell in enumerate(cells)}
    for cell, number in numbers.items():
        assert (number is None) == is_missing(cell)
        if number is not None:
            assert labels[number] == cell or float(labels[number]) == float(cell)


def test_multi_label_lists(tmp_path):
    rows = [row | {"mood": [["sad"], ["sad", "angry"], []][i % 3]} for i, row in enumerate(ROWS)]
    posts, tasks, _ = read_posts(describe(write_folder(tmp_path / "d", rows, "posts.jsonl")))
    assert tasks == [{"name": "mood", "kind": "multi_label", "labels": ["angry", "sad"]}]
    assert posts["train"]["label.mood"][:3] == [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("labels", [["a", "b", "a|b"], ["a", "b", "c"]])
def test_several_labels_in_a_cell_of_predictions_are_read_back(tmp_path, labels):
    task = {"name": "mood", "kind": "multi_label", "labels": labels}
    wanted = [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    cells = [MULTI_LABEL.cell(task, dict(zip(labels, row, strict=True))) for row in wanted]
    rows = [row | {"mood": cells[i % 3]} for i, row in enumerate(ROWS)]
    posts, _, _ = read_posts(describe(write_folder(tmp_path / "d", rows), tasks=[task]))
    assert posts["train"]["label.mood"][:3] == wanted
    rows = [row | {"mood": labels[2]} for row in ROWS]
    posts, _, _ = read_posts(describe(write_folder(tmp_path / "e", rows), tasks=[task]), training=False)
    assert posts["train"]["label.mood"][0] == [0.0, 0.0, 1.0]


def test_numbers_that_single_precision_cannot_tell_apart_are_refused(tmp_path):
    rows = [row | {"mood": 1_700_000_000 + 7 * i} for i, row in enumerate(ROWS)]
    with pytest.raises(
        DataProblems, match="column 'mood': its values differ by less than single precision tells apart"
    ):
        read_posts(describe(write_folder(tmp_path / "d", rows), regression_columns=["mood"]), skip_bad_posts=True)
    for values in ([2001 + i for i in range(10)], [0.1] * 9 + [0.3], [1e9 * i for i in range(10)]):
        rows = [row | {"mood": value} for row, value in zip(ROWS, values, strict=True)]
        read_posts(describe(write_folder(tmp_path / "d", rows), regression_columns=["mood"]), training=False)


@pytest.mark.parametrize(
    "cells, said",
    [
        (["Sad", "sad", "glad"], "'Sad', 'sad'"),
        (["caf\u00e9", "cafe\u0301", "tea"], r"'cafe\u0301', 'caf\xe9'"),
        (["a  b", "a b", "c"], "'a  b', 'a b'"),
        (["a", "b", "c"], None),
    ],
)
def test_labels_that_look_alike_are_told(tmp_path, caplog, cells, said):
    rows = [row | {"mood": cells[i % 3]} for i, row in enumerate(ROWS)]
    _, tasks, _ = read_posts(describe(write_folder(tmp_path / "d", rows)))
    assert tasks[0]["labels"] == sorted(cells)
    assert (said or "") in caplog.text and ("a class of its own" in caplog.text) == (said is not None)


def test_numbers_are_classes_in_numeric_order(tmp_path):
    rows = [row | {"mood": [10, 2.0, "9"][i % 3]} for i, row in enumerate(ROWS)]
    _, tasks, _ = read_posts(describe(write_folder(tmp_path / "d", rows)))
    assert tasks[0]["labels"] == ["2", "9", "10"]


def test_known_labels_that_look_like_numbers_keep_their_names(tmp_path):
    rows = [row | {"mood": ["01", "2.0", "inf"][i % 3]} for i, row in enumerate(ROWS)]
    folder = write_folder(tmp_path / "d", rows)
    posts, _, _ = read_posts(
        describe(folder, tasks=[{"name": "mood", "labels": ["01", "2.0", "inf"], "kind": "single_label"}])
    )
    assert posts["train"]["label.mood"] == [0, 1, 2, 0, 1, 2]


def test_label_maps_and_columns(tmp_path):
    description = describe(
        write_folder(tmp_path / "d"), labels=["feeling"], label_columns={"feeling": "mood"},
        label_maps={"feeling": {"sad": "low", "happy": "high"}}, tasks=[{"name": "feeling", "labels": ["low", "high"]}],
    )  # fmt: skip
    posts, tasks, _ = read_posts(description)
    assert posts["train"]["label.feeling"] == [0, 1, 0, 1, 0, 1] and tasks[0]["labels"] == ["low", "high"]


def test_reserved_task_names(tmp_path):
    with pytest.raises(ValueError, match="cannot be called 'text'"):
        read_posts(describe(write_folder(tmp_path / "d"), labels=["text"]))
    guide = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in guide.partition("called anything but")[2][:500] for name in RESERVED_TASK_NAMES)


def test_a_list_among_single_labels_and_numbers_of_any_length(tmp_path):
    rows = [row | {"mood": [["sad", "angry"], 3, "sad"][i % 3]} for i, row in enumerate(ROWS)]
    _, tasks, _ = read_posts(describe(write_folder(tmp_path / "d", rows, "posts.jsonl")))
    assert tasks[0] == {"name": "mood", "kind": "multi_label", "labels": ["3", "angry", "sad"]}
    rows = [row | {"mood": [10**400, 1][i % 2]} for i, row in enumerate(ROWS)]
    _, tasks, _ = read_posts(describe(write_folder(tmp_path / "e", rows, "posts.jsonl")))
    assert tasks[0]["labels"] == ["1", str(10**400)]


def test_a_number_that_single_precision_does_not_hold_is_named(tmp_path):
    rows = [row | {"score": [0.5, 1e200][i == 3]} for i, row in enumerate(ROWS)]
    with pytest.raises(DataProblems, match=r"labels\.csv:5: score is '1e\+200', not a number"):
        read_posts(describe(write_folder(tmp_path / "d", rows), labels=["score"]))


def test_a_column_without_any_label_is_accounted_for(tmp_path):
    rows = [row | {"mood": ""} for row in ROWS]
    found = account_for_rows(describe(write_folder(tmp_path / "d", rows)))
    assert found["read"] == len(ROWS) and found["labels"] == {"mood": {}}


def labels_of(folder, values, **fields):
    """Of a Parquet file with these labels, as names, or what is wrong."""
    columns = {"text": [f"text {n}" for n in range(len(values))], "mood": values}
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), folder / "posts.parquet")
    try:
        posts, tasks, _ = read_posts(
            describe(folder, split_column=None, **fields), training=False, split_at_random=False
        )
    except DataProblems as problems:
        return [problem.what for problem in problems.problems]
    task, values = tasks[0], posts["all"]["label.mood"]
    return [task["labels"][value] if task["kind"] == "single_label" else value for value in values]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([2**53, 2**53 + 1, 2**53 + 2]), ["9007199254740992", "9007199254740993", "9007199254740994"]),
        (pa.array([2**64 - 1, 2**64 - 2, 1], pa.uint64()), ["18446744073709551615", "18446744073709551614", "1"]),
        (["9007199254740993.0", "9007199254740992", "-0"], ["9007199254740993", "9007199254740992", "0"]),
        (pa.array([b"sad", b"joy", b"sad"]), ["sad", "joy", "sad"]),
        (pa.array([Decimal("0.00"), Decimal("1.00"), Decimal("1.00")], pa.decimal128(5, 2)), ["0", "1", "1"]),
        (pa.array([Decimal("0.25"), Decimal("1.50"), Decimal("3.00")], pa.decimal128(5, 2)), [0.25, 1.5, 3.0]),
        (pa.array([0.5, 1.5, math.inf]), ["mood is inf, no number"]),
        (["0.5", "1.5", "-inf"], ["mood is -inf, no number"]),
        (pa.array([["joy", None], ["sad"], ["joy"]]), ["mood is a list with an entry that says nothing"]),
        (['["joy", ""]', '["sad"]', '["joy"]'], ["mood is a list with an entry that says nothing"]),
        (pa.array([{"a": 1}, {"a": 2}, {"a": 1}]), ["mood is {a}, no label"] * 3),
        (pa.array([[["x"]], [["y"]], [["x"]]]), ["mood is a list with (a list of 1), no label"] * 3),
        (pa.array([b"\xff\xfe", b"joy", b"sad"]), ["mood is (2 bytes), no label"]),
    ],
)
def test_what_a_parquet_file_says_is_what_is_learned(tmp_path, values, expected):
    assert labels_of(tmp_path / "d", values) == expected


def test_a_list_of_declared_classes_says_which_it_does_not_know(tmp_path):
    classes = datasets.Sequence(datasets.ClassLabel(names=["joy", "sad"]))
    features = datasets.Features({"text": datasets.Value("string"), "mood": classes})
    rows = {"text": ["a", "b", "c"], "mood": [[0], [1, -1], [0, 1]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    with pytest.raises(DataProblems, match=r"all\[1\]: mood is .*, not one of joy, sad"):
        read_posts(describe(tmp_path / "d", split_column=None), training=False, split_at_random=False)


def test_columns_that_a_format_leaves_out_are_read(tmp_path):
    rows = {"id": ["x", "y"], "text": ["a", "b"], "mood": ["joy", "sad"]}
    datasets.Dataset.from_dict(rows).with_format("torch", columns=["mood"]).save_to_disk(tmp_path / "d")
    posts, _, _ = read_posts(describe(tmp_path / "d", split_column=None), training=False, split_at_random=False)
    assert posts["all"]["text"] == ["a", "b"] and posts["all"]["id"] == ["x", "y"]


def test_splits_and_ids_in_binary_columns(tmp_path):
    table = {"id": [b"x", b"y"], "text": [b"a", b"b"], "mood": [b"joy", b"sad"], "split": [b"train", b"test"]}
    (tmp_path / "d").mkdir()
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "d" / "posts.parquet")
    posts, _, _ = read_posts(describe(tmp_path / "d", split_column=None, image_column=None), training=False)
    assert posts["train"]["id"] == ["x"] and posts["test"]["id"] == ["y"]


@pytest.mark.parametrize("name", ["text", "mood"])
def test_a_column_that_stands_twice_is_refused(tmp_path, name):
    (tmp_path / "d").mkdir()
    columns = [pa.array(values) for values in (["a", "b"], ["joy", "sad"], ["c", "d"])]
    pyarrow.parquet.write_table(pa.table(columns, names=["text", "mood", name]), tmp_path / "d" / "posts.parquet")
    with pytest.raises(ValueError, match=rf"posts\.parquet: the column '{name}' stands there twice"):
        read_posts(describe(tmp_path / "d", split_column=None), training=False)
