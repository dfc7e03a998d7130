"""`mm-orient benchmark`: methods by name, baselines by one protocol, cells that are made once, tables over sets."""

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import numpy as np
import psutil
import pyarrow.parquet
import pytest
import torch

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.degradation import DEGRADATIONS
from modeling_mm_orient.data.json_files import read_json, write_json
from modeling_mm_orient.runs.benchmark.cell_files import read_cell, read_cells
from modeling_mm_orient.runs.benchmark.cross_fitting import BASELINES, FOLDS, cross_fitted, folds_of, search
from modeling_mm_orient.runs.benchmark.features import PostArrays
from modeling_mm_orient.runs.benchmark.methods import (
    ABLATIONS,
    BASELINE_NAMES,
    check_fields,
    chosen_methods,
    method_called,
)
from modeling_mm_orient.runs.benchmark.statistics import macro_f1_of_resamples
from modeling_mm_orient.runs.demo import make_memes
from modeling_mm_orient.runs.scoring import metrics_of_logits

from .helpers import save_encoders

TASKS = [
    {"name": "mood", "kind": "single_label", "labels": ["sad", "neutral", "happy"]},
    {"name": "tags", "kind": "multi_label", "labels": ["cat", "dog"]},
    {"name": "size", "kind": "regression", "labels": []},
]
SIZES = {"train": 160, "validation": 60, "test": 60}


def posts_of(count: int, seed: int) -> PostArrays:
    """Posts whose picture tells the mood's happiness and the tags, whose text tells sadness and the size."""
    draw = torch.Generator().manual_seed(seed)
    mood = torch.randint(0, 3, (count,), generator=draw)
    tags = torch.randint(0, 2, (count, 2), generator=draw).float()
    size = torch.randn(count, generator=draw)
    image = torch.cat([(mood == 2).float()[:, None] * 2 - 1, tags * 2 - 1, torch.zeros(count, 3)], 1)
    text = torch.cat([(mood == 0).float()[:, None] * 2 - 1, size[:, None], torch.zeros(count, 3)], 1)
    image, text = (part + 0.1 * torch.randn(part.shape, generator=draw) for part in (image, text))
    mask = torch.ones(count, 3, dtype=torch.bool)
    mask[:, 2] = torch.rand(count, generator=draw) < 0.5
    sequences = {name: (part[:, None].repeat(1, 3, 1), mask) for name, part in (("image", image), ("text", text))}
    here = torch.ones(count, dtype=torch.bool)
    keys = [f"{number:08x}" for number in torch.randint(0, 2**31, (count,), generator=draw).tolist()]
    labels = {"mood": mood, "tags": tags, "size": size}
    words = torch.stack([3 + mood, 6 + (size > 0).long(), 8 + tags[:, 0].long(), 10 + tags[:, 1].long()], 1)
    return PostArrays(
        keys, {"image": image, "text": text}, {"image": here, "text": here}, labels, words, None, sequences
    )


@pytest.fixture(scope="module")
def toy() -> dict[str, PostArrays]:
    posts = {split: posts_of(count, seed) for seed, (split, count) in enumerate(SIZES.items())}
    for rows in posts.values():
        rows.labels = {name: values.clone() for name, values in rows.labels.items()}
        rows.labels["mood"][:5], rows.labels["tags"][5:8], rows.labels["size"][8:20] = -100, float("nan"), float("nan")
    posts["train"].labels["tags"][20, 1] = float("nan")
    return posts


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_every_baseline_does_all_kinds_of_task_and_learns_what_can_be_learned(toy, name):
    baseline = BASELINES[name]
    logits = baseline.fit(toy["train"], toy["validation"], TASKS, baseline.values[-1] if baseline.values else None, 0)
    found = metrics_of_logits(TASKS, logits(toy["test"]), toy["test"].labels)
    assert [found[task["name"]]["posts"] for task in TASKS] == [55, 57, 48]
    if name == "majority":
        assert found["mood"]["macro_f1"] < 0.3 and found["mood"]["auroc"] == 0.5
        assert found["size"]["mse"] == pytest.approx(found["size"]["mean_predictor_mse"], rel=0.2)
        return
    assert found["size"]["mse"] < (1.3 if name == "image_only" else 0.5) * found["size"]["mean_predictor_mse"]
    assert found["tags"]["macro_f1"] > (0.3 if name == "text_only" else 0.9)
    assert found["mood"]["macro_f1"] > (0.5 if name in ("text_only", "image_only") else 0.85)


