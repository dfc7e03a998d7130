# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""From a folder of pictures and a table, or a `datasets` data set, to posts in one schema, checked as a whole.

The schema: `id` string, `image` Image (undecoded; null for none), `text` string (null for none), and per task a ClassLabel
(null where missing), a list of 0/1 or a float.
"""

import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from .arrays import FeatureArrays
from .picture_files import image_finder, image_problems, picture_name, pictures_below
from .published_tables import READERS
from .tables import TABLE_SUFFIXES, Row, table_columns, table_rows

logger = logging.getLogger(__name__)

SPLITS_FILE = "splits.csv"
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
MISSING_VALUES = ("", "nan")  # not "none": that is a class in some data sets
RESERVED_TASK_NAMES = ("id", "image", "text", "split", "row", "post_key", "mean_macro_f1")
OF_COLUMNS = ("single class", "not a class column")
MOST_CLASSES = 50
MOST_SHOWN = 50


@dataclass
class DataDescription:
    """Where the posts are and which columns matter; the `data` part of a preset.

    Args:
        data: folder, `datasets` directory written by `save_to_disk`, or Hub id.
        labels: names of the tasks, which are column names unless `label_columns` says otherwise; None reads no labels.
        labels_file: table inside the folder; None takes the only one that has the columns, or one table per split named
            after it (`train.csv`, `val.csv`, ...).
        text_column, image_column, id_column, split_column: column names; of several text columns the first filled one
            counts. Without `id_column` a post's id is its `id` column, its picture's name or its row number.
        label_columns: task name -> column name.
        label_maps: task name -> {value in the table: label name, or null for missing}.
        tasks: task descriptions that are known beforehand; others are inferred from the values.
        split_seed: of the random split of posts that have none.
        tables: file name -> split, for tables that say it in their names; those that are there are read.
        reader: name of one of `published_tables.READERS`, for data sets whose tables need one.
        encoding: of the tables.
        text_cleaning: steps that the processor of a model trained on these posts cleans every text by, see
            `text_cleaning.STEPS`. remove_overlaid_text, read_missing_text: that processor's switches of these names.
        feature_arrays: name of a feature -> `.npy` file with a row per row of the table (see `feature_arrays`); the posts
            then have their `row`.
        paraphrases: file of `mm-orient paraphrase`, whose variants of training texts become training posts.
    """

    data: str
    labels: list[str] | None = None
    labels_file: str | None = None
    text_column: str | list[str] = "text"
    image_column: str | None = "image"
    id_column: str | None = None
    split_column: str | None = None
    label_columns: dict[str, str] = field(default_factory=dict)
    label_maps: dict[str, dict[str, str | None]] = field(default_factory=dict)
    tasks: list[dict] | None = None
    split_seed: int = 0
    tables: dict[str, str] = field(default_factory=dict)
    reader: str | None = None
    encoding: str = "utf-8"
    text_cleaning: list[str] = field(default_factory=list)
    remove_overlaid_text: bool = False
    read_missing_text: bool = False
    feature_arrays: dict[str, str] = field(default_factory=dict)
    paraphrases: str | None = None

    @property
    def text_columns(self) -> list[str]:
        return [self.text_column] if isinstance(self.text_column, str) else list(self.text_column or [])


@dataclass(frozen=True)
class Problem:
    """Something wrong in the data: where (file and row), of which kind, and what exactly."""

    where: str
    kind: str
    what: str


class DataProblems(ValueError):
    """All problems of a data set at once."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        counts = Counter(problem.kind for problem in problems)
        lines = [f"{len(problems)} problem(s) in the data:"]
        for kind, count in counts.items():
            shown = [problem for problem in problems if problem.kind == kind][:MOST_SHOWN]
            lines += [f"  {problem.where}: {problem.what}" for problem in shown]
            if count > len(shown):
                lines.append(f"  ... and {count - len(shown)} more of this kind ({kind})")
        super().__init__("\n".join(lines))


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
    rows, class_names = _open_rows(description)
    rows = list(rows)
    if repaired := repairs_of(rows):
        shown = "; ".join(f"{repair.where}: {repair.what}" for repair in repaired[:3])
        logger.warning("%d row(s) repaired, say %s; mm-orient inspect-data lists them", len(repaired), shown)
    posts, tasks, problems = _checked(description, rows, class_names, skip_bad_posts, check_images, training)
    if problems:
        logger.warning("%d post(s) left out: %s", len({p.where for p in problems}), DataProblems(problems))
    return posts, tasks, problems


