# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The results of a benchmark from its finished cells: `results.parquet`, `results.md` and the plots."""

import json
import statistics
from pathlib import Path

import pyarrow
import pyarrow.parquet

from ...partial_files import whole_file
from ..markdown import plain, table
from .cell_files import SCHEMA, check_cells, read_cells, read_noise, read_sets
from .comparisons import Comparison, Results, compare
from .cross_fitting import FOLDS, SEARCH_SEED
from .features import MOST_REGIONS, MOST_TOKENS, REDUCED_WIDTH
from .methods import BASELINE_NAMES
from .networks import EPOCHS, PATIENCE
from .noise import NoiseRow
from .noise_tables import noise_report, plot_noise
from .plots import draw
from .statistics import AVERAGE, AVERAGE_AUROC, LEVEL, Difference

OTHER_MEASURES = {
    "macro-F1 without rule": "plain_macro_f1",
    "weighted F1": "weighted_f1",
    "accuracy": "accuracy",
    "calibration error": "calibration_error",
}
OF_VALUES = {"squared error": "mse", "absolute error": "mae", "correlation": "pearson"}
PROTOCOL = f"""## Protocol

Every method reads the same stored features and the same splits; seeds change weights, order and dropout, not the splits.
Each baseline goes the same way:

1. One hyper-parameter is chosen among three values by the mean macro-F1 on validation (where all tasks are numbers, the mean
   squared error), with seed {SEARCH_SEED} and all training posts: C of linear models, k of neighbours, the learning rate of
   networks. The majority class has none.
2. Training and validation posts fall into {FOLDS} folds by their content, so that duplicates stay together. A model is
   fitted to each {FOLDS - 1} folds; a network has at most {EPOCHS} epochs, keeps the one that is best on the fold left out,
   and stops after {PATIENCE} that are not better. A verdict on a test post is the mean of the {FOLDS} models'
   log-probabilities, one on a training or validation post that of the model that left it out.
3. A temperature and offsets of the decision are fitted to these verdicts on training and validation posts together, for
   macro-F1 or as `--decide` says. The majority class has no offsets.

`mm_orient` and `paper` are trained as `mm-orient train` trains, and their rule is that run's. The paper's form has batch
graphs at fixed thresholds, `stage2_combine="concat"`, neither gate nor labels of neighbours, and the defaults of
`MMOrientConfig`; it trains with the same settings as `mm_orient`, but keeps its epoch by mean macro-F1. Cross-attention
reads at most {MOST_REGIONS} regions and {MOST_TOKENS} tokens by {REDUCED_WIDTH} principal components, where there are more
the means of neighbouring ones; the other baselines read E_img and E_txt.

Figures are means over seeds, ± their standard deviation, 0 for linear models and neighbours, where nothing is drawn.
Differences have an interval of {LEVEL:.0%} from a paired bootstrap over test posts (percentiles; seeds are averaged, not
resampled, and those count that both methods have), and the share of resamples in which they are above 0. The
best baseline is the best on validation; rules are fitted to validation posts too, so that figures on validation serve this
choice alone.
"""


def write_results(bench: Path, bootstrap: int, plots: bool) -> str:
    """Write all results of a benchmark's folder; returns the text of `results.md`.

    Args:
        bootstrap: resamples of the test posts. plots: draw them too.

    Raises:
        ValueError: no cell is finished.
    """
    cells, sets = read_cells(bench), read_sets(bench)
    if not cells:
        raise ValueError(f"{bench} holds no finished cell of a benchmark")
    check_cells(bench, cells, sets)
    results = Results(cells, {name: said["methods"] for name, said in sets.items()})
    comparisons = compare(results, bootstrap)
    rows = [row for cell in cells for row in cell.rows]
    with whole_file(bench / "results.parquet") as partial:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), partial)
    noise = [NoiseRow(**row) for row in read_noise(bench)]
    text = markdown(results, comparisons, {name: said["facts"] for name, said in sets.items()}, bootstrap)
    if noise:
        text += f"\n## Under noise\n\n{noise_report(noise)}"
        with whole_file(bench / "noise.parquet") as partial:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row._asdict() for row in noise]), partial)
    with whole_file(bench / "results.md") as partial:
        partial.write_text(text, encoding="utf-8")
    if plots:
        draw(results, comparisons, bench)
        if noise:
            plot_noise(noise, bench / "noise.png")
    return text


def markdown(results: Results, comparisons: dict, facts: dict[str, dict], bootstrap: int) -> str:
    """`results.md`."""
    commits = sorted({row["commit"] for cell in results.cells for row in cell.rows})
    parts = [
        "# Benchmark\n",
        f"{len(results.cells)} cells of set, method and seed; code: {', '.join(commits)}; {bootstrap} resamples.\n",
        _all_sets(results, comparisons[None]),
        *(_set(results, name, comparisons[name], facts[name]) for name in results.sets),
        PROTOCOL,
    ]
    return "\n".join(part for part in parts if part)


