# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What a verdict rests on (ours): attention laid back on picture and words, experts, neighbours, and what changes without
each.

Attention says where HIMA looked, not why a task came out as it did; the verdicts without a part are those the model gives.

Shapes: B posts, R regions, T tokens; boxes are left, top, right, bottom in pixels of the upright picture.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .encoders import region_features
from .experts import NEEDS, NGRAMS, TEXT_LAYERS
from .pictures import reduced
from .tasks import kind_of, predictions_by_task

PARTS = ("picture", "text", "neighbours")
WITHOUT_ENCODERS = "this model has no encoders: it takes feature arrays, no post (mm-orient predict --feature-arrays)"
LEVELS = 255.0  # of a ramp's grey values
MARK = 128  # of the channel that tells a picture from what pads it
LEAST_RISE = 0.1  # of a ramp over all pixels: a picture of one row or column has none
LARGEST_RESIDUAL = 0.02  # of the picture's side: a ramp that comes out less straight was not only resized and cropped


def explain(
    model,
    processor,
    pictures: Sequence[Image.Image] | None,
    text: str | None,
    neighbours: int = 5,
    sizes: Sequence[tuple[int, int]] | None = None,
    numbers=None,
) -> dict:
    """One post's verdict and its evidence, as plain values.

    Args:
        model: `MMOrientForMultiTaskClassification` with encoders. processor: its processor.
        pictures: as `processor.read_picture` gives them. text: of the post; either may be None.
        neighbours: so many reference posts per modality, where the model has a relation memory.
        sizes: width and height of the upright pictures before they were reduced (default: of `pictures`).
        numbers: of the model's numeric columns.

    Returns:
        `verdict`: as the pipeline gives it. `decisions`: by each task's rule.
        `regions`: a list of `{"picture", "box", "attention"}` that sums to 1, by the picture's number, with `box` None where
        the vision encoder's regions have no place; None without a picture, or where it was left out of account as unlike
        every reference post's: then `strange_picture` is True. `words`: `{"start", "end", "word", "attention"}`,
        places in `text`, the text as the encoder reads it (cleaned, or read from the picture); what special tokens and
        spaces get is left over.
        `experts`: task -> expert -> `{"weight", "says"}`; empty for a model of one network.
        `neighbours`: `{"image", "text"}`, see `RelationMemory.evidence`. `without`: part -> the verdict without it, None
        where the post has no such part, or nothing else.
    """
    if not model.config.encoder_names:
        raise ValueError(WITHOUT_ENCODERS)
    tasks, pictures = model.config.tasks, list(pictures or [])
    inputs = _inputs(model, processor, pictures, text, numbers)
    memory = model.relation_memory if model.config.relation_scope != "batch" else None
    with torch.inference_mode():
        asked = ("output_attentions", "output_relations", "output_members", "output_components")
        found = model(**inputs, **dict.fromkeys(asked, True))
    seen = processor.treat([_several(pictures)], [text])[1][0]
    shown: dict[str, Any] = {"verdict": _verdict(tasks, found), "text": seen}
    shown["decisions"] = {task["name"]: kind_of(task).decision(task, shown["verdict"][task["name"]]) for task in tasks}
    shown["regions"] = None
    shown["strange_picture"] = found.strange_pictures is not None and bool(found.strange_pictures[0])
    if pictures and not shown["strange_picture"] and found.region_attention is not None:
        places = sizes or [picture.size for picture in pictures]
        shown["regions"] = regions_with_attention(model, processor, places, found.region_attention[0])
    shown["words"] = words_with_attention(processor, seen, found.word_attention[0]) if seen else []
    there = {"image": bool(found.has_image[0]), "text": bool(found.has_text[0]), NGRAMS: "ngram_ids" in inputs}
    there[TEXT_LAYERS] = found.text_layers is not None and there["text"]
    shown["experts"] = _experts(tasks, found, there) if model.config.experts or model.config.members > 1 else {}
    shown["neighbours"] = {"image": [], "text": []}
    if memory is not None:
        for modality in shown["neighbours"]:
            entries, cosines = found[f"{modality}_neighbours"][0], found[f"{modality}_similarities"][0]
            shown["neighbours"][modality] = memory.evidence(entries, cosines, neighbours)
    shown["without"] = dict.fromkeys(PARTS)
    with torch.inference_mode():
        if pictures and text and text.strip():
            without = {"picture": ([], text), "text": (pictures, None)}
            for part, (left, words) in without.items():
                shown["without"][part] = _verdict(tasks, model(**_inputs(model, processor, left, words, numbers)))
        if memory is not None:
            shown["without"]["neighbours"] = _verdict(tasks, model(**inputs, without_neighbours=True))
    return shown


