"""Evidence of a verdict: where attention lies on picture and words, who said what, and what changes without each."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from transformers import CLIPImageProcessor, MobileNetV2Config, MobileNetV2Model, ViTImageProcessorPil

from modeling_mm_orient import MMOrientForMultiTaskClassification, MultimodalClassificationPipeline
from modeling_mm_orient.explanation import explain, region_boxes, words_with_attention
from modeling_mm_orient.runs.explanation_page import Explanation
from modeling_mm_orient.runs.run_folder import load_run

from .helpers import as_bytes, make_processor, save_run, small_towers, tiny_model


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    model, processor = load_run(str(save_run(tmp_path_factory.mktemp("run"))))
    return MultimodalClassificationPipeline(model=model, processor=processor)


def halves(size=(40, 24)) -> Image.Image:
    picture = Image.new("RGB", size, "black")
    picture.paste("white", (size[0] // 2, 0, *size))
    return picture


def model_for(image_processor, **fields):
    model = MMOrientForMultiTaskClassification(small_towers(joint_config=None, **fields)).eval()
    processor = make_processor()
    processor.image_processor = image_processor
    return model, processor


def test_boxes_of_patches_undo_resizing_and_cropping():
    resized, processor = model_for(ViTImageProcessorPil(size={"height": 16, "width": 16}))
    boxes = region_boxes(resized, processor, (200, 100))
    assert np.allclose(boxes, [[0, 0, 100, 50], [100, 0, 200, 50], [0, 50, 100, 100], [100, 50, 200, 100]], atol=1)
    # the shortest edge to 16, then the middle 16 x 16: of 200 x 100 pixels those from 50 to 150
    cropped, processor = model_for(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    )
    boxes = region_boxes(cropped, processor, (200, 100))
    assert np.allclose(boxes, [[50, 0, 100, 50], [100, 0, 150, 50], [50, 50, 100, 100], [100, 50, 150, 100]], atol=1.5)


def test_boxes_stay_within_a_picture_that_is_laid_on_white():
    model, processor = model_for(ViTImageProcessorPil(size={"height": 16, "width": 16}))
    boxes = np.array(region_boxes(model, processor, (3200, 40)))
    assert np.allclose(boxes[:, [0, 2]], [[0, 1600], [1600, 3200]] * 2, atol=30)
    assert (boxes[:, [1, 3]] >= 0).all() and (boxes[:, [1, 3]] <= 40).all()
    assert boxes[0, 3] == pytest.approx(20, abs=2)


def test_boxes_of_feature_maps():
    config = MobileNetV2Config(image_size=64, depth_multiplier=0.25, finegrained_output=False)
    size = {"height": 64, "width": 64}
    model, processor = model_for(ViTImageProcessorPil(size=size), vision_config=config.to_dict())
    assert isinstance(model.base_model.encoders["vision"], MobileNetV2Model)
    boxes = region_boxes(model, processor, (64, 128))
    assert np.allclose(boxes, [[0, 0, 32, 64], [32, 0, 64, 64], [0, 64, 32, 128], [32, 64, 64, 128]], atol=1)


def test_attention_of_words_is_that_of_their_tokens():
    processor, text = make_processor(), "a caterpillar compiles"
    count = len(processor.tokenizer(text)["input_ids"])
    attention = torch.arange(1.0, count + 1)
    words = words_with_attention(processor, text, attention / attention.sum())
    assert [text[word["start"] : word["end"]] for word in words] == ["a", "caterpillar", "compiles"]
    special = (1 + count) / attention.sum()  # the first and the last token
    assert sum(word["attention"] for word in words) == pytest.approx(1 - float(special))
    assert words[0]["attention"] == pytest.approx(2 / float(attention.sum()))


def test_a_pipeline_explains_its_verdict(pipe):
    posts = [{"image": as_bytes(halves()), "text": "a cat on a mat"}, {"text": "nobody: me:"}, {"image": halves()}]
    plain, shown = pipe(posts), pipe(posts, explain=True, batch_size=3)
    for verdict, found in zip(plain, shown, strict=True):
        explanation = found.pop("explanation")
        for task in pipe.model.config.tasks:
            assert found[task["name"]] == pytest.approx(verdict[task["name"]], abs=1e-5)
            assert explanation["verdict"][task["name"]] == pytest.approx(verdict[task["name"]], abs=1e-5)
        found["explanation"] = explanation
    both, words, image = (found["explanation"] for found in shown)
    assert sum(region["attention"] for region in both["regions"]) == pytest.approx(1, abs=1e-5)
    assert both["regions"][-1]["box"] == pytest.approx([20, 12, 40, 24], abs=1)
    assert words["regions"] is None and [word["word"] for word in words["words"]] == ["nobody:", "me:"]
    assert image["words"] == [] and words["neighbours"]["image"] == []
    # without a part is what the pipeline says of the post without it
    assert both["without"]["picture"]["offensive"] == pytest.approx(
        pipe({"text": posts[0]["text"]})["offensive"], abs=1e-5
    )
    assert both["without"]["text"]["offensive"] == pytest.approx(pipe({"image": halves()})["offensive"], abs=1e-5)
    assert words["without"]["picture"] is None and words["without"]["text"] is None
    assert both["without"]["neighbours"]["intensity"] != pytest.approx(both["verdict"]["intensity"], abs=1e-7)


def test_a_picture_that_is_left_out_is_said_to_be(pipe, monkeypatch):
    monkeypatch.setattr(pipe.model.config, "picture_familiarity", 1.0)
    post = {"image": halves(), "text": "a cat on a mat"}
    explanation = pipe(post, explain=True)["explanation"]
    assert explanation["strange_picture"] and explanation["regions"] is None
    assert explanation["without"]["picture"]["offensive"] == pytest.approx(
        explanation["verdict"]["offensive"], abs=1e-5
    )
    shown = Explanation([halves()], explanation, pipe.model.config.tasks, {})
    page = shown.html()
    assert "left out of account: it is unlike every reference post" in page
    titles = [axis.get_title(loc="left") for axis in shown.figure().findobj(Axes)]
    assert any("left out of account" in title for title in titles)
    assert not pipe({"image": halves()}, explain=True)["explanation"]["strange_picture"]


def test_without_neighbours_no_memory_is_heard(pipe):
    model, inputs = pipe.model, pipe.processor(images=[halves()], text=["a cat"], return_tensors="pt")
    inputs = inputs.to(model.device)
    with torch.no_grad():
        alone = model(**inputs, without_neighbours=True, output_relations=True)
        before = model.relation_memory
        model.build_relation_memory([{"id": "other", "image": halves((9, 9)), "text": "dog"}], pipe.processor)
        other = model(**inputs, without_neighbours=True)
        model.set_relation_memory(before)
    assert alone.image_neighbours.numel() == 0 or (alone.image_neighbours < 0).all()
    for name, logits in alone.logits.items():
        assert torch.allclose(logits, other.logits[name])


def test_experts_are_shown_with_their_weights():
    fields = {"relation_scope": "memory", "members": 2, "experts": ["text", "both", "neighbours", "network"]}
    model, processor = model_for(ViTImageProcessorPil(size={"height": 16, "width": 16}), **fields)
    posts = [{"id": name, "image": halves(), "text": name, "x": "ab"[row % 2]} for row, name in enumerate("pqrs")]
    model.build_relation_memory(posts, processor)
    model.config.update({"tasks": [model.config.tasks[0] | {"expert_weights": {"text": 0.25, "network": 0.75}}]})
    shown = explain(model, processor, [halves()], "p", neighbours=2)
    experts = shown["experts"]["x"]
    assert {name: found["weight"] for name, found in experts.items()} == {
        "text": 0.25, "both": 0.0, "neighbours": 0.0, "network": 0.75,
    }  # fmt: skip
    assert all(sum(found["says"].values()) == pytest.approx(1, abs=1e-5) for found in experts.values())
    assert len(shown["neighbours"]["text"]) == 2


def test_a_broken_post_is_no_reason_to_lose_the_others(pipe):
    found = pipe([{"image": b"no picture"}, {"text": "a cat"}], explain=True, on_error="skip", batch_size=2)
    assert "cannot be read" in found[0]["error"] and found[1]["explanation"]["text"] == "a cat"


def test_forms_of_a_verdict(pipe):
    post = {"image": halves(), "text": "a cat"}
    plain = pipe(post)
    listed = pipe(post, top_k=1, decisions=True)
    best = max(plain["offensive"], key=plain["offensive"].get)
    assert listed["offensive"] == [{"label": best, "score": plain["offensive"][best]}]
    assert listed["intensity"] == [{"label": "intensity", "score": plain["intensity"]}]
    assert set(listed["decisions"]) == {"offensive", "emotions", "intensity"}
    assert [entry["score"] for entry in pipe(post, top_k=None)["emotions"]] == sorted(plain["emotions"].values())[::-1]
    answers = pipe(post, answers=True)
    assert answers["offensive"]["type"] == "choice" and answers["offensive"]["choice"] == best
    assert answers["offensive"]["confidence"] == pytest.approx(2 * plain["offensive"][best] - 1)
    assert answers["emotions"]["joy"] == {"type": "noul", "noul": plain["emotions"]["joy"]}
    assert answers["intensity"] == {"type": "score", "score": plain["intensity"]}
    assert pipe(post, tasks="emotions") == {"emotions": plain["emotions"]}
    assert set(pipe(post, tasks=["emotions", "intensity"], decisions=True)["decisions"]) == {"emotions", "intensity"}
    for wrong, said in (
        ({"tasks": ["humour"]}, "must be some of"),
        ({"tasks": []}, "must be some of"),
        ({"top_k": 0}, "at least 1"),
        ({"top_k": 2, "answers": True}, "two forms"),
    ):
        with pytest.raises(ValueError, match=said):
            pipe(post, **wrong)


def test_several_pictures_are_one_post_and_each_has_its_regions(pipe):
    post = {"image": [halves(), as_bytes(halves((16, 64)))], "text": "a cat"}
    verdict = pipe(post, explain=True)
    regions = verdict["explanation"]["regions"]
    assert [region["picture"] for region in regions] == [0] * 4 + [1] * 4
    assert regions[3]["box"] == pytest.approx([20, 12, 40, 24], abs=1)
    assert regions[7]["box"] == pytest.approx([8, 32, 16, 64], abs=2)
    assert sum(region["attention"] for region in regions) == pytest.approx(1, abs=1e-5)
    one = pipe({"image": [halves()], "text": "a cat"})
    assert one["offensive"] == pytest.approx(pipe({"image": halves(), "text": "a cat"})["offensive"], abs=1e-6)
    assert verdict["offensive"] != pytest.approx(one["offensive"], abs=1e-7)
    mixed = pipe([post, {"text": "a cat"}, {"image": halves()}], batch_size=3)
    assert mixed[0]["offensive"] == pytest.approx(verdict["offensive"], abs=1e-5)
    with pytest.raises(ValueError, match="neither an image nor a text"):
        pipe({"image": []})


def test_numbers_of_a_post_are_read_by_their_names(pipe):
    with pytest.raises(ValueError, match="no numeric columns"):
        pipe({"text": "a cat", "numbers": {"likes": 3}})
    columns = [{"name": "likes", "mean": 10.0, "std": 5.0}]
    model = MMOrientForMultiTaskClassification(small_towers(joint_config=None, task_feature_dim=2)).eval()
    reader = MultimodalClassificationPipeline(model=model, processor=make_processor(numeric_columns=columns))
    posts = [{"text": "a cat", "numbers": {"likes": 40}}, {"text": "a cat"}, {"text": "a cat", "numbers": {"like": 1}}]
    many, none, wrong = reader(posts, on_error="skip", batch_size=3, explain=True)
    assert many["x"] != pytest.approx(none["x"], abs=1e-7) and "'like'" in wrong["error"]
    assert many["explanation"]["verdict"]["x"] == pytest.approx(many["x"], abs=1e-6)


def test_a_model_on_feature_arrays_says_that_it_reads_no_post():
    bare = MultimodalClassificationPipeline(model=tiny_model().eval(), processor=make_processor())
    for explained in (False, True):
        with pytest.raises(ValueError, match="it takes feature arrays"):
            bare({"text": "a cat"}, explain=explained)
    with pytest.raises(ValueError, match="it takes feature arrays"):
        explain(bare.model, bare.processor, None, "a cat")
