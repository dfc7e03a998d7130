# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MMOrientProcessor: pictures and texts to the inputs of all three encoders.

Shapes: B posts, T tokens, N n-grams.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from .names import revisions_of
from .ngrams import ngram_ids, padded
from .numeric_columns import check_columns, standardised
from .pictures import IMAGE_SOURCES, MAX_IMAGE_PIXELS, MOST_ELONGATED, read_image, reduced
from .task_features import check_sources, task_features
from .text_cleaning import clean_text
from .text_removal import INPAINTERS, READERS, joined_text, read_text, registered, remove_text

MAX_TOKENS = 128
LONGEST_PADDING, LONGEST_SIDE = 2**17, 4096  # of what a saved processor may ask for
LONGEST_TEXT = 2**31 - 1  # that tokenizers count to
JOINT_FOLDER = "joint_processor"


class MMOrientProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}  # type: ignore[misc]


class MMOrientProcessor(ProcessorMixin):
    """Prepares posts for `MMOrientModel`.

    Args:
        image_processor: of the vision encoder. tokenizer: of the text encoder. Either may be None where the model has no
            such encoder.
        joint_processor: of the joint encoder, with an `image_processor` and a `tokenizer` of its own; default None. It is
            saved in a folder of its name.
        max_tokens: longer texts are cut for the text encoder (default 128, the paper's, or less where it reads less).
        joint_max_tokens: the same for the joint encoder (default 77, CLIP's).
        joint_padding: `"longest"` (default), or `"max_length"` without a mask for joint encoders trained so (SigLIP).
        max_image_pixels: larger pictures are refused (default 89,478,485).
        text_cleaning: steps of `text_cleaning.STEPS` that every text goes through (default none); `PAPER_STEPS` are the
            paper's. A text that nothing is left of counts as missing, unless the post has no picture: then it stays.
        remove_overlaid_text: paint over the text on pictures (paper; default False).
        read_missing_text: where a post has no text, take the one on its picture (ours; default False).
        text_reader, inpainter: names of `text_removal.READERS` and `INPAINTERS` (default `"rapidocr"` and `"opencv"`, both
            optional packages), or functions of your own; a processor with these is not saved.
        task_features: what `task_features` are made of, see `task_features.check_sources` (default nothing).
        numeric_columns: numbers that come after them, with their statistics, see `numeric_columns.check_columns` (ours;
            default none).
        ngrams: give the texts' n-grams, for a model with the expert `words` (ours; default False).
    """

    valid_processor_kwargs = MMOrientProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        joint_processor=None,
        max_tokens: int = MAX_TOKENS,
        joint_max_tokens: int = 77,
        joint_padding: str = "longest",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        text_cleaning: list[str] | tuple[str, ...] = (),
        remove_overlaid_text: bool = False,
        read_missing_text: bool = False,
        text_reader: str | Callable = "rapidocr",
        inpainter: str | Callable = "opencv",
        task_features: list[dict] | tuple[dict, ...] = (),
        numeric_columns: list[dict] | tuple[dict, ...] = (),
        ngrams: bool = False,
        **kwargs,
    ):
        parts = {"image_processor": image_processor, "tokenizer": tokenizer}
        present = {name: part for name, part in parts.items() if part is not None}
        # see `private_apis`: of an instance only the parts it has are asked for
        self.get_attributes = partial(list, present)  # type: ignore[method-assign]
        super().__init__(**present, **kwargs)
        for name in parts:
            if name not in present:
                setattr(self, name, None)
        if tokenizer is not None and tokenizer.pad_token_id is None:
            raise ValueError("`tokenizer` has no padding token; set `tokenizer.pad_token`")
        self.joint_processor = joint_processor
        for part in (image_processor, getattr(joint_processor, "image_processor", None)):
            _check_sizes(part)
        for name, value in {"max_tokens": max_tokens, "joint_max_tokens": joint_max_tokens}.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LONGEST_TEXT:
                raise ValueError(f"`{name}` must be a whole number from 1 to {LONGEST_TEXT}, got {value!r}")
        lists = {"text_cleaning": text_cleaning, "task_features": task_features, "numeric_columns": numeric_columns}
        for name, values in lists.items():
            if not isinstance(values, (list, tuple)):
                raise ValueError(f"`{name}` must be a list, got {values!r}")
        if joint_padding == "max_length" and joint_max_tokens > LONGEST_PADDING:
            raise ValueError(f"`joint_max_tokens` pads every text to {joint_max_tokens}, more than {LONGEST_PADDING}")
        self.max_tokens, self.max_image_pixels = max_tokens, max_image_pixels
        self.joint_max_tokens, self.joint_padding = joint_max_tokens, joint_padding
        clean_text("", text_cleaning)
        self.text_cleaning = list(text_cleaning)
        self.remove_overlaid_text, self.read_missing_text = remove_overlaid_text, read_missing_text
        self.text_reader = registered(text_reader, READERS, "text_reader")
        self.inpainter = registered(inpainter, INPAINTERS, "inpainter")
        self.task_features = check_sources(task_features)
        self.numeric_columns = check_columns(numeric_columns)
        self.ngrams = ngrams

    @classmethod
    def from_encoders_pretrained(
        cls,
        joint: str | None = None,
        text: str | None = None,
        vision: str | None = None,
        revision: str | dict[str, str] | None = None,
        **kwargs,
    ):
        """The processor for a model of the same encoders. Arguments as in `MMOrientModel.from_encoders_pretrained`."""
        revisions = revisions_of(revision)
        parts = {}
        if vision is not None:
            parts["image_processor"] = AutoImageProcessor.from_pretrained(
                vision, revision=revisions.get("vision"), trust_remote_code=False
            )
        if text is not None:
            parts["tokenizer"] = AutoTokenizer.from_pretrained(
                text, revision=revisions.get("text"), trust_remote_code=False
            )
            config = AutoConfig.from_pretrained(text, revision=revisions.get("text"), trust_remote_code=False)
            config = getattr(config, "text_config", config)  # of a dual encoder its text side
            longest = min(MAX_TOKENS, parts["tokenizer"].model_max_length)
            kwargs.setdefault("max_tokens", min(longest, getattr(config, "max_position_embeddings", longest)))
        if joint is not None:
            parts["joint_processor"] = AutoProcessor.from_pretrained(
                joint, revision=revisions.get("joint"), trust_remote_code=False
            )
            config = AutoConfig.from_pretrained(joint, revision=revisions.get("joint"), trust_remote_code=False)
            if not all(hasattr(parts["joint_processor"], name) for name in ("image_processor", "tokenizer")):
                raise ValueError(f"{joint} is no joint encoder: its processor does not take both pictures and texts")
            longest = parts["joint_processor"].tokenizer.model_max_length
            longest = min(longest, getattr(config.text_config, "max_position_embeddings", longest))
            kwargs.setdefault("joint_max_tokens", longest)
            if config.model_type.startswith("siglip"):
                kwargs.setdefault("joint_padding", "max_length")
        return cls(**parts, **kwargs)

    def __call__(self, images=None, text=None, numbers=None, **kwargs) -> BatchFeature:
        """Prepare a batch of posts, or one post.

        Args:
            images: a picture or a list with one entry per post, None for a post without; anything `read_image` takes, or
                a list of them (ours); with `do_rescale=False` arrays alone, as the image processor takes them. Or a batch of
                a data set, with `image` and `text`.
            text: a string or a list with one entry per post; None or a text of white space alone means no text.
            numbers: what the `numeric_columns` say of each post, see `numeric_columns.standardised`; None says nothing.
            kwargs: `return_tensors`, and what the text encoder's tokenizer and the vision encoder's image processor take
                (`text_kwargs`, `images_kwargs`), the joint encoder's where it is alone; but its texts are padded as it was
                trained.

        Returns:
            `pixel_values`, `input_ids` (B, T), `attention_mask`, ... for the encoders there are, those of the joint
            encoder with the prefix `joint_`; where a post has several pictures, pixels are (B, K, ...) and `picture_counts`
            (B,) says how many; `has_image` and `has_text` (B,) bool; with task features or numeric columns,
            `task_features` (B, F); with `ngrams`, `ngram_ids` (B, N). The inputs of a modality that no post of the batch
            has are left out.

        Raises:
            ValueError: lengths differ, a post has neither picture nor text, or a picture cannot be read.
        """
        if isinstance(images, Mapping) and text is None and {"image", "text"} & set(images):  # of `datasets.map`
            images, text = images.get("image"), images.get("text")
        images, text = self.treat(images, text)
        merged = self._merge_kwargs(
            MMOrientProcessorKwargs,  # type: ignore[arg-type]
            tokenizer_init_kwargs=getattr(self.tokenizer, "init_kwargs", {}),
            **kwargs,
        )
        text_kwargs, images_kwargs = merged["text_kwargs"], merged["images_kwargs"]
        said = "max_length" in kwargs | kwargs.get("text_kwargs", {})
        if not said:  # else it is the tokenizer's own, of its file
            text_kwargs["max_length"] = min(text_kwargs.get("max_length") or self.max_tokens, self.max_tokens)
        return_tensors = text_kwargs.pop("return_tensors", None)
        images_kwargs.pop("return_tensors", None)
        data: dict = {}
        reads_pictures = self.image_processor is not None or self.joint_processor is not None
        if reads_pictures and any(image is not None for image in images):
            counts = [len(image) if isinstance(image, list) else int(image is not None) for image in images]
            prepares = self.image_processor or self.joint_processor.image_processor
            rescales = images_kwargs.get("do_rescale", getattr(prepares, "do_rescale", True))
            pictures = self._pictures(_flat(images), as_they_are=not rescales)
            if self.image_processor is not None:
                data |= _prepared_alone(self.image_processor, pictures, images_kwargs)
            if self.joint_processor is not None:
                prepare = self.joint_processor.image_processor
                # both encoders may well be of one kind: then its pictures are resized once
                prepared = data and not images_kwargs and _alike(prepare, self.image_processor)
                data |= _joint(
                    dict(data) if prepared else _prepared_alone(prepare, pictures, {} if data else images_kwargs)
                )
            if max(counts) > 1:
                data = {name: _by_post(name, rows, counts) for name, rows in data.items()} | {"picture_counts": counts}
        if any(text):
            if self.tokenizer is not None:
                options: dict = {"return_attention_mask": True}
                data |= self.tokenizer(text, **(options | text_kwargs))
            if self.joint_processor is not None:
                alone = self.tokenizer is None
                longest = (text_kwargs.get("max_length") if alone and said else None) or self.joint_max_tokens
                longest = min(longest, self.joint_max_tokens)
                options = {"padding": self.joint_padding, "truncation": True, "max_length": longest}
                if self.joint_padding == "max_length":
                    options["return_attention_mask"] = False
                data |= _joint(self.joint_processor.tokenizer(text, **options))
            if self.ngrams:
                data["ngram_ids"] = padded([ngram_ids(words) for words in text]).tolist()
        data["has_image"] = [image is not None for image in images]
        data["has_text"] = [bool(words) for words in text]
        if self.task_features:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            data["task_features"] = list(task_features(text, self.task_features, device).float().cpu().numpy())
        if numbers is not None and (len(numbers) != len(text) or not self.numeric_columns):
            columns = f"{len(text)} posts" if self.numeric_columns else "a processor without numeric columns"
            raise ValueError(f"`numbers` has {len(numbers)} entries for {columns}")
        if self.numeric_columns:
            rows = standardised([None] * len(text) if numbers is None else numbers, self.numeric_columns).numpy()
            before = data.get("task_features", [()] * len(text))
            joined = [np.array([*old, *new], np.float32) for old, new in zip(before, rows, strict=True)]
            data["task_features"] = joined  # arrays: of lists `return_tensors="np"` makes doubles
        return BatchFeature(data, tensor_type=return_tensors)

    def read_picture(self, source, image_sources=IMAGE_SOURCES) -> Image.Image:
        """A picture as `read_image` reads it, of a size and proportion that encoders can take, see `reduced`."""
        return reduced(read_image(source, self.max_image_pixels, image_sources))

    def treat(self, images=None, text=None) -> tuple[list, list[str]]:
        """Posts as encoders and task features see them: texts cleaned, text on pictures read and painted over, where asked.

        Arguments and errors as in a call. Returns pictures, None where a post has none, and texts, empty for none.
        """
        images, text = self._posts(images, text)
        if self.remove_overlaid_text or self.read_missing_text:
            images, text = self._treat_overlaid_text(images, text)
        return images, text

    @property
    def model_input_names(self) -> list[str]:
        names = [name for part in self.get_attributes() for name in getattr(self, part).model_input_names]
        if self.joint_processor is not None:
            for part in (self.joint_processor.image_processor, self.joint_processor.tokenizer):
                names += _joint(dict.fromkeys(part.model_input_names))
        extra = ["task_features"] if self.task_features or self.numeric_columns else []
        extra += ["ngram_ids"] if self.ngrams else []
        return [*dict.fromkeys(names), "has_image", "has_text", *extra]

    def to_dict(self) -> dict:
        joint = None if self.joint_processor is None else JOINT_FOLDER
        own = {"text_reader": _name_of(self.text_reader), "inpainter": _name_of(self.inpainter)}
        settings = super().to_dict()
        if not self.numeric_columns:
            settings.pop("numeric_columns", None)
        if not self.ngrams:
            settings.pop("ngrams", None)
        return settings | {"parts": self.get_attributes(), "joint_processor": joint} | own

    def save_pretrained(self, save_directory, **kwargs):
        for name, choice in (("text_reader", self.text_reader), ("inpainter", self.inpainter)):
            if callable(choice):
                raise ValueError(
                    f"`{name}` is a function of yours, and a saved processor names only what the package offers"
                )
        if self.joint_processor is not None:
            self.joint_processor.save_pretrained(os.path.join(save_directory, JOINT_FOLDER))
        saved = super().save_pretrained(save_directory, **kwargs)
        vars(self).pop("auto_map", None)  # of the file, not of the processor: its fingerprint stays
        return saved

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        settings, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if settings.get("joint_processor") is not None:
            kwargs = {"trust_remote_code": False} | kwargs
            kwargs["subfolder"] = os.path.join(kwargs.get("subfolder", ""), JOINT_FOLDER)
            settings["joint_processor"] = AutoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return settings, rest

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        present = (processor_dict or {}).get("parts", ["image_processor", "tokenizer"])
        arguments = []
        kwargs.setdefault("trust_remote_code", False)  # a part's own repository code is never asked about
        for name, loader in (("image_processor", AutoImageProcessor), ("tokenizer", AutoTokenizer)):
            # the tokenizer's own files name its class; the model's configuration, remote code perhaps, is not asked
            extra = {"config": PreTrainedConfig()} if name == "tokenizer" else {}
            part = loader.from_pretrained(pretrained_model_name_or_path, **kwargs, **extra) if name in present else None
            arguments.append(part)
        return arguments

    def _posts(self, images, text) -> tuple[list, list[str]]:
        if images is None and text is None:
            raise ValueError("give `images`, `text` or both")
        if images is not None:
            images = _as_list(images)
        if text is not None:
            text = [text] if isinstance(text, str) else list(text)
            for index, words in enumerate(text):
                if words is not None and not isinstance(words, str):
                    raise ValueError(f"`text[{index}]` must be a string or None, got {type(words).__name__}")
            # half of a pair of surrogates is no character, and no tokenizer takes it
            text = [words.encode("utf-8", "replace").decode() if words and words.strip() else "" for words in text]
        images = [None] * len(text) if images is None else images
        text = [""] * len(images) if text is None else text
        if len(images) != len(text):
            raise ValueError(f"`images` and `text` must have one entry per post, got {len(images)} and {len(text)}")
        for index, (image, words) in enumerate(zip(images, text, strict=True)):
            if image is None and not words:
                raise ValueError(f"post {index} has neither an image nor a text")
        cleaned = [clean_text(words, self.text_cleaning) for words in text]
        return images, [
            words if image is None and not left else left
            for image, words, left in zip(images, text, cleaned, strict=True)
        ]

    def _treat_overlaid_text(self, images: list, text: list[str]) -> tuple[list, list[str]]:
        images, text = list(images), list(text)
        for index, image in enumerate(images):
            if image is None or (text[index] and not self.remove_overlaid_text):
                continue
            treated, found = [], []
            for picture in image if isinstance(image, list) else [image]:
                picture = self._picture(index, picture)
                try:
                    regions = read_text(picture, self.text_reader)
                except ImportError:
                    raise
                except Exception as error:  # an engine's own trouble with one picture
                    raise ValueError(f"`images[{index}]`: its text cannot be read: {error}") from error
                found.append(joined_text(regions))
                treated.append(remove_text(picture, regions, self.inpainter) if self.remove_overlaid_text else picture)
            if self.read_missing_text and not text[index]:
                text[index] = clean_text(" ".join(words for words in found if words), self.text_cleaning)
            if self.remove_overlaid_text:
                images[index] = treated if isinstance(image, list) else treated[0]
        return images, text

    def _picture(self, index: int, image) -> Image.Image:
        try:
            return self.read_picture(image)
        except ValueError as error:
            raise ValueError(f"`images[{index}]`: {error}") from error

    def _pictures(self, images: list, as_they_are: bool) -> list:
        """Every picture read, but arrays `as_they_are` if so asked; a blank one, masked later, where a post has none."""
        if as_they_are and all(image is None or hasattr(image, "shape") for image in images):
            like = next(image for image in images if image is not None)
            return [like * 0 if image is None else image for image in images]
        pictures = [None if image is None else self._picture(index, image) for index, image in enumerate(images)]
        size = next(picture.size for picture in pictures if picture is not None)
        return [Image.new("RGB", size) if picture is None else picture for picture in pictures]


