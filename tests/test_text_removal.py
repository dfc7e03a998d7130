"""Text on pictures that we drew ourselves, so that every character and every pixel of it is known."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from modeling_mm_orient.data.folder_text_removal import MADE_FILE, TEXTS_FILE, remove_text_from_folder
from modeling_mm_orient.optional_dependencies import TEXT_REMOVAL_AVAILABLE
from modeling_mm_orient.text_cleaning import PAPER_STEPS
from modeling_mm_orient.text_removal import (
    INPAINTERS,
    TextRegion,
    find_by_name,
    joined_text,
    read_text,
    remove_text,
    text_mask,
)

from .helpers import make_processor

needs_engines = pytest.mark.skipif(not TEXT_REMOVAL_AVAILABLE, reason="RapidOCR and OpenCV are not installed")
TEXT = "WHEN THE CODE WORKS"


def backdrop() -> Image.Image:
    """A smooth picture: what was under the text can be told from around it."""
    rows, columns = np.mgrid[0:240, 0:400]
    return Image.fromarray(np.stack([60 + rows // 4, 90 + columns // 8, 160 - rows // 4], -1).astype(np.uint8))


def meme(*lines: str) -> Image.Image:
    picture = backdrop()
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(28)
    for number, line in enumerate(lines):
        draw.text((200, 10 + 180 * number), line, "white", font, "ma", stroke_width=2, stroke_fill="black")
    return picture


def fake_reader(picture: np.ndarray) -> list[TextRegion]:
    """Stands for an engine of the user's own: two words on a line, the right one found first, and one that is uncertain."""
    boxes = {"right": (60, 12, 90, 20), "left": (10, 11, 40, 21), "below": (10, 50, 60, 60)}
    regions = [TextRegion([[x, y], [X, y], [X, Y], [x, Y]], word, 0.9) for word, (x, y, X, Y) in boxes.items()]
    return [*regions, TextRegion([[0, 0], [9, 0], [9, 9], [0, 9]], "noise", 0.2)]


def grey_inpainter(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(128), picture)


READER, INPAINTER = f"{__name__}:fake_reader", f"{__name__}:grey_inpainter"


@needs_engines
def test_text_is_read_in_order_and_painted_over():
    picture = meme(TEXT, "AND NOBODY KNOWS WHY")
    regions = read_text(picture)
    # the engine now and then joins words of a narrow font; every character must be right
    assert joined_text(regions).replace(" ", "") == f"{TEXT} AND NOBODY KNOWS WHY".replace(" ", "")
    clean, treated, drawn = (np.asarray(p).astype(int) for p in (backdrop(), remove_text(picture, regions), picture))
    text = np.abs(drawn - clean).max(-1) > 30
    assert text.sum() > 3000
    still_there = np.abs(treated - clean).max(-1) > 30
    assert (still_there & text).sum() < 0.01 * text.sum()
    assert (treated == drawn)[~text_mask(picture.size, regions)].all()


@needs_engines
def test_a_picture_without_text_stays_as_it_is():
    assert read_text(backdrop()) == [] and remove_text(backdrop(), []) == backdrop()


@needs_engines
def test_corners_of_a_large_picture_are_in_its_own_pixels():
    region = read_text(meme(TEXT).resize((4000, 2400)))[0]
    small = read_text(meme(TEXT))[0]
    assert region.text.replace(" ", "") == small.text.replace(" ", "") == TEXT.replace(" ", "")
    np.testing.assert_allclose(np.array(region.corners), 10 * np.array(small.corners), atol=60)


def test_other_engines_by_name_and_uncertain_text_left_out():
    regions = read_text(Image.new("RGB", (100, 80)), READER)
    assert [region.text for region in regions] == ["left", "right", "below"]
    treated = np.asarray(remove_text(Image.new("RGB", (100, 80)), regions, INPAINTER))
    assert (treated[15, 20] == 128).all() and (treated[40, 20] == 0).all()


@pytest.mark.parametrize("name", ["lama", "no.such.module:f", "json:nothing"])
def test_unknown_engines_are_refused(name):
    with pytest.raises(ValueError, match="none of opencv, and no `package"):
        find_by_name(name, INPAINTERS)


def test_mask_covers_the_region_and_a_margin():
    mask = text_mask((60, 40), [TextRegion([[10, 10], [40, 10], [40, 26], [10, 26]], "x", 1.0)])
    assert mask.shape == (40, 60) and mask[10:26, 10:40].all() and mask[8, 20] and not mask[5, 20] and not mask[20, 45]


