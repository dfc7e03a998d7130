import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from modeling_mm_orient import MMOrientModel
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.features.cache import CachedPosts, FeatureCache
from modeling_mm_orient.features.collation import FeatureCollator, PostCollator
from modeling_mm_orient.features.extraction import encoder_fingerprint
from modeling_mm_orient.pictures import post_key

from .helpers import ROWS, make_processor, save_classifier, small_towers, write_folder


@pytest.fixture
def setting(tmp_path):
    torch.manual_seed(0)
    rows = [dict(row) for row in ROWS]
    rows[1]["text"], rows[2]["image"] = "", ""
    folder = write_folder(tmp_path / "d", rows)
    for index in range(10):
        noise = np.random.default_rng(index).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{index}.png")
    model = MMOrientModel(small_towers(joint_config=None))
    posts, tasks, _ = read_posts(DataDescription(str(folder), labels=["mood"]), check_images=False)
    return tmp_path / "cache", model.eval(), make_processor(), posts["train"], tasks


def keys_of(posts):
    return [post_key(post) for post in posts]


def test_stored_features_are_the_encoders(setting):
    folder, model, processor, posts, tasks = setting
    cache, keys = FeatureCache(folder, model, processor), keys_of(posts)
    assert cache.add(posts, keys, batch_size=3) == len(posts)
    stored = FeatureCollator(tasks)([CachedPosts(posts, keys, cache)[i] for i in range(len(posts))])
    direct = PostCollator(processor, tasks)([posts[i] for i in range(len(posts))])
    assert {name: value.tolist() for name, value in stored.pop("labels").items()} == {
        name: value.tolist() for name, value in direct.pop("labels").items()
    }
    asked = {"output_components": True, "output_relations": True}
    with torch.no_grad():
        first, second = model(**stored, **asked), model(**direct, **asked)
    torch.testing.assert_close(first.merged_features, second.merged_features, atol=3e-3, rtol=3e-3)
    assert stored["has_text"].tolist() == direct["has_text"].tolist()


def test_posts_of_a_batch_are_read_together(setting):
    folder, model, processor, posts, _ = setting
    posts = posts.map(lambda post: post | {"image": None}).select([index for index, t in enumerate(posts["text"]) if t])
    cache, keys = FeatureCache(folder, model, processor), keys_of(posts)
    cache.add(posts, keys)
    stored, order = CachedPosts(posts, keys, cache), [3, 0, 2]
    for found, index in zip(stored.__getitems__(order), order, strict=True):
        assert found["id"] == posts[index]["id"] and len(found["region_features"]) == 0
        np.testing.assert_array_equal(found["token_features"], stored[index]["token_features"])
    assert len({row.tobytes() for row in (stored[index]["text_embeds"] for index in order)}) == 3


def test_encoders_run_once_per_content(setting):
    folder, model, processor, posts, _ = setting
    keys = keys_of(posts)
    FeatureCache(folder, model, processor).add(posts, keys)
    cache = FeatureCache(folder, model, processor)
    cache.model = None  # nothing may be encoded any more
    assert cache.missing(keys) == []
    assert cache.missing([*keys, "other", "other"]) == [len(keys)]


def test_a_changed_picture_or_text_is_noticed(setting):
    posts = setting[3]
    post = next(post for post in posts if post["image"] and post["text"])
    key = post_key(post)
    assert post_key(post | {"text": "other words"}) != key
    Image.new("RGB", (8, 8), "red").save(post["image"]["path"])
    assert post_key(post) != key


def test_changed_encoders_or_settings_are_noticed(setting):
    _, model, processor, _, _ = setting
    first = encoder_fingerprint(model, processor)
    assert encoder_fingerprint(model, make_processor()) == first
    assert encoder_fingerprint(model, make_processor(max_tokens=9)) != first
    next(model.vision_encoder.parameters()).data[0] += 1
    assert encoder_fingerprint(model, processor) != first


