"""Every family of encoders gives (B, R, D) regions of the width that the configuration foretells."""

import pytest
import torch
from transformers import AutoConfig

from modeling_mm_orient import MMOrientConfig, MMOrientModel
from modeling_mm_orient.encoders import region_features

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {
    "vit": (SMALL | {"image_size": 32, "patch_size": 8}, 16),
    "dinov2": (SMALL | {"image_size": 32, "patch_size": 8}, 16),
    "dinov2_with_registers": (SMALL | {"image_size": 32, "patch_size": 8, "num_register_tokens": 3}, 16),
    "siglip_vision_model": (SMALL | {"image_size": 32, "patch_size": 8}, 16),
    "clip_vision_model": (SMALL | {"image_size": 32, "patch_size": 8}, 16),
    "mobilenet_v2": ({"depth_multiplier": 0.35, "image_size": 32}, 1),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1], "layer_type": "basic"}, 16),
    "convnext": ({"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}, 16),
    "swin": ({"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}, 16),
    "detr": (
        {
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 7,
            "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
            "backbone_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1],
                                "layer_type": "basic", "out_features": ["stage2"]},
        },
        7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_type", VISION)
def test_vision_encoders(model_type):
    settings, regions = VISION[model_type]
    config = MMOrientConfig(
        vision_config=AutoConfig.for_model(model_type, **settings), text_config={"model_type": "bert"} | SMALL, tasks=[]
    )
    posts = MMOrientModel(config).eval().encode_posts(pixel_values=torch.randn(2, 3, 32, 32))
    assert posts.region_features.shape == (2, regions, config.region_feature_dim)
    assert posts.region_mask.all() and posts.has_image.all() and not posts.has_text.any()
    torch.testing.assert_close(posts.image_embeds, posts.region_features.mean(1))


def test_patch_tokens_without_class_and_register_tokens():
    settings, _ = VISION["dinov2_with_registers"]
    config = AutoConfig.for_model("dinov2_with_registers", **settings)
    hidden = torch.arange(20.0)[None, :, None]

    class Outputs:
        last_hidden_state = hidden

    found = region_features(Outputs, torch.zeros(1, 3, 32, 32), config)
    assert found.flatten().tolist() == list(range(4, 20))


@pytest.mark.parametrize(
    "model_type",
    ["bert", "distilbert", "roberta", "modernbert", "deberta-v2", "electra", "albert", "mpnet", "clip_text_model"],
)
def test_text_encoders(model_type):
    names = {"distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}}
    config = AutoConfig.for_model(model_type, **names.get(model_type, SMALL), vocab_size=60, pad_token_id=0)
    config = MMOrientConfig(text_config=config, vision_config={"model_type": "vit"} | VISION["vit"][0], tasks=[])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    types = torch.zeros(2, 4, dtype=torch.long)  # some tokenizers give them whether or not the encoder wants them
    inputs = {"input_ids": torch.full((2, 4), 9), "attention_mask": mask, "token_type_ids": types}
    posts = MMOrientModel(config).eval().encode_posts(**inputs)
    assert posts.token_features.shape == (2, 4, config.token_feature_dim)
    assert torch.equal(posts.token_mask, mask.bool())
    torch.testing.assert_close(posts.text_embeds[1], posts.token_features[1, 0])
    assert posts.text_layers.shape == (2, config.text_layers_dim) and posts.text_layers.any(1).all()


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_joint_encoders(model_type):
    side = SMALL | {"image_size": 32, "patch_size": 8}
    text = SMALL | {"vocab_size": 60, "max_position_embeddings": 16}
    config = MMOrientConfig(
        joint_config={"model_type": model_type, "vision_config": side, "text_config": text},
        region_feature_dim=4,
        token_feature_dim=5,
        tasks=[],
    )
    model = MMOrientModel(config).eval()
    posts = model.encode_posts(
        joint_pixel_values=torch.randn(2, 3, 32, 32),
        joint_input_ids=torch.randint(1, 60, (2, 16)),
        region_features=torch.randn(2, 3, 4),
        token_features=torch.randn(2, 3, 5),
    )
    assert posts.image_embeds.shape == (2, config.image_embed_dim)
    assert posts.text_embeds.shape == (2, config.text_embed_dim)
