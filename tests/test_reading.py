from io import BytesIO
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import read_posts, read_split

from .helpers import ROWS, describe, write_folder


def problems_of(description, **options) -> list[tuple[str, str]]:
    with pytest.raises(DataProblems) as caught:
        read_posts(description, **options)
    for problem in caught.value.problems:
        assert problem.where in str(caught.value) and problem.what in str(caught.value)
    return sorted((problem.where, problem.kind) for problem in caught.value.problems)


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "posts.jsonl"])
def test_tables(tmp_path, name):
    posts, tasks, left_out = read_posts(describe(write_folder(tmp_path / "d", name=name), labels=["mood", "score"]))
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 6, "validation": 2, "test": 2}
    assert tasks == [
        {"name": "mood", "kind": "single_label", "labels": ["happy", "sad"]},
        {"name": "score", "kind": "regression", "labels": []},
    ]
    first = posts["train"][1]
    assert (first["id"], first["text"], first["label.mood"], first["label.score"]) == ("1.png", "caption 1", 0, 0.25)
    assert Path(first["image"]["path"]).is_file() and left_out == []
    assert posts["train"].features["label.mood"].names == ["happy", "sad"]


def test_all_problems_at_once_with_file_and_row(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[1]["image"] = "2.png"  # the id of the next row
    rows[4]["mood"] = "angry"
    rows[7]["split"] = "holdout"
    rows[8] |= {"image": "", "text": ""}
    folder = write_folder(tmp_path / "d", rows)
    (folder / "images" / "3.png").unlink()
    (folder / "images" / "5.png").write_bytes(b"no picture")
    with (folder / "labels.csv").open("a") as file:
        file.write('99.png,"two\nlines",train\n')
    description = describe(folder, tasks=[{"name": "mood", "labels": ["sad", "happy"]}])
    assert problems_of(description) == [
        ("labels.csv:10", "empty post"),
        ("labels.csv:12", "malformed row"),
        ("labels.csv:12", "missing image"),
        ("labels.csv:4", "duplicate id"),
        ("labels.csv:5", "missing image"),
        ("labels.csv:6", "unknown label"),
        ("labels.csv:7", "unreadable image"),
        ("labels.csv:9", "unknown split"),
    ]


def test_bad_posts_can_be_left_out_and_are_reported(tmp_path):
    folder = write_folder(tmp_path / "d")
    (folder / "images" / "2.png").write_bytes(b"no picture")
    posts, _, left_out = read_posts(describe(folder), skip_bad_posts=True)
    assert "2.png" not in posts["train"]["id"] and len(posts["train"]) == 5
    assert [(problem.where, problem.kind) for problem in left_out] == [("labels.csv:4", "unreadable image")]


def test_single_class_is_a_problem_of_the_column(tmp_path):
    rows = [row | {"mood": "sad"} for row in ROWS]
    description = describe(write_folder(tmp_path / "d", rows))
    assert (
        problems_of(description) == problems_of(description, skip_bad_posts=True) == [("column 'mood'", "single class")]
    )


def test_evaluation_takes_a_single_class(tmp_path):
    rows = [row | {"mood": "sad"} for row in ROWS]
    description = describe(write_folder(tmp_path / "d", rows), tasks=[{"name": "mood", "labels": ["happy", "sad"]}])
    posts, _, _ = read_posts(description, training=False)
    assert set(posts["test"]["label.mood"]) == {1}


def test_pictures_are_found_by_a_name_that_is_unique_below_the_folder(tmp_path):
    folder = write_folder(tmp_path / "d")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "images" / "0.png").rename(folder / "deep" / "er" / "0.png")
    (folder / "images" / "1.png").rename(folder / "deep" / "1.png")
    (folder / "deep" / "er" / "1.png").write_bytes((folder / "deep" / "1.png").read_bytes())
    assert problems_of(describe(folder)) == [("labels.csv:3", "missing image")]


def test_semicolons(tmp_path):
    folder = write_folder(tmp_path / "d")
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace(",", ";"))
    assert len(read_posts(describe(folder))[0]["train"]) == 6


