"""Names of columns: those that the ecosystem uses are known or asked for, and users' names and ours live apart."""

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.columns import IMAGE_NAMES, TEXT_NAMES
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.labels import label_column, label_counts
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import read_posts, read_split
from modeling_mm_orient.features.collation import FeatureCollator

from .helpers import as_bytes, picture, write_folder


def posts_of(folder, **fields):
    return read_posts(DataDescription(str(folder), **fields), training=False)[0]["all"]


def table(folder, rows, pictures=3, name="metadata.csv"):
    write_folder(folder, rows, name, pictures=False)
    for number in range(pictures):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "images" / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", [*IMAGE_NAMES, "Image", "FILE_NAME"])
def test_usual_names_of_pictures(tmp_path, name, caplog):
    folder = table(tmp_path / "d", [{name: f"{n}.png", "text": f"t{n}"} for n in range(3)])
    with caplog.at_level("INFO"):
        posts = posts_of(folder)
    assert all(post["image"] for post in posts) and "3 posts: 3 with a picture, 3 with a text" in caplog.text


@pytest.mark.parametrize("name", [*TEXT_NAMES, "Caption"])
def test_usual_names_of_texts(tmp_path, name):
    folder = table(tmp_path / "d", [{"file_name": f"{n}.png", name: f"t{n}"} for n in range(3)])
    assert posts_of(folder)["text"] == ["t0", "t1", "t2"]


def test_labels_and_named_columns_are_no_candidates(tmp_path):
    rows = [{"file_name": f"{n}.png", "caption": f"t{n}", "title": "ab"[n % 2], "path": str(n)} for n in range(3)]
    posts = read_posts(
        DataDescription(str(table(tmp_path / "d", rows)), labels=["title"], id_column="path"), training=False
    )[0]
    assert sorted(text for split in posts.values() for text in split["text"]) == ["t0", "t1", "t2"]


def test_several_candidates_are_asked_about(tmp_path):
    folder = table(tmp_path / "d", [{"file_name": "0.png", "filename": "1.png", "caption": "a", "title": "b"}])
    with pytest.raises(ValueError, match="which of file_name, filename holds the pictures"):
        posts_of(folder)
    with pytest.raises(ValueError, match="which of caption, title holds the texts"):
        posts_of(folder, image_column="file_name")
    assert posts_of(folder, image_column="file_name", text_column=["title", "caption"])["text"] == ["b"]


def test_a_named_column_that_is_not_there_is_not_guessed(tmp_path):
    folder = table(tmp_path / "d", [{"file_name": "0.png", "caption": "a"}])
    with pytest.raises(ValueError, match="no column photo"):
        posts_of(folder, image_column="photo")
    with pytest.raises(ValueError, match="no column words"):
        posts_of(folder, text_column="words")


def test_a_named_text_column_that_is_not_there_is_refused_beside_one_that_is(tmp_path, capsys, caplog):
    folder = table(tmp_path / "d", [{"image": f"{n}.png", "text": "a", "mood": "ab"[n % 2]} for n in range(3)])
    command = ["inspect-data", "--data", str(folder), "--labels", "mood", "--text-column", "text", "boddy"]
    assert main(command) == 1 and "has no column boddy" in capsys.readouterr().err
    assert posts_of(folder, text_column=["text", "boddy"])["text"] == ["a"] * 3  # of a run's, say, or a preset's
    assert "has no column boddy: its texts are those of text" in caplog.text


def test_lists_among_labels_and_texts_that_say_nan_are_told(tmp_path, caplog):
    rows = [{"text": f"t{n}" if n else "NaN", "mood": '["x"]' if n == 1 else "xy"[n % 2]} for n in range(21)]
    folder = table(tmp_path / "d", rows, pictures=0)
    posts, (task,), _ = read_posts(DataDescription(str(folder), labels=["mood"]), skip_bad_posts=True)
    assert task["kind"] == "multi_label" and sum(map(len, posts.values())) == 20
    assert "the task 'mood' has several labels to a post, since 1 of 21 labels are lists" in caplog.text
    assert "1 posts have the text `nan`, which is taken for none" in caplog.text


@pytest.mark.parametrize("cell", ["[" * 5000 + "]" * 5000, '["0.png", "1.png"]'])
def test_a_cell_of_lists_is_a_rows_own_matter(tmp_path, cell):
    rows = [{"image": "2.png", "text": "a"}, {"image": cell, "text": "b"}]
    folder = table(tmp_path / "d", rows)
    if "png" in cell:
        assert posts_of(folder)["text"] == ["a", "b"]
    else:
        with pytest.raises(DataProblems, match=r"1 problem\(s\)"):
            posts_of(folder)