def _checked(
    description: DataDescription,
    rows: list[Row],
    class_names: dict,
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
        tasks = [_task(name, description, class_names, posts, problems) for name in description.labels]
    _split(description, posts, problems)
    if check_images:
        _check_images(posts, problems)
    bad = {problem.where for problem in problems}
    kept = [post for post in posts if post["where"] not in bad]
    if training:
        problems += _untrainable(tasks, [post for post in kept if post["split"] == "train"])
    fatal = [problem for problem in problems if problem.kind in OF_COLUMNS]
    if problems and (fatal or not kept or not skip_bad_posts):
        raise DataProblems(problems)
    return _as_datasets(kept, tasks, with_rows=bool(description.feature_arrays)), tasks, problems


def repairs_of(rows: list[Row]) -> list[Problem]:
    """What a reader mended, row by row."""
    return [Problem(row.where, "repaired", row.repair) for row in rows if row.repair is not None]


def account_for_rows(description: DataDescription, check_images: bool = True) -> dict:
    """Every row of a data set: read, repaired (how) or rejected (why), as plain data; nothing is written or trained.

    Returns:
        `rows`, `read`, `repaired` and `rejected` (lists of `where` and `what`), `posts` by split, and per task the number of
        posts of each label.
    """
    rows, class_names = _open_rows(description)
    rows = list(rows)
    repaired = repairs_of(rows)
    try:
        posts, tasks, rejected = _checked(description, rows, class_names, True, check_images, training=False)
    except DataProblems as problems:
        posts, tasks, rejected = {}, [], problems.problems
    places = {problem.where for problem in rejected}
    return {
        "rows": len(rows),
        "read": sum(len(split) for split in posts.values()),
        "repaired": [{"where": repair.where, "what": repair.what} for repair in repaired if repair.where not in places],
        "rejected": [{"where": problem.where, "what": problem.what} for problem in rejected],
        "posts": {name: len(split) for name, split in posts.items()},
        "labels": {task["name"]: _label_counts(task, posts) for task in tasks},
    }


def without_pictures(posts: datasets.Dataset) -> datasets.Dataset:
    """The posts as if none had a picture."""
    nothing = datasets.Dataset.from_dict(
        {"image": [None] * len(posts)}, features=datasets.Features({"image": posts.features["image"]})
    )
    return datasets.concatenate_datasets([posts.remove_columns("image"), nothing], axis=1)


def _label_counts(task: dict, posts: datasets.DatasetDict) -> dict[str, int]:
    values = [value for split in posts.values() for value in split[task["name"]] if value is not None]
    if task["kind"] == "regression":
        return {"known": len(values)}
    if task["kind"] == "multi_label":
        return {label: int(sum(value[n] for value in values)) for n, label in enumerate(task["labels"])}
    counts = Counter(values)
    return {label: counts[number] for number, label in enumerate(task["labels"])}


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
    for index, row in enumerate(_open_rows(description)[0]):
        if not wanted(index):
            continue
        post, problems = read_post(description, find_image, index, row)
        yield row.where, {name: post[name] for name in ("id", "image", "text")}, problems[0].what if problems else None


def _open_rows(description: DataDescription) -> tuple[Iterator[Row], dict[str, list[str]]]:
    """The raw rows, read as they are taken, and the names of the classes of the columns that declare them (`ClassLabel`)."""
    path = Path(description.data)
    if not path.exists():
        if path.is_absolute() or description.data.count("/") > 1 or description.data.startswith("."):
            raise FileNotFoundError(f"{description.data}: no such folder")
        try:
            splits = datasets.load_dataset(description.data)
        except OSError as error:
            raise ValueError(f"{description.data}: no such folder, and no data set of that name: {error}") from error
        return _rows_of_datasets(splits, description)
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder, and the file's name as the labels file")
    if (path / "dataset_dict.json").exists():
        return _rows_of_datasets(datasets.load_from_disk(str(path)), description)
    if (path / "state.json").exists():
        return _rows_of_datasets({"all": datasets.load_from_disk(str(path))}, description)
    if description.reader is not None:
        return _published_rows(path, description), {}
    tables = _find_tables(path, description)
    if not tables and description.labels:
        return _rows_of_datasets(_class_folders(path), description)
    if not tables:
        names = [str(picture.relative_to(path)) for picture in pictures_below(path)]
        return (Row(name, {description.image_column or "image": name}) for name in names), {}
    return _rows_of_tables(path, tables, description), {}


def _rows_of_tables(folder: Path, tables: list[Path], description: DataDescription) -> Iterator[Row]:
    are_splits = len(tables) > 1 and _are_splits(tables)
    for table in tables:
        rows = _join_splits(folder, description, table_rows(table, description.encoding))
        if description.split_column is None and (are_splits or table.name in description.tables):
            for row in rows:
                row.values["__split__"] = description.tables.get(table.name, _split_name(table))
                yield row
        else:
            yield from rows


def _are_splits(tables: list[Path]) -> bool:
    return all(_split_name(table).lower() in SPLIT_NAMES for table in tables)


def _split_name(table: Path) -> str:
    """Of `train.csv`, or of `train-00000-of-00002.parquet` as the Hub names parts."""
    return re.sub(r"-\d+-of-\d+$", "", table.stem)


def has_tables(description: DataDescription) -> bool:
    """Whether the description's reader finds its tables in the folder."""
    folder = Path(description.data)
    table = folder / description.labels_file if description.labels_file else None
    try:
        return next(iter(READERS[description.reader](folder, table)), None) is not None
    except FileNotFoundError:
        return False


def _published_rows(folder: Path, description: DataDescription) -> Iterator[Row]:
    if description.reader not in READERS:
        raise ValueError(f"`reader` must be one of {', '.join(READERS)}, got {description.reader!r}")
    table = folder / description.labels_file if description.labels_file else None
    if table is not None and not table.is_file():
        raise FileNotFoundError(f"{table}: no such labels file")
    return _join_splits(folder, description, READERS[description.reader](folder, table))


def _class_folders(folder: Path):
    """The data set of a folder per class, or per split and class, as `datasets` reads an image folder."""
    try:
        return datasets.load_dataset("imagefolder", data_dir=str(folder))
    except (ValueError, datasets.data_files.EmptyDatasetError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"{folder}: neither a table nor a folder of pictures per class ({error})") from None


def _rows_of_datasets(splits, description: DataDescription) -> tuple[Iterator[Row], dict[str, list[str]]]:
    class_names = {}
    for split, dataset in splits.items():
        _require_columns(description, dataset.column_names, f"split {split!r} of {description.data}")
        class_names |= {name: f.names for name, f in dataset.features.items() if isinstance(f, datasets.ClassLabel)}
    marks_split = description.split_column is None
    return (row for split in splits for row in _rows_of_split(splits[split], split, marks_split)), class_names


def _rows_of_split(dataset: datasets.Dataset, split: str, marks_split: bool) -> Iterator[Row]:
    names = {name: feature for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)}
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    for index, values in enumerate(dataset):
        for name, feature in names.items():
            number = values[name]
            values[name] = None if number is None or number < 0 else feature.int2str(number)
        if marks_split and split != "all":
            values["__split__"] = split
        yield Row(f"{split}[{index}]", values)