@pytest.mark.parametrize("name", ["majority", "logistic_regression", "gated_fusion"])
def test_the_protocol_chooses_a_value_fits_a_rule_and_gives_every_post_a_verdict(toy, name):
    baseline = BASELINES[name]
    setting = search(baseline, toy, TASKS)
    assert setting.get(baseline.hyper_parameter) in (baseline.values or (None,))
    outcome = cross_fitted(baseline, toy, TASKS, setting, seed=0)
    assert [len(outcome.logits[split]["tags"]) for split in ("validation", "test")] == [60, 60]
    found = metrics_of_logits(outcome.tasks, outcome.logits["test"], toy["test"].labels)
    assert name == "majority" or found["mean_macro_f1"] > 0.9
    assert all(task.get("temperature") for task in outcome.tasks[:2])


def test_labels_that_are_missing_teach_nothing(toy):
    changed = {split: rows.at(torch.arange(len(rows))) for split, rows in toy.items()}
    rows = changed["train"]
    rows.embeds = {name: values.clone() for name, values in rows.embeds.items()}
    rows.labels = {name: values.clone() for name, values in rows.labels.items()}
    strangers = torch.arange(40, 60)
    for values in rows.labels.values():
        values[strangers] = -100 if values.dtype == torch.long else float("nan")
    others = torch.cat([torch.arange(40), torch.arange(60, len(rows))])
    for name in ("majority", "knn"):  # what standardises or shuffles sees that the posts are there
        pair = (rows, rows.at(others))
        with_them, without = (BASELINES[name].fit(part, toy["validation"], TASKS, 16, 0)(toy["test"]) for part in pair)
        assert all(torch.allclose(with_them[task], without[task]) for task in with_them)
    for name in BASELINE_NAMES:  # a task without a label at all
        for part in changed.values():
            part.labels = part.labels | {"mood": torch.full((len(part),), -100)}
        value = (BASELINES[name].values or (None,))[0]
        logits = BASELINES[name].fit(rows, changed["validation"], TASKS, value, 0)(toy["test"])
        assert all(values.isfinite().all() and len(values) == SIZES["test"] for values in logits.values())


def test_folds_keep_duplicates_together_and_every_post_is_left_out_once():
    keys = ["0000000aff", "0000000bff", "0000000a00", "ffffffff11"]
    assert folds_of(keys).tolist() == [10 % FOLDS, 11 % FOLDS, 10 % FOLDS, 0xFFFFFFFF % FOLDS]


def test_a_post_is_judged_by_a_model_that_has_not_seen_it(toy):
    # labels of chance: who has seen a post knows it by its neighbour, itself
    posts = {split: rows.at(torch.arange(len(rows))) for split, rows in toy.items()}
    chance = torch.randint(0, 3, (SIZES["train"],), generator=torch.Generator().manual_seed(5))
    posts["train"].labels = posts["train"].labels | {"mood": chance}
    outcome = cross_fitted(BASELINES["knn"], posts, TASKS[:1], {"k": 1}, 0)
    assert outcome.tasks[0]["temperature"] > 3  # what was sure of itself has been found to know nothing


def test_too_few_posts_for_folds(toy):
    one = toy["train"].at(torch.tensor([0]))
    with pytest.raises(ValueError, match="2 posts are too few"):
        cross_fitted(BASELINES["majority"], toy | {"train": one, "validation": one}, TASKS, {}, 0)


