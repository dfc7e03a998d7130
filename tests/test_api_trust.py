"""What Python callers get wrong is told, and is never taken for something else."""

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from modeling_mm_orient import (
    MMOrientClassifier,
    MMOrientConfig,
    MMOrientForMultiTaskClassification,
    MMOrientModel,
    MMOrientProcessor,
    MultimodalClassificationPipeline,
)
from modeling_mm_orient.runs.run_folder import load_run

from .helpers import (
    feature_batch,
    label_batch,
    make_processor,
    picture,
    reference_posts,
    save_encoders,
    save_run,
    tiny_model,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def pipe(run):
    model, processor = load_run(str(run))
    return MultimodalClassificationPipeline(model=model, processor=processor, device="cpu")


def test_one_id_is_one_post(pipe):
    model = pipe.model
    model.build_relation_memory([{"id": name, "text": f"t {name}"} for name in ("1", "2", "12", 3)], pipe.processor)
    model.relation_memory.remove("12")
    assert model.relation_memory.ids == ["1", "2", "3"]
    model.relation_memory.remove([3])
    model.relation_memory.remove(1)
    assert model.relation_memory.ids == ["2"]


@pytest.mark.parametrize("posts", [iter([{"text": "a"}]), {"text": "a"}])
def test_reference_posts_are_a_list(pipe, posts):
    with pytest.raises(TypeError, match="reference posts are a list or a data set, not"):
        pipe.model.build_relation_memory(posts, pipe.processor)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        pipe.model.build_relation_memory([{"text": "a"}], pipe.processor, batch_size=0)


def test_an_array_is_the_same_picture_beside_any_other():
    processor, black = make_processor(), Image.new("RGB", (20, 20))
    draws = np.random.default_rng(0)
    arrays = [
        draws.random((20, 20, 3), np.float32), draws.integers(0, 255, (20, 20, 3), np.uint8),
        draws.integers(0, 255, (20, 20), np.uint8), draws.integers(0, 255, (20, 20, 4), np.uint8),
        torch.rand(3, 20, 20), draws.integers(0, 65535, (20, 20), np.uint16),
    ]  # fmt: skip
    for array in arrays:
        alone = processor(images=[array], return_tensors="pt")["pixel_values"][0]
        for others in ([black], [array], [None]):
            texts = ["x"] * (1 + len(others))
            beside = processor(images=[array, *others], text=texts, return_tensors="pt")["pixel_values"][0]
            assert torch.equal(alone, beside)


def test_arrays_that_are_not_rescaled_are_taken_as_they_are():
    array = torch.full((3, 20, 30), 0.5)
    for given in (array, array.numpy()):
        found = make_processor()(images=[given], do_rescale=False, return_tensors="pt")["pixel_values"]
        assert found.abs().max() < 0.1  # (0.5 - 0.5) / 0.5, and not 255 of it


def test_two_classes_may_be_true_and_false():
    labels = torch.tensor([True, False, True] * 3)
    losses = [
        tiny_model().eval()(**feature_batch(), labels={"offensive": kind}).loss for kind in (labels, labels.long())
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"offensive": torch.tensor([-1] * 9)}, r"`labels\['offensive'\]` \(single_label\) must be class numbers"),
        ({"offensive": torch.tensor([2] * 9)}, "must be class numbers below that of the labels, or -100 where missing"),
        ({"offensive": torch.tensor([0, 1, 0] * 3, dtype=torch.uint8)}, "must be int64, got torch.uint8"),
        ({"offensive": [0] * 9}, "must be a tensor, got list"),
        ({"emotions": torch.full((9, 3), -100.0)}, "must be 0 and 1, or what lies between, or NaN where missing"),
        ({"intensity": torch.tensor([float("inf")] * 9)}, "must be finite, or NaN where missing"),
    ],
)
def test_labels_that_are_none_are_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        tiny_model()(**feature_batch(), labels=labels)


def test_labels_between_0_and_1_are_learned_from():
    labels = label_batch() | {"emotions": torch.rand(9, 3)}
    assert tiny_model()(**feature_batch(), labels=labels).loss.isfinite()


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"emotions": {"joy": 0, "anger": 0}}, "is no list of labels of the task 'emotions'"),
        ({"emotions": "joy"}, "'joy' is no list of labels of the task 'emotions'"),
        ({"offensive": 1.7}, "1.7 is no class number of the task 'offensive'"),
        ({"offensive": -3}, "-3 is no class number of the task 'offensive'"),
        ({"intensity": "3.5"}, "'3.5' is no number of the task 'intensity'"),
    ],
)
def test_labels_of_posts_that_are_none_are_refused(label, said):
    with pytest.raises(ValueError, match=said):
        tiny_model().encode_reference_posts([reference_posts(1)[0] | label])


def test_nothing_is_a_missing_label():
    nan = float("nan")
    posts = [post | {"offensive": none, "emotions": none, "intensity": none}
             for post, none in zip(reference_posts(3), (None, nan, np.float32("nan")), strict=True)]  # fmt: skip
    posts.append(reference_posts(1, first=9)[0] | {"offensive": np.int64(1), "emotions": np.array([0, 1, 1])})
    labels = tiny_model().encode_reference_posts(posts).labels
    assert labels["offensive"].tolist() == [-100, -100, -100, 1] and labels["emotions"][3].tolist() == [0, 1, 1]
    assert labels["emotions"][:3].isnan().all() and labels["intensity"][:3].isnan().all()


