# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`MMOrientClassifier`: from a data frame, a data set or a folder to a model, by the code below the command line.

classifier = MMOrientClassifier(text_encoder="TEXT", vision_encoder="VISION", epochs=5)
classifier.fit(frame, labels=["offensive", "emotions=joy,sadness"], text="caption", image="file")
classifier.predict(new)
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path

import datasets
import pandas

from ..data.columns import IMAGE_NAMES, listed
from ..data.description import DataDescription
from ..features.cache import DEFAULT_FEATURE_CACHE
from ..numeric_columns import numbers_of_post
from ..partial_files import own_partial
from ..pictures import pictures_of, undecoded
from ..pipeline_mm_orient import POST_KEYS
from ..tasks import kind_of
from .evaluation import evaluate
from .posts_in_memory import placed, write_posts
from .predictions import predict_logits, prediction_columns, prediction_lines, prediction_row, unlabelled
from .preset_files import is_from_scratch, load_preset, with_architecture, with_encoders, with_tiny_encoders
from .run_folder import describe_data, folder_or_download, load_run, read_metrics, read_run
from .settings import TrainingSettings
from .trainer_options import check_one_metric, trainer_fields
from .training import train

logger = logging.getLogger(__name__)

SETTINGS = {entry.name for entry in fields(TrainingSettings)} - {"trainer"}