def test_validation_posts_are_learned_from_and_judged_by_who_left_them_out(toy):
    nearest = BASELINES["knn"]
    posts = toy | {"train": toy["train"].at(torch.arange(4)), "test": toy["validation"]}
    outcome = cross_fitted(nearest, posts, TASKS, {"k": 16}, 0)
    again = cross_fitted(nearest, posts | {"validation": toy["validation"].at(torch.tensor([0]))}, TASKS, {"k": 16}, 0)
    name = TASKS[0]["name"]
    # without the other validation posts a test post is judged otherwise; as a validation post it is not its own neighbour
    assert not torch.allclose(outcome.logits["test"][name], again.logits["test"][name])
    assert not torch.allclose(outcome.logits["validation"][name], outcome.logits["test"][name])


def test_the_names_of_baselines_are_those_of_the_registry():
    assert tuple(BASELINES) == BASELINE_NAMES
    assert all(len(baseline.values) == (0 if name == "majority" else 3) for name, baseline in BASELINES.items())


def test_variants_have_one_name_however_they_are_written():
    method = method_called("mm_orient:relation_scope=batch, hima_stage1=false".replace(" ", ""))
    assert method.name == 'mm_orient:hima_stage1=false,relation_scope="batch"'
    assert method_called(method.name) == method
    assert method.config == {"hima_stage1": False, "relation_scope": "batch"}
    several = method_called('mm_orient:relation_streams=["image_over_text", "text_over_image"],memory_top_k=8')
    assert several.config == {"relation_streams": ["image_over_text", "text_over_image"], "memory_top_k": 8}
    assert method_called("paper").config["stage2_combine"] == "concat"
    files = {found.folder for found in chosen_methods(None, [])}
    assert len(files) == 2 + len(BASELINE_NAMES) + len(ABLATIONS) and not any(
        set(name) & set('/:"=[]') for name in files
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("logistic_regresion", "no method 'logistic_regresion'; did you mean 'logistic_regression'"),
        ("knn:k=3", "knn has no variants"),
        ("mm_orient:", "FIELD=JSON is expected"),
        ("mm_orient:hima_stage1", "FIELD=JSON is expected"),
        ("mm_orient:relation_streams=[1", "is no JSON"),
        ("mm_orient:hima_stage=false", "no field 'hima_stage'; did you mean 'hima_stage"),
        ("mm_orient:memory_top_k=-1", "memory_top_k"),
    ],
)
def test_a_wrong_method_is_one_line(name, message):
    with pytest.raises(ValueError, match="--methods ") as raised:
        check_fields(chosen_methods([name]), {})
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_wrong_ablation_has_the_nearest_name():
    with pytest.raises(ValueError, match="no ablation 'vote'; did you mean 'votes'"):
        chosen_methods(None, ["vote"])


def test_every_ablation_is_a_configuration():
    check_fields(chosen_methods(["majority"], []), {"relation_scope": "memory", "neighbour_labels": True})


LABELS = ["offensive", "things", "length"]


def add_labels(folder) -> None:
    """To demo memes, several labels and a number: what the text says, and how much."""
    table = folder / "labels.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        things = [word for word in ("morning", "day", "face", "friend") if word in row["text"]]
        row["things"], row["length"] = json.dumps(things), str(len(row["text"]) + 0.5)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


METHODS = ["mm_orient", "logistic_regression", "majority"]


