# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Pictures: read from whatever they come as, within bounds, and what names a post's content."""

import base64
import binascii
import hashlib
import io
import math
import os
import stat
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# no others are opened: PostScript starts a program of the machine's, and most of the rest nobody posts
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM")  # MPO is a JPEG
IMAGE_SOURCES = ("pil", "bytes", "array", "path", "url")
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit before it warns of a decompression bomb
LONGEST_PREFIX = 16  # bytes that say of what format a file is
MOST_ENCODED_PIXELS = 4_000_000  # larger pictures reach the encoders reduced
MOST_ELONGATED = 16  # longest side by shortest; a resize by the shortest side makes of 1 x 30,000 pixels gigabytes
LONGEST_ELONGATED = 4096  # pixels of the longest side of a picture beyond that
MAX_URL_BYTES = 64 * 2**20
URL_TIMEOUT = 10.0  # seconds without a byte
URL_DEADLINE = 30.0  # seconds for a whole picture, redirects and headers included
SHOWN = 400  # of a path or text in a message: a path is told to its end


def read_image(source, max_pixels: int = MAX_IMAGE_PIXELS, image_sources: Iterable[str] = IMAGE_SOURCES) -> Image.Image:
    """One picture as an upright RGB image.

    Args:
        source: path, URL (`http...` or `data:`), bytes, open binary file, PIL image, array or tensor ((H, W), (H, W, C) or
            (C, H, W), whole numbers to 255 or fractions to 1), or a `datasets` image dict (`{"path", "bytes"}`).
        max_pixels: larger pictures are refused before they are decoded.
        image_sources: the kinds of source that are read, of `IMAGE_SOURCES`. A server that passes on what strangers send
            takes `("pil", "bytes", "array")`: then no string is opened as a file or fetched.

    EXIF orientation is applied, transparency laid over white, 16-bit greys scaled, of an animation the first frame taken.
    Only the formats in `FORMATS` are opened. A URL has 10 seconds to answer, 30 in all, and 64 MiB.

    Raises:
        ValueError: not a picture, truncated, too large, or a source that is not allowed; the message names the source.
    """
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    name, kind = f"image {_shown(source)}", _kind(source)
    if kind is None:
        raise ValueError(f"{name} is no picture: give a path, a URL, bytes, an open file, a PIL image or an array")
    if kind not in image_sources:
        raise ValueError(f"{name}: a picture may not be given as {kind} here, only as {', '.join(image_sources)}")
    try:
        image = _opened(source, kind, max_pixels)
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels are more than the {max_pixels} allowed")
        if getattr(image, "is_animated", False):
            image.seek(0)
        image.load()
        return _to_rgb(_upright(image, in_place=image is not source))
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist") from None
    except MemoryError:
        raise ValueError(f"{name} cannot be read: too little memory") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more for broken files
        raise ValueError(f"{name} cannot be read: {str(error)[:300]}") from error


