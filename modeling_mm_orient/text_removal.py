# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Text on pictures (paper section 4.1): found, read, masked and painted over.

Shapes: H x W pixels.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .optional_dependencies import cv2, rapidocr

LEAST_SCORE = 0.5
LEAST_SIDE = 6  # pixels; in less no letter can be read, and engines enlarge it to gigabytes
MOST_INPAINTED = 4_000_000  # pixels; more are filled in a reduced copy
LONGEST_SIDE = 1600  # a reader sees larger pictures reduced
INPAINT_RADIUS = 4


class TextRegion(NamedTuple):
    """A line of text: `corners` (4, 2) x and y in pixels, clockwise from the top left; `text`; `score` from 0 to 1."""

    corners: list[list[float]]
    text: str
    score: float


def rapidocr_reader(picture: np.ndarray) -> list[TextRegion]:
    """Text lines of an RGB `picture` (H, W, 3) by RapidOCR, whose models come with its package."""
    if rapidocr is None:
        raise ImportError("reading text on pictures needs RapidOCR: pip install rapidocr onnxruntime")
    found = _rapidocr_engine()(np.ascontiguousarray(picture[:, :, ::-1]))
    if found.boxes is None:
        return []
    return [
        TextRegion(np.asarray(box).tolist(), text, float(score))
        for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True)
    ]


@cache
def _rapidocr_engine():
    threads = {f"EngineConfig.onnxruntime.{name}_op_num_threads": 1 for name in ("intra", "inter")}
    return rapidocr.RapidOCR(params={"Global.log_level": "critical"} | threads)


def opencv_inpainter(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An RGB `picture` (H, W, 3) whose pixels of bool `mask` (H, W) are filled from around them (Telea 2004)."""
    if cv2 is None:
        raise ImportError("painting over text needs OpenCV: pip install opencv-python-headless")
    return cv2.inpaint(np.ascontiguousarray(picture), mask.astype(np.uint8) * 255, INPAINT_RADIUS, cv2.INPAINT_TELEA)


READERS: dict[str, Callable[[np.ndarray], list[TextRegion]]] = {"rapidocr": rapidocr_reader}
INPAINTERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"opencv": opencv_inpainter}


def registered(choice, table: dict[str, Callable], argument: str):
    """A name in `table`, or a function, as it is: what a file may say is a name in the table, and nothing is imported.

    Raises:
        ValueError: it is another name; the message has `argument`.
    """
    if callable(choice) or (isinstance(choice, str) and choice in table):
        return choice
    raise ValueError(
        f"`{argument}` must be one of {', '.join(table)}, or a function of your own (itself, not its name: a name in a file "
        f"would be code that the file runs), got {choice!r}"
    )


def find_by_name(name: str | Callable, table: dict[str, Callable]) -> Callable:
    """A function as it is, an entry of `table`, or a function of the caller's own as `package.module:function`.

    For names that a caller gives, never for those in a file: see `registered`.

    Raises:
        ValueError: there is none of them.
    """
    if callable(name):
        return name
    if name in table:
        return table[name]
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name!r} is none of {', '.join(table)}, and no `package.module:function` ({error})"
        ) from None


def read_text(picture: Image.Image, reader: str | Callable = "rapidocr") -> list[TextRegion]:
    """Lines of text on an RGB picture, from top to bottom and left to right; uncertain ones (score below .5) are left out.

    Args:
        reader: name in `READERS`, a function, or its `package.module:function`: RGB array (H, W, 3) -> `TextRegion`s.
    """
    if min(picture.size) < LEAST_SIDE:
        return []
    scale = min(1.0, LONGEST_SIDE / max(picture.size))
    smaller = picture if scale == 1 else picture.resize([max(1, round(side * scale)) for side in picture.size])
    regions = find_by_name(reader, READERS)(np.asarray(smaller))
    regions = [
        TextRegion([[x / scale, y / scale] for x, y in region.corners], region.text.strip(), region.score)
        for region in regions
        if region.score >= LEAST_SCORE and region.text.strip()
    ]
    return sorted(regions, key=lambda region: _place(region, regions))


def joined_text(regions: list[TextRegion]) -> str:
    """The lines in reading order as one text."""
    return " ".join(region.text for region in regions)


def text_mask(size: tuple[int, int], regions: list[TextRegion]) -> np.ndarray:
    """Bool (H, W) of a picture of `size` (W, H): the regions, grown by an eighth of their height for outlines."""
    mask = Image.new("L", size)
    for region in regions:
        own = Image.new("L", size)
        ImageDraw.Draw(own).polygon([tuple(corner) for corner in region.corners], fill=255)
        grown = max(1, round(_height(region) / 8))
        mask.paste(255, mask=own.filter(ImageFilter.MaxFilter(2 * grown + 1)))
    return np.asarray(mask) > 0


def remove_text(picture: Image.Image, regions: list[TextRegion], inpainter: str | Callable = "opencv") -> Image.Image:
    """An RGB picture with its regions of text painted over.

    Args:
        inpainter: name in `INPAINTERS`, a function, or its `package.module:function`: RGB array (H, W, 3) and bool mask
            (H, W) -> array.
    """
    if not regions:
        return picture
    mask = text_mask(picture.size, regions)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return picture
    margin = 4 * INPAINT_RADIUS  # what lies farther off does not matter to the filling
    window = (
        slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
        slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
    )
    pixels = np.array(picture)
    pixels[window] = _filled(pixels[window], mask[window], find_by_name(inpainter, INPAINTERS))
    return Image.fromarray(pixels)


def _filled(pixels: np.ndarray, mask: np.ndarray, inpainter: Callable) -> np.ndarray:
    """`pixels` (H, W, 3) with `mask` (H, W) filled; of a large picture the filling is that of a smaller copy."""
    if mask.size <= MOST_INPAINTED:
        return inpainter(pixels, mask)
    height, width = mask.shape
    scale = (MOST_INPAINTED / mask.size) ** 0.5
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(pixels).resize(size))
    small_mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BOX, reducing_gap=None)) > 0
    found = Image.fromarray(inpainter(small, small_mask)).resize((width, height), Image.Resampling.BICUBIC)
    return np.where(mask[..., None], np.asarray(found), pixels)


def _height(region: TextRegion) -> float:
    (_, top), (_, other_top), (_, bottom), (_, other_bottom) = region.corners
    return max(1.0, (bottom + other_bottom - top - other_top) / 2)


def _place(region: TextRegion, regions: list[TextRegion]) -> tuple[float, float]:
    """Line, then column: regions whose middles are within half a height of each other are on one line."""
    middle = sum(y for _, y in region.corners) / 4
    lines = [sum(y for _, y in other.corners) / 4 for other in regions]
    own = min(line for line in lines if abs(line - middle) < _height(region) / 2)
    return own, min(x for x, _ in region.corners)
