# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From any source to posts in one schema, checked as a whole.

The schema: `id` string, `image` Image (undecoded; null for none), `text` string (null for none), and per task a ClassLabel
(null where missing), a list of 0/1 or a float.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from .arrays import FeatureArrays
from .description import DataDescription
from .labels import feature_of, is_missing, label_counts, read_labels, untrainable
from .picture_files import image_finder, image_problems, picture_name
from .problems import DataProblems, Problem
from .sources import open_rows
from .splits import assign_splits
from .tables import Row

logger = logging.getLogger(__name__)

OF_COLUMNS = ("single class", "not a class column")


def read_posts(
    description: DataDescription, skip_bad_posts: bool = False, check_images: bool = True, training: bool = True
) -> tuple[datasets.DatasetDict, list[dict], list[Problem]]:
    """Read and check a whole data set before anything expensive starts.

    Args:
        skip_bad_posts: leave out posts with a problem of their own, with a warning that names them, instead of refusing
            the data set.
        check_images: decode every picture once.
        training: refuse a task that has fewer than two classes.

    Returns:
        The posts by split (`"train"`, `"validation"`, `"test"`, or `"all"` where no split is known and no labels are
        read), the task descriptions, and the problems of posts that were left out.

    Raises:
        DataProblems: with every problem found. FileNotFoundError, ValueError: no such data, table or column.
    """
    rows, declared = open_rows(description)
    rows = list(rows)
    if repaired := repairs_of(rows):
        shown = "; ".join(f"{repair.where}: {repair.what}" for repair in repaired[:3])
        logger.warning("%d row(s) repaired, say %s; mm-orient inspect-data lists them", len(repaired), shown)
    posts, tasks, problems = _checked(description, rows, declared, skip_bad_posts, check_images, training)
    if problems:
        logger.warning("%d post(s) left out: %s", len({p.where for p in problems}), DataProblems(problems))
    return posts, tasks, problems


def _checked(
    description: DataDescription,
    rows: list[Row],
    declared: dict,
    skip_bad_posts: bool,
    check_images: bool,
    training: bool,
) -> tuple[datasets.DatasetDict, list[dict], list[Problem]]:
    """Rows to posts; arguments and results as in `read_posts`."""
    if not rows:
        raise ValueError(f"{description.data}: no posts")
    FeatureArrays(description.feature_arrays).check_rows(len(rows), description.data)
    posts, problems = _posts(description, rows)
    tasks = []
    if description.labels:
        tasks = [read_labels(name, description, declared, posts, problems) for name in description.labels]
    assign_splits(description, posts, problems)
    if check_images:
        _check_images(posts, problems)
    bad = {problem.where for problem in problems}
    kept = [post for post in posts if post["where"] not in bad]
    if training:
        problems += untrainable(tasks, [post for post in kept if post["split"] == "train"])
    fatal = [problem for problem in problems if problem.kind in OF_COLUMNS]
    if problems and (fatal or not kept or not skip_bad_posts):
        raise DataProblems(problems)
    return _as_datasets(kept, tasks, with_rows=bool(description.feature_arrays)), tasks, problems


def repairs_of(rows: list[Row]) -> list[Problem]:
    """What a reader mended, row by row."""
    return [Problem(row.where, "repaired", row.repair) for row in rows if row.repair is not None]


def read_split(
    description: DataDescription, split: str | None, *, skip_bad_posts: bool = False, check_images: bool = True
) -> tuple[datasets.Dataset, list[dict]]:
    """The posts of one split, or with None all, and the task descriptions; arguments and errors as in `read_posts`.

    Raises:
        ValueError: there is no such split; the message names those there are.
    """
    splits, tasks, _ = read_posts(description, skip_bad_posts, check_images, training=False)
    if split is None:
        return datasets.concatenate_datasets(list(splits.values())), tasks
    if split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}")
    return splits[split], tasks


def account_for_rows(description: DataDescription, check_images: bool = True) -> dict:
    """Every row of a data set: read, repaired (how) or rejected (why), as plain data; nothing is written or trained.

    Returns:
        `rows`, `read`, `repaired` and `rejected` (lists of `where` and `what`), `posts` by split, and per task the number of
        posts of each label.
    """
    rows, declared = open_rows(description)
    rows = list(rows)
    repaired = repairs_of(rows)
    try:
        posts, tasks, rejected = _checked(description, rows, declared, True, check_images, training=False)
    except DataProblems as problems:
        posts, tasks, rejected = {}, [], problems.problems
    places = {problem.where for problem in rejected}
    return {
        "rows": len(rows),
        "read": sum(len(split) for split in posts.values()),
        "repaired": [{"where": repair.where, "what": repair.what} for repair in repaired if repair.where not in places],
        "rejected": [{"where": problem.where, "what": problem.what} for problem in rejected],
        "posts": {name: len(split) for name, split in posts.items()},
        "labels": {task["name"]: label_counts(task, posts) for task in tasks},
    }


