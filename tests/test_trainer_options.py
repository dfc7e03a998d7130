"""Options of the Trainer on the command line of `train`: parsed when it runs, refused before any data are read."""

import pytest
import torch
from transformers import ProgressCallback, TrainerCallback

from modeling_mm_orient import MMOrientClassifier
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.runs import training
from modeling_mm_orient.runs.preset_files import load_preset
from modeling_mm_orient.runs.scoring import epoch_metrics
from modeling_mm_orient.runs.settings import TrainingSettings
from modeling_mm_orient.runs.trainer import CrossFittedTrainer, MMOrientTrainer, MMOrientTrainingArguments
from modeling_mm_orient.runs.trainer_options import DECIDED, help_text, trainer_settings

from .helpers import ROWS, TASKS, feature_batch, label_batch, tiny_model, write_folder

COMMAND = ["--labels", "mood", "--split-column", "split", "--epochs", "1", "--batch-size", "4"]


def train(folder, output, *options) -> int:
    return main(["train", "--data", str(folder), "--output", str(output), *COMMAND, *options])


def test_options_come_with_their_types():
    said = trainer_settings(
        ["--report-to", "none", "--max-grad-norm", "0.5", "--gradient-accumulation-steps", "3"],
        {
            "lr-scheduler-type": ["cosine"],
            "lr-scheduler-kwargs": ['{"num_cycles": 2}'],
            "dataloader-drop-last": ["true"],
        },
    )
    assert said == {
        "accumulation": 3,
        "trainer": {
            "report_to": ["none"],
            "max_grad_norm": 0.5,
            "lr_scheduler_type": "cosine",
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "dataloader_drop_last": True,
        },
    }


