"""Which files a table may name: those in the folder, or where the caller says."""

import json
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from modeling_mm_orient.cli import main, parser
from modeling_mm_orient.cli.options import data_changes
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.problems import DataProblems, without_places
from modeling_mm_orient.data.reading import account_for_rows, read_posts, stream_posts

from .helpers import picture, write_folder


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "elsewhere" / "other.png"):
        Image.new("RGB", (8, 8), "red").save(path)
    return tmp_path / "secret.png"


def found_in(description) -> list[tuple[str, str]]:
    with pytest.raises(DataProblems) as caught:
        read_posts(description, training=False)
    return [(problem.where, problem.kind) for problem in caught.value.problems]


def ways_out(folder, secret) -> list:
    (folder / "link.png").symlink_to(secret)
    (folder / "sub").symlink_to(secret.parent)
    return [
        "../secret.png", str(secret), "images/../../secret.png", "sub/secret.png", "link.png", "../no such.png",
        "/etc/passwd", "http://localhost:1/x.png", "HTTPS://localhost/x.png", "file:///etc/passwd",
        "data:image/png;base64,AAAA",
    ]  # fmt: skip


def test_every_way_out_is_refused_with_file_and_row_by_all_readers(tmp_path, secret):
    folder = tmp_path / "d"
    (folder / "images").mkdir(parents=True)
    values = ways_out(folder, secret)
    write_folder(folder, [{"image": value, "text": "x"} for value in values], "posts.jsonl", pictures=False)
    description = DataDescription(str(folder))
    found = found_in(description)
    assert [where for where, _ in found] == [f"posts.jsonl:{row}" for row in range(1, len(values) + 1)]
    assert {kind for _, kind in found} == {"outside the folder", "link out of the folder"}
    assert [post["image"] for _, post, problem in stream_posts(description) if problem is None] == []
    assert len(account_for_rows(description)["rejected"]) == len(values)


def test_dicts_and_parquet_follow_the_same_rule(tmp_path, secret):
    (tmp_path / "d").mkdir()
    rows = [
        {"id": str(n), "image": {"path": value, "bytes": None}}
        for n, value in enumerate(["../secret.png", str(secret)])
    ]
    rows.append({"id": "url", "image": {"path": "http://localhost:1/x.png", "bytes": None}})
    rows.append({"id": "bytes", "image": {"path": "/etc/passwd", "bytes": secret.read_bytes()}})
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "d" / "posts.parquet")
    assert [where for where, _ in found_in(DataDescription(str(tmp_path / "d")))] == [
        f"posts.parquet[{n}]" for n in range(3)
    ]
    posts = read_posts(DataDescription(str(tmp_path / "d")), True, training=False)[0]["all"]
    assert posts["id"] == ["bytes"] and posts[0]["image"]["bytes"] == secret.read_bytes()


def test_a_saved_data_set_names_no_files_elsewhere(tmp_path, secret):
    data = datasets.Dataset.from_dict({"image": [str(secret), "/no such.png"], "text": ["x", "y"]})
    data.save_to_disk(tmp_path / "d")
    assert [kind for _, kind in found_in(DataDescription(str(tmp_path / "d")))] == ["outside the folder"] * 2
    # and as pictures that were left undecoded
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    images = [{"path": path, "bytes": None} for path in (str(secret), "/no such.png", "http://localhost:1/x.png")]
    table = pa.table({"image": images, "text": ["x", "y", "z"]}).cast(features.arrow_schema)
    with pa.ipc.new_stream(str(next((tmp_path / "d").glob("*.arrow"))), table.schema) as writer:
        writer.write_table(table)
    info = tmp_path / "d" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"features": features.to_dict()}))
    assert [kind for _, kind in found_in(DataDescription(str(tmp_path / "d")))] == ["outside the folder"] * 3


def test_a_saved_data_set_is_read_from_its_folder_alone(tmp_path):
    def save(place, text: str):
        datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": [text]})}).save_to_disk(place)
        return place

    others, names = save(tmp_path / "others", "elsewhere"), {}
    for name in ("file", "part", "link", "form", "folder"):
        names[name] = save(tmp_path / name, "here")
    for name, value in (("file", [{"filename": "../../others/test/data-00000-of-00001.arrow"}]), ("form", [3])):
        state = json.loads((names[name] / "test" / "state.json").read_text())
        (names[name] / "test" / "state.json").write_text(json.dumps(state | {"_data_files": value}))
    (names["part"] / "dataset_dict.json").write_text('{"splits": ["test", "../others/test"]}')
    (arrow,) = (names["link"] / "test").glob("*.arrow")
    arrow.unlink()
    arrow.symlink_to(others / "test" / arrow.name)
    shutil.rmtree(names["folder"] / "test")
    (names["folder"] / "test").symlink_to(others / "test")
    said = {"file": "is no name of what lies beside it", "part": "is no name of what lies beside it"}
    for name, place in names.items():
        with pytest.raises(ValueError, match=said.get(name, "no list of names" if name == "form" else "a link out of")):
            read_posts(DataDescription(str(place)), training=False)
    for name in ("link", "folder"):
        posts, *_ = read_posts(DataDescription(str(names[name]), allow_outside=[str(others)]), training=False)
        assert posts["test"]["text"] == ["elsewhere"]
    assert read_posts(DataDescription(str(others)), training=False)[0]["test"]["text"] == ["elsewhere"]


