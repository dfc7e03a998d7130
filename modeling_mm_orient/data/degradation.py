# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Posts made worse on purpose, at rising strength: what a method loses as its pictures or texts get noisy, false or none.

    posts = DEGRADATIONS["blur"].degrade(posts, 0.04, seed=0)

Draws are seeded by the content of what is degraded: the same post comes out the same on every machine, in any order and,
where no share of the posts is asked for, among any others. Strengths draw alike: what one has changed a larger one changes
too. Labels and ids stay.

Shapes: N posts, H x W pixels.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from PIL import Image, ImageFilter

from ..pictures import post_key, read_image, reduced

SHARES = (0.25, 0.5, 0.75, 1.0)
GRAINS = 256  # of noise along a picture's shortest side: finer noise is averaged away where encoders shrink pictures
GREY = (127, 127, 127)


@dataclass(frozen=True)
class Degradation:
    """One way to make posts worse.

    Args:
        modality: `"image"` or `"text"`, what it changes. unit: what its strength, from 0 to 1, measures.
        strengths: those to compare at, rising.
        change: what it does; see the kinds below.
    """

    name: str
    modality: str
    unit: str
    strengths: tuple[float, ...]
    change: Callable

    def degrade(self, posts, strength: float, seed: int = 0):
        """The posts at `strength`; at 0 as they are.

        Args:
            posts: `datasets.Dataset` in the schema of `data.reading`, or a list of such posts.

        Returns:
            The same. Pictures are degraded when a post is taken, and come as PIL images; of a list they are then a
            read-only sequence.

        Raises:
            ValueError: a strength outside 0 to 1; a data set with a transform, whose pictures would change once more; fewer
                than two captions to shuffle. When a post is taken: its picture cannot be read.
        """
        if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
            raise ValueError(f"the strength of {self.name} is the {self.unit}, from 0 to 1; got {strength!r}")
        if isinstance(posts, DegradedPosts) or (isinstance(posts, datasets.Dataset) and posts.format["type"]):
            raise ValueError(f"{self.name}: posts with degraded pictures, a format or a transform; degrade plain ones")
        return posts if strength == 0 else self._degraded(posts, strength, seed)

    def reach(self, posts) -> int:
        """How many of the posts it can change."""
        return sum(self._counts(posts[row]) for row in range(len(posts)))

    def _degraded(self, posts, strength: float, seed: int):
        raise NotImplementedError

    def _counts(self, post: dict) -> bool:
        """Whether it can change a post."""
        return bool(post.get("text")) if self.modality == "text" else post.get("image") is not None


class OfPictures(Degradation):
    """`change` is a function of an RGB picture, the strength and a generator of draws, to a picture."""

    def _degraded(self, posts, strength: float, seed: int):
        change = PictureChange(self, strength, seed)
        if not isinstance(posts, datasets.Dataset):
            return DegradedPosts(posts, change)
        # a key that stands there is the sound post's
        return posts.select_columns([name for name in posts.column_names if name != "post_key"]).with_transform(change)


class OfTexts(Degradation):
    """`change` is a function of a text, the strength and a generator of draws, to a text."""

    def _degraded(self, posts, strength: float, seed: int):
        return _with_column(posts, "text", [self._changed(text, strength, seed) for text in _column(posts, "text")])

    def _changed(self, text: str | None, strength: float, seed: int) -> str | None:
        return self.change(text, strength, _draws(seed, self.name, post_key({"text": text}))) if text else text


class OfShare(Degradation):
    """Of a share of the posts that have both picture and text: `change` is a function of what they have (list of M), in an
    order drawn by their content, to what they get."""

    def _degraded(self, posts, strength: float, seed: int):
        values = list(_column(posts, self.modality))
        chosen = self._chosen(posts, strength, seed)
        for row, value in zip(chosen, self.change([values[row] for row in chosen]), strict=True):
            values[row] = value
        return _with_column(posts, self.modality, values)

    def _chosen(self, posts, strength: float, seed: int) -> list[int]:
        """Rows of the share, in the order in which rising strengths take them."""
        rows = ((row, posts[row]) for row in range(len(posts)))
        drawn = {row: _digest(seed, self.name, _key_of(post)) for row, post in rows if self._counts(post)}
        return sorted(drawn, key=lambda row: drawn[row])[: self._number(strength, len(drawn))]

    def _counts(self, post: dict) -> bool:
        return post.get("image") is not None and bool(post.get("text"))  # one that lost all it has would be no post

    def _number(self, strength: float, posts: int) -> int:
        return round(strength * posts)


class OfCaptions(OfShare):
    """Of a share of the posts that have a text, at least two, whether or not they have a picture."""

    def reach(self, posts) -> int:
        return found if (found := super().reach(posts)) > 1 else 0

    def _counts(self, post: dict) -> bool:
        return bool(post.get("text"))

    def _number(self, strength: float, posts: int) -> int:
        if posts < 2:
            raise ValueError(f"{self.name}: {posts} of the posts have a caption, two are the least to shuffle")
        return max(2, round(strength * posts))


@dataclass(frozen=True)
class PictureChange:
    """The transform of a batch of a data set, column -> list, that degrades its pictures."""

    degradation: OfPictures
    strength: float
    seed: int

    def __call__(self, batch: dict) -> dict:
        return batch if "image" not in batch else batch | {"image": [self.picture(image) for image in batch["image"]]}

    def picture(self, image) -> Image.Image | None:
        """One picture, of anything that `read_image` takes; None stays."""
        if image is None:
            return None
        draws = _draws(self.seed, self.degradation.name, post_key({"image": image}))
        return self.degradation.change(reduced(read_image(image)), self.strength, draws)