@pytest.mark.parametrize("name", sorted(DECIDED))
def test_what_is_ours_to_decide_is_refused_with_the_reason(name):
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"{option} is not yours to say: "):
        trainer_settings([option, "1"])
    assert f"{option} " not in help_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reprot-to", "tensorboard"], "did you mean --report-to?"),
        (["--epoch-s", "3"], "did you mean --epochs?"),
        (["--weight-decay", "inf"], "`weight_decay` must be a number and not negative, got inf"),
        (["--learning-rate", "nan"], "`learning_rate` must be a number"),
        (["--max-grad-norm", "nan"], "`max_grad_norm` must be a number"),
        (["--max-grad-norm", "much"], "invalid float value: 'much'"),
        (["--report-to", "nobody"], "--report-to nobody: there is no such reporter"),
        (["--lr-scheduler-type", "zigzag"], "invalid choice: 'zigzag'"),
        (["--gradient-accumulation-steps", "2", "--accumulation", "3"], "are one: give one of them"),
        (["--optim", "adafactor", "--deepspeed", "no-such-file.json"], "deepspeed"),
    ],
)
def test_a_wrong_option_is_told_before_data_are_read(tmp_path, capsys, options, message):
    assert train(tmp_path / "nowhere", tmp_path / "run", *options) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_metric_that_is_none_is_refused(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts")
    assert train(folder, tmp_path / "run", "--metric-for-best-model", "mood_macrof1") == 1
    assert "did you mean 'mood_macro_f1'?" in capsys.readouterr().err


def test_tensorboard_is_reported_to_and_the_run_remembers(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="events are written by tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, options = (
        write_folder(tmp_path / "posts"),
        ["--report-to", "tensorboard", "--metric-for-best-model", "loss"],
    )
    assert train(folder, tmp_path / "run", *options) == 0
    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert {"train/loss_mood", "eval/mood_macro_f1", "eval/mean_macro_f1"} <= set(events.Tags()["scalars"])
    assert not [name for name in events.Tags()["scalars"] if "majority" in name or "posts" in name]
    assert read_json(tmp_path / "run" / "run.json")["training"]["trainer"] == {
        "report_to": ["tensorboard"],
        "metric_for_best_model": "loss",
    }
    assert "majority_macro_f1" in read_json(tmp_path / "run" / "metrics.json")["test"]["mood"]
    (tmp_path / "run" / "config.json").unlink()  # as if it had been interrupted
    capsys.readouterr()
    assert train(folder, tmp_path / "run", "--resume", "--max-grad-norm", "2") == 1
    assert "`trainer` was" in capsys.readouterr().err


def test_arguments_of_the_trainer(tmp_path):
    def of(**trainer):
        return training.training_arguments(tmp_path, TrainingSettings(trainer=trainer), 100)

    assert of(metric_for_best_model="mood_mse").greater_is_better is False
    assert of(metric_for_best_model="mood_auroc").greater_is_better is True
    assert of(logging_steps=5).logging_strategy == "steps" and of().logging_strategy == "epoch"


def test_metrics_of_an_epoch_are_those_that_change():
    names = epoch_metrics(TASKS)
    assert "offensive_macro_f1" in names and "intensity_mse" in names and "mean_macro_f1" in names
    assert not [name for name in names if "majority" in name or "posts" in name or "mean_predictor" in name]


class NotebookProgressCallback(TrainerCallback):
    """In the place of transformers', which needs IPython."""


@pytest.mark.parametrize("notebook", [True, False])
def test_a_notebook_has_its_own_bar_alone(tmp_path, monkeypatch, notebook):
    import transformers.trainer as of_transformers

    if notebook:
        monkeypatch.setattr(of_transformers, "DEFAULT_PROGRESS_CALLBACK", NotebookProgressCallback)
    found = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    class Seen(training.MMOrientTrainer):
        def train(self, **kwargs):
            found.extend(self.callback_handler.callbacks)
            self.add_callback(Look)
            return super().train(**kwargs)

    monkeypatch.setattr(training, "MMOrientTrainer", Seen)
    assert train(write_folder(tmp_path / "posts"), tmp_path / "run") == 130
    bars = [type(entry).__name__ for entry in found if isinstance(entry, (ProgressCallback, NotebookProgressCallback))]
    assert bars == (["NotebookProgressCallback"] if notebook else ["EpochLines"])


def test_what_an_epoch_is_kept_by(tmp_path):
    def of(**settings):
        found = training.training_arguments(tmp_path, TrainingSettings(**settings), 100)
        return found.metric_for_best_model, found.greater_is_better

    assert of() == ("mean_macro_f1", True) and of(keep_epoch_by="loss") == ("loss", False)
    assert of(keep_epoch_by="loss", trainer={"metric_for_best_model": "mood_auroc"}) == ("mood_auroc", True)
    assert load_preset("modern")["training"]["keep_epoch_by"] == "loss"


def test_an_epoch_is_kept_by_a_metric_of_the_tasks(tmp_path, capsys):
    assert train(write_folder(tmp_path / "posts"), tmp_path / "run", "--keep-epoch-by", "mood_f1") == 1
    assert (
        "`keep_epoch_by` 'mood_f1' is no metric of these tasks; did you mean 'mood_macro_f1'?"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_one_metric_is_said_once(tmp_path, capsys):
    folder, both = (
        write_folder(tmp_path / "posts"),
        ["--keep-epoch-by", "mean_macro_f1", "--metric-for-best-model", "loss"],
    )
    assert train(folder, tmp_path / "run", *both) == 1
    assert "`keep_epoch_by` and `metric_for_best_model` are one" in capsys.readouterr().err
    with pytest.raises(ValueError, match="are one"):
        MMOrientClassifier(keep_epoch_by="mean_macro_f1", metric_for_best_model="eval_loss")
    assert train(folder, tmp_path / "run", "--keep-epoch-by", "loss", "--greater-is-better", "true") == 1
    assert "`greater_is_better` is of `metric_for_best_model`" in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_epochs_as_it_is_told(tmp_path):
    folder = write_folder(tmp_path / "posts")
    assert train(folder, tmp_path / "run", "--metric-for-best-model", "mood_auroc") == 0
    assert train(folder, tmp_path / "on", "--init-from", str(tmp_path / "run"), "--keep-epoch-by", "loss") == 0
    said = read_json(tmp_path / "on" / "run.json")["training"]
    assert said["keep_epoch_by"] == "loss" and not said["trainer"]


@pytest.mark.parametrize("members", [1, 2])
def test_learned_weights_of_tasks_are_no_part_of_what_an_epoch_is_kept_by(members):
    model = tiny_model(task_loss_weighting="uncertainty", members=members)
    kind = CrossFittedTrainer if members > 1 else MMOrientTrainer
    batch = feature_batch() | {"post_keys": torch.arange(1, 10), "labels": label_batch()}
    trainer = kind(model=model, args=MMOrientTrainingArguments(report_to="none", use_cpu=True))
    trainer._evaluates = True
    losses = []
    for value in (0.0, -1.0):
        for heads in model.member_heads:
            torch.nn.init.constant_(heads.log_variances, value)
        losses.append(trainer.prediction_step(model.eval(), batch, False)[0])
    torch.testing.assert_close(*losses)


def test_a_last_batch_that_is_dropped_is_one_of_training(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts")
    options = ("--batch-size", 4, "--dataloader-drop-last", "true")
    assert train(folder, tmp_path / "run", *map(str, options)) == 0
    sizes = read_json(tmp_path / "run" / "run.json")["splits"]
    assert read_json(tmp_path / "run" / "metrics.json")["validation"]["mood"]["posts"] == sizes["validation"] < 4
    assert train(folder, tmp_path / "none", "--batch-size", "64", "--dataloader-drop-last", "true") == 1
    assert "training posts are fewer than a batch of 64" in capsys.readouterr().err


def test_a_run_of_values_alone_tells_its_error(tmp_path, capsys):
    folder = write_folder(tmp_path / "posts", [row | {"mood": str(i / 4)} for i, row in enumerate(ROWS)])
    assert train(folder, tmp_path / "run") == 0
    said = capsys.readouterr()
    assert "mean squared error " in said.out + said.err and "mean macro-F1 -" not in said.out + said.err
