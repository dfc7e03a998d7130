# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A whole run: from posts to a Hub-ready checkpoint. `train` reads as it goes: prepare, build, fit, report."""

import logging
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import datasets
import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset
from transformers import EarlyStoppingCallback, ProgressCallback, set_seed
from transformers.integrations import TensorBoardCallback

from ..data.arrays import FeatureArrays
from ..data.augmentation import AugmentedPosts, ImageAugmentation
from ..data.description import NO_SPLITS, DataDescription
from ..data.fields import completed
from ..data.json_files import read_json, write_json
from ..data.locks import only_one
from ..data.paraphrases import add_paraphrases
from ..data.problems import Problem, without_places
from ..data.reading import read_posts
from ..data.splits import first_splits, keys_by_split
from ..familiarity import least_familiarity
from ..features.cache import DEFAULT_FEATURE_CACHE
from ..features.extraction import process_state
from ..features.inputs import model_inputs, reads_pictures, sampled_embeds
from ..memory_file import LARGE_MEMORY
from ..numeric_columns import fitted_columns
from ..partial_files import whole_file
from ..task_heads import head_of
from ..tasks import LABEL_PREFIX, kind_of
from .blending import fit_experts, hear, heard_posts, joined
from .card import model_card
from .continuation import Start, described_by, model_of, without_gone, without_learned
from .decisions import aims_of, fit_decisions
from .graph_inspection import graph_statistics, threshold_at_quantile
from .hub import save_for_hub
from .identity import check_identity, identity_of
from .metric_plots import plot_metrics
from .own_files import remove_inside, remove_run
from .preset_files import load_preset
from .presets import build_model, treat_as
from .report.contents import label_counts_by_split
from .report.writing import RunRecord, judge, references_in, write_report
from .run_folder import (
    BASELINES_FILE,
    CHECKPOINTS,
    EVENTS,
    HELD_OUT_FILE,
    HISTORY_FILE,
    METRICS_FILE,
    METRICS_PLOT,
    REPORT_FILE,
    RUN_FILE,
    SPLITS_FILE,
)
from .scoring import epoch_metrics, judged_split, kept_by, metrics_of_logits, task_metrics_function
from .settings import TrainingSettings
from .single_baselines import single_baselines
from .task_settings import settings_of_tasks
from .trainer import (
    CrossFittedTrainer,
    EpochLines,
    EpochOfPosts,
    MMOrientTrainer,
    MMOrientTrainingArguments,
    RefreshRelationMemory,
)

logger = logging.getLogger(__name__)

LOCK_FILE = ".training.lock"
SEARCH_FILES = ("search.json", "search.db")
BEFORE_A_RUN = (LOCK_FILE, *SEARCH_FILES)  # what a folder may hold that no run was begun in


@dataclass
class Prepared:
    """What a run starts from: its settings, and posts that were read and checked."""

    description: DataDescription
    output: Path
    preset: dict
    settings: TrainingSettings
    config: dict
    arrays: FeatureArrays
    posts: datasets.DatasetDict
    tasks: list[dict]
    left_out: list[Problem]
    originals: int  # posts of the training split that are no paraphrases
    start: Start | None = None
    own_splits: bool = False  # others than the data say
    task_settings: dict = field(default_factory=dict)  # task name -> how it is learned, see `settings_of_tasks`


@dataclass
class Built:
    """What is trained: model and processor, the posts as the model takes them, and what `run.json` says."""

    model: object
    processor: object
    inputs: dict
    collator: object
    run: dict
    refresh: RefreshRelationMemory | None
    references: Subset  # the training posts that are no paraphrases, as they are
    learns_from_validation: bool = False