def _several(pictures: list):
    """Pictures of one post as the processor takes them."""
    return pictures if len(pictures) > 1 else pictures[0] if pictures else None


def _inputs(model, processor, pictures: list, text: str | None, numbers):
    more = {} if numbers is None else {"numbers": [numbers]}
    return processor(images=[_several(pictures)], text=[text], **more, return_tensors="pt").to(model.device)


def _verdict(tasks: list[dict], outputs) -> dict:
    return predictions_by_task(tasks, {name: values[0] for name, values in outputs.logits.items()})


def _experts(tasks: list[dict], outputs, there: dict[str, bool]) -> dict:
    """Task -> expert -> how much it is heard, and what it says by itself; without those whose needs are not `there`."""
    experts: dict[str, dict] = {}
    for task in tasks:
        kind, weights, of_task = kind_of(task), task.get("expert_weights"), {}
        for name, scores in outputs.expert_scores[task["name"]].items():
            if not all(there[needed] for needed in NEEDS[name]):
                continue
            says = kind.prediction(task, kind.probabilities(scores[0].float()).tolist())
            weight = float(name == "network") if weights is None else weights.get(name, 0.0)
            of_task[name] = {"weight": weight, "says": says}
        experts[task["name"]] = of_task
    return experts


def words_with_attention(processor, text: str, attention: Tensor) -> list[dict]:
    """The words of `text` with the attention (T,) of their tokens, by the places that the tokenizer says they have.

    A tokenizer that says none gives the tokens themselves, without places.
    """
    tokenizer = processor.tokenizer
    if tokenizer is None:
        return []
    options = {"max_length": processor.max_tokens, "truncation": True}
    if not getattr(tokenizer, "is_fast", False):
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text, **options)["input_ids"])
        found = zip(pieces, attention.tolist(), strict=False)
        return [{"start": None, "end": None, "word": piece, "attention": weight} for piece, weight in found]
    places = tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
    words: list[dict] = []
    for start, end, word in _words(text):
        weights = [w for (a, b), w in zip(places, attention.tolist(), strict=False) if b > a and a < end and b > start]
        words.append({"start": start, "end": end, "word": word, "attention": float(sum(weights))})
    return words


def _words(text: str) -> list[tuple[int, int, str]]:
    found, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        found.append((start, start + len(word), word))
        start += len(word)
    return found