def without_pictures(posts: datasets.Dataset) -> datasets.Dataset:
    """The posts as if none had a picture."""
    nothing = datasets.Dataset.from_dict(
        {"image": [None] * len(posts)}, features=datasets.Features({"image": posts.features["image"]})
    )
    return datasets.concatenate_datasets([posts.remove_columns("image"), nothing], axis=1)


def stream_posts(
    description: DataDescription, wanted: Callable[[int], bool] = lambda index: True
) -> Iterator[tuple[str, dict, str | None]]:
    """Posts one by one in bounded memory, however many there are: where each stands, `{"id", "image", "text"}`, and what is
    wrong with its row, or None.

    Labels and splits are not looked at, pictures not opened, ids not compared.

    Args:
        wanted: function of a row's number, from 0; rows that it says False to are read over.

    Raises:
        FileNotFoundError, ValueError: no such data, table or column.
    """
    description = replace(description, labels=None, split_column=None)
    find_image = image_finder(Path(description.data))
    for index, row in enumerate(open_rows(description)[0]):
        if not wanted(index):
            continue
        post, problems = read_post(description, find_image, index, row)
        yield row.where, {name: post[name] for name in ("id", "image", "text")}, problems[0].what if problems else None


def _posts(description: DataDescription, rows: list[Row]) -> tuple[list[dict], list[Problem]]:
    posts, problems, seen = [], [], {}
    find_image = image_finder(Path(description.data))
    for index, row in enumerate(rows):
        post, found = read_post(description, find_image, index, row)
        problems += found
        if post["id"] in seen:
            problems.append(Problem(row.where, "duplicate id", f"id {post['id']!r} is also that of {seen[post['id']]}"))
        seen.setdefault(post["id"], row.where)
        post["split"] = row.values.get(description.split_column or "__split__")
        for label in description.labels or []:
            post[label] = row.values.get(description.label_columns.get(label, label))
        posts.append(post)
    return posts, problems


def read_post(description: DataDescription, find_image, index: int, row: Row) -> tuple[dict, list[Problem]]:
    """A row as a post without labels (`id`, `image`, `text`, `where`, `row`), and what is wrong with it.

    Args:
        find_image: `picture_files.image_finder` of the data's folder.
        index: the row's number, the id of a post that has no other.
    """
    problems = [] if row.problem is None else [Problem(row.where, "malformed row", row.problem)]
    image = row.values.get(description.image_column)
    text = next((t for t in (row.values.get(c) for c in description.text_columns) if not is_missing(t)), None)
    name = row.values.get(description.id_column or "id")
    if is_missing(name):
        name = picture_name(image, Path(description.data)) or str(index)
    post = {"where": row.where, "row": index, "id": str(name), "text": None if text is None else str(text)}
    try:
        post["image"] = None if is_missing(image) else find_image(image)
    except ValueError as error:
        post["image"] = None
        problems.append(Problem(row.where, "link out of the folder", str(error)))
    if post["image"] is None and post["text"] is None and not problems:
        problems.append(Problem(row.where, "empty post", "neither an image nor a text"))
    return post, problems


def _check_images(posts: list[dict], problems: list[Problem]) -> None:
    with_image = [post for post in posts if post["image"] is not None]
    found = tqdm(
        image_problems([post["image"] for post in with_image]), "checking images", len(with_image), leave=False
    )
    for post, problem in zip(with_image, found, strict=True):
        if problem is not None:
            problems.append(Problem(post["where"], *problem))


def _as_datasets(posts: list[dict], tasks: list[dict], with_rows: bool = False) -> datasets.DatasetDict:
    features = {"id": datasets.Value("string"), "image": datasets.Image(decode=False), "text": datasets.Value("string")}
    if with_rows:
        features["row"] = datasets.Value("int64")
    features |= {task["name"]: feature_of(task) for task in tasks}
    features = datasets.Features(features)
    splits = [name for name in ("train", "validation", "test", "all") if any(post["split"] == name for post in posts)]
    columns = {
        split: {name: [post[name] for post in posts if post["split"] == split] for name in features} for split in splits
    }
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(columns[split], features=features) for split in splits}
    )
