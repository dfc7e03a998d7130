# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From any source to posts in one schema, checked as a whole.

The schema: `id` string, `image` Image (undecoded; null for none), `text` string (null for none), and per task, as
`label.TASK`, a ClassLabel (null where missing), a list of 0/1 or a float.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from ..pictures import pictures_of
from .arrays import FeatureArrays
from .columns import complete_split
from .description import NO_SPLITS, DataDescription
from .labels import feature_of, finite, is_missing, label_column, label_counts, read_labels, untrainable
from .picture_files import PictureRefused, image_finder, image_problems, picture_name
from .problems import DataProblems, Problem, readable, shown
from .sources import Source, open_rows
from .splits import SPLITS, assign_known_splits, assign_splits, draw_splits, regrouped
from .tables import Row

logger = logging.getLogger(__name__)

REPAIRS_SHOWN = 3
OF_COLUMNS = ("single class", "not a class column", "too fine")


def read_posts(
    description: DataDescription,
    skip_bad_posts: bool = False,
    check_images: bool = True,
    training: bool = True,
    split_at_random: bool = True,
) -> tuple[datasets.DatasetDict, list[dict], list[Problem]]:
    """Read and check a whole data set before anything expensive starts.

    Args:
        skip_bad_posts: leave out posts with a problem of their own, with a warning that names them, instead of refusing
            the data set.
        check_images: decode every picture once.
        training: refuse a task that has fewer than two classes.
        split_at_random: with labels, split posts whose data say no split; else they are `"all"`.

    Returns:
        The posts by split (`"train"`, `"validation"`, `"test"`, or `"all"` where no split is known and none was drawn; a
        part of a `DatasetDict` that is none of these keeps its name), the task descriptions, and the problems of posts that
        were left out.

    Raises:
        DataProblems: with every problem found. FileNotFoundError, ValueError: no such data, table or column.
    """
    source = open_rows(description)
    rows = list(source.rows)
    return _read(source, rows, skip_bad_posts, check_images, training, "random" if split_at_random else "known")


def _read(source: Source, rows: list[Row], skip_bad_posts: bool, check_images: bool, training: bool, splits: str):
    """`read_posts` of rows that were read."""
    repaired = repairs_of(rows)
    _say_repaired(repaired, len(repaired))
    posts, tasks, problems = _checked(source, rows, skip_bad_posts, check_images, training, splits)
    if problems:
        logger.warning("%d post(s) left out: %s", len({p.where for p in problems}), DataProblems(problems))
    return posts, tasks, problems


def _checked(
    source: Source, rows: list[Row], skip_bad_posts: bool, check_images: bool, training: bool, splits: str = "random"
) -> tuple[datasets.DatasetDict, list[dict], list[Problem]]:
    """Rows to posts; arguments and results as in `read_posts`, `splits` one of random, known and none."""
    description = source.description
    if not rows:
        raise ValueError(f"{description.data}: no posts")
    arrays = FeatureArrays(description.feature_arrays)
    arrays.check_rows(len(rows), description.data)
    for row in rows:
        _make_plain(description, row)
    if splits != "none":
        description = complete_split(description, rows)
    posts, problems = _posts(description, rows, source)
    pictures, texts = (sum(post[name] is not None for post in posts) for name in ("image", "text"))
    logger.info("%d posts: %d with a picture, %d with a text", len(posts), pictures, texts)
    for place, name in enumerate(description.numeric_columns):
        if missing := sum(post["numbers"][place] != post["numbers"][place] for post in posts):
            logger.info("%d of %d posts say nothing in the column %r", missing, len(posts), name)
    problems += [Problem(posts[row]["where"], "not a number", what) for row, what in arrays.problems()]
    tasks = []
    if description.labels:
        tasks = [read_labels(name, description, source.declared, posts, problems) for name in description.labels]
    if splits == "none":
        for post in posts:
            post["split"] = "all"
    else:
        assign_splits(description, posts, problems)
    if check_images:
        _check_images(posts, problems, Path(description.data))
    bad = {problem.where for problem in problems}
    kept = [post for post in posts if post["where"] not in bad]
    if splits == "random":  # those that are left out take nobody's place
        draw_splits(description, kept)
    if training:
        problems += untrainable(tasks, [post for post in kept if post["split"] == "train"])
    fatal = [problem for problem in problems if problem.kind in OF_COLUMNS]
    if problems and (fatal or not kept or not skip_bad_posts):
        raise DataProblems(problems)
    return _as_datasets(kept, tasks, with_rows=bool(description.feature_arrays)), tasks, problems


