"""What several tests are made of: tiny models and towers, batches, posts, data folders; real data where it lies beside the
checkout."""

import csv
import io
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    CLIPImageProcessor,
    CLIPProcessor,
    Trainer,
    TrainingArguments,
    ViTImageProcessorPil,
)

from modeling_mm_orient import (
    MMOrientConfig,
    MMOrientForMultiTaskClassification,
    MMOrientModel,
    MMOrientProcessor,
)
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.features.collation import FeatureCollator
from modeling_mm_orient.runs.presets import train_tokenizer
from modeling_mm_orient.runs.scoring import task_metrics_function
from modeling_mm_orient.runs.trainer import MMOrientTrainer, MMOrientTrainingArguments

SHARED = Path(__file__).parents[2] / "shared"
TASKS = [
    {"name": "offensive", "labels": ["no", "yes"]},
    {"name": "emotions", "kind": "multi_label", "labels": ["joy", "anger", "fear"]},
    {"name": "intensity", "kind": "regression"},
]
repeatable = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU adds up in another order each time")
TEXTS = ["a cat on a mat", "when the code compiles at once", "nobody: me:"]
ROWS = [
    {"image": f"{i}.png", "text": f"caption {i}", "split": split, "mood": ["sad", "happy"][i % 2], "score": i / 4}
    for i, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2)
]
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"]  # of pictures
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def shared(*parts: str) -> Path:
    """A folder of real data or encoders; the test is skipped where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the real data and encoders, which are not part of this repository")
    return path


# A tiny model on feature arrays.


def tiny_config(**fields) -> MMOrientConfig:
    """A configuration on feature arrays whose sizes all differ."""
    sizes = {
        "image_embed_dim": 8,
        "text_embed_dim": 6,
        "region_feature_dim": 10,
        "token_feature_dim": 12,
        "task_feature_dim": 3,
        "attention_hidden_size": 5,
        "relation_hidden_size": 7,
        "learner_hidden_sizes": [20, 16],
        "learner_dropout": 0.0,
        "image_threshold": 0.2,
        "text_threshold": 0.2,
        "tasks": TASKS,
    }
    return MMOrientConfig(**sizes | fields)


def tiny_model(seed: int = 0, **fields) -> MMOrientForMultiTaskClassification:
    """A model of `tiny_config`."""
    torch.manual_seed(seed)
    return MMOrientForMultiTaskClassification(tiny_config(**fields))


def feature_batch(count: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs for `tiny_config`, with padding."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "image_embeds": normal(count, 8),
        "text_embeds": normal(count, 6),
        "region_features": normal(count, 4, 10),
        "region_mask": torch.arange(4)[None] < torch.randint(1, 5, (count, 1), generator=generator),
        "token_features": normal(count, 5, 12),
        "token_mask": torch.arange(5)[None] < torch.randint(1, 6, (count, 1), generator=generator),
        "task_features": normal(count, 3),
    }


def label_batch(count: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random labels for `TASKS`, some missing."""
    generator = torch.Generator().manual_seed(seed)
    labels = {
        "offensive": torch.randint(0, 2, (count,), generator=generator),
        "emotions": torch.randint(0, 2, (count, 3), generator=generator).float(),
        "intensity": torch.randn(count, generator=generator),
    }
    labels["offensive"][1] = -100
    labels["emotions"][2] = labels["emotions"][3, 1] = float("nan")
    labels["intensity"][0] = float("nan")
    return labels


def mean_of_experts(model, found, task: str, experts: tuple[str, ...]) -> torch.Tensor:
    """What these experts of an output with `output_members` come to by their weights in the configuration."""
    weights, said = model.config.task(task)["expert_weights"], found.expert_scores[task]
    shares = {name: weights.get(name, 0.0) + 1e-3 for name in experts}
    return sum(share * said[name] for name, share in shares.items()) / sum(shares.values())