def train(
    data: DataDescription,
    output: str,
    *,
    preset: dict | None = None,
    settings: TrainingSettings | None = None,
    config: dict | None = None,
    feature_cache: str | None = DEFAULT_FEATURE_CACHE,
    skip_bad_posts: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    with_report: bool = True,
    start: Start | None = None,
    search: int = 0,
) -> dict:
    """Check the data, train, keep the epoch that is best on validation, evaluate on test, write a Hub-ready folder.

    Args:
        data: the posts.
        output: the run's folder. It ends up with model, processor and code, `run.json`, `metrics.json` and `README.md`, and
            `metrics.png`.
        preset: from `load_preset`; None takes the tiny encoders, trained from scratch.
        settings: None takes the preset's.
        config: fields of `MMOrientConfig` that override the preset's.
        feature_cache: folder of the feature cache, used when all encoders are frozen; None encodes in every epoch.
        resume: go on from the last checkpoint of an interrupted run. overwrite: replace an existing run.
        with_report: fit single baselines where all encoders are frozen, and write `report.html`.
        start: a checkpoint to go on from, see `continuation.open_start`; then the preset says nothing of the model.
        search: train by the best settings of so many trials, see `search.searched`.

    Returns:
        Metrics by split, `"validation"` and `"test"`, in the form of `multi_task_metrics`.

    Raises:
        DataProblems: see `read_posts`. FileExistsError: `output` holds a run. ValueError: a setting is wrong.
    """
    folder = Path(output)
    _check_output(folder, resume, overwrite)
    prepared = prepare(data, folder, preset or load_preset("tiny"), settings, config or {}, skip_bad_posts, start)
    with only_training(folder):
        if process_state().is_main_process:
            _check_output(folder, resume, overwrite)  # another training may have ended meanwhile
        if search:
            from .search import searched  # it trains by what is here

            prepared = searched(prepared, search, feature_cache, resume)
        return train_prepared(prepared, feature_cache, resume, overwrite, with_report)


def train_prepared(
    prepared: Prepared, feature_cache: str | None, resume: bool, overwrite: bool, with_report: bool
) -> dict:
    """`train` of posts that were read."""
    built = build(prepared, feature_cache, resume, overwrite)
    trainer = fit(prepared, built, resume)
    metrics = report(prepared, built, trainer)
    if with_report and process_state().is_main_process:
        _write_report(prepared, built, judged_split(metrics))
    process_state().wait_for_everyone()
    return metrics


def prepare(
    description: DataDescription,
    output: Path,
    preset: dict,
    settings: TrainingSettings | None,
    config: dict,
    skip_bad_posts: bool,
    start: Start | None = None,
) -> Prepared:
    """Read and check everything that can be wrong before anything expensive starts; arguments as in `train`."""
    settings = settings or TrainingSettings(**preset["training"])
    training_arguments(output, settings, 1)  # whatever is wrong with them is told before data are read
    arrays = FeatureArrays(description.feature_arrays)
    if start is not None:
        preset = preset | {"encoders": dict.fromkeys(start.roles, start.source), "task_features": {}}
        description = described_by(start, description)
    roles = _encoder_roles(preset, arrays, description.paraphrases is not None)
    posts, tasks, left_out = read_posts(description, skip_bad_posts, reads_pictures(roles))
    if start is not None:
        description, posts = replace(description, tasks=None), without_learned(start, posts)
    told = settings_of_tasks(preset, config, tasks, start)
    config = (preset["config"] if start is not None else {}) | config  # how it is learned; the rest is the checkpoint's
    config = {name: value for name, value in config.items() if name != "tasks"}
    config = {"task_feature_dim": 0} | arrays.config_fields(has_joint="joint" in roles) | config
    return prepare_posts(
        Prepared(
            *(description, output, preset, settings, config, arrays, posts, tasks, left_out, 0, start),
            own_splits=description.split_column == NO_SPLITS,
            task_settings=told,
        )
    )


