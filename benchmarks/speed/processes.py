# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Training in two processes (gloo, by `accelerate launch`) against one: the losses, and what goes over the wire in a step.

The paper's sizes, 120 posts a step in all, no dropout. A process sends every gradient once (DDP's all-reduce, which costs
2 (n - 1) / n of its size), and its posts' embeddings and attended vectors to the others, whose neighbours they are; their
gradients come back by an all-reduce over all posts. Regions and tokens stay where they are. The measured bytes are those of
the loopback device, both processes' together, halved.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainingArguments

from modeling_mm_orient import FeatureCollator, MMOrientConfig, MMOrientForMultiTaskClassification
from modeling_mm_orient.runs.trainer import MMOrientTrainer

from .timing import markdown

POSTS, STEPS, THRESHOLD = 120, 6, 0.1
SHAPES = {"image_embeds": (512,), "text_embeds": (512,), "region_features": (10, 2048), "token_features": (12, 768)}


class Wire(TrainerCallback):
    """Bytes per step: those of the loopback device, and those of this process's collectives by what they carry."""

    def __init__(self):
        self.measured, self.seconds, self.payload, self.before = [], [], Counter(), None
        for name, factor in (("all_gather", lambda n: n - 1), ("all_reduce", lambda n: 2 * (n - 1) / n)):
            setattr(dist, name, self.counted(name, getattr(dist, name), factor))

    def counted(self, name: str, collective, factor):
        def call(*arguments, **options):
            value = arguments[-1] if name == "all_gather" else arguments[0]
            self.payload[name] += value.nbytes * factor(dist.get_world_size())
            return collective(*arguments, **options)

        return call

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = loopback_bytes(), time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.measured.append(loopback_bytes() - self.before[0])
        self.seconds.append(time.perf_counter() - self.before[1])


def loopback_bytes() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def work(output: str, count: int) -> None:
    """One of `count` processes; the first writes what it saw."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    posts = [
        {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
        | {"offensive": row % 2}
        for row in range(POSTS * STEPS)
    ]
    tasks = [{"name": "offensive", "labels": ["no", "yes"]}]
    torch.manual_seed(0)
    config = MMOrientConfig(
        tasks=tasks, task_feature_dim=0, image_threshold=THRESHOLD, text_threshold=THRESHOLD, learner_dropout=0.0
    )
    model = MMOrientForMultiTaskClassification(config)
    arguments = TrainingArguments(
        f"{output}.run", max_steps=STEPS, per_device_train_batch_size=POSTS // count, remove_unused_columns=False,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, logging_steps=1, learning_rate=1e-4,
    )  # fmt: skip
    wire, collator = Wire(), FeatureCollator(tasks)
    trainer = MMOrientTrainer(model, arguments, data_collator=collator, train_dataset=posts, callbacks=[wire])
    trainer.train()
    if trainer.is_world_process_zero():
        found = {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}
        found |= {"measured": statistics.median(wire.measured) / count, "seconds": statistics.median(wire.seconds)}
        found |= {name: value / STEPS for name, value in wire.payload.items()}
        found["gradients"] = sum(p.nbytes for p in model.parameters() if p.requires_grad) * 2 * (count - 1) / count
        Path(output).write_text(json.dumps(found))
    if count > 1:
        dist.barrier()
        os._exit(0)  # a gloo group's destructor can wait for the GIL that its caller holds


def main(folder: Path) -> str:
    """The benchmark's table."""
    found = {}
    for count in (1, 2):
        output = folder / f"{count}.json"
        launch = ["-m", "accelerate.commands.launch", "--num_processes", str(count), "--num_machines", "1"]
        launch += ["--mixed_precision", "no", "--dynamo_backend", "no", *(["--multi_gpu"] if count > 1 else [])]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launch, "-m", "benchmarks.speed.processes", str(output), str(count)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        found[count] = json.loads(output.read_text())
    one, two = found[1], found[2]
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4)
    parts = {
        "gradients": two["gradients"],
        "posts to the other process": two["all_gather"],
        "their gradients, and totals": two["all_reduce"],
    }
    rows = [[name, f"{value / 2**20:.2f}"] for name, value in parts.items()]
    rows += [["together", f"{sum(parts.values()) / 2**20:.2f}"], ["measured", f"{two['measured'] / 2**20:.2f}"]]
    losses = " ".join(f"{loss:.4f}" for loss in one["losses"][:4])
    worst = max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True))
    table = markdown(["sent by a process in a step", "MiB"], rows)
    return (
        f"{table}\n\nLosses of one process {losses} ...; those of two differ by at most {worst:.0e}. A step takes "
        f"{one['seconds']:.2f} s in one process and {two['seconds']:.2f} s in two, which share this machine's cores."
    )


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
