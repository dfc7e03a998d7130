import random
from difflib import SequenceMatcher

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_mm_orient.data.degradation import DEGRADATIONS, degradations_of, derangement
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.features.cache import FeatureCache
from modeling_mm_orient.modeling_mm_orient import MMOrientModel
from modeling_mm_orient.pictures import post_key, read_image

from .helpers import as_bytes, describe, make_processor, picture, small_towers, write_folder

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": datasets.Image(decode=False),
        "text": datasets.Value("string"),
        "label.mood": datasets.ClassLabel(names=["sad", "happy"]),
    }
)
WORDS = "when the code compiles at once and nobody knows the reason why it did so"
EACH = ["pixel_noise", "blur", "occlusion", "character_errors", "word_drop"]  # post by post, whatever the others are


def posts_as_list(count: int = 12) -> list[dict]:
    """Posts of different pictures and texts; one without a picture, one without a text."""
    draw, chooser = np.random.default_rng(0), random.Random(0)
    posts = []
    for number in range(count):
        pixels = Image.fromarray(draw.integers(0, 256, (24, 36, 3), dtype=np.uint8))
        image = {"bytes": as_bytes(pixels), "path": None}
        text = " ".join(chooser.sample(WORDS.split(), 10))
        posts.append({"id": str(number), "image": image, "text": text, "label.mood": number % 2})
    posts[1]["image"] = posts[2]["text"] = None
    return posts


def as_dataset(posts: list[dict]) -> datasets.Dataset:
    return datasets.Dataset.from_list(posts, features=FEATURES)


def contents(posts) -> dict[str, str]:
    return {posts[row]["id"]: post_key(posts[row]) for row in range(len(posts))}


def change(old, new, modality: str) -> float:
    """How much of a post's picture or text is another; of what is gone all."""
    if old is None or new is None:
        return 0.0 if old == new else 1.0
    if modality == "text":
        return 1 - SequenceMatcher(None, old, new, autojunk=False).ratio()
    return float(np.abs(np.asarray(read_image(old), float) - np.asarray(read_image(new), float)).mean() / 255)


