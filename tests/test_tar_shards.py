"""WebDataset's shards as data, and predictions of posts as they come."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile

import datasets
import pyarrow.parquet
import pytest

from modeling_mm_orient.cli import main
from modeling_mm_orient.data import sources
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import account_for_rows, read_posts, read_split, stream_posts
from modeling_mm_orient.runs import predictions

from .helpers import as_bytes, picture, save_run


def write_shard(path, posts: dict[str, dict]):
    """A .tar of files `KEY.KIND`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, files in posts.items():
            for kind, content in files.items():
                content = content if isinstance(content, bytes) else str(content).encode()
                entry = tarfile.TarInfo(f"{key}.{kind}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def posts(first: int, count: int) -> dict[str, dict]:
    return {
        f"sub/{i:03}": {
            "jpg": as_bytes(picture(colour=i), "JPEG"),
            "txt": f"words {i}",
            "json": json.dumps({"mood": "ab"[i % 2], "likes": i}),
        }
        for i in range(first, first + count)
    }


def shards(folder):
    write_shard(folder / "train-000.tar", posts(0, 8))
    write_shard(folder / "train-001.tar", posts(8, 4))
    write_shard(folder / "val-000.tar", posts(12, 4))
    write_shard(folder / "test-000.tar", posts(16, 4))
    return folder


def test_posts_of_shards(tmp_path, caplog):
    folder = shards(tmp_path / "wds")
    write_shard(folder / "val-001.tar", {"x.y": {"extra.npy": b"1"}, "z": {"0.png": as_bytes(picture()), "1.png": as_bytes(
        picture(colour=9)), "json": '{"id": "own", "mood": "a"}', "cls": "3"}})  # fmt: skip
    with pytest.raises(DataProblems, match=r"val-001\.tar:x: neither an image nor a text"):
        read_posts(DataDescription(str(folder), labels=["mood"]))
    splits, tasks, _ = read_posts(DataDescription(str(folder), labels=["mood"]), skip_bad_posts=True)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "validation": 5, "test": 4}
    assert tasks[0]["labels"] == ["a", "b"] and splits["train"]["id"][:2] == ["sub/000", "sub/001"]
    assert splits["train"]["text"][0] == "words 0" and splits["train"][0]["image"]["bytes"]
    own = splits["validation"][4]
    assert own["id"] == "own" and len(own["more_images"]) == 1
    assert "1 files of other kinds not read (1 .y.extra.npy)" in caplog.text