def test_a_truncated_jpeg_is_found(tmp_path):
    folder = write_folder(tmp_path / "d")
    Image.effect_noise((300, 300), 90).convert("RGB").save(folder / "images" / "whole.jpg")
    content = (folder / "images" / "whole.jpg").read_bytes()
    (folder / "images" / "0.png").unlink()
    (folder / "images" / "0.jpg").write_bytes(content[: len(content) // 2])
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("0.png", "0.jpg"))
    assert problems_of(describe(folder)) == [("labels.csv:2", "unreadable image")]


def test_single_class_in_training_alone(tmp_path):
    rows = [row | {"mood": "sad" if row["split"] == "train" else "happy"} for row in ROWS]
    assert problems_of(describe(write_folder(tmp_path / "d", rows))) == [("column 'mood'", "single class")]


def test_free_text_is_no_label_column(tmp_path):
    rows = [ROWS[0] | {"image": f"{i}.png", "mood": f"sentence number {i}"} for i in range(60)]
    assert problems_of(describe(write_folder(tmp_path / "d", rows), split_column=None)) == [
        ("column 'mood'", "not a class column")
    ]


def test_missing_labels_texts_and_pictures(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[0]["mood"], rows[1]["text"], rows[2]["image"] = "", "", ""
    posts, _, _ = read_posts(describe(write_folder(tmp_path / "d", rows)))
    train = posts["train"]
    assert (train[0]["label.mood"], train[1]["text"], train[2]["image"]) == (None, None, None)


def test_random_splits_are_reproducible_and_disjoint(tmp_path):
    rows = [{"image": f"{i}.png", "text": "x", "mood": ["sad", "happy"][i % 2]} for i in range(40)]
    folder = write_folder(tmp_path / "d", rows)
    first, second = (read_posts(describe(folder, split_column=None))[0] for _ in range(2))
    assert {split: len(posts) for split, posts in first.items()} == {"train": 32, "validation": 4, "test": 4}
    assert all(first[split]["id"] == second[split]["id"] for split in first)
    assert len({name for split in first for name in first[split]["id"]}) == 40
    other, _, _ = read_posts(describe(folder, split_column=None, split_seed=1))
    assert len(other["test"]) == 4 and other["test"]["id"] != first["test"]["id"]


def test_parquet_with_pictures_in_it_or_beside_it(tmp_path):
    folder = write_folder(tmp_path / "d", ROWS)
    (folder / "labels.csv").unlink(missing_ok=True)
    for table in folder.glob("*.csv"):
        table.unlink()
    rows = [dict(row) for row in ROWS]
    content = next(path for path in folder.rglob("*.png")).read_bytes()
    rows[0]["image"] = {"bytes": content, "path": None}
    for row in rows[1:]:
        row["image"] = {"bytes": None, "path": str(next(folder.rglob(row["image"])))} if row["image"] else None
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "posts.parquet"))
    posts, _, _ = read_posts(DataDescription(str(folder), labels=["mood"], split_column="split"))
    assert sum(map(len, posts.values())) == len(ROWS)
    first = next(post for split in posts.values() for post in split if post["image"] and post["image"]["bytes"])
    assert first["image"]["bytes"] == content
    (folder / "posts.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"posts\.parquet is damaged or no Parquet file"):
        read_posts(DataDescription(str(folder), labels=["mood"], split_column="split"))


def test_a_folder_of_pictures_per_class(tmp_path):
    for split, count in {"train": 6, "test": 2}.items():
        for label in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "pictures" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (number, len(split), ord(label[0]))).save(path)
    posts, tasks, _ = read_posts(DataDescription(str(tmp_path / "pictures"), labels=["label"]))
    assert tasks[0]["labels"] == ["cat", "dog"] and len(posts["test"]) == 4 and len(posts["train"]) == 11
    assert posts["test"]["label.label"] == [0, 0, 1, 1] and posts["test"][0]["text"] is None
    assert posts["test"]["id"][0] == "test/cat/0.png"


def test_a_table_goes_by_its_own_name(tmp_path):
    parts = {"train.csv": ROWS[:6], "dev_seen.csv": ROWS[6:8], "dev_unseen.csv": ROWS[8:]}
    for name, rows in parts.items():
        write_folder(tmp_path / "d", [{k: v for k, v in row.items() if k != "split"} for row in rows], name)
    found = describe(tmp_path / "d", split_column=None)
    assert {name: len(rows) for name, rows in read_posts(found)[0].items()} == {"train": 6, "validation": 4}
    for name in ("dev_seen", "dev_unseen"):
        assert read_split(found, name)[0]["id"] == [row["image"] for row in parts[f"{name}.csv"]]
    with pytest.raises(ValueError, match="no split 'dev_other'"):
        read_split(found, "dev_other")


