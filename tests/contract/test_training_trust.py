"""Training learns from the first step, goes on as if never stopped, and an evaluation scores what it has not seen."""

import json
import os
import shutil

import datasets
import numpy as np
import pyarrow.csv
import pytest
import torch
from transformers import TrainerCallback

from modeling_mm_orient import MMOrientConfig, MMOrientForMultiTaskClassification
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.labels import label_column
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.pictures import key_number
from modeling_mm_orient.runs import training
from modeling_mm_orient.runs.demo import make_memes
from modeling_mm_orient.runs.evaluation import evaluate
from modeling_mm_orient.runs.memory import add_to_memory, build_memory
from modeling_mm_orient.runs.preset_files import load_preset
from modeling_mm_orient.runs.settings import TrainingSettings
from modeling_mm_orient.runs.trainer import MMOrientTrainer, MMOrientTrainingArguments
from modeling_mm_orient.tasks import SINGLE_LABEL

from ..helpers import repeatable, tiny_model


@pytest.fixture(scope="module")
def memes(tmp_path_factory):
    return make_memes(tmp_path_factory.mktemp("memes"), 60)


def settings(**fields) -> TrainingSettings:
    return TrainingSettings(**load_preset("tiny")["training"] | {"epochs": 4, "patience": 0} | fields)


def described(memes, **fields) -> DataDescription:
    return DataDescription(str(memes), labels=["humour", "offensive"], **{"split_column": "split"} | fields)


def weights(run) -> dict[str, torch.Tensor]:
    return dict(MMOrientForMultiTaskClassification.from_pretrained(run).state_dict())


def test_one_step_learns(memes, tmp_path):
    one = {"epochs": 1, "batch_size": 64, "seed": 3}
    training.train(described(memes), str(tmp_path / "run"), settings=settings(**one))
    still = {"learning_rate": 0.0, "encoder_learning_rate": 0.0}
    training.train(described(memes), str(tmp_path / "twin"), settings=settings(**one, **still))
    moved = {
        name
        for name, value in weights(tmp_path / "run").items()
        if not torch.equal(value, weights(tmp_path / "twin")[name])
    }
    assert any("learner" in name for name in moved) and any("task_heads" in name for name in moved)