def reference_posts(count: int = 40, first: int = 0) -> list[dict]:
    """Posts for the memory of a `tiny_model`: random embeddings, labels and the ids "post 0", "post 1", ..."""
    features, labels = feature_batch(count, seed=100 + first), label_batch(max(4, count), seed=100 + first)
    return [
        {
            "id": f"post {first + row}",
            **{f"{m}_embeds": features[f"{m}_embeds"][row] for m in ("image", "text")},
            "offensive": int(labels["offensive"][row]),
            "emotions": labels["emotions"][row].nan_to_num(0.0).tolist(),
            "intensity": float(labels["intensity"][row].nan_to_num(0.0)),
        }
        for row in range(count)
    ]


def training_posts(count: int = 12, missing: bool = True) -> list[dict]:
    """`feature_batch` and `label_batch` as posts for a `FeatureCollator`, without missing labels if so asked."""
    features, labels = feature_batch(count), label_batch(count)
    labels = labels if missing else {name: torch.nan_to_num(value.clamp(min=0)) for name, value in labels.items()}
    rows = []
    for i in range(count):
        row = {name: value[i].numpy() for name, value in features.items() if not name.endswith("mask")}
        row["region_features"] = row["region_features"][features["region_mask"][i].numpy()]
        row["token_features"] = row["token_features"][features["token_mask"][i].numpy()]
        row["offensive"] = int(labels["offensive"][i])
        row["emotions"] = None if labels["emotions"][i].isnan().all() else labels["emotions"][i].tolist()
        row["intensity"] = None if labels["intensity"][i].isnan() else float(labels["intensity"][i])
        rows.append(row)
    return rows


