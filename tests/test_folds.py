"""Cross-validation: every post is judged once, duplicates stay together, and an interrupted one goes on."""

import os
import subprocess
import sys

import pytest
from filelock import FileLock

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.json_files import read_json, write_json
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.data.splits import keys_by_split, regrouped
from modeling_mm_orient.runs import folds as of_folds
from modeling_mm_orient.runs.folds import folds_table, summary
from modeling_mm_orient.runs.training import LOCK_FILE

from .helpers import free_port, train_on, write_folder

ROWS = [
    {"image": "", "text": f"words {i if i > 4 else 0}", "mood": "ab"[i % 2], "score": i / 4, "split": split}
    for i, split in enumerate(["test", *["train"] * 4] * 6)
]


def validate(folder, output, *options) -> int:
    return train_on(folder, output, "--labels", "mood", "score", "--folds", 3, "--epochs", 1, *options)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "posts", ROWS, pictures=False)


def test_every_post_is_judged_once_and_an_interrupted_one_goes_on(folder, tmp_path, capsys, monkeypatch):
    output, train, calls = tmp_path / "cv", of_folds.train_prepared, []

    def stopping(prepared, *arguments, **options):
        calls.append(prepared.output.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(prepared, *arguments, **options)

    monkeypatch.setattr(of_folds, "train_prepared", stopping)
    assert validate(folder, output) == 130
    assert validate(folder, output) == 1 and "say --resume" in capsys.readouterr().err
    assert validate(folder, output, "--resume", "--seed", "5") == 1
    of_before = read_json(output / "folds.json")
    del of_before["about"]["training"]["keep_epoch_by"]  # it is younger
    write_json(output / "folds.json", of_before)
    assert validate(folder, output, "--resume") == 0
    assert calls == ["fold-1", "fold-2", "fold-2", "fold-3"]
    found, said = read_json(output / "folds.json"), capsys.readouterr().out
    assert len(found["folds"]) == 3 and "| mood | macro_f1 |" in said and "| score | mse |" in said
    places = [read_json(output / f"fold-{number}" / "splits.json") for number in (1, 2, 3)]
    tests = [{key for key, split in place.items() if split == "test"} for place in places]
    assert set().union(*tests) == set(places[0]) and sum(map(len, tests)) == len(places[0]) == 26
    assert sum(metrics["mood"]["posts"] for metrics in found["folds"]) == 30
    assert validate(folder, output) == 1 and "finished cross-validation" in capsys.readouterr().err


def test_a_fold_is_evaluated_on_its_own_test_posts(folder, tmp_path):
    assert validate(folder, tmp_path / "cv") == 0
    found = read_json(tmp_path / "cv" / "folds.json")["folds"]
    for number, metrics in enumerate(found, 1):
        command = ["evaluate", tmp_path / "cv" / f"fold-{number}", "--data", folder, "--json", tmp_path / "m.json"]
        assert main([str(part) for part in command]) == 0
        assert read_json(tmp_path / "m.json")["mood"]["posts"] == metrics["mood"]["posts"]
        assert read_json(tmp_path / "m.json")["mood"]["macro_f1"] == pytest.approx(metrics["mood"]["macro_f1"])
    fold, splits = tmp_path / "cv" / "fold-1", read_json(tmp_path / "cv" / "fold-1" / "splits.json")
    predict = ["predict", fold, "--data", folder, "--split", "test", "--output", tmp_path / "p.jsonl"]
    assert main([str(part) for part in predict]) == 0
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == found[0]["mood"]["posts"]
    others = write_folder(
        tmp_path / "others", [row | {"text": f"new {i}"} for i, row in enumerate(ROWS)], pictures=False
    )
    command = ["evaluate", fold, "--data", others, "--json", tmp_path / "m.json"]
    assert main([str(part) for part in command]) == 0  # of posts that are new to it the data say the splits
    assert read_json(tmp_path / "m.json")["mood"]["posts"] == 6
    rows = [row if i < 15 else row | {"text": f"newer {i}"} for i, row in enumerate(ROWS)]
    some = write_folder(tmp_path / "some", rows, pictures=False)  # it has learned from some of these
    assert main([str(part) for part in [*predict[:3], some, *predict[4:]]]) == 0
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 6
    assert main([str(part) for part in [*command[:3], some, *command[4:]]]) == 0
    assert 3 <= read_json(tmp_path / "m.json")["mood"]["posts"] <= 6
    for number in (1, 2, 3):
        known = [
            "evaluate",
            tmp_path / "cv" / f"fold-{number}",
            "--data",
            folder,
            "--known",
            "--json",
            tmp_path / "k.json",
        ]
        assert main([str(part) for part in known]) == 0 and 1 <= read_json(tmp_path / "k.json")["mood"]["posts"] < 6
    assert set(splits.values()) == {"train", "validation", "test"}
    posts = regrouped(read_posts(DataDescription(str(folder), labels=["mood"]))[0], splits)
    assert {name: set(keys) for name, keys in keys_by_split(posts).items()} == {
        name: {key for key, split in splits.items() if split == name} for name in ("train", "validation", "test")
    }


def test_two_processes_do_not_validate_in_one_folder(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK_FILE):
        for options in ((), ("--overwrite",), ("--resume",)):
            assert validate(folder, tmp_path / "out", *options) == 1
            assert "another process is training in" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK_FILE]


PROCESS = """
import os, sys, threading
from pathlib import Path
from modeling_mm_orient.cli import main
from modeling_mm_orient.runs import folds
posts, output = sys.argv[1:]
prepare, begun = folds.prepare, Path(output, "folds.json")
def late(*arguments):
    found = prepare(*arguments)
    while os.environ["RANK"] == "1" and not begun.exists():
        threading.Event().wait(0.01)
    return found
folds.prepare = late
command = ["train", "--data", posts, "--labels", "mood", "--folds", "2", "--epochs", "1", "--output", output]
sys.exit(main([*command, "--split-column", "none"]))
"""


@pytest.mark.slow
def test_a_process_that_is_late_takes_the_first_ones_folds_for_its_own(folder, tmp_path):
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS, str(folder), str(tmp_path / "cv")]
    running = [
        subprocess.Popen(command, env=shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said[1][-2000:]
    assert len(read_json(tmp_path / "cv" / "folds.json")["folds"]) == 2


def test_a_damaged_account_of_folds_is_named(folder, tmp_path, capsys):
    write_json(tmp_path / "cv" / "folds.json", {"about": 5})
    assert validate(folder, tmp_path / "cv", "--resume") == 1
    assert "folds.json: no file of a cross-validation" in capsys.readouterr().err


def test_mean_and_deviation():
    found = summary(
        [{"a": {"macro_f1": 0.5, "auroc": None}, "mean_macro_f1": 0.5}, {"a": {"macro_f1": 0.7, "auroc": 1.0}}]
    )
    assert found["a"]["macro_f1"] == {"mean": 0.6, "deviation": pytest.approx(0.1414, abs=1e-4), "folds": 2}
    assert found["a"]["auroc"]["folds"] == 1 and found["mean_macro_f1"]["mean"] == 0.5
    assert "| a | macro_f1 | 0.600 | 0.141 | 2 |" in folds_table({"summary": found})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "at least 2"),
        (["--folds", "12"], "too few for 12 folds"),
        (["--search", "2"], "search first"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(folder, tmp_path, capsys, options, message):
    assert validate(folder, tmp_path / "cv", *options) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "cv").exists()
