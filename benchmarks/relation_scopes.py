# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Does the relation memory help? The same training with each source of neighbours, over several seeds, as one table.

    python benchmarks/relation_scopes.py --output RUNS [--seeds 0 1 2] [--scopes memory batch none ...] -- TRAIN_ARGUMENTS

TRAIN_ARGUMENTS are those of `mm-orient train`, `--preset modern` among them; `{seed}` in them is the seed. Finished runs are
not made again. Prints macro-F1 on the test split, mean and standard deviation over
seeds, per task and over tasks, and how much each scope differs from the first, pair by pair.
"""

import argparse
import json
import statistics
from pathlib import Path

from modeling_mm_orient.cli import main as mm_orient

PAPER_GRAPH = ["neighbour_labels=false", "relation_gate=false", "self_loops=true", "edge_weights=binary"]
SCOPES = {
    "memory": [],
    "batch": ["--threshold-quantile", "0.99", "--set", "relation_scope=batch", *PAPER_GRAPH],
    "none": ["--set", "relation_scope=batch", "neighbour_labels=false", "relation_streams=[]"],
    "self-loops": ["--set", "relation_scope=batch", *PAPER_GRAPH, "image_threshold=1", "text_threshold=1"],
    "memory without labels": ["--set", "neighbour_labels=false"],
}


def run(scope: str, seed: int, output: Path, arguments: list[str]) -> dict:
    """Test metrics of one run, made if it is not there."""
    folder = output / f"{scope.replace(' ', '_')}_{seed}"
    if not (folder / "metrics.json").is_file():
        arguments = [argument.replace("{seed}", str(seed)) for argument in arguments]
        command = ["train", *arguments, "--seed", str(seed), "--output", str(folder), "--overwrite"]
        if mm_orient([*command, *SCOPES[scope]]):
            raise SystemExit(f"the run {folder} failed")
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]


def cell(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="RUNS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, default=["memory", "batch", "none"])
    parser.add_argument("arguments", nargs="+", metavar="TRAIN_ARGUMENTS")
    options = parser.parse_args()
    tests = {
        scope: [run(scope, seed, options.output, options.arguments) for seed in options.seeds]
        for scope in options.scopes
    }
    first = tests[options.scopes[0]]
    tasks = [task for task in first[0] if task != "mean_macro_f1"]
    print(f"| neighbours ({len(options.seeds)} seeds) | {' | '.join(tasks)} | mean | {options.scopes[0]} minus this |")
    print("|---|" + "--:|" * (len(tasks) + 2))
    for scope, runs in tests.items():
        cells = [cell([test[task]["macro_f1"] for test in runs]) for task in tasks]
        mean = cell([test["mean_macro_f1"] for test in runs])
        gain = cell([a["mean_macro_f1"] - b["mean_macro_f1"] for a, b in zip(first, runs, strict=True)])
        print(f"| {scope} | {' | '.join(cells)} | **{mean}** | {gain if runs is not first else ''} |")


if __name__ == "__main__":
    main()