def prepare_posts(prepared: Prepared) -> Prepared:
    """With what follows from the posts that are learned from: paraphrases, weights of classes; and checks of the tasks."""
    description, settings, posts, tasks = (
        getattr(prepared, name) for name in ("description", "settings", "posts", "tasks")
    )
    for split in ("train", "validation"):
        if split not in posts:
            raise ValueError(f"the data has no {split} split")
    if settings.trainer.get("dataloader_drop_last") and len(posts["train"]) < settings.batch_size:
        few = f"{len(posts['train'])} training posts are fewer than a batch of {settings.batch_size}"
        raise ValueError(f"`dataloader_drop_last`: {few}, and nothing would be learned from")
    originals = len(posts["train"])
    if description.paraphrases is not None:
        posts = add_paraphrases(posts, description.paraphrases, description.text_cleaning)
    if prepared.start is not None:
        settings = without_gone(prepared.start, settings, tasks)
    check_rules(settings, tasks)
    kept = [] if prepared.start is None else [head_of(task) for task in prepared.start.config.tasks]
    tasks = [  # a head that is gone on from keeps its scale
        task if head_of(task) in kept else task | kind_of(task).scale(posts["train"][LABEL_PREFIX + task["name"]])
        for task in tasks
    ]
    if settings.class_weights == "balanced":
        tasks = [
            task | {"class_weights": kind_of(task).balanced_weights(task, posts["train"][LABEL_PREFIX + task["name"]])}
            for task in tasks
        ]
    tasks = [task | prepared.task_settings.get(task["name"], {}) for task in tasks]
    return replace(prepared, settings=settings, posts=posts, tasks=tasks, originals=originals)


def check_rules(settings: TrainingSettings, tasks: list[dict]) -> None:
    """Raise ValueError unless the tasks have what decisions are for, and the metric by which an epoch is kept."""
    aims_of(settings.decide or [], tasks)
    if "greater_is_better" in settings.trainer and "metric_for_best_model" not in settings.trainer:
        raise ValueError("`greater_is_better` is of `metric_for_best_model`: name that too")
    best, _ = kept_by(settings.trainer, settings.keep_epoch_by)
    if best not in (names := [*epoch_metrics(tasks), "loss"]):
        nearest = get_close_matches(best, names, 1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(names)}"
        setting = "metric_for_best_model" if "metric_for_best_model" in settings.trainer else "keep_epoch_by"
        raise ValueError(f"`{setting}` {best!r} is no metric of these tasks; {hint}")


def build(prepared: Prepared, feature_cache: str | None, resume: bool, overwrite: bool) -> Built:
    """Model, processor and inputs; the run's folder is begun. Arguments as in `train`."""
    model, processor, run = construct(prepared, feature_cache)
    _begin(prepared, run, learns_from_validation(prepared, model.config), resume, overwrite)
    return assemble(prepared, model, processor, run)


def construct(prepared: Prepared, feature_cache: str | None) -> tuple:
    """Model, processor and what `run.json` says; nothing is encoded or written."""
    settings, start = prepared.settings, prepared.start
    set_seed(settings.seed)
    if start is None:
        model, processor = _new_model(prepared)
    else:
        model, processor = model_of(start, prepared.tasks, prepared.config), start.processor
    if settings.threshold_quantile is not None and not _all_frozen(model.config):
        raise ValueError("`threshold_quantile` needs frozen encoders: while they are trained, similarities move")
    run = {
        "data": asdict(prepared.description),
        "training": asdict(settings),
        "feature_cache": feature_cache if _all_frozen(model.config) and not settings.augment_images else None,
        "splits": {split: len(rows) for split, rows in prepared.posts.items()},
        "labels": label_counts_by_split(prepared.posts, prepared.tasks),
        "left_out": [asdict(without_places(problem, prepared.description.folders)) for problem in prepared.left_out],
        "own_splits": prepared.own_splits,
    }
    if start is not None:
        run["init_from"] = {"source": start.source, "freeze_body": start.freeze_body}
    return model, processor, run