def test_splits_beside_a_table_are_found_by_the_first_picture(tmp_path):
    rows = [{"image": [f"{n}.png", "9.png"], "text": f"t{n}", "mood": "ab"[n % 2]} for n in range(8)]
    folder = table(tmp_path / "d", rows, name="labels.jsonl", pictures=10)
    names = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    lines = [f"{n}.png,{name}" for n, name in enumerate(names)]
    (folder / "splits.csv").write_text("\n".join(["image,fold", *lines]))
    splits = read_posts(DataDescription(str(folder), labels=["mood"], split_column="fold"))[0]
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "validation": 2, "test": 2}


def test_pictures_beside_a_table_that_names_none_are_not_ignored(tmp_path):
    folder = table(tmp_path / "d", [{"foto": "0.png", "text": "a"}])
    with pytest.raises(ValueError, match=r"no column of pictures .* its columns are foto, text"):
        posts_of(folder)
    assert posts_of(folder, image_column=None)["text"] == ["a"]
    assert posts_of(table(tmp_path / "e", [{"text": "a"}], pictures=0))["text"] == ["a"]  # nothing is ignored there


def test_lists_of_pictures_are_those_of_a_post(tmp_path):
    folder = table(tmp_path / "d", [{"file_names": ["0.png", "1.png"], "text": "a"}], name="metadata.jsonl")
    post = posts_of(folder)[0]
    assert post["image"]["path"].endswith("0.png") and post["more_images"][0]["path"].endswith("1.png")


def test_columns_of_pictures_by_their_type(tmp_path):
    content = as_bytes(picture())
    (tmp_path / "d").mkdir()
    pa.parquet.write_table(
        pa.Table.from_pylist([{"id": "1", "foto": content, "text": "a"}]), tmp_path / "d" / "t.parquet"
    )
    assert posts_of(tmp_path / "d")[0]["image"]["bytes"] == content
    features = datasets.Features({"photo": datasets.Image(), "caption": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"photo": [picture()], "caption": ["a"]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    post = posts_of(tmp_path / "saved")[0]
    assert post["image"]["bytes"] and post["text"] == "a"


def test_a_column_called_split(tmp_path, caplog):
    rows = [
        {"text": f"t{n}", "split": s, "mood": "ab"[n % 2]}
        for n, s in enumerate(["train"] * 6 + ["dev"] * 2 + ["test"] * 2)
    ]
    folder = table(tmp_path / "d", rows, pictures=0)
    splits = read_posts(DataDescription(str(folder), labels=["mood"]))[0]
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 2, "test": 2}
    rows[3]["split"] = "fold 7"
    table(tmp_path / "d", rows, pictures=0)
    splits = read_posts(DataDescription(str(folder), labels=["mood"]))[0]
    assert sum(map(len, splits.values())) == 10 and "'split' is not used: it holds 'fold 7'" in caplog.text


def test_predicting_all_keeps_the_order_of_rows(tmp_path):
    rows = [{"text": f"t{n}", "split": ["test", "train", "dev"][n % 3]} for n in range(9)]
    posts, _ = read_split(DataDescription(str(table(tmp_path / "d", rows, pictures=0))), None)
    assert posts["text"] == [f"t{n}" for n in range(9)]


def hateful_memes(folder):
    def part(ids):
        return datasets.Dataset.from_dict(
            {"id": ids, "text": [f"text {i}" for i in ids], "label": [int(i) % 2 for i in ids]}
        )

    parts = {
        "train": "12345678",
        "dev_seen": "abcd",
        "dev_unseen": "cdef",
        "test_seen": "gh",
        "test_unseen": "ij",
        "extra": "kl",
    }
    parts = {name: [str(ord(letter)) for letter in letters] for name, letters in parts.items()}
    datasets.DatasetDict({name: part(ids) for name, ids in parts.items()}).save_to_disk(folder)
    return DataDescription(str(folder))


def test_parts_of_a_data_set_are_the_splits_that_their_names_begin_with(tmp_path):
    description = hateful_memes(tmp_path / "d")
    everything, _ = read_split(description, None)
    assert len(everything) == 8 + 4 + 4 + 2 + 2 + 2 and len(set(everything["id"])) == len(everything)
    splits = read_posts(DataDescription(description.data, labels=["label"]))[0]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 8, "validation": 8, "test": 4, "extra": 2}
    for name, count in {"dev_seen": 4, "dev_unseen": 4, "test": 4, "extra": 2}.items():
        assert len(read_split(description, name)[0]) == count
    with pytest.raises(ValueError, match="no split 'holdout'; it has train, validation, test, extra"):
        read_split(description, "holdout")


