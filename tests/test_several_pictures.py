"""Several pictures in a post: read, encoded as one, stored, remembered, trained on and predicted."""

import csv
import json

import datasets
import pytest
import torch
from PIL import Image

from modeling_mm_orient import MMOrientClassifier, MMOrientModel
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.data.splits import split_at_random
from modeling_mm_orient.features.cache import CachedPosts, FeatureCache
from modeling_mm_orient.features.collation import FeatureCollator, PostCollator
from modeling_mm_orient.pictures import post_key

from .helpers import as_bytes, describe, joint_config, make_processor, picture, small_towers, write_folder

RED, BLUE, GREY = (picture(size=(16, 16), colour=colour) for colour in ("red", "blue", "grey"))


def towers(joint: bool) -> MMOrientModel:
    torch.manual_seed(0)
    return MMOrientModel(small_towers(joint_config=joint_config() if joint else None)).eval()


def as_one(one, other):
    return torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("joint", [False, True])
def test_regions_stand_side_by_side_and_embeddings_are_averaged(joint):
    model, processor = towers(joint), make_processor(joint)

    def encoded(*posts):
        texts = ["a cat"] * len(posts)
        with torch.no_grad():
            return model.encode_posts(**processor(images=list(posts), text=texts, return_tensors="pt"))

    both, red, blue = encoded([RED, BLUE]), encoded(RED), encoded(BLUE)
    as_one(both.image_embeds, (red.image_embeds + blue.image_embeds) / 2)
    as_one(both.region_features, torch.cat([red.region_features, blue.region_features], 1))
    batch = encoded([RED, BLUE], None, GREY, [RED])
    assert batch.region_mask.sum(1).tolist() == [8, 0, 4, 4] and batch.has_image.tolist() == [True, False, True, True]
    as_one(batch.image_embeds[:1], both.image_embeds)
    as_one(batch.region_features[3, :4], red.region_features[0])
    as_one(batch.image_embeds[2:3], encoded(GREY).image_embeds)


def test_one_picture_in_a_list_is_that_picture():
    processor = make_processor()
    alone, listed = (dict(processor(images=[images], text=["a"], return_tensors="pt")) for images in (RED, [RED]))
    assert alone.keys() == listed.keys() and all(torch.equal(alone[name], listed[name]) for name in alone)


def test_a_key_counts_every_picture():
    one, two, turned = ({"image": RED, "more_images": more, "text": "a"} for more in ([], [BLUE], [GREY]))
    assert post_key(one) == post_key({"image": RED, "text": "a"})
    assert len({post_key(post) for post in (one, two, turned)}) == 3
    assert post_key(two) == post_key({"image": [RED, BLUE], "text": "a"})


def test_stored_features_are_those_of_the_pictures(tmp_path):
    features = {
        "id": datasets.Value("string"), "image": datasets.Image(decode=False), "text": datasets.Value("string"),
        "more_images": datasets.Sequence(datasets.Image(decode=False)),
    }  # fmt: skip
    files = [{"path": None, "bytes": as_bytes(image)} for image in (RED, BLUE, GREY)]
    posts = [{"id": "a", "image": files[0], "text": "x", "more_images": files[1:]},
             {"id": "b", "image": files[0], "text": "y", "more_images": []}]  # fmt: skip
    rows = datasets.Dataset.from_list(posts, features=datasets.Features(features))
    model, processor = towers(False), make_processor()
    cache, keys = FeatureCache(tmp_path, model, processor), [post_key(post) for post in rows]
    assert cache.add(rows, keys) == 2
    stored = FeatureCollator([], labels=False)(CachedPosts(rows, keys, cache).__getitems__([0, 1]))
    with torch.no_grad():
        now = model.encode_posts(
            **{n: v for n, v in PostCollator(processor, [], labels=False)(list(rows)).items() if n != "post_keys"}
        )
        again = model.encode_posts(**{n: v for n, v in stored.items() if n != "post_keys"})
    torch.testing.assert_close(again.region_features, now.region_features, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(again.image_embeds, now.image_embeds, atol=2e-3, rtol=2e-3)
    memory = model.build_relation_memory(rows, processor)
    torch.testing.assert_close(memory.embeds["image"].float(), now.image_embeds, atol=2e-3, rtol=2e-3)


ROWS = [
    {"front": f"f{i}.png", "back": "" if i % 3 == 0 else f"b{i}.png", "text": f"words {i}", "mood": "ab"[i % 2],
     "split": split} for i, split in enumerate(["train"] * 8 + ["val"] * 3 + ["test"] * 3)
]  # fmt: skip


def posts_folder(folder):
    write_folder(folder, ROWS, pictures=False)
    for i, row in enumerate(ROWS):
        for name in filter(None, (row["front"], row["back"])):
            Image.new("RGB", (8, 8), (i * 15, 30, 60 if name[0] == "f" else 200)).save(folder / "images" / name)
    return folder


def test_columns_of_pictures_and_lists_of_them(tmp_path):
    folder = posts_folder(tmp_path / "a")
    posts, *_ = read_posts(describe(folder, image_column=["front", "back"]))
    assert [len(post["more_images"]) for post in posts["train"]][:4] == [0, 1, 1, 0]
    (folder / "images" / "b1.png").write_text("no picture")
    with pytest.raises(DataProblems, match=r"b1\.png"):
        read_posts(describe(folder, image_column=["front", "back"]))
    rows = [row | {"front": json.dumps([row["front"], row["back"] or row["front"]])} for row in ROWS[2:]]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    posts, *_ = read_posts(describe(folder, image_column="front"))
    assert posts["train"][0]["more_images"][0]["path"].endswith("b2.png")
    with pytest.raises(ValueError, match="no column side"):
        read_posts(describe(folder, image_column=["front", "side"]))


def test_a_picture_that_is_anywhere_in_two_posts_binds_them():
    pictures = [{"path": None, "bytes": as_bytes(picture(colour=i))} for i in range(41)]
    posts = [
        {"id": str(i), "image": pictures[i], "more_images": [pictures[40]] if i < 3 else [], "text": None}
        for i in range(40)
    ]
    split_at_random(posts, {"train": 0.5, "test": 0.5}, [], seed=0)
    assert len({post["split"] for post in posts[:3]}) == 1


@pytest.mark.parametrize("options", [[], ["--augment-images"], ["--set", "relation_scope=memory", "memory_top_k=3"]])
def test_a_run_on_them(tmp_path, options):
    folder, run = posts_folder(tmp_path / "posts"), tmp_path / "run"
    command = ["train", "--data", folder, "--labels", "mood", "--image-column", "front", "back", "--output", run]
    assert main([*map(str, command), "--epochs", "1", "--batch-size", "4", "--split-column", "split", *options]) == 0
    assert main(["evaluate", str(run), "--data", str(folder)]) == 0
    assert main(["predict", str(run), "--data", str(folder), "--output", str(tmp_path / "all.jsonl")]) == 0
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == len(ROWS)
    if options[:1] == ["--set"]:
        lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
        made = MMOrientClassifier.load(run)
        several = [{"text": "words 1", "image": [folder / "images" / n for n in ("f1.png", "b1.png")]}]
        (alone,) = made.predict_proba(several, text="text", image="image").to_dict("records")
        assert alone["mood:a"] == pytest.approx(lines[1]["mood"]["a"], abs=1e-4)