def _new_model(prepared: Prepared) -> tuple:
    texts = [text for text in prepared.posts["train"]["text"] if text]
    columns = []
    if names := prepared.description.numeric_columns:
        rows = prepared.posts["train"].select(range(prepared.originals))["numbers"]
        columns = fitted_columns(names, list(rows))
    model, processor = build_model(prepared.preset, prepared.tasks, texts, columns, **prepared.config)
    treat_as(processor, prepared.description)
    return model, processor


def _begin(prepared: Prepared, run: dict, cross_fitted: bool, resume: bool, overwrite: bool) -> None:
    """Write what the run is, in a folder without what is to be replaced."""
    output, state, keys = prepared.output, process_state(), keys_by_split(prepared.posts)
    run["made_of"] = identity_of(prepared, keys)
    if resume:
        _check_same_run(output, run)
    state.wait_for_everyone()  # none reads what the first is about to write
    if state.is_main_process:
        learned = {} if prepared.start is None else prepared.start.learned
        if overwrite and not resume:
            remove_run(output, BEFORE_A_RUN)
        write_json(output / RUN_FILE, run)
        drawn = first_splits(keys)
        if cross_fitted:
            drawn = {key: "train" if split == "validation" else split for key, split in drawn.items()}
        write_json(output / SPLITS_FILE, learned | drawn)
    state.wait_for_everyone()


def assemble(prepared: Prepared, model, processor, run: dict) -> Built:
    """Encode where encoders are frozen, and give the model its memory."""
    settings, state = prepared.settings, process_state()
    inputs, collator = model_inputs(
        model, processor, prepared.posts, prepared.tasks, run["feature_cache"], prepared.arrays
    )
    if _all_frozen(model.config) and model.config.relation_streams:
        _fit_graphs(model.config, sampled_embeds(inputs["train"], model, collator), settings)
    references = Subset(inputs["train"], range(prepared.originals))
    cross_fitted = learns_from_validation(prepared, model.config)
    learned: Dataset = references
    if cross_fitted:
        learned = ConcatDataset([references, inputs["validation"]])
        inputs = dict(inputs) | {"train": learned}
    refresh = _give_memory(model.to(state.device), processor, learned)
    if settings.augment_images:
        changed = AugmentedPosts(inputs["train"], ImageAugmentation(seed=settings.seed))
        inputs = dict(inputs) | {"train": changed}  # the posts themselves stay as they are
    return Built(model, processor, inputs, collator, run, refresh, references, cross_fitted)


def learns_from_validation(prepared: Prepared, config) -> bool:
    """Whether validation posts are learned from: where each can be judged by a member to which nothing of it is known, and
    others, for test, are left."""
    settings = prepared.settings
    apart = _all_frozen(config) and prepared.description.paraphrases is None and not settings.augment_images
    judges = config.members > 1 and apart and "test" in prepared.posts
    if settings.learn_from_validation and not judges:
        logger.info("validation posts are not learned from: see --learn-from-validation")
    return settings.learn_from_validation and judges


def fit(prepared: Prepared, built: Built, resume: bool) -> MMOrientTrainer:
    """Train; afterwards the model has the weights of its best epoch, and a memory that is theirs."""
    trainer = trainer_class(built)(
        model=built.model,
        args=training_arguments(prepared.output, prepared.settings, len(built.inputs["train"])),
        data_collator=built.collator,
        train_dataset=built.inputs["train"],
        eval_dataset=built.inputs["validation"],
        compute_metrics=task_metrics_function(prepared.tasks),
        callbacks=callbacks_of(prepared, built),
    )
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(prepared.output / EVENTS)  # its default goes with the checkpoints
    if trainer.pop_callback(ProgressCallback) is not None:  # a notebook's bar, or none at all, stays as it is
        trainer.add_callback(EpochLines)
    checkpoint = last_complete_checkpoint(prepared.output / CHECKPOINTS) if resume else None
    trainer.train(resume_from_checkpoint=checkpoint)
    if built.refresh is not None:
        built.refresh.rebuild(built.model)  # the best epoch's weights are back, the last epoch's memory is not theirs
    if built.model.relation_memory is not None:
        built.model.relation_memory.of_training = prepared.start is None  # else it has learned from others before
    return trainer


