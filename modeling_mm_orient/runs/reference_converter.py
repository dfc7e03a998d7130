# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Weights of the authors' reference code (TensorFlow and Spektral, Keras layout `x @ W + b`) to a checkpoint of ours."""

from collections.abc import Mapping

import numpy as np
import torch

from ..configuration_mm_orient import MMOrientConfig
from ..modeling_mm_orient import MMOrientForMultiTaskClassification
from ..names import STREAM_NAMES

INPUTS = ("image_embeds", "text_embeds", "region_features", "token_features", "task_features")


def convert_reference_weights(weights: Mapping[str, np.ndarray], **config_fields) -> MMOrientForMultiTaskClassification:
    """A model in the reference code's form: no stage 2, attention without context vector, features as inputs.

    Args:
        weights: arrays `word_attention.weight`, `region_attention.weight` (D, 1), `STREAM.weight` (2 D, H),
            `classifier.0.weight` (M, H), `classifier.1.weight`, ... and `head.TASK.weight` (H, C), each with its `.bias`.
            Streams stand in the order of `STREAM_NAMES` in the merged features, then regions, words, task features.
        config_fields: fields of `MMOrientConfig`, say `threshold`s, label names in `tasks`, the back-end.

    Raises:
        KeyError: an array is missing. ValueError: shapes do not fit together.
    """
    streams = {name: weights[f"{name}.weight"] for name in STREAM_NAMES}
    layers = sorted({int(name.split(".")[1]) for name in weights if name.startswith("classifier.")})
    tasks = [name.split(".")[1] for name in weights if name.startswith("head.") and name.endswith(".weight")]
    sizes = [weights[f"classifier.{layer}.weight"].shape for layer in layers]
    relation_size = streams["image_over_image"].shape[1]
    region_size, token_size = (weights[f"{unit}_attention.weight"].shape[0] for unit in ("region", "word"))
    config = MMOrientConfig(
        **{
            "image_embed_dim": streams["image_over_image"].shape[0] // 2,
            "text_embed_dim": streams["text_over_text"].shape[0] // 2,
            "region_feature_dim": region_size,
            "token_feature_dim": token_size,
            "task_feature_dim": sizes[0][0] - len(streams) * relation_size - region_size - token_size,
            "relation_hidden_size": relation_size,
            "learner_hidden_sizes": [size[1] for size in sizes],
            "attention_hidden_size": 1,
            "attention_context_vector": False,
            "hima_stage2": False,
            "tasks": [
                {"name": task, "labels": [str(c) for c in range(weights[f"head.{task}.weight"].shape[1])]}
                for task in tasks
            ],
        }
        | config_fields
    )
    names = {
        "word_attention": "mm_orient.word_hima.within_post.hidden",
        "region_attention": "mm_orient.region_hima.within_post.hidden",
        **{name: f"mm_orient.relations.streams.{name}.layers.0.linear" for name in STREAM_NAMES},
        **{f"classifier.{layer}": f"mm_orient.learner.{layer}.dense" for layer in layers},
        **{f"head.{task}": f"task_heads.heads.{index}" for index, task in enumerate(tasks)},
    }
    state = {}
    for source, target in names.items():
        state[f"{target}.weight"] = torch.tensor(weights[f"{source}.weight"].T)
        state[f"{target}.bias"] = torch.tensor(weights[f"{source}.bias"])
    model = MMOrientForMultiTaskClassification(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the reference weights do not fit together: {error}") from error
    return model.eval()


@torch.no_grad()
def reference_deviations(case: Mapping[str, np.ndarray], model: MMOrientForMultiTaskClassification) -> dict[str, float]:
    """Largest absolute deviation per intermediate of a reference case's forward pass (`out_*` and adjacencies)."""
    inputs = {name: torch.tensor(case[name]) for name in INPUTS}
    outputs = model(**inputs, output_components=True, output_attentions=True, output_relations=True)
    size = model.config.relation_hidden_size
    found = {
        "image_adjacency": outputs.image_adjacency,
        "text_adjacency": outputs.text_adjacency,
        "out_word_weights": outputs.word_attention,
        "out_word_vector": outputs.word_vector,
        "out_region_weights": outputs.region_attention,
        "out_region_vector": outputs.region_vector,
        **{
            f"out_{name}": outputs.relation_features[:, index * size : (index + 1) * size]
            for index, name in enumerate(STREAM_NAMES)
        },
        "out_merged": outputs.merged_features,
        "out_learned": outputs.joint_representation,
        **{f"out_prob.{task}": logits.softmax(-1) for task, logits in outputs.logits.items()},
    }
    return {name: float(np.abs(value.numpy() - case[name]).max()) for name, value in found.items()}
