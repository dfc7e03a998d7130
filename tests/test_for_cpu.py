"""`for_cpu`: faster products that are asked for, and everything else as before."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel

from modeling_mm_orient import MMOrientForMultiTaskClassification
from modeling_mm_orient.cpu_speed import CpuLinear, Int8Linear, fastest_linear
from modeling_mm_orient.runs.trainer import MMOrientTrainer, MMOrientTrainingArguments

from .helpers import feature_batch, label_batch, small_towers, tiny_model


def kinds(model) -> set[type]:
    return {type(layer) for layer in model.modules() if isinstance(layer, nn.Linear)}


@pytest.fixture
def by_onednn(monkeypatch):
    """Layers of any size go the way of large ones on an AMD processor."""
    from modeling_mm_orient import cpu_speed
    from modeling_mm_orient.private_apis import has_onednn_linear

    if not has_onednn_linear():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(cpu_speed, "FEWEST_PRODUCTS", 1)
    monkeypatch.setattr(cpu_speed, "onednn_pays", lambda: True)


def test_there_and_back_with_the_same_numbers_and_names(by_onednn):
    model, batch = tiny_model().eval(), feature_batch()
    names, before = list(model.state_dict()), model(**batch).logits
    assert model.for_cpu() is model and kinds(model) == {CpuLinear}
    assert list(model.state_dict()) == names
    for name, logits in model(**batch).logits.items():
        torch.testing.assert_close(logits, before[name], atol=1e-5, rtol=1e-5)
    assert model.for_any_device() is model and kinds(model) == {nn.Linear}
    assert torch.equal(model(**batch).logits["offensive"], before["offensive"])


def test_gradients_are_those_of_plain_layers(by_onednn):
    gradients = []
    for model in (tiny_model().train(), tiny_model().train().for_cpu()):
        model(**feature_batch(), labels=label_batch()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_nothing_is_faster_without_being_asked(by_onednn, monkeypatch):
    from modeling_mm_orient import cpu_speed

    monkeypatch.setattr(cpu_speed, "by_onednn", lambda *_: pytest.fail("was not asked for"))
    tiny_model().eval()(**feature_batch())


def test_hooks_see_their_layers(by_onednn):
    model, seen = tiny_model().eval().for_cpu(), []
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and "gate" not in name
    }
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    batch = {name: value.repeat_interleave(3, 0) for name, value in feature_batch().items()}  # everyone has neighbours
    model(**batch)
    # in eval() the batch's attention is not run: its running bias stands for it
    assert set(seen) == {name for name in layers if "across_batch" not in name}


def test_a_copy_and_a_saved_model_are_as_before(by_onednn, tmp_path):
    model, batch = tiny_model().eval().for_cpu(), feature_batch()
    twin = copy.deepcopy(model)
    assert kinds(twin) == {CpuLinear}
    assert torch.equal(twin(**batch).logits["offensive"], model(**batch).logits["offensive"])
    model.save_pretrained(tmp_path)
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path).eval()
    assert kinds(again) == {nn.Linear}
    torch.testing.assert_close(again(**batch).logits["offensive"], model(**batch).logits["offensive"])


def test_adapters_on_a_text_encoder(by_onednn):
    config = small_towers(joint_config=None, frozen_encoders=["vision"])
    model = MMOrientForMultiTaskClassification(config).eval()
    batch = {
        "pixel_values": torch.randn(3, 3, 16, 16),
        "input_ids": torch.randint(5, 50, (3, 6)),
        "attention_mask": torch.ones(3, 6, dtype=torch.long),
    }
    before = model(**batch).logits["x"]
    adapted = get_peft_model(model.for_cpu(), LoraConfig(target_modules=["query", "value"], init_lora_weights=False))
    assert not torch.allclose(adapted(**batch).logits["x"], before)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(**batch).logits["x"], before, atol=1e-5, rtol=1e-5)
    adapted.train()(**batch, labels={"x": torch.tensor([0, 1, 0])}).loss.backward()
    assert any(p.grad is not None and p.grad.any() for name, p in adapted.named_parameters() if "lora_B" in name)


def test_adapters_on_relation_layers_are_called(by_onednn):
    model, batch = tiny_model().eval(), feature_batch()
    before = model(**batch).logits["offensive"]
    targets = r".*relations\.streams\..*\.linear"
    adapted = get_peft_model(model, LoraConfig(target_modules=targets, init_lora_weights=False))
    adapted.base_model.model.for_cpu()
    assert not torch.allclose(adapted(**batch).logits["offensive"], before)


def test_compiled_once_for_all(by_onednn):
    model, batch = tiny_model().eval().for_cpu(), feature_batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**batch).logits["offensive"], model(**batch).logits["offensive"])


def test_a_layer_recomputed_saves_what_it_saved_before(by_onednn):
    # a mode that was on in the forward pass alone made `torch.utils.checkpoint` fail
    layer, features = nn.Linear(64, 32), torch.randn(8, 64, requires_grad=True)
    layer.__class__ = CpuLinear
    checkpoint(layer, features, use_reentrant=False).sum().backward()
    expected = torch.autograd.grad(F.linear(features, layer.weight, layer.bias).sum(), features)[0]
    torch.testing.assert_close(features.grad, expected, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_of_a_learner_of_real_size(tmp_path):
    # layers large enough for the faster product on a processor that has it
    model = tiny_model(learner_hidden_sizes=[2048, 1024]).for_cpu()
    model.gradient_checkpointing_enable()
    batch = {name: value.repeat_interleave(8, 0) for name, value in feature_batch().items()}
    labels = {name: value.repeat_interleave(8, 0) for name, value in label_batch().items()}
    loss = model.train()(**batch, labels=labels).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_trainer_asks_for_it(tmp_path):
    arguments = MMOrientTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer = MMOrientTrainer(tiny_model(), arguments)
    assert kinds(trainer.model) == {CpuLinear}


def test_8_bits_are_for_predicting():
    model = MMOrientForMultiTaskClassification(small_towers()).for_cpu(int8=True)
    encoder_layers = [layer for encoder in model.base_model.encoders.values() for layer in encoder.modules()]
    assert any(isinstance(layer, Int8Linear) for layer in encoder_layers) and not model.training
    with pytest.raises(ValueError, match="load the model again"):
        model.for_any_device()
    with pytest.raises(ValueError, match="8-bit encoders are not saved"):
        model.save_pretrained("nowhere")
    with pytest.raises(ValueError, match="no encoder with linear layers"):
        tiny_model().for_cpu(int8=True)


def test_encoders_of_others_too(by_onednn, monkeypatch):
    encoder = BertModel(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    model = MMOrientForMultiTaskClassification.from_encoders_pretrained(
        text=encoder, region_feature_dim=4, image_embed_dim=4, tasks=[{"name": "x", "labels": ["a", "b"]}]
    ).for_cpu()
    assert kinds(model.base_model.text_encoder) == {CpuLinear}


def test_a_transform_and_a_trace_take_the_plain_product(by_onednn):
    weight, features = torch.randn(4, 8), torch.randn(3, 8)
    found = torch.func.vmap(lambda x: fastest_linear(x, weight))(features)
    torch.testing.assert_close(found, F.linear(features, weight))
