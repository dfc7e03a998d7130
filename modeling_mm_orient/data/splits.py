# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Which split a post is in: as the data says, as a run knows it, or at random, alike in labels and duplicates together."""

import hashlib
import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import datasets

from ..pictures import pictures_of, post_key
from .description import NO_SPLITS, DataDescription
from .labels import is_missing, label_column
from .problems import Problem, shown

logger = logging.getLogger(__name__)

SPLITS_FILE = "splits.csv"
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
SPLITS = ("train", "validation", "test", "all")
WITH_ADDITION = re.compile(r"(train|training|validation|valid|val|dev|test|testing)[^a-z]", re.IGNORECASE)
RANDOM_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
VALIDATION_SHARE = 0.1  # of the training posts, where no validation is there
LARGEST_GROUPS = (0.5, 0.1, 0.02, 0.0)  # shares of the posts that duplicates may bind together, tried in turn


def split_called(name) -> str | None:
    """The split that a data set's part of this name is (`dev_seen` is validation, `test-2` test), or None."""
    text = str(name).strip().lower()
    found = WITH_ADDITION.match(text)
    return SPLIT_NAMES.get(found[1] if found else text)


def assign_splits(description: DataDescription, posts: list[dict], problems: list[Problem]) -> None:
    """Give every post its split, from its raw `split`; where none has any it is `"all"`.

    A part of a saved or published data set (`part`, its own name) that is no split keeps its name.
    """
    parts = {post.get("part") for post in posts}
    if None not in parts and not any(split_called(part) for part in parts):
        parts = {None}  # one whole under other names
        for post in posts:
            post["split"] = None
    if all(is_missing(post["split"]) for post in posts):
        for post in posts:
            post["split"] = "all"
    else:
        for post in posts:
            name = split_called(post["split"]) or post.get("part")
            if name is None:
                what = f"split is {shown(post['split'])}, not one of {', '.join(SPLIT_NAMES)}"
                problems.append(Problem(post["where"], "unknown split", what))
            post["split"] = name


def draw_splits(description: DataDescription, posts: list[dict]) -> None:
    """Split posts that have no split at random, where there are labels; and without validation a part of training.

    Raises:
        ValueError: a column is named that says it, and it says it of nobody.
    """
    if description.labels is None:
        return
    everyone = [post for post in posts if post["split"] == "all"]
    # a reader knows the column of a published set, of which not every table has splits
    asked = description.reader is None or (Path(description.data) / SPLITS_FILE).is_file()
    if everyone and asked and description.split_column not in (None, NO_SPLITS):
        raise ValueError(
            f"{description.data}: no post has a split in the column {description.split_column!r}, neither in the table nor "
            "by its picture's name in splits.csv"
        )
    split_at_random(everyone, RANDOM_SHARES, description.labels, description.split_seed)
    if not any(post["split"] == "validation" for post in posts):
        train = [post for post in posts if post["split"] == "train"]
        shares = {"train": 1 - VALIDATION_SHARE, "validation": VALIDATION_SHARE}
        split_at_random(train, shares, description.labels, description.split_seed)


def split_of_keys(splits) -> dict[str, str]:
    """Post key -> split of the posts of a `DatasetDict`, to be kept with a run and found again.

    A post's key is its `post_key` column's, or `pictures.post_key` of its picture and text. Of a post that stands in several
    splits the training split counts, then validation: nothing that was learned from is taken for unseen.
    """
    return first_splits(keys_by_split(splits))


def keys_by_split(splits) -> dict[str, list[str]]:
    """Split -> the posts' keys, see `split_of_keys`, in their order."""
    return {split: [post.get("post_key") or post_key(post) for post in splits[split]] for split in splits}


def first_splits(keys: dict[str, list[str]]) -> dict[str, str]:
    """Post key -> the first split that it stands in, training before validation; how many stand in later ones too is
    logged."""
    first: dict[str, str] = {}
    for split in sorted(keys, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS)):
        repeated = Counter(first[key] for key in keys[split] if key in first)
        for before, count in repeated.items():
            logger.warning(
                "%d of %d %s posts stand in %s too, with the same picture and text: they are scored all the same",
                *(count, len(keys[split]), split, before),
            )
        first = dict.fromkeys(keys[split], split) | first
    return first


def assign_known_splits(posts, known: dict[str, str]) -> dict[str | None, list[int]]:
    """Split -> the rows of `posts` (a data set) that a run knows by key to be in it; those that it does not know: None."""
    found = defaultdict(list)
    for row, post in enumerate(posts):
        found[known.get(post.get("post_key") or post_key(post))].append(row)
    return dict(found)


def regrouped(splits: datasets.DatasetDict, known: dict[str, str]) -> datasets.DatasetDict:
    """The posts in the splits that a run knows them in, whatever the data say, if it knows all of them; else as they are."""
    parts: dict[str, list] = defaultdict(list)
    for posts in splits.values():
        places = assign_known_splits(posts, known)
        if None in places:
            return splits
        for split, rows in places.items():
            parts[str(split)].append(posts.select(rows))
    logger.info("the splits are those that the run made of these posts")
    return datasets.DatasetDict({name: datasets.concatenate_datasets(found) for name, found in parts.items()})