@pytest.mark.parametrize("posts, batch_size", [(6, 32), (33, 32), (100, 32), (5000, 32)])
@pytest.mark.parametrize("epochs, warmup", [(1, 0.1), (10, 0.1), (40, 0.5)])
def test_no_epoch_warms_up_alone(tmp_path, posts, batch_size, epochs, warmup):
    of_run = settings(epochs=epochs, batch_size=batch_size, warmup=warmup)
    arguments = training.training_arguments(tmp_path, of_run, posts)
    per_epoch = -(-posts // batch_size)
    assert arguments.warmup_steps == min(int(warmup * epochs * per_epoch), per_epoch - 1)


class Stopped(BaseException):
    pass


class StopAfter(TrainerCallback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_begin(self, args, state, control, **kwargs):
        if round(state.epoch or 0) == self.epochs:
            raise Stopped


WAYS = {"plain": {}, "augmented": {"augment_images": True}, "patience": {"patience": 2, "epochs": 9}}
SLOW_WAYS = [pytest.param(way, marks=pytest.mark.slow) for way in ("augmented", "patience")]


@repeatable
@pytest.mark.parametrize("way", ["plain", *SLOW_WAYS])
def test_resumed_is_as_if_never_stopped(memes, tmp_path, monkeypatch, way):
    chosen = settings(**WAYS[way])
    training.train(described(memes), str(tmp_path / "whole"), settings=chosen)
    create = training.MMOrientTrainer

    def stopping(*args, callbacks, **kwargs):
        return create(*args, callbacks=[*callbacks, StopAfter(2)], **kwargs)

    monkeypatch.setattr(training, "MMOrientTrainer", stopping)
    with pytest.raises(Stopped):
        training.train(described(memes), str(tmp_path / "parts"), settings=chosen)
    monkeypatch.setattr(training, "MMOrientTrainer", create)
    training.train(described(memes), str(tmp_path / "parts"), settings=chosen, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_an_evaluation_scores_what_was_not_learned_from(memes, tmp_path, caplog):
    shutil.copytree(memes, tmp_path / "data")
    text = (tmp_path / "data" / "labels.csv").read_text().splitlines()
    columns = text[0].split(",")
    place = columns.index("split")
    import csv

    with (tmp_path / "data" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "data" / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [c for c in columns if c != "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert place
    data = described(tmp_path / "data", split_column=None)
    metrics = training.train(data, str(tmp_path / "run"), settings=settings(epochs=2))
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert len(splits) == 60 and set(splits.values()) == {"train", "validation", "test"}
    with caplog.at_level("INFO"):
        again = evaluate(str(tmp_path / "run"), data, split="test")
    assert again["humour"]["posts"] == metrics["test"]["humour"]["posts"]
    assert again["humour"]["macro_f1"] == pytest.approx(metrics["test"]["humour"]["macro_f1"])
    assert "posts left out that the run has learned from" in caplog.text and "posts scored" in caplog.text
    learned = evaluate(str(tmp_path / "run"), data, split="test", known=True)
    assert learned["humour"]["posts"] > 3 * again["humour"]["posts"]

    make_memes(tmp_path / "others", 20, seed=9)
    table = tmp_path / "others" / "labels.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [c for c in columns if c != "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    others = evaluate(str(tmp_path / "run"), described(tmp_path / "others", split_column=None), split="test")
    known = sum(row["humour"] != "" for row in rows)
    assert others["humour"]["posts"] == known  # all are new: all are scored
    with pytest.raises(ValueError, match="no post to score"):
        evaluate(str(tmp_path / "run"), described(tmp_path / "others", split_column=None), split="test", known=True)


def test_an_evaluation_writes_where_the_caller_says(memes, tmp_path):
    training.train(described(memes), str(tmp_path / "run"), settings=settings(epochs=1))
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"feature_cache": str(tmp_path / "elsewhere")}))
    cache = tmp_path / "cache"
    arguments = ["evaluate", str(tmp_path / "run"), "--data", str(memes), "--feature-cache", str(cache)]
    assert main(arguments) == 0
    assert cache.is_dir() and not (tmp_path / "elsewhere").exists()


def without_splits(folder, count: int, **fields):
    make_memes(folder, count, **fields)
    table = pyarrow.csv.read_csv(folder / "labels.csv")
    table = table.drop_columns(["split", *({"id"} & set(table.column_names))])
    table = table.append_column("id", [[f"{folder.name} {number}" for number in range(count)]])
    pyarrow.csv.write_csv(table, folder / "labels.csv")
    return described(folder, split_column=None)


def test_what_the_memory_holds_is_known_too(tmp_path, caplog):
    data = without_splits(tmp_path / "data", 40)
    run = str(tmp_path / "run")
    training.train(data, run, settings=settings(epochs=1))
    memory, _ = build_memory(run, data, split="train")  # the split that the run drew
    drawn = json.loads((tmp_path / "run" / "splits.json").read_text())
    of_train = {key_number(key) for key, split in drawn.items() if split == "train"}
    assert set(memory.keys.tolist()) == of_train
    others = without_splits(tmp_path / "others", 20, seed=9)
    before = evaluate(run, others)["offensive"]["posts"]
    few = without_splits(tmp_path / "few", 20, seed=9)
    rows = pyarrow.csv.read_csv(tmp_path / "few" / "labels.csv")
    pyarrow.csv.write_csv(rows.slice(0, 8), tmp_path / "few" / "labels.csv")
    add_to_memory(run, few)
    with caplog.at_level("INFO"):
        after = evaluate(run, others)["offensive"]["posts"]
    assert after < before and "8 posts left out that the run has in its relation memory" in caplog.text
    assert evaluate(run, others, known=True)["offensive"]["posts"] == before - after


def test_a_part_under_its_own_name_is_evaluated(memes, tmp_path):
    training.train(described(memes), str(tmp_path / "run"), settings=settings(epochs=1))
    posts = read_posts(without_splits(tmp_path / "new", 12, seed=5))[0]
    posts = datasets.concatenate_datasets(list(posts.values()))
    names = {label_column(name): name for name in ("humour", "offensive")}
    parts = datasets.DatasetDict({"dev_seen": posts.select(range(5)), "dev_unseen": posts.select(range(5, 12))})
    parts.rename_columns(names).save_to_disk(str(tmp_path / "parts"))
    of_parts = DataDescription(str(tmp_path / "parts"), labels=["humour", "offensive"])
    given = sum(value is not None for value in parts["dev_unseen"][label_column("offensive")])
    assert evaluate(str(tmp_path / "run"), of_parts, split="dev_unseen")["offensive"]["posts"] == given


def test_two_trainings_of_one_output(memes, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / training.LOCK_FILE), pytest.raises(FileExistsError, match="another process"):
        training.train(described(memes), str(tmp_path / "run"), settings=settings(epochs=1))
    assert os.listdir(tmp_path / "run") in ([], [training.LOCK_FILE])


def test_arrays_alone_with_a_preset_of_encoders(tmp_path):
    count = 40
    generator = np.random.default_rng(0)
    arrays = {"region_features": (count, 4, 1280), "token_features": (count, 5, 24)}
    for name, shape in arrays.items():
        np.save(tmp_path / f"{name}.npy", generator.normal(size=shape).astype(np.float32))
    lines = ["id,text,mood,split"]
    lines += [
        f"{n},t{n},{'ab'[n % 2]},{'train' if n < 24 else 'validation' if n < 32 else 'test'}" for n in range(count)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines) + "\n")
    none = [f"--{role}-encoder=none" for role in ("joint", "text", "vision")]
    given = [f"{name}={tmp_path / name}.npy" for name in arrays]
    arguments = ["train", "--preset", "modern", *none, "--data", str(tmp_path / "data"), "--labels", "mood"]
    arguments += [
        "--split-column",
        "split",
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "run"),
        "--feature-arrays",
        *given,
    ]
    assert main(arguments) == 0
    assert MMOrientConfig.from_pretrained(tmp_path / "run").image_embed_dim == 1280


def test_what_belongs_to_one_task_is_refused(tmp_path):
    arguments = MMOrientTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="`label_smoothing_factor` is of a single task"):
        MMOrientTrainer(tiny_model(), arguments)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_a_focal_loss_of_a_post_that_is_certain_has_a_slope(gamma):
    logits = torch.tensor([[200.0, -200.0], [0.0, 0.0]], requires_grad=True)
    losses, _ = SINGLE_LABEL.losses(logits, torch.tensor([0, 1]), None, gamma)
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad.isfinite().all()
    assert logits.grad[1].abs().sum() > 0.1
