"""A run that is gone on with is made of what it was made of."""

import numpy as np
import pytest

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.json_files import read_json, write_json
from modeling_mm_orient.runs.run_folder import read_splits

from .helpers import save_encoders, train_on, write_folder

ROWS = [
    {"image": "", "text": f"words {i}", "mood": "ab"[i % 2], "likes": i, "split": split}
    for i, split in enumerate(["train"] * 12 + ["val"] * 4 + ["test"] * 4)
]
OPTIONS = ("--labels", "mood", "--numeric-columns", "likes", "--epochs", 1, "--image-column", "none")


@pytest.fixture
def interrupted(tmp_path):
    """The folder of posts, and a function that goes on with a run as if it had been interrupted."""
    folder, encoders = write_folder(tmp_path / "posts", ROWS, pictures=False), save_encoders(tmp_path)
    assert train_on(folder, tmp_path / "run", *OPTIONS, *encoders) == 0
    (tmp_path / "run" / "config.json").unlink()
    return folder, lambda *more: train_on(folder, tmp_path / "run", *OPTIONS, *encoders, "--resume", *more)


def swapped(rows: list[dict], first: int, second: int, name: str) -> list[dict]:
    rows = [dict(row) for row in rows]
    rows[first][name], rows[second][name] = rows[second][name], rows[first][name]
    return rows


@pytest.mark.parametrize(
    "rows", [swapped(ROWS, 0, 17, "split"), swapped(ROWS, 0, 1, "mood"), swapped(ROWS, 0, 1, "likes")]
)
def test_other_posts_are_not_resumed_on_though_they_are_as_many(interrupted, tmp_path, capsys, rows):
    folder, go_on = interrupted
    before = read_splits(str(tmp_path / "run"))
    write_folder(folder, rows, pictures=False)
    assert go_on() == 1 and "`posts, labels or splits` is not what it was" in capsys.readouterr().err
    assert read_splits(str(tmp_path / "run")) == before
    write_folder(folder, ROWS, pictures=False)
    assert go_on() == 0


def test_another_encoder_or_configuration_is_not_resumed_with(interrupted, tmp_path, capsys):
    _, go_on = interrupted
    (tmp_path / "others").mkdir()
    others = save_encoders(tmp_path / "others")
    assert go_on(*others[:2]) == 1 and "encoder` is not what it was" in capsys.readouterr().err
    for field in ("hima_stage2=false", "learner_dropout=0.9", "members=2"):
        assert go_on("--set", field) == 1
        assert f"`{field.partition('=')[0]}` is not what it was" in capsys.readouterr().err
    run = read_json(tmp_path / "run" / "run.json")
    assert str(tmp_path) not in str(run.pop("made_of"))
    write_json(tmp_path / "run" / "run.json", run)  # of an older version
    assert go_on() == 0


def test_what_is_trained_but_has_no_report_is_told(interrupted, tmp_path, capsys):
    _, go_on = interrupted
    assert go_on() == 0 and go_on() == 1 and "holds a finished run" in capsys.readouterr().err
    (tmp_path / "run" / "report.html").unlink()
    assert go_on() == 1 and "mm-orient report" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run"), "--data", str(tmp_path / "posts")]) == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_folds_of_other_posts_are_not_gone_on_with(tmp_path, capsys):
    rows = [row | {"split": "train"} for row in ROWS]
    folder = write_folder(tmp_path / "posts", rows, pictures=False)
    folds = ("--labels", "mood", "--image-column", "none", "--epochs", 1, "--folds", 2)
    assert train_on(folder, tmp_path / "cv", *folds) == 0
    done = read_json(tmp_path / "cv" / "folds.json")
    write_json(tmp_path / "cv" / "folds.json", done | {"summary": {}})
    write_folder(folder, rows[:-1], pictures=False)
    assert train_on(folder, tmp_path / "cv", *folds, "--resume") == 1
    assert "`posts, labels or splits` is not what it was" in capsys.readouterr().err
    write_folder(folder, rows, pictures=False)
    assert train_on(folder, tmp_path / "cv", *folds, "--resume", "--set", "learner_dropout=0.9") == 1
    assert "`learner_dropout` is not what it was" in capsys.readouterr().err
    assert train_on(folder, tmp_path / "cv", *folds, "--resume") == 0
    assert read_json(tmp_path / "cv" / "folds.json")["summary"] == done["summary"]


def test_a_run_that_takes_the_place_of_the_one_it_began_from_knows_what_that_learned(tmp_path):
    first = write_folder(tmp_path / "first", ROWS, pictures=False)
    rows = [row | {"text": f"others {i}"} for i, row in enumerate(ROWS)]
    second, run = write_folder(tmp_path / "second", rows, pictures=False), tmp_path / "run"
    options = ("--labels", "mood", "--image-column", "none", "--epochs", 1)
    assert train_on(first, run, *options) == 0
    learned = {key for key, split in read_splits(str(run)).items() if split == "train"}
    assert train_on(second, run, *options, "--init-from", run, "--overwrite") == 0
    now = read_splits(str(run))
    assert len(learned) == 12 and all(now[key] == "train" for key in learned) and len(now) == 12 + 20


def test_an_encoder_whose_files_changed_is_not_resumed_with(interrupted, tmp_path, capsys):
    _, go_on = interrupted
    (tmp_path / "vision" / "notes.md").write_text("changes nothing")
    weights = tmp_path / "text" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\0\0\0\0")
    assert go_on() == 1 and "`text encoder` is not what it was" in capsys.readouterr().err
    weights.write_bytes(before)
    assert go_on() == 0


def test_a_run_of_a_version_that_digested_otherwise_is_gone_on_with(interrupted, tmp_path, capsys):
    _, go_on = interrupted
    run = read_json(tmp_path / "run" / "run.json")
    run["made_of"] |= {"text encoder": "of old", "vision encoder": "of old"}
    del run["made_of"]["form"]
    write_json(tmp_path / "run" / "run.json", run)
    assert go_on("--set", "learner_dropout=0.9") == 1 and "cannot resume" in capsys.readouterr().err
    assert go_on() == 0


def test_arrays_that_changed_are_not_resumed_on(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts", ROWS, pictures=False)
    arrays = {"region_features": np.ones((20, 2, 4), np.float32), "token_features": np.ones((20, 3, 4), np.float32)}
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
    given = [f"{name}={tmp_path / name}.npy" for name in arrays]
    options = ("--labels", "mood", "--image-column", "none", "--epochs", 1, "--feature-arrays", *given)
    assert train_on(folder, tmp_path / "run", *options) == 0
    (tmp_path / "run" / "config.json").unlink()
    np.save(tmp_path / "token_features.npy", 2 * arrays["token_features"])
    assert train_on(folder, tmp_path / "run", *options, "--resume") == 1
    assert "`array of token_features` is not what it was" in capsys.readouterr().err
