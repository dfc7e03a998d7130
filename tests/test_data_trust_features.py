"""Features that are no numbers reach no model, and a cache reads what any of its writers wrote."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from modeling_mm_orient import MMOrientModel
from modeling_mm_orient.data.arrays import FeatureArrays
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.problems import DataProblems
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.features.cache import CONVERTED, FeatureCache
from modeling_mm_orient.features.extraction import (
    COLUMNS,
    Shard,
    ShardBatches,
    encode_batch,
    extract_features,
    feature_table,
)
from modeling_mm_orient.pictures import post_key

from .helpers import make_processor, small_towers, write_folder


def save(folder, **arrays) -> dict[str, str]:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {name: str(folder / f"{name}.npy") for name in arrays}


def table(folder, count: int):
    return write_folder(
        folder, [{"id": str(n), "text": f"text {n}", "mood": "ab"[n % 2]} for n in range(count)], pictures=False
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["image_embeds", "region_features", "task_features"])
def test_a_row_that_is_no_number_is_refused_with_file_and_row(tmp_path, value, name):
    array = np.zeros((12, 3, 4) if name == "region_features" else (12, 4))
    array[7].flat[2] = value
    array[2] = 3e38  # large, and a number
    paths = save(tmp_path, **{name: array})
    in_blocks = FeatureArrays(paths, block_values=20).problems()
    assert list(in_blocks) == list(FeatureArrays(paths).problems()) != []
    description = DataDescription(str(table(tmp_path / "d", 12)), labels=["mood"], feature_arrays=paths)
    with pytest.raises(DataProblems, match=rf"labels\.csv:9: row 7 of `{name}` \(.*{name}\.npy\) has NaN or infinity"):
        read_posts(description)
    splits, _, left_out = read_posts(description, skip_bad_posts=True)
    kept = [row for rows in splits.values() for row in rows["row"]]
    assert sorted(kept) == [n for n in range(12) if n != 7] and [p.where for p in left_out] == ["labels.csv:9"]


def test_what_a_mask_hides_does_not_matter(tmp_path):
    regions, mask = np.zeros((5, 3, 4), np.float32), np.ones((5, 3), bool)
    regions[1, 2], mask[1, 2], regions[3, 0] = np.nan, False, np.inf
    found = list(FeatureArrays(save(tmp_path, region_features=regions, region_mask=mask)).problems())
    assert [row for row, _ in found] == [3]
    assert list(FeatureArrays(save(tmp_path, image_embeds=np.zeros((4, 3), np.float16))).problems()) == []


def make_model() -> MMOrientModel:
    torch.manual_seed(0)
    return MMOrientModel(small_towers(joint_config=None)).eval()


def spoilt(model, monkeypatch, value: float, rows) -> MMOrientModel:
    """The model, whose encoders give `value` for some rows of every batch."""
    encode = model.encode_posts

    def broken(**inputs):
        found = encode(**inputs)
        found.text_embeds[rows, 0] = value
        return found

    monkeypatch.setattr(model, "encode_posts", broken)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_encoders_spoil_are_a_posts_problem(tmp_path, monkeypatch, value):
    folder = table(tmp_path / "d", 6)
    model = spoilt(make_model(), monkeypatch, value, [1])
    arguments = DataDescription(str(folder)), model, make_processor(), tmp_path / "f"
    report = extract_features(*arguments, batch_size=6, workers=0)
    assert (report["rows"], report["stored"]) == (6, 5)
    assert [problem["what"] for problem in report["problems"]] == [
        "the encoders give features that are no finite numbers"
    ]
    assert report["problems"][0]["where"] == "labels.csv:3"
    assert datasets.load_from_disk(report["folder"])["id"] == ["0", "2", "3", "4", "5"]


def test_a_batch_of_nothing_else(tmp_path, monkeypatch):
    model = spoilt(make_model(), monkeypatch, float("nan"), slice(None))
    report = extract_features(
        DataDescription(str(table(tmp_path / "d", 5))), model, make_processor(), tmp_path / "f", workers=0
    )
    assert (report["stored"], len(report["problems"])) == (0, 5)


def stored_parquet(folder, model, processor, posts) -> FeatureCache:
    """A cache whose features lie in Parquet, as Ray writes them."""
    cache = FeatureCache(folder, model, processor)
    shard = Shard("", list(posts), posts["id"], [None] * len(posts))
    parts = [encode_batch(model, processor, batch) for batch in ShardBatches([shard], processor, 4)]
    rows = feature_table(parts).append_column("problem", pa.array([None] * len(posts), pa.string()))
    failed = pa.Table.from_pylist([{"id": "bad", "problem": "unreadable"}], rows.schema)
    pa.parquet.write_table(pa.concat_tables([rows, failed]), cache.folder / "part-0.parquet")
    return cache


@pytest.mark.parametrize("name", ["f", "f [v2]"])
def test_a_cache_in_parquet_is_trained_from_again_and_again(tmp_path, name):
    folder, model, processor = table(tmp_path / "d", 8), make_model(), make_processor()
    posts = read_posts(DataDescription(str(folder)), training=False)[0]["all"]
    cache, keys = stored_parquet(tmp_path / name, model, processor, posts), [post_key(post) for post in posts]
    for _ in range(2):
        cache.load()
        assert cache.missing(keys) == []
    more = read_posts(DataDescription(str(table(tmp_path / "e", 10))), training=False)[0]["all"]
    assert FeatureCache(tmp_path / name, model, processor).add(more, [post_key(post) for post in more]) == 2
    again = FeatureCache(tmp_path / name, model, processor)
    assert again.missing([post_key(post) for post in more]) == [] and (again.folder / CONVERTED).is_dir()
    assert again.read(keys)[0]["text_embeds"].shape == (16,) and again.table.column_names == list(COLUMNS)


def test_stored_features_that_are_no_numbers_are_not_read(tmp_path):
    folder, model, processor = table(tmp_path / "d", 4), make_model(), make_processor()
    posts = read_posts(DataDescription(str(folder)), training=False)[0]["all"]
    cache, keys = stored_parquet(tmp_path / "f", model, processor, posts), [post_key(post) for post in posts]
    path = cache.folder / "part-0.parquet"
    rows = pa.parquet.read_table(path).to_pylist()
    rows[2]["text_embeds"][3] = np.float16("nan")
    pa.parquet.write_table(pa.Table.from_pylist(rows, pa.parquet.read_schema(path)), path)
    cache.load()
    cache.read([keys[0], keys[1]])
    with pytest.raises(ValueError, match=f"features of the post {keys[2]} that are no numbers"):
        cache.read(keys)


def test_an_engine_that_fails_is_that_posts_problem(tmp_path, monkeypatch):
    rows = [{"id": str(n), "image": f"{n}.png", "text": "x"} for n in range(5)]
    folder = write_folder(tmp_path / "d", rows)
    Image.new("RGB", (9, 9), "red").save(folder / "images" / "3.png")
    processor, treat = make_processor(), type(make_processor()).treat

    def fails(self, images, text):
        picture = images[0][0] if isinstance(images[0], list) else images[0]
        if picture.size == (9, 9):
            raise MemoryError
        return treat(self, images, text)

    monkeypatch.setattr(type(processor), "treat", fails)
    report = extract_features(DataDescription(str(folder)), make_model(), processor, tmp_path / "f", workers=0)
    assert report["stored"] == 4 and report["problems"] == [{"where": "labels.csv:5", "what": "MemoryError"}]
    assert json.loads(next((tmp_path / "f").rglob("extraction.json")).read_text()) == report