def changes(before, after, modality: str) -> float:
    return sum(change(old[modality], new[modality], modality) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_labels_ids_and_the_other_modality_stay(name):
    degradation, posts = DEGRADATIONS[name], posts_as_list()
    other = {"image": "text", "text": "image"}[degradation.modality]
    for given in (posts, as_dataset(posts)):
        for strength in (0, *degradation.strengths):
            found = degradation.degrade(given, strength)
            assert len(found) == len(posts)
            for row, post in enumerate(posts):
                assert all(found[row][column] == post[column] for column in ("id", "label.mood", other))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_strength_0_is_the_identity_and_more_changes_more(name):
    degradation, posts = DEGRADATIONS[name], posts_as_list()
    assert degradation.degrade(posts, 0) is posts
    found = [changes(posts, degradation.degrade(posts, s), degradation.modality) for s in degradation.strengths]
    assert found == sorted(found)
    assert 0 < found[0] < found[-1]


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_order_of_the_posts_does_not_matter_and_the_seed_does(name):
    degradation, posts = DEGRADATIONS[name], posts_as_list()
    strength = degradation.strengths[1]
    shuffled = random.Random(1).sample(posts, len(posts))
    found = contents(degradation.degrade(posts, strength, seed=3))
    assert found == contents(degradation.degrade(shuffled, strength, seed=3))
    assert found == contents(degradation.degrade(as_dataset(shuffled), strength, seed=3))
    if name != "blur":  # nothing is drawn there
        assert found != contents(degradation.degrade(posts, strength, seed=4))


@pytest.mark.parametrize("name", EACH)
def test_a_post_comes_out_the_same_alone(name):
    degradation, posts = DEGRADATIONS[name], posts_as_list()
    together = contents(degradation.degrade(posts, degradation.strengths[-1]))
    alone = [contents(degradation.degrade([post], degradation.strengths[-1])) for post in posts]
    assert together == {key: value for found in alone for key, value in found.items()}


@pytest.mark.parametrize("name", ["missing_image", "missing_text"])
def test_the_share_of_missing_is_what_was_asked_for_and_no_post_loses_all(name):
    degradation, posts = DEGRADATIONS[name], posts_as_list()
    before = sum(post[degradation.modality] is None for post in posts)
    gone = []
    for strength in (0.3, 0.5, 1.0):
        found = degradation.degrade(posts, strength)
        gone.append({post["id"] for post in found if post[degradation.modality] is None})
        assert len(gone[-1]) - before == round(strength * 10)  # ten have both
        assert all(post["image"] is not None or post["text"] for post in found)
    assert gone[0] < gone[1] < gone[2]


def test_shuffled_captions_are_those_of_others_and_all_still_there():
    posts = posts_as_list()
    for strength, moved in ((0.01, 2), (0.5, 6), (1.0, 11)):
        found = DEGRADATIONS["shuffled_captions"].degrade(posts, strength)
        assert sum(a["text"] != b["text"] for a, b in zip(posts, found, strict=True)) == moved
        assert sorted(post["text"] or "" for post in found) == sorted(post["text"] or "" for post in posts)
        assert found[2]["text"] is None


def test_a_derangement_gives_nobody_an_equal_value_where_that_can_be():
    draw = random.Random(0)
    for _ in range(200):
        values = [draw.choice("abcd") for _ in range(draw.randint(2, 9))]
        dealt = derangement(values)
        assert sorted(dealt) == sorted(values)
        if max(map(values.count, values)) * 2 <= len(values):
            assert all(a != b for a, b in zip(values, dealt, strict=True))
    assert derangement(["a", "a"]) == ["a", "a"]


def test_occlusion_covers_its_share_and_noise_has_its_deviation():
    plain = {"bytes": as_bytes(picture("RGB", (200, 100), (90, 90, 90))), "path": None}
    posts = [{"id": "0", "image": plain, "text": "a"}]
    covered = np.asarray(DEGRADATIONS["occlusion"].degrade(posts, 0.25)[0]["image"])
    assert (covered != 90).all(-1).mean() == pytest.approx(0.25, abs=0.01)
    noisy = np.asarray(DEGRADATIONS["pixel_noise"].degrade(posts, 0.1)[0]["image"], float)
    assert noisy.std() / 255 == pytest.approx(0.1, abs=0.005)


def test_noise_is_as_strong_after_a_large_picture_was_shrunk():
    def deviation(side: int) -> float:
        posts = [{"id": "0", "image": picture("RGB", (side, side), (128, 128, 128)), "text": None}]
        noisy = DEGRADATIONS["pixel_noise"].degrade(posts, 0.1)[0]["image"]
        return float(np.asarray(noisy.resize((256, 256), Image.Resampling.BOX), float).std())

    assert deviation(1024) == pytest.approx(deviation(256), rel=0.05)


def test_texts_of_any_script_keep_a_word_and_their_spaces():
    posts = [
        {"id": str(n), "image": None, "text": text} for n, text in enumerate(["мем про кота", "a", "  ", "猫の写真"])
    ]
    assert all(post["text"].split() for post in DEGRADATIONS["word_drop"].degrade(posts, 1.0)[:2])
    false = DEGRADATIONS["character_errors"].degrade(posts, 1.0)
    assert all(post["text"] for post in false)
    assert set(false[0]["text"]) <= set(posts[0]["text"]) and false[0]["text"] != posts[0]["text"]
    assert false[2]["text"] == "  "


def test_pictures_of_a_folder_are_degraded_and_stored_under_keys_of_their_own(tmp_path):
    posts = read_posts(describe(write_folder(tmp_path / "data")))[0]["train"]
    noisy = DEGRADATIONS["pixel_noise"].degrade(posts, 0.4)
    cache = FeatureCache(tmp_path / "cache", MMOrientModel(small_towers(joint_config=None)), make_processor())
    keys = [[post_key(post) for post in rows] for rows in (posts, noisy)]
    assert not set(keys[0]) & set(keys[1]) and keys[1] == [post_key(post) for post in noisy]
    for rows, of_rows in zip((posts, noisy), keys, strict=True):
        assert cache.add(rows, of_rows) == len(posts)
    sound, degraded = (cache.read(of_rows)[0] for of_rows in keys)
    assert (sound["image_embeds"] != degraded["image_embeds"]).any()
    assert (sound["text_embeds"] == degraded["text_embeds"]).all()


def test_columns_and_selections_of_a_degraded_data_set_agree_with_its_rows():
    noisy = DEGRADATIONS["blur"].degrade(as_dataset(posts_as_list()), 0.08)
    assert noisy["image"][3] == noisy[3]["image"] == noisy.select([3])[0]["image"]
    assert noisy.remove_columns("image")[3] == {k: v for k, v in noisy[3].items() if k != "image"}
    assert noisy["text"][3] == noisy[3]["text"]


def test_a_key_of_the_sound_post_is_not_passed_on():
    posts = [post | {"post_key": post_key(post)} for post in posts_as_list(3)]
    for name in ("blur", "word_drop", "shuffled_captions"):
        assert "post_key" not in DEGRADATIONS[name].degrade(posts, 0.5)[0]


def test_how_many_posts_can_be_changed():
    posts = posts_as_list()
    reach = {name: degradation.reach(as_dataset(posts)) for name, degradation in DEGRADATIONS.items()}
    assert reach == dict.fromkeys(DEGRADATIONS, 11) | {"missing_image": 10, "missing_text": 10}


def test_what_is_refused_is_named():
    posts = posts_as_list()
    for strength in (-0.1, 1.5, True, "much"):
        with pytest.raises(
            ValueError, match="strength of blur is the radius of the blur by the shortest side, from 0 to 1"
        ):
            DEGRADATIONS["blur"].degrade(posts, strength)
    for given in (posts, as_dataset(posts)):
        with pytest.raises(ValueError, match="word_drop: posts with degraded pictures"):
            DEGRADATIONS["word_drop"].degrade(DEGRADATIONS["blur"].degrade(given, 0.1), 0.1)
    with pytest.raises(ValueError, match="1 of the posts have a caption"):
        DEGRADATIONS["shuffled_captions"].degrade(posts[1:3], 0.5)
    with pytest.raises(ValueError, match="'fog' is no degradation; there are pixel_noise, blur"):
        degradations_of(["blur", "fog"])
    broken = DEGRADATIONS["blur"].degrade([posts[0] | {"image": {"bytes": b"none", "path": None}}], 0.1)
    with pytest.raises(ValueError, match="cannot be read"):
        broken[0]
