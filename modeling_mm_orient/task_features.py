# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Task features (paper section 3.4): what text classifiers and an emotion lexicon say about a post's text.

Shapes: B posts, F features of all sources side by side, T tokens.
"""

import re
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from .optional_dependencies import nrclex

NRC = "nrc"
NRC_EMOTIONS = (
    "fear", "anger", "anticipation", "trust", "surprise", "positive", "negative", "sadness", "disgust", "joy",
)  # fmt: skip
OUTPUTS = ("probabilities", "hidden_state")
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # noqa: RUF001 (the apostrophe of typeset texts)
MOST_TOKENS = 512


def check_sources(sources: Sequence[dict]) -> list[dict]:
    """Complete descriptions of sources, in the order in which their features stand side by side.

    Args:
        sources: dicts with `name` (free), `source` (`"nrc"`, or Hub id or path of a text classifier), and for a classifier
            `output` (`"probabilities"`, default, or `"hidden_state"`, what its head reads) and `revision` (default None).

    Raises:
        ValueError: an entry is wrong.
    """
    complete = []
    for index, entry in enumerate(sources):
        if not isinstance(entry, dict):
            raise ValueError(f"`task_features[{index}]` must be a dict with `name` and `source`, got {entry!r}")
        entry = {"output": "probabilities", "revision": None} | entry
        where = f"`task_features[{index}]`"
        if unknown := sorted(set(entry) - {"name", "source", "output", "revision"}):
            raise ValueError(f"{where} has the unknown key {unknown[0]!r}")
        if not all(isinstance(entry.get(key), str) and entry[key] for key in ("name", "source")):
            raise ValueError(f"{where} must have a `name` and a `source`, got {entry!r}")
        if entry["output"] not in OUTPUTS:
            raise ValueError(f"{where}: `output` must be one of {', '.join(OUTPUTS)}, got {entry['output']!r}")
        complete.append(entry)
    names = [entry["name"] for entry in complete]
    if len(set(names)) != len(names):
        raise ValueError(f"`task_features` must have different names, got {', '.join(names)}")
    return complete


def feature_sizes(sources: list[dict]) -> list[dict]:
    """Names and sizes of sources, `[{"name", "size"}, ...]`; of a classifier its configuration alone is loaded.

    Raises:
        ImportError: the lexicon is asked for and not installed. ValueError, OSError: there is no such classifier.
    """
    sizes = []
    for entry in check_sources(sources):
        if entry["source"] == NRC:
            _require_nrclex()
            size = len(NRC_EMOTIONS)
        else:
            config = AutoConfig.from_pretrained(entry["source"], revision=entry["revision"], trust_remote_code=False)
            size = config.num_labels if entry["output"] == "probabilities" else config.hidden_size
        sizes.append({"name": entry["name"], "size": size})
    return sizes


@torch.no_grad()
def task_features(texts: list[str], sources: list[dict], device="cpu") -> Tensor:
    """Features (B, F) of texts, float32 on `device`; of a post without a text, zeros.

    Args:
        sources: from `check_sources`. Classifiers are loaded once per process.
    """
    rows = [row for row, text in enumerate(texts) if text]
    parts = []
    for entry in sources:
        if entry["source"] == NRC:
            parts.append(torch.tensor([nrc_emotions(texts[row]) for row in rows], device=device))
        else:
            model, tokenizer = _classifier(entry["source"], entry["revision"], str(device))
            parts.append(classifier_features([texts[row] for row in rows], model, tokenizer, entry["output"]))
    size = sum(entry["size"] for entry in feature_sizes(sources)) if not rows else sum(p.shape[-1] for p in parts)
    features = torch.zeros(len(texts), size, device=device)
    if rows:
        features[rows] = torch.cat(parts, -1).float()
    return features


def nrc_emotions(text: str) -> list[float]:
    """Shares of the ten affects of `NRC_EMOTIONS` among those that the words of a text stand for in the NRC lexicon."""
    _require_nrclex()
    lexicon = nrclex.NRCLex()
    lexicon.load_token_list(WORD.findall(text.lower().replace("’", "'")))  # noqa: RUF001
    return [lexicon.affect_frequencies[name] for name in NRC_EMOTIONS]


def classifier_features(texts: list[str], model, tokenizer, output: str) -> Tensor:
    """A classifier's probabilities (B, classes), or the hidden state (B, D) that its head reads.

    That is the last layer's first token, or in a causal model its last. Several labels that do not exclude each other
    (`problem_type` "multi_label_classification") have a probability each; longer texts are cut at the model's limit.
    """
    if not texts:
        width = model.config.num_labels if output == "probabilities" else model.config.hidden_size
        return torch.zeros(0, width, device=model.device)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", MOST_TOKENS) - 2)
    options = {"padding": True, "truncation": True, "max_length": min(longest, MOST_TOKENS)}
    inputs = tokenizer(texts, return_tensors="pt", **options).to(model.device)
    outputs = model(**inputs, output_hidden_states=output == "hidden_state")
    if output == "probabilities":
        independent = model.config.problem_type == "multi_label_classification" or model.config.num_labels == 1
        return outputs.logits.sigmoid() if independent else outputs.logits.softmax(-1)
    hidden, mask = outputs.hidden_states[-1], inputs["attention_mask"]
    places = torch.arange(mask.shape[1], device=mask.device)
    # the first or the last token that is not padding, on whichever side that stands
    chosen = (mask * (places + 1)).argmax(-1) if hasattr(model, "score") else mask.argmax(-1)
    return hidden[torch.arange(len(hidden), device=mask.device), chosen]


@cache
def _classifier(source: str, revision: str | None, device: str):
    model = AutoModelForSequenceClassification.from_pretrained(
        source, revision=revision, dtype=torch.float32, trust_remote_code=False
    )
    return model.to(device).eval(), AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)


def _require_nrclex() -> None:
    if nrclex is None:
        raise ImportError("the NRC emotion lexicon needs NRCLex: pip install nrclex")