def test_parts_with_no_splits_name_are_one_whole(tmp_path):
    part = datasets.Dataset.from_dict({"text": [f"t{n}" for n in range(20)], "label": [n % 2 for n in range(20)]})
    datasets.DatasetDict({"default": part}).save_to_disk(tmp_path / "d")
    splits = read_posts(DataDescription(str(tmp_path / "d"), labels=["label"]))[0]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert len(read_split(DataDescription(str(tmp_path / "d")), None)[0]) == 20


OURS = ["has_text", "has_image", "image_embeds", "region_features", "token_mask", "post_keys", "where", "part", "key"]


@pytest.mark.parametrize("name", OURS)
def test_a_task_may_bear_our_names(tmp_path, name):
    rows = [{"text": f"t{n}", name: ["no", "yes"][n % 2], "split": "train"} for n in range(10)]
    folder = table(tmp_path / "d", rows, pictures=0)
    splits, tasks, _ = read_posts(DataDescription(str(folder), labels=[name]))
    train = splits["train"]
    assert set(train.column_names) == {"id", "image", "text", label_column(name)}
    assert label_counts(tasks[0], splits) == {"no": 5, "yes": 5}
    features = {"image_embeds": torch.zeros(3), "has_text": True, "has_image": False, "post_key": "ab" * 32}
    batch = FeatureCollator(tasks)([dict(post) | features for post in train])
    assert batch["labels"][name].tolist() == train[label_column(name)]
    assert batch["has_text"].all() and not batch["has_image"].any() and batch["image_embeds"].shape == (len(train), 3)


@pytest.mark.parametrize("name", ["id", "neighbours", "problem"])
def test_names_of_predictions_are_refused(tmp_path, name):
    folder = table(tmp_path / "d", [{"text": "t", name: "a"}], pictures=0)
    with pytest.raises(ValueError, match="cannot be called"):
        read_posts(DataDescription(str(folder), labels=[name]))


def test_a_number_that_is_none(tmp_path):
    rows = [{"text": f"t{n}", "score": f"{n}.5"} for n in range(12)]
    rows[3]["score"] = "1e999"
    folder = table(tmp_path / "d", rows, pictures=0)
    known = [{"name": "score", "kind": "regression"}]
    with pytest.raises(DataProblems, match=r"metadata\.csv:5: score is '1e999', not a number"):
        read_posts(DataDescription(str(folder), labels=["score"], tasks=known))


def test_parts_that_declare_other_classes_share_them(tmp_path):
    declared = {"train": ["a", "b"], "validation": ["b", "a"], "test": ["a", "c"]}
    parts = {
        part: datasets.Dataset.from_dict(
            {"text": [f"{part} {i}" for i in range(4)], "y": [0, 1, 0, 1]},
            features=datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=names)}),
        )
        for part, names in declared.items()
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    found, tasks, left_out = read_posts(DataDescription(str(tmp_path / "d"), labels=["y"]))
    assert tasks[0]["labels"] == ["a", "b", "c"] and left_out == []
    assert {part: rows["label.y"] for part, rows in found.items()} == {
        "train": [0, 1, 0, 1], "validation": [1, 0, 1, 0], "test": [0, 2, 0, 2],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["large_list<large_binary>", "large_list<binary>", "list_view<binary>", "binary_view"])
def test_pictures_in_columns_of_any_binary_type(tmp_path, kind):
    one = {"binary": pa.binary(), "large_binary": pa.large_binary(), "binary_view": pa.binary_view()}
    outer, _, inner = kind.rstrip(">").partition("<")
    lists = {"large_list": pa.large_list, "list_view": pa.list_view}
    values = [as_bytes(picture(colour=i)) for i in range(4)]
    column = pa.array([[v] for v in values], lists[outer](one[inner])) if inner else pa.array(values, one[kind])
    try:
        pyarrow.parquet.write_table(pa.table({"photo": column, "y": ["a", "b", "a", "b"]}), tmp_path / "t.parquet")
    except pa.ArrowNotImplementedError:
        pytest.skip("this pyarrow writes no such column")
    found = read_posts(DataDescription(str(tmp_path), labels=["y"]), training=False, split_at_random=False)[0]["all"]
    assert [post["image"]["bytes"] for post in found] == values
