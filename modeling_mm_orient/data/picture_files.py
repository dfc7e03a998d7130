# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Picture files of a data folder: which there are, which one a table means, and whether each can be read."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..pictures import MAX_IMAGE_PIXELS, read_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
IMAGE_FOLDERS = ("", "images", "img", "image")
CHECKING_THREADS = 8
LARGE_PICTURE = 4_000_000  # pixels; larger ones are checked in one thread: what a thread has taken, it keeps
LATER = ("later", "")


def pictures_below(folder: Path) -> list[Path]:
    """All picture files in a folder and those inside it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())


def image_finder(folder: Path) -> Callable[[str | bytes | dict], dict]:
    """A function from a table's picture to an image dict: a path in the folder, a file name unique below it, or its bytes.

    It raises ValueError for a link out of the folder and its image folders (which may be links themselves).
    """
    roots = [(folder / place).resolve() for place in IMAGE_FOLDERS]
    if folder.absolute().parent.name == "snapshots":  # of a Hub cache: its files are links to the blobs beside it
        roots.append(folder.absolute().parent.parent / "blobs")

    @cache
    def by_name() -> dict[str, list[Path]]:
        names = {}
        for path in pictures_below(folder):
            names.setdefault(path.name, []).append(path)
        return names

    def find(value: str | bytes | dict) -> dict:
        if isinstance(value, dict):
            return value
        if isinstance(value, bytes):
            return {"path": None, "bytes": value}
        candidates = [folder / place / str(value) for place in IMAGE_FOLDERS]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            found = by_name().get(Path(str(value)).name, [])
            path = found[0] if len(found) == 1 else candidates[0]
        inside, real = Path(os.path.abspath(path)).is_relative_to(folder.absolute()), path.resolve()
        if inside and path.is_file() and not any(real.is_relative_to(root) for root in roots):
            raise ValueError(f"image {value} is a link out of the folder, to {real}")
        return {"path": str(path), "bytes": None}

    return find


def picture_name(image, folder: Path) -> str | None:
    """What the table calls the picture, or its place in the folder."""
    if isinstance(image, dict):
        path = Path(image.get("path") or "").absolute()
        return str(path.relative_to(folder.absolute())) if path.is_relative_to(folder.absolute()) else None
    return image if isinstance(image, str) else None


def image_problems(images: list[dict]) -> Iterator[tuple[str, str] | None]:
    """Of each image the kind and description of what is wrong with it, or None; every picture is decoded once."""
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        found = pool.map(lambda image: _image_problem(image, LARGE_PICTURE), images)
        for image, problem in zip(images, found, strict=True):
            yield _image_problem(image) if problem == LATER else problem


def _image_problem(image: dict, most_pixels: int = MAX_IMAGE_PIXELS) -> tuple[str, str] | None:
    """What is wrong with an image; `LATER` above `most_pixels`. JPEGs are decoded at an eighth of their size."""
    path = image.get("path")
    if image.get("bytes") is None and not Path(path).is_file():
        return "missing image", f"image {path} does not exist"
    try:
        with Image.open(path if image.get("bytes") is None else BytesIO(image["bytes"])) as picture:
            pixels = picture.width * picture.height
            if picture.format == "JPEG" and pixels <= MAX_IMAGE_PIXELS:
                picture.draft("RGB", (picture.width // 8, picture.height // 8))
                picture.load()
                return None
        if most_pixels < pixels <= MAX_IMAGE_PIXELS:
            return LATER
        read_image(image)
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more for broken files
        return "unreadable image", f"image {path or ''} cannot be read: {error}"
    return None
