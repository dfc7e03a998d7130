"""Text removal over a folder: whatever one picture does to an engine, the others are treated and all are counted."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
from PIL import Image

from modeling_mm_orient.data import folder_text_removal as module
from modeling_mm_orient.data.folder_text_removal import TEXTS_FILE, remove_text_from_folder
from modeling_mm_orient.pictures import read_image
from modeling_mm_orient.text_removal import TextRegion

from .helpers import as_bytes, picture

WHAT = {1: ValueError("odd"), 2: MemoryError(), 3: RuntimeError("engine"), 4: OSError("lost"), 5: KeyError("x")}


def reader(pixels: np.ndarray) -> list[TextRegion]:
    """An engine that fails by what the picture shows, and dies of 9."""
    shown = int(pixels[0, 0, 0])
    if shown in WHAT:
        raise WHAT[shown]
    if shown == 9:
        os._exit(1)
    return [TextRegion([[2, 2], [18, 2], [18, 8], [2, 8]], f"{pixels.shape[1]} x {pixels.shape[0]}", 0.9)]


def slow_reader(pixels: np.ndarray) -> list[TextRegion]:
    time.sleep(0.5)
    return []


def inpainter(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(200), pixels)


READER, SLOW, INPAINTER = (f"{__name__}:{name}" for name in ("reader", "slow_reader", "inpainter"))


def lines(target) -> dict[str, dict]:
    return {line["image"]: line for line in map(json.loads, (target / TEXTS_FILE).read_text().splitlines())}


def draw(folder, *shown: int):
    folder.mkdir(exist_ok=True)
    for number in shown:
        picture(colour=(number, 0, 0)).save(folder / f"{number}.png")
    return folder


def test_any_exception_of_an_engine_is_that_pictures_problem(tmp_path):
    folder = draw(tmp_path / "d", 0, 1, 2, 3, 4, 5, 6)
    counts = remove_text_from_folder(folder, tmp_path / "out", READER, INPAINTER)
    assert counts == {"pictures": 7, "done_before": 0, "treated": 2, "skipped": 5}
    found = lines(tmp_path / "out")
    assert found["2.png"]["problem"] == "MemoryError" and found["3.png"]["problem"] == "engine" and len(found) == 7


def test_a_target_of_another_folder_or_engine_is_not_gone_on_with(tmp_path):
    first, second, target = draw(tmp_path / "a", 0, 6), draw(tmp_path / "b", 0, 7), tmp_path / "out"
    assert remove_text_from_folder(first, target, READER, INPAINTER)["treated"] == 2
    with pytest.raises(ValueError, match=r"was made with the source .*a, not .*b; name another output"):
        remove_text_from_folder(second, target, READER, INPAINTER)
    with pytest.raises(ValueError, match=r"was made with the reader .*:reader, not .*:slow_reader"):
        remove_text_from_folder(first, target, SLOW, INPAINTER)
    assert remove_text_from_folder(first, target, READER, INPAINTER)["done_before"] == 2


def test_an_engine_that_is_not_installed_is_no_pictures_problem(tmp_path, monkeypatch):
    def missing(*_):
        raise ImportError("pip install it")

    monkeypatch.setattr(module, "read_text", missing)
    with pytest.raises(ImportError, match="pip install it"):
        remove_text_from_folder(draw(tmp_path / "d", 0), tmp_path / "out", READER, INPAINTER)


def test_a_full_disk_is_no_pictures_problem(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        remove_text_from_folder(draw(tmp_path / "d", 0), tmp_path / "out", READER, INPAINTER)


@pytest.mark.slow
def test_a_picture_that_a_process_dies_of(tmp_path):
    folder = draw(tmp_path / "d", 0, 6, 7, 8, 9, 10, 11)
    counts = remove_text_from_folder(folder, tmp_path / "out", READER, INPAINTER, workers=2)
    assert counts == {"pictures": 7, "done_before": 0, "treated": 6, "skipped": 1}
    assert lines(tmp_path / "out")["9.png"]["problem"] == "the process that treated it died"


def test_what_is_no_regular_file(tmp_path):
    folder = draw(tmp_path / "d", 0)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    with open(os.path.join(os.fsencode(folder), b"\xff.png"), "wb") as file:
        file.write(as_bytes(picture()))
    counts = remove_text_from_folder(folder, tmp_path / "out", READER, INPAINTER)
    assert counts == {"pictures": 4, "done_before": 0, "treated": 2, "skipped": 2}
    again = remove_text_from_folder(folder, tmp_path / "out", READER, INPAINTER)
    assert again == {"pictures": 4, "done_before": 2, "treated": 0, "skipped": 2}
    (folder / "loop.jpg").unlink()
    (folder / "loop.jpg").write_bytes(as_bytes(picture(), "JPEG"))  # mended
    again = remove_text_from_folder(folder, tmp_path / "out", READER, INPAINTER)
    assert again == {"pictures": 4, "done_before": 2, "treated": 1, "skipped": 1}
    written = (tmp_path / "out" / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(written) == 4 and "problem" not in lines(tmp_path / "out")["loop.jpg"]


def test_large_and_long_pictures_are_treated_smaller(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    Image.new("1", (8000, 8000)).save(folder / "large.png")
    Image.new("1", (2_000_000, 30)).save(folder / "long.png")
    Image.new("1", (80_000_000, 1)).save(folder / "line.png")
    picture(size=(1600, 100)).save(folder / "as it is.png")
    before, clock = psutil.Process().memory_info().rss, time.process_time()
    assert remove_text_from_folder(folder, tmp_path / "out", READER, INPAINTER)["treated"] == 4
    assert psutil.Process().memory_info().rss - before < 2**30 and time.process_time() - clock < 30
    found = lines(tmp_path / "out")
    assert found["large.png"]["reduced_from"] == [8000, 8000] and found["line.png"]["reduced_from"] == [80_000_000, 1]
    sizes = {name: Image.open(tmp_path / "out" / name).size for name in found}
    assert (
        sizes["large.png"] == (4000, 4000) and sizes["long.png"] == (4096, 256) and sizes["as it is.png"] == (1600, 100)
    )
    assert "reduced_from" not in found["as it is.png"]


@pytest.mark.parametrize(
    "name, kind", [("a", "PNG"), ("b", "JPEG"), ("c.avif", "AVIF"), ("d.jp2", "JPEG2000"), ("e.1", "WEBP")]
)
def test_every_suffix_is_written_and_read_again(tmp_path, name, kind):
    (tmp_path / "d").mkdir()
    picture(size=(300, 20)).save(tmp_path / "d" / name, kind)
    picture(size=(300, 20)).save(tmp_path / "d" / "f.ico", "PNG")
    assert remove_text_from_folder(tmp_path / "d", tmp_path / "out", READER, INPAINTER)["treated"] == 2
    assert Image.open(tmp_path / "out" / name).format == kind
    assert Image.open(tmp_path / "out" / "f.ico").size == (300, 20)


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    folder = draw(tmp_path / "d", *range(100, 200))
    command = [
        sys.executable,
        "-m",
        "modeling_mm_orient",
        "remove-text",
        str(folder),
        "--output",
        str(tmp_path / "out"),
    ]
    command += ["--reader", SLOW, "--inpainter", INPAINTER, "--workers", "2"]
    process = psutil.Popen(command)
    texts = tmp_path / "out" / TEXTS_FILE
    while process.poll() is None and not (texts.exists() and texts.stat().st_size):
        with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            process.wait(timeout=0.05)
    children = process.children(recursive=True)
    process.kill()
    process.wait()
    assert len(children) >= 2 and psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.parametrize("line", ["{", "[]", "7", "{}", '{"image": 3}', "[" * 100_000])
def test_a_line_of_the_texts_that_is_none_is_named(tmp_path, line):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "texts.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"texts\.jsonl:1: no line of mm-orient remove-text"):
        remove_text_from_folder(tmp_path / "in", tmp_path / "out")


def test_what_is_written_can_be_read_whatever_a_picture_is_called(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    for suffix in ("tga", "pcx", "eps", "sgi", "icns", "dds", "im", "msp", "palm", "bmp", "gif"):
        (folder / f"a.{suffix}").write_bytes(as_bytes(picture()))
    (folder / "b.tga").write_bytes(as_bytes(picture(), "JPEG"))
    names = sorted(path.name for path in folder.iterdir())
    counts = remove_text_from_folder(folder, tmp_path / "out", READER, INPAINTER)
    assert counts["treated"] == len(names) and not counts["skipped"]
    for name in names:
        assert read_image(tmp_path / "out" / name).size == (20, 30), name
