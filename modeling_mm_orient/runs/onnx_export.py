# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A trained model as ONNX graphs, from pixels and token ids and from features, compared with PyTorch before they are kept.

Shapes: B posts, R regions, T tokens, C labels of a task, D features, F task features.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from ..data.json_files import write_json
from ..experts import TEXT_LAYERS
from ..inputs import INPUT_NAMES
from ..ngrams import ngram_ids, padded
from ..optional_dependencies import ONNX_AVAILABLE
from ..relation_memory import ROOM_FOR_EQUALS
from ..tasks import MULTI_LABEL, kind_of, probabilities_of

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of a probability; of a larger value as a share of it
END_TO_END, FEATURES, DESCRIPTION = "model.onnx", "features.onnx", "model.json"
CHATTY = ("onnxscript", "onnx_ir", "torch.onnx")
TEXTS = ("a", "when the code compiles at once", "nobody: me at three in the morning, still here", "two words")
MOST_POSTS = 4096  # of a batch
MOST_ROWS = 4096  # regions, n-grams, and tokens that come as features
LENGTHS = {
    "tokens": ("input_ids", "attention_mask", "token_type_ids", "token_features", "token_mask"),
    "regions": ("region_features", "region_mask"),
    "joint_tokens": ("joint_input_ids", "joint_attention_mask"),
    "ngrams": ("ngram_ids",),
}


def require_onnx() -> None:
    """Raise ImportError, naming the extra, unless the packages for it are there."""
    if not ONNX_AVAILABLE:
        raise ImportError("ONNX files need onnx, onnxscript and onnxruntime: pip install 'modeling-mm-orient[onnx]'")


def export_onnx(model, processor, folder) -> list[Path]:
    """Write `model.onnx`, from what the processor gives, `features.onnx`, from what encoders give, and `model.json`, which
    says what goes in, what comes out and what it comes to. A model without encoders has the second alone.

    A relation memory is inside. Batch size and lengths of texts are free.

    Args:
        model: `MMOrientForMultiTaskClassification`; it is put into `eval()`, float32 and plain layers. processor: its own.

    Raises:
        ImportError: the packages are missing. ValueError: the model cannot be exported, or ONNX Runtime says something else
            than PyTorch by more than 1e-4; nothing is left of either file.
    """
    require_onnx()
    _check_exportable(model, processor)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = model.for_any_device().float().cpu().eval()
    variants = {FEATURES: [_feature_batch(model.config, seed) for seed in range(3)]}
    if model.config.encoder_names:
        variants = {END_TO_END: [_post_batch(model.config, processor, seed) for seed in range(3)]} | variants
    described = {}
    try:
        for name, batches in variants.items():
            described[name] = _export(model, processor, batches, folder / name)
    except BaseException:
        for name in variants:
            for path in folder.glob(f"{name}*"):
                path.unlink()
        raise
    write_json(folder / DESCRIPTION, _description(model, described))
    return [folder / name for name in [*variants, DESCRIPTION]]


class Verdicts(nn.Module):
    """Named inputs in one order to the probabilities of every task, as one graph has them."""

    def __init__(self, model, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Task by task (B, C), or (B,)."""
        logits = self.model(**dict(zip(self.names, values, strict=True))).logits
        return tuple(probabilities_of(self.model.config.tasks, logits).values())


def _check_exportable(model, processor) -> None:
    memory = model.relation_memory
    if memory is not None and memory.is_large:
        raise ValueError(
            f"a relation memory of {memory.num_bytes / 2**20:.0f} MiB is too large to be part of an ONNX graph, which "
            "compares every post with every entry: keep PyTorch and its index, or build a smaller memory"
        )
    if model.config.encoder_names and processor is None:
        raise ValueError("the model has encoders and no processor: nobody could make its inputs")


def _export(model, processor, batches: list[dict[str, Tensor]], path: Path) -> dict:
    """One graph, compared on every batch; what it takes, and the largest deviation that was seen."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    sample, names = batches[0], list(batches[0])
    if "pixel_mask" in sample:
        raise ValueError(
            "its vision encoder reads pictures of many sizes, each size by itself, which one graph cannot: no ONNX"
        )
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    module = Verdicts(model, names)
    shapes = (tuple(_free_dimensions(name, processor, "input_ids" in sample) for name in names),)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, tuple(sample.values()), dynamic_shapes=shapes, strict=False)
        graph = torch.onnx.export(
            program,
            dynamo=True,
            input_names=names,
            output_names=[task["name"] for task in model.config.tasks],
            verbose=False,
        )
        ClearMetadataAndDocStringPass()(graph.model)  # of which code it was traced from, and where that lies
        graph.save(path)
    farthest = max(_deviation(module, batch, path) for batch in batches)
    if not farthest <= TOLERANCE:
        many = (
            "" if model.relation_memory is None else f" (more than {ROOM_FOR_EQUALS} equal posts in its memory do that)"
        )
        raise ValueError(f"{path.name} deviates from PyTorch by {farthest:.2g}, more than {TOLERANCE}{many}")
    logger.info("%s: %.1g from PyTorch at most", path.name, farthest)
    free = {0: "posts"}
    inputs = {
        name: {
            "type": str(value.dtype).removeprefix("torch."),
            "shape": [
                free.get(place, _length_name(name)) if place in shape else size
                for place, size in enumerate(value.shape)
            ],
        }
        for (name, value), shape in zip(sample.items(), shapes[0], strict=True)
    }
    return {"inputs": inputs, "deviation": farthest}


