import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, ViTConfig

from modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientModel
from modeling_mm_orient.optional_dependencies import TORCH_SCATTER_AVAILABLE

from .helpers import TASKS, TOWER, feature_batch, label_batch, small_towers, tiny_config, tiny_model, tower_inputs


def assert_same_logits(first, second, **tolerance):
    for name in first.logits:
        torch.testing.assert_close(first.logits[name], second.logits[name], **tolerance)


def test_outputs_and_their_shapes():
    model = tiny_model()
    asked = {"output_components": True, "output_attentions": True, "output_relations": True}
    outputs = model(**feature_batch(), labels=label_batch(), **asked)
    shapes = {name: tuple(value.shape) for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    assert shapes == {
        "loss": (), "joint_representation": (9, 16), "region_vector": (9, 10), "word_vector": (9, 12),
        "relation_features": (9, 28), "merged_features": (9, 53), "image_embeds": (9, 8), "text_embeds": (9, 6),
        "has_image": (9,), "has_text": (9,),
        "region_attention": (9, 4), "word_attention": (9, 5), "image_adjacency": (9, 9), "text_adjacency": (9, 9),
    }  # fmt: skip
    assert {name: tuple(value.shape) for name, value in outputs.logits.items()} == {
        "offensive": (9, 2), "emotions": (9, 3), "intensity": (9,),
    }  # fmt: skip
    assert set(model(**feature_batch())) == {"joint_representation", "logits"}


@pytest.mark.parametrize(
    "fields, width",
    [
        ({}, 53),
        ({"relation_streams": []}, 25),
        ({"relation_streams": ["text_over_image"]}, 32),
        ({"stage2_combine": "concat"}, 75),
        ({"task_feature_dim": 0}, 50),
        ({"learner_hidden_sizes": []}, 53),
        ({"hima_stage1": False, "hima_stage2": False}, 53),
    ],
)
def test_every_component_can_be_switched_off(fields, width):
    model, inputs = tiny_model(**fields), feature_batch()
    if fields.get("task_feature_dim") == 0:
        inputs.pop("task_features")
    outputs = model(**inputs, labels=label_batch(), output_components=True)
    assert outputs.merged_features.shape == (9, width) == (9, model.config.merged_size)
    outputs.loss.backward()
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert unused == []


def test_weights_are_loaded_under_the_names_that_they_are_saved_with(tmp_path):
    # transformers writes a ViT's under older names than the module has; a Trainer loads its checkpoints by load_state_dict
    from_scratch, encoders = ViTConfig(image_size=8, patch_size=4, **TOWER), tmp_path / "vit"
    AutoModel.from_config(from_scratch).save_pretrained(encoders)
    sizes = {"token_feature_dim": 12, "text_embed_dim": 6, "task_feature_dim": 0, "learner_hidden_sizes": [8]}
    models = [
        MMOrientForMultiTaskClassification.from_encoders_pretrained(
            vision=str(encoders), tasks=TASKS, frozen_encoders=[], **sizes
        )
        for _ in range(2)
    ]
    for model in models:
        for weight in model.parameters():
            torch.nn.init.normal_(weight)
    models[0].save_pretrained(tmp_path / "checkpoint")
    saved = load_file(tmp_path / "checkpoint" / "model.safetensors")
    models[1].load_state_dict(saved)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name
    with pytest.raises(RuntimeError, match="stranger"):
        models[1].load_state_dict(saved | {"stranger": torch.zeros(1)})


@pytest.mark.skipif(not TORCH_SCATTER_AVAILABLE, reason="torch-scatter is not installed")
def test_torch_scatter_and_plain_torch_agree():
    for weights in ("binary", "similarity"):
        models = [
            tiny_model(message_passing_backend=name, edge_weights=weights)
            for name in ("fused", "torch_scatter", "index_add", "dense")
        ]
        losses = [model(**feature_batch(), labels=label_batch()).loss for model in models]
        for model, loss in zip(models, losses, strict=True):
            loss.backward()
            for found, expected in zip(model.parameters(), models[0].parameters(), strict=True):
                torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-4)


def test_save_and_load_restore_everything(tmp_path):
    model = tiny_model(task_loss_weighting="uncertainty")
    model(**feature_batch())  # moves the running batch bias
    model.task_heads.log_variances.data += 0.3
    model.save_pretrained(tmp_path)
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    assert_same_logits(again(**feature_batch()), model.eval()(**feature_batch()))


def test_buffers_missing_from_a_checkpoint_are_initialised(tmp_path):
    tiny_model(hima_stage2=False).save_pretrained(tmp_path)
    model = MMOrientForMultiTaskClassification.from_pretrained(tmp_path, hima_stage2=True)
    stage = model.mm_orient.word_hima.across_batch
    assert (stage.running_bias == 0).all()
    assert stage.num_batches_tracked == 0