class MMOrientClassifier:
    """A classifier of posts of picture and text, for one task or several; a run's folder is its memory.

    Data are a `pandas.DataFrame`, a list of dicts, a `datasets.Dataset` or `DatasetDict`, or a folder or Hub id as `--data`
    takes them. Pictures in a frame are paths (relative to `root`), PIL images, arrays or bytes.

    Args:
        folder: of the run; None (default) takes a temporary one, which goes with the object unless `save` keeps it.
        preset: names of presets (default none: that of `modern` where encoders are named, else tiny ones from scratch).
        joint_encoder, text_encoder, vision_encoder: Hub ids or paths. revision: of their repositories.
        config: fields of `MMOrientConfig`.
        feature_cache: folder of stored features of frozen encoders; None encodes in every epoch.
        settings: fields of `TrainingSettings` (`epochs`, `batch_size`, `learning_rate`, ...) and of transformers'
            `TrainingArguments` (`report_to`, `max_grad_norm`, ...).

    Attributes:
        folder: the run's.

    Raises:
        ValueError: an argument is unknown or wrong.
    """

    def __init__(
        self,
        folder=None,
        *,
        preset: str | Sequence[str] = (),
        joint_encoder: str | None = None,
        text_encoder: str | None = None,
        vision_encoder: str | None = None,
        revision: str | None = None,
        config: dict | None = None,
        feature_cache: str | None = DEFAULT_FEATURE_CACHE,
        **settings,
    ):
        self._temporary = tempfile.TemporaryDirectory(prefix="mm_orient_") if folder is None else None
        self.folder = Path(self._temporary.name) / "run" if self._temporary else Path(folder)
        encoders = {"joint": joint_encoder, "text": text_encoder, "vision": vision_encoder}
        names = [preset] if isinstance(preset, str) else preset
        chosen = with_encoders(load_preset(*names), encoders, revision)
        chosen = with_architecture(chosen) if chosen["encoders"] else chosen
        self._preset = with_tiny_encoders(chosen) if is_from_scratch(chosen) else chosen
        ours = {name: value for name, value in settings.items() if name in SETTINGS}
        theirs = trainer_fields({name: value for name, value in settings.items() if name not in SETTINGS})
        check_one_metric(ours, theirs)
        self._settings = TrainingSettings(**self._preset["training"] | ours | theirs)
        self._config, self._feature_cache, self._loaded = config or {}, feature_cache, None
        self._learned: tuple | None = None  # posts of Python's and their root, for which no folder stands
        self._root = None  # of the pictures that were learned from

    def fit(
        self,
        data,
        labels: str | Sequence[str] = (),
        *,
        regression: str | Sequence[str] = (),
        text: str | Sequence[str] | None = None,
        image: str | Sequence[str] | None = None,
        numeric: Sequence[str] = (),
        root=None,
        overwrite: bool = False,
        skip_bad_posts: bool = False,
        **description,
    ) -> "MMOrientClassifier":
        """Check the data, train, and keep the best epoch, as `mm-orient train` does.

        Args:
            labels: columns, one task each; `"emotions=joy,sadness"` is one task of several columns of 0 and 1.
            regression: columns that are numbers. numeric: columns of numbers that say something of a post.
            text: column of the texts, or several, joined under their names (default: found as on the command line).
            image: column of the pictures (default: likewise).
            root: folder of a frame's pictures (default: the working directory); of those that are predicted later too.
            overwrite: replace a run that is in the folder.
            description: further fields of `DataDescription` (`split_column`, `id_column`, `allow_outside`, ...). Without
                splits in the data they are drawn, by content.

        Raises:
            DataProblems: every problem of the data at once. ValueError: an argument is wrong.
        """
        columns = _columns(text, image) | description
        columns |= {"labels": _listed(labels) or None, "regression_columns": _listed(regression) or None}
        with write_posts(data, columns.get("image_column") or IMAGE_NAMES, root) as place:
            said = {"numeric_columns": _listed(numeric)} | self._preset["data"] | columns | place
            posts = DataDescription(**said).with_numbers_as_tasks()
            if not posts.labels:
                raise ValueError("name the label columns: `labels=[...]` or `regression=[...]`")
            train(
                posts,
                str(self.folder),
                preset=self._preset,
                settings=self._settings,
                config=self._config,
                feature_cache=self._feature_cache,
                skip_bad_posts=skip_bad_posts,
                overwrite=overwrite or self._temporary is not None,
            )
        self._loaded = None
        self._learned = None if isinstance(data, (str, os.PathLike)) else (data, root)
        self._root = root
        return self

    def predict(self, data, *, root=None, batch_size: int | None = None, **description) -> pandas.DataFrame:
        """What is decided of each post: a column per task, with a label, a list of labels or a value.

        Args:
            data: posts, or one as a dict. root, description: as in `fit`, where they differ from there.
            batch_size: posts per pass (default: as trained).

        Returns:
            A row per post in its order, by the index of a frame; else by the posts' ids.
        """
        tasks, index, lines = self._lines(data, root, batch_size, description)
        decided = [{task["name"]: kind_of(task).decision(task, line[task["name"]]) for task in tasks} for line in lines]
        return pandas.DataFrame(decided, index=index, columns=[task["name"] for task in tasks])

    def predict_proba(self, data, *, root=None, batch_size: int | None = None, **description) -> pandas.DataFrame:
        """Probabilities, a column per `TASK:LABEL`, and the value of a regression under its name; else as `predict`.

        Raises:
            ValueError: two columns would have the same name.
        """
        tasks, index, lines = self._lines(data, root, batch_size, description)
        prediction_columns(tasks)
        frame = pandas.DataFrame([prediction_row(line, tasks) for line in lines], index=index)
        columns = [[f"{task['name']}:{label}" for label in task["labels"]] or [task["name"]] for task in tasks]
        return frame[[name for names in columns for name in names]]

    def evaluate(self, data, *, split: str = "test", root=None, batch_size: int | None = None, **description) -> dict:
        """Metrics on posts that the model has not learned from, as `mm-orient evaluate` gives them."""
        with self._described(data, root, description) as (posts, size):
            return evaluate(str(self.folder), posts, split=split, batch_size=_checked_size(batch_size, size))

    @property
    def metrics(self) -> dict:
        """Of validation and test, as training left them: split -> task -> metrics."""
        read_run(str(self.folder))
        return read_metrics(self.folder)

    @property
    def model(self):
        """`MMOrientForMultiTaskClassification`."""
        return self._run()[0]

    @property
    def processor(self):
        """`MMOrientProcessor`."""
        return self._run()[1]

    def explain(self, post: Mapping, *, neighbours: int = 3, root=None, **description):
        """Why a post got its verdict: shown in a notebook, saved by `save_html` and `save_png`.

        Args:
            post: `image`, `text` and `numbers`, or a row of the columns that were learned from. neighbours: reference posts
                per modality. root: as in `predict`. description: of a row, likewise.

        Raises:
            ValueError: it is neither, or a part of it cannot be read.
        """
        from .explanation_page import explain_post

        model, processor = self._run()
        if isinstance(post, Mapping) and not set(post) <= {*POST_KEYS}:
            with self._described(post, root, description) as (said, _):
                row = undecoded(unlabelled(model, processor, replace(said, labels=None), None)[0])[0]
                numbers = row["numbers"] if processor.numeric_columns else None
                whole = {"image": pictures_of(row), "text": row["text"], "numbers": numbers}
                return explain_post(model, processor, whole, neighbours, self._references)
        if isinstance(post, Mapping) and post.get("image") is not None:
            base = Path((self._root if root is None else root) or ".").absolute()
            several = isinstance(post["image"], (list, tuple))
            pictures = [_where(each, base) for each in (post["image"] if several else [post["image"]])]
            post = {**post, "image": pictures if several else pictures[0]}
        return explain_post(model, processor, post, neighbours, self._references)

    def _references(self, ids: list[str]) -> dict[str, dict]:
        """What is known of reference posts, see `explain_post`."""
        from .explanation_page import posts_by_id, references_of_run

        if self._learned is None:
            find = references_of_run(str(self.folder))
            return {} if find is None else find(ids)
        data, root = self._learned
        with self._described(data, root, {}) as (said, _):
            return posts_by_id(said)(ids)

    def save(self, folder) -> Path:
        """Keep the run in a folder of its own, which must not be there; complete or not at all."""
        read_run(str(self.folder))
        target = Path(folder)
        if target.exists():
            raise FileExistsError(f"{target} is there already; choose another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = own_partial(target)
        shutil.copytree(self.folder, partial)
        partial.rename(target)
        return target

    @classmethod
    def load(cls, folder_or_id, *, revision: str | None = None) -> "MMOrientClassifier":
        """A run or a checkpoint from its folder, or from the Hub.

        Raises:
            FileNotFoundError: the folder holds none.
        """
        folder = folder_or_download(str(folder_or_id), revision)
        read_run(folder)
        return cls(folder)

    def push(self, repo_id: str, *, private: bool = False):
        """Push the run to the Hub, as `mm-orient push` does."""
        from .push import push

        return push(str(self.folder), repo_id, private=private)

    def _run(self):
        if self._loaded is None:
            self._loaded = load_run(str(self.folder))
        return self._loaded

    @contextmanager
    def _described(self, data, root, description: dict) -> Iterator[tuple[DataDescription, int]]:
        if unknown := description.keys() - {entry.name for entry in fields(DataDescription)} - {"text", "image"}:
            raise TypeError(f"{min(unknown)!r} is no argument here, and no field of `DataDescription`")
        form = _are_posts(data)
        run, data = read_run(str(self.folder)), self._in_columns(data)
        size = run.get("training", {}).get("batch_size", 32)
        changes = _columns(description.pop("text", None), description.pop("image", None)) | description
        before = run.get("data", {})
        there = _columns_in(data)
        for name, usual in (("text_column", "text"), ("image_column", "image")):
            is_read = form and before.get(name, usual) not in (None, [])
            is_there = usual in there and (form or not {*_listed(before.get(name) or usual)} & there)
            if name not in changes and (is_read or is_there):
                changes[name] = usual  # a post by itself is a dict of these
                changes |= {"join_texts": False} if name == "text_column" else {}
        for name, what in (("text_column", "texts"), ("image_column", "pictures")) if there and not form else ():
            names = {*_listed(before.get(name) or [])}
            if name not in changes and names & {*before.get("required_columns", [])} and not names & there:
                logger.warning(
                    "the posts have no column %s, which the %s were learned from", listed(sorted(names)), what
                )
                changes[name] = [] if name == "text_column" else None
        pictures = changes.get("image_column") or before.get("image_column") or IMAGE_NAMES
        with write_posts(data, pictures, self._root if root is None else root) as place:
            yield describe_data(run, **changes | place), size

    def _in_columns(self, data):
        """Posts with `numbers` as the pipeline takes them, these in columns; missing where a post says none."""
        is_one = isinstance(data, Mapping) and not isinstance(data, datasets.DatasetDict)
        rows = [data] if is_one else data
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
            return data
        columns = self.processor.numeric_columns
        if any(column["name"] == "numbers" for column in columns):
            return data
        found = [_with_numbers(row, place, columns) for place, row in enumerate(rows)]
        return found[0] if is_one else found

    def _lines(self, data, root, batch_size: int | None, description: dict):
        """The tasks, what names the posts, and a line of predictions per post."""
        model, processor = self._run()
        with self._described(data, root, description) as (said, size):
            posts, inputs, collator = unlabelled(model, processor, replace(said, labels=None), None)
            verdicts = predict_logits(model, inputs, collator, _checked_size(batch_size, size))
        verdicts.say_strange()
        index = data.index if isinstance(data, pandas.DataFrame) else posts["id"]
        tasks = model.config.tasks
        return tasks, index, prediction_lines(posts["id"], verdicts.logits, tasks)


def _columns_in(data) -> set[str]:
    """Those of a frame, a data set, rows or a row; none of a folder."""
    if isinstance(data, (datasets.Dataset, datasets.DatasetDict)):
        parts = data.values() if isinstance(data, datasets.DatasetDict) else [data]
        return {name for part in parts for name in part.column_names}
    if isinstance(data, (list, tuple)):
        return {name for row in data if isinstance(row, Mapping) for name in row}
    return {*data} if isinstance(data, (pandas.DataFrame, Mapping)) else set()


def _where(picture, base: Path):
    """A picture's path below `base`, where `predict` has it from, if it is there; else the picture as it is given."""
    there = placed(picture, base)
    return there if there is not picture and os.path.exists(there) else picture


def _checked_size(batch_size: int | None, usual: int) -> int:
    if batch_size is not None and (not isinstance(batch_size, Integral) or isinstance(batch_size, bool)):
        raise ValueError(f"`batch_size` must be a whole number, got {batch_size!r}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    return usual if batch_size is None else batch_size


def _are_posts(data) -> bool:
    """Whether it is a post, or a list of posts, in the pipeline's form, with the text as it is read."""
    rows = data if isinstance(data, (list, tuple)) else [data]
    return bool(rows) and all(isinstance(row, Mapping) and {*row} <= {*POST_KEYS} for row in rows)


def _with_numbers(post: Mapping, place: int, columns: list[dict]) -> dict:
    """The post with its `numbers` in columns of their names; without any, a post of the pipeline's form has none of them."""
    names = [column["name"] for column in columns]
    rest, said = {name: value for name, value in post.items() if name != "numbers"}, post.get("numbers")
    if said is None:
        return (dict.fromkeys(names) if {*rest} <= {*POST_KEYS} else {}) | rest
    if not columns:
        raise ValueError(f"this model has no numeric columns, and post {place} has `numbers`")
    return rest | dict(zip(names, numbers_of_post(place, said, columns), strict=True))


def _columns(text, image) -> dict:
    """Fields of `DataDescription` of the columns of texts and pictures, where they are said."""
    changes = {}
    if text is not None:
        several = not isinstance(text, str) and len(text) > 1
        changes["text_column"] = text if isinstance(text, str) else list(text)
        changes["join_texts"] = several
    if image is not None:
        changes["image_column"] = image if isinstance(image, str) else list(image)
    said = [name for column in (text, image) if column is not None for name in _listed(column)]
    return changes | ({"required_columns": said} if said else {})


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else [str(name) for name in names]