def _find_tables(folder: Path, description: DataDescription) -> list[Path]:
    """The table that has the columns, or one per split (`train.csv`, `test.csv`), or Parquet files that are parts of one.

    None for a folder of bare pictures.
    """
    if description.labels_file is not None:
        table = folder / description.labels_file
        if not table.is_file():
            raise FileNotFoundError(f"{table}: no such labels file")
        if table.suffix not in TABLE_SUFFIXES:
            raise ValueError(f"{table}: a labels file must end in {', '.join(TABLE_SUFFIXES)}")
        _require_columns(description, _columns_with_splits(folder, table, description), table.name)
        return [table]
    if named := [folder / name for name in description.tables if (folder / name).is_file()]:
        for table in named:
            _require_columns(replace(description, labels=None), table_columns(table, description.encoding), table.name)
        return named
    tables = [p for p in sorted(folder.iterdir()) if p.suffix in TABLE_SUFFIXES and p.name != SPLITS_FILE]
    if not tables:
        return []
    fitting = [p for p in tables if not _missing_columns(description, _columns_with_splits(folder, p, description))]
    if len(fitting) == 1 or (fitting and (_are_splits(fitting) or all(p.suffix == ".parquet" for p in fitting))):
        return fitting
    if len(tables) == 1:
        _require_columns(description, _columns_with_splits(folder, tables[0], description), tables[0].name)
    found = ", ".join(p.name for p in fitting or tables) or "none"
    problem = "several tables have" if fitting else "no table has"
    raise ValueError(
        f"{folder}: {problem} the columns {', '.join(_wanted_columns(description))} (found: {found}); name the labels file"
    )


