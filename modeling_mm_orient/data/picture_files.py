# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Picture files of a data folder: which there are, which one a table means, and whether each can be read."""

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..pictures import FORMATS, MAX_IMAGE_PIXELS, format_of, read_image, reduced
from .problems import LINK_OUT, readable, shown

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".avifs",
    ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".ico", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".mpo",
)  # fmt: skip
NOT_SNIFFED = (
    ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".npy", ".txt", ".md", ".rst", ".html", ".xml", ".yaml", ".yml",
    ".py", ".ipynb", ".log", ".lock", ".zip", ".gz", ".tar", ".h5", ".pdf", ".safetensors", ".bin", ".pt",
)  # fmt: skip
WEAK_SIGNATURES = ("DIB",)  # four bytes that any file may begin with
IMAGE_FOLDERS = ("", "images", "img", "image")
ARCHIVE_LEFTOVERS = ("__MACOSX",)
CHECKING_THREADS = 8
LARGE_PICTURE = 4_000_000  # pixels; larger ones are checked in one thread: what a thread has taken, it keeps
CANNOT_BE_READ = " cannot be read: "  # as `read_image` says it
LATER = ("later", "")
URL = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)


class PictureRefused(ValueError):
    """A picture of a table that is not read; `kind` of the problem."""

    def __init__(self, kind: str, what: str):
        super().__init__(what)
        self.kind = kind


class Places:
    """Where files that a data folder names may lie: in it and its image folders (which may be links themselves), as a
    snapshot of the Hub's cache in the blobs beside it, and in the folders of `more`."""

    def __init__(self, folder: Path, more: Iterable[str] = ()):
        roots = [folder / place for place in IMAGE_FOLDERS] + [Path(place).expanduser() for place in more]
        if folder.absolute().parent.name == "snapshots":  # of a Hub cache: its files are links to the blobs beside it
            roots.append(folder.absolute().parent.parent / "blobs")
        self.folder = folder.absolute()
        self.roots = [Path(os.path.realpath(root)) for root in roots]

    def allow(self, path: Path) -> bool:
        """Whether a file, there or not, lies in one of them, wherever its links lead."""
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(root) for root in self.roots)

    def refusal(self, path: Path, value) -> PictureRefused:
        """Why a file that is not allowed is not read."""
        if Path(os.path.abspath(path)).is_relative_to(self.folder):
            real = readable(os.path.realpath(path))
            return PictureRefused(LINK_OUT, f"image {readable(str(value))} is a link out of the folder, to {real}")
        what = f"image {shown(value)} lies outside the folder; --allow-outside FOLDER allows pictures there"
        return PictureRefused("outside the folder", what)