def split_at_random(posts: list[dict], shares: dict[str, float], labels: list[str], seed: int) -> None:
    """Move posts to splits by `shares`, at least one to each while there are any: reproducibly, every label in its share,
    rarest first (Sechidis, Tsoumakas and Vlahavas 2011), and posts with the same picture or the same text together.

    Where duplicates bind so many posts that a split would stay empty, only smaller groups are kept together.
    """
    if not posts:
        return
    posts = sorted(posts, key=lambda post: _place(post, labels))
    sizes = _sizes(len(posts), shares)
    links = _duplicates(posts)
    for largest in LARGEST_GROUPS:
        groups = _groups(len(posts), links, int(largest * len(posts)))
        chosen = _stratified(groups, [_labels_of(post, labels) for post in posts], sizes, seed)
        if all(split in chosen for split, size in sizes.items() if size):
            break
    if apart := sum(len({chosen[row] for row in rows}) > 1 for rows in links):
        logger.warning("%d pictures or texts are those of so many posts that they stand in several splits", apart)
    for post, split in zip(posts, chosen, strict=True):
        post["split"] = split


def _place(post: dict, labels: list[str]) -> tuple[str, str]:
    """What orders posts whatever their rows: their ids, or where these are only the rows' numbers their content."""
    if not post.get("numbered"):
        return "", post["id"]
    return post_key(post), repr(_labels_of(post, labels))


def _sizes(count: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers of posts; what is left by one split is shared by those after it, at least one each."""
    sizes, left, share_left = {}, count, sum(shares.values())
    for number, (split, share) in enumerate(shares.items()):
        last = number == len(shares) - 1
        sizes[split] = left if last else min(left, max(1, round(left * share / share_left)))
        if number == 0 and not last and count >= len(shares):  # training leaves one to each of the others
            sizes[split] = min(sizes[split], count - len(shares) + 1)
        left, share_left = left - sizes[split], share_left - share
    return sizes


def _labels_of(post: dict, labels: list[str]) -> list[tuple]:
    """What is to be spread evenly: the class of each task, of several labels each that the post has."""
    found = []
    for name in labels:
        value = post.get(label_column(name))
        if isinstance(value, list):
            found += [(name, number) for number, present in enumerate(value) if present == 1]
        elif isinstance(value, int):
            found.append((name, value))
    return found


def _duplicates(posts: list[dict]) -> list[list[int]]:
    """Rows that share a picture's bytes, and rows that share a text, groups of at least two."""
    by_size, by_content = defaultdict(list), defaultdict(list)
    for row, post in enumerate(posts):
        if post["text"] and post["text"].strip():
            by_content["text", " ".join(post["text"].split()).casefold()].append(row)
        for image in pictures_of(post):
            if (size := _size(image)) is not None:
                by_size[size].append((row, image))
    for found in by_size.values():
        if len(found) > 1:
            for row, image in found:
                if (content := _content(image)) is not None:
                    by_content["image", content].append(row)
    groups = [list(dict.fromkeys(rows)) for rows in by_content.values()]
    return [rows for rows in groups if len(rows) > 1]


def _size(image: dict) -> int | None:
    if image.get("bytes") is not None:
        return len(image["bytes"])
    try:
        return Path(image["path"]).stat().st_size if Path(image["path"]).is_file() else None
    except (OSError, ValueError):
        return None


def _content(image: dict) -> bytes | None:
    try:
        content = image["bytes"] if image.get("bytes") is not None else Path(image["path"]).read_bytes()
    except OSError:
        return None
    return hashlib.sha256(content).digest()


def _groups(count: int, links: list[list[int]], largest: int) -> list[list[int]]:
    """Rows bound together by links, smaller links first, none of more than `largest`."""
    group_of = {row: [row] for row in range(count)}
    for rows in sorted(links, key=len):
        joined = {id(group_of[row]): group_of[row] for row in rows}
        if len(joined) > 1 and sum(map(len, joined.values())) <= largest:
            group = sorted(row for part in joined.values() for row in part)
            group_of |= dict.fromkeys(group, group)
    return list({id(group): group for group in group_of.values()}.values())


def _stratified(groups: list[list[int]], labels: list[list[tuple]], sizes: dict[str, int], seed: int) -> list[str]:
    """The split of each row."""
    count, draw = len(labels), random.Random(seed)
    draw.shuffle(groups)
    groups.sort(key=len, reverse=True)
    counts = [Counter(label for row in rows for label in labels[row]) for rows in groups]
    left = Counter(label for found in labels for label in found)
    with_label = defaultdict(list)
    for number, found in enumerate(counts):
        for label in found:
            with_label[label].append(number)
    wanted = {split: {label: total * size / count for label, total in left.items()} for split, size in sizes.items()}
    room, chosen, order, total = dict(sizes), [None] * count, list(sizes), Counter(left)
    here = {split: Counter() for split in sizes}

    def need_of(label: tuple) -> Callable[[str], tuple]:
        """A class of enough posts is wanted most where there is none of it."""
        return lambda split: (total[label] >= len(order) and not here[split][label], wanted[split][label])

    def place(number: int, need: Callable[[str], tuple]) -> None:
        rows = groups[number]
        fitting = [split for split in order if room[split] >= len(rows)] or [s for s in order if room[s] > 0] or order
        split = max(fitting, key=lambda name: (need(name), room[name] / max(1, sizes[name]), draw.random()))
        for row in rows:
            chosen[row] = split
        room[split] -= len(rows)
        for label, times in counts[number].items():
            wanted[split][label] -= times
            here[split][label] += times
            left[label] -= times

    while rarest := min(
        (label for label in left if left[label] > 0), key=lambda label: (left[label], label), default=None
    ):
        for number in with_label[rarest]:
            if chosen[groups[number][0]] is None:
                place(number, need_of(rarest))
    for number, rows in enumerate(groups):
        if chosen[rows[0]] is None:
            place(number, lambda split: (room[split],))
    return chosen
