"""Fixtures: a tiny model on feature arrays, and real posts and encoders where they lie beside the checkout."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded in tests

from pathlib import Path

import pytest
import torch

from modeling_mm_orient import MMOrientConfig, MMOrientForMultiTaskClassification

SHARED = Path(__file__).parents[2] / "shared"
TASKS = [
    {"name": "offensive", "labels": ["no", "yes"]},
    {"name": "emotions", "kind": "multi_label", "labels": ["joy", "anger", "fear"]},
    {"name": "intensity", "kind": "regression"},
]


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


def tiny_model(seed: int = 0, **fields) -> MMOrientForMultiTaskClassification:
    torch.manual_seed(seed)
    return MMOrientForMultiTaskClassification(tiny_config(**fields))


def shared(*parts: str) -> Path:
    """A folder of real data or encoders; the test is skipped where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the real data and encoders, which are not part of this repository")
    return path


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