def repairs_of(rows: list[Row]) -> list[Problem]:
    """What a reader mended, row by row."""
    return [Problem(row.where, "repaired", row.repair) for row in rows if row.repair is not None]


def _say_repaired(repaired: list[Problem], count: int) -> None:
    if count:
        said = "; ".join(f"{repair.where}: {repair.what}" for repair in repaired[:REPAIRS_SHOWN])
        logger.warning("%d row(s) repaired, say %s; mm-orient inspect-data lists them", count, said)


def read_split(
    description: DataDescription,
    split: str | None,
    *,
    skip_bad_posts: bool = False,
    check_images: bool = True,
    of_run: dict[str, str] | None = None,
    own: dict[str, str] | None = None,
) -> tuple[datasets.Dataset, list[dict]]:
    """The posts of one split, or with None all in the order of their rows, and the task descriptions.

    Arguments and errors as in `read_posts`.

    Args:
        split: a part of a `DatasetDict`, a table or a folder (`dev_seen`) may bear its own name.
        of_run: post key -> the split that a run had it in, which counts where the data say none; without any, a random
            split does.
        own: of a run that has splits of its own, post key -> split, which counts whatever the data say where it knows all
            posts and no column of splits is named.

    Raises:
        ValueError: there is no such split; the message names those there are.
    """
    source = open_rows(description)
    rows = list(source.rows)
    if split is not None and split not in SPLITS and (part := [r for r in rows if split in (r.part, r.split)]):
        split, rows = None, part
    how = "none" if split is None else "known" if of_run else "random"
    splits, tasks, _ = _read(source, rows, skip_bad_posts, check_images, False, how)
    if split is None:
        return splits["all"], tasks
    if own and not description.split_column:
        splits = regrouped(splits, own)
    if of_run and set(splits) == {"all"} and (rows := assign_known_splits(splits["all"], of_run).get(split)):
        return splits["all"].select(rows), tasks
    if split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}")
    return splits[split], tasks


def account_for_rows(description: DataDescription, check_images: bool = True) -> dict:
    """Every row of a data set: read, repaired (how) or rejected (why), as plain data; nothing is written or trained.

    Returns:
        `rows`, `read`, `repaired` and `rejected` (lists of `where` and `what`), `posts` by split, and per task the number of
        posts of each label.
    """
    source = open_rows(description)
    rows = list(source.rows)
    repaired = repairs_of(rows)
    try:
        posts, tasks, rejected = _checked(source, rows, True, check_images, training=False)
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
    if "more_images" in posts.column_names:
        posts = posts.remove_columns("more_images")
    nothing = datasets.Dataset.from_dict(
        {"image": [None] * len(posts)}, features=datasets.Features({"image": posts.features["image"]})
    )
    return datasets.concatenate_datasets([posts.remove_columns("image"), nothing], axis=1)


