import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPProcessor,
    DetrConfig,
    DetrImageProcessorPil,
    ResNetConfig,
    SiglipProcessor,
    YolosConfig,
)

from modeling_mm_orient import MMOrientModel, MMOrientProcessor
from modeling_mm_orient.runs.presets import train_tokenizer

from .helpers import MODES, TEXTS, as_bytes, make_processor, picture


def test_one_call_prepares_all_three_encoders():
    inputs = make_processor(joint=True)(images=[picture(), picture()], text=TEXTS[:2], return_tensors="pt")
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    assert shapes["pixel_values"] == (2, 3, 16, 16) and shapes["joint_pixel_values"] == (2, 3, 8, 8)
    assert shapes["input_ids"] == shapes["attention_mask"] and shapes["joint_input_ids"][0] == 2
    assert inputs["has_image"].tolist() == inputs["has_text"].tolist() == [True, True]
    assert set(inputs) == set(make_processor(joint=True).model_input_names)


def test_pictures_are_prepared_once_for_encoders_that_want_the_same(monkeypatch):
    processor, calls = make_processor(joint=True), []
    processor.joint_processor.image_processor = copy.deepcopy(processor.image_processor)
    kind = type(processor.image_processor)
    prepare = kind.__call__
    monkeypatch.setattr(
        kind, "__call__", lambda self, *args, **kwargs: calls.append(1) or prepare(self, *args, **kwargs)
    )
    noise = Image.effect_noise((40, 30), 90).convert("RGB")
    inputs = processor(images=noise, text=TEXTS[0], return_tensors="pt")
    assert len(calls) == 1 and torch.equal(inputs["joint_pixel_values"], inputs["pixel_values"])
    inputs["pixel_values"].zero_()
    assert inputs["joint_pixel_values"].any()
    inputs = processor(images=noise, text=TEXTS[0], return_tensors="pt", images_kwargs={"do_normalize": False})
    assert len(calls) == 3 and not torch.equal(inputs["joint_pixel_values"], inputs["pixel_values"])


def test_one_post_without_lists():
    inputs = make_processor()(images=picture(), text=TEXTS[0], return_tensors="pt")
    assert inputs["pixel_values"].shape[0] == inputs["input_ids"].shape[0] == 1


def test_posts_without_one_modality():
    processor = make_processor(joint=True)
    inputs = processor(images=[None, picture(), picture()], text=[TEXTS[0], None, "  \n"], return_tensors="pt")
    assert inputs["has_image"].tolist() == [False, True, True]
    assert inputs["has_text"].tolist() == [True, False, False]
    assert inputs["pixel_values"].shape[0] == 3
    assert set(processor(text=TEXTS, return_tensors="pt")) & {"pixel_values", "joint_pixel_values"} == set()
    assert "input_ids" not in processor(images=[picture()], return_tensors="pt")


def test_long_texts_are_cut():
    inputs = make_processor(max_tokens=5)(text="cat " * 10_000, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 5)
    assert make_processor()(text="cat " * 500, max_length=9, return_tensors="pt")["input_ids"].shape == (1, 9)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "give `images`, `text` or both"),
        ({"images": [picture()], "text": ["a", "b"]}, "one entry per post, got 1 and 2"),
        ({"images": [picture(), None], "text": ["a", ""]}, "post 1 has neither"),
        ({"text": ["a", 3]}, r"`text\[1\]` must be a string"),
        ({"images": [picture(), "no_such_file.png"]}, r"`images\[1\]`.*does not exist"),
        ({"images": [[picture(), "no_such_file.png"]]}, r"`images\[1\]`.*does not exist"),
    ],
)
def test_wrong_posts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_processor()(**arguments)