def test_folders_of_splits_and_whole_sets(tmp_path):
    for split in ("train", "val"):
        write_shard(tmp_path / "a" / split / "0.tar", posts(0 if split == "train" else 8, 8))
    assert set(read_posts(DataDescription(str(tmp_path / "a"), labels=["mood"]))[0]) == {"train", "validation"}
    write_shard(tmp_path / "b" / "0.tar", posts(0, 20))
    assert len(read_split(DataDescription(str(tmp_path / "b")), None)[0]) == 20


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": {"json": "{"}}, r"0\.tar:a: \.json cannot be read"),
        ({"a": {"json": "[1]"}}, r"0\.tar:a: \.json must be an object, got list"),
        (
            {"a": {"json": '{"text": "x", "text": "y"}'}},
            r"0\.tar:a: \.json cannot be read \('text' stands there twice\)",
        ),
        ({"a": {"txt": b"\xff\xfe"}}, r"0\.tar:a: \.txt cannot be read"),
        ({"a": {"jpg": b"no picture"}}, r"0\.tar:a: image .* cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, files, message):
    write_shard(tmp_path / "0.tar", files | {"b": {"txt": "fine", "png": as_bytes(picture())}})
    with pytest.raises(DataProblems, match=message):
        read_split(DataDescription(str(tmp_path)), None)


def test_a_few_bytes_are_no_picture_of_64_mebibytes(tmp_path, monkeypatch):
    sparse = tarfile.TarInfo("sub/100.png")
    sparse.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 2**26  # the size that it claims
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    good = write_shard(tmp_path / "good.tar", posts(0, 3)).read_bytes()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.tar").write_bytes(bytes(header) + good)
    found = [problem for *_, problem in stream_posts(DataDescription(str(tmp_path / "d")))]
    assert "sub/100.png is no regular file" in found[0] and found[1:] == [None] * 3

    zeros = {"a": {"png": bytes(2**20)}, "b": {"png": as_bytes(picture())}}
    write_shard(tmp_path / "e" / "train.tar", zeros)
    first, second = (post for _, post, _ in stream_posts(DataDescription(str(tmp_path / "e"))))
    assert len(first["image"]["bytes"]) == 16 and second["image"]["bytes"] == as_bytes(picture())

    monkeypatch.setattr("modeling_mm_orient.data.tar_shards.MOST_IN_ALL", 3 * len(as_bytes(picture())))
    several = {"a": {f"{number}.png": as_bytes(picture()) for number in range(4)}}
    write_shard(tmp_path / "f" / "train.tar", several)
    (problem,) = (problem for *_, problem in stream_posts(DataDescription(str(tmp_path / "f"))))
    assert "its pictures are larger than" in problem


@pytest.mark.parametrize("opened", [open, gzip.open, bz2.open, lzma.open])
def test_a_header_may_claim_what_it_likes(tmp_path, opened):
    good = write_shard(tmp_path / "good.tar", posts(0, 3)).read_bytes()
    huge, long_name = tarfile.TarInfo("sub/000.png"), tarfile.TarInfo("././@LongLink")
    huge.size = 10**14
    long_name.size, long_name.type = 80 * 2**20, tarfile.GNUTYPE_LONGNAME
    headers = {
        "huge": huge.tobuf(tarfile.GNU_FORMAT),
        "long": long_name.tobuf(tarfile.GNU_FORMAT) + b"a" * long_name.size,
    }
    for name, header in headers.items():
        (tmp_path / name).mkdir()
        with opened(tmp_path / name / "train.tar", "wb") as file:
            file.write(good[: good.rindex(b"ustar") - 257 + 1024] + header)
        with pytest.raises(ValueError, match=r"train\.tar is damaged or no \.tar file"):
            list(stream_posts(DataDescription(str(tmp_path / name))))
    with opened(tmp_path / "huge" / "train.tar", "wb") as file:
        file.write(good)
    assert len(list(stream_posts(DataDescription(str(tmp_path / "huge"))))) == 3


def test_repairs_of_a_stream_are_told(tmp_path, caplog):
    lines = [{"id": str(i), "text": "a\ud800b" if i % 2 else "whole"} for i in range(10)]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = list(stream_posts(DataDescription(str(tmp_path), image_column=None)))
    assert [post["text"] for _, post, _ in found] == ["whole", "a\ufffdb"] * 5
    assert "5 row(s) repaired, say posts.jsonl:2: half a character" in caplog.text


def test_a_name_that_comes_again_is_a_row_of_its_own(tmp_path):
    entries = [*posts(0, 3).items(), ("sub/000", {"txt": "again", "json": '{"mood": "a"}'}), *posts(3, 3).items()]
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for key, files in entries:
            for kind, content in files.items():
                content = content if isinstance(content, bytes) else content.encode()
                entry = tarfile.TarInfo(f"{key}.{kind}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    found = account_for_rows(DataDescription(str(tmp_path), labels=["mood"]))
    assert (found["rows"], found["read"]) == (7, 6)
    assert [entry["where"] for entry in found["rejected"]] == ["all.tar:sub/000 (2)"]


def test_a_damaged_shard_is_named(tmp_path):
    path = write_shard(tmp_path / "0.tar", posts(0, 20))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"0\.tar is damaged or no \.tar file"):
        read_split(DataDescription(str(tmp_path)), None)


def test_shards_are_trained_on_and_evaluated(tmp_path):
    folder, run = shards(tmp_path / "wds"), tmp_path / "run"
    assert main(["train", "--data", str(folder), "--labels", "mood", "--output", str(run), "--epochs", "1"]) == 0
    assert main(["evaluate", str(run), "--data", str(folder)]) == 0


@pytest.mark.parametrize("form", ["tar", "parquet", "csv"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_streaming_says_what_a_whole_pass_says(tmp_path, monkeypatch, form, suffix):
    monkeypatch.setattr(predictions, "STREAMED_POSTS", 4)
    run, folder, found = save_run(tmp_path / "run"), tmp_path / "posts", []
    folder.mkdir()
    if form == "tar":
        shards(folder)
    else:
        rows = [{"id": str(i), "image": None, "text": f"dog {i}"} for i in range(11)]
        if form == "csv":
            with (folder / "t.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            rows = [row | {"image": as_bytes(picture(colour=i))} for i, row in enumerate(rows)]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "t.parquet")
    for options in ([], ["--streaming"]):
        output = tmp_path / f"{len(options)}.{suffix}"
        assert (
            main(["predict", str(run), "--data", str(folder), "--output", str(output), "--batch-size", "2", *options])
            == 0
        )
        found.append(pyarrow.parquet.read_table(output).to_pylist() if suffix == "parquet" else output.read_text())
    assert found[0] == found[1] and len(found[0]) > 3


def test_streaming_leaves_nothing_behind_where_a_post_is_bad_or_skips_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(predictions, "STREAMED_POSTS", 4)
    run = save_run(tmp_path / "run")
    bad = {"bad": {"jpg": b"nothing", "txt": "words"}}
    write_shard(tmp_path / "wds" / "0.tar", posts(0, 1) | bad | posts(1, 11))
    command = [
        "predict",
        str(run),
        "--data",
        str(tmp_path / "wds"),
        "--output",
        str(tmp_path / "p.jsonl"),
        "--streaming",
    ]
    assert main([*command, "--batch-size", "2"]) == 1 and not list(tmp_path.glob("p*"))
    assert main([*command, "--batch-size", "2", "--skip-bad-posts"]) == 0
    assert "1 posts left out in all" in caplog.text
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 12
    assert main([*command, "--split", "test"]) == 1


def test_a_data_set_of_the_hub_comes_row_by_row(tmp_path, monkeypatch):
    rows = [{"image": as_bytes(picture(colour=i)), "text": f"dog {i}"} for i in range(5)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    real, asked = datasets.load_dataset, []

    def load(name, streaming):
        asked.append((name, streaming))
        return real(
            "parquet", data_files=str(tmp_path / "t.parquet"), streaming=streaming, cache_dir=str(tmp_path / "c")
        )

    monkeypatch.setattr(sources.datasets, "load_dataset", load)
    run = save_run(tmp_path / "run")
    assert main(["predict", str(run), "--data", "some/posts", "--output", str(tmp_path / "p.csv"), "--streaming"]) == 0
    assert asked == [("some/posts", True)] and len((tmp_path / "p.csv").read_text().splitlines()) == 6


def test_shards_of_one_name_in_several_folders_are_told_apart(tmp_path):
    for split in ("train", "val", "test"):
        write_shard(tmp_path / split / "0.tar", {f"{i}": {"json": json.dumps({"id": f"{split}{i}", "text": f"{split} {i}",
                                                 "mood": "ab"[i % 2]})} for i in range(6)})  # fmt: skip
    broken = {f"{i}": {"json": json.dumps({"text": f"t{i}", "mood": "ab"[i % 2]})} for i in range(6)}
    write_shard(tmp_path / "train" / "0.tar", broken | {"1": {"txt": b"\xff\xfe"}})
    description = DataDescription(str(tmp_path), labels=["mood"])
    found, _, left_out = read_posts(description, skip_bad_posts=True)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 5, "validation": 6, "test": 6}
    assert [problem.where for problem in left_out] == ["train/0.tar:1"]


def test_columns_are_those_of_every_shard(tmp_path):
    write_shard(tmp_path / "test-0.tar", {f"t{i}": {"txt": f"new {i}"} for i in range(5)})
    write_shard(tmp_path / "train-0.tar", {f"{i}": {"txt": f"words {i}", "cls": i % 2} for i in range(20)})
    found, tasks, _ = read_posts(DataDescription(str(tmp_path), labels=["cls"]), training=False)
    assert tasks[0]["labels"] == ["0", "1"] and len(found["test"]) == 5


def test_compressed_shards_are_read_and_those_of_other_folders_named(tmp_path, caplog):
    content = write_shard(tmp_path / "a.tar", posts(0, 4)).read_bytes()
    (tmp_path / "a.tar").unlink()
    (tmp_path / "train-0.tar.gz").write_bytes(gzip.compress(content))
    write_shard(tmp_path / "val-0.tgz", posts(4, 4))
    write_shard(tmp_path / "extra" / "y.tar", posts(8, 1))
    found, _, _ = read_posts(DataDescription(str(tmp_path), labels=["mood"]))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 4, "validation": 4}
    assert "not read: extra/y.tar lies in a folder that is called as no split is" in caplog.text


def test_what_files_of_one_post_say_differently(tmp_path, caplog):
    files = {
        "0": {"json": '{"text": "from json", "mood": "a", "id": null}', "txt": "from txt"},
        "1": {"txt": "the text", "json": '{"text": "another", "mood": "b"}'},
        "2": {"txt": "the same", "json": '{"text": "the same", "mood": "b"}'},
        "3": {"en.txt": "english", "txt": "deutsch"},
        "4": {"a.json": '{"mood": "a"}', "b.json": '{"mood": "b"}', "txt": "x"},
    }
    write_shard(tmp_path / "0.tar", files)
    found, _, left_out = read_posts(
        DataDescription(str(tmp_path), labels=["mood"]), skip_bad_posts=True, training=False, split_at_random=False
    )
    assert found["all"]["text"] == ["from txt", "the text", "the same"] and found["all"]["id"] == ["0", "1", "2"]
    assert "2 posts have another text in their .json than in a file of their own, which counts" in caplog.text
    assert [(p.where, p.what) for p in left_out] == [
        ("0.tar:3", "text stands in several .txt files, which differ"),
        ("0.tar:4", "mood stands in several .json files, which differ"),
    ]


def test_an_archive_beside_pictures_is_no_data(tmp_path, caplog):
    content = write_shard(tmp_path / "old.tar", posts(0, 4)).read_bytes()
    (tmp_path / "old.tar").unlink()
    for name in ("cat", "dog"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(6):
            picture(colour=i).save(tmp_path / "d" / name / f"{i}.png")
    (tmp_path / "d" / "backup.tgz").write_bytes(gzip.compress(content))
    found = read_posts(DataDescription(str(tmp_path / "d"), labels=["label"]), training=False, split_at_random=False)[0]
    assert len(found["all"]) == 12 and "not read: backup.tgz lies beside pictures" in caplog.text


def test_processes_name_posts_of_parts_alike(tmp_path):
    parts = {
        part: datasets.Dataset.from_list([{"id": f"{part} {i}", "text": "x"} for i in range(4)])
        for part in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    description = DataDescription(str(tmp_path / "d"))
    whole = [post["id"] for _, post, _ in stream_posts(description)]
    shares = [[post["id"] for _, post, _ in stream_posts(description, lambda i, n=n: i // 2 % 2 == n)] for n in (0, 1)]
    assert sorted(whole) == sorted(shares[0] + shares[1]) and whole[4] == "test/test 0"