class Bench:
    """A benchmark of two sets of demo memes, as commands make it."""

    def __init__(self, folder):
        self.memes = make_memes(folder / "memes", 70)
        add_labels(self.memes)
        self.output, self.folder = folder / "bench", folder
        self.encoders = save_encoders(folder)

    def command(self, *more, data=None, methods=METHODS) -> list:
        command = [
            "benchmark",
            "--data",
            data or self.memes,
            "--labels",
            *LABELS,
            "--output",
            self.output,
        ]
        command += [*self.encoders, "--feature-cache", self.folder / "cache", "--epochs", 1, "--bootstrap", 100]
        return [*command, "--no-plots", "--seeds", 0, 1, "--methods", *methods, *more]

    def run(self, *more, **options) -> int:
        return main([str(part) for part in self.command(*more, **options)])

    def times(self, pattern: str = "cells/*/*/*.npz") -> dict:
        return {path: path.stat().st_mtime_ns for path in sorted(self.output.glob(pattern))}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("benchmark"))
    assert bench.run("--name", "memes") == 0
    return bench


def test_a_benchmark_leaves_cells_rows_and_tables(bench):
    assert len(bench.times()) == 6 and not (bench.output / "runs").exists()
    rows = pyarrow.parquet.read_table(bench.output / "results.parquet").to_pylist()
    assert {(row["method"], row["seed"], row["task"], row["split"]) for row in rows} == {
        (method, seed, task, split)
        for method in METHODS for seed in (0, 1) for task in LABELS for split in ("validation", "test")
    }  # fmt: skip
    assert all(row["seconds"] >= 0 and row["commit"] for row in rows)
    assert all((row["macro_f1"] is None) == (row["mse"] is not None) == (row["task"] == "length") for row in rows)
    assert {json.loads(row["setting"]).get("C") for row in rows if row["method"] == "logistic_regression"} <= {
        0.001, 0.01, 0.1,
    }  # fmt: skip
    text = (bench.output / "results.md").read_text(encoding="utf-8")
    assert "## memes" in text and "**, best baseline" in text and "## All sets" not in text
    assert text.count("By macro-F1 on these test posts") == 1
    assert "| method | offensive | things | mean of tasks | AUROC |" in text and "length, a value:" in text


def test_what_is_kept_of_posts_gives_the_metrics_again(bench):
    for cell in read_cells(bench.output):
        assert len(cell.keys) == len(cell.ids) == 14 and cell.ids[0].startswith("meme-")
        rows = {row["task"]: row for row in cell.rows if row["split"] == "test"}
        known = cell.labels["offensive"] >= 0
        assert rows["offensive"]["posts"] == known.sum() and rows["length"]["posts"] == 14
        for task in ("offensive", "things"):
            labels, decided = cell.labels[task], cell.decided[task]
            right = (decided == labels)[known] if labels.ndim == 1 else decided == labels
            assert rows[task]["accuracy"] == pytest.approx(right.mean())
            classes = cell.probabilities[task].shape[1]
            again = macro_f1_of_resamples(np.ones((1, 14), np.float32), labels, decided, classes)
            assert rows[task]["macro_f1"] == pytest.approx(again[0], abs=1e-6)
        errors = (cell.probabilities["length"] - cell.labels["length"]) ** 2
        assert rows["length"]["mse"] == pytest.approx(errors.mean(), rel=1e-4)
        assert np.allclose(cell.probabilities["offensive"].sum(1), 1, atol=1e-5)


def test_a_second_call_makes_nothing_again_and_one_for_another_set_adds_to_the_tables(bench):
    before, text = bench.times(), (bench.output / "results.md").read_text(encoding="utf-8")
    assert bench.run("--name", "memes") == 0
    assert bench.times() == before and (bench.output / "results.md").read_text(encoding="utf-8") == text
    lost = bench.output / "cells" / "memes" / "majority" / "1.npz"
    lost.unlink()
    assert bench.run("--name", "memes") == 0
    assert {path for path, time in bench.times().items() if before[path] != time} == {lost}

    before = bench.times()
    assert bench.run("--name", "again", methods=["majority", "logistic_regression"]) == 0
    assert before.items() <= bench.times().items()
    text = (bench.output / "results.md").read_text(encoding="utf-8")
    assert "## All sets" in text and "## again" in text and text.count("By macro-F1 on these test posts") == 2
    (bench.output / "results.md").unlink()
    command = ["benchmark", "--output", str(bench.output), "--bootstrap", "100", "--no-plots"]
    assert main(command) == 0 and (bench.output / "results.md").read_text(encoding="utf-8") == text
    assert main(command[:-1]) == 0
    assert all((bench.output / name).stat().st_size > 1000 for name in ("macro_f1.png", "differences.png"))


