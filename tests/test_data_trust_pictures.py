"""Picture files of all kinds: none is lost without a word, none ends a job, and the check does what the use does."""

import io
import os
import struct

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_mm_orient import MMOrientModel
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.picture_files import IMAGE_SUFFIXES, image_problems, pictures_below
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import account_for_rows, read_posts
from modeling_mm_orient.features.extraction import extract_features
from modeling_mm_orient.pictures import read_image

from .helpers import as_bytes, make_processor, picture, small_towers, write_folder


def test_an_icon_is_not_decoded_before_its_size_is_known(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.new("L", (4000, 3000)).save(file, "PNG")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(file.getvalue()), 22)
    icon = b"\0\0\1\0\1\0" + entry + file.getvalue()
    monkeypatch.setattr("PIL.IcoImagePlugin.IcoImageFile.load", lambda self: pytest.fail("it was decoded"))
    (tmp_path / "a.ico").write_bytes(icon)
    for source in (icon, str(tmp_path / "a.ico"), io.BytesIO(icon)):
        with pytest.raises(ValueError, match="4000 x 3000 pixels are more than the 1000000 allowed"):
            read_image(source, 1_000_000)
    bitmap = icon[:22] + struct.pack("<Iii", 40, 5000, 8000) + bytes(12)
    with pytest.raises(ValueError, match="5000 x 4000 pixels"):
        read_image(bitmap, 1_000_000)
    short = icon[:22] + struct.pack("<IHHHH", 12, 2000, 4000, 1, 24) + bytes(12)
    with pytest.raises(ValueError, match="2000 x 2000 pixels"):
        read_image(short, 1_000_000)


def rejected(folder, **fields) -> dict[str, str]:
    return {p["where"]: p["what"] for p in account_for_rows(DataDescription(str(folder), **fields))["rejected"]}


@pytest.fixture
def odd_files(tmp_path):
    """A bare folder with one good picture and all that is none."""
    folder = tmp_path / "d"
    folder.mkdir()
    picture().save(folder / "good.png")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def test_what_is_no_regular_file_is_one_pictures_problem(odd_files):
    found = rejected(odd_files)
    assert sorted(found) == ["empty.jpg", "gone.jpg", "loop.jpg", "pipe.jpg"]
    assert "no regular file" in found["pipe.jpg"] and "no regular file" in found["loop.jpg"]
    assert read_posts(DataDescription(str(odd_files)), True, training=False)[0]["all"]["id"] == ["good.png"]


def test_extraction_goes_on_past_them(odd_files, tmp_path):
    model = MMOrientModel(small_towers(joint_config=None)).eval()
    report = extract_features(DataDescription(str(odd_files)), model, make_processor(), tmp_path / "f", workers=0)
    assert (report["rows"], report["stored"], len(report["problems"])) == (5, 1, 4)


def test_a_table_that_names_them(odd_files):
    names = ["good.png", "loop.jpg", "pipe.jpg", "folder.jpg", ".", "x" * 300 + ".png", "a\0b.png", 5]
    write_folder(odd_files, [{"image": name, "id": str(n)} for n, name in enumerate(names)], "t.jsonl", pictures=False)
    assert sorted(rejected(odd_files)) == [f"t.jsonl:{row}" for row in range(2, 9)]


@pytest.mark.parametrize(
    "value", [{}, {"url": "x"}, {"path": 3, "bytes": [1]}, ["a.png", "b.png"], True, {"bytes": "YWJj"}]
)
def test_what_is_no_picture_is_one_rows_problem(tmp_path, value):
    rows = [{"image": "a.png", "text": "x"}, {"image": value, "text": "x"}]
    picture().save(write_folder(tmp_path / "d", rows, "t.jsonl", pictures=False) / "a.png")
    assert list(rejected(tmp_path / "d")) == ["t.jsonl:2"]


def test_neither_path_nor_bytes_is_no_picture(tmp_path):
    folder = write_folder(
        tmp_path / "d", [{"image": {"path": None, "bytes": None}, "text": "x"}], "t.jsonl", pictures=False
    )
    assert read_posts(DataDescription(str(folder)), training=False)[0]["all"][0]["image"] is None