def test_the_caller_allows_folders(tmp_path, secret):
    rows = [{"image": "../secret.png"}, {"image": str(tmp_path / "elsewhere" / "other.png")}]
    folder = write_folder(tmp_path / "d", rows, pictures=False)
    assert [w for w, _ in found_in(DataDescription(str(folder), allow_outside=[str(tmp_path / "elsewhere")]))] == [
        "labels.csv:2"
    ]
    posts = read_posts(DataDescription(str(folder), allow_outside=[str(tmp_path)]), training=False)[0]["all"]
    assert len(posts) == 2
    assert (
        main(["inspect-data", "--data", str(folder), "--allow-outside", "/usr", "--allow-outside", str(tmp_path)]) == 0
    )


def test_the_option_is_repeatable_and_says_nothing_unless_given():
    command = ["predict", "RUN", "--data", "d", "--output", "o.csv"]
    options = parser().parse_args([*command, "--allow-outside", "a", "--allow-outside", "b", "--encoding", "latin-1"])
    assert data_changes(options) == {"allow_outside": ["a", "b"], "encoding": "latin-1"}
    assert data_changes(parser().parse_args(command)) == {}
    none = data_changes(parser().parse_args([*command, "--image-column", "none", "--text-column", "none"]))
    assert none == {"image_column": None, "text_column": []}


def test_tables_lie_in_the_folder_too(tmp_path):
    folder = write_folder(tmp_path / "d", [{"text": "a"}], pictures=False)
    (tmp_path / "other.csv").write_text("text\nsecret\n")
    (folder / "link.csv").symlink_to(tmp_path / "other.csv")
    for name in ("../other.csv", str(tmp_path / "other.csv"), "link.csv"):
        with pytest.raises(ValueError, match="must lie in the folder"):
            read_posts(DataDescription(str(folder), labels_file=name), training=False)
    assert read_posts(DataDescription(str(folder)), training=False)[0]["all"]["text"] == [
        "a"
    ]  # the link is passed over
    allowed = DataDescription(str(folder), labels_file="link.csv", allow_outside=[str(tmp_path)])
    assert read_posts(allowed, training=False)[0]["all"]["text"] == ["secret"]


def test_a_path_from_another_machine_is_found_by_its_name(tmp_path):
    folder = write_folder(
        tmp_path / "d", [{"image": "/somewhere/memes/a.png"}, {"image": "../memes/b.png"}], pictures=False
    )
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{name}.png")
    posts = read_posts(DataDescription(str(folder)), training=False)[0]["all"]
    assert [post["image"]["path"] for post in posts] == [str(folder / "images" / f"{name}.png") for name in ("a", "b")]


def test_a_table_that_is_a_link_out_is_read_by_nobody(tmp_path):
    folder, rows = tmp_path / "d", [{"image": "0.png", "text": "x"}, {"image": "1.png", "text": "y"}]
    write_folder(folder, rows)
    (tmp_path / "splits.csv").write_text("image,split\n0.png,train\n1.png,test\n")
    (folder / "splits.csv").symlink_to(tmp_path / "splits.csv")
    description = DataDescription(str(folder), split_column="split")
    with pytest.raises(ValueError, match="split"):
        read_posts(description, training=False)
    description.allow_outside = [str(tmp_path)]
    assert set(read_posts(description, training=False)[0]) == {"train", "test"}


def test_a_published_tables_reader_follows_no_link_out(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "training.csv").write_text("file_name\tmisogynous\tText Transcription\n1.jpg\t0\tx\n")
    (tmp_path / "d" / "training.csv").symlink_to(tmp_path / "training.csv")
    description = DataDescription(str(tmp_path / "d"), reader="mami")
    with pytest.raises(ValueError, match=r"training\.csv: a link out of the folder"):
        account_for_rows(description, check_images=False)


def test_pictures_outside_are_called_by_no_place_of_this_machine(tmp_path):
    far = tmp_path / ("a_long_name_" * 12) / "pictures"
    far.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        picture().save(far / name)
    (far / "3.png").write_bytes(b"none")
    rows = [{"image": str(far / f"{n}.png"), "text": f"t{n}"} for n in (1, 2, 3, 4)]
    description = DataDescription(str(write_folder(tmp_path / "d", rows, pictures=False)), allow_outside=[str(far)])
    posts, _, problems = read_posts(description, skip_bad_posts=True, training=False)
    assert posts["all"]["id"] == ["pictures/1.png", "pictures/2.png"]
    anywhere = DataDescription(description.data, allow_outside=["/"])
    assert read_posts(anywhere, skip_bad_posts=True, training=False)[0]["all"]["id"] == ["0", "1"]
    for problem in problems:
        told = without_places(problem, [description.data, *description.allow_outside])
        assert str(tmp_path) not in told.what and told.where == problem.where
    assert len(problems) == 2
