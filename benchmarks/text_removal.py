# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""How well text on pictures is read and painted over: captions of known words are drawn on pictures without text.

    python benchmarks/text_removal.py FOLDER [--pictures N] [--sheet FILE.png]

For each size of the letters, over N pictures of FOLDER that have no text of their own, scaled to 480 pixels: character
accuracy (1 - edit distance / length), with spaces and without; the share of the caption's pixels that the mask covers, and
that are nearer to the original than to the caption after painting over; and the share of the other pixels that was painted
over too. FILE.png shows some of them: original, with caption, treated.
"""

import argparse
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modeling_mm_orient.data.picture_files import pictures_below
from modeling_mm_orient.pictures import read_image
from modeling_mm_orient.text_removal import joined_text, read_text, remove_text, text_mask

CAPTIONS = (
    "when you finally fix the bug but nobody asked me at three in the morning my boss says we are family and then no raise "
    "this year brace yourselves winter is coming one does not simply walk into work on monday what if I told you that cats "
    "rule the internet why not both keep calm study hard sleep never again until friday comes"
)
WORDS = CAPTIONS.split()
SIDE = 480
VISIBLE = 48  # a pixel is the caption's where it differs by more from the original


def draw_caption(picture: Image.Image, size: int, seed: int) -> tuple[Image.Image, str]:
    """The picture with a line at its top and one at its bottom, white with a black outline, and their words."""
    drawn, font, chooser = picture.copy(), ImageFont.load_default(size), random.Random(seed)
    draw, lines = ImageDraw.Draw(drawn), []
    for bottom in (False, True):
        words, start = "", chooser.randrange(len(WORDS))
        for word in WORDS[start:] + WORDS[:start]:
            longer = f"{words} {word}".strip().upper()
            if draw.textlength(longer, font) > picture.width - 3 * size:
                break
            words = longer
        place = (picture.width // 2, picture.height - size // 2 if bottom else size // 2)
        anchor = "md" if bottom else "ma"
        draw.text(place, words, "white", font, anchor, stroke_width=max(1, size // 14), stroke_fill="black")
        lines.append(words)
    return drawn, " ".join(lines)


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and replacements of single characters."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def measure(clean: Image.Image, size: int, seed: int) -> tuple[list[float], list[Image.Image]]:
    """The figures of one picture, and the picture, the captioned and the treated one."""
    drawn, words = draw_caption(clean, size, seed)
    regions = read_text(drawn)
    treated, read = remove_text(drawn, regions), joined_text(regions).upper()
    before, captioned, after = (np.asarray(p).astype(int) for p in (clean, drawn, treated))
    caption = np.abs(captioned - before).max(-1) > VISIBLE
    mask = text_mask(clean.size, regions)
    gone = np.abs(after - before).max(-1) < np.abs(after - captioned).max(-1)
    figures = [
        1 - edit_distance(read, words) / len(words),
        1 - edit_distance(read.replace(" ", ""), words.replace(" ", "")) / len(words.replace(" ", "")),
        mask[caption].mean(),
        gone[caption].mean(),
        mask[~caption].mean(),
    ]
    return figures, [clean, drawn, treated]


def without_text(paths: list[Path]) -> Iterator[Image.Image]:
    """The pictures, scaled, in which nothing is read."""
    for path in paths:
        picture = read_image(path)
        picture = picture.resize([round(side * SIDE / max(picture.size)) for side in picture.size])
        if not read_text(picture):
            yield picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--pictures", type=int, default=50, metavar="N", help="per size (default: 50)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[14, 20, 28, 40], metavar="PIXELS")
    parser.add_argument("--sheet", metavar="FILE.png")
    options = parser.parse_args()
    paths = pictures_below(Path(options.folder))
    random.Random(0).shuffle(paths)
    heads = ["letters, pixels", "characters", "without spaces", "covered", "gone", "other pixels covered"]
    print(f"| {' | '.join(heads)} |\n|{'--:|' * len(heads)}")
    shown, pictures = [], list(islice(without_text(paths), options.pictures))
    for size in options.sizes:
        rows = []
        for seed, picture in enumerate(pictures):
            figures, stages = measure(picture, size, seed)
            rows.append(figures)
            shown += [stages] if seed < 2 else []
        print(f"| {size} | {' | '.join(f'{value:.3f}' for value in np.mean(rows, 0))} |", flush=True)
    if options.sheet:
        sheet = Image.new("RGB", (3 * SIDE, SIDE * len(shown)), "white")
        for row, stages in enumerate(shown):
            for column, picture in enumerate(stages):
                sheet.paste(picture, (column * SIDE, row * SIDE))
        sheet.save(options.sheet)


if __name__ == "__main__":
    main()