def test_a_split_column_from_splits_csv_beside_the_table(tmp_path):
    folder = write_folder(tmp_path / "d", [{k: v for k, v in row.items() if k != "split"} for row in ROWS])
    write_folder(folder, [{"image": row["image"], "split": row["split"]} for row in ROWS], "splits.csv", pictures=False)
    posts, _, _ = read_posts(describe(folder))
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 6, "validation": 2, "test": 2}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("image,part\nimages/0.png,train\n", "no post has a split in the column 'part'"),
        ("image,part\n0.png,train\n0.png,test\n", r"splits\.csv:3: '0.png' is in 'test', and in 'train' before"),
        ("image,part\n0.png,train,more\n", r"splits\.csv:2: .*3"),
    ],
)
def test_a_splits_csv_that_says_nothing_of_use_is_refused(tmp_path, table, said):
    folder = write_folder(tmp_path / "d", [{k: v for k, v in row.items() if k != "split"} for row in ROWS])
    (folder / "splits.csv").write_text(table)
    with pytest.raises(ValueError, match=said):
        read_posts(describe(folder, split_column="part"))


def test_a_splits_csv_has_the_encoding_of_the_table(tmp_path):
    rows = [row | {"image": f"é{row['image']}"} for row in ROWS]
    folder = write_folder(tmp_path / "d", [{k: v for k, v in row.items() if k != "split"} for row in rows])
    write_folder(folder, [{"image": row["image"], "split": row["split"]} for row in rows], "splits.csv", pictures=False)
    for name in ("labels.csv", "splits.csv"):
        (folder / name).write_bytes((folder / name).read_text(encoding="utf-8").encode("cp1252"))
    posts, _, _ = read_posts(describe(folder, encoding="cp1252"))
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 6, "validation": 2, "test": 2}


def test_a_splits_csv_may_be_utf_8_beside_another_table(tmp_path):
    rows = [row | {"image": f"é{row['image']}"} for row in ROWS]
    folder = write_folder(tmp_path / "d", [{k: v for k, v in row.items() if k != "split"} for row in rows])
    write_folder(folder, [{"image": row["image"], "split": row["split"]} for row in rows], "splits.csv", pictures=False)
    (folder / "labels.csv").write_bytes((folder / "labels.csv").read_text(encoding="utf-8").encode("cp1252"))
    posts, _, _ = read_posts(describe(folder, encoding="cp1252"))
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 6, "validation": 2, "test": 2}


def test_posts_that_are_left_out_take_nobodys_place_in_a_random_split(tmp_path):
    rows = [{"image": f"{i}.png", "text": f"t{i}", "mood": ["sad", "happy"][i % 2]} for i in range(20)]
    folder = write_folder(tmp_path / "d", rows)
    for i in (2, 6, 9, 13, 17):
        (folder / "images" / f"{i}.png").unlink()
    for seed in range(12):
        posts, _, left_out = read_posts(describe(folder, split_column=None, split_seed=seed), skip_bad_posts=True)
        assert {split: len(rows) for split, rows in posts.items()} == {"train": 12, "validation": 2, "test": 1}
        assert len(left_out) == 5


def test_a_table_per_split(tmp_path):
    folder = write_folder(tmp_path / "d", ROWS[:6], "train.csv")
    write_folder(write_folder(folder, ROWS[6:8], "val.csv"), ROWS[8:], "test.csv")
    posts, _, _ = read_posts(describe(folder, split_column=None))
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 6, "validation": 2, "test": 2}


def test_a_validation_split_is_taken_from_training_where_there_is_none(tmp_path):
    posts, _, _ = read_posts(describe(write_folder(tmp_path / "d", ROWS[:6] + ROWS[8:])))
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 5, "validation": 1, "test": 2}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"labels": ["humour"]}, "labels.csv has no column humour; its columns are image, text"),
        ({"text_column": "caption"}, "no column caption"),
        ({"image_column": "file"}, "no column file"),
        ({"split_column": "fold"}, "no column fold"),
        ({"labels_file": "other.csv"}, "no such labels file"),
        ({"data": "/no/such/folder"}, "no such folder"),
        ({"data": "no_such_folder"}, "no_such_folder: no such folder, and no data set of that name"),
    ],
)
def test_wrong_names_are_refused(tmp_path, fields, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_posts(describe(write_folder(tmp_path / "d"), **fields))


def test_several_tables_that_fit_must_be_told_apart(tmp_path):
    folder = write_folder(write_folder(tmp_path / "d"), name="more.csv")
    with pytest.raises(ValueError, match=r"several tables have the columns.*labels\.csv, more\.csv"):
        read_posts(describe(folder))
    assert len(read_posts(describe(folder, labels_file="more.csv"))[0]["train"]) == 6


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("labels.csv", "image,text,mood\na.png,caf\xe9,sad\n".encode("latin-1"), "labels.csv:2: not UTF-8"),
        ("posts.jsonl", b'{"image": "a.png"}\n{"image": \n', "posts.jsonl:2: not JSON"),
        ("posts.jsonl", b'["a.png"]\n', "posts.jsonl:1: must be an object"),
        ("labels.csv", b"image,text,text,mood\n", "labels.csv:1: the column 'text' stands there twice"),
        ("labels.csv", b"image,text,mood\na.png," + b"x" * (2**24 + 1) + b",sad\n", "labels.csv:2: .*field larger"),
    ],
)
def test_broken_tables_are_named_with_their_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_posts(DataDescription(str(tmp_path), labels=["mood"], labels_file=name))