def test_encoders_are_called_by_their_names(tmp_path):
    model = tiny_model().mm_orient
    for wrong in (["text_encoder"], "text"):
        with pytest.raises(ValueError, match="`names` are some of"):
            model.freeze_encoders(wrong)
    options = save_encoders(tmp_path)
    for kind in (MMOrientForMultiTaskClassification, MMOrientProcessor):
        with pytest.raises(ValueError, match="`revision` has 'txt', which is none of"):
            kind.from_encoders_pretrained(text=options[1], revision={"txt": "0123abc"})


def test_a_joint_encoder_alone_is_prepared_as_is_said():
    processor = MMOrientProcessor(joint_processor=make_processor(joint=True).joint_processor)
    red = [Image.new("RGB", (20, 20), (200, 10, 30))]
    plain, raw = (processor(images=red, return_tensors="pt", **said) for said in ({}, {"do_normalize": False}))
    assert not torch.equal(plain["joint_pixel_values"], raw["joint_pixel_values"])
    short = processor(text=["a cat on a mat when it compiles"], max_length=3, return_tensors="pt")
    assert short["joint_input_ids"].shape[1] == 3
    for said in ({}, {"max_length": None}):
        found = processor(text=["a cat on a mat when it compiles"], return_tensors="pt", **said)
        assert found["joint_input_ids"].shape[1] > 3


def test_a_batch_loses_no_more_than_the_post_that_fails(pipe):
    def reader(*_):
        raise RuntimeError("engine")

    pipe.processor.read_missing_text, pipe.processor.text_reader = True, reader
    posts = [{"image": picture(), "text": "a"}, {"text": "only"}, {"image": picture()}]
    found = pipe(posts, batch_size=3, on_error="skip", neighbours=2)
    assert "engine" in found[2]["error"] and [*found[1]["neighbours"]] == ["image", "text"]
    alone = [pipe(post, neighbours=2) for post in posts[:2]]
    assert [verdict["neighbours"] for verdict in found[:2]] == [verdict["neighbours"] for verdict in alone]


def test_two_forms_of_a_verdict_are_refused_wherever_they_are_said(run):
    model, processor = load_run(str(run))
    made = MultimodalClassificationPipeline(model=model, processor=processor, top_k=2)
    with pytest.raises(ValueError, match="two forms of a verdict"):
        made({"text": "a"}, answers=True)
    with pytest.raises(ValueError, match="two forms of a verdict"):
        MultimodalClassificationPipeline(model=model, processor=processor, answers=True)({"text": "a"}, top_k=1)


def test_a_tuple_is_several_posts(pipe):
    posts = ({"text": "a"}, {"text": "b"})
    assert pipe(posts) == pipe([*posts]) and len(pipe((picture(), picture()))) == 2
    with pytest.raises(ValueError, match="one entry per post, got 2 and 1"):
        pipe(images=[picture(), picture()], text=["x"])


def test_a_model_that_gives_tuples_is_asked_for_more(pipe):
    expected = pipe({"text": "a"})
    pipe.model.config.return_dict = False
    assert pipe({"text": "a"}) == expected


def test_members_are_told_without_another_verdict():
    model, batch = tiny_model().eval(), feature_batch()
    expected, found = model(**batch), model(**batch, output_members=True)
    for name, logits in expected.logits.items():
        assert torch.equal(found.logits[name], logits)
    assert set(found.expert_scores["offensive"]) == {"network"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_threshold": np.float32(0.5)}, "image_threshold"),
        ({"tasks": [{"name": "x", "kind": "regression", "std": np.float32(2)}]}, "std"),
        ({"tasks": [{"name": "neighbours", "labels": ["a", "b"]}]}, "which a verdict has too"),
    ],
)
def test_what_no_file_and_no_verdict_can_hold_is_no_configuration(fields, said):
    with pytest.raises(ValueError, match=said):
        MMOrientConfig(**fields)


def test_tasks_are_of_a_model_with_heads(run):
    with pytest.raises(TypeError, match="MMOrientModel has no heads"):
        MMOrientModel.from_pretrained(run, tasks=[{"name": "x", "labels": ["a", "b"]}])


def test_a_picture_is_explained_where_it_is_judged(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    for i in range(24):
        picture(colour=9 * i).save(tmp_path / "pictures" / f"{i}.png")
    picture(colour=250).save(tmp_path / "3.png")  # another of that name
    frame = pandas.DataFrame([{"title": f"cat {i}", "file": f"{i}.png", "mood": "ab"[i % 2]} for i in range(24)])
    options = {"text_encoder": save_encoders(tmp_path)[1], "vision_encoder": save_encoders(tmp_path)[3]}
    made = MMOrientClassifier(epochs=1, batch_size=8, feature_cache=str(tmp_path / "cache"), **options)
    made.fit(frame, "mood", text="title", image="file", root="pictures")
    post = {"image": "3.png", "text": "cat 3"}
    expected = made.predict_proba(post)["mood:a"].iloc[0]
    for options in ({}, {"root": "pictures"}):
        assert made.explain(post, **options).found["verdict"]["mood"]["a"] == pytest.approx(expected, abs=1e-4)
    assert made.explain(post, root=".").found["verdict"]["mood"]["a"] != pytest.approx(expected, abs=1e-6)
    elsewhere = post | {"image": "pictures/3.png"}  # below the folder that is worked in, and not below root
    assert made.explain(elsewhere).found["verdict"]["mood"]["a"] == pytest.approx(expected, abs=1e-4)


def test_a_data_set_is_reference_posts(pipe):
    posts = datasets.Dataset.from_list([{"id": str(i), "text": f"t {i}"} for i in range(3)])
    pipe.model.build_relation_memory(posts, pipe.processor)
    assert pipe.model.relation_memory.ids == ["0", "1", "2"]
