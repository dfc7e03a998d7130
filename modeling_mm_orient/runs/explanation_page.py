# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A verdict's evidence to look at: as HTML and as a picture."""

import logging
import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import NoneType

import numpy as np
from PIL import Image

from ..data.description import DataDescription
from ..data.json_files import write_json
from ..data.reading import read_split
from ..explanation import PARTS, explain
from ..partial_files import whole_file
from ..pictures import key_number, post_key, read_image, reduced, undecoded
from ..pipeline_mm_orient import POST_KEYS
from ..tasks import kind_of
from .metric_plots import on_figure
from .pages import page, picture_url, write_page
from .run_folder import describe_data, load_run, read_run

SHOWN_SIDE = 560  # pixels of the picture's longer side on a page
logger = logging.getLogger(__name__)

INK, HEAT = "#2b6cb0", "Oranges"
MOST_WORDS = 60  # for which a figure has room
MOST_NEIGHBOURS, NEIGHBOUR_HEIGHT = 5, 1.7  # of each modality in a figure, and inches
NAMES = {"picture": "without the picture", "text": "without the text", "neighbours": "without the neighbours"}


@dataclass
class Explanation:
    """What `explain_post` found. `found` is that of `explanation.explain`, `thumbnails` id -> `{"picture", "text"}` of
    reference posts. Notebooks show it."""

    pictures: list[Image.Image]
    found: dict
    tasks: list[dict]
    thumbnails: dict[str, dict]

    def save(self, path) -> None:
        """Write `.html`, `.png` or `.json`, whole or not at all. Raises ValueError for another ending."""
        forms = {".html": self.save_html, ".png": self.save_png, ".json": self.save_json}
        check_form(path)
        forms[Path(path).suffix](path)

    def save_html(self, path) -> None:
        """A page that needs nothing else."""
        write_page(path, self.html())

    def save_json(self, path) -> None:
        """The plain values."""
        write_json(path, self.found)

    def save_png(self, path) -> None:
        """The same as one picture."""
        figure = self.figure()
        with whole_file(path) as partial:
            figure.savefig(partial, dpi=150, format="png")

    def html(self) -> str:
        """The page's text."""
        found = self.found
        return page(
            "explanation.html.j2",
            title="What a verdict rests on",
            pictures=[_shown(number, picture, found["regions"] or []) for number, picture in enumerate(self.pictures)],
            has_boxes=any(region["box"] for region in found["regions"] or ()),
            words=_shaded(found),
            rows=[_task_rows(task, found) for task in self.tasks],
            experts=[_expert_rows(task, found) for task in self.tasks if found["experts"]],
            columns=[part for part in PARTS if found["without"][part] is not None],
            names=NAMES,
            found=found,
            thumbnails=self.thumbnails,
        )

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{_escaped(self.html())}" style="width:100%;height:40rem;border:0"></iframe>'

    def figure(self):
        """The same as a matplotlib figure: picture and words with attention, scores with and without each part."""
        from matplotlib.figure import Figure

        bars = _bars(self.tasks, self.found)
        height = max(4.0, 0.34 * sum(len(rows) + 1.6 for _, rows in bars))
        near = {m: posts[:MOST_NEIGHBOURS] for m, posts in self.found["neighbours"].items() if posts}
        figure = Figure(figsize=(11, height + NEIGHBOUR_HEIGHT * len(near)), layout="constrained")
        upper = figure
        if near:
            upper, lower = figure.subfigures(2, 1, height_ratios=[height, NEIGHBOUR_HEIGHT * len(near)])
            self._draw_neighbours(lower, near)
        left, right = upper.subfigures(1, 2, width_ratios=[1, 1.35])
        self._draw_post(left)
        axes = right.subplots(len(bars), 1, squeeze=False, height_ratios=[len(rows) + 1.6 for _, rows in bars])[:, 0]
        for axis, (name, rows) in zip(axes, bars, strict=True):
            labels, values = zip(*rows, strict=True)
            places = np.arange(len(rows))
            axis.barh(places, values, color=[INK] + ["#9fb6cc"] * (len(rows) - 1), height=0.72)
            axis.set_yticks(places, labels, fontsize=8)
            axis.invert_yaxis()
            axis.set_title(name, fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(axis="x", labelsize=7)
            if min(values) >= 0 and max(values) <= 1:
                axis.set_xlim(0, 1)
        return figure

    def _draw_neighbours(self, figure, near: dict[str, list[dict]]) -> None:
        """A row of reference posts per modality: picture or text, similarity and labels."""
        rows = figure.subplots(len(near), MOST_NEIGHBOURS, squeeze=False)
        for (modality, posts), axes in zip(near.items(), rows, strict=True):
            for axis in axes:
                axis.axis("off")
            for axis, post in zip(axes, posts, strict=False):
                known = self.thumbnails.get(post["id"], {})
                if (url := known.get("picture")) is not None:
                    axis.imshow(read_image(url))
                else:
                    said = textwrap.shorten(known.get("text") or post["id"], 60)
                    axis.text(0.5, 0.5, _plain(textwrap.fill(said, 20)), ha="center", va="center", fontsize=7)
                labels = [", ".join(map(str, label)) if isinstance(label, list) else str(label)
                          for label in post["labels"].values()]  # fmt: skip
                below = textwrap.fill(textwrap.shorten(", ".join(labels), 60), 30)
                axis.set_title(_plain(f"{post['similarity']:.2f} {below}"), fontsize=7)
            axes[0].text(
                -0.08, 0.5, f"near by {'picture' if modality == 'image' else 'text'}", rotation=90, va="center",
                ha="right", fontsize=8, transform=axes[0].transAxes,
            )  # fmt: skip

    def _draw_post(self, figure) -> None:
        import matplotlib
        from matplotlib.patches import Rectangle

        count = max(1, len(self.pictures))
        upper, lower = figure.subfigures(2, 1, height_ratios=[3, 1.4])
        *above, below = [*upper.subplots(1, count, squeeze=False)[0], lower.subplots()]
        for axis in (*above, below):
            axis.axis("off")
        if not self.pictures:
            above[0].text(0.5, 0.5, "no picture", ha="center", va="center", color="0.5")
        for number, picture in enumerate(self.pictures):
            above[number].imshow(picture)
            for region in _regions(number, self.found["regions"] or [], 1.0):
                box = (region["x"], region["y"]), region["width"], region["height"]
                above[number].add_patch(Rectangle(*box, color="#ff6a00", alpha=region["opacity"], linewidth=0))
        title = "HIMA's attention over regions and words"
        if self.found["strange_picture"]:
            title = "left out of account: unlike every reference post's picture"
        above[0].set_title(title, fontsize=9, loc="left")
        colours = matplotlib.colormaps[HEAT]
        x, y, line = 0.0, 1.0, 52
        shaded = _shaded(self.found)
        more = [(f"and {len(shaded) - MOST_WORDS} more words", 0.0)] if len(shaded) > MOST_WORDS else []
        for word, share in shaded[:MOST_WORDS] + more:
            if x + len(word) > line and x:
                x, y = 0.0, y - 0.17
            shown = word if len(word) <= line else f"{word[: line - 1]}…"
            box = {"facecolor": colours(0.75 * share), "edgecolor": "none", "pad": 1.5}
            below.text(x / line, y, _plain(shown), fontsize=8, family=["monospace", "sans-serif"], va="top", bbox=box)
            x += len(shown) + 1.5


def check_form(path) -> None:
    """Raise ValueError unless an explanation can be written to `path`."""
    if Path(path).suffix not in (".html", ".png", ".json"):
        raise ValueError(f"{path}: an explanation is written to .html, .png or .json")


def explain_post(
    model,
    processor,
    post: Mapping,
    neighbours: int = 5,
    references: Callable[[list[str]], dict[str, dict]] | None = None,
) -> Explanation:
    """Explain one post's verdict.

    Args:
        model, processor: of a finished run. post: `image` (anything `read_image` takes, or a list of them), `text` and
            `numbers`; any may be missing.
        neighbours: reference posts per modality.
        references: ids -> id -> `{"image", "text"}` of those that are known, to show them.

    Raises:
        ValueError: the picture cannot be read, or there is neither picture nor text.
    """
    if not isinstance(post, Mapping):
        raise ValueError(f"a post is a dict of {', '.join(POST_KEYS)}, got {type(post).__name__}")
    if unknown := [name for name in post if name not in POST_KEYS]:
        raise ValueError(f"a post has {', '.join(f'`{name}`' for name in POST_KEYS)}, not {unknown[0]!r}")
    if not isinstance(neighbours, Integral) or neighbours < 0:
        raise ValueError(f"`neighbours` must be a whole number of at least 0, got {neighbours!r}")
    if not isinstance(post.get("text"), (str, NoneType)):
        raise ValueError(f"`text` of a post must be a text, got {post['text']!r}")
    image, text = post.get("image"), post.get("text")
    images = image if isinstance(image, (list, tuple)) else [image]
    pictures = [read_image(each, processor.max_image_pixels) for each in images if each is not None]
    if not pictures and not (text and text.strip()):
        raise ValueError("the post has neither an image nor a text")
    shown, sizes = [reduced(picture) for picture in pictures], [picture.size for picture in pictures]
    if processor.numeric_columns and post.get("numbers") is None:
        names = ", ".join(column["name"] for column in processor.numeric_columns)
        logger.warning("the post has no `numbers`: its verdict is the one where %s are missing", names)
    found = explain(model.eval(), processor, shown, text, neighbours, sizes, post.get("numbers"))
    ids = list(dict.fromkeys(post["id"] for posts in found["neighbours"].values() for post in posts))
    known = of_memory(model.relation_memory, references(ids)) if references is not None and ids else {}
    return Explanation(pictures, found, model.config.tasks, {name: thumbnail_of(post) for name, post in known.items()})


def explain_with_run(run: str, post: dict, data: str | None = None, neighbours: int = 5) -> Explanation:
    """`explain_post` with a finished run; `data` is where its reference posts lie (default: where it learned from, if that
    is still there)."""
    model, processor = load_run(run)
    return explain_post(model, processor, post, neighbours, references_of_run(run, data))


def references_of_run(run: str, data: str | None = None) -> Callable[[list[str]], dict[str, dict]] | None:
    """`posts_by_id` of the posts that a run learned from, or of `data`; None where they are gone."""
    description = read_run(run)
    place = data or description.get("data", {}).get("data")
    if place is None or not (data or Path(place).exists()):
        return None
    find = posts_by_id(describe_data(description, place))

    def find_what_is_there(ids: list[str]) -> dict[str, dict]:
        try:
            return find(ids)
        except (ValueError, OSError) as error:
            logger.warning("reference posts are not shown: %s", error)
            return {}

    return find if data else find_what_is_there  # what was named must be there


def of_memory(memory, posts: dict[str, dict]) -> dict[str, dict]:
    """Of posts by id those that a memory holds under it, by their content; how many others are left out is logged."""
    keys = {}
    for name, post in posts.items():
        with suppress(ValueError, OSError):  # a picture that is gone
            keys[name] = key_number(post.get("post_key") or post_key(post))
    there = memory.with_content(keys)
    if others := len(posts) - len(there):
        logger.warning("%d reference posts are not shown: the data has others under their ids", others)
    return {name: post for name, post in posts.items() if name in there}


def posts_by_id(description: DataDescription) -> Callable[[list[str]], dict[str, dict]]:
    """A function that finds posts of the data by their ids."""

    def find(ids: Iterable[str]) -> dict[str, dict]:
        posts = undecoded(read_split(description, None, skip_bad_posts=True, check_images=False)[0])
        rows = {name: row for row, name in enumerate(posts["id"])}
        return {name: posts[rows[name]] for name in ids if name in rows}

    return find


def _plain(text: str) -> str:
    """A text that matplotlib takes for no formula."""
    return text.replace("$", r"\$")


def thumbnail_of(post: dict) -> dict:
    """A reference post as pages show it: a small picture and the text; what cannot be read is left out."""
    try:
        picture = None if post.get("image") is None else picture_url(reduced(read_image(post["image"])), 120)
    except ValueError:
        picture = None
    return {"picture": picture, "text": post.get("text")}


def _shown(number: int, picture: Image.Image, regions: list[dict]) -> dict:
    """A picture as the page shows it, with its regions."""
    scale = min(1.0, SHOWN_SIDE / max(picture.size))
    width, height = (round(side * scale) for side in picture.size)
    url = picture_url(picture, SHOWN_SIDE)
    return {"url": url, "width": width, "height": height, "regions": _regions(number, regions, scale)}


def _regions(number: int, regions: list[dict], scale: float) -> list[dict]:
    """One picture's regions; the strongest of all pictures is the darkest."""
    most = max([region["attention"] for region in regions if region["box"]], default=0) or 1
    return [
        {
            "x": x * scale,
            "y": y * scale,
            "width": (right - x) * scale,
            "height": (bottom - y) * scale,
            "opacity": round(0.75 * region["attention"] / most, 3),
            "attention": region["attention"],
        }
        for region in regions
        if region["box"] and region["picture"] == number
        for x, y, right, bottom in [region["box"]]
    ]


def _shaded(found: dict) -> list[tuple[str, float]]:
    """The words with their attention, the largest 1."""
    most = max([word["attention"] for word in found["words"]], default=0) or 1
    return [(word["word"], word["attention"] / most) for word in found["words"]]


def _labels_of(task: dict, verdict) -> dict[str, float]:
    return verdict if kind_of(task).is_classification else {task["name"]: verdict}


def _task_rows(task: dict, found: dict) -> dict:
    """A task's scores: with everything, and without each part."""
    verdicts = {"all": found["verdict"]} | {part: found["without"][part] for part in PARTS}
    verdicts = {name: _labels_of(task, said[task["name"]]) for name, said in verdicts.items() if said is not None}
    labels = [
        {"label": label, "scores": {name: said[label] for name, said in verdicts.items()}} for label in verdicts["all"]
    ]
    return {
        "task": task["name"],
        "decision": found["decisions"][task["name"]],
        "labels": labels,
        "is_probability": kind_of(task).is_classification,
    }


def _expert_rows(task: dict, found: dict) -> dict:
    experts = found["experts"][task["name"]]
    said = {name: _labels_of(task, expert["says"]) for name, expert in experts.items()}
    return {"task": task["name"], "labels": list(next(iter(said.values()))), "experts": experts, "said": said}


def _bars(tasks: list[dict], found: dict) -> list[tuple[str, list[tuple[str, float]]]]:
    """Per task the score of what was decided (of several labels the likeliest), with and without each part."""
    bars = []
    for task in tasks:
        scores = _task_rows(task, found)
        decided = scores["decision"]
        rows = {row["label"]: row["scores"] for row in scores["labels"]}
        chosen = (
            decided if isinstance(decided, str) and decided in rows else max(rows, key=lambda label: rows[label]["all"])
        )
        named = {"all": "as it is"} | NAMES
        title = on_figure(task["name"]) + (f": {on_figure(chosen)}" if scores["is_probability"] else "")
        bars.append((title, [(named[name], value) for name, value in rows[chosen].items()]))
    return bars


def _escaped(html: str) -> str:
    return html.replace("&", "&amp;").replace('"', "&quot;")