def test_datasets_on_disk(tmp_path):
    folder = write_folder(tmp_path / "d")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "mood": datasets.ClassLabel(names=["sad", "happy"]),
        }
    )
    columns = {
        "image": [str(folder / "images" / row["image"]) for row in ROWS],
        "text": [row["text"] for row in ROWS],
        "mood": [i % 2 if i else None for i in range(10)],
    }
    data = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": data.select(range(7)), "test": data.select(range(7, 10))}).save_to_disk(
        tmp_path / "saved"
    )
    posts, tasks, _ = read_posts(describe(tmp_path / "saved", split_column=None))
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 6, "validation": 1, "test": 3}
    assert tasks[0]["labels"] == ["sad", "happy"]  # the order that the data set declares
    by_text = {post["text"]: post["label.mood"] for rows in posts.values() for post in rows}
    assert by_text["caption 0"] is None and by_text["caption 1"] == 1 and by_text["caption 2"] == 0


def test_a_folder_of_bare_pictures(tmp_path):
    folder = write_folder(tmp_path / "d")
    (folder / "labels.csv").unlink()
    posts, tasks, _ = read_posts(DataDescription(str(folder)))
    assert len(posts["all"]) == 10 and tasks == [] and posts["all"][0]["text"] is None
    assert posts["all"][0]["id"] == "images/0.png"


def test_links_out_of_the_folder_are_reported(tmp_path):
    folder = write_folder(tmp_path / "d")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "images" / "3.png").unlink()
    (folder / "images" / "3.png").symlink_to(tmp_path / "secret.png")
    assert problems_of(describe(folder)) == [("labels.csv:5", "link out of the folder")]
    posts, _, left_out = read_posts(describe(folder), skip_bad_posts=True)
    assert "3.png" not in posts["train"]["id"] and len(posts["train"]) == 5 and len(left_out) == 1


def test_links_that_are_the_users_layout_are_followed(tmp_path):
    folder = write_folder(tmp_path / "d")
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert len(read_posts(describe(folder))[0]["train"]) == 6
    # a snapshot of the Hub's cache: every file is a link to a blob beside it
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate([*(tmp_path / "elsewhere").iterdir(), folder / "labels.csv"]):
        path.rename(blobs / str(number))
        place = snapshot if path.suffix == ".csv" else snapshot / "images"
        (place / path.name).symlink_to(blobs / str(number))
    assert len(read_posts(describe(snapshot))[0]["train"]) == 6
    absolute = write_folder(tmp_path / "e", [{"image": str(blobs / "0"), "text": "an absolute path"}], pictures=False)
    assert problems_of(DataDescription(str(absolute)), training=False) == [("labels.csv:2", "outside the folder")]
    allowed = DataDescription(str(absolute), allow_outside=[str(blobs)])
    assert len(read_posts(allowed, training=False)[0]["all"]) == 1


def test_parquet_files_are_parts_of_one_table_or_of_the_splits_in_their_names(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    for part in range(2):
        rows = [{"text": f"part {part} row {row}", "mood": ["sad", "happy"][row % 2]} for row in range(6)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"part-{part}.parquet")
    posts = read_posts(DataDescription(str(folder)), training=False)[0]["all"]
    assert posts["text"] == [f"part {part} row {row}" for part in range(2) for row in range(6)]
    for part, name in enumerate(("train-00000-of-00001", "test-00000-of-00001")):
        (folder / f"part-{part}.parquet").rename(folder / f"{name}.parquet")
    splits = read_posts(DataDescription(str(folder), labels=["mood"]))[0]
    assert {text.split(" row")[0] for text in splits["test"]["text"]} == {"part 1"} and "train" in splits


def test_pictures_stand_in_a_parquet_file_as_bytes(tmp_path):
    folder, buffer = tmp_path / "d", BytesIO()
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    rows = [{"id": "a", "image": buffer.getvalue(), "text": None}, {"id": "b", "image": None, "text": "words"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "posts.parquet")
    posts = read_posts(DataDescription(str(folder)), training=False)[0]["all"]
    assert posts[0]["image"]["bytes"] == buffer.getvalue() and posts[1]["image"] is None