def test_weights_missing_from_a_checkpoint_are_initialised(tmp_path):
    torch.manual_seed(0)
    MMOrientModel(tiny_config()).save_pretrained(tmp_path)
    model = MMOrientForMultiTaskClassification.from_pretrained(tmp_path, task_loss_weighting="uncertainty")
    assert (model.task_heads.log_variances == 0).all()
    assert all(torch.isfinite(value).all() and value.abs().max() < 10 for value in model.parameters())


@pytest.mark.parametrize("missing", ["image", "text"])
def test_one_modality_alone(missing):
    model, inputs = tiny_model().eval(), feature_batch()
    names = {
        "image": ["image_embeds", "region_features", "region_mask"],
        "text": ["text_embeds", "token_features", "token_mask"],
    }
    alone = {name: value for name, value in inputs.items() if name not in names[missing]}
    masked = model(**inputs, **{f"has_{missing}": torch.zeros(9, dtype=torch.bool)}, output_relations=True)
    assert masked[f"{missing}_adjacency"].sum() == 0
    assert_same_logits(model(**alone), masked)
    model.train()
    model(**alone, labels=label_batch()).loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def test_a_missing_modality_in_a_mixed_batch_has_no_influence():
    model, inputs = tiny_model().eval(), feature_batch()
    has_image = torch.arange(9) != 4
    first = model(**inputs, has_image=has_image)
    inputs["image_embeds"][4], inputs["region_features"][4] = 1e3, -1e3
    assert_same_logits(model(**inputs, has_image=has_image), first)


def test_whatever_is_masked_may_be_nan():
    model, inputs = tiny_model(), feature_batch()
    has_text = torch.arange(9) != 4
    expected = model.eval()(**inputs, has_text=has_text)
    inputs["text_embeds"][4] = float("nan")
    inputs["token_features"][4] = float("nan")
    inputs["region_features"][~inputs["region_mask"]] = float("nan")
    assert_same_logits(model(**inputs, has_text=has_text), expected)
    model.train()(**inputs, has_text=has_text, labels=label_batch()).loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())


def test_padding_has_no_influence():
    model, inputs = tiny_model().eval(), feature_batch()
    first = model(**inputs)
    for unit, count in (("region", 3), ("token", 2)):
        features, mask = inputs[f"{unit}_features"], inputs[f"{unit}_mask"]
        junk = 100 * torch.randn(9, count, features.shape[-1])
        inputs[f"{unit}_features"] = torch.cat([torch.where(mask[..., None], features, 77.0), junk], 1)
        inputs[f"{unit}_mask"] = torch.cat([mask, torch.zeros(9, count, dtype=torch.bool)], 1)
    assert_same_logits(model(**inputs), first)


def test_the_text_encoders_padding_has_no_influence():
    torch.manual_seed(0)
    model, inputs = MMOrientForMultiTaskClassification(small_towers()).eval(), tower_inputs()
    inputs["attention_mask"][:, 4:] = 0
    first = model(**inputs)
    inputs["input_ids"] = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"], 7)
    assert_same_logits(model(**inputs), first)


def test_the_order_of_posts_does_not_matter():
    model, inputs = tiny_model().eval(), feature_batch()
    order = torch.randperm(9)
    first, second = model(**inputs), model(**{name: value[order] for name, value in inputs.items()})
    for name in first.logits:
        torch.testing.assert_close(second.logits[name], first.logits[name][order])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"region_features": torch.zeros(9, 4, 11)}, "`region_features` must have shape"),
        ({"token_mask": torch.ones(9, 6)}, "`token_mask` must have shape"),
        ({"image_embeds": torch.zeros(9, 7)}, "`image_embeds` must have shape"),
        ({"task_features": None}, "`task_features` of shape"),
        ({"task_features": torch.zeros(9, 4)}, "`task_features` must have shape"),
        ({"text_embeds": torch.zeros(8, 6)}, "`text_embeds` must have shape"),
        ({"region_features": None}, "`image_embeds` came without `region_features`"),
        ({"image_embeds": None}, "`image_embeds` is missing"),
        ({"pixel_values": torch.zeros(9, 3, 16, 16)}, "no vision encoder"),
        ({"has_text": torch.ones(3)}, "`has_text` must have shape"),
    ],
)
def test_wrong_inputs_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**feature_batch() | changes)


def test_no_inputs():
    with pytest.raises(ValueError, match="no input"):
        tiny_model()()