def stream_posts(
    description: DataDescription, wanted: Callable[[int], bool] = lambda index: True, from_hub: bool = False
) -> Iterator[tuple[str, dict, str | None]]:
    """Posts one by one in bounded memory, however many there are: where each stands, `{"id", "image", "more_images", "text",
    "numbers"}`, and what is wrong with its row, or None. At their end the log says how many rows were repaired.

    Labels and splits are not looked at, pictures not opened, ids not compared: those of every part of a data set but the
    first are PART/ID.

    Args:
        wanted: function of a row's number, from 0; rows that it says False to are read over.
        from_hub: whether a data set of the Hub is read from there as it comes.

    Raises:
        FileNotFoundError, ValueError: no such data, table or column.
    """
    source = open_rows(replace(description, labels=None, split_column=None), from_hub)
    find_image = image_finder(Path(description.data), [*description.allow_outside, *source.inside])
    repaired, count, first_part, nans = [], 0, None, 0
    for index, row in enumerate(source.rows):
        first_part = row.part if index == 0 else first_part
        if not wanted(index):
            continue
        count += row.repair is not None
        nans += _says_nan(source.description, row)
        if row.repair is not None and len(repaired) < REPAIRS_SHOWN:
            repaired += repairs_of([row])
        post, problems = read_post(source.description, find_image, index, row, source.has_ids)
        if row.part != first_part:  # which ids stand in several parts would be known at their end
            post["id"] = f"{row.part}/{post['id']}"
        content = {name: post[name] for name in ("id", "image", "more_images", "text", "numbers")}
        yield row.where, content, problems[0].what if problems else None
    _say_repaired(repaired, count)
    _say_nans(nans)


def _says_nan(description: DataDescription, row: Row) -> bool:
    """Whether a text of the row is the word that a missing one becomes where it is written as a text."""
    cells = (row.values.get(name) for name in description.text_columns)
    return any(isinstance(cell, str) and cell.strip().lower() == "nan" for cell in cells)


def _say_nans(count: int) -> None:
    if count:
        logger.warning("%d posts have the text `nan`, which is taken for none", count)


def _posts(description: DataDescription, rows: list[Row], source: Source) -> tuple[list[dict], list[Problem]]:
    posts, problems, seen, renamed, nans = [], [], {}, 0, 0
    find_image = image_finder(Path(description.data), [*description.allow_outside, *source.inside])
    for index, row in enumerate(rows):
        post, found = read_post(description, find_image, index, row, source.has_ids)
        problems += found
        nans += _says_nan(description, row)
        post["part"] = row.part
        if post["id"] in seen and post["part"] != seen[post["id"]]["part"]:
            post["id"], renamed = f"{post['part']}/{post['id']}", renamed + 1  # the parts of a data set may overlap
        other = seen.get(post["id"])
        if other is not None and (post["numbered"] or other["numbered"]):
            named, nameless = (other, post) if post["numbered"] else (post, other)
            seen[named["id"]], nameless["id"] = named, nameless["where"]  # what is another's id is not a row's
            while nameless["id"] in seen:
                nameless["id"] += "'"
            seen[nameless["id"]] = nameless
        if post["id"] in seen and seen[post["id"]] is not post:
            what = f"id {shown(post['id'])} is also that of {seen[post['id']]['where']}"
            problems.append(Problem(row.where, "duplicate id", what))
        seen.setdefault(post["id"], post)
        post["split"] = row.values.get(description.split_column) if description.split_column else row.split
        if description.split_column == NO_SPLITS:
            post["split"] = None
        for label in description.labels or []:
            cells = [row.values.get(column) for column in description.columns_of(label)]
            post[label_column(label)] = cells if label in description.label_groups else cells[0]
        posts.append(post)
    _say_nans(nans)
    if renamed:
        logger.info("%d posts stand in several parts of the data: their ids there are PART/ID", renamed)
    return posts, problems