class DegradedPosts(Sequence):
    """A list of posts whose pictures are degraded as each is taken."""

    def __init__(self, posts: Sequence[dict], change: PictureChange):
        self.posts, self.change = posts, change

    def __len__(self) -> int:
        return len(self.posts)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return DegradedPosts(self.posts[index], self.change)
        post = self.posts[index]
        return _without_key(post) | {"image": self.change.picture(post.get("image"))}


def pixel_noise(picture: Image.Image, strength: float, draws: np.random.Generator) -> Image.Image:
    """Gaussian noise of deviation `strength`, white being 1; its grains are 1/256 of the shortest side, at least a pixel."""
    grain = max(1.0, min(picture.size) / GRAINS)
    rows, columns = ((np.arange(side) / grain).astype(int) for side in (picture.height, picture.width))
    noise = draws.standard_normal((rows[-1] + 1, columns[-1] + 1, 3), np.float32)[rows[:, None], columns[None]]
    pixels = np.asarray(picture, np.float32) + 255 * strength * noise
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def blur(picture: Image.Image, strength: float, draws: np.random.Generator) -> Image.Image:
    """Gaussian blur with a radius of `strength` times the shortest side."""
    return picture.filter(ImageFilter.GaussianBlur(strength * min(picture.size)))


def occlusion(picture: Image.Image, strength: float, draws: np.random.Generator) -> Image.Image:
    """A grey box of the picture's proportions over a share of it."""
    width, height = (max(1, round(side * strength**0.5)) for side in picture.size)
    left, top = (round(draws.random() * free) for free in (picture.width - width, picture.height - height))
    covered = picture.copy()
    covered.paste(GREY, (left, top, left + width, top + height))
    return covered


def character_errors(text: str, strength: float, draws: np.random.Generator) -> str:
    """A share of the characters, but no spaces, is left out, doubled or another of the text's."""
    places = [place for place, character in enumerate(text) if not character.isspace()]
    order, errors, others = draws.permutation(places), draws.integers(3, size=len(places)), draws.permutation(places)
    characters = list(text)
    for place, error, other in list(zip(order, errors, others, strict=True))[: round(strength * len(places))]:
        characters[place] = ("", text[place] * 2, text[other])[error]
    return "".join(characters).strip() or text[places[0]] if places else text


def word_drop(text: str, strength: float, draws: np.random.Generator) -> str:
    """A share of the words is left out, but never all of them."""
    words = text.split()
    dropped = set(draws.permutation(len(words))[: min(round(strength * len(words)), len(words) - 1)].tolist())
    return " ".join(word for place, word in enumerate(words) if place not in dropped) if dropped else text


def missing(values: list) -> list[None]:
    """Nothing for each."""
    return [None] * len(values)


def derangement(values: list[str]) -> list[str]:
    """The values dealt out anew: none stays in its place, and no place gets an equal one while no value fills more than half
    of them."""
    counts = Counter(values)
    first = {value: place for place, value in reversed(list(enumerate(values)))}
    order = sorted(range(len(values)), key=lambda place: (first[values[place]], place))  # equal ones side by side
    shift, dealt = max(counts.values(), default=0), list(values)
    for place, taker in enumerate(order):
        dealt[taker] = values[order[(place + (shift if shift < len(order) else 1)) % len(order)]]
    return dealt


DEGRADATIONS: dict[str, Degradation] = {
    found.name: found
    for found in (
        OfPictures("pixel_noise", "image", "deviation of the noise, white being 1", (0.1, 0.2, 0.4, 0.8), pixel_noise),
        OfPictures("blur", "image", "radius of the blur by the shortest side", (0.01, 0.02, 0.04, 0.08), blur),
        OfPictures("occlusion", "image", "covered share of the picture", (0.1, 0.25, 0.5, 0.75), occlusion),
        OfShare("missing_image", "image", "share of posts that lose their picture", SHARES, missing),
        OfTexts("character_errors", "text", "share of false characters", (0.05, 0.1, 0.2, 0.4), character_errors),
        OfTexts("word_drop", "text", "share of words left out", (0.1, 0.25, 0.5, 0.75), word_drop),
        OfCaptions("shuffled_captions", "text", "share of posts with another's caption", SHARES, derangement),
        OfShare("missing_text", "text", "share of posts that lose their text", SHARES, missing),
    )
}


def degradations_of(names: Sequence[str] | None = None) -> list[Degradation]:
    """Degradations by name; all for None.

    Raises:
        ValueError: there is none of that name.
    """
    for name in names or ():
        if name not in DEGRADATIONS:
            raise ValueError(f"{name!r} is no degradation; there are {', '.join(DEGRADATIONS)}")
    return list(DEGRADATIONS.values()) if names is None else [DEGRADATIONS[name] for name in names]


def _digest(seed: int, name: str, key: str) -> bytes:
    return hashlib.sha256(f"{seed} {name} {key}".encode()).digest()


def _draws(seed: int, name: str, key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(_digest(seed, name, key)))


def _key_of(post: dict) -> str:
    return post.get("post_key") or post_key(post)


def _without_key(post: dict) -> dict:
    """A post without the key of what it was before."""
    return {name: value for name, value in post.items() if name != "post_key"}


def _column(posts, name: str):
    return posts[name] if isinstance(posts, datasets.Dataset) else [post.get(name) for post in posts]


def _with_column(posts, name: str, values: list):
    """The posts with other values in one column, and without a `post_key`."""
    if not isinstance(posts, datasets.Dataset):
        return [_without_key(post) | {name: value} for post, value in zip(posts, values, strict=True)]
    column = datasets.Dataset.from_dict({name: values}, features=datasets.Features({name: posts.features[name]}))
    others = [other for other in posts.column_names if other not in (name, "post_key")]
    return datasets.concatenate_datasets([posts.select_columns(others), column], axis=1)