@needs_engines
def test_a_bare_picture_is_classified_by_the_text_on_it():
    processor = make_processor(read_missing_text=True, text_cleaning=PAPER_STEPS)
    found = processor(images=[meme(TEXT), backdrop()], text=[None, "given"], return_tensors="pt")
    read = joined_text(read_text(meme(TEXT))).lower()
    given = make_processor()(images=[meme(TEXT), backdrop()], text=[read, "given"], return_tensors="pt")
    assert found["input_ids"].tolist() == given["input_ids"].tolist() and found["has_text"].tolist() == [True, True]
    assert (found["pixel_values"] == given["pixel_values"]).all()


@needs_engines
def test_the_processor_takes_text_off_pictures_and_remembers(tmp_path):
    processor = make_processor(remove_overlaid_text=True)
    processor.save_pretrained(tmp_path)
    processor = type(processor).from_pretrained(tmp_path)
    treated, clean, drawn = (
        p(images=[picture], text=["x"], return_tensors="pt")["pixel_values"]
        for p, picture in ((processor, meme(TEXT)), (make_processor(), backdrop()), (make_processor(), meme(TEXT)))
    )
    assert (treated - clean).abs().max() < 0.05 < (drawn - clean).abs().max()


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "memes"
    (source / "more").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (100, 80), (number, 0, 0)).save(source / ("more" if number % 2 else "") / f"{number}.png")
    (source / "broken.jpg").write_bytes(b"no picture")
    (source / "notes.txt").write_text("not a picture")
    (tmp_path / "secret.png").write_bytes((source / "0.png").read_bytes())
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    return source


def lines(target) -> list[dict]:
    return [json.loads(line) for line in (target / TEXTS_FILE).read_text().splitlines()]


def test_a_folder_is_treated_whole_and_reported(folder, tmp_path):
    target = tmp_path / "clean"
    counts = remove_text_from_folder(folder, target, READER, INPAINTER)
    assert counts == {"pictures": 6, "done_before": 0, "treated": 4, "skipped": 2}
    assert (np.asarray(Image.open(target / "more" / "1.png"))[15, 20] == 128).all()
    assert next(line["text"] for line in lines(target) if line["image"] == "0.png") == "left right below"
    problems = {line["image"]: line["problem"] for line in lines(target) if "problem" in line}
    assert problems["link.png"] == "a link out of the folder" and "cannot be read" in problems["broken.jpg"]
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == [
        MADE_FILE,
        *(f"{n}.png" for n in range(4)),
        TEXTS_FILE,
    ]


def test_it_goes_on_after_a_crash_at_any_moment(folder, tmp_path):
    target = tmp_path / "clean"
    remove_text_from_folder(folder, target, READER, INPAINTER)
    expected = sorted(line["image"] for line in lines(target))
    whole = (target / TEXTS_FILE).read_bytes()
    # killed while a line was written, and after a picture but before its line
    (target / TEXTS_FILE).write_bytes(whole[: len(whole) // 2])
    left = len((target / TEXTS_FILE).read_bytes().splitlines()) - 1
    counts = remove_text_from_folder(folder, target, READER, INPAINTER)
    assert counts["done_before"] == left and counts["treated"] + counts["skipped"] == 6 - left
    assert sorted(line["image"] for line in lines(target)) == expected
    (target / "0.png").unlink()
    assert remove_text_from_folder(folder, target, READER, INPAINTER)["treated"] == 1


@pytest.mark.slow
def test_killed_for_good_nothing_is_lost_or_double(folder, tmp_path):
    for number in range(60):
        Image.new("RGB", (300, 200), (number, 0, 0)).save(folder / f"many{number:02}.png")
    target = tmp_path / "clean"
    command = [sys.executable, "-m", "modeling_mm_orient", "remove-text", str(folder), "--output", str(target)]
    command += ["--reader", READER, "--inpainter", INPAINTER, "--workers", "2"]
    for wanted in (5, 25):
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and (not (target / TEXTS_FILE).exists() or len(lines_so_far(target)) < wanted):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    names = [line["image"] for line in lines(target)]
    assert len(names) == 66 and len(set(names)) == 66
    assert len(list(target.rglob("*.png"))) == 64 and not list(target.rglob("*.partial*.png"))


def lines_so_far(target) -> list[bytes]:
    return (target / TEXTS_FILE).read_bytes().splitlines()


def test_wrong_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="must be different folders"):
        remove_text_from_folder(folder, folder / "inside")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        remove_text_from_folder(tmp_path / "none", tmp_path / "clean")
    with pytest.raises(ValueError, match="none of rapidocr"):
        remove_text_from_folder(folder, tmp_path / "clean", reader="tesseract")
    assert not (tmp_path / "clean").exists()