@pytest.mark.slow
def test_compiled_without_graph_breaks():
    model, inputs, labels = tiny_model(), feature_batch(), label_batch()
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True)
    found = compiled(**inputs, labels=labels).loss
    found.backward()
    torch.testing.assert_close(found, loss)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], atol=1e-6, rtol=1e-4)
    model.eval()
    assert_same_logits(torch.compile(model, fullgraph=True)(**inputs), model(**inputs))


def test_bfloat16_autocast():
    model, inputs = tiny_model(), feature_batch()
    model.eval()
    first = model(**inputs, output_relations=True)
    with torch.autocast("cpu", torch.bfloat16):
        second = model(**inputs, labels=label_batch(), output_relations=True)
        second.loss.backward()
    assert torch.equal(first.image_adjacency, second.image_adjacency)
    for name in first.logits:
        torch.testing.assert_close(first.logits[name], second.logits[name].float(), atol=0.05, rtol=0.05)


def test_gradient_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    model = MMOrientForMultiTaskClassification(small_towers(frozen_encoders=[], learner_dropout=0.0)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    labels = {"x": torch.tensor([0, 1, 0])}
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**tower_inputs(), labels=labels).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_frozen_encoders_stay_frozen(tmp_path):
    new = MMOrientForMultiTaskClassification(small_towers(frozen_encoders=["joint", "vision"]))
    new.save_pretrained(tmp_path)
    for model in (new, MMOrientForMultiTaskClassification.from_pretrained(tmp_path)):
        model.train()
        trained = {name.split(".")[1] for name, value in model.named_parameters() if value.requires_grad}
        assert "text_encoder" in trained and not {"joint_encoder", "vision_encoder"} & trained
        assert not model.mm_orient.vision_encoder.training and model.mm_orient.text_encoder.training
        model.freeze_encoders([])
        assert all(value.requires_grad for name, value in model.named_parameters() if not name.endswith("logit_scale"))
        assert model.train().mm_orient.vision_encoder.training


def test_from_encoders_pretrained_is_the_encoders(tmp_path):
    torch.manual_seed(0)
    source = MMOrientModel(small_towers())
    for name in ("joint", "text", "vision"):
        getattr(source, f"{name}_encoder").save_pretrained(tmp_path / name)
    paths = {name: tmp_path / name for name in ("joint", "text", "vision")}
    model = MMOrientModel.from_encoders_pretrained(**paths, revision="main", learner_hidden_sizes=[8])
    for name in paths:
        state = getattr(source, f"{name}_encoder").state_dict()
        for key, value in getattr(model, f"{name}_encoder").state_dict().items():
            torch.testing.assert_close(value, state[key])
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model(**tower_inputs()).joint_representation.shape == (3, 8)


def test_from_encoders_takes_one_side_of_a_dual_encoder(tmp_path):
    MMOrientModel(small_towers()).joint_encoder.save_pretrained(tmp_path)
    model = MMOrientModel.from_encoders_pretrained(vision=str(tmp_path), text=str(tmp_path))
    assert model.config.vision_config.model_type == "clip_vision_model"
    inputs = {name: tower_inputs()[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    assert model.encode_posts(**inputs).region_features.shape == (3, 4, 16)


def test_from_encoders_needs_an_encoder():
    with pytest.raises(ValueError, match="at least one"):
        MMOrientModel.from_encoders_pretrained()


def test_stored_features_give_the_same_as_pixels_and_tokens():
    torch.manual_seed(0)
    model = MMOrientForMultiTaskClassification(small_towers()).eval()
    features = model.mm_orient.encode_posts(**tower_inputs())
    assert_same_logits(model(**features), model(**tower_inputs()))


def test_pooler_embeddings():
    model = MMOrientModel(small_towers(joint_config=None, embedding_pooling="pooler")).eval()
    inputs = {name: value for name, value in tower_inputs().items() if not name.startswith("joint")}
    expected = model.vision_encoder(inputs["pixel_values"]).pooler_output
    torch.testing.assert_close(model(**inputs, output_components=True).image_embeds, expected)
    assert MMOrientModel(small_towers()).text_encoder.pooler is None


def test_exported_once_for_every_batch_size():
    model, inputs = tiny_model().eval(), feature_batch(9)
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(model, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs})
    for count in (2, 9, 200):
        inputs = feature_batch(count, seed=count)
        found, expected = program.module()(**inputs), model(**inputs)
        for name, logits in expected.logits.items():
            torch.testing.assert_close(found["logits"][name], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@torch._dynamo.config.patch(error_on_recompile=True)  # monkeypatch would leave it without the entry
def test_compiled_once_for_every_batch_size():
    torch._dynamo.reset()  # what other tests compiled
    model = tiny_model().eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for count in (9, 2, 200):
        inputs = feature_batch(count, seed=count)
        assert_same_logits(compiled(**inputs), model(**inputs), atol=1e-5, rtol=1e-5)
