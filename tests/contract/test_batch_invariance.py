"""A verdict is a function of the post and the memory: alone, in any batch, beside whatever mates."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    BertConfig,
    CLIPConfig,
    DebertaV2Config,
    DetrConfig,
    DetrImageProcessorPil,
    Dinov2Config,
    DistilBertConfig,
    LlamaConfig,
    MambaConfig,
    ModernBertConfig,
    ResNetConfig,
    RobertaConfig,
    SiglipTextConfig,
    SiglipTextModel,
    SwinConfig,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    XLNetConfig,
    YolosConfig,
    YolosImageProcessorPil,
)

from modeling_mm_orient import MMOrientConfig, MMOrientForMultiTaskClassification, MMOrientProcessor
from modeling_mm_orient.relation_memory import RelationMemory

from ..helpers import TASKS, feature_batch, make_processor, reference_posts, tiny_model

MEMORY = {"relation_scope": "memory", "neighbour_labels": True, "edge_weights": "softmax", "relation_gate": True}


def logits_of(model, batch) -> torch.Tensor:
    with torch.no_grad():
        found = model(**batch).logits
    return torch.cat([values.reshape(len(values), -1) for values in found.values()], 1)


def rows_of(batch, rows) -> dict:
    return {name: value[rows] for name, value in batch.items()}


def crowded_memory(count: int, seed: int, templates: int) -> RelationMemory:
    """Reference posts among which many are copies, nearly copies, or equally near."""
    posts = reference_posts(count, first=seed)
    generator = torch.Generator().manual_seed(seed)
    for number, post in enumerate(posts):
        template = posts[number % templates]
        if number % 3:
            noise = 0 if number % 3 == 1 else 1e-4
            for name in ("image_embeds", "text_embeds"):
                post[name] = template[name] + noise * torch.randn(len(template[name]), generator=generator)
    model = tiny_model(**MEMORY)
    return model.build_relation_memory(posts)


@settings(max_examples=25, deadline=None)
@given(
    lookup=st.sampled_from(["top_k", "threshold", "both"]),
    count=st.integers(3, 60),
    templates=st.integers(1, 5),
    top_k=st.integers(1, 12),
    at_a_cosine=st.booleans(),
    seed=st.integers(0, 999),
)
@example(lookup="top_k", count=42, templates=3, top_k=2, at_a_cosine=False, seed=114)
def test_with_copies_templates_and_thresholds_at_cosines(lookup, count, templates, top_k, at_a_cosine, seed):
    model = tiny_model(**MEMORY, memory_lookup=lookup, memory_top_k=top_k).eval()
    memory = crowded_memory(count, seed, templates)
    batch = feature_batch(8, seed)
    # some posts are reference posts themselves
    for name, modality in (("image_embeds", "image"), ("text_embeds", "text")):
        batch[name][:3] = memory.embeds[modality][:3].float()
        if at_a_cosine:
            pair = torch.cosine_similarity(batch[name][0], memory.embeds[modality][-1].float(), dim=0)
            model.config.set_threshold(modality, float(pair))
    model.set_relation_memory(memory)
    together = logits_of(model, batch)
    assert together.isfinite().all()
    for row in range(8):
        torch.testing.assert_close(logits_of(model, rows_of(batch, [row])), together[[row]], atol=1e-5, rtol=1e-5)
    mixed = [*torch.randperm(8, generator=torch.Generator().manual_seed(seed)).tolist(), 0, 0, 5]
    torch.testing.assert_close(logits_of(model, rows_of(batch, mixed)), together[mixed], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lookup", ["top_k", "threshold"])
def test_more_are_equally_near_than_count(lookup, caplog):
    count = 3000
    vector = {"image": torch.randn(8), "text": torch.randn(6)}
    labels = {
        "offensive": torch.arange(count) % 2,
        "emotions": (torch.arange(count * 3).view(count, 3) % 2).float(),
        "intensity": torch.linspace(-1, 1, count),
    }
    memory = RelationMemory(
        {m: value.expand(count, -1).clone() for m, value in vector.items()},
        {m: torch.ones(count, dtype=torch.bool) for m in vector},
        [str(n) for n in range(count)],
        torch.zeros(count, dtype=torch.int64),
        [{"kind": "single_label", "labels": [], **task} for task in TASKS],
        labels,
        [],
    )
    model = tiny_model(**MEMORY, memory_lookup=lookup, image_threshold=-1, text_threshold=-1).eval()
    model.set_relation_memory(memory)
    batch = feature_batch(6)
    found = memory.look_up("image", batch["image_embeds"], torch.ones(6, dtype=torch.bool), 4, None)
    assert torch.equal(found.entries, torch.arange(1024).expand(6, -1))  # the first of equals
    together = logits_of(model, batch)
    for row in range(6):
        torch.testing.assert_close(logits_of(model, rows_of(batch, [row])), together[[row]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "dense", "fused", "index_add"])
@pytest.mark.parametrize("fields", [{}, {"relation_layers": 2}, MEMORY, MEMORY | {"relation_layers": 2}], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_is_no_number_stays_with_its_post(backend, fields, value):
    model = tiny_model(message_passing_backend=backend, **fields).eval()
    if fields.get("relation_scope") == "memory":
        model.build_relation_memory(reference_posts(20))
    for name in ("image_embeds", "text_embeds", "region_features", "token_features", "task_features"):
        batch = feature_batch(9)
        batch[name][2] = value
        others = [row for row in range(9) if row != 2]
        assert logits_of(model, batch)[others].isfinite().all(), name
        if fields.get("relation_scope") == "memory":
            sound = logits_of(model, feature_batch(9))
            torch.testing.assert_close(logits_of(model, batch)[others], sound[others], atol=1e-5, rtol=1e-5)


def test_half_precision_of_a_post_without_text():
    model = tiny_model(**MEMORY).eval()
    model.build_relation_memory(reference_posts(20))
    batch = feature_batch(4) | {"has_text": torch.tensor([True, False, True, False])}
    half = {name: value.half() if value.is_floating_point() else value for name, value in batch.items()}
    expected, found = logits_of(model, batch), logits_of(model.half(), half)
    assert found.isfinite().all()
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("temperature", [1e-4, 0.01, 0.05, 10.0])
def test_distant_reference_posts_at_any_temperature(temperature):
    model = tiny_model(**MEMORY, edge_temperature=temperature, self_loops=False).eval()
    posts = reference_posts(20)
    batch = feature_batch(6)
    for post in posts:  # opposite to every query
        post["image_embeds"], post["text_embeds"] = -batch["image_embeds"].mean(0), -batch["text_embeds"].mean(0)
    model.build_relation_memory(posts)
    assert logits_of(model, batch).isfinite().all()


# encoders

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VISION = {
    "ViT": ViTConfig(**SMALL, image_size=32, patch_size=8),
    "DINOv2": Dinov2Config(**{k: v for k, v in SMALL.items() if k != "intermediate_size"}, image_size=32, patch_size=8),
    "Swin": SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "ResNet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "DETR": DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        ),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
    ),
    "YOLOS": YolosConfig(**SMALL, image_size=[48, 48], patch_size=8, num_detection_tokens=5),
}
TEXT = {
    "BERT": BertConfig(**SMALL, vocab_size=300),
    "RoBERTa": RobertaConfig(**SMALL, vocab_size=300, pad_token_id=0),
    "DistilBERT": DistilBertConfig(vocab_size=300, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
    "ModernBERT": ModernBertConfig(**SMALL, vocab_size=300, pad_token_id=0, local_attention=4),
    "DeBERTa": DebertaV2Config(
        **SMALL, vocab_size=300, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8
    ),
    "XLNet": XLNetConfig(vocab_size=300, d_model=16, n_layer=2, n_head=2, d_inner=24),
    "Mamba": MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2, state_size=4),
    "Llama": LlamaConfig(**SMALL, vocab_size=300, pad_token_id=0),
}
WORDS = "when you finally fix the bug but it breaks three other things"
POSTS = [
    ((31, 20), WORDS), ((20, 44), "no"), ((64, 64), WORDS[:20]), ((33, 20), WORDS + " again and again"), ((20, 20), "a b"),
]  # fmt: skip


def pictures() -> list[Image.Image]:
    return [Image.effect_noise(size, 90).convert("RGB") for size, _ in POSTS]


def alone_and_together(model, processor, images, texts) -> None:
    model = model.eval()
    inputs = processor(images=images, text=texts, return_tensors="pt")
    together = logits_of(model, inputs)
    assert together.isfinite().all() and together.std(0).max() > 1e-4  # the posts do differ
    for row in range(len(texts)):
        image = None if images is None else [images[row]]
        own = processor(images=image, text=[texts[row]], return_tensors="pt")
        torch.testing.assert_close(logits_of(model, own), together[[row]], atol=1e-5, rtol=1e-4)


def fusion(**encoders) -> MMOrientForMultiTaskClassification:
    torch.manual_seed(0)
    config = MMOrientConfig(
        **encoders,
        tasks=[{"name": "x", "labels": ["a", "b"]}],
        attention_hidden_size=4,
        relation_hidden_size=4,
        relation_streams=[],
        learner_hidden_sizes=[8],
    )
    return MMOrientForMultiTaskClassification(config)


@pytest.mark.parametrize("family", VISION)
def test_pictures_of_many_sizes(family):
    if family in ("DETR", "YOLOS"):
        kind = DetrImageProcessorPil if family == "DETR" else YolosImageProcessorPil
        image_processor = kind(size={"shortest_edge": 24, "longest_edge": 48})
    else:
        image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor = MMOrientProcessor(image_processor, make_processor().tokenizer)
    model = fusion(vision_config=VISION[family], text_config=TEXT["BERT"])
    alone_and_together(model, processor, pictures(), [words for _, words in POSTS])


@pytest.mark.parametrize("family", TEXT)
def test_texts_of_many_lengths(family):
    processor = make_processor()
    processor.image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    model = fusion(vision_config=VISION["ViT"], text_config=TEXT[family])
    alone_and_together(model, processor, pictures(), [words for _, words in POSTS])


@pytest.mark.parametrize("family", ["T5", "SigLIP text"])
def test_texts_by_an_encoder_that_is_part_of_a_model(family):
    torch.manual_seed(0)
    tokenizer = make_processor().tokenizer
    if family == "T5":
        encoder = T5EncoderModel(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))
    else:
        encoder = SiglipTextModel(SiglipTextConfig(**SMALL, vocab_size=300, projection_size=16))
        tokenizer.model_input_names = ["input_ids"]  # as SigLIP's: no mask
    model = MMOrientForMultiTaskClassification.from_encoders_pretrained(
        text=encoder,
        region_feature_dim=16,
        image_embed_dim=16,
        tasks=[{"name": "x", "labels": ["a", "b"]}],
        relation_streams=[],
        learner_hidden_sizes=[8],
    )
    alone_and_together(model, MMOrientProcessor(None, tokenizer, max_tokens=60), None, [words for _, words in POSTS])


def test_both_sides_of_a_joint_encoder():
    size = SMALL | {"max_position_embeddings": 77}
    clip = CLIPConfig(
        text_config=size | {"vocab_size": 300, "eos_token_id": 2},
        vision_config=SMALL | {"image_size": 8, "patch_size": 4},
        projection_dim=12,
    )
    model = fusion(joint_config=clip, vision_config=VISION["ViT"], text_config=TEXT["BERT"])
    processor = make_processor(joint=True)
    processor.image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    alone_and_together(model, processor, pictures(), [words for _, words in POSTS])