def read_post(
    description: DataDescription, find_image, index: int, row: Row, has_ids: bool = False
) -> tuple[dict, list[Problem]]:
    """A row as a post without labels, and what is wrong with it.

    Such a post has `id`, whether that is the row's number or place (`numbered`), `image`, `text`, `where` and `row`.

    Args:
        find_image: `picture_files.image_finder` of the data's folder.
        index: the row's number, the id of a post that has no other. has_ids: others have one, and it is its place.
    """
    problems = [] if row.problem is None else [Problem(row.where, "malformed row", row.problem)]
    _make_plain(description, row)
    images = [value for name in description.image_columns for value in _listed_pictures(row.values.get(name))]
    texts = {name: row.values[name] for name in description.text_columns if not is_missing(row.values.get(name))}
    name = row.values.get(description.id_column or "id")
    if is_missing(name):
        name = picture_name(images[0], Path(description.data), description.allow_outside) if images else None
    elif not isinstance(name, (str, int, float)):
        problems.append(Problem(row.where, "malformed row", f"the id is {shown(name)}, no text or number"))
        name = None
    post = {"where": row.where, "row": index, "numbered": name is None, "text": None, "image": None}
    post["more_images"] = []
    nameless = row.where if has_ids else str(index)
    post["id"] = nameless if name is None else readable(str(name))
    try:
        texts = {name: _text_of(value) for name, value in texts.items()}
        if texts and description.join_texts:
            post["text"] = "\n".join(f"{name}: {text.strip()}" for name, text in texts.items())
        elif texts:
            post["text"] = next(iter(texts.values()))
        found = [picture for picture in map(find_image, images) if picture is not None]
        post["image"], post["more_images"] = (found or [None])[0], found[1:]
    except PictureRefused as refused:
        problems.append(Problem(row.where, refused.kind, str(refused)))
    except ValueError as error:
        problems.append(Problem(row.where, "malformed row", str(error)))
    post["numbers"] = _numbers(description, row, problems)
    if post["image"] is None and post["text"] is None and not problems:
        problems.append(Problem(row.where, "empty post", "neither an image nor a text"))
    return post, problems


def _make_plain(description: DataDescription, row: Row) -> None:
    """Have texts in binary columns be texts, and decimals numbers; bytes that are no text, and pictures, stay."""
    strange = [name for name, value in row.values.items() if isinstance(value, (bytes, Decimal, list))]
    for name in set(strange) - set(description.image_columns):
        value = row.values[name]
        row.values[name] = [_plain(part) for part in value] if isinstance(value, list) else _plain(value)


def _plain(value):
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


def _listed_pictures(value) -> list:
    """What a cell names: nothing, a picture, or those of a list (in CSV a JSON list)."""
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # a file may be called anything
            return [value]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [picture for picture in values if not is_missing(picture)]


def _numbers(description: DataDescription, row: Row, problems: list[Problem]) -> list[float]:
    """What stands in the numeric columns, NaN where nothing does."""
    numbers = []
    for name in description.numeric_columns:
        value, number = row.values.get(name), float("nan")
        if not is_missing(value):
            try:
                number = finite(value)
            except (TypeError, ValueError, OverflowError):
                problems.append(Problem(row.where, "not a number", f"{name} is {shown(value)}, not a number"))
        numbers.append(number)
    return numbers


def _text_of(value) -> str:
    if isinstance(value, (list, tuple, dict)):
        raise ValueError(f"the text is {shown(value)}; a post has one text")
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise ValueError(f"the text is {shown(value)} that are not UTF-8") from None


def _check_images(posts: list[dict], problems: list[Problem], folder: Path) -> None:
    pictures = [(post, picture) for post in posts for picture in pictures_of(post)]
    found = tqdm(
        image_problems([picture for _, picture in pictures], folder), "checking images", len(pictures), leave=False
    )
    for (post, _), problem in zip(pictures, found, strict=True):
        if problem is not None:
            problems.append(Problem(post["where"], *problem))


def _as_datasets(posts: list[dict], tasks: list[dict], with_rows: bool = False) -> datasets.DatasetDict:
    features = {"id": datasets.Value("string"), "image": datasets.Image(decode=False), "text": datasets.Value("string")}
    if with_rows:
        features["row"] = datasets.Value("int64")
    if any(post["more_images"] for post in posts):
        features["more_images"] = datasets.Sequence(datasets.Image(decode=False))
    if any(post["numbers"] for post in posts):
        features["numbers"] = datasets.Sequence(datasets.Value("float64"))  # times in seconds are large
    features |= {label_column(task["name"]): feature_of(task) for task in tasks}
    features = datasets.Features(features)
    names = {post["split"]: None for post in posts}
    splits = [name for name in SPLITS if name in names] + [name for name in names if name not in SPLITS]
    columns = {
        split: {name: [post[name] for post in posts if post["split"] == split] for name in features} for split in splits
    }
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(columns[split], features=features) for split in splits}
    )