def trainer_class(built: Built) -> type[MMOrientTrainer]:
    """Whose `evaluate` judges posts by who has not learned from them."""
    return CrossFittedTrainer if built.learns_from_validation else MMOrientTrainer


def callbacks_of(prepared: Prepared, built: Built, patience: type = EarlyStoppingCallback) -> list:
    """What a training does beside its steps: it stops early, and keeps memory and augmentation as they are to be."""
    callbacks = [patience(prepared.settings.patience)] if prepared.settings.patience else []
    callbacks += [built.refresh] if built.refresh else []
    return callbacks + (
        [EpochOfPosts(built.inputs["train"])] if isinstance(built.inputs["train"], AugmentedPosts) else []
    )


def report(prepared: Prepared, built: Built, trainer: MMOrientTrainer) -> dict:
    """Metrics of validation and test, and the finished folder. Who learned from a post is not heard on it."""
    output, state = prepared.output, process_state()
    _fit_familiarity(built.model)
    tasks, logits, labels = _experts(prepared, built)
    built.model.config.update({"tasks": tasks})
    found = {}
    if built.learns_from_validation:  # they come last
        rows = slice(-len(built.inputs["validation"]), None)
        found["validation"] = [{name: value[rows] for name, value in part.items()} for part in (logits, labels)]
    for split in [split for split in ("validation", "test") if split in built.inputs and split not in found]:
        prediction = trainer.predict(built.inputs[split])
        found[split] = [prediction.predictions, prediction.label_ids]
    aims = aims_of(prepared.settings.decide or [], prepared.tasks)
    tasks = fit_decisions(tasks, logits, labels, aims)
    built.model.config.update({"tasks": tasks})
    metrics = {split: metrics_of_logits(tasks, *said) for split, said in found.items()}
    if state.is_main_process:
        if built.learns_from_validation:
            with whole_file(output / HELD_OUT_FILE) as partial, partial.open("wb") as file:
                np.savez(file, **{LABEL_PREFIX + name: value.numpy() for name, value in found["validation"][0].items()})
        write_json(output / METRICS_FILE, metrics)
        write_json(output / HISTORY_FILE, {"log": trainer.state.log_history})
        plot_metrics(metrics[judged_split(metrics)], output / METRICS_PLOT)
        save_for_hub(built.model, built.processor, output, model_card(built.model.config, metrics, built.run))
        remove_inside(output / CHECKPOINTS)
    state.wait_for_everyone()
    return metrics


def _write_report(prepared: Prepared, built: Built, split: str) -> None:
    """Single baselines to compare with, and the page."""
    model, output, posts = built.model, prepared.output, prepared.posts
    baselines = {}
    if _all_frozen(model.config):  # of encoders that learned from the labels no baseline is independent
        asked = (built.references, prepared.tasks, prepared.settings)
        baselines = single_baselines(model, built.inputs, built.collator, *asked)
        write_json(output / BASELINES_FILE, baselines)
    judged = judge(model, built.inputs[split], built.collator, posts[split], {}, prepared.settings.batch_size)
    judged.references = references_in(posts, judged.evidence)
    write_report(output, output.resolve().name, model, judged, split, posts, RunRecord.read(str(output)))


def _fit_familiarity(model) -> None:
    """Set how near a reference post's picture must be for one to count, by `unfamiliar_pictures`."""
    config = model.config
    if config.unfamiliar_pictures and config.relation_scope != "batch" and config.memory_lookup == "top_k":
        config.update({"picture_familiarity": least_familiarity(model.relation_memory, config.unfamiliar_pictures)})