def reduced(picture: Image.Image) -> Image.Image:
    """A picture that encoders can take: one far larger than any needs is made smaller by a whole factor, one that is longer
    than 16 times its width is shortened to 4,096 pixels and laid on white of that proportion. Any other as it is."""
    excess = picture.width * picture.height / MOST_ENCODED_PIXELS
    if excess > 1 and min(picture.size) > math.ceil(math.sqrt(excess)):
        picture = picture.reduce(math.ceil(math.sqrt(excess)))
    longest, shortest = max(picture.size), min(picture.size)
    if longest <= MOST_ELONGATED * shortest:
        return picture
    # first by whole factors: a resize of tens of millions of pixels in a row takes gigabytes
    across, down = (max(1, side // (2 * LONGEST_ELONGATED)) for side in picture.size)
    picture = picture.reduce((across, down))
    longest, shortest = min(longest, LONGEST_ELONGATED), min(shortest, LONGEST_ELONGATED)
    wide = picture.width > picture.height
    picture = picture.resize((longest, shortest) if wide else (shortest, longest))
    width = max(shortest, math.ceil(longest / MOST_ELONGATED))
    canvas = Image.new("RGB", (longest, width) if wide else (width, longest), "white")
    canvas.paste(picture, (0, (width - shortest) // 2) if wide else ((width - shortest) // 2, 0))
    return canvas


def format_of(prefix: bytes) -> str | None:
    """What the first bytes of a file say it is, without opening it; None where nothing is known."""
    Image.init()
    for name, (_, accept) in Image.OPEN.items():
        try:
            if accept is not None and accept(prefix) is True:
                return name
        except (IndexError, ValueError, struct.error):  # of less than it looks at
            continue
    return None


def pictures_of(post: dict) -> list:
    """The pictures of a post: its `image`, one (anything `read_image` takes) or a list, and those in `more_images`."""
    image = post.get("image")
    first = list(image) if isinstance(image, (list, tuple)) else [image]
    return [picture for picture in [*first, *(post.get("more_images") or ())] if picture is not None]


def post_key(post: dict) -> str:
    """Key of a post's content, its pictures (see `pictures_of`) and its `text`: a SHA-256 in hexadecimal.

    A picture counts by its file's bytes; one that is open already, by its pixels.
    """
    digest = hashlib.sha256()
    for image in pictures_of(post):
        digest.update(b"image" + hashlib.sha256(_image_content(image)).digest())
    if post.get("text"):
        digest.update(b"text" + post["text"].encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def undecoded(posts):
    """A `datasets.Dataset` of posts with all columns; pictures stay bytes and paths, which `read_image` is to open."""
    form = getattr(posts, "format", None)
    if isinstance(form, dict) and form["type"] != "custom":  # which is the user's own
        posts = posts.with_format(None)  # it may leave columns out
    for name, feature in (getattr(posts, "features", None) or {}).items():
        if getattr(feature, "decode", False):
            posts = posts.cast_column(name, replace(feature, decode=False))
    return posts


def key_number(key: str) -> int:
    """The number that stands for a post's key in the `post_keys` of a batch, never 0."""
    return int(key[:15], 16) + 1


def _image_content(image) -> bytes:
    if isinstance(image, dict):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    kind = _kind(image)
    if kind == "bytes" and isinstance(image, (bytes, bytearray)):
        return bytes(image)
    if kind == "url":
        return str(image).encode()
    if kind == "path":
        _require_file(image)
        return Path(image).read_bytes()
    pixels = image if isinstance(image, Image.Image) else read_image(image)
    name = f"{pixels.mode} {pixels.size}".encode()
    if pixels.mode in ("P", "PA") or "transparency" in pixels.info:  # numbers alone do not say the colours
        pixels = pixels.convert("RGBA")
    return name + pixels.tobytes()


def _kind(source) -> str | None:
    """Which of `IMAGE_SOURCES` a source is."""
    if isinstance(source, Image.Image):
        return "pil"
    if isinstance(source, (bytes, bytearray)) or hasattr(source, "read"):
        return "bytes"
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return "url"
    if isinstance(source, (str, os.PathLike)):
        return "path"
    return "array" if hasattr(source, "shape") and hasattr(source, "__array__") else None


def _opened(source, kind: str, max_pixels: int) -> Image.Image:
    if kind == "pil":
        return source
    if kind == "array":
        return _of_array(np.asarray(source))
    if kind == "path":
        _require_file(source)
    if kind == "url":
        source = _of_data_url(source) if source.startswith("data:") else fetched(source)
    if isinstance(source, (bytes, bytearray)):
        source = io.BytesIO(source)
    Image.init()
    if _is_empty(source):
        raise ValueError("it is empty")
    width, height = _largest_of_icon(source)
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than the {max_pixels} allowed")
    try:
        return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.UnidentifiedImageError:
        if kind == "path":
            with open(source, "rb") as file:
                found = format_of(file.read(LONGEST_PREFIX))
        else:
            source.seek(0)
            found = format_of(source.read(LONGEST_PREFIX))
        if found in FORMATS:
            raise ValueError(f"it begins as {found} does, and is broken") from None
        what = "no picture in a known format" if found is None else f"pictures in {found} are not opened"
        raise ValueError(f"{what} (opened are {', '.join(FORMATS)})") from None


def _is_empty(source) -> bool:
    if isinstance(source, (str, os.PathLike)):
        return os.path.getsize(source) == 0
    here = source.tell()
    empty = not source.read(1)
    source.seek(here)
    return empty


def _largest_of_icon(source) -> tuple[int, int]:
    """The size of the largest picture in an ICO, which Pillow decodes as it opens it; (0, 0) of any other file."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return _largest_of_icon(file)
    here, sizes = source.tell(), [(0, 0)]
    try:
        head = source.read(6)
        count = struct.unpack("<H", head[4:])[0] if head[:4] == b"\0\0\1\0" and len(head) == 6 else 0
        entries = source.read(16 * count)
        for start in range(0, len(entries) - 15, 16):
            source.seek(here + struct.unpack("<I", entries[start + 12 : start + 16])[0])
            found = source.read(24)
            if len(found) == 24:
                is_png, is_short = found.startswith(b"\x89PNG"), found.startswith(b"\x0c\0\0\0")
                of_bitmap = struct.unpack("<HH", found[4:8]) if is_short else struct.unpack("<ii", found[4:12])
                width, height = struct.unpack(">II", found[16:]) if is_png else of_bitmap
                sizes.append((abs(width), abs(height) if is_png else abs(height) // 2))  # with its mask
    finally:
        source.seek(here)
    return max(sizes, key=lambda size: size[0] * size[1])


def _require_file(path) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")


def _of_array(values: np.ndarray) -> Image.Image:
    if values.ndim == 3 and values.shape[0] in (1, 3, 4) and values.shape[2] not in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or not values.size:
        raise ValueError(f"an array of a picture must be (H, W), (H, W, C) or (C, H, W), got {values.shape}")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError("the array has values that are no numbers")
        values = values * 255 if values.max() <= 1 else values
    elif values.dtype.kind == "b":
        values = values * np.uint8(255)
    elif values.dtype.kind not in "iu":
        raise ValueError(f"an array of a picture must hold numbers, got {values.dtype}")
    elif values.max() > 255:  # 16 bits, as in a file
        values = values.astype(np.float64) * (255 / 65535)
    return Image.fromarray(np.clip(np.round(values.astype(np.float32)), 0, 255).astype(np.uint8))


def _of_data_url(url: str) -> bytes:
    head, _, content = url.partition(",")
    if not head.endswith(";base64"):
        raise ValueError("a data: URL of a picture must be in base64")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from None


def fetched(
    url: str, most_bytes: int = MAX_URL_BYTES, timeout: float = URL_TIMEOUT, in_all: float = URL_DEADLINE
) -> bytes:
    """The content of a URL. A thread waits for it: a server that sends its headers byte by byte outlasts a socket's time.

    Args:
        most_bytes: of the content. timeout: seconds without a byte. in_all: seconds for all of it.

    Raises:
        ValueError: more or later than that.
    """
    parts: list[bytes] = []
    failures: list[Exception] = []
    deadline = time.monotonic() + in_all

    def fetch() -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "mm-orient"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                size = 0
                while part := answer.read1(2**16):
                    parts.append(part)
                    size += len(part)
                    if size > most_bytes:
                        raise ValueError(f"more than {most_bytes // 2**20} MiB")
                    if time.monotonic() > deadline:
                        return
        except TimeoutError:
            failures.append(ValueError(f"no answer within {timeout:.0f} s"))
        except urllib.error.URLError as error:
            failures.append(ValueError(f"it cannot be fetched: {error.reason}"))
        except Exception as error:
            failures.append(error)

    waiting = threading.Thread(target=fetch, daemon=True)
    waiting.start()
    waiting.join(in_all)
    if waiting.is_alive() or (not failures and time.monotonic() > deadline):
        raise ValueError(f"not there after {in_all:.0f} s")
    if failures:
        raise failures[0]
    return b"".join(parts)


def _upright(image: Image.Image, in_place: bool) -> Image.Image:
    """As its EXIF orientation says; what is broken in metadata does not make a picture unreadable."""
    try:
        if in_place:  # nobody else holds it: no copy is needed
            ImageOps.exif_transpose(image, in_place=True)
            return image
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _shown(source) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return f"({type(source).__name__})"
    text = str(source)
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it has values that are no numbers")
        largest = values.max(initial=0)
        top = 65535.0 if largest > 255 else 1.0 if image.mode == "F" and largest <= 1 else 255.0
        image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
