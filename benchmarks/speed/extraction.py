# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Feature extraction against a bare loop of forward passes over tensors that lie ready.

Both run the same encoders (CLIP ViT-B/32 and BERT-base of random weights) over the same batches; extraction also reads and
decodes JPEG files, tokenises, and writes the features to the disk, with as many workers as it takes by default. Where the
processor multiplies bfloat16, once more in that.
"""

import copy
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, CLIPConfig, CLIPImageProcessorPil, CLIPProcessor

from modeling_mm_orient import MMOrientConfig, MMOrientModel, MMOrientProcessor
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.encoders import PostFeatures
from modeling_mm_orient.features.extraction import DataShards, ShardBatches, encoder_fingerprint, extract_features
from modeling_mm_orient.runs.presets import train_tokenizer

from .timing import markdown, plot_bars

POSTS, BATCH, ROUNDS = 64, 32, 2
WORDS = "when you finally fix the bug but nobody asked me at three in the morning and my boss says we are family".split


def write_posts(folder: Path) -> None:
    """Posts of a 600 x 500 JPEG and 4 to 40 words."""
    generator, words, lines = np.random.default_rng(0), WORDS(), ["image,text"]
    (folder / "images").mkdir(parents=True)
    for row in range(POSTS):
        small = Image.fromarray(generator.integers(0, 255, (25, 30, 3), dtype=np.uint8))
        small.resize((600, 500), Image.Resampling.BICUBIC).save(folder / "images" / f"{row}.jpg", quality=85)
        lines.append(f"{row}.jpg,{' '.join(generator.choice(words, generator.integers(4, 40)))}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def build() -> tuple[MMOrientModel, MMOrientProcessor]:
    """The paper's encoders, with a patch encoder from CLIP's picture side."""
    tokenizer = train_tokenizer([" ".join(WORDS())], 400)
    clip, size = CLIPConfig(), len(tokenizer)
    clip.text_config.vocab_size = size
    torch.manual_seed(0)
    config = MMOrientConfig(
        joint_config=clip,
        text_config=BertConfig(vocab_size=size),
        vision_config=clip.vision_config,
        learner_hidden_sizes=[8],
    )
    processor = MMOrientProcessor(CLIPImageProcessorPil(), tokenizer, CLIPProcessor(CLIPImageProcessorPil(), tokenizer))
    return MMOrientModel(config).eval(), processor


@torch.inference_mode()
def bare_loop(model: MMOrientModel, batches: list[dict], bf16: bool) -> tuple[list[PostFeatures], float]:
    """Features and seconds."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return [model.encode_posts(**batch) for batch in batches], time.perf_counter() - start


def worst_deviation(stored: datasets.Dataset, prepared: list, encoded: list[PostFeatures]) -> float:
    """Of embeddings in `stored` from those of the bare loop, relative to a post's largest value."""
    worst = 0.0
    for batch, features in zip(prepared, encoded, strict=True):
        for row, position in enumerate(batch.positions):
            for name in ("image_embeds", "text_embeds"):
                values = features[name][row].float().numpy()
                difference = np.abs(np.array(stored[position][name]) - values).max() / np.abs(values).max()
                worst = max(worst, float(difference))
    return worst


def main(folder: Path) -> str:
    """The benchmark's table."""
    data, (model, processor) = folder / "posts", build()
    write_posts(data)
    description = DataDescription(str(data))
    shards = DataShards(description, 0, 1, frozenset())
    prepared = list(ShardBatches(shards, processor, BATCH))
    loops = {"bare loop": model, "bare loop, for_cpu": copy.deepcopy(model).for_cpu()}
    model = loops["bare loop, for_cpu"]
    capable = torch.cpu.get_capabilities()
    rows, plotted, fingerprints = [], {}, []
    for bf16 in (False, True)[: 1 + bool(capable.get("avx512_bf16"))]:
        if bf16:
            del loops["bare loop, for_cpu"]  # its products are of float32
        times = {name: [] for name in (*loops, "extraction")}
        for number in range(ROUNDS):
            for name, way in loops.items():
                encoded, seconds = bare_loop(way, [batch.inputs for batch in prepared], bf16)
                times[name].append(seconds)
            start = time.perf_counter()
            encoder_fingerprint(model, processor)
            fingerprints.append(time.perf_counter() - start)
            start = time.perf_counter()
            output = folder / f"{number} {bf16}"
            report = extract_features(description, model, processor, output, BATCH, bf16=bf16)
            times["extraction"].append(time.perf_counter() - start - fingerprints[-1])
        worst = worst_deviation(datasets.load_from_disk(report["folder"]), prepared, encoded)
        assert worst < (0.05 if bf16 else 2e-3), worst
        rates = {name: POSTS / np.array(seconds) for name, seconds in times.items()}
        plotted["bfloat16" if bf16 else "float32"] = {name: np.median(values) for name, values in rates.items()}
        for name, values in rates.items():
            share = np.median(values) / np.median(rates["bare loop"])
            cells = [f"{np.median(values):.2f}", f"{np.ptp(values):.2f}", f"{share:.3f}"]
            rows.append([name + ", bfloat16" * bf16, *cells, f"{worst:.0e}" if name == "extraction" else ""])
    plot_bars(folder / "extraction.png", plotted, "posts/s")
    table = markdown([f"{POSTS} posts", "posts/s", "spread", "of the bare loop", "worst deviation from it"], rows)
    return f"{table}\n\nNot counted: {np.median(fingerprints):.1f} s, once, to tell the encoders apart."


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(main(Path(scratch)))