def test_every_suffix_and_none(tmp_path, caplog):
    formats = {
        ".avif": "AVIF",
        ".jfif": "JPEG",
        ".jpe": "JPEG",
        ".jp2": "JPEG2000",
        ".ico": "ICO",
        ".ppm": "PPM",
        "": "PNG",
    }
    formats |= {".JPG": "JPEG", ".png:large": "PNG", ".1": "WEBP"}
    for number, (suffix, name) in enumerate(formats.items()):
        picture(size=(20, 30), colour=(9 * number, 0, 0)).save(tmp_path / f"{number}{suffix}", name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "README").write_text("no picture")
    (tmp_path / "x.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "._0.jpg").write_bytes(b"\0\5\26\7")
    with caplog.at_level("INFO"):
        posts = read_posts(DataDescription(str(tmp_path)), training=False)[0]["all"]
    assert len(posts) == len(formats) and "3 files are no pictures" in caplog.text
    assert "1 hidden, linked or unreadable" in caplog.text
    assert f"{len(formats)} posts: {len(formats)} with a picture, 0 with a text" in caplog.text


def test_a_fifo_without_suffix_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert pictures_below(tmp_path) == [] and ".avif" in IMAGE_SUFFIXES


def test_names_that_are_not_utf8(tmp_path):
    for number, name in enumerate((b"a\xff.png", b"a\xfe.png", "ü.png".encode())):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(as_bytes(picture(colour=(number, 0, 0))))
    posts = read_posts(DataDescription(str(tmp_path)), training=False)[0]["all"]
    assert len(set(posts["id"])) == 3 and all(read_image(post["image"]).size == (20, 30) for post in posts)


def test_ids_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    content = as_bytes(picture())
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = {"image": [{"path": None, "bytes": content}, {"path": "in.png", "bytes": content}]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    found = []
    for place, data in ((tmp_path / "d", "."), (tmp_path, "d"), ("/", str(tmp_path / "d"))):
        monkeypatch.chdir(place)
        found.append(read_posts(DataDescription(data), training=False)[0]["all"]["id"])
    assert found == [["0", "1"]] * 3


def sound_and_broken() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    bad_exif = b"Exif\0\0II*\0\xff\xff\xff\xff broken"
    kinds = {f"exif {name}": as_bytes(noise, name, exif=bad_exif) for name in ("JPEG", "PNG", "WEBP")}
    kinds |= {
        name: as_bytes(noise, name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
    }
    kinds |= {f"cut {name}": content[: len(content) // 2] for name, content in kinds.items() if " " not in name}
    kinds |= {
        "cmyk": as_bytes(noise.convert("CMYK"), "JPEG"),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    kinds |= {"empty": b"", "text": b"no picture", "thin": as_bytes(Image.new("L", (30_000, 1)))}
    return kinds | {"huge": as_bytes(Image.new("1", (30_000, 30_000)))}


def test_what_passes_the_check_can_be_read_and_nothing_else(tmp_path):
    kinds, read = sound_and_broken(), {}
    for name, content in kinds.items():
        try:
            read_image(content)
            read[name] = True
        except ValueError:
            read[name] = False
    checked = image_problems([{"path": None, "bytes": content} for content in kinds.values()])
    assert {name: problem is None for name, problem in zip(kinds, checked, strict=True)} == read
    assert all(read[name] for name in kinds if name.startswith("exif")) and not read["eps"] and not read["huge"]


def test_messages_hold_no_bytes_of_pictures(tmp_path, caplog):
    content = as_bytes(picture(size=(300, 300)))
    rows = [{"id": content, "image": content, "text": content, "mood": content, "split": content}] * 2
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "t.parquet"))
    with caplog.at_level("INFO"), pytest.raises(DataProblems) as caught:
        read_posts(DataDescription(str(tmp_path), labels=["mood"], split_column="split"))
    assert "PNG" not in str(caught.value) + caplog.text and len(str(caught.value)) < 2000
