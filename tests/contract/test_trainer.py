"""Plain `transformers.Trainer` and ours: labels, metrics, accumulation, learning rates."""

import os

import pytest
import torch
import torch.multiprocessing as multiprocessing
from transformers import Trainer

from modeling_mm_orient import MMOrientForMultiTaskClassification
from modeling_mm_orient.features.collation import ReadAheadLoader
from modeling_mm_orient.runs.trainer import MMOrientTrainer, MMOrientTrainingArguments

from ..helpers import TASKS, free_port, leave, small_towers, tiny_model, trained, trainer_arguments, training_posts

STEPS = {"max_steps": 4, "learning_rate": 0.05, "logging_steps": 1}


def test_plain_trainer_trains_and_evaluates_every_task(tmp_path):
    data = training_posts()
    trainer = trained(tmp_path, data, max_steps=60, optim="adamw_torch", learning_rate=1e-2)
    metrics = trainer.evaluate()
    assert {
        "eval_loss",
        "eval_mean_macro_f1",
        "eval_offensive_macro_f1",
        "eval_emotions_auroc",
        "eval_intensity_mse",
    } <= set(metrics)
    assert metrics["eval_mean_macro_f1"] > 0.95 and metrics["eval_intensity_mse"] < 0.1
    assert not [name for name in metrics if "majority" in name or "posts" in name]  # constants of the data
    prediction = trainer.predict(data)
    assert prediction.predictions["emotions"].shape == prediction.label_ids["emotions"].shape == (12, 3)


@pytest.mark.parametrize("kind", [Trainer, MMOrientTrainer])
def test_accumulation_equals_one_big_batch(tmp_path, kind):
    # without edges and batch bias posts do not see each other, so both must take the same step
    options = {"hima_stage2": False, "image_threshold": 1.0, "text_threshold": 1.0}
    data, start = training_posts(missing=False), tiny_model(**options)
    whole = trained(tmp_path, data, tiny_model(**options), kind).model
    parts = trained(
        tmp_path, data, tiny_model(**options), kind, per_device_train_batch_size=3, gradient_accumulation_steps=4
    ).model
    for (name, first), second, before in zip(
        whole.named_parameters(), parts.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(second, first, atol=1e-7, rtol=1e-5, msg=name)
        assert not torch.equal(first, before), name


def test_task_losses_are_logged(tmp_path):
    trainer = trained(tmp_path, training_posts(), kind=MMOrientTrainer, max_steps=2, logging_steps=1)
    for entry in trainer.state.log_history[:2]:
        parts = [entry[f"loss_{task['name']}"] for task in TASKS]
        assert sum(parts) == pytest.approx(entry["loss"], rel=1e-3)


def test_reading_ahead_changes_no_step(tmp_path):
    runs = [
        trained(
            tmp_path,
            training_posts(14),
            tiny_model(
                learner_dropout=0.3
            ).for_cpu(),  # as ours does: its products are rounded otherwise on some processors
            kind,
            **STEPS,
            per_device_train_batch_size=4,
        )
        for kind in (Trainer, MMOrientTrainer)
    ]
    loaders = runs[1].get_train_dataloader(), runs[1].get_eval_dataloader()
    assert all(type(loader.base_dataloader) is ReadAheadLoader for loader in loaders)
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in runs]
    assert len(losses[0]) == 4 and losses[0] == losses[1]
    plain, ahead = (
        {name: value for name, value in run.evaluate().items() if not name.endswith(("_runtime", "_per_second"))}
        for run in runs
    )
    assert plain == pytest.approx(ahead, rel=0, abs=0, nan_ok=True)
    for first, second in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_encoders_have_their_own_learning_rate(tmp_path):
    model = MMOrientForMultiTaskClassification(small_towers(frozen_encoders=["joint", "vision"]))
    args = trainer_arguments(tmp_path, MMOrientTrainingArguments, encoder_learning_rate=1e-6, weight_decay=0.1)
    trainer = MMOrientTrainer(model=model, args=args, train_dataset=[])
    optimizer = trainer.create_optimizer()
    rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert rates.pop(id(value)) == (1e-6 if "text_encoder" in name else 1e-3), name
    assert not rates
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


def train_in_a_process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    trainer = trained(
        f"{folder}/{rank}", training_posts(16), kind=MMOrientTrainer, **STEPS, per_device_train_batch_size=4
    )
    torch.save((trainer.model.state_dict(), trainer.state.log_history), f"{folder}/{rank}.pt")
    leave()


def test_the_trainer_in_two_processes_equals_one_with_twice_the_batch(tmp_path):
    multiprocessing.spawn(train_in_a_process, (free_port(), str(tmp_path)), nprocs=2)
    one = trained(tmp_path, training_posts(16), kind=MMOrientTrainer, **STEPS, per_device_train_batch_size=8)
    state, history = torch.load(tmp_path / "0.pt")
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-4, msg=name)
    for found, expected in zip(history[:4], one.state.log_history[:4], strict=True):
        for name in ("loss", "loss_offensive", "loss_emotions", "loss_intensity"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4)
