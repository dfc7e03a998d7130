"""Ray jobs read a Parquet table as the other commands do; without a cluster."""

from functools import partial

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.runs.run_folder import load_run

from .helpers import as_bytes, picture, save_run

pytest.importorskip("ray", reason="needs Ray, the extra `ray`")

from modeling_mm_orient.runs.ray_jobs import (
    Worker,
    _columns_and_rows,
    _files,
    _first_line,
    _modalities,
    predict_batch,
    predictions_schema,
)


def parquet(folder, rows: list[dict], name: str = "posts.parquet"):
    folder.mkdir(exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / name)
    return str(folder)


def columns(posts: str, **fields):
    return _columns_and_rows(_files(posts), posts, DataDescription(posts, **fields))


def test_another_column_of_pictures_than_the_runs_is_refused(tmp_path):
    posts = parquet(tmp_path / "d", [{"id": "1", "image": as_bytes(picture()), "text": "a"}])
    with pytest.raises(ValueError, match="has no column image_name; its columns are id, image, text"):
        columns(posts, image_column="image_name")
    with pytest.raises(ValueError, match="has no column words"):
        columns(posts, text_column="words")
    assert columns(posts, image_column=None)[1:] == (["id", "text"], 1)


def test_columns_are_those_of_all_files_and_types_count_where_they_are_read(tmp_path):
    parquet(tmp_path / "d", [{"id": "1", "image": as_bytes(picture()), "other": 1}], "a.parquet")
    table = pa.table({"id": ["2"], "text": pa.array(["words"]).dictionary_encode(), "other": ["x"]})
    pa.parquet.write_table(table, tmp_path / "d" / "b.parquet")
    posts = parquet(tmp_path / "d", [{"id": "3", "text": "more", "image": None}], "c.parquet")
    description, read, count = columns(posts)
    assert (read, count) == (["id", "text", "image"], 3)
    assert _modalities(_files(posts), description) == {"with_picture": 1, "with_text": 2}
    with pytest.raises(ValueError, match=r"b\.parquet has another type in the column 'other' than the files before it"):
        columns(posts, text_column="other")


def test_numbers_that_are_written_in_another_way_are_no_ids_and_no_texts(tmp_path):
    posts = str(tmp_path / "d")
    parquet(tmp_path / "d", [{"id": 1, "text": 7, "likes": 1}, {"id": 2**60 + 1, "text": 8, "likes": 2}], "a.parquet")
    assert columns(posts, numeric_columns=["likes"])[1] == ["id", "text", "likes"]
    parquet(tmp_path / "d", [{"id": 3, "text": 9, "likes": 0.5}], "b.parquet")
    assert columns(posts, numeric_columns=["likes"])[1] == ["id", "text", "likes"]
    parquet(tmp_path / "d", [{"id": 4, "text": None, "likes": None}], "c.parquet")
    assert columns(posts, numeric_columns=["likes"])[1] == ["id", "text", "likes"]
    parquet(tmp_path / "d", [{"id": 4.0, "text": 9}, {"id": None, "text": 9}], "d.parquet")
    with pytest.raises(ValueError, match=r"d\.parquet has another type in the column 'id' than the files before it"):
        columns(posts, numeric_columns=["likes"])
    parquet(tmp_path / "d", [{"id": 5, "text": 9.0}], "d.parquet")
    with pytest.raises(ValueError, match=r"d\.parquet has another type in the column 'text'"):
        columns(posts)
    pa.parquet.write_table(pa.table({"id": pa.array([6], pa.int32()), "text": ["words"]}), tmp_path / "d" / "a.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has another type in the column 'text'"):
        columns(posts)


def test_what_a_killed_job_left_is_no_posts(tmp_path):
    posts = parquet(tmp_path / "d", [{"id": "1", "text": "a"}])
    parquet(tmp_path / "d" / ".out.here-1.partial", [{"id": "2", "text": "b"}])
    parquet(tmp_path / "d" / "more", [{"id": "3", "text": "c"}])
    assert columns(posts)[2] == 2


def test_ids_that_stand_there_twice_are_counted(tmp_path, caplog):
    posts = parquet(tmp_path / "d", [{"id": name, "text": "a"} for name in ("1", "2", "2", "2", None, None)])
    assert columns(posts)[2] == 6 and "2 of 6 ids stand there before" in caplog.text
    caplog.clear()
    columns(parquet(tmp_path / "e", [{"id": "1", "text": "a"}, {"id": "2", "text": "a"}]))
    assert not caplog.records


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.string_view()),
        pa.nulls(2),
        pa.array([[1], [2]]),
    ],
)
def test_ids_of_any_type_are_read(tmp_path, ids):
    (tmp_path / "d").mkdir()
    pa.parquet.write_table(pa.table({"id": ids, "text": ["x", "y"]}), tmp_path / "d" / "a.parquet")
    assert columns(str(tmp_path / "d"))[2] == 2


def test_units_of_time_are_written_alike(tmp_path):
    (tmp_path / "d").mkdir()
    for name, unit in (("a", "us"), ("b", "ms")):
        table = pa.table({"id": [name], "text": pa.array([1], pa.timestamp(unit))})
        pa.parquet.write_table(table, tmp_path / "d" / f"{name}.parquet")
    assert columns(str(tmp_path / "d"))[2] == 2


