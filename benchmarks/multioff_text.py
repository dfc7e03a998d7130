# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MultiOFF by its texts alone: offensive or not, where its pictures are not at hand.

    python benchmarks/multioff_text.py --data FOLDER --text-encoder ID [--seeds 0 1 2 3 4]

FOLDER holds the three published tables. Every method sees the published splits, and chooses on validation: logistic
regressions their features, strength of regularisation and class weights, MM-ORIENT its epoch, all of them the decision rule.
Test is scored once. Prints a Markdown table; MM-ORIENT's lines are means and deviations over seeds, the others draw nothing.

Shapes: N posts, D features.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.runs.decisions import aims_of, fit_decisions
from modeling_mm_orient.runs.preset_files import load_preset
from modeling_mm_orient.runs.scoring import BEST, metrics_of_logits
from modeling_mm_orient.runs.settings import TrainingSettings
from modeling_mm_orient.runs.training import train
from modeling_mm_orient.tasks import collate_labels

SPLITS = ("train", "validation", "test")
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
METRICS = ("macro_f1", "weighted_f1", "auroc")
PAPER = {"stage2_combine": "concat", "learner_hidden_sizes": [1024, 512]}  # 445 posts


def describe(data: str, **fields) -> DataDescription:
    """The published tables, without the pictures they name."""
    return DataDescription(
        data, **load_preset("multioff")["data"] | {"image_column": None, "id_column": "image_name"} | fields
    )


def mean_pooled(texts: list[str], encoder: str) -> np.ndarray:
    """Embeddings (N, D) of length 1: the mean of the tokens that a frozen encoder gives."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()
    rows = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(texts[start : start + 32], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            tokens = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        rows.append(torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(rows).numpy()


def tfidf(texts: dict[str, list[str]], **options) -> dict:
    """Split -> sparse rows (N, D) by a vocabulary of the training texts."""
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, **options).fit(texts["train"])
    return {split: words.transform(texts[split]) for split in SPLITS}


def best_regression(candidates: list[dict], task: dict, labels: dict) -> dict[str, torch.Tensor]:
    """Split -> logits (N, 2) of the logistic regression with the largest macro-F1 on validation.

    Args:
        candidates: features to choose from, each split -> (N, D). labels: split -> task name -> class numbers (N,).
    """
    found = []
    for rows, strength, weights in itertools.product(candidates, STRENGTHS, (None, "balanced")):
        model = LogisticRegression(C=strength, class_weight=weights, max_iter=5000)
        model.fit(rows["train"], labels["train"][task["name"]].numpy())
        logits = {split: torch.from_numpy(model.predict_log_proba(rows[split])) for split in SPLITS}
        metrics = metrics_of_logits([task], {task["name"]: logits["validation"]}, labels["validation"])
        found.append((metrics["mean_macro_f1"], logits))
    return max(found, key=lambda pair: pair[0])[1]


def scored(logits: dict[str, torch.Tensor], task: dict, labels: dict) -> dict:
    """Test metrics of logits by split, after the decision rule was fitted to validation."""
    by_task = {split: {task["name"]: values} for split, values in logits.items()}
    decided = fit_decisions([task], by_task["validation"], labels["validation"], aims_of([], [task]))
    return metrics_of_logits(decided, by_task["test"], labels["test"])[task["name"]]


def majority(task: dict, labels: dict) -> dict:
    """Test metrics of the training split's most frequent class."""
    counts = torch.bincount(labels["train"][task["name"]]).float()
    logits = (counts / counts.sum()).log().expand(len(labels["test"][task["name"]]), -1)
    return metrics_of_logits([task], {task["name"]: logits}, labels["test"])[task["name"]]


def mm_orient(data: str, encoder: str, posts: int, config: dict, training: dict, seed: int, folder: Path) -> dict:
    """Test metrics of a run whose posts have no picture: one masked region stands in for a vision encoder."""
    arrays = {"region_features": np.zeros((posts, 1, 1), np.float32), "region_mask": np.zeros((posts, 1), bool)}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    preset = load_preset("multioff")
    preset["encoders"] = {"text": encoder}
    with contextlib.redirect_stdout(sys.stderr):  # lines of its epochs
        metrics = train(
            describe(data, feature_arrays={name: str(folder / f"{name}.npy") for name in arrays}),
            str(folder / "run"),
            preset=preset,
            settings=TrainingSettings(**load_preset("modern")["training"] | training | {"seed": seed}),
            config=config,
            feature_cache=str(folder / "features"),
            overwrite=True,
        )
    return metrics["test"]["offensive"]


def print_row(name: str, runs: list[dict]) -> None:
    """A line of the table: mean and deviation of each metric over runs; of one run that draws nothing its value."""
    cells = []
    for metric in METRICS:
        values = [run[metric] for run in runs]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells.append("-" if None in values else f"{statistics.mean(values):.3f}{spread}")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--text-encoder", required=True, metavar="ID")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    options = parser.parse_args()

    posts, (task,), _ = read_posts(describe(options.data), check_images=False)
    texts = {split: [text or "" for text in posts[split]["text"]] for split in SPLITS}
    labels = {split: collate_labels(list(posts[split].remove_columns("image")), [task]) for split in SPLITS}
    words = [tfidf(texts, ngram_range=(1, 2)), tfidf(texts, analyzer="char_wb", ngram_range=(2, 5))]
    embeddings = [{split: mean_pooled(texts[split], options.text_encoder) for split in SPLITS}]
    print(f"| method ({len(options.seeds)} seeds) | macro-F1 | weighted F1 | AUROC |\n|---|--:|--:|--:|")
    print_row("majority", [majority(task, labels)])
    print_row("TF-IDF + logistic regression", [scored(best_regression(words, task, labels), task, labels)])
    print_row("text encoder + logistic regression", [scored(best_regression(embeddings, task, labels), task, labels)])
    default = {name: value for name, value in load_preset("modern")["config"].items() if not name.endswith("_config")}
    with tempfile.TemporaryDirectory() as folder:
        forms = {"the paper's form": (PAPER, {"keep_epoch_by": BEST}), "as `train` gives it": (default, {})}
        for name, form in forms.items():
            run = (options.data, options.text_encoder, sum(map(len, texts.values())), *form)
            print_row(f"MM-ORIENT, {name}", [mm_orient(*run, seed, Path(folder)) for seed in options.seeds])


if __name__ == "__main__":
    main()
