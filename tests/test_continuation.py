"""Going on from a checkpoint: what is kept, what begins anew, what is refused."""

import shutil
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.relation_memory import RelationMemory
from modeling_mm_orient.runs import continuation, training

from .helpers import tiny_model, train_on, write_folder

ROWS = [
    {"image": f"{i}.png", "caption": f"words {i}", "mood": "ab"[i % 2], "spam": ["no", "yes"][i // 2 % 2],
     "likes": i, "split": split}
    for i, split in enumerate(["train"] * 12 + ["val"] * 4 + ["test"] * 4)
]  # fmt: skip


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("posts") / "posts", ROWS)
    run = folder.parent / "run"
    fields = ("--set", "relation_scope=memory", "memory_top_k=3")
    options = ("--labels", "mood", "--numeric-columns", "likes", "--epochs", 1, *fields, "--batch-size", 4)
    assert train_on(folder, run, *options) == 0
    return folder, run


def go_on(before, output, *options) -> int:
    folder, run = before
    return train_on(folder, output, "--init-from", run, "--epochs", 1, *options)


def test_new_tasks_and_more_posts_start_where_it_ended(before, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    first, last = load_file(before[1] / "model.safetensors"), {}
    fit = training.fit

    def seen(prepared, built, resume):
        last.update({name: value.cpu().clone() for name, value in built.model.state_dict().items()})
        return fit(prepared, built, resume)

    monkeypatch.setattr(training, "fit", seen)
    assert go_on(before, tmp_path / "next", "--labels", "spam", "mood") == 0
    assert "the heads of mood; beginning anew: the heads of spam" in caplog.text
    assert torch.equal(last["task_heads.heads.1.weight"], first["task_heads.heads.0.weight"])
    common = [name for name in first.keys() & last.keys() if "heads" not in name]
    assert len(common) > 30 and all(torch.equal(first[name], last[name]) for name in common)
    run, config = read_json(tmp_path / "next" / "run.json"), read_json(tmp_path / "next" / "config.json")
    assert run["init_from"] == {"source": str(before[1]), "freeze_body": False} and run["training"]["batch_size"] == 4
    assert run["data"]["numeric_columns"] == ["likes"] and config["relation_scope"] == "memory"
    assert set(read_json(tmp_path / "next" / "metrics.json")["test"]) == {"spam", "mood", "mean_macro_f1"}
    assert main(["evaluate", str(tmp_path / "next"), "--data", str(before[0])]) == 0


def test_a_frozen_body_stays_as_it_is(before, tmp_path):
    assert go_on(before, tmp_path / "next", "--labels", "spam", "mood", "--freeze-body", "--learning-rate", "0.1") == 0
    old, new = (load_file(folder / "model.safetensors") for folder in (before[1], tmp_path / "next"))
    assert torch.equal(new["task_heads.heads.1.weight"], old["task_heads.heads.0.weight"])
    body = [name for name in old if "heads" not in name]
    assert all(torch.equal(old[name], new[name]) for name in body)
    assert new["task_heads.heads.0.weight"].abs().sum() > 0


def test_labels_and_columns_are_those_of_before_unless_said(before, tmp_path):
    assert go_on(before, tmp_path / "next") == 0
    assert set(read_json(tmp_path / "next" / "metrics.json")["test"]) == {"mood", "mean_macro_f1"}


@pytest.mark.slow
def test_numbers_that_are_not_named_are_dropped_and_those_that_are_stay_numbers(tmp_path):
    rows = [row | {"age": f"{20 + i}"} for i, row in enumerate(ROWS)]
    folder, run = write_folder(tmp_path / "posts", rows), tmp_path / "run"
    before = (folder, run)
    assert train_on(folder, run, "--labels", "mood", "--regression", "age", "--epochs", 1) == 0
    for options, tasks in (
        (("--labels", "mood"), {"mood": "single_label"}),
        (("--labels", "mood", "age"), {"mood": "single_label", "age": "regression"}),
        (("--labels", "spam", "--regression", "likes"), {"spam": "single_label", "likes": "regression"}),
        (("--regression", "likes"), {"mood": "single_label", "age": "regression", "likes": "regression"}),
        ((), {"mood": "single_label", "age": "regression"}),
    ):
        place = tmp_path / f"next{len(tasks)}{len(options)}"
        assert go_on(before, place, *options) == 0
        found = read_json(place / "config.json")["tasks"]
        assert {task["name"]: task["kind"] for task in found} == tasks


def test_rules_of_tasks_that_are_gone_go_with_them(before, tmp_path, capsys, caplog):
    told = ["--decide", "mood=recall:0.9", "spam=precision:0.9", "--keep-epoch-by", "spam_macro_f1"]
    first = (before[0], tmp_path / "first")
    assert go_on(before, first[1], "--labels", "spam", "mood", *told) == 0
    assert go_on(first, tmp_path / "next", "--labels", "mood") == 0
    assert "was told --decide spam=precision:0.9, which is for no task of now: left out" in caplog.text
    assert "kept its epoch by spam_macro_f1, which is of no task of now: the loss counts" in caplog.text
    training = read_json(tmp_path / "next" / "run.json")["training"]
    assert training["decide"] == ["mood=recall:0.9"] and training["keep_epoch_by"] == "loss"
    told = ["--labels", "mood", "--decide", "spam=recall:0.9"]  # what is said now is refused as ever
    assert go_on(first, tmp_path / "refused", *told) == 1 and "--decide spam=recall:0.9" in capsys.readouterr().err


def test_other_classes_are_another_head(before, tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [row | {"mood": "abc"[i % 3]} for i, row in enumerate(ROWS)]
    folder = write_folder(tmp_path / "posts", rows)
    assert go_on((folder, before[1]), tmp_path / "next") == 0
    assert "the heads of no task; beginning anew: the heads of mood" in caplog.text
    one_class_less = [row | {"mood": "a" if row["split"] == "val" else row["mood"]} for row in ROWS]
    assert go_on((write_folder(tmp_path / "less", one_class_less), before[1]), tmp_path / "less_run") == 0
    assert "the heads of mood; beginning anew: the heads of no task" in caplog.text


def test_what_was_learned_from_is_not_judged_by(before, tmp_path, caplog):
    rows = [row | {"split": "test" if i < 3 else row["split"]} for i, row in enumerate(ROWS)]
    folder = tmp_path / "posts"
    write_folder(folder, rows)
    assert go_on((folder, before[1]), tmp_path / "next") == 0
    assert "3 posts of test left out" in caplog.text
    assert read_json(tmp_path / "next" / "metrics.json")["test"]["mood"]["posts"] == 4
    assert list(read_json(tmp_path / "next" / "splits.json").values()).count("train") == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text-encoder", "x"], "--text-encoder: with --init-from"),
        (["--preset", "paper"], "--preset: with --init-from"),
        (["--set", "memory_top_k=9"], "`memory_top_k` is 3 in"),
        (["--clean-text", "urls"], "`text_cleaning` is [] in"),
        (["--numeric-columns", "likes", "split"], "`numeric_columns` is ['likes'] in"),
        (["--freeze-body"], "nothing to train"),
        (["--freeze-body", "--train-encoders", "text"], "names encoders to train"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(before, tmp_path, capsys, options, message):
    assert go_on(before, tmp_path / "next", *options) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "next").exists()


def test_it_needs_a_checkpoint(before, tmp_path, capsys):
    command = ["train", "--data", str(before[0]), "--labels", "mood", "--output", str(tmp_path / "x")]
    assert main([*command, "--freeze-body"]) == 1
    assert "name it with --init-from" in capsys.readouterr().err
    assert go_on((before[0], tmp_path / "nowhere"), tmp_path / "next") == 1
    assert "no such folder" in capsys.readouterr().err
    assert go_on((before[0], tmp_path), tmp_path / "next") == 1
    assert "no finished run" in capsys.readouterr().err


@pytest.mark.parametrize("scope", ["memory", "batch"])
def test_what_an_export_learned_from_is_not_judged_by(tmp_path, caplog, scope):
    folder, run = write_folder(tmp_path / "posts", ROWS), tmp_path / "run"
    fields = ("--set", f"relation_scope={scope}", "memory_top_k=3")
    assert train_on(folder, run, "--labels", "mood", "--epochs", 1, *fields) == 0
    assert main(["export", str(run), "--output", str(tmp_path / "hub")]) == 0
    rows = [row | {"split": "test" if i < 3 else row["split"]} for i, row in enumerate(ROWS)]
    write_folder(tmp_path / "others", rows)
    before = (tmp_path / "others", tmp_path / "hub")
    assert go_on(before, tmp_path / "next", "--labels", "mood", "spam") == 0
    found = read_json(tmp_path / "next" / "metrics.json")["test"]["mood"]["posts"]
    if scope == "batch":
        assert "hub has learned from is not known" in caplog.text and found == 7
        return
    assert "3 posts of test left out" in caplog.text and found == 4
    assert list(read_json(tmp_path / "next" / "splits.json").values()).count("train") == 12


@pytest.mark.parametrize("change", ["build", "add", "remove"])
def test_a_memory_that_was_changed_says_so(before, tmp_path, caplog, change):
    run = tmp_path / "run"
    shutil.copytree(before[1], run)
    rows = [{"image": "", "caption": f"new {i}", "id": f"n{i}", "mood": "ab"[i % 2], "likes": i} for i in range(6)]
    others = write_folder(tmp_path / "others", rows)
    what = ["--ids", RelationMemory.load(run).ids[0]] if change == "remove" else ["--data", str(others)]
    assert main(["memory", change, str(run), *what]) == 0
    assert main(["export", str(run), "--output", str(tmp_path / "hub")]) == 0
    assert RelationMemory.load(tmp_path / "hub").of_training == (change == "add")
    caplog.clear()
    start = continuation.open_start(str(tmp_path / "hub"))
    with suppress(ValueError):  # all posts of the memory are left out
        continuation.without_learned(start, read_posts(DataDescription(str(others), labels=["mood"]))[0])
    assert ("has learned from is not known" in caplog.text) == (change != "add")


def test_a_regression_of_an_export_stays_one_on_whole_numbers(tmp_path):
    folder, run = write_folder(tmp_path / "posts", ROWS), tmp_path / "run"
    assert train_on(folder, run, "--labels", "mood", "--regression", "likes", "--epochs", 1) == 0
    assert main(["export", str(run), "--output", str(tmp_path / "hub")]) == 0
    for place, options in (("one", ()), ("two", ("--labels", "spam", "likes"))):
        assert go_on((folder, tmp_path / "hub"), tmp_path / place, *options) == 0
        kinds = {task["name"]: task["kind"] for task in read_json(tmp_path / place / "config.json")["tasks"]}
        assert kinds["likes"] == "regression"


def test_what_is_no_task_description_is_told():
    model = tiny_model()
    before = model.config.tasks
    for tasks in ("x", None, ["mood"], 3):
        with pytest.raises(ValueError, match="must be a list of task descriptions"):
            model.set_tasks(tasks)
    assert model.config.tasks == before