def is_regular(path) -> bool:
    """Whether a file is there that can be opened without waiting; no error for what cannot be a path."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def pictures_below(folder: Path, report: bool = False) -> list[Path]:
    """All picture files in a folder and those inside it, sorted, by their suffixes or, where these say nothing, their first
    bytes. Hidden ones are none. With `report` the log says what was left out."""
    found, others, left_out = [], Counter(), []
    for path in _files_below(folder, left_out):
        if path.name.startswith("."):
            left_out.append(f"hidden file {path}")
        elif _is_picture(path):
            found.append(path)
        else:
            others[path.suffix or "no suffix"] += 1
    if report and others:
        most = ", ".join(f"{count} with {suffix}" for suffix, count in others.most_common(5))
        logger.info("%s: %d files are no pictures (%s)", readable(str(folder)), others.total(), readable(most))
    if report and left_out:
        said = readable("; ".join(left_out[:5]))
        logger.warning(
            "%s: %d hidden, linked or unreadable places not looked at: %s", readable(str(folder)), len(left_out), said
        )
    return sorted(found)


def any_picture_below(folder: Path) -> bool:
    """Whether there is one, by suffix."""
    files = _files_below(folder, [])
    return any(path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") for path in files)


def _files_below(folder: Path, left_out: list[str]) -> Iterator[Path]:
    """Everything but folders, in the folder, those inside it and its image folders that are links.

    What is not gone into is added to `left_out`.
    """
    linked = [folder / place for place in IMAGE_FOLDERS if place and (folder / place).is_symlink()]

    def unreadable(error: OSError) -> None:
        left_out.append(str(error))

    for start in [folder, *linked]:
        for place, folders, names in os.walk(start, onerror=unreadable):
            links = [Path(place, name) for name in folders if os.path.islink(os.path.join(place, name))]
            passed = [name for name in folders if name.startswith(".") or name in ARCHIVE_LEFTOVERS]
            left_out.extend(f"link to a folder {link}" for link in links if link not in linked)
            left_out.extend(f"folder {Path(place, name)}" for name in passed)
            folders[:] = [name for name in folders if name not in passed]
            yield from (Path(place, name) for name in names)


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in NOT_SNIFFED or not is_regular(path):
        return False
    try:
        with path.open("rb") as file:
            found = format_of(file.read(16))
    except OSError:
        return False
    return found in FORMATS and found not in WEAK_SIGNATURES


def image_finder(folder: Path, allow_outside: Iterable[str] = ()) -> Callable[[str | bytes | dict], dict | None]:
    """A function from a table's picture to an image dict: a path in the folder, a file name unique below it, or its bytes.

    A dict of `path` and `bytes` counts as its bytes, or where it has none as its path; None where it has neither. The
    function raises PictureRefused for a file that lies elsewhere than `Places` says, a URL, and what is no picture at all. A
    file that is not there gets its path all the same.

    Args:
        allow_outside: further folders in which pictures may lie.
    """
    places = Places(folder, allow_outside)

    @cache
    def by_name() -> dict[str, list[Path]]:
        names = {}
        for path in pictures_below(folder):
            names.setdefault(path.name, []).append(path)
        return names

    def find(value: str | bytes | dict) -> dict | None:
        if isinstance(value, dict):
            if not value or set(value) - {"path", "bytes"}:
                raise PictureRefused("no picture", f"image is {shown(value)}, not a path or bytes")
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
            if value is None:
                return None
        if isinstance(value, (bytes, bytearray)):
            return {"path": None, "bytes": bytes(value)}
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            what = "a list; a post has one picture" if isinstance(value, (list, tuple)) else shown(value)
            raise PictureRefused("no picture", f"image is {what}")
        value = str(value)
        if "\0" in value:
            raise PictureRefused("no picture", f"image {shown(value)} is no file's name")
        if URL.match(value):
            raise PictureRefused(
                "outside the folder", f"image {shown(value)} is a URL; download it, a table's are not fetched"
            )
        return _image_dict(_path_of(value))

    def _path_of(value: str) -> Path:
        candidates = [folder / place / value for place in IMAGE_FOLDERS]
        there = [candidate for candidate in candidates if is_regular(candidate)]
        if path := next((candidate for candidate in there if places.allow(candidate)), None):
            return path
        if there:
            raise places.refusal(there[0], value)
        if len(found := by_name().get(Path(value).name, [])) == 1:
            candidates = found
        if not places.allow(candidates[0]):
            raise places.refusal(candidates[0], value)
        return candidates[0]

    return find


def _image_dict(path: Path) -> dict:
    """A path as an image dict; a file whose name no table can hold, as it is not UTF-8, comes as its bytes."""
    if readable(str(path)) == str(path):
        return {"path": str(path), "bytes": None}
    return {"path": None, "bytes": path.read_bytes() if is_regular(path) else b""}


def picture_name(image, folder: Path, allow_outside: Iterable[str] = ()) -> str | None:
    """What the table calls the picture, or its place in the folder, or in one of those outside with that one's name: never a
    place of this machine; None where it has none of these."""
    path = image.get("path") if isinstance(image, dict) else image
    if not isinstance(path, str) or not path:
        return None
    if not os.path.isabs(path):
        return None if isinstance(image, dict) and image.get("bytes") is not None else readable(path)
    roots = [(folder.absolute(), "")]
    roots += [(root, root.name) for root in (Path(other).absolute() for other in allow_outside) if root.name]
    inside = [Path(name, Path(path).relative_to(root)) for root, name in roots if Path(path).is_relative_to(root)]
    return readable(str(inside[0])) if inside else None


def image_problems(images: list[dict], folder: Path = Path()) -> Iterator[tuple[str, str] | None]:
    """Of each image the kind and description of what is wrong with it, or None; every picture is decoded once.

    What has no problem here is what a processor's `read_picture` reads.

    Args:
        folder: of the data (default: the one worked in); a picture in it is called by its place there.
    """
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        found = pool.map(lambda image: _image_problem(image, folder, LARGE_PICTURE), images)
        for image, problem in zip(images, found, strict=True):
            yield _image_problem(image, folder) if problem == LATER else problem


def _image_problem(image: dict, folder: Path, most_pixels: int = MAX_IMAGE_PIXELS) -> tuple[str, str] | None:
    """What is wrong with an image; `LATER` above `most_pixels`. JPEGs are decoded at an eighth of their size."""
    path = image.get("path")
    name = "(bytes)" if path is None else shown(picture_name(image, folder) or path)
    if image.get("bytes") is None and not is_regular(path):
        what = "is no regular file" if _is_there(path) else "does not exist"
        return "missing image", f"image {name} {what}"
    try:
        pixels, sound = _glance(path if image.get("bytes") is None else BytesIO(image["bytes"]))
    except Exception:  # what opens no picture here says why below
        pixels, sound = 0, False
    if sound:
        return None
    if most_pixels < pixels <= MAX_IMAGE_PIXELS:
        return LATER
    try:
        reduced(read_image(image))
    except (ValueError, MemoryError) as error:
        _, _, why = str(error).partition(CANNOT_BE_READ)
        return "unreadable image", f"image {name}{CANNOT_BE_READ}{why or str(error) or 'too little memory'}"
    return None


def _glance(source) -> tuple[int, bool]:
    """A picture's pixels, and whether it is a JPEG that was decoded to its end."""
    with Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
        pixels = picture.width * picture.height
        if picture.format != "JPEG" or pixels > MAX_IMAGE_PIXELS:
            return pixels, False
        picture.draft("RGB", (picture.width // 8, picture.height // 8))
        picture.load()
        return pixels, True


def _is_there(path) -> bool:
    """Also of a link that leads nowhere."""
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False
