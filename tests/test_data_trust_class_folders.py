"""Class folders: every picture is read or has a problem, and names of folders and files mean nothing else."""

import datasets
import pytest
from PIL import Image

from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import account_for_rows, read_posts, read_split


def draw(folder, *names: str):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, len(folder.parts), 7)).save(path, "PNG")
    return folder


def describe(folder) -> DataDescription:
    return DataDescription(str(folder), labels=["label"])


def whole(folder) -> tuple[int, list[str]]:
    splits, tasks, _ = read_posts(describe(folder), training=False)
    return sum(map(len, splits.values())), tasks[0]["labels"]


def test_words_in_names_of_files_are_no_splits(tmp_path):
    names = [
        f"{label}/{name} {n}.jpg" for label in "ab" for n in range(4) for name in ("gym training", "crash test", "meme")
    ]
    assert whole(draw(tmp_path, *names)) == (24, ["a", "b"])


@pytest.mark.parametrize(
    "classes",
    [
        ["cat", "test tube"],
        ["train", "station"],
        ["train_steam", "train electric"],
        ["dev-ops", "test drive"],
        ["a [v2]", "b*", "c d"],
        ["007", "7"],
        ["18_24", "1824"],
        ["nan", "none"],
    ],
)
def test_names_of_folders_are_the_classes_as_they_stand(tmp_path, classes):
    names = [f"{label}/{n}.png" for label in classes for n in range(5)]
    assert whole(draw(tmp_path / "data [v2]", *names)) == (5 * len(classes), sorted(classes))


def test_classes_that_are_called_so_may_have_folders_of_their_own(tmp_path):
    names = [
        f"{label}/{year}/{n}.png" for label in ("dev-ops", "test drive") for year in ("2023", "2024") for n in range(3)
    ]
    assert whole(draw(tmp_path / "d", *names)) == (12, ["dev-ops", "test drive"])


def test_splits_are_folders_that_are_called_so_all_of_them(tmp_path):
    names = [f"{split}/{label}/{n}.png" for split in ("train", "val", "Test") for label in "ab" for n in range(3)]
    splits = read_posts(describe(draw(tmp_path / "d", *names)))[0]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "validation": 6, "test": 6}
    draw(tmp_path / "d", "more/a/0.png")
    assert whole(tmp_path / "d") == (19, ["Test", "more", "train", "val"])


def test_splits_may_have_an_addition(tmp_path, caplog):
    names = [
        f"{split}/{label}/{n}.png"
        for split in ("train", "dev_seen", "dev_un", "test-00")
        for label in "ab"
        for n in "12"
    ]
    folder = draw(tmp_path / "d", *names)
    splits = read_posts(describe(folder))[0]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "validation": 8, "test": 4}
    assert {name.partition("/")[0] for name in read_split(describe(folder), "dev_seen")[0]["id"]} == {"dev_seen"}
    assert not caplog.records
    (folder / "stray.png").write_bytes((folder / "train" / "a" / "1.png").read_bytes())
    (folder / "train" / "stray.png").write_bytes((folder / "train" / "a" / "1.png").read_bytes())
    account = account_for_rows(describe(folder))
    assert (account["read"], len({entry["where"] for entry in account["rejected"]})) == (16, 2)
    assert set(account["labels"]["label"]) == {"a", "b"}
    for path in folder.rglob("stray.png"):
        path.unlink()
    draw(folder, "more/a/0.png")
    assert whole(folder)[1] == ["dev_seen", "dev_un", "more", "test-00", "train"]
    assert "taken for classes" in caplog.text and "dev_seen, dev_un, test-00, train" in caplog.text


def test_deeper_folders_and_an_images_folder(tmp_path):
    assert whole(draw(tmp_path / "d", "images/a/x/1.png", "images/b/2.png", "images/b/y/z/3.png")) == (3, ["a", "b"])


def test_pictures_without_a_class_are_problems(tmp_path):
    draw(tmp_path, "a/1.png", "b/2.png", "3.png")
    found = account_for_rows(describe(tmp_path))
    assert (found["rows"], found["read"]) == (3, 2)
    assert found["rejected"] == [{"where": "3.png", "what": "the picture lies in no class's folder"}]
    draw(tmp_path / "d", "train/a/1.png", "train/2.png", "test/b/3.png")
    found = account_for_rows(describe(tmp_path / "d"))
    assert found["read"] == 2 and {entry["where"] for entry in found["rejected"]} == {"train/2.png"}


def test_broken_pictures_are_counted(tmp_path):
    draw(tmp_path, *[f"{label}/{n}.png" for label in "ab" for n in range(4)])
    (tmp_path / "a" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "b" / "loop.jpg").symlink_to("loop.jpg")
    found = account_for_rows(describe(tmp_path))
    assert (found["rows"], found["read"], len(found["rejected"])) == (10, 8, 2)


def test_nothing_of_it(tmp_path):
    draw(tmp_path, "1.png")
    with pytest.raises(ValueError, match="neither a table nor a folder of pictures per class"):
        read_posts(describe(tmp_path))
    draw(tmp_path, "a/2.png", "b/3.png")
    with pytest.raises(ValueError, match="has no column mood; its columns are image, label"):
        read_posts(DataDescription(str(tmp_path), labels=["mood"]))


def test_a_saved_data_set_below_such_a_path(tmp_path):
    data = datasets.Dataset.from_dict({"text": [f"t{n}" for n in range(4)]})
    data.save_to_disk(tmp_path / "a [v2]")
    assert len(read_posts(DataDescription(str(tmp_path / "a [v2]")), training=False)[0]["all"]) == 4


def test_one_class_alone_is_still_a_problem_of_the_column(tmp_path):
    with pytest.raises(DataProblems, match="only 'a' in training"):
        read_posts(describe(draw(tmp_path, *[f"a/{n}.png" for n in range(9)])))