@pytest.mark.slow
def test_workers_make_the_same_cells(bench, caplog):
    caplog.set_level("INFO")
    assert bench.run("--name", "shared", "--workers", 2) == 0
    assert "shared: made 6 of 6" in caplog.text
    cells = {(cell.set, cell.method, cell.seed): cell for cell in read_cells(bench.output)}
    for method in METHODS:
        for seed in (0, 1):
            alone, shared = (cells[name, method, seed].probabilities for name in ("memes", "shared"))
            for task, probabilities in alone.items():
                np.testing.assert_allclose(shared[task], probabilities, atol=1e-4, err_msg=f"{method} {seed} {task}")
    shutil.rmtree(bench.output / "cells" / "shared")
    (bench.output / "sets" / "shared.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(bench, tmp_path, number):
    command = [sys.executable, "-m", "modeling_mm_orient", *map(str, bench.command("--workers", 2, "--epochs", 50))]
    command[command.index("--output") + 1] = str(tmp_path / "bench")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    next(line for line in process.stderr if "made 1 of 6" in line)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said = process.communicate()[1]
    assert len(workers) >= 2 and psutil.wait_procs(workers, timeout=60)[1] == []
    if number == signal.SIGTERM:
        assert process.returncode == 143 and "mm-orient: terminated; the same command goes on" in said
        assert "Traceback" not in said and "leaked" not in said
    assert main(command[3:]) == 0
    assert len(list((tmp_path / "bench").glob("cells/*/*/*.npz"))) == 6 and not (tmp_path / "bench" / "runs").exists()


def test_a_set_keeps_to_its_posts_and_options(bench, capsys):
    others = make_memes(bench.folder / "others", 70, seed=1)
    add_labels(others)
    before = bench.times()
    assert bench.run("--name", "memes", data=others) == 1
    assert "has a set 'memes' with other posts, labels or splits" in capsys.readouterr().err
    assert bench.run("--name", "memes", "--learning-rate", 0.5) == 1
    assert "has a set 'memes' with other training" in capsys.readouterr().err
    of_before = read_json(bench.output / "sets" / "memes.json")
    facts = of_before["facts"]
    older = {name: value for name, value in facts["training"].items() if name != "keep_epoch_by"}  # it is younger
    write_json(bench.output / "sets" / "memes.json", of_before | {"facts": facts | {"training": older}})
    assert bench.run("--name", "memes") == 1
    assert bench.run("--name", "memes", "--keep-epoch-by", "mean_macro_f1") == 0
    assert bench.times() == before
    write_json(bench.output / "sets" / "memes.json", of_before | {"facts": facts})


def test_what_is_wrong_is_said_before_anything_is_made(bench, capsys, tmp_path):
    cases = {
        ("--name", "a/b"): "--name 'a/b': letters",
        ("--seeds", "0", "0"): "different numbers",
        ("--bootstrap", "5"): "at least 100",
        ("--workers", "0"): "`workers` must be at least 1",
        ("--vision-encoder", "none"): "name a --vision-encoder",
        ("--methods", "mm_orient", "mm_orient:gate=1"): "no field 'gate'",
    }
    for more, message in cases.items():
        assert bench.run(*more) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.strip().splitlines()) == 1, said
    data = shutil.copytree(bench.memes, tmp_path / "no test")
    table = data / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",test,", ",validation,"), encoding="utf-8")
    assert bench.run("--name", "x", data=data) == 1
    assert "the data has no test split" in capsys.readouterr().err
    assert main(["benchmark", "--output", str(tmp_path / "nothing")]) == 1
    assert "is no folder of a benchmark" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["benchmark", "--output", str(tmp_path / "empty"), "--no-plots"]) == 1
    assert "no finished cell" in capsys.readouterr().err


