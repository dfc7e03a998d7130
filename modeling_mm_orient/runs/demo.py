# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Demo memes: synthetic posts drawn and captioned here, and a demonstration on them that downloads nothing.

A picture shows a cat or a robot in sun or rain; a caption has a mood and may mock whoever is shown. Five tasks: sentiment
(the caption's mood) and motivational need the text, humour (a party hat) the picture; sarcasm (cheerful words in the rain)
and offensive (mocking a cat; a robot does not mind) need both.
"""

import csv
import random
from pathlib import Path

from PIL import Image, ImageDraw

from ..data.description import DataDescription
from ..pipeline_mm_orient import MultimodalClassificationPipeline
from .card import metrics_table
from .preset_files import load_preset
from .run_folder import REPORT_FILE, load_run
from .settings import TrainingSettings
from .training import train

TASKS = {
    "sentiment": ["negative", "neutral", "positive"],
    "humour": ["not_funny", "funny"],
    "sarcasm": ["not_sarcastic", "sarcastic"],
    "offensive": ["not_offensive", "offensive"],
    "motivational": ["not_motivational", "motivational"],
}
NEED_BOTH = ("sarcasm", "offensive")
MOODS = {
    "positive": [
        "what a lovely morning",
        "best day ever",
        "everything is great",
        "such a wonderful party",
        "perfect weekend",
    ],
    "negative": [
        "what an awful morning",
        "worst day ever",
        "everything is broken",
        "such a terrible party",
        "ruined weekend",
    ],
    "neutral": ["another morning", "it is a day", "there was a party", "this is the weekend"],
}
MOCKERY = ["look at that ugly face", "what a dumb creature", "nobody likes you"]
GREETINGS = ["look who is here", "a word from our friend", "somebody wants to talk"]
PUSHES = ["never give up", "you can do it", "keep going"]
IMAGE_SIZE = 96
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
MISSING_SHARE, NOISE_SHARE = 0.08, 0.02


def draw_meme(subject: str, rains: bool, hat: bool, rng: random.Random) -> Image.Image:
    """A cat's round or a robot's square head in sun or rain, in random colours and at a random place."""
    sky = rng.randrange(110, 160) if rains else rng.randrange(190, 240)
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), tuple(sky + rng.randrange(-15, 16) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, size = rng.randrange(IMAGE_SIZE), rng.randrange(IMAGE_SIZE), rng.randrange(4, 14)
        draw.rectangle([x, y, x + size, y + size], fill=tuple(rng.randrange(150, 256) for _ in range(3)))
    if rains:
        for _ in range(25):
            x, y = rng.randrange(IMAGE_SIZE), rng.randrange(IMAGE_SIZE)
            draw.line([(x, y), (x - 3, y + 9)], fill=(60, 90, 200), width=2)
    else:
        draw.ellipse(_box(rng.choice([8, IMAGE_SIZE - 8]), 8, 13, 13), fill=(250, 220, 40))
    x, y, r = rng.randrange(42, 55), rng.randrange(54, 63), rng.randrange(27, 32)
    colour = tuple(rng.randrange(60, 150) for _ in range(3))
    if subject == "cat":
        for side in (-1, 1):
            base = [(x + side * r * 0.95, y - r * 0.35), (x + side * r * 0.25, y - r * 0.9)]
            draw.polygon([*base, (x + side * r * 0.85, y - r * 1.5)], fill=colour)
        draw.ellipse(_box(x, y, r, r), fill=colour)
    else:
        draw.rectangle(_box(x, y, r * 0.95, r * 0.9), fill=colour, outline="black", width=3)
        for side in (-1, 1):
            draw.line([(x + side * r * 0.7, y - r * 0.9), (x + side * r * 0.7, y - r * 1.5)], fill="black", width=3)
    for side in (-1, 1):
        draw.ellipse(_box(x + side * r * 0.4, y - r * 0.3, r * 0.18, r * 0.22), fill="white")
        draw.ellipse(_box(x + side * r * 0.4, y - r * 0.3, r * 0.08, r * 0.12), fill="black")
    draw.chord(_box(x, y + r * 0.3, r * 0.5, r * 0.4), 0, 180, fill="white")
    if hat:
        top = y - r * 0.9
        draw.polygon([(x - r * 0.45, top), (x + r * 0.45, top), (x, top - r * 0.95)], fill="red", outline="white")
    return image


def make_memes(folder, count: int = 800, seed: int = 0) -> Path:
    """Write `count` memes as `images/*.png` and `labels.csv` (columns id, image, text, split and five tasks).

    The same `count` and `seed` give the same files. A share of the labels is missing, a share of the captions' tasks wrong.
    """
    folder, rng = Path(folder), random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "image", "text", "split", *TASKS])
        writer.writeheader()
        for index in range(count):
            subject, mood = rng.choice(["cat", "robot"]), rng.choices(list(MOODS), [0.45, 0.35, 0.2])[0]
            rains, hat, mocks, pushes = (rng.random() < 0.5 for _ in range(4))
            words = [rng.choice(MOODS[mood]), rng.choice(MOCKERY if mocks else GREETINGS)]
            words += [rng.choice(PUSHES)] if pushes else []
            rng.shuffle(words)
            numbers = {
                "sentiment": TASKS["sentiment"].index(mood),
                "humour": int(hat),
                "sarcasm": int(mood == "positive" and rains),
                "offensive": int(mocks and subject == "cat"),
                "motivational": int(pushes),
            }
            name = f"{index:04d}.png"
            draw_meme(subject, rains, hat, rng).save(folder / "images" / name)
            writer.writerow(
                {"id": f"meme-{index:04d}", "image": name, "text": ", ".join(words), "split": _split(index / count)}
                | {task: _label(task, number, rng) for task, number in numbers.items()}
            )
    return folder


def demo(output: str = "demo_run", seed: int = 0) -> dict:
    """Draw memes, train on both modalities and on each alone, and predict with the reloaded model. Returns test metrics."""
    folder, preset = Path(output), load_preset("tiny")
    print(
        "Synthetic demo memes, drawn and captioned by this program; tiny encoders trained from scratch; no download.\n"
    )
    make_memes(folder / "data", seed=seed)
    everything = DataDescription(str(folder / "data"), labels=list(TASKS), split_column="split")
    inputs = {
        "picture and text": everything,
        "picture alone": DataDescription(**vars(everything) | {"text_column": []}),
        "text alone": DataDescription(**vars(everything) | {"image_column": None}),
    }
    metrics = {}
    for name, description in inputs.items():
        settings = TrainingSettings(**preset["training"] | {"seed": seed})
        run = folder / name.replace(" ", "_")
        with_report = description is everything
        trained = train(
            description, str(run), preset=preset, settings=settings, overwrite=True, with_report=with_report
        )
        metrics[name] = trained["test"]
    model, processor = load_run(str(folder / "picture_and_text"))
    print(f"\nTest split, model on picture and text:\n\n{metrics_table(metrics['picture and text'])}")
    print("\nMacro-F1 by what the model reads:\n\n| task | majority | " + " | ".join(metrics) + " |")
    print("|---|--:|" + "--:|" * len(metrics))
    for task in TASKS:
        cells = [
            metrics["picture and text"][task]["majority_macro_f1"],
            *(m[task]["macro_f1"] for m in metrics.values()),
        ]
        needs = " (needs both)" if task in NEED_BOTH else ""
        print(f"| {task}{needs} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    print("\nThree posts predicted by the model as reloaded from disk:\n")
    pipe = MultimodalClassificationPipeline(model=model, processor=processor)
    with (folder / "data" / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"][:3]
    for row in rows:
        verdicts = pipe({"image": str(folder / "data" / "images" / row["image"]), "text": row["text"]})
        print(f"{row['id']} {row['text']!r}")
        for task, scores in verdicts.items():
            best = max(scores, key=scores.get)
            print(f"    {task:13} {best} ({scores[best]:.2f}), labelled {row[task] or 'not at all'}")
    print("\nSynthetic data: this shows that everything works, not how well it reads real memes.")
    print(f"To look at: {folder / 'picture_and_text' / REPORT_FILE}")
    return metrics


def _box(x: float, y: float, half_width: float, half_height: float) -> list[float]:
    return [x - half_width, y - half_height, x + half_width, y + half_height]


def _split(position: float) -> str:
    for split, share in SPLITS.items():
        if position < share:
            return split
        position -= share
    return "test"


def _label(task: str, number: int, rng: random.Random) -> str:
    chance = rng.random()
    if chance < MISSING_SHARE:
        return ""
    return rng.choice(TASKS[task]) if chance < MISSING_SHARE + NOISE_SHARE else TASKS[task][number]
