"""How tasks are learned, where a configuration says it."""

import json

import pytest

from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.runs.task_settings import settings_of_tasks

from .helpers import train_on, write_folder

ROWS = [
    {"image": "", "text": f"words {i}", "mood": "ab"[i % 2], "tone": "xyx"[i % 3], "split": split}
    for i, split in enumerate(["train"] * 10 + ["val"] * 4 + ["test"] * 4)
]
TASKS = [{"name": "mood", "labels": ["a", "b"]}, {"name": "tone", "labels": ["x", "y"]}]
NO_PRESET = {"config": {}}


def test_a_preset_and_what_is_said_come_to_a_run(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts", ROWS, pictures=False)
    tiny = {"config": {"tasks": [{"name": "mood", "labels": ["b", "a"], "focal_gamma": 2.0}, {"name": "other"}]}}
    (tmp_path / "focal.json").write_text(json.dumps(tiny))
    said = 'tasks=[{"name": "tone", "loss_weight": 5}, {"name": "mood", "class_weights": [1, 3]}]'
    options = ("--labels", "mood", "tone", "--epochs", 1, "--preset", "tiny", tmp_path / "focal.json", "--set", said)
    assert train_on(folder, tmp_path / "run", *options) == 1
    assert "`loss_weight` counts where `task_loss_weighting` is 'given'" in capsys.readouterr().err
    assert train_on(folder, tmp_path / "run", *options, "task_loss_weighting=given", "--class-weights", "balanced") == 0
    mood, tone = read_json(tmp_path / "run" / "config.json")["tasks"]
    assert (mood["labels"], mood["focal_gamma"], mood["loss_weight"]) == (["a", "b"], 2.0, 1.0)
    assert mood["class_weights"] == [1, 3]  # what is said counts more than what is balanced
    assert (tone["loss_weight"], tone["focal_gamma"]) == (5, 0.0) and tone["class_weights"] is not None
    (tmp_path / "run" / "config.json").unlink()
    assert train_on(folder, tmp_path / "run", *options[:-1], "task_loss_weighting=given", "--resume") == 1
    assert "cannot resume" in capsys.readouterr().err


def test_what_the_data_say_is_not_said_again():
    for said, message in (
        ([{"name": "moods", "focal_gamma": 1}], "'moods' is no task of the data; there are mood, tone"),
        ([{"name": "mood", "labels": ["c"]}], "can be set, not `labels`: that the data say"),
        ([{"focal_gamma": 1}], "must be a list of settings by task"),
        (None, "must be a list of settings by task"),
        ({"mood": 1}, "must be a list of settings by task"),
    ):
        with pytest.raises(ValueError, match=message):
            settings_of_tasks(NO_PRESET, {"tasks": said}, TASKS)
    assert settings_of_tasks(NO_PRESET, {}, TASKS) == {}


def test_a_presets_settings_of_other_tasks_are_told(caplog):
    preset = {"config": {"tasks": [{"name": "gone", "focal_gamma": 2}, {"name": "example", "labels": ["a"]}]}}
    assert settings_of_tasks(preset, {}, TASKS) == {}
    assert "'gone'" in caplog.text and "example" not in caplog.text


def test_an_encoder_without_a_configuration_is_told(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts", ROWS, pictures=False)
    options = ("--labels", "mood", "--preset", "tiny", "--epochs", 1, "--set")
    assert train_on(folder, tmp_path / "run", *options, "text_config=null") == 1
    assert "`text_config` must describe an encoder" in capsys.readouterr().err