def test_an_interrupted_run_continues(setting, monkeypatch):
    folder, model, processor, posts, _ = setting
    cache, keys, encode = FeatureCache(folder, model, processor, shard_posts=3), keys_of(posts), model.encode_posts
    calls = []

    def interrupted(**inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(**inputs)

    monkeypatch.setattr(model, "encode_posts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.add(posts, keys, batch_size=2)
    assert not list(cache.folder.glob(".*"))
    monkeypatch.setattr(model, "encode_posts", encode)
    cache = FeatureCache(folder, model, processor)
    assert len(cache.missing(keys)) == len(posts) - 3
    assert cache.add(posts, keys, batch_size=2) == len(posts) - 3
    assert cache.missing(keys) == []


def test_processes_share_the_work_without_overlap(setting):
    folder, model, processor, posts, _ = setting
    keys = keys_of(posts)
    early = FeatureCache(folder, model, processor)
    counts = [early.add(posts, keys, share=0, shares=2)]
    late = FeatureCache(folder, model, processor)  # sees the other's shards already
    counts.append(late.add(posts, keys, share=1, shares=2))
    early.load()
    assert min(counts) > 0
    assert sum(counts) == len(set(keys))
    assert early.missing(keys) == []


def test_a_shard_that_is_cut_short_is_named(setting):
    folder, model, processor, posts, _ = setting
    cache, keys = FeatureCache(folder, model, processor), keys_of(posts)
    cache.add(posts, keys)
    (shard,) = cache.folder.glob("*.arrow")
    content = shard.read_bytes()
    for size in (len(content) // 2, 10, 0):
        shard.write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"{shard.name}: a damaged shard of features .* remove it"):
            FeatureCache(folder, model, processor)
    shard.unlink()
    cache = FeatureCache(folder, model, processor)
    assert cache.add(posts, keys) == len(posts)


def test_the_same_weights_computed_by_otherwise_are_others(setting, tmp_path):
    _, model, processor, _, _ = setting
    first, config = encoder_fingerprint(model, processor), model.text_encoder.config
    for name, value, same in (
        ("hidden_act", "relu", False),
        ("id2label", {0: "x"}, True),
        ("architectures", ["X"], True),
        ("transformers_version", "9", True),
    ):
        before = getattr(config, name, None)
        setattr(config, name, value)
        assert (encoder_fingerprint(model, processor) == first) == same, name
        setattr(config, name, before)
    source = save_classifier(tmp_path / "classifier")
    processor.task_features = [{"name": "tone", "source": source, "output": "probabilities", "revision": None}]
    with_classifier = encoder_fingerprint(model, processor)
    save_classifier(tmp_path / "classifier", hidden_act="relu")
    assert first != with_classifier != encoder_fingerprint(model, processor)
    save_classifier(tmp_path / "copy")
    processor.task_features = [processor.task_features[0] | {"source": str(tmp_path / "copy")}]
    assert encoder_fingerprint(model, processor) == with_classifier
    processor.task_features = []


def test_a_dual_encoder_is_the_same_after_it_was_saved(tmp_path):
    model, processor = MMOrientModel(small_towers()), make_processor(joint=True)
    first = encoder_fingerprint(model, processor)
    model.save_pretrained(tmp_path)
    assert encoder_fingerprint(MMOrientModel.from_pretrained(tmp_path), processor) == first
    for part, value, same in (("id2label", {0: "x"}, True), ("hidden_act", "relu", False)):
        setattr(model.joint_encoder.config.text_config, part, value)
        assert (encoder_fingerprint(model, processor) == first) == same


def test_a_shard_whose_rows_lead_outside_is_named_and_one_of_something_else_too(setting):
    folder, model, processor, posts, _ = setting
    cache = FeatureCache(folder, model, processor)
    cache.add(posts, keys_of(posts))
    (path,) = cache.folder.glob("*.arrow")
    content = path.read_bytes()
    widths = [len(row) for row in cache.table.with_format(None)["image_embeds"]]
    offsets = np.cumsum([0, *widths], dtype=np.int32)
    assert content.count(offsets.tobytes()) >= 1
    wild = offsets.copy()
    wild[1:] += 2_000_000_000
    path.write_bytes(content.replace(offsets.tobytes(), wild.tobytes()))
    with pytest.raises(ValueError, match=rf"{path.name}: a damaged shard of features"):
        FeatureCache(folder, model, processor)
    path.write_bytes(content)
    other = cache.folder / "other.arrow"
    with pa.OSFile(str(other), "wb") as file, pa.ipc.new_stream(file, pa.schema([("x", pa.int64())])) as writer:
        writer.write_table(pa.table({"x": [1]}))
    with pytest.raises(ValueError, match=r"other\.arrow: no shard of features, without the column"):
        FeatureCache(folder, model, processor)