def _wanted_columns(description: DataDescription) -> list[str]:
    names = [description.label_columns.get(label, label) for label in description.labels or []]
    names += [description.image_column, description.id_column, description.split_column, *description.text_columns]
    return [*dict.fromkeys(name for name in names if name)]


def _missing_columns(description: DataDescription, columns: Iterable[str]) -> list[str]:
    columns = set(columns)
    missing = [name for name in _wanted_columns(description) if name not in columns]
    defaults = {"text", "image"} - set(description.labels or [])
    # a table of texts alone or of pictures alone is fine where the column's name was not given
    has_text = any(name in columns for name in description.text_columns)
    if description.image_column in columns or has_text:
        missing = [name for name in missing if name not in defaults]
    return [name for name in missing if not (has_text and name in description.text_columns)]


def _require_columns(description: DataDescription, columns: Iterable[str], where: str) -> None:
    columns = list(columns)
    if missing := _missing_columns(description, columns):
        raise ValueError(f"{where} has no column {', '.join(missing)}; its columns are {', '.join(columns)}")


def _columns_with_splits(folder: Path, table: Path, description: DataDescription) -> list[str]:
    columns = table_columns(table, description.encoding)
    splits = folder / SPLITS_FILE
    if not description.split_column or description.split_column in columns or not splits.is_file():
        return columns
    found = table_columns(splits) if description.image_column in columns else []
    return (
        [*columns, description.split_column]
        if {description.image_column, description.split_column} <= set(found)
        else columns
    )