def _free_dimensions(name: str, processor, tokenised: bool) -> dict[int, Dim]:
    """The dimensions of an input that are free: posts, and the length of a sequence unless it is always padded to one."""
    dimensions = {0: Dim("posts", min=1, max=MOST_POSTS)}
    kind = _length_name(name)
    if kind is None or (kind == "joint_tokens" and processor.joint_padding == "max_length"):
        return dimensions
    most = MOST_ROWS
    if tokenised and kind in ("tokens", "joint_tokens"):
        most = processor.joint_max_tokens if kind == "joint_tokens" else processor.max_tokens
    return dimensions | {1: Dim(kind, min=1, max=most)}


def _length_name(name: str) -> str | None:
    return next((kind for kind, names in LENGTHS.items() if name in names), None)


def _deviation(module: Verdicts, batch: dict[str, Tensor], path: Path) -> float:
    """How far ONNX Runtime's outputs are from PyTorch's at most."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {item.name for item in session.get_inputs()}  # one that nothing depends on is no input of a graph
    found = session.run(None, {name: value.numpy() for name, value in batch.items() if name in taken})
    with torch.no_grad():
        expected = module(*batch.values())
    return max(deviation(one, other.numpy()) for one, other in zip(found, expected, strict=True))


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, of values above 1 as a share of them: years or likes have no 1e-4 in single precision."""
    return float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max(initial=0.0))


def _post_batch(config, processor, seed: int) -> dict[str, Tensor]:
    """Random pictures with texts of several lengths, as the processor gives them; after the first batch some lack one."""
    draw = np.random.default_rng(seed)
    count = (3, 1, 5)[seed]
    pictures: list = [Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(count)]
    texts: list = [TEXTS[(row + seed) % len(TEXTS)] for row in range(count)]
    if seed and count > 2:
        pictures[0], texts[1] = None, None
    # what it does with text on pictures comes before the graph
    inputs = dict(processor(images=pictures, text=texts, return_tensors="pt"))
    if config.task_feature_dim and "task_features" not in inputs:
        inputs["task_features"] = torch.randn(count, config.task_feature_dim)
    return {name: inputs[name] for name in INPUT_NAMES if name in inputs}


def _feature_batch(config, seed: int) -> dict[str, Tensor]:
    """Random features; after the first batch one post lacks its picture and one its text."""
    draw = torch.Generator().manual_seed(seed)
    count, regions, tokens = (3, 1, 5)[seed], (4, 7, 3)[seed], (6, 2, 9)[seed]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    def mask(length: int) -> Tensor:
        return torch.arange(length)[None] < torch.randint(1, length + 1, (count, 1), generator=draw)

    found = {
        "image_embeds": normal(count, config.image_embed_dim),
        "text_embeds": normal(count, config.text_embed_dim),
        "region_features": normal(count, regions, config.region_feature_dim),
        "region_mask": mask(regions),
        "token_features": normal(count, tokens, config.token_feature_dim),
        "token_mask": mask(tokens),
        "has_image": torch.ones(count, dtype=torch.bool),
        "has_text": torch.ones(count, dtype=torch.bool),
    }
    if TEXT_LAYERS in config.experts:
        found[TEXT_LAYERS] = normal(count, config.text_layers_dim)
    if "words" in config.experts:
        found["ngram_ids"] = torch.from_numpy(
            padded([ngram_ids(TEXTS[(row + seed) % len(TEXTS)]) for row in range(count)])
        )
    if config.task_feature_dim:
        found["task_features"] = normal(count, config.task_feature_dim)
    if count > 2 and seed:
        found["has_image"][0], found["has_text"][1] = False, False
    return found


def _description(model, graphs: dict[str, dict]) -> dict:
    """What `model.json` says."""
    offsets = "add `offsets` to the {odds} of the probabilities"
    tasks = []
    for task in model.config.tasks:
        kind = kind_of(task)
        rule = "the value itself"
        if kind is MULTI_LABEL:
            rule = f"{offsets.format(odds='log-odds')}; labels at 0 or above are given"
        elif kind.is_classification:
            rule = f"{offsets.format(odds='logarithms')}; the largest is the label"
        tasks.append(
            {
                "output": task["name"],
                "kind": task["kind"],
                "shape": ["posts", len(task["labels"])] if task["labels"] else ["posts"],
                "labels": task["labels"],
                "decision": rule,
                "offsets": task["decision_offsets"] or [0.0] * len(task["labels"]),
                "doubts": task["doubts"],
            }
        )
    return {
        "graphs": graphs,
        "outputs": tasks,
        "about": {
            "outputs": "probabilities at the task's temperature, or values, float32",
            "inputs": "model.onnx takes what the processor beside it gives; a post without a picture or a text has zeros "
            "and has_image or has_text false; an input that a graph does not list, nothing depends on",
            "verdicts": "depend on the batch, as in the paper"
            if model.config.relation_scope == "batch"
            else f"depend on the post and the {len(model.relation_memory)} reference posts inside",
        },
    }