def _as_list(images) -> list:
    if isinstance(images, (str, bytes, dict, Path, Image.Image)) or hasattr(images, "read"):
        return [images]
    if hasattr(images, "shape"):
        return list(images) if len(images.shape) == 4 else [images]
    images = list(images)
    return [_one_or_several(image) for image in images]


def _one_or_several(image):
    """A post's pictures: None, one, or a list of several."""
    if not isinstance(image, (list, tuple)):
        return image
    found = [picture for picture in image if picture is not None]
    return found if len(found) > 1 else (found or [None])[0]


def _flat(images: list) -> list:
    return [picture for image in images for picture in (image if isinstance(image, list) else [image])]


def _by_post(name: str, rows, counts: list[int]) -> list[np.ndarray]:
    """Rows of pictures as rows of posts (K, ...), zeros behind a post's own; `counts` 0 has one blank picture."""
    if name.removeprefix("joint_") not in ("pixel_values", "pixel_mask"):
        raise ValueError(f"this image processor gives `{name}`, which is not known for several pictures of a post")
    most, found, start = max(counts), [], 0
    for count in (max(1, count) for count in counts):
        own = np.stack([np.asarray(row) for row in rows[start : start + count]])
        found.append(np.concatenate([own, np.zeros((most - count, *own.shape[1:]), own.dtype)]))
        start += count
    return found