@pytest.mark.slow
def test_noise_is_measured_for_every_method_and_cells_that_lack_it_are_made_again(bench):
    before = bench.times()
    arguments = ("--name", "memes", "--noise", "--seeds", 0, 1)
    assert bench.run(*arguments, methods=["logistic_regression", "mm_orient"]) == 0
    rows = pyarrow.parquet.read_table(bench.output / "noise.parquet").to_pylist()
    assert {(row["method"], row["seed"]) for row in rows} == {
        (method, seed) for method in ("logistic_regression", "mm_orient") for seed in (0, 1)
    }
    assert {row["degradation"] for row in rows} == set(DEGRADATIONS) and {row["task"] for row in rows} == set(
        LABELS[:2]
    )
    linear = [row for row in rows if row["method"] == "logistic_regression" and row["seed"] == 0]
    again = [row | {"seed": 0} for row in rows if row["method"] == "logistic_regression" and row["seed"] == 1]
    assert linear == again  # nothing is drawn
    cells = {cell.method: cell for cell in read_cells(bench.output) if cell.set == "memes" and cell.seed == 0}
    sound = {row["macro_f1"] for row in linear if row["task"] == "offensive" and row["strength"] == 0}
    test = [row for row in cells["logistic_regression"].rows if row["split"] == "test" and row["task"] == "offensive"]
    assert len(sound) == 1 and sound.pop() == pytest.approx(test[0]["macro_f1"], abs=1e-6)
    text = (bench.output / "results.md").read_text(encoding="utf-8")
    assert "## Under noise" in text and "| memes | offensive | mm_orient | 2 |" in text
    made = bench.times()
    assert bench.run(*arguments, methods=["logistic_regression", "mm_orient"]) == 0
    assert bench.times() == made and made.keys() == before.keys()


def test_a_damaged_cell_is_named(bench, tmp_path, capsys):
    copy = shutil.copytree(bench.output, tmp_path / "copy")
    path = copy / "cells" / "memes" / "mm_orient" / "0.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert main(["benchmark", "--output", str(copy), "--no-plots"]) == 1
    assert f"{path}: no sound cell" in capsys.readouterr().err


def test_every_damage_of_a_cell_is_a_line_with_its_path(bench, tmp_path):
    sound = (bench.output / "cells" / "memes" / "majority" / "0.npz").read_bytes()
    path = tmp_path / "memes" / "majority" / "0.npz"
    path.parent.mkdir(parents=True)
    for draw in range(300):
        flips = random.Random(draw)
        content = bytearray(sound)
        for _ in range(flips.randint(1, 4)):
            content[flips.randrange(len(content))] ^= 1 << flips.randrange(8)
        path.write_bytes(content)
        with suppress(ValueError):  # or the damage is harmless
            read_cell(path)


@pytest.mark.parametrize("change", [
    lambda said: [], lambda said: "x", lambda said: said | {"rows": []}, lambda said: said | {"seed": 1},
    lambda said: said | {"method": "knn"}, lambda said: said | {"method": "no such"}, lambda said: said | {"set": "other"},
    lambda said: said | {"rows": [{name: row[name] for name in row if name != "commit"} for row in said["rows"]]},
    lambda said: said | {"rows": [row | {"macro_f1": "x"} for row in said["rows"]]},
])  # fmt: skip
def test_a_cell_that_says_something_else_is_named(bench, tmp_path, change):
    path = tmp_path / "memes" / "majority" / "0.npz"
    path.parent.mkdir(parents=True)
    with np.load(bench.output / "cells" / "memes" / "majority" / "0.npz") as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"said": np.array(json.dumps(change(json.loads(str(arrays["said"])))))})
    with pytest.raises(ValueError, match=f"{path}: no sound cell of a benchmark"):
        read_cell(path)