def regions_with_attention(model, processor, sizes: Sequence[tuple[int, int]], attention: Tensor) -> list[dict]:
    """The regions of all pictures, one after the other, with their attention (R,)."""
    boxes = [region_boxes(model, processor, size) for size in sizes]
    placed = [(number, box) for number, found in enumerate(boxes) for box in found or []]
    if any(found is None for found in boxes) or len(placed) != len(attention):
        placed = [(place * len(sizes) // len(attention), None) for place in range(len(attention))]
    return [
        {"picture": number, "box": box, "attention": weight}
        for (number, box), weight in zip(placed, attention.tolist(), strict=True)
    ]


def region_boxes(model, processor, size: tuple[int, int]) -> list[list[float]] | None:
    """The box of each region (R), row by row, in a picture of this width and height; None where regions have no grid.

    What resizing, cropping and padding do to places is measured: ramps of grey go through the processor as a picture does.
    A region of a convolutional encoder sees beyond its box, one of a transformer sees everything.
    """
    encoder, image_processor = model.base_model.encoders.get("vision"), processor.image_processor
    if encoder is None or image_processor is None:
        return None
    pixels, placed = _ramps(image_processor, size)
    if pixels is None:
        return None
    grid = _grid(encoder, pixels.to(model.device))
    if grid is None:
        return None
    columns, rows = (_line(placed[axis], extent) for axis, extent in ((0, size[0]), (1, size[1])))
    if columns is None or rows is None:
        return None
    height, width = pixels.shape[-2:]
    across = [columns(place * width / grid[1]) for place in range(grid[1] + 1)]
    down = [rows(place * height / grid[0]) for place in range(grid[0] + 1)]
    across, down = np.clip(across, 0, size[0]).round(1), np.clip(down, 0, size[1]).round(1)
    return [
        [float(across[x]), float(down[y]), float(across[x + 1]), float(down[y + 1])]
        for y in range(grid[0])
        for x in range(grid[1])
    ]


def _ramps(image_processor, size: tuple[int, int]) -> tuple[Tensor | None, tuple]:
    """What the image processor makes of a picture whose red grows to the right and green downwards: its pixels (1, 3, H, W);
    and for both directions the places (W,) or (H,) in the picture, NaN where there is none of it."""
    ramp = np.zeros((size[1], size[0], 3), np.uint8)
    ramp[..., 0] = np.round((np.arange(size[0]) + 0.5) / size[0] * LEVELS)[None]
    ramp[..., 1] = np.round((np.arange(size[1]) + 0.5) / size[1] * LEVELS)[:, None]
    ramp[..., 2] = MARK
    pictures = [Image.fromarray(ramp), Image.new("RGB", size, "black"), Image.new("RGB", size, "white")]
    # what encloses the picture is white in `reduced`, and whatever the processor pads with
    read = [image_processor(reduced(picture), return_tensors="pt")["pixel_values"] for picture in pictures]
    if any(value.shape != read[0].shape or value.dim() != 4 for value in read):
        return None, ()
    middle = read[0].shape[-2] // 2, read[0].shape[-1] // 2
    dark, bright = (value[0, :, middle[0], middle[1]].double()[:, None, None] for value in read[1:])
    if bool(((bright - dark).abs() < 1e-6).any()):
        return None, ()
    grey = ((read[0][0].double() - dark) / (bright - dark)).numpy()
    inside = np.abs(grey[2] - MARK / LEVELS) < 2 / LEVELS
    places = np.where(inside, grey[0], np.nan), np.where(inside, grey[1], np.nan)
    with np.errstate(invalid="ignore"):
        columns = np.array(
            [np.nanmean(column) if inside[:, i].any() else np.nan for i, column in enumerate(places[0].T)]
        )
        rows = np.array([np.nanmean(row) if inside[i].any() else np.nan for i, row in enumerate(places[1])])
    return read[0], (columns, rows)


def _line(places: np.ndarray, extent: int):
    """From a place among the encoder's pixels to one in the picture; None where that is no straight line."""
    known = np.isfinite(places) & (places > 0.15) & (places < 0.85)  # at the ends resizing flattens a ramp
    if known.sum() < 2:
        return None
    at = np.arange(len(places))[known] + 0.5
    slope, start = np.polyfit(at, places[known], 1)
    if np.abs(start + slope * at - places[known]).max() > LARGEST_RESIDUAL or slope * len(places) < LEAST_RISE:
        return None
    return lambda place: (start + slope * place) * extent


@torch.inference_mode()
def _grid(encoder, pixels: Tensor) -> tuple[int, int] | None:
    """Rows and columns of the encoder's regions of `pixels` (1, 3, H, W); None where they are no grid."""
    outputs = encoder(pixel_values=pixels.to(encoder.dtype), return_dict=True)
    hidden = outputs.last_hidden_state
    if hidden.dim() == 4:
        return hidden.shape[2], hidden.shape[3]
    patch = getattr(encoder.config, "patch_size", None)
    if patch is None or getattr(encoder.config, "num_detection_tokens", None):
        return None
    height, width = (patch, patch) if isinstance(patch, int) else patch
    grid = pixels.shape[-2] // height, pixels.shape[-1] // width
    regions = region_features(outputs, pixels, encoder.config).shape[1]
    return grid if grid[0] * grid[1] == regions else None