def _prepared_alone(image_processor, pictures: list, options: dict) -> dict:
    """What an image processor makes of pictures, each as if it came alone: those of one size go together, and results of
    different sizes are laid on zeros with a `pixel_mask`, so that nothing depends on the batch."""
    sizes = [picture.size if isinstance(picture, Image.Image) else tuple(picture.shape) for picture in pictures]
    if len(set(sizes)) == 1:
        return dict(image_processor(pictures, **options))
    rows: list = [None] * len(pictures)
    for size in dict.fromkeys(sizes):
        members = [row for row, other in enumerate(sizes) if other == size]
        found = dict(image_processor([pictures[row] for row in members], **options))
        if set(found) - {"pixel_values", "pixel_mask"}:  # a form of its own, which only it can join
            return dict(image_processor(pictures, **options))
        for row, pixels in zip(members, found["pixel_values"], strict=True):
            rows[row] = np.asarray(pixels)
    if len({row.shape for row in rows}) == 1:
        return {"pixel_values": rows}
    height, width = (max(row.shape[side] for row in rows) for side in (-2, -1))
    pixels = np.zeros((len(rows), rows[0].shape[0], height, width), rows[0].dtype)
    mask = np.zeros((len(rows), height, width), np.int64)
    for number, row in enumerate(rows):
        pixels[number, :, : row.shape[-2], : row.shape[-1]] = row
        mask[number, : row.shape[-2], : row.shape[-1]] = 1
    return {"pixel_values": list(pixels), "pixel_mask": list(mask)}


