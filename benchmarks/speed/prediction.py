# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A prediction of posts, from picture files and texts to probabilities, against its encoders' own forward passes alone.

Encoders of random weights (CLIP ViT-B/32 for embeddings and regions, BERT-base), a relation memory of 10,000 posts, the
learner network of the paper or of `--preset modern`. The encoders' side gets tensors that lie ready; it runs as it comes,
and with the products of `for_cpu`. The model runs with these, and with its encoders in 8 bits.
"""

import copy
from pathlib import Path

import torch

from modeling_mm_orient import MMOrientForMultiTaskClassification
from modeling_mm_orient.relation_memory import RelationMemory
from modeling_mm_orient.runs.preset_files import load_preset
from modeling_mm_orient.tasks import predictions_by_task

from .extraction import build, write_posts
from .timing import in_turn, markdown, plot_bars

BATCHES, ENTRIES, ROUNDS = (1, 4), 10_000, 3


def attach_memory(model) -> None:
    """A memory of random posts."""
    generator = torch.Generator().manual_seed(0)
    widths = {"image": model.config.image_embed_dim, "text": model.config.text_embed_dim}
    model.set_relation_memory(
        RelationMemory(
            {modality: torch.randn(ENTRIES, width, generator=generator) for modality, width in widths.items()},
            {modality: torch.ones(ENTRIES, dtype=torch.bool) for modality in widths},
            [str(number) for number in range(ENTRIES)],
            torch.arange(1, ENTRIES + 1),
            model.config.tasks,
            {task["name"]: torch.randint(0, 2, (ENTRIES,), generator=generator) for task in model.config.tasks},
            model.base_model.encoder_fingerprints(),
        )
    )


@torch.inference_mode()
def main(folder: Path) -> str:
    """The benchmark's table."""
    encoders, processor = build()
    write_posts(folder / "posts")
    lines = (folder / "posts" / "labels.csv").read_text().splitlines()[1:]
    posts = [(str(folder / "posts" / "images" / name), text) for name, text in (line.split(",") for line in lines)]
    plain, rows, plotted = copy.deepcopy(encoders), [], {}
    encoders.for_cpu()
    for preset in ("paper", "modern"):
        fields = {"learner_hidden_sizes": load_preset(preset)["config"]["learner_hidden_sizes"]}
        fields |= {"relation_scope": "memory", "edge_weights": "softmax", "neighbour_labels": True}
        model = MMOrientForMultiTaskClassification.from_encoders_pretrained(**encoders.encoders, **fields).eval()
        model.for_cpu()
        attach_memory(model)
        for count in BATCHES:
            images, texts = [list(values) for values in zip(*posts[:count], strict=True)]
            inputs = processor(images=images, text=texts, return_tensors="pt")

            def predict(model=model, images=images, texts=texts):
                logits = model(**processor(images=images, text=texts, return_tensors="pt")).logits
                rows = range(len(images))
                return [predictions_by_task(model.config.tasks, {n: v[row] for n, v in logits.items()}) for row in rows]

            ways = {
                "encoders": lambda inputs=inputs: plain.encode_posts(**inputs),
                "faster": lambda inputs=inputs: encoders.encode_posts(**inputs),
                "model": lambda inputs=inputs, model=model: model(**inputs),
                "end to end": predict,
            }
            small = copy.deepcopy(model).for_cpu(int8=True)
            ways["8 bits"] = lambda small=small: predict(small)
            times = in_turn(ways, ROUNDS, 0.2)
            own = times["encoders"].median
            plotted[f"{preset}, {count} posts"] = {name: timing.median / own for name, timing in times.items()}
            ratios = [f"{times[name].median / own:.3f}" for name in ("end to end", "8 bits")]
            ratios.insert(1, f"{times['end to end'].median / times['faster'].median:.3f}")
            rows.append([f"{preset} learner, {count} post(s)", *map(str, times.values()), *ratios])
    plot_bars(folder / "prediction.png", plotted, "time relative to the encoders alone")
    heads = ["", "encoders alone", "with our products", "model", "end to end", "in 8 bits"]
    heads += ["end to end / encoders alone", "/ with our products", "in 8 bits / encoders alone"]
    return markdown(heads, rows)
