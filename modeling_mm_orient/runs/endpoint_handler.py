# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A model behind Hugging Face Inference Endpoints, which make an `EndpointHandler` of the repository's folder and call it.

It goes with the model as `handler.py`, and needs nothing of the package.
"""

import base64
import binascii
from typing import Any

from PIL import Image
from transformers import pipeline

POST = {"image", "text", "numbers", "id"}
PARAMETERS = {"neighbours", "decisions", "abstain", "batch_size"}
MOST_POSTS, MOST_CHARACTERS, MOST_IN_ALL = 256, 100_000, 1_000_000  # of a request, of a text, of all texts of a request
FORM = (
    '{"inputs": {"text": "...", "image": "BASE64"}}, where inputs may be a list of posts, and parameters may be given'
)


class EndpointHandler:
    """Verdicts on posts that strangers send: no string of theirs is opened as a file or fetched.

    Args:
        path: the model's folder.
    """

    def __init__(self, path: str = ""):
        self.pipe = pipeline(
            "multimodal-classification",
            model=path,
            trust_remote_code=True,  # the code is this repository's, which the endpoint was made for
            image_sources=("pil", "bytes"),
        )

    def __call__(self, data: Any) -> Any:
        """Verdicts in the order of the posts.

        Args:
            data: `{"inputs": posts, "parameters": {...}}`. A post is a text, a picture, or an object of `text`, `image`,
                `numbers` (column -> number, of a model with numeric columns) and `id`, each of which may be missing;
                `inputs` is a post or a list of them. A picture is base64, perhaps as a `data:` URL, or bytes, or a PIL
                image, which the endpoint makes of a body that is a picture. Parameters are the pipeline's `neighbours`,
                `decisions`, `abstain`, and `batch_size`.

        Returns:
            For a post `{task: {label: probability}}`, with its `id` where it has one, or `{"error": message}` where it
            cannot be read; for a list a list. All of it is JSON.

        Raises:
            ValueError: the body has another form; the message says what is wrong, and which form it takes.
        """
        inputs, parameters = _body(data)
        several = isinstance(inputs, list)
        posts = inputs if several else [inputs]
        if len(posts) > MOST_POSTS:
            raise ValueError(f"at most {MOST_POSTS} posts in a request, got {len(posts)}")
        read = [_post(post, f"inputs[{row}]" if several else "inputs") for row, post in enumerate(posts)]
        if (count := sum(len(post["text"] or "") for post in read)) > MOST_IN_ALL:
            raise ValueError(f"the texts have {count:,} characters; at most {MOST_IN_ALL:,} are taken in a request")
        ids = [post.pop("id", None) for post in read]
        verdicts = self.pipe(read, on_error="skip", **parameters) if read else []
        found = [
            verdict if name is None else {"id": name, **verdict} for name, verdict in zip(ids, verdicts, strict=True)
        ]
        return found if several else found[0]


def _body(data: Any) -> tuple[Any, dict]:
    if not isinstance(data, dict):
        raise ValueError(f"the body must be an object, got {type(data).__name__}: {FORM}")
    if unknown := sorted(map(str, set(data) - {"inputs", "parameters"})):
        raise ValueError(f"the body has `inputs` and `parameters`, not {unknown[0]!r}: {FORM}")
    if data.get("inputs") is None:
        raise ValueError(f"the body has no `inputs`: {FORM}")
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ValueError(f"`parameters` must be an object, got {type(parameters).__name__}")
    if unknown := sorted(map(str, set(parameters) - PARAMETERS)):
        raise ValueError(f"there is no parameter {unknown[0]!r}; there are {', '.join(sorted(PARAMETERS))}")
    size = parameters.get("batch_size", 1)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MOST_POSTS:
        raise ValueError(f"`batch_size` must be a whole number from 1 to {MOST_POSTS}, got {size!r}")
    return data["inputs"], parameters


def _post(post: Any, where: str) -> dict:
    """A post as the pipeline takes it; its picture is bytes or a PIL image."""
    if isinstance(post, str):
        post = {"text": post}
    elif isinstance(post, (bytes, bytearray, Image.Image)):
        post = {"image": post}
    if not isinstance(post, dict):
        raise ValueError(f"{where} must be a text or an object with `text` and `image`, got {type(post).__name__}")
    if unknown := sorted(map(str, set(post) - POST)):
        raise ValueError(f"{where} has `text`, `image`, `numbers` and `id`, not {unknown[0]!r}")
    text, image, numbers = post.get("text"), post.get("image"), post.get("numbers")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}.text must be a text, got {type(text).__name__}")
    if text and len(text) > MOST_CHARACTERS:
        raise ValueError(f"{where}.text has {len(text):,} characters; at most {MOST_CHARACTERS:,} are taken")
    if image is None and not (text and text.strip()):
        raise ValueError(f"{where} has neither a text nor a picture")
    if numbers is not None and not isinstance(numbers, dict):
        raise ValueError(f"{where}.numbers must be an object of numbers by column, got {type(numbers).__name__}")
    read = {"image": None if image is None else _picture(image, f"{where}.image"), "text": text, "id": post.get("id")}
    return read | ({} if numbers is None else {"numbers": numbers})


def _picture(image: Any, where: str) -> Any:
    if isinstance(image, (bytes, bytearray, Image.Image)):
        return image
    if not isinstance(image, str):
        raise ValueError(f"{where} must be a picture in base64, got {type(image).__name__}")
    head, _, content = image.partition(",")
    if image.startswith("data:") and not head.endswith(";base64"):
        raise ValueError(f"{where}: a data: URL must be in base64")
    try:
        return base64.b64decode("".join((content if image.startswith("data:") else image).split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{where} is not base64; paths and URLs are not read here") from None