def _name_of(choice: str | Callable) -> str:
    return choice if isinstance(choice, str) else f"{choice.__module__}.{choice.__qualname__}"


def _alike(one, other) -> bool:
    return type(one) is type(other) and one.to_dict() == other.to_dict()


def _joint(data) -> dict:
    return {f"joint_{name}": value for name, value in data.items()}


MMOrientProcessor.register_for_auto_class()  # its code goes with what it is saved in

__all__ = ["MMOrientProcessor"]


def _check_sizes(image_processor) -> None:
    """Raise ValueError for sides that no encoder takes, under whatever name: a small picture would become as large."""
    said = {} if image_processor is None else image_processor.to_dict()
    for name, value in said.items():
        if name.endswith("_id"):
            continue
        most = LONGEST_SIDE**2 if name in ("min_pixels", "max_pixels") else LONGEST_SIDE
        most = 4 * LONGEST_SIDE if "token" in name or "patches" in name else most
        if any(number > most for number in _numbers_in(value)):
            raise ValueError(f"`{name}` of the image processor is {str(value)[:99]}, more than {most}")
    size = said.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) and not size.get("longest_edge") else None
    if isinstance(shortest, (int, float)) and shortest * MOST_ELONGATED > 4 * LONGEST_SIDE:  # as long as a picture is
        most = 4 * LONGEST_SIDE // MOST_ELONGATED
        raise ValueError(f"`size` of the image processor is {size}: a shortest edge alone may be {most} pixels")


def _numbers_in(value) -> Iterator[float]:
    """All numbers in a value of a configuration."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, Mapping):
        yield from (number for inside in value.values() for number in _numbers_in(inside))
    elif isinstance(value, (list, tuple)):
        yield from (number for inside in value for number in _numbers_in(inside))
