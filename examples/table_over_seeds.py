# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""One table of several runs of the same data with different seeds: means and standard deviations on the test split.

python examples/table_over_seeds.py RUN [RUN ...]
"""

import argparse
import json
import statistics
from pathlib import Path

METRICS = ("macro_f1", "weighted_f1", "accuracy")
ERRORS = {"mse": "squared error", "mae": "absolute error", "pearson": "correlation"}  # of a number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that `mm-orient train` wrote")
    options = parser.parse_args()
    tests = [json.loads((Path(run) / "metrics.json").read_text(encoding="utf-8"))["test"] for run in options.runs]
    print(f"| task (test, {len(tests)} seeds) | predictor | macro-F1 | weighted F1 | accuracy |")
    print("|---|---|--:|--:|--:|")
    numbers = [task for task, found in tests[0].items() if isinstance(found, dict) and "mse" in found]
    for task in tests[0]:
        if task in ("mean_macro_f1", *numbers):
            continue
        cells = [mean_and_deviation([test[task][metric] for test in tests]) for metric in METRICS]
        print(f"| {task} | MM-ORIENT | {' | '.join(cells)} |")
        majority = [f"{tests[0][task]['majority_' + metric]:.3f}" for metric in METRICS]
        print(f"| | majority class | {' | '.join(majority)} |")
    if tests[0].get("mean_macro_f1") is not None:
        print(f"| **mean** | MM-ORIENT | {mean_and_deviation([test['mean_macro_f1'] for test in tests])} | | |")
    for task in numbers:
        found = {name: [test[task].get(metric) for test in tests] for metric, name in ERRORS.items()}
        said = [f"{name} {mean_and_deviation(values)}" for name, values in found.items() if None not in values]
        print(f"\n{task}: {', '.join(said)}")


def mean_and_deviation(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    main()