@pytest.mark.parametrize("joint", [False, True])
def test_round_trip(tmp_path, joint):
    processor = make_processor(joint, max_tokens=7, joint_padding="max_length")
    processor.save_pretrained(tmp_path)
    again = MMOrientProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    posts = {"images": [picture(colour=(9, 99, 200)), None], "text": TEXTS[:2], "return_tensors": "pt"}
    first, second = processor(**posts), again(**posts)
    assert set(first) == set(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("part", ["image_processor", "tokenizer"])
def test_a_processor_for_one_encoder(tmp_path, part):
    whole = make_processor()
    MMOrientProcessor(**{part: getattr(whole, part)}).save_pretrained(tmp_path)
    again = MMOrientProcessor.from_pretrained(tmp_path)
    assert again.get_attributes() == [part]
    inputs = again(images=[picture()], text=["a cat"], return_tensors="pt")
    assert ("pixel_values" in inputs) == (part == "image_processor")
    assert ("input_ids" in inputs) == (part == "tokenizer")


@pytest.mark.parametrize(("kind", "length"), [("clip", None), ("siglip", 16)])
def test_texts_are_prepared_as_the_joint_encoder_was_trained(tmp_path, kind, length):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = size | {"vocab_size": 300, "max_position_embeddings": 16}
    vision = size | {"image_size": 8, "patch_size": 4}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision)
    model = AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    processor_class = {"clip": CLIPProcessor, "siglip": SiglipProcessor}[kind]
    processor_class(
        make_processor(joint=True).joint_processor.image_processor, train_tokenizer(TEXTS, 300)
    ).save_pretrained(tmp_path)
    inputs = MMOrientProcessor.from_encoders_pretrained(joint=str(tmp_path))(
        text=["cat", "cat " * 40], return_tensors="pt"
    )
    assert inputs["joint_input_ids"].shape == (2, 16)
    assert ("joint_attention_mask" in inputs) == (kind == "clip")
    short = MMOrientProcessor.from_encoders_pretrained(joint=str(tmp_path))(text=["cat"], return_tensors="pt")
    assert short["joint_input_ids"].shape[1] == (length or 3)
    orient = MMOrientModel.from_encoders_pretrained(joint=str(tmp_path), region_feature_dim=4, token_feature_dim=4)
    assert (
        orient.eval()(joint_input_ids=inputs["joint_input_ids"], token_features=torch.zeros(2, 1, 4))
        .joint_representation.isfinite()
        .all()
    )


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        MMOrientProcessor(tokenizer=tokenizer)


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode(mode):
    batch = make_processor()(images=[picture(mode), picture("RGB", (7, 90))], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 16, 16)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    bomb = as_bytes(picture("1", (4000, 4000)))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="4000 x 4000 pixels are more than the 1000000 allowed"):
        make_processor(max_image_pixels=1_000_000)(images=[bomb])


def test_arrays_are_taken_as_image_processors_take_them():
    array = np.full((3, 16, 16), 128, dtype=np.uint8)
    inputs = make_processor()(images=[array, None], text=["a", "b"], return_tensors="pt")
    assert inputs["has_image"].tolist() == [True, False]
    assert make_processor()(images=np.stack([array, array]), return_tensors="pt")["pixel_values"].shape[0] == 2


def test_pictures_far_larger_than_encoders_read_are_reduced():
    processor = make_processor()
    large = Image.new("RGB", (9000, 5600), "red")  # 50 megapixels
    read = processor.read_picture(large)
    assert read.width * read.height <= 4_000_000 and abs(read.width / read.height - 9000 / 5600) < 0.01
    assert processor.read_picture(picture()).size == (20, 30)
    torch.testing.assert_close(
        processor(images=large, return_tensors="pt")["pixel_values"],
        processor(images=Image.new("RGB", (90, 56), "red"), return_tensors="pt")["pixel_values"],
    )


def test_a_detectors_queries_are_regions():
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"])
    sizes = {"d_model": 16, "num_queries": 7, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    detector = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, **sizes)
    yolos = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
        patch_size=16, num_detection_tokens=5,
    )  # fmt: skip
    for config, regions in ((detector, 7), (yolos, 5)):
        model = MMOrientModel.from_encoders_pretrained(vision=AutoModel.from_config(config), text_config=None)
        image_processor = DetrImageProcessorPil(size={"height": 32, "width": 32}, pad_size={"height": 32, "width": 32})
        processor = MMOrientProcessor(image_processor)
        inputs = processor(images=[picture(), picture(size=(60, 20), colour="red")], return_tensors="pt")
        with torch.no_grad():
            encoded = model.eval().encode_posts(**inputs)
        assert encoded.region_features.shape == (2, regions, 16)
        assert encoded.region_mask.all()


def test_texts_are_cut_at_what_the_text_encoder_reads(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(tmp_path)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    clip = AutoConfig.for_model(
        "clip", text_config=text | {"vocab_size": 400, "max_position_embeddings": 10}, vision_config=text
    )
    AutoModel.from_config(clip).save_pretrained(tmp_path)
    processor = MMOrientProcessor.from_encoders_pretrained(text=str(tmp_path))
    assert processor(text="cat " * 100, return_tensors="pt")["input_ids"].shape == (1, 10)
    model = MMOrientModel.from_encoders_pretrained(text=str(tmp_path), vision_config=None)
    assert model.eval().encode_posts(**processor(text="cat " * 100, return_tensors="pt")).token_features.shape[1] == 10


def test_max_tokens_counts_whatever_length_a_tokenizer_was_saved_with():
    processor = make_processor(max_tokens=6)
    processor.tokenizer.init_kwargs["max_length"] = 33  # as many repositories have it
    processor.tokenizer.max_length = 33
    text = ["a cat on a mat when the code compiles at once"]
    assert processor(text=text, return_tensors="pt")["input_ids"].shape[1] == 6
    assert processor(text=text, max_length=4, return_tensors="pt")["input_ids"].shape[1] == 4
