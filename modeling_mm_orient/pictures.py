# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Pictures: read from whatever they come as, and what names a post's content."""

import hashlib
import io
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from transformers.image_utils import load_image

MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit before it warns of a decompression bomb
MOST_ENCODED_PIXELS = 4_000_000  # larger pictures reach the encoders reduced


def read_image(source, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """One picture as an upright RGB image.

    Args:
        source: path, URL (`http...` or `data:`), bytes, open binary file, PIL image, or a `datasets` image dict
            (`{"path", "bytes"}`).
        max_pixels: larger pictures are refused before they are decoded.

    EXIF orientation is applied, transparency laid over white, 16-bit greys scaled, of an animation the first frame taken.

    Raises:
        ValueError: not a picture, truncated, or too large; the message names the source.
    """
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    name = f"image {str(source)!r}" if isinstance(source, (str, os.PathLike)) else f"image ({type(source).__name__})"
    try:
        if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
            image = load_image(source)
        elif isinstance(source, (bytes, bytearray)):
            image = Image.open(io.BytesIO(source))
        else:
            image = source if isinstance(source, Image.Image) else Image.open(source)
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels are more than the {max_pixels} allowed")
        if getattr(image, "is_animated", False):
            image.seek(0)
        image.load()
        if image is not source:  # nobody else holds it: no copy is needed
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
        return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more for broken files
        raise ValueError(f"{name} cannot be read: {error}") from error


def reduced(picture: Image.Image) -> Image.Image:
    """A picture that is far larger than any encoder needs, by a whole factor smaller; any other as it is."""
    excess = picture.width * picture.height / MOST_ENCODED_PIXELS
    return picture if excess <= 1 else picture.reduce(math.ceil(math.sqrt(excess)))


def post_key(post: dict) -> str:
    """Key of a post's content, its `image` (anything `read_image` takes) and its `text`: a SHA-256 in hexadecimal.

    A picture counts by its file's bytes; one that is open already, by its pixels.
    """
    digest = hashlib.sha256()
    if post.get("image") is not None:
        digest.update(b"image" + hashlib.sha256(_image_content(post["image"])).digest())
    if post.get("text"):
        digest.update(b"text" + post["text"].encode())
    return digest.hexdigest()


def key_number(key: str) -> int:
    """The number that stands for a post's key in the `post_keys` of a batch, never 0."""
    return int(key[:15], 16) + 1


def _image_content(image) -> bytes:
    if isinstance(image, dict):
        return image["bytes"] if image.get("bytes") is not None else Path(image["path"]).read_bytes()
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return str(image).encode() if str(image).startswith(("http", "data:")) else Path(image).read_bytes()
    pixels = image if isinstance(image, Image.Image) else read_image(image)
    return f"{pixels.mode} {pixels.size}".encode() + pixels.tobytes()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
