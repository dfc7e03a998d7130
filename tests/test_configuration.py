import json
import math

import pytest
from transformers import BertConfig, CLIPConfig, MobileNetV2Config, ResNetConfig, SiglipConfig

from modeling_mm_orient import MMOrientConfig

from .helpers import small_towers, tiny_config


def test_defaults_are_the_papers():
    config = MMOrientConfig()
    assert (config.image_threshold, config.text_threshold, config.self_loops) == (0.9, 0.9, True)
    assert (config.learner_hidden_sizes, config.learner_dropout) == ([4618, 2048], 0.2)
    assert config.relation_streams == ["image_over_image", "text_over_text", "image_over_text", "text_over_image"]
    assert (config.image_embed_dim, config.region_feature_dim, config.token_feature_dim) == (512, 2048, 768)
    assert config.task_feature_dim == 784
    assert [len(task["labels"]) for task in config.tasks] == [3, 4, 4, 4, 2]


@pytest.mark.parametrize(
    "field, value",
    [
        ("image_threshold", 1.5),
        ("text_threshold", "high"),
        ("stage2_combine", "product"),
        ("stage2_momentum", -0.1),
        ("learner_dropout", 1),
        ("learner_hidden_sizes", [0]),
        ("learner_hidden_sizes", 128),
        ("relation_streams", ["image_over_audio"]),
        ("relation_streams", ["image_over_image", "image_over_image"]),
        ("relation_layers", 0),
        ("relation_hidden_size", 2.5),
        ("edge_weights", "cosine"),
        ("message_passing_backend", "dgl"),
        ("task_loss_weighting", "gradnorm"),
        ("frozen_encoders", ["audio"]),
        ("hima_stage1", "yes"),
        ("task_feature_dim", -1),
        ("vision_config", {"hidden_size": 3}),
        ("text_config", {"model_type": "no_such_model"}),
        ("tasks", "offensive"),
        ("tasks", [{"labels": ["a", "b"]}]),
        ("tasks", [{"name": "x", "labels": ["a"]}]),
        ("tasks", [{"name": "x", "labels": ["a", "a"]}]),
        ("tasks", [{"name": "x", "kind": "ranking", "labels": ["a", "b"]}]),
        ("tasks", [{"name": "x", "kind": "regression", "labels": ["a"]}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "class_weights": [1.0]}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "loss_weight": -1}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "weight": 1}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"]}] * 2),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "temperature": 1e-300}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "temperature": 10**400}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "decision_offsets": [10**400, 0]}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "decision_offsets": [1e38, 0]}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "expert_weights": {"words": 1e308, "text": 1e308}}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "doubts": [0, 10**400]}]),
        ("tasks", [{"name": "x", "labels": ["a", "b"], "class_weights": [1e39, 1]}]),
        ("tasks", [{"name": "x", "kind": "regression", "labels": [], "mean": 1e39}]),
    ],
)
def test_wrong_value_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"`{field}"):
        tiny_config(**{field: value})


def test_context_free_attention_needs_width_one():
    with pytest.raises(ValueError, match="attention_hidden_size"):
        tiny_config(attention_context_vector=False, attention_hidden_size=2)


def test_misspelt_field_is_refused():
    with pytest.raises(ValueError, match="did you mean `image_threshold`"):
        MMOrientConfig(image_treshold=0.5)


def test_widths_come_from_encoders():
    config = MMOrientConfig(
        joint_config=CLIPConfig(projection_dim=24),
        text_config=BertConfig(hidden_size=48),
        vision_config=MobileNetV2Config(),
    )
    assert (config.image_embed_dim, config.text_embed_dim) == (24, 24)
    assert (config.region_feature_dim, config.token_feature_dim, config.task_feature_dim) == (1280, 48, 0)


def test_without_joint_encoder_embeddings_have_the_features_widths():
    config = MMOrientConfig(
        text_config=BertConfig(hidden_size=48), vision_config=ResNetConfig(hidden_sizes=[8, 16, 32, 40])
    )
    assert (config.image_embed_dim, config.text_embed_dim) == (40, 48)


def test_a_width_that_contradicts_its_encoder_is_refused():
    with pytest.raises(ValueError, match="`token_feature_dim` must be 48"):
        MMOrientConfig(text_config=BertConfig(hidden_size=48), token_feature_dim=768)


def test_round_trip_keeps_everything(tmp_path):
    config = tiny_config(
        joint_config=SiglipConfig(vision_config={"hidden_size": 8}, text_config={"hidden_size": 6}),
        relation_streams=["text_over_image"],
        frozen_encoders=["joint"],
        image_threshold=0.35,
    )
    config.save_pretrained(tmp_path)
    again = MMOrientConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert [task["name"] for task in again.tasks] == ["offensive", "emotions", "intensity"]


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"edge_temperature": math.inf}, "edge_temperature"), ({"edge_temperature": 1e-46}, "edge_temperature"),
        ({"tasks": [{"name": "x", "labels": ["a", "b"], "focal_gamma": math.inf}]}, "focal_gamma"),
        ({"tasks": [{"name": "x", "labels": ["a", "b"], "loss_weight": math.inf}]}, "loss_weight"),
        ({"tasks": [{"name": "x", "labels": ["a", "b"], "class_weights": [math.inf, 1]}]}, "class_weights"),
        ({"tasks": [{"name": "x", "kind": ["y"], "labels": ["a", "b"]}]}, "kind"),
        ({"frozen_encoders": [[1]]}, "frozen_encoders"),
        ({"relation_streams": [{}]}, "relation_streams"), ({"text_config": {"model_type": ["a"]}}, "text_config"),
    ],
)  # fmt: skip
def test_what_no_model_can_have_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        MMOrientConfig(**fields)


@pytest.mark.parametrize("where", [lambda d: d, lambda d: d["text_config"]])
def test_a_file_names_no_kernel_of_the_hub(tmp_path, where):
    small_towers().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    where(content)["attn_implementation"] = "somebody/kernel"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="somebody/kernel"):
        MMOrientConfig.from_pretrained(tmp_path)
