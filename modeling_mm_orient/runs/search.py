# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Search for settings with Optuna, through the Trainer's own `hyperparameter_search`; validation posts alone judge."""

import copy
import logging
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers import EarlyStoppingCallback, ProgressCallback, set_seed

from ..data.description import DataDescription
from ..data.fields import completed
from ..data.json_files import write_json
from ..data.splits import keys_by_split
from ..features.extraction import process_state
from ..optional_dependencies import OPTUNA_AVAILABLE
from .identity import check_identity, identity_of
from .scoring import task_metrics_function
from .settings import TrainingSettings
from .training import (
    SEARCH_FILES,
    Prepared,
    assemble,
    callbacks_of,
    construct,
    trainer_class,
    training_arguments,
)

logger = logging.getLogger(__name__)

STUDY = "mm_orient"
RATES = 10.0  # how far from what was said the learning rates are looked for, either way
DECAYS = (1e-4, 0.3)
DROPOUTS = (0.0, 0.6)
WITHOUT_CHECKPOINTS = {"save_strategy": "no", "load_best_model_at_end": False}


class FreshPatience(EarlyStoppingCallback):
    """Early stopping that counts anew in every trial."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = 0


def searched(prepared: Prepared, trials: int, feature_cache: str | None, resume: bool) -> Prepared:
    """The run with the best settings of so many trials: learning rates up to ten times more or less, weight decay, dropout
    of the learner, epochs up to twice as many (patience as it was said). Trials that fall behind the median are cut off.

    The trials lie in `search.db` in the run's folder, and in `search.json`: `trials`, of each its `number`, `value`,
    `params` and `state`; `best`; and `metric`, by which epochs are kept and they were judged, in their best epochs.

    Args:
        resume: trials that are done count.

    Raises:
        ImportError: Optuna is not installed. ValueError: several processes; no trial ended; or what is gone on with is no
            search's, or another's.
    """
    if not OPTUNA_AVAILABLE:
        raise ImportError("--search needs Optuna: pip install 'modeling-mm-orient[search]'")
    if process_state().num_processes > 1:
        raise ValueError("--search runs in one process")
    report, base = (prepared.output / name for name in SEARCH_FILES)
    for path in () if resume else (report, base):
        path.unlink(missing_ok=True)

    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = URL.create("sqlite", database=str(base.absolute())).render_as_string()  # a folder may be called anything
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=STUDY,
            load_if_exists=True,
            direction=_direction(prepared),
            sampler=_sampler(prepared),
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        what = str(error).partition("\n")[0]
        if "not a database" in what or "malformed" in what or "no such" in what:
            raise ValueError(f"{base}: no database of a search ({what}); remove it to begin anew") from None
        raise ValueError(f"{base}: the search's database cannot be used ({what})") from None
    metric = _arguments(prepared, 1).metric_for_best_model
    about = {"metric": metric, "data": asdict(prepared.description), "training": asdict(prepared.settings)}
    kinds = {"data": DataDescription, "training": TrainingSettings}
    for part, now in about.items():
        before = study.user_attrs.get(part, now)
        if part in kinds:  # a setting that is younger than the search had its default
            before = completed(kinds[part], before)
        if before != now:
            raise ValueError(f"cannot go on with the search: `{part}` was {before!r} and is {now!r} now")
        study.set_user_attr(part, now)
    made_of = identity_of(prepared, keys_by_split(prepared.posts))
    check_identity(prepared.output, study.user_attrs.get("made_of"), made_of)
    study.set_user_attr("made_of", made_of)
    if (left := trials - len(_ended(study))) > 0:
        _run(prepared, left, feature_cache, storage)
    ended, best = _ended(study), study.best_trial
    entries = [{"number": t.number, "value": t.value, "params": t.params, "state": t.state.name} for t in ended]
    chosen = {"number": best.number, "value": best.value, "params": best.params}
    write_json(report, {"metric": metric, "best": chosen, "trials": entries})
    logger.info("best of %d trials: %s %.4f with %s", len(ended), metric, best.value, best.params)
    return _with(prepared, best.params)


def _ended(study) -> list:
    """Trials that came to their end, or were cut off; not those that were interrupted."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _run(prepared: Prepared, trials: int, feature_cache: str | None, storage: str) -> None:
    model, processor, run = construct(prepared, feature_cache)
    built = assemble(prepared, model, processor, run)
    arguments = _arguments(prepared, len(built.inputs["train"]))
    state = {name: value.detach().cpu().clone() for name, value in built.model.state_dict().items()}

    trains_encoders = not set(built.model.config.encoder_names) <= set(built.model.config.frozen_encoders)

    def fresh(trial):
        config = copy.deepcopy(built.model.config)
        if trial is not None:
            config.learner_dropout = trial.suggest_float("learner_dropout", *DROPOUTS)
        made = type(built.model)(config)
        made.load_state_dict(state)
        for value, like in zip(made.parameters(), built.model.parameters(), strict=True):
            value.requires_grad_(like.requires_grad)
        made.set_relation_memory(built.model.relation_memory)
        if not torch.accelerator.is_available():
            made.for_cpu()
        set_seed(prepared.settings.seed)
        return made

    trainer = trainer_class(built)(
        model_init=fresh,
        args=arguments,
        data_collator=built.collator,
        train_dataset=built.inputs["train"],
        eval_dataset=built.inputs["validation"],
        compute_metrics=task_metrics_function(prepared.tasks),
        callbacks=callbacks_of(prepared, built, FreshPatience),
    )
    trainer.pop_callback(ProgressCallback)
    best_of = max if arguments.greater_is_better else min

    def objective(metrics: dict[str, float]) -> float:
        now, before = (
            metrics[f"eval_{arguments.metric_for_best_model.removeprefix('eval_')}"],
            trainer.state.best_metric,
        )
        return now if before is None else best_of(now, before)

    trainer.hyperparameter_search(
        hp_space=lambda trial: _space(trial, prepared.settings, trains_encoders),
        compute_objective=objective,
        n_trials=trials,
        direction=_direction(prepared),
        backend="optuna",
        hp_name=lambda trial: f"trial-{trial.number}",
        storage=storage,
        study_name=STUDY,
        load_if_exists=True,
        sampler=_sampler(prepared),
    )