def _experts(prepared: Prepared, built: Built) -> tuple[list[dict], dict, dict]:
    """Fit the experts; see `fit_experts` for what comes back."""
    model, size = built.model, prepared.settings.batch_size
    validation = hear(model, built.inputs["validation"], built.collator, size)
    if model.config.members == 1 and not model.config.experts:
        return (
            model.config.tasks,
            {task: said["network"] for task, said in validation.scores.items()},
            validation.labels,
        )
    apart = _all_frozen(model.config) and prepared.description.paraphrases is None
    references = heard_posts(built.references, prepared.settings.seed)
    train = hear(model, references, built.collator, size)
    if built.learns_from_validation:
        train, validation = joined([train, validation]), validation.at(slice(0, 0))
    return fit_experts(model, train, validation, apart)


def training_arguments(output: Path, settings: TrainingSettings, posts: int) -> MMOrientTrainingArguments:
    """The Trainer's arguments of a run on so many posts: an evaluation and a checkpoint per epoch, the best is kept."""
    together = settings.batch_size * settings.accumulation * process_state().num_processes
    per_epoch = math.ceil(posts / together)
    # a step that warms up from 0 changes nothing: an epoch of such steps alone would be kept as the best, untrained
    warmup = min(int(settings.warmup * settings.epochs * per_epoch), per_epoch - 1)
    return MMOrientTrainingArguments(**_our_arguments(output, settings, warmup) | _their_arguments(settings.trainer))


def _our_arguments(output: Path, settings: TrainingSettings, warmup: int) -> dict:
    return {
        "output_dir": str(output / CHECKPOINTS),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": settings.learning_rate,
        "encoder_learning_rate": settings.encoder_learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": warmup,
        "bf16": settings.bf16,
        "use_cpu": settings.bf16 and not torch.accelerator.is_available(),  # else they refuse bfloat16 without a GPU
        "seed": settings.seed,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,  # patience is counted on where it was
        "metric_for_best_model": settings.keep_epoch_by,
        "greater_is_better": kept_by({}, settings.keep_epoch_by)[1],
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
    }


def _their_arguments(said: dict) -> dict:
    """What was said of the Trainer's, with what follows from it."""
    follows = {}
    if "logging_steps" in said:
        follows["logging_strategy"] = "steps"
    if "metric_for_best_model" in said:
        follows["greater_is_better"] = kept_by(said)[1]
    return follows | said


def _give_memory(model, processor, references) -> RefreshRelationMemory | None:
    """Make the training posts the memory where one is asked for; returns what keeps it fresh where encoders are trained."""
    if model.config.relation_scope == "batch":
        return None
    memory = model.build_relation_memory(references, processor)
    model.config.relation_memory = LARGE_MEMORY if memory.is_large else None
    return None if _all_frozen(model.config) else RefreshRelationMemory(references, processor)


def _fit_graphs(config, embeds: dict[str, torch.Tensor], settings: TrainingSettings) -> None:
    """Set thresholds by quantile where asked, and warn of graphs with hardly any or nearly all edges."""
    for modality, rows in embeds.items():
        if settings.threshold_quantile is not None and len(rows) > 1:
            config.set_threshold(modality, threshold_at_quantile(rows, settings.threshold_quantile))
        if config.relation_scope == "memory" and config.memory_lookup == "top_k":
            continue  # no threshold decides
        among = len(rows) if config.relation_scope == "memory" else settings.batch_size
        statistics = graph_statistics(rows, config.thresholds[modality], among)
        if statistics is not None and (advice := statistics.advice()) and process_state().is_main_process:
            logger.warning(
                "the %s graph says little at `%s_threshold` %.3f: %s; see --threshold-quantile and mm-orient inspect-graph",
                *(modality, modality, statistics.threshold, advice),
            )


