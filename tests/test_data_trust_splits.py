"""Random splits: every label in its share, duplicates together, reproducible, and found again by the posts' keys."""

import random
from collections import Counter

import pytest
from PIL import Image

from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.labels import label_column
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.data.splits import assign_known_splits, split_at_random, split_called, split_of_keys

from .helpers import write_folder

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def raw_posts(labels: list[dict], texts=None) -> list[dict]:
    """Posts as `reading` has them before they are split, of labels by task."""
    return [
        {"id": f"{n:05}", "text": texts[n] if texts else f"text {n}", "image": None}
        | {label_column(name): value for name, value in found.items()}
        for n, found in enumerate(labels)
    ]


def split(posts, names, seed=0) -> dict[str, list[dict]]:
    split_at_random(posts, SHARES, names, seed)
    return {name: [post for post in posts if post["split"] == name] for name in SHARES}


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_in_their_shares(seed):
    labels = [{"a": int(n % 10 == 0) + int(n % 100 == 50), "b": n % 3} for n in range(1000)]
    found = split(raw_posts(labels), ["a", "b"], seed)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 800, "validation": 100, "test": 100}
    for task in "ab":
        total = Counter(label[task] for label in labels)
        for name, share in SHARES.items():
            counts = Counter(post[label_column(task)] for post in found[name])
            for value, count in total.items():
                assert abs(counts[value] - share * count) <= max(2, 0.06 * share * count), (task, name, value)


def test_a_rare_class_is_in_every_split():
    for seed in range(20):
        found = split(raw_posts([{"a": int(n < 4)} for n in range(200)]), ["a"], seed)
        assert all(any(post[label_column("a")] for post in rows) for rows in found.values())


def test_labels_of_several_and_missing_ones():
    labels = [{"m": None if n % 7 == 0 else [float(n % 2), float(n % 5 == 0), 0.0], "r": n / 3} for n in range(300)]
    found = split(raw_posts(labels), ["m", "r"])
    assert [len(rows) for rows in found.values()] == [240, 30, 30]
    positives = [sum(post[label_column("m")][1] for post in rows if post[label_column("m")]) for rows in found.values()]
    assert positives[1] >= 4 and positives[2] >= 4


def test_duplicates_stay_together_and_the_order_of_rows_does_not_matter():
    draw = random.Random(0)
    texts = [f"Template {draw.randrange(60)}" if n % 2 else f"text {n}" for n in range(400)]
    texts = [text.upper() if n % 3 else f" {text} " for n, text in enumerate(texts)]
    posts = raw_posts([{"a": n % 2} for n in range(400)], texts)
    first = split(posts, ["a"])
    places = {}
    for name, rows in first.items():
        for post in rows:
            places.setdefault(post["text"].strip().casefold(), set()).add(name)
    assert max(map(len, places.values())) == 1 and all(abs(len(first[n]) - 400 * s) <= 3 for n, s in SHARES.items())
    again = [{name: value for name, value in post.items() if name != "split"} for post in posts]
    draw.shuffle(again)
    second = split(again, ["a"])
    assert {n: sorted(p["id"] for p in rows) for n, rows in first.items()} == {
        n: sorted(p["id"] for p in rows) for n, rows in second.items()
    }
    assert sorted(p["id"] for p in split(again, ["a"], 1)["test"]) != sorted(p["id"] for p in first["test"])


def test_posts_without_ids_are_split_by_what_they_say(tmp_path):
    rows = [{"text": f"words {n}", "mood": "ab"[n % 3 == 0]} for n in range(40)]
    found = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        posts, *_ = read_posts(
            DataDescription(str(write_folder(tmp_path / name, order, pictures=False)), labels=["mood"])
        )
        found.append({split: set(part["text"]) for split, part in posts.items()})
    assert found[0] == found[1] and len(found[0]) == 3


def test_the_same_picture_counts_by_its_bytes(tmp_path):
    rows = [{"image": f"{n}.png", "text": f"text {n}", "mood": "ab"[n % 2]} for n in range(60)]
    folder = write_folder(tmp_path / "d", rows, pictures=False)
    for n in range(60):
        Image.new("RGB", (8, 8), (n % 20, 0, 0)).save(folder / "images" / f"{n}.png")
    splits = read_posts(DataDescription(str(folder), labels=["mood"]))[0]
    places = [{int(i.removesuffix(".png")) % 20 for i in rows["id"]} for rows in splits.values()]
    assert sum(map(len, places)) == 20 and all(places)


def test_duplicates_of_nearly_all_are_split_all_the_same(caplog):
    found = split(raw_posts([{"a": n % 2} for n in range(50)], ["the same"] * 50), ["a"])
    assert [len(rows) for rows in found.values()] == [40, 5, 5] and "in several splits" in caplog.text


@pytest.mark.parametrize("count", range(1, 12))
def test_few_posts(count):
    found = split(raw_posts([{"a": n % 2} for n in range(count)]), ["a"])
    sizes = [len(rows) for rows in found.values()]
    assert sum(sizes) == count and sizes[0] >= 1 and (count < 3 or min(sizes) >= 1)


def test_a_split_is_found_again_by_key(tmp_path):
    rows = [{"id": str(n), "text": f"text {n}", "mood": "ab"[n % 2]} for n in range(40)]
    splits = read_posts(DataDescription(str(write_folder(tmp_path / "d", rows)), labels=["mood"]))[0]
    known = split_of_keys(splits)
    assert Counter(known.values()) == {"train": 32, "validation": 4, "test": 4}
    rows += [{"id": "new", "text": "a new one", "mood": "a"}]
    other = write_folder(tmp_path / "e", rows[::-1])
    posts = read_posts(DataDescription(str(other), labels=["mood"]), split_at_random=False, training=False)[0]
    assert list(posts) == ["all"]
    found = assign_known_splits(posts["all"], known)
    assert found[None] == [0]
    for name, numbers in found.items():
        if name:
            assert sorted(posts["all"]["id"][n] for n in numbers) == sorted(splits[name]["id"])


def test_a_post_of_training_that_is_in_the_test_too_counts_as_seen(tmp_path):
    rows = [
        {"id": str(n), "text": "the same", "mood": "ab"[n % 2], "split": "test" if n else "train"} for n in range(4)
    ]
    folder = write_folder(tmp_path / "d", rows)
    splits = read_posts(DataDescription(str(folder), labels=["mood"]), training=False)[0]
    assert set(split_of_keys(splits).values()) == {"train"}


def test_names_of_splits():
    names = {"dev_seen": "validation", "test_unseen": "test", "Train": "train", "val2": "validation", "test-00": "test"}
    names |= {"training_extra": "train", "testimonials": None, "development": None, "holdout": None, "trainer": None}
    assert {name: split_called(name) for name in names} == names