def test_what_goes_wrong_in_a_worker_is_one_line():
    try:
        try:
            raise KeyError("no such\nthing")
        except KeyError as error:
            raise RuntimeError("a traceback\nof many lines") from error
    except RuntimeError as error:
        assert _first_line(error) == "KeyError: 'no such\\nthing'"
    assert _first_line(ValueError("one\ntwo")) == "ValueError: one" and _first_line(ValueError()) == "ValueError: "


def test_usual_names_and_types_are_found(tmp_path):
    posts = parquet(tmp_path / "d", [{"id": "1", "foto": as_bytes(picture()), "caption": "a"}])
    description, read, _ = columns(posts)
    assert (description.image_column, description.text_column, read) == ("foto", "caption", ["id", "caption", "foto"])
    picture().save(tmp_path / "d" / "0.png")
    with pytest.raises(ValueError, match="no column of pictures"):
        columns(parquet(tmp_path / "d", [{"id": "1", "text": "a"}]))


def test_what_has_pictures_and_texts_is_counted(tmp_path):
    content = as_bytes(picture())
    rows = [{"id": "1", "image": content, "text": "a"}, {"id": "2", "image": None, "text": ""}]
    rows += [{"id": "3", "image": content, "text": None}]
    posts = parquet(tmp_path / "d", rows)
    parquet(tmp_path / "d", rows[:2], "more.parquet")
    description = columns(posts)[0]
    assert _modalities(_files(posts), description) == {"with_picture": 3, "with_text": 2}
    structs = [row | {"image": row["image"] and {"bytes": row["image"], "path": None}} for row in rows]
    other = parquet(tmp_path / "e", structs)
    assert _modalities(_files(other), columns(other)[0]) == {"with_picture": 2, "with_text": 1}


@pytest.mark.parametrize(
    "name, pictures, texts, counts",
    [
        ("image", [b"x", None, b"x"], [b"a", b"\xff\xfe", b""], (2, 2)),
        ("image", [b"x", None, b"x"], [["a"], None, ["b", "c"]], (2, 2)),
        ("img.file", ["a.png", "", None], ["a", "b", None], (1, 2)),
        ("image", [["a.png", None, None], [None], []], ["a", None, None], (1, 1)),
        ("image", [{"bytes": b"x", "path": None}, {"bytes": None, "path": "a"}, None], ["a", "a", "a"], (2, 3)),
        (
            "image",
            [{"bytes": b"x", "path": None}, {"bytes": b"y", "path": "a"}, {"bytes": b"z", "path": "a"}],
            "abc",
            (3, 3),
        ),
        ("image", [[{"bytes": None, "path": None}], [{"bytes": b"x", "path": None}], None], "abc", (1, 3)),
    ],
)
def test_pictures_and_texts_of_any_type_are_counted(tmp_path, name, pictures, texts, counts):
    rows = [
        {"id": str(i), name: image, "text": text} for i, (image, text) in enumerate(zip(pictures, texts, strict=True))
    ]
    posts = parquet(tmp_path / "d", rows)
    description, _, rows = columns(posts, image_column=name)
    assert rows == 3 and _modalities(_files(posts), description) == dict(
        zip(("with_picture", "with_text"), counts, strict=True)
    )


def test_rows_of_several_picture_columns_count_once(tmp_path):
    rows = [{"id": str(i), "front": ["a", None, None][i], "back": ["a", "b", ""][i], "text": "x"} for i in range(3)]
    posts = parquet(tmp_path / "d", rows)
    assert _modalities(_files(posts), columns(posts, image_column=["front", "back"])[0])["with_picture"] == 2


def test_each_bad_row_is_that_rows_problem(tmp_path):
    content = as_bytes(picture())
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    folder = tmp_path / "d"
    folder.mkdir()
    images = {"good": content, "garbage": b"no picture", "empty": b"", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n"}
    rows = [{"id": name, "image": image, "text": "a"} for name, image in images.items()]
    description = DataDescription(str(folder))
    load = partial(load_run, save_run(tmp_path / "run"))
    schema = predictions_schema(load()[0].config)
    worker = Worker(load, predict_batch, schema, description, batch_size=4, cpus=1, device="cpu")
    table = pa.Table.from_pylist(rows)
    texts = pa.array([b"a", b"b", b"c", b"d"], pa.binary()).view(pa.string())
    found = {row["id"]: row["problem"] for row in worker(table.set_column(2, "text", texts)).to_pylist()}
    assert found["good"] is None and all(found[name] for name in images if name != "good") and len(found) == 4
    bad = pa.array([b"a", b"caf\xe9"], pa.binary()).view(pa.string())
    found = worker(pa.table({"id": ["1", "2"], "image": [content] * 2, "text": bad})).to_pylist()
    assert {row["id"]: row["problem"] for row in found} == {"1": None, "2": "'text' is not UTF-8"}
    paths = ["../secret.png", str(tmp_path / "secret.png"), "http://localhost:1/x.png"]
    table = pa.Table.from_pylist([{"id": path, "image": path, "text": "a"} for path in paths])
    assert all(
        "outside the folder" in row["problem"] or "is a URL" in row["problem"] for row in worker(table).to_pylist()
    )
