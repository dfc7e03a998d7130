# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Training steps at the paper's sizes against the same network in Keras and Spektral, and against this machine's bound.

Batches of 120 posts of 100 x 2048 regions, 128 x 768 tokens, 784 task features; layers of 4618 and 2048; AdamW; batch
graphs; no dropout. Both sides start from equal weights and their losses are compared. The bound is what the matrix products
of the dense layers, forward and backward, and the optimiser's pass over all parameters take alone. The peer runs in an
environment of its own, whose Python the variable KERAS_PYTHON names (`pip install tensorflow-cpu tf-keras spektral`).
"""

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from modeling_mm_orient.cpu_speed import fastest_linear
from modeling_mm_orient.names import STREAM_NAMES
from modeling_mm_orient.runs.reference_converter import INPUTS, convert_reference_weights

from .timing import in_turn, markdown, plot_bars

BATCH, BATCHES, STEPS, THRESHOLD, RATE = 120, 2, 16, 0.1, 1e-4
SHAPES = {
    "image_embeds": (512,), "text_embeds": (512,), "region_features": (100, 2048), "token_features": (128, 768),
    "task_features": (784,),
}  # fmt: skip
TASKS = {"sentiment": 3, "humour": 4, "sarcasm": 4, "offensive": 4, "motivational": 2}
HIDDEN = (4618, 2048)


def make_arrays() -> dict[str, np.ndarray]:
    """Weights as `convert_reference_weights` takes them, batches and labels."""
    generator = np.random.default_rng(0)
    merged = 4 * 512 + 2048 + 768 + 784
    layers = {"word_attention": (768, 1), "region_attention": (2048, 1), **dict.fromkeys(STREAM_NAMES, (1024, 512))}
    layers |= {"classifier.0": (merged, HIDDEN[0]), "classifier.1": HIDDEN}
    layers |= {f"head.{task}": (HIDDEN[1], classes) for task, classes in TASKS.items()}
    arrays = {}
    for name, shape in layers.items():
        bound = (6 / sum(shape)) ** 0.5
        arrays[f"{name}.weight"] = generator.uniform(-bound, bound, shape).astype(np.float32)
        arrays[f"{name}.bias"] = np.zeros(shape[1], np.float32)
    for number in range(BATCHES):
        for name, shape in SHAPES.items():
            arrays[f"{name}.{number}"] = generator.normal(size=(BATCH, *shape)).astype(np.float32)
        for task, classes in TASKS.items():
            arrays[f"label.{task}.{number}"] = generator.integers(0, classes, BATCH)
    return arrays | {"threshold": np.float32(THRESHOLD), "learning_rate": np.float32(RATE)}


def ours(arrays: dict[str, np.ndarray], bf16: bool) -> dict[str, list[float]]:
    """Losses and seconds of every step."""
    weights = {name: value for name, value in arrays.items() if name.endswith((".weight", ".bias"))}
    model = convert_reference_weights(
        weights, image_threshold=THRESHOLD, text_threshold=THRESHOLD, learner_dropout=0.0
    ).train()
    model.for_cpu()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01, fused=True)
    batches = [
        {name: torch.tensor(arrays[f"{name}.{n}"]) for name in INPUTS}
        | {"labels": {task: torch.tensor(arrays[f"label.{task}.{n}"]) for task in TASKS}}
        for n in range(BATCHES)
    ]
    found = {"losses": [], "seconds": []}
    for number in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**batches[number % BATCHES]).loss
        loss.backward()
        optimizer.step()
        found["losses"].append(loss.item())
        found["seconds"].append(time.perf_counter() - start)
    return found


def bound(arrays: dict[str, np.ndarray]) -> float:
    """Seconds of the dense layers' products and the optimiser's pass."""
    weights = [
        torch.tensor(v.T).contiguous() for name, v in arrays.items() if name.endswith(".weight") and v.shape[1] > 1
    ]
    inputs = [torch.randn(BATCH, weight.shape[1]) for weight in weights]
    outputs = [torch.randn(BATCH, weight.shape[0]) for weight in weights]
    parameters = [torch.nn.Parameter(weight) for weight in weights]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, RATE, fused=True)

    @torch.no_grad()
    def products() -> None:
        for x, weight, gradient in zip(inputs, weights, outputs, strict=True):
            fastest_linear(x, weight)
            fastest_linear(gradient, weight.T)
            fastest_linear(gradient.T, x.T)

    times = in_turn({"products": products, "optimiser": optimizer.step}, 7)
    return times["products"].median + times["optimiser"].median


def peer(arrays: Path, bf16: bool, threads: int) -> dict[str, list[float]]:
    """The same of Keras and Spektral."""
    environment = os.environ | {
        "TF_USE_LEGACY_KERAS": "1",
        "OMP_NUM_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [os.environ["KERAS_PYTHON"], str(Path(__file__).with_name("keras_peer.py")), str(arrays), str(STEPS)]
    command += [str(threads), "mixed_bfloat16" if bf16 else "float32"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(folder: Path) -> str:
    """The benchmark's table."""
    arrays = make_arrays()
    found = {"ours": ours(arrays, False), "ours, bfloat16": ours(arrays, True)}
    if "KERAS_PYTHON" in os.environ:
        np.savez(folder / "arrays.npz", **arrays)
        for name, bf16 in (("Keras and Spektral", False), ("Keras and Spektral, bfloat16", True)):
            found[name] = peer(folder / "arrays.npz", bf16, torch.get_num_threads())
    rows, rates, least = [], {}, bound(arrays)
    for name, values in found.items():
        tolerance = 1e-2 if "bfloat16" in name else 1e-3
        np.testing.assert_allclose(values["losses"], found["ours"]["losses"], rtol=tolerance)
        seconds = np.array(values["seconds"][2:])
        rate = rates[name] = BATCH / np.median(seconds)
        spread = BATCH / seconds.min() - BATCH / seconds.max()
        losses = " ".join(f"{loss:.4f}" for loss in values["losses"][:4])
        share = "" if "bfloat16" in name else f"{least / np.median(seconds):.2f}"
        rows.append([name, f"{rate:.0f}", f"{spread:.0f}", share, losses])
    plot_bars(
        folder / "training.png", {"": rates | {"bound of the products and the optimiser": BATCH / least}}, "posts/s"
    )
    return markdown(["", "posts/s", "spread", "of the bound", "first losses"], rows)