def _join_splits(folder: Path, description: DataDescription, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows; a split that they lack is taken from splits.csv beside them, joined on the image column."""
    column, key, splits = description.split_column, description.image_column, folder / SPLITS_FILE
    known = None
    for row in rows:
        if column and column not in row.values and splits.is_file():
            known = known or {split.values[key]: split.values[column] for split in table_rows(splits)}
            row.values[column] = known.get(row.values.get(key))
        yield row


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
    text = next((t for t in (row.values.get(c) for c in description.text_columns) if not _is_missing(t)), None)
    name = row.values.get(description.id_column or "id")
    if _is_missing(name):
        name = picture_name(image, Path(description.data)) or str(index)
    post = {"where": row.where, "row": index, "id": str(name), "text": None if text is None else str(text)}
    try:
        post["image"] = None if _is_missing(image) else find_image(image)
    except ValueError as error:
        post["image"] = None
        problems.append(Problem(row.where, "link out of the folder", str(error)))
    if post["image"] is None and post["text"] is None and not problems:
        problems.append(Problem(row.where, "empty post", "neither an image nor a text"))
    return post, problems


def _is_missing(value) -> bool:
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str) and value.strip().lower() in MISSING_VALUES


def _task(
    name: str, description: DataDescription, class_names: dict, posts: list[dict], problems: list[Problem]
) -> dict:
    """Describe the task, and turn the posts' raw values of it into class numbers, lists or floats.

    Several labels of a post are a list, in a table a JSON list (or, of a known multi-label task, `a|b`).
    """
    if name in RESERVED_TASK_NAMES:
        raise ValueError(f"a task cannot be called {name!r}; rename the column")
    mapping, declared = description.label_maps.get(name, {}), class_names.get(description.label_columns.get(name, name))
    known = {task["name"]: task for task in description.tasks or []}.get(name)
    if known is None and declared and not mapping:
        known = {"name": name, "kind": "single_label", "labels": list(declared)}
    for post in posts:
        value = post[name]
        if isinstance(value, str):
            value = value.strip()
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                problems.append(Problem(post["where"], "unknown label", f"{name} is {value!r}, no JSON list ({error})"))
                value = None
        value = mapping.get(str(value), value) if not isinstance(value, list) else value
        post[name] = None if _is_missing(value) else value
    values = [post[name] for post in posts if post[name] is not None]
    kind = known["kind"] if known and "kind" in known else _kind(values)
    task = {**(known or {"name": name}), "kind": kind}
    if kind == "regression":
        task["labels"] = []
        _convert(posts, name, float, "a number", problems)
        return task
    if "labels" not in task:
        flat = [label for value in values for label in (value if kind == "multi_label" else [value])]
        task["labels"] = sorted({_label(value) for value in flat}, key=_label_order)
        if kind == "single_label" and len(task["labels"]) > max(MOST_CLASSES, len(values) // 2):
            problems.append(
                Problem(
                    f"column {name!r}", "not a class column", f"{len(task['labels'])} different values: not a label"
                )
            )
    numbers = {label: number for number, label in enumerate(task["labels"])}

    def number_of(label):
        return numbers[label if label in numbers else _label(label)]

    def numbers_of(labels):
        found = {number_of(label) for label in (labels.split("|") if isinstance(labels, str) else labels)}
        return [float(number in found) for number in range(len(numbers))]

    convert = numbers_of if kind == "multi_label" else number_of
    _convert(posts, name, convert, f"one of {', '.join(task['labels'][:20])}", problems)
    return task


def _convert(posts: list[dict], name: str, convert, expected: str, problems: list[Problem]) -> None:
    for post in posts:
        if post[name] is not None:
            try:
                post[name] = convert(post[name])
            except (KeyError, TypeError, ValueError):
                problems.append(Problem(post["where"], "unknown label", f"{name} is {post[name]!r}, not {expected}"))
                post[name] = None


def _kind(values: list) -> str:
    if any(isinstance(value, list) for value in values):
        return "multi_label"
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return "single_label"
    return "single_label" if all(number.is_integer() for number in numbers) else "regression"


def _label(value) -> str:
    """One name per class however the table writes it: 1, 1.0 and "1" are the same."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(int(number)) if number.is_integer() else str(value)


def _label_order(label: str):
    return (0, float(label), "") if label.lstrip("-").isdigit() else (1, 0.0, label)


def _split(description: DataDescription, posts: list[dict], problems: list[Problem]) -> None:
    if all(_is_missing(post["split"]) for post in posts):
        for post in posts:
            post["split"] = "all"
    else:
        for post in posts:
            name = SPLIT_NAMES.get(str(post["split"]).strip().lower())
            if name is None:
                what = f"split is {post['split']!r}, not one of {', '.join(SPLIT_NAMES)}"
                problems.append(Problem(post["where"], "unknown split", what))
            post["split"] = name
    if description.labels is None:
        return
    everyone = [post for post in posts if post["split"] == "all"]
    seed = description.split_seed
    _move(everyone, 0.8, "all", "train", seed)
    _move(everyone, 0.5, "all", "validation", seed)
    _move(everyone, 1.0, "all", "test", seed)
    if not any(post["split"] == "validation" for post in posts):
        _move([post for post in posts if post["split"] == "train"], 0.1, "train", "validation", seed)


def _move(posts: list[dict], share: float, source: str, target: str, seed: int) -> None:
    """Reproducibly move a random share of the posts of one split, at least one, to another."""
    left = sorted((post for post in posts if post["split"] == source), key=lambda post: post["id"])
    random.Random(seed).shuffle(left)
    for post in left[: max(1, round(share * len(left)))]:
        post["split"] = target


def _check_images(posts: list[dict], problems: list[Problem]) -> None:
    with_image = [post for post in posts if post["image"] is not None]
    found = tqdm(
        image_problems([post["image"] for post in with_image]), "checking images", len(with_image), leave=False
    )
    for post, problem in zip(with_image, found, strict=True):
        if problem is not None:
            problems.append(Problem(post["where"], *problem))


def _untrainable(tasks: list[dict], posts: list[dict]) -> list[Problem]:
    """Tasks that have no labels, or a single class, in the training posts."""
    problems = []
    for task in tasks:
        used = {str(post[task["name"]]) for post in posts if post[task["name"]] is not None}
        if len(used) < 2:
            names = task["labels"] if task["kind"] == "single_label" else []
            what = (
                f"only {names[int(next(iter(used)))] if names else next(iter(used))!r}" if used else "no label at all"
            )
            problems.append(
                Problem(f"column {task['name']!r}", "single class", f"{what} in training: nothing to learn")
            )
    return problems


def _as_datasets(posts: list[dict], tasks: list[dict], with_rows: bool = False) -> datasets.DatasetDict:
    features = {"id": datasets.Value("string"), "image": datasets.Image(decode=False), "text": datasets.Value("string")}
    if with_rows:
        features["row"] = datasets.Value("int64")
    for task in tasks:
        features[task["name"]] = {
            "single_label": datasets.ClassLabel(names=task["labels"]) if task["labels"] else None,
            "multi_label": datasets.Sequence(datasets.Value("float32")),
            "regression": datasets.Value("float32"),
        }[task["kind"]]
    features = datasets.Features(features)
    splits = [name for name in ("train", "validation", "test", "all") if any(post["split"] == name for post in posts)]
    columns = {
        split: {name: [post[name] for post in posts if post["split"] == split] for name in features} for split in splits
    }
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(columns[split], features=features) for split in splits}
    )
