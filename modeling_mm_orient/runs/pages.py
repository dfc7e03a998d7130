# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Self-contained HTML pages: templates filled in, with pictures and plots inside. What posts say is escaped."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..partial_files import whole_file

TEMPLATES = Path(__file__).with_name("templates")
THUMBNAIL = 220  # pixels of a picture's longer side


def page(template: str, **values) -> str:
    """A template of `templates/` as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": lambda value: f"{100 * value:.0f}%", "score": lambda value: f"{value:.3f}"}
    return environment.get_template(template).render(**values)


def write_page(path, html: str) -> None:
    """Write it, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf-8", errors="replace")  # half a pair of surrogates is no character


def picture_url(picture: Image.Image | None, side: int = THUMBNAIL) -> str | None:
    """A picture as a `data:` URL, no larger than `side`; None for none."""
    if picture is None:
        return None
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure_url(figure) -> str:
    """A matplotlib figure as a `data:` URL of an SVG: sharp on paper."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
