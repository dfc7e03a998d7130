"""A search for settings: trials through the Trainer, judged on validation, the best trained."""

import contextlib
import shutil
import sqlite3

import pytest

from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.runs import search, training

from .helpers import train_on, write_folder

pytest.importorskip("optuna", reason="settings are searched by Optuna")

ROWS = [
    {"image": "", "text": f"words {i}", "mood": "ab"[i % 2], "split": split}
    for i, split in enumerate(["train"] * 10 + ["val"] * 4 + ["test"] * 4)
]


def find(folder, output, *options) -> int:
    return train_on(folder, output, "--labels", "mood", "--search", 3, "--epochs", 2, *options)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "posts", ROWS, pictures=False)


def test_the_best_of_the_trials_is_trained_and_saved(folder, tmp_path, monkeypatch):
    judged, predict = [], training.MMOrientTrainer.evaluate

    def evaluate(self, eval_dataset=None, **options):
        judged.append(len(self.eval_dataset))
        return predict(self, eval_dataset, **options)

    monkeypatch.setattr(training.MMOrientTrainer, "evaluate", evaluate)
    assert find(folder, tmp_path / "run") == 0
    found, run = read_json(tmp_path / "run" / "search.json"), read_json(tmp_path / "run" / "run.json")
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2] and found["metric"] == "mean_macro_f1"
    best = found["best"]["params"]
    assert found["best"]["value"] == max(trial["value"] for trial in found["trials"] if trial["state"] == "COMPLETE")
    assert {"learning_rate", "weight_decay", "epochs", "learner_dropout", "encoder_learning_rate"} == set(best)
    assert len({trial["params"]["learning_rate"] for trial in found["trials"]}) == 3
    for name in ("learning_rate", "weight_decay", "epochs", "encoder_learning_rate"):
        assert run["training"][name] == best[name]
    assert read_json(tmp_path / "run" / "config.json")["learner_dropout"] == best["learner_dropout"]
    assert set(judged) == {4} and (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_an_interrupted_search_goes_on(folder, tmp_path, monkeypatch, capsys):
    objective, calls = search._space, []

    def stopping(trial, *arguments):
        calls.append(trial.number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return objective(trial, *arguments)

    monkeypatch.setattr(search, "_space", stopping)
    assert find(folder, tmp_path / "run") == 130
    assert find(folder, tmp_path / "run") == 1 and "interrupted search; say --resume" in capsys.readouterr().err
    assert find(folder, tmp_path / "run", "--resume", "--metric-for-best-model", "loss") == 1
    assert "`metric` was 'mean_macro_f1'" in capsys.readouterr().err
    assert find(folder, tmp_path / "run", "--resume") == 0
    states = [trial["state"] for trial in read_json(tmp_path / "run" / "search.json")["trials"]]
    assert len(states) == 3 and "FAIL" not in states and len(calls) == 4


@pytest.mark.slow
def test_a_finished_search_is_that_of_its_posts_and_settings(folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert find(folder, run) == 0
    for path in run.iterdir():  # as if the training after it had not begun
        if path.name not in ("search.json", "search.db"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = (run / "search.json").read_bytes()
    assert find(folder, run, "--resume", "--learning-rate", "0.05") == 1
    assert "cannot go on with the search: `training` was" in capsys.readouterr().err
    write_folder(folder, [row | {"text": f"others {i}"} for i, row in enumerate(ROWS)], pictures=False)
    assert find(folder, run, "--resume") == 1 and "is not what it was" in capsys.readouterr().err
    write_folder(folder, ROWS, pictures=False)
    assert find(folder, run, "--resume") == 0 and (run / "search.json").read_bytes() == before


@pytest.mark.slow
def test_a_smaller_loss_is_better(folder, tmp_path):
    assert find(folder, tmp_path / "run", "--metric-for-best-model", "loss") == 0
    found = read_json(tmp_path / "run" / "search.json")
    assert found["best"]["value"] == min(t["value"] for t in found["trials"] if t["state"] == "COMPLETE")


def test_without_optuna_it_says_what_to_install(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "OPTUNA_AVAILABLE", False)
    assert find(folder, tmp_path / "run") == 1
    assert "pip install 'modeling-mm-orient[search]'" in capsys.readouterr().err


def test_a_search_lies_in_its_own_folder_whatever_that_is_called(folder, tmp_path):
    name = "R%41#y?x=1"
    assert find(folder, tmp_path / name, "--search", 1) == 0
    assert (tmp_path / name / "search.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"posts", name}


def test_what_is_no_database_of_a_search_is_named(folder, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "search.db").write_bytes(b"nothing of the kind" * 100)
    assert find(folder, run, "--resume") == 1
    assert f"{run / 'search.db'}: no database of a search" in (said := capsys.readouterr().err) and "remove it" in said
    (run / "search.db").unlink()
    assert find(folder, run, "--search", 1) == 0
    (run / "config.json").unlink()
    with contextlib.closing(sqlite3.connect(run / "search.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert find(folder, run, "--search", 2, "--resume") == 1
    assert "search.db: the search's database cannot be used" in (said := capsys.readouterr().err)
    assert "locked" in said and "remove it" not in said
