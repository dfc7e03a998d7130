"""How tasks are learned, where a configuration says it."""

import json

import pytest

from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.runs.preset_files import load_preset, with_architecture
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
        ([{"name": "mood"}, {"name": "mood"}], "has 'mood' twice"),
        ([{"name": "mood", "class_weights": {"c": 2}}], "'c' is no label of it; there are a, b"),
        (None, "must be a list of settings by task"),
        ({"mood": 1}, "must be a list of settings by task"),
    ):
        with pytest.raises(ValueError, match=message):
            settings_of_tasks(NO_PRESET, {"tasks": said}, TASKS)
    assert settings_of_tasks(NO_PRESET, {}, TASKS) == {}


def test_weights_of_classes_go_by_name():
    for said, weights in (
        ({"class_weights": [1, 9]}, [1, 9]),
        ({"class_weights": {"b": 9}}, [1.0, 9]),
        ({"class_weights": [1, 9], "labels": ["b", "a"]}, [9, 1]),
    ):
        preset = {"config": {"tasks": [{"name": "mood"} | said]}}
        assert settings_of_tasks(preset, {}, TASKS) == {"mood": {"class_weights": weights}}
    for labels in (["a", "c"], ["a", "b", "c"]):
        preset = {"config": {"tasks": [{"name": "mood", "labels": labels, "class_weights": [1, 2]}]}}
        with pytest.raises(ValueError, match="`class_weights` of 'mood' are not for its labels a, b"):
            settings_of_tasks(preset, {}, TASKS)


@pytest.mark.parametrize(
    "said", [5, ["mood"], [{"focal_gamma": 2}], {"mood": 1}, [{"name": "mood", "labels": 5, "class_weights": [1, 2]}]]
)
def test_a_preset_of_another_form_is_told(said):
    with pytest.raises(ValueError, match="must be a list of"):
        settings_of_tasks({"config": {"tasks": said}}, {}, TASKS)


def test_settings_of_tasks_are_no_architecture():
    only = {part: {} for part in load_preset()} | {"config": {"tasks": TASKS, "task_loss_weighting": "given"}}
    found = with_architecture(only)
    assert found["config"] == load_preset("modern")["config"] | only["config"]


def test_a_checkpoint_that_is_gone_on_from_keeps_them(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts", ROWS, pictures=False)
    more = write_folder(
        tmp_path / "more", [row | {"text": f"others {i}"} for i, row in enumerate(ROWS)], pictures=False
    )
    said = 'tasks=[{"name": "mood", "loss_weight": 3, "focal_gamma": 2, "class_weights": {"b": 2}}]'
    options = ("--epochs", 1, "--labels", "mood", "tone")
    given = ("--preset", "tiny", "--set", "task_loss_weighting=given", said)
    assert train_on(folder, tmp_path / "run", *options, *given) == 0
    onward = ("--init-from", tmp_path / "run", "--set", 'tasks=[{"name": "tone", "loss_weight": 5}]')
    assert train_on(more, tmp_path / "next", *options, *onward) == 0, capsys.readouterr().err
    mood, tone = read_json(tmp_path / "next" / "config.json")["tasks"]
    assert (mood["loss_weight"], mood["focal_gamma"], mood["class_weights"]) == (3, 2, [1.0, 2])
    assert (tone["loss_weight"], tone["focal_gamma"]) == (5, 0.0)
    (tmp_path / "p.json").write_text('{"config": {"label_smoothing": 0.2, "task_loss_weighting": "uniform"}}')
    onward = ("--init-from", tmp_path / "run", "--preset", tmp_path / "p.json")
    plain = ("--set", 'tasks=[{"name": "mood", "loss_weight": 1}]')
    assert train_on(more, tmp_path / "third", *options, *onward, *plain) == 0, capsys.readouterr().err
    config = read_json(tmp_path / "third" / "config.json")
    assert (config["label_smoothing"], config["task_loss_weighting"]) == (0.2, "uniform")
    twice = 'tasks=[{"name": "mood", "class_weights": {"a": 2, "a": 3}}]'
    assert train_on(more, tmp_path / "none", *options, "--preset", "tiny", "--set", twice) == 1
    assert "'a' stands there twice" in capsys.readouterr().err


def test_a_presets_settings_of_other_tasks_are_told(caplog):
    preset = {"config": {"tasks": [{"name": "gone", "focal_gamma": 2}, {"name": "example", "labels": ["a"]}]}}
    assert settings_of_tasks(preset, {}, TASKS) == {}
    assert "'gone'" in caplog.text and "example" not in caplog.text


def test_an_encoder_without_a_configuration_is_told(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts", ROWS, pictures=False)
    options = ("--labels", "mood", "--preset", "tiny", "--epochs", 1, "--set")
    assert train_on(folder, tmp_path / "run", *options, "text_config=null") == 1
    assert "`text_config` must describe an encoder" in capsys.readouterr().err