def _space(trial, settings: TrainingSettings, trains_encoders: bool) -> dict[str, Any]:
    """Settings of a trial under the Trainer's names."""
    rate = settings.learning_rate
    found = {
        "learning_rate": trial.suggest_float("learning_rate", rate / RATES, rate * RATES, log=True),
        "weight_decay": trial.suggest_float("weight_decay", *DECAYS, log=True),
        "num_train_epochs": trial.suggest_int("epochs", max(1, settings.epochs // 2), 2 * settings.epochs),
    }
    if trains_encoders:
        rate = settings.encoder_learning_rate
        found["encoder_learning_rate"] = trial.suggest_float(
            "encoder_learning_rate", rate / RATES, rate * RATES, log=True
        )
    return found


def _with(prepared: Prepared, params: dict) -> Prepared:
    """The run by the parameters of a trial."""
    of_model = {name: value for name, value in params.items() if name == "learner_dropout"}
    settings = {name: value for name, value in params.items() if name not in of_model}
    return replace(prepared, settings=replace(prepared.settings, **settings), config=prepared.config | of_model)


def _arguments(prepared: Prepared, posts: int):
    """The Trainer's, without checkpoints."""
    settings = replace(prepared.settings, trainer=prepared.settings.trainer | WITHOUT_CHECKPOINTS)
    return training_arguments(prepared.output, settings, posts)


def _direction(prepared: Prepared) -> str:
    return "maximize" if _arguments(prepared, 1).greater_is_better else "minimize"


def _sampler(prepared: Prepared):
    import optuna

    return optuna.samplers.TPESampler(seed=prepared.settings.seed)
