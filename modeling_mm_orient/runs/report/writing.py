# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`report.html`: a run as a page that needs nothing else, made when training ends and anew whenever asked for."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import datasets

from ... import __version__
from ...data.arrays import FeatureArrays
from ...data.description import DataDescription
from ...data.json_files import read_json
from ...data.problems import without_places
from ...features.inputs import model_inputs
from ...partial_files import check_place
from ...pictures import undecoded
from ...tasks import collate_labels, kind_of
from ..evaluation import PostsToScore, posts_to_evaluate
from ..explanation_page import of_memory
from ..metric_plots import metrics_figure
from ..pages import figure_url, page, write_page
from ..predictions import predict_logits
from ..run_folder import BASELINES_FILE, HISTORY_FILE, METRICS_FILE, REPORT_FILE, read_metrics, read_run
from ..scoring import BEST, judged_split, kept_by, metrics_of_logits
from .contents import NEIGHBOURS, Judged, class_table, clearest_errors, label_counts_by_split, thumbnails
from .plots import confusion_matrix, learning_curves, values_against_truth
from .summary import summarise, summary_text

PROBABILITIES = (
    "how often probabilities are right, and the error among the verdicts kept when the doubtful are left to a person"
)


@dataclass
class RunRecord:
    """What a run's files say of how it came about: each empty where there is no such file."""

    run: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    baselines: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> "RunRecord":
        """Of a finished run."""
        files = {name: Path(folder) / name for name in (HISTORY_FILE, BASELINES_FILE)}
        found = {name: read_json(path) for name, path in files.items() if path.is_file()}
        baselines = found.get(BASELINES_FILE, {})
        if wrong := [
            name for name, said in baselines.items() if not isinstance(said, dict) or "validation" not in said
        ]:
            raise ValueError(f"{files[BASELINES_FILE]}: {wrong[0]!r} is no baseline's metrics by split")
        return cls(read_run(folder), found.get(HISTORY_FILE, {}).get("log", []), baselines)

    def training_counts(self) -> dict[str, dict[str, int]]:
        """Task -> label -> training posts."""
        labels = self.run.get("labels", {})
        return {task: {name: n for name, n in of.get("train", {}).items() if name} for task, of in labels.items()}


def judge(model, inputs, collator, posts: datasets.Dataset, references: dict[str, dict], batch_size: int) -> Judged:
    """A model's verdicts on labelled posts, with the neighbours that they rest on.

    Args:
        inputs: the posts as the model takes them. references: id -> reference post, as far as known.
    """
    neighbours = NEIGHBOURS if model.relation_memory is not None and model.config.relation_scope != "batch" else 0
    found = predict_logits(model, inputs, collator, batch_size, neighbours)
    tasks = model.config.tasks
    labels = collate_labels(list(posts.remove_columns("image")), tasks)
    return Judged(posts, tasks, found.logits, labels, found.evidence, references)


def report_html(
    name: str, model, judged: Judged, split: str, splits: dict, record: RunRecord, left_out: list[dict] | None
) -> str:
    """The page's text.

    Args:
        name: of the run. judged: the posts of `split`. splits: all posts that were read, by split. left_out: the problems
            of those that were not; None says nothing of them.
    """
    tasks = [task for task in model.config.tasks if len(judged.known(task))]
    metrics = metrics_of_logits(model.config.tasks, judged.logits, judged.labels)
    counts = label_counts_by_split(splits, model.config.tasks)
    summary, best = summarise(model.config.tasks, metrics, record.baselines, split, record.training_counts())
    sections = [_section(judged, task, metrics[task["name"]], counts[task["name"]]) for task in tasks]
    training = record.run.get("training", {})
    best_by = kept_by(training.get("trainer", {}), training.get("keep_epoch_by", BEST))
    curves = learning_curves(record.history, best_by)
    return page(
        "report.html.j2",
        title=name,
        version=__version__,
        split=split,
        posts=len(judged.posts),
        mean=metrics["mean_macro_f1"],
        summary=summary,
        best=best,
        curves=None if curves is None else figure_url(curves),
        sections=sections,
        thumbnails=thumbnails([card for section in sections for card in section["cards"]], judged.references),
        counts=counts,
        splits={split: _of_split(posts) for split, posts in splits.items()},
        left_out=left_out if left_out is None else _by_post(left_out),
        settings=record.run.get("training", {}),
        architecture=_architecture(model),
        encoders={
            role: f"{encoder.model_type}, {'frozen' if role in model.config.frozen_encoders else 'trained'}"
            for role, encoder in model.config.encoder_configs.items()
        },
        rules=[task for task in model.config.tasks if task.get("expert_weights") or task.get("decision_offsets")],
    )


def _by_post(problems: list[dict]) -> dict[str, list[str]]:
    """Where a post stands -> what is wrong with it."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        found.setdefault(problem["where"], []).append(problem["what"])
    return found


def write_report(folder, name: str, model, judged: Judged, split: str, splits: dict, record: RunRecord) -> Path:
    """Write `report.html` into a run's folder; returns where."""
    path = Path(folder) / REPORT_FILE
    write_page(path, report_html(name, model, judged, split, splits, record, record.run.get("left_out", [])))
    return path


