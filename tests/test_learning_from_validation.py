"""Validation posts that are learned from: each is judged by the member that left it out, and none passes for unseen."""

import json

import numpy as np
import pytest
import torch

from modeling_mm_orient.cli import main
from modeling_mm_orient.pictures import key_number
from modeling_mm_orient.relation_memory import RelationMemory
from modeling_mm_orient.runs.trainer import left_out_logits

from .helpers import save_encoders, write_folder


def posts(with_test: bool = True) -> list[dict]:
    rows = [
        {
            "image": f"{i}.png",
            "text": f"{'good' if i % 2 else 'bad'} caption {i}",
            "split": "train" if i < 30 else "validation" if i < 42 else "test",
            "mood": ["sad", "happy"][i % 2],
        }
        for i in range(54)
    ]
    return rows if with_test else [row for row in rows if row["split"] != "test"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cross_fitted")


@pytest.fixture(scope="module")
def encoders(place):
    return save_encoders(place)


def train(place, encoders, name: str, *options: str, rows=None) -> dict:
    data = write_folder(place / f"data_{name}", posts() if rows is None else rows)
    command = ["train", "--data", str(data), "--labels", "mood", "--split-column", "split", *encoders, *options]
    command += ["--output", str(place / name), "--epochs", "2", "--feature-cache", str(place / "cache")]
    assert main(command) == 0
    return json.loads((place / name / "metrics.json").read_text())


def splits_of(run) -> list[str]:
    return sorted(set(json.loads((run / "splits.json").read_text()).values()))


def test_the_default_learns_from_validation_posts_and_says_so(place, encoders, capsys):
    metrics = train(place, encoders, "run")
    run = place / "run"
    assert splits_of(run) == ["test", "train"]
    memory = RelationMemory.load(run)
    assert len(memory) == 42
    known = {int(key) for key in memory.keys}
    assert {
        key_number(key) for key, split in json.loads((run / "splits.json").read_text()).items() if split == "train"
    } == known
    with np.load(run / "held_out.npz") as found:
        assert found["label.mood"].shape == (12, 2) and metrics["validation"]["mood"]["posts"] == 12
    assert main(["evaluate", str(run), "--data", str(place / "data_run"), "--split", "validation"]) == 1
    assert "the run knows all of them" in capsys.readouterr().err
    command = ["evaluate", str(run), "--data", str(place / "data_run"), "--split", "test"]
    assert main([*command, "--json", str(place / "m.json")]) == 0
    again = json.loads((place / "m.json").read_text())["mood"]
    assert again["macro_f1"] == pytest.approx(metrics["test"]["mood"]["macro_f1"])
    assert again["auroc"] == pytest.approx(metrics["test"]["mood"]["auroc"])


def test_where_nobody_could_judge_them_they_are_left(place, encoders):
    for name, options, rows in (
        ("alone", ["--set", "members=1"], None),
        ("trained", ["--train-encoders", "text"], None),
        ("no_test", [], posts(with_test=False)),
    ):
        train(place, encoders, name, *options, rows=rows)
        assert "validation" in splits_of(place / name) and not (place / name / "held_out.npz").exists()


def test_a_post_is_judged_by_the_member_that_left_it_out():
    members = {"x": torch.arange(3.0)[:, None, None].expand(3, 4, 2), "y": torch.arange(3.0)[:, None].expand(3, 4)}
    found = left_out_logits(members, torch.tensor([3, 4, 5, 6]))
    assert found["x"].tolist() == [[0, 0], [1, 1], [2, 2], [0, 0]] and found["y"].tolist() == [0, 1, 2, 0]


def test_an_epoch_is_chosen_by_members_that_left_posts_out(place, encoders, monkeypatch):
    from modeling_mm_orient.runs import trainer

    judged = []
    plain = trainer.left_out_logits
    monkeypatch.setattr(trainer, "left_out_logits", lambda *said: judged.append(len(said[1])) or plain(*said))
    train(place, encoders, "watched")
    assert sum(judged) == 2 * 12  # the validation posts of each epoch, and no test post
