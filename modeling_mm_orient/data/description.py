# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Where the posts are and which columns matter, and who rewrites their texts; imports nothing heavy, the command line is
made from it."""

import os
from dataclasses import dataclass, replace

from .fields import described

FEATURE_DIMENSIONS = {
    "image_embeds": 2, "text_embeds": 2, "region_features": 3, "token_features": 3, "task_features": 2,
    "region_mask": 2, "token_mask": 2,
}  # fmt: skip

NO_SPLITS = ""  # in place of a split column: whatever the data say of splits is left aside


@dataclass
class DataDescription:
    """Where the posts are and which columns matter; the `data` part of a preset.

    `data` is a folder of pictures with a table, a `datasets` directory written by `save_to_disk`, or a Hub id. Without
    `id_column` a post's id is its `id` column, its picture's name or its row number. `labels_file` None takes the only table
    that has the columns, or one per split named after it (`train.csv`, `val.csv`, ...). `text_cleaning`,
    `remove_overlaid_text` and `read_missing_text` are what the processor of a model trained on these posts does. Pictures
    lie in the folder or in one of `allow_outside`, which comes from whoever calls and never from a file. With a
    `split_column` of `NO_SPLITS`, `""`, the data say no splits, whatever stands there.
    """

    data: str
    labels: list[str] | None = described(
        "label columns, one task each; TASK=COLUMN,COLUMN,... makes one task of several columns of 0 and 1",
        metavar="COLUMN",
    )
    regression_columns: list[str] | None = described("label columns that are numbers, whole ones too", metavar="COLUMN")
    labels_file: str | None = described(
        "table inside the folder (default: the one that has the columns)", metavar="FILE"
    )
    text_column: str | list[str] = described(
        "of several the first filled one counts; none for pictures alone", "text", metavar="COLUMN"
    )
    join_texts: bool = described("of several text columns all, each after its name: 'title: ...', 'body: ...'", False)
    image_column: str | list[str] | None = described(
        "the pictures, or their file names, one or a list; several columns are pictures of one post; none for texts alone",
        "image",
        metavar="COLUMN",
    )
    id_column: str | None = described("default: id, or the picture's name", metavar="COLUMN")
    split_column: str | None = described(
        "train, validation, test (default: `split`, if it holds these, else at random); none leaves the data's aside",
        metavar="COLUMN",
    )
    label_columns: dict[str, str] = described("task name -> column name", factory=dict)
    label_maps: dict[str, dict[str, str | None]] = described(
        "task name -> {value in the table: label name, or null for missing}", factory=dict
    )
    tasks: list[dict] | None = described("task descriptions known beforehand; others are inferred from the values")
    split_seed: int = described("of the random split of posts that have none", 0, metavar="N")
    tables: dict[str, str] = described(
        "file name -> split, for tables that say it in their names; those that are there are read", factory=dict
    )
    reader: str | None = described("name of one of `published_tables.READERS`, for data sets whose tables need one")
    encoding: str = described("of the tables; a byte order mark in a table says more", "utf-8", metavar="NAME")
    allow_outside: list[str] = described(
        "a folder outside the data's in which its table may name pictures (repeatable)", factory=list, metavar="FOLDER"
    )
    text_cleaning: list[str] = described("steps every text goes through, see `text_cleaning.STEPS`", factory=list)
    remove_overlaid_text: bool = described("paint over text on pictures", False)
    read_missing_text: bool = described("where a post has no text, read its picture's", False)
    required_columns: list[str] = described("columns that have to be there, default names among them", factory=list)
    feature_arrays: dict[str, str] = described(
        "features extracted elsewhere, .npy files with a row per row of the table: " + ", ".join(FEATURE_DIMENSIONS),
        factory=dict,
        metavar="FEATURE=FILE",
    )
    paraphrases: str | None = described("of mm-orient paraphrase: more training posts", metavar="FILE")
    numeric_columns: list[str] = described(
        "numbers that say something of a post (likes, shares): standardised task features",
        factory=list,
        metavar="COLUMN",
    )
    label_groups: dict[str, list[str]] = described("task name -> columns of 0 and 1, one label each", factory=dict)

    def __post_init__(self):
        for name in self.labels or []:
            task, is_group, columns = name.partition("=")
            if is_group:
                self.label_groups = self.label_groups | {task: _group(name, task, columns)}
        if self.labels is not None:
            self.labels = [name.partition("=")[0] for name in self.labels]
            if twice := [name for name in self.labels if self.labels.count(name) > 1]:
                raise ValueError(f"the task {twice[0]!r} is named twice among the labels")

    @property
    def text_columns(self) -> list[str]:
        return [self.text_column] if isinstance(self.text_column, str) else list(self.text_column or [])

    @property
    def folders(self) -> list[str]:
        """Those that its files lie in."""
        arrays = (os.path.dirname(path) for path in self.feature_arrays.values())
        return [self.data, *self.allow_outside, *arrays]

    @property
    def image_columns(self) -> list[str]:
        return [self.image_column] if isinstance(self.image_column, str) else list(self.image_column or [])

    def columns_of(self, task: str) -> list[str]:
        """The columns that a task's labels stand in."""
        return self.label_groups.get(task) or [self.label_columns.get(task, task)]

    def with_numbers_as_tasks(self) -> "DataDescription":
        """What `regression_columns` names is among the labels too."""
        more = [name for name in self.regression_columns or [] if name not in (self.labels or [])]
        return replace(self, labels=[*(self.labels or []), *more]) if more else self


def _group(said: str, task: str, columns: str) -> list[str]:
    names = [name.strip() for name in columns.split(",")]
    if not task or not all(names) or len(set(names)) < len(names) or len(names) < 2:
        raise ValueError(
            f"labels {said!r}: several columns of one task are TASK=COLUMN,COLUMN,...; a column with = in its name has to "
            "be renamed"
        )
    return names


@dataclass
class ChatModel:
    """A chat model behind an endpoint, and how it is asked."""

    endpoint: str = described("OpenAI-compatible, say http://localhost:8000/v1", "", metavar="URL")
    model: str = described("its name at the endpoint", "", metavar="NAME")
    variants: int = described("paraphrases per text, the paper's number", 5, metavar="N")
    temperature: float = described("of sampling", 0.9)
    max_tokens: int | None = described("of an answer (default: 60 per variant and 100)", metavar="N")
    api_key: str | None = described("sent to the endpoint; without one no key is, and never the Hub's token")
    timeout: float = described("for an answer", 60.0, metavar="SECONDS")
    retries: int = described("further tries after one that failed", 5, metavar="N")
    backoff: float = described(
        "before the first of them, doubled for each; where the server says how long to wait, that",
        1.0,
        metavar="SECONDS",
    )
    requests_per_minute: float | None = described("default: no limit", metavar="N")
    parallel: int = described("requests at a time", 4, metavar="N")