def report(
    run: str,
    data: DataDescription,
    *,
    split: str | None = None,
    output: str | None = None,
    batch_size: int = 32,
    feature_cache: str | None = None,
    skip_bad_posts: bool = False,
) -> tuple[Path, str]:
    """Make a finished run's report anew, of the posts that `evaluate` would score.

    Args:
        split: None takes test, of a run's own posts validation where no test post has a label.
        output: an .html file (default: `report.html` in the run's folder). Others as in `evaluate`.

    Returns:
        Where it lies, and the summary for a terminal.

    Raises:
        ValueError: as `evaluate`; or `output` is no .html file.
    """
    path = Path(output) if output else Path(run) / REPORT_FILE
    if path.suffix != ".html":
        raise ValueError(f"{path}: a report is written to an .html file")
    check_place(path)
    split = split or _split_of(run, data)
    found: PostsToScore = posts_to_evaluate(run, data, split=split, skip_bad_posts=skip_bad_posts)
    model, record = found.model, RunRecord.read(run)
    posts = datasets.DatasetDict({split: found.posts})
    arrays = FeatureArrays(data.feature_arrays)
    inputs, collator = model_inputs(model, found.processor, posts, model.config.tasks, feature_cache, arrays)
    judged = judge(model, inputs[split], replace(collator, labels=False), found.posts, {}, batch_size)
    judged.references = references_in(found.splits, judged.evidence)
    if model.relation_memory is not None:
        judged.references = of_memory(model.relation_memory, judged.references)
    left_out = None if found.left_out is None else [asdict(without_places(p, data.folders)) for p in found.left_out]
    write_page(path, report_html(Path(run).resolve().name, model, judged, split, found.splits, record, left_out))
    return path, terminal_summary(model, judged, split, record)


def _split_of(run: str, data: DataDescription) -> str:
    """The split that a report is of when none is named."""
    is_own = read_run(run).get("data", {}).get("data") == data.data
    return judged_split(read_metrics(run)) if is_own and (Path(run) / METRICS_FILE).is_file() else "test"


def terminal_summary(model, judged: Judged, split: str, record: RunRecord) -> str:
    """What was learned, for a terminal."""
    metrics = metrics_of_logits(model.config.tasks, judged.logits, judged.labels)
    return summary_of(model.config.tasks, metrics, split, record)


def summary_of(tasks: list[dict], metrics: dict, split: str, record: RunRecord) -> str:
    """The same of metrics, see `metrics_of_logits`, that are there already."""
    return summary_text(*summarise(tasks, metrics, record.baselines, split, record.training_counts()), split)


def references_in(splits: dict, evidence: list[dict]) -> dict[str, dict]:
    """Of the posts that evidence names, those that were read, by id; pictures stay closed."""
    wanted = {post["id"] for found in evidence for posts in found.values() for post in posts}
    known = {}
    for posts in splits.values():
        posts = undecoded(posts)
        known |= {name: posts[row] for row, name in enumerate(posts["id"]) if name in wanted}
    return known


def _section(judged: Judged, task: dict, found: dict, counts: dict) -> dict:
    """One task's part of the page."""
    kind, name = kind_of(task), task["name"]
    section = {"task": task, "found": found, "is_classification": kind.is_classification, "figures": []}
    rows = judged.known(task).numpy()
    truth = judged.labels[name].numpy()[rows]
    if not kind.is_classification:
        values = judged.probabilities[name].numpy()[rows]
        section["figures"] = [("predicted against labelled", figure_url(values_against_truth(truth, values)))]
    else:
        section["classes"] = class_table(task, found, counts)
        if truth.ndim == 1:
            figure = confusion_matrix(task["labels"], truth.astype(int), judged.decided(task)[rows].astype(int))
            section["figures"] = [("what each class was taken for, shaded by its share", figure_url(figure))]
        section["figures"].append((PROBABILITIES, figure_url(metrics_figure({name: found}))))
    section["cards"] = clearest_errors(judged, task)
    return section


def _of_split(posts) -> dict[str, int]:
    """Posts, and how many of them lack a picture or a text."""
    missing = {name: sum(value is None for value in undecoded(posts)[name]) for name in ("image", "text")}
    return {"posts": len(posts), "without a picture": missing["image"], "without a text": missing["text"]}


def _architecture(model) -> dict:
    """What the configuration says beyond encoders and tasks."""
    plain = (str, int, float, bool, list)
    fields = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    fields = {n: v for n, v in fields.items() if n not in ("tasks", "encoder_configs") and isinstance(v, plain)}
    own = [name for name in fields if not name.endswith("_config") and not name.startswith("_")]
    return {"parameters that learn": f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}"} | {
        name: fields[name] for name in own
    }