def last_complete_checkpoint(folder: Path) -> str | None:
    """The newest of the Trainer's checkpoints that was written to its end (its state comes last); None if there is none."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def _check_output(output: Path, resume: bool, overwrite: bool) -> None:
    if not output.exists() or all(path.name == LOCK_FILE for path in output.iterdir()):
        return
    if all(path.name in (*BEFORE_A_RUN, CHECKPOINTS) for path in output.iterdir()):
        if not resume and not overwrite:
            raise FileExistsError(f"{output} holds an interrupted search; say --resume to go on, or --overwrite")
        return
    if not (output / RUN_FILE).exists():
        raise FileExistsError(f"{output} exists and is no run; choose another output")
    if overwrite:
        return
    if (output / "config.json").exists():
        if resume and not (output / REPORT_FILE).exists():
            raise FileExistsError(
                f"{output} is trained, and has no report: mm-orient report {output} --data ... makes one"
            )
        raise FileExistsError(f"{output} holds a finished run; choose another output, or say --overwrite")
    if not resume:
        raise FileExistsError(f"{output} holds an interrupted run; say --resume to go on, or --overwrite")


@contextmanager
def only_training(output: Path):
    """Refuse to train where another process trains; that the folder can be written is known before the first epoch."""
    if not process_state().is_main_process:
        yield
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.mkdir(exist_ok=True)
    try:
        with only_one(output / LOCK_FILE, f"another process is training in {output}"):
            yield
    finally:
        if not any(output.iterdir()):  # nothing came of it
            output.rmdir()


def _check_same_run(output: Path, run: dict) -> None:
    """Refuse to resume on other data, with other encoders, another configuration or other settings; more epochs and another
    patience are fine."""
    if not (output / RUN_FILE).exists():
        return
    before = read_json(output / RUN_FILE)
    # a setting that is younger than the run had its default
    before |= {"data": completed(DataDescription, before["data"])}
    before |= {"training": completed(TrainingSettings, before["training"])}
    if before.get("init_from") != run.get("init_from"):
        raise ValueError(f"cannot resume {output}: it began from {before.get('init_from')}, not {run.get('init_from')}")
    for part, free in (("data", ()), ("splits", ()), ("training", ("epochs", "patience"))):
        for name in before[part].keys() | run[part].keys():
            old, new = before[part].get(name), run[part].get(name)
            if name == "split_column":  # that they were left aside, no older version says
                old, new = old or None, new or None
            if old != new and name not in free:
                raise ValueError(f"cannot resume {output}: `{name}` was {old!r} and is {new!r} now")
    check_identity(output, before.get("made_of"), run["made_of"])


def _all_frozen(config) -> bool:
    return set(config.encoder_names) <= set(config.frozen_encoders)


def _encoder_roles(preset: dict, arrays: FeatureArrays, paraphrased: bool) -> set[str]:
    """The encoders of a run: those named, or the preset's own that are trained from scratch, or none where all is arrays.

    Raises:
        ValueError: neither an encoder nor an array gives regions or tokens, or both do.
    """
    roles = {role for role, source in preset["encoders"].items() if source}
    if not roles and not arrays and preset["processor"]:
        return {"text", "vision"}
    for role, feature in (("vision", "region_features"), ("text", "token_features")):
        if role not in roles and feature not in arrays:
            raise ValueError(f"no {role} encoder is named: name it, or give an array of {feature} (--feature-arrays)")
        if role in roles and feature in arrays:
            raise ValueError(f"{feature} come from the {role} encoder and from an array: give one of them")
    for feature in ("image_embeds", "text_embeds"):
        if feature in arrays and "joint" in roles:
            raise ValueError(f"{feature} come from the joint encoder and from an array: give one of them")
    if paraphrased and "token_features" in arrays:
        raise ValueError("paraphrases change nothing where token_features come from an array")
    if preset["task_features"] and "task_features" in arrays:
        raise ValueError("task_features come from sources and from an array: give one of them")
    return roles
