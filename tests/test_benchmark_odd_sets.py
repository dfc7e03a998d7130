"""`mm-orient benchmark` on sets that are named, labelled or begun unluckily."""

import re
import shutil
import statistics

import pyarrow.parquet
import pytest
import torch

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.json_files import read_json, write_json
from modeling_mm_orient.data.labels import RESERVED_TASK_NAMES
from modeling_mm_orient.data.splits import first_splits
from modeling_mm_orient.runs.benchmark.baselines import Standardised
from modeling_mm_orient.runs.benchmark.cell_files import read_cell, write_cell
from modeling_mm_orient.runs.benchmark.cross_fitting import BASELINES, cross_fitted
from modeling_mm_orient.runs.benchmark.features import PostArrays
from modeling_mm_orient.runs.benchmark.statistics import AVERAGE, AVERAGE_AUROC
from modeling_mm_orient.runs.demo import make_memes
from modeling_mm_orient.runs.metrics import METRICS

from .helpers import add_columns, save_encoders

LABELS = ["mean", "file", "untested"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Memes with tasks called `mean` and `file`, and one of which no test post has a label."""
    folder = tmp_path_factory.mktemp("odd")
    table = make_memes(folder / "memes", 120) / "labels.csv"
    add_columns(table, lambda _, row: {"mean": row["offensive"], "file": row["humour"]})
    add_columns(table, lambda _, row: {"untested": "" if row["split"] == "test" else row["humour"]})
    save_encoders(folder)
    return folder


def run(folder, *more, methods=("majority", "tfidf"), encoders=None) -> int:
    command = [
        "benchmark",
        "--data",
        folder / "memes",
        "--output",
        folder / "bench",
        "--epochs",
        1,
        "--labels",
        *LABELS,
    ]
    command += encoders or ["--text-encoder", folder / "text", "--vision-encoder", folder / "vision"]
    command += ["--feature-cache", folder / "cache", "--bootstrap", 100, "--no-plots", "--seeds", 0, "--name", "odd"]
    return main([*map(str, command), "--methods", *methods, *map(str, more)])


def test_what_fails_at_first_does_not_settle_what_the_set_is(folder, capsys):
    assert run(folder, encoders=["--text-encoder", folder / "none", "--vision-encoder", folder / "none"]) == 1
    assert str(folder / "none") in capsys.readouterr().err
    for more, message in {
        ("--decide", "mean=precision:2"): "--decide mean=precision:2: want",
        ("--decide", "=precision:.9"): "--decide =precision:.9: '' is no task",
        ("--keep-epoch-by", "means_macro_f1"): "did you mean 'mean_macro_f1'?",
    }.items():
        assert run(folder, *more) == 1
        assert message in capsys.readouterr().err
    assert run(folder, methods=["majority", "decision:/none"]) == 1
    assert "decision:/none: " in capsys.readouterr().err and not (folder / "bench").joinpath("cells").exists()
    assert run(folder, methods=["majority"]) == 0
    assert run(folder, "--decide", "most_probable", methods=["majority"]) == 1
    assert "has a set 'odd' with other training" in capsys.readouterr().err


def test_any_task_is_in_its_own_column_and_one_without_test_labels_in_none(folder, caplog):
    assert run(folder, methods=["mm_orient", "majority", "tfidf"]) == 0
    assert "no test post has a label of 'untested'" in caplog.text
    text = (folder / "bench" / "results.md").read_text(encoding="utf-8")
    assert "| method | mean | file | mean of tasks | AUROC |" in text
    rows = pyarrow.parquet.read_table(folder / "bench" / "results.parquet").to_pylist()
    by_task = {row["task"]: row for row in rows if (row["method"], row["split"]) == ("tfidf", "test")}
    of_tasks = [by_task[task]["macro_f1"] for task in ("mean", "file")]
    line = re.search(r"\| `tfidf` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text)
    assert [float(value) for value in line.groups()] == pytest.approx([*of_tasks, statistics.mean(of_tasks)], abs=6e-4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sets/lego.json", '{"hello": 1}', "lego.json: no set of a benchmark"),
        ("sets/lego.json", '{"facts": {"tasks": []}, "methods": []}', "lego.json: no set of a benchmark"),
        ("sets/lego.json", '{"facts": {"posts": {"train": 1}}, "methods": []}', "lego.json: no set of a benchmark"),
        ("cells/x/y/0.npz", "mine", "0.npz: no sound cell of a benchmark"),
        ("cells/x/y/0.noise.json", '{"rows": [{"set": "x"}]}', "0.noise.json: no sound rows under noise"),
        ("cells/x/y/0.noise.json", '{"rows": [{"set": "x", "method": "y", "seed": 0}]}', "no sound rows under noise"),
        ("results.md", "my notes", "results.md is of no benchmark, and would be replaced"),
        ("", "my notes", "is no folder"),
    ],
)
def test_what_is_none_of_a_benchmarks_is_told_before_the_first_cell(folder, tmp_path, capsys, name, content, message):
    place = tmp_path / "bench" / name if name else tmp_path / "bench"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content, encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert run(folder, "--output", tmp_path / "bench") == 1
    assert message in capsys.readouterr().err
    assert place.read_text(encoding="utf-8") == content and sorted(tmp_path.rglob("*")) == before


def test_no_task_is_called_as_the_mean_of_all():
    assert {AVERAGE, AVERAGE_AUROC} <= {*RESERVED_TASK_NAMES}


def test_a_rule_that_is_asked_for_is_everybodys_but_the_majority_class():
    task, found = {"name": "rare", "kind": "single_label", "labels": ["a", "b"]}, {}
    posts = {split: arrays_of(count) for split, count in (("train", 200), ("validation", 60), ("test", 60))}
    for rule in ("macro_f1", "most_probable"):
        for name, setting in (("knn", {"k": 16}), ("majority", {})):
            outcome = cross_fitted(BASELINES[name], posts, [task], setting, 0, ["rare=" + rule])
            found[name, rule] = outcome.tasks[0]["decision_offsets"]
    assert found["knn", "macro_f1"] is not None and found["knn", "most_probable"] is None
    assert found["majority", "macro_f1"] is None


def arrays_of(count: int) -> PostArrays:
    """Posts of which a tenth is of a class that both embeddings tell a little."""
    draw = torch.Generator().manual_seed(count)
    rare = (torch.rand(count, generator=draw) < 0.1).long()
    embeds = {name: torch.randn(count, 6, generator=draw) + rare[:, None] for name in ("image", "text")}
    here = torch.ones(count, dtype=torch.bool)
    keys = [f"{number:08x}" for number in torch.randint(0, 2**31, (count,), generator=draw).tolist()]
    return PostArrays(keys, embeds, {"image": here, "text": here}, {"rare": rare}, torch.zeros(count, 1).long())


def test_a_feature_that_hardly_differs_in_training_does_not_drown_the_others():
    train, others = arrays_of(100), arrays_of(50)
    train.embeds["image"][:, 0] = 1 + 1e-5 * torch.randn(100, generator=torch.Generator().manual_seed(0))
    scaled = Standardised(train)
    assert (scaled(others)["image"][:, 0] == 0).all()
    before, of_train = (part.embeds["image"][:, 1].std() for part in (others, train))
    assert scaled(others)["image"][:, 1].std() == pytest.approx(float(before / of_train), rel=0.02)


def test_task_features_are_scaled_each_by_itself():
    train = arrays_of(100)
    draw = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    train.extra = draw * torch.tensor([1e4, 1e-3, 0.0]) + torch.tensor([0.0, 0.0, 0.3])
    scaled = Standardised(train)(train)["extra"]
    assert scaled.std(0, correction=0).tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-5)


def test_posts_of_several_splits_are_counted(caplog):
    found = first_splits({"test": ["a", "b", "c", "c"], "validation": ["b"], "train": ["a", "d", "d"]})
    assert found == {"a": "train", "d": "train", "b": "validation", "c": "test"}
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "1 of 4 test posts stand in train too", "1 of 4 test posts stand in validation too",
    ]  # fmt: skip


def test_verdicts_that_differ_in_their_last_digit_are_as_one():
    truth = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]]).numpy()
    scores = (0.54 + 1e-8 * torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]])).double().numpy()
    assert METRICS["multi_label"](truth, scores)["auroc"] == 0.5
    assert METRICS["single_label"](truth[:, 0], scores)["auroc"] == 0.5


def test_a_set_is_not_gone_on_with_other_encoders_of_the_same_place(folder, capsys):
    assert run(folder, "--name", "encoders", methods=("text_only",)) == 0
    weights = folder / "text" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\0\0\0\0")
    assert run(folder, "--name", "encoders", methods=("text_only", "knn")) == 1
    assert "has a set 'encoders' with other sources" in capsys.readouterr().err
    weights.write_bytes(before)
    (chosen,) = (folder / "bench" / "cells" / "encoders").glob("*/search.json")
    chosen.write_text('{"C": "abc"}')
    assert run(folder, "--name", "encoders", "--seeds", 1, methods=("text_only",)) == 0  # the seed changes nothing
    next(chosen.parent.glob("*.npz")).unlink()
    next(chosen.parent.glob("*.npz")).unlink()
    assert run(folder, "--name", "encoders", methods=("text_only",)) == 1
    assert f"{chosen}: no choice of `C`; remove it" in capsys.readouterr().err


def test_a_set_is_gone_on_with_where_its_folders_have_moved(folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder / "memes", tmp_path / "one" / "memes")
    for name in ("text", "vision"):
        shutil.copytree(folder / name, tmp_path / "one" / name)
    given = ["--data", "memes", "--output", "bench", "--text-encoder", "text", "--vision-encoder", "vision"]
    monkeypatch.chdir(tmp_path / "one")
    assert run(folder, *given, methods=("text_only",)) == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").rename(tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")
    assert run(folder, *given, methods=("text_only", "knn")) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_a_variant_of_how_a_task_is_learned(folder, capsys):
    variant = 'mm_orient:tasks=[{"name":"mean","focal_gamma":2}]'
    assert run(folder, "--name", "focal", methods=(variant.replace("mean", "none"),)) == 1
    assert "'none' is no task of the data" in capsys.readouterr().err
    assert run(folder, "--name", "focal", methods=(variant,)) == 0


def test_cells_of_other_posts_under_one_name_are_not_compared(folder, tmp_path, capsys):
    assert run(folder, "--name", "one", methods=("majority",)) == 0
    assert run(folder, "--name", "two", "--split-column", "none", "--split-seed", 5, methods=("tfidf",)) == 0
    bench = tmp_path / "bench"
    for name, method in (("one", "majority"), ("two", "tfidf")):
        cell = folder / "bench" / "cells" / name / method / "0.npz"
        made = read_cell(cell)
        made.set = "both"
        write_cell(bench / "cells" / "both" / method / "0.npz", made)
    command = ["benchmark", "--output", str(bench), "--no-plots"]
    assert main(command) == 1 and "cells of 'both', and no sets/both.json" in capsys.readouterr().err
    write_json(bench / "sets" / "both.json", read_json(folder / "bench" / "sets" / "one.json"))
    assert main(command) == 1
    assert "judge other posts or labels: majority with seed 0 and tfidf with seed 0" in capsys.readouterr().err