def trainer_arguments(folder, kind=TrainingArguments, **options):
    """Arguments of a Trainer that takes plain steps and writes nothing."""
    options = {"learning_rate": 1e-3, "max_steps": 1, "per_device_train_batch_size": 12, "optim": "sgd"} | options
    options |= {"remove_unused_columns": False, "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    options |= {"save_strategy": "no", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    return kind(str(folder), **options)


def trained(folder, data: list[dict], model=None, kind=Trainer, **options) -> Trainer:
    """The Trainer of that kind after it has trained a `tiny_model`, or the one given, on `training_posts`."""
    model = model or tiny_model()
    argument_kind = MMOrientTrainingArguments if kind is MMOrientTrainer else TrainingArguments
    trainer = kind(
        model=model,
        args=trainer_arguments(folder, argument_kind, **options),
        train_dataset=data,
        eval_dataset=data,
        data_collator=FeatureCollator(TASKS),
        compute_metrics=task_metrics_function(model.config.tasks),
    )
    trainer.train()
    return trainer


def crowded(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Clusters, some rows twice, a dimension that sticks out, a zero row: what a bound has to survive."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(20, width, generator=generator)[torch.randint(0, 20, (count,), generator=generator)]
    rows = rows + 0.3 * torch.randn(count, width, generator=generator)
    rows[:, 3] *= 20
    rows[7], rows[count // 2], rows[11] = rows[8], rows[9], 0
    return rows.half()


# Small encoders, their processor, pictures.


def small_towers(**fields) -> MMOrientConfig:
    """A configuration of three small transformers; the text encoder reads what `make_processor` writes."""
    text = TOWER | {"vocab_size": 400, "max_position_embeddings": 16}
    vision = TOWER | {"image_size": 16, "patch_size": 8}
    fields = {
        "joint_config": {"model_type": "clip", "text_config": text, "vision_config": vision, "projection_dim": 12},
        "text_config": {"model_type": "bert"} | text,
        "vision_config": {"model_type": "vit"} | vision,
        "attention_hidden_size": 4,
        "relation_hidden_size": 4,
        "learner_hidden_sizes": [8],
        "tasks": [{"name": "x", "labels": ["a", "b"]}],
    } | fields
    return MMOrientConfig(**fields)


def tower_inputs(count: int = 3) -> dict[str, torch.Tensor]:
    """Random pixels and tokens for `small_towers`."""
    torch.manual_seed(1)
    pixels, ids = torch.randn(count, 3, 16, 16), torch.randint(5, 50, (count, 6))
    mask = torch.ones(count, 6, dtype=torch.long)
    return {
        "pixel_values": pixels, "joint_pixel_values": pixels, "input_ids": ids, "attention_mask": mask,
        "joint_input_ids": ids, "joint_attention_mask": mask,
    }  # fmt: skip


def make_processor(joint: bool = False, **fields) -> MMOrientProcessor:
    """A processor for pictures of 16 x 16, with a joint encoder's for 8 x 8."""
    size = {"height": 16, "width": 16}
    joint_processor = None
    if joint:
        clip = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
        joint_processor = CLIPProcessor(clip, train_tokenizer(TEXTS, 300))
    return MMOrientProcessor(ViTImageProcessorPil(size=size), train_tokenizer(TEXTS, 300), joint_processor, **fields)


def joint_config(**text_fields) -> dict:
    """The joint encoder of `small_towers` for what `make_processor(joint=True)` prepares."""
    config = small_towers().joint_config.to_dict()
    config["text_config"] |= text_fields
    config["vision_config"]["image_size"] = 8
    return config


def save_encoders(folder) -> list[str]:
    """Save a text and a vision encoder with their processors; the options that name them."""
    torch.manual_seed(0)
    model, processor = MMOrientModel(small_towers(joint_config=None)), make_processor()
    for name, part in (("text", processor.tokenizer), ("vision", processor.image_processor)):
        AutoModel.from_config(getattr(model.config, f"{name}_config")).save_pretrained(folder / name)
        part.save_pretrained(folder / name)
    return ["--text-encoder", str(folder / "text"), "--vision-encoder", str(folder / "vision")]


def save_classifier(folder, labels: int = 5, **fields) -> str:
    """Save a text classifier; its path."""
    torch.manual_seed(labels)
    tokenizer = train_tokenizer(TEXTS, 300)
    sizes = TOWER | {"num_hidden_layers": 2, "max_position_embeddings": 32}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=labels, **sizes | fields)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def picture(mode: str = "RGB", size: tuple[int, int] = (20, 30), colour=None) -> Image.Image:
    """One colour, black by default."""
    return Image.new(mode, size, colour if colour is not None else 0)


def as_bytes(image: Image.Image, format: str = "PNG", **options) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# Folders of posts.


def write_folder(folder: Path, rows: list[dict] = ROWS, name: str = "labels.csv", pictures: bool = True) -> Path:
    """A folder of pictures with a table of `rows`."""
    folder.mkdir(exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    for row in rows:
        if pictures and row.get("image"):
            Image.new("RGB", (8, 8), (0, 30, 60)).save(folder / "images" / row["image"])
    if name.endswith(".jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def add_columns(table: Path, columns) -> None:
    """Give every row of a CSV what `columns` (its number, the row) returns for it."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row | columns(number, row) for number, row in enumerate(csv.DictReader(file))]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def describe(folder, **fields) -> DataDescription:
    """The description of a folder of `write_folder`."""
    return DataDescription(**{"data": str(folder), "labels": ["mood"], "split_column": "split"} | fields)


def train_on(folder, output, *options) -> int:
    """`mm-orient train` on a folder of posts; its exit status."""
    return main([str(part) for part in ("train", "--data", folder, "--output", output, *options)])


# Processes.


def leave() -> None:
    """End a worker without tearing torch down: a gloo group's destructor can wait for the GIL that its caller holds."""
    dist.barrier()
    os._exit(0)


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def save_run(folder, scope: str = "memory"):
    """A finished run with a task of every kind and, unless `scope` is `"batch"`, a relation memory."""
    torch.manual_seed(0)
    tasks = [TASKS[0], TASKS[1] | {"labels": ["joy", "anger"]}, TASKS[2]]
    config = small_towers(joint_config=None, relation_scope=scope, memory_top_k=4, tasks=tasks)
    model, processor = MMOrientForMultiTaskClassification(config), make_processor()
    if scope != "batch":
        draw = np.random.default_rng(0)
        pictures = [Image.fromarray(draw.integers(0, 255, (6, 6, 3), dtype=np.uint8)) for _ in range(20)]
        model.build_relation_memory(
            [{"id": str(row), "image": image, "text": "dog"} for row, image in enumerate(pictures)], processor
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