def _all_sets(results: Results, found: list[Comparison]) -> str:
    sets, methods = results.sets, results.methods()
    if len(sets) == 1:
        return ""
    rows = []
    for method in methods:
        values = [results.over_seeds(name, method, "macro_f1") for name in sets]
        mean = f"{statistics.mean(map(statistics.mean, values)):.3f}" if all(values) else ""
        rows.append([f"`{method}`", *map(_spread, values), mean])
    text = "## All sets\n\nMean macro-F1 over the tasks of each set:\n\n"
    text += table(["method", *sets, "mean"], rows)
    best = results.best_baseline(sets)
    rows = [
        [_named(c.other, best), str(len(c.sets)), *_interval(c.differences[AVERAGE]), *_of_auroc(c)]
        for c in sorted(found, key=lambda c: c.other != best)
    ]
    if rows:
        text += verdict(results.reference, found)
        text += f"\n`{results.reference}` minus the others, every set counting the same:\n\n"
        text += table(["against", "sets", "difference", "interval", "above 0", "AUROC", "interval"], rows)
    return text


def _set(results: Results, name: str, found: list[Comparison], facts: dict) -> str:
    tasks, methods = results.tasks(name), results.methods(name)
    posts = " / ".join(f"{count:,}" for count in facts["posts"].values())
    seeds = sorted({cell.seed for cell in results.cells if cell.set == name})
    text = f"## {name}\n\n{posts} posts for training, validation and test; seeds {', '.join(map(str, seeds))}.\n"
    if tasks:
        rows = [
            [
                f"`{method}`",
                *(_spread(results.over_seeds(name, method, "macro_f1", task)) for task in (*tasks, AVERAGE)),
                _spread(results.over_seeds(name, method, "auroc")),
            ]
            for method in methods
        ]
        text += f"\nMacro-F1 on test, and the mean AUROC:\n\n{table(['method', *map(plain, tasks), AVERAGE, 'AUROC'], rows)}"
        text += _differences(results, name, found, tasks)
        rows = [
            [
                f"`{method}`",
                *(_mean(results.over_seeds(name, method, metric)) for metric in OTHER_MEASURES.values()),
                f"{statistics.mean(results.over_seeds(name, method, 'seconds')):.1f}",
            ]
            for method in methods
        ]
        header = ["method", *OTHER_MEASURES, "seconds per cell"]
        text += f"\nOther measures, means over tasks and seeds:\n\n{table(header, rows)}"
    for task in results.tasks(name, "mse"):
        rows = [
            [f"`{method}`", *(_spread(results.over_seeds(name, method, metric, task)) for metric in OF_VALUES.values())]
            for method in methods
        ]
        text += f"\n{plain(task)}, a value:\n\n{table(['method', *OF_VALUES], rows)}"
    return text + _settings(results, name)


def _differences(results: Results, name: str, found: list[Comparison], tasks: list[str]) -> str:
    best = results.best_baseline([name])
    rows = [
        [
            _named(c.other, best),
            *_interval(c.differences[AVERAGE]),
            *(f"{c.differences[task].value:+.3f}" for task in tasks),
            *_of_auroc(c),
        ]
        for c in sorted(found, key=lambda c: c.other != best)
    ]
    if not rows:
        return ""
    header = ["against", "difference", "interval", "above 0", *map(plain, tasks), "AUROC", "interval"]
    text = verdict(results.reference, found)
    return text + f"\n`{results.reference}` minus the others, the mean and task by task:\n\n{table(header, rows)}"


def verdict(reference: str, found: list[Comparison]) -> str:
    """Whether the reference is worth it, in a sentence: which methods it is better than, by the interval of macro-F1."""
    said: dict[str, list[str]] = {"better than": [], "within chance of": [], "worse than": []}
    for comparison in found:
        if comparison.other.partition(":")[0] != reference:  # a part taken away is no other choice
            difference = comparison.differences[AVERAGE]
            relation = (
                "better than" if difference.low > 0 else "worse than" if difference.high < 0 else "within chance of"
            )
            said[relation].append(f"`{comparison.other}`")
    parts = [f"{relation} {', '.join(others)}" for relation, others in said.items() if others]
    return f"\nBy macro-F1 on these test posts `{reference}` is {'; '.join(parts)}.\n" if parts else ""


def _settings(results: Results, name: str) -> str:
    """What the search chose, for those that searched."""
    lines = {}
    for cell in results.cells:
        if cell.set == name and cell.method in BASELINE_NAMES:
            setting = json.loads(cell.rows[0]["setting"])
            tried = setting.pop("validation", {})
            if setting:
                said = ", ".join(f"{value}: {score:.3f}" for value, score in tried.items())
                lines[cell.method] = f"- `{cell.method}`: {_first(setting)} (on validation {said})\n"
    lines = [lines[method] for method in results.methods(name) if method in lines]
    return "\nThe search chose:\n\n" + "".join(lines) if lines else ""


def _first(setting: dict) -> str:
    name, value = next(iter(setting.items()))
    return f"{name} {value:g}"


def _named(method: str, best: str | None) -> str:
    return f"**`{method}`**, best baseline" if method == best else f"`{method}`"


def _interval(difference: Difference) -> list[str]:
    interval = f"{difference.low:+.3f} to {difference.high:+.3f}"
    return [f"{difference.value:+.3f}", interval, f"{difference.above:.2f}"]


def _of_auroc(comparison: Comparison) -> list[str]:
    """The difference of the mean AUROC and its interval; empty where nothing has one."""
    difference = comparison.differences[AVERAGE_AUROC]
    return _interval(difference)[:2] if difference.value == difference.value else ["", ""]


def _spread(values: list[float]) -> str:
    """Mean and standard deviation, empty of nothing."""
    if not values:
        return ""
    return _mean(values) + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" if values else ""
