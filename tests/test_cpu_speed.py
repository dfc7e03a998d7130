"""Linear layers for CPUs: the faster products are the plain ones, and 8-bit ones nearly so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_mm_orient import MMOrientForMultiTaskClassification, cpu_speed
from modeling_mm_orient.cpu_speed import (
    CpuLinear,
    Int8Linear,
    by_onednn,
    linear_of_two,
    quantise_linear_layers,
    without_gaps,
)
from modeling_mm_orient.private_apis import has_onednn_linear

from .helpers import feature_batch, small_towers, tiny_model

needs_onednn = pytest.mark.skipif(not has_onednn_linear(), reason="this PyTorch has no linear layer of oneDNN")


@needs_onednn
@pytest.mark.parametrize("shape", [(5, 12), (3, 4, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_linear_layer_with_its_gradients(shape, bias):
    torch.manual_seed(0)
    arguments = [torch.randn(shape), torch.randn(7, 12), *([torch.randn(7)] if bias else [])]
    sides = []
    for function in (F.linear, by_onednn):
        inputs = [value.clone().requires_grad_() for value in arguments]
        output = function(*inputs)
        (output * torch.arange(7)).sum().backward()
        sides.append((output, *(value.grad for value in inputs)))
        assert function(*arguments).requires_grad is False
    for expected, found in zip(*sides, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_a_part_of_a_weight_reaches_onednn_without_gaps():
    whole = torch.randn(6, 10)
    for weight, copied in (
        (whole, False),
        (whole.T, False),
        (whole[:2], False),
        (whole[:, :4], True),
        (whole.T[::2], True),
    ):
        assert (without_gaps(weight) is not weight) == copied
        torch.testing.assert_close(without_gaps(weight), weight)
        features = torch.randn(3, weight.shape[1])
        torch.testing.assert_close(by_onednn(features, weight), features @ weight.T)


@needs_onednn
def test_second_derivatives():
    torch.manual_seed(0)
    found = []
    for function in (F.linear, by_onednn):
        features, weight = (
            torch.randn(4, 4, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (0, 1)
        )
        (first,) = torch.autograd.grad(function(features, weight).pow(3).sum(), features, create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), (features, weight)))
    for expected, second in zip(*found, strict=True):
        torch.testing.assert_close(second, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def everywhere(monkeypatch):
    """The faster way on any processor and for any size; the list of its calls."""
    if not has_onednn_linear():
        pytest.skip("this PyTorch has no linear layer of oneDNN")
    calls = []

    def watched(*arguments):
        calls.append(arguments)
        return by_onednn(*arguments)

    monkeypatch.setattr(cpu_speed, "FEWEST_PRODUCTS", 1)
    monkeypatch.setattr(cpu_speed, "onednn_pays", lambda: True)
    monkeypatch.setattr(cpu_speed, "by_onednn", watched)
    return calls


def test_a_model_takes_it_where_it_is_asked_to_and_gives_the_same(everywhere):
    model, batch = tiny_model().eval(), feature_batch()
    plain, layers = model(**batch), [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights = dict(model.state_dict())
    assert not everywhere
    assert model.for_cpu() is model
    fast = model(**batch)
    assert len(everywhere) > 8
    torch.testing.assert_close(dict(fast.logits), dict(plain.logits), atol=1e-6, rtol=1e-5)
    assert [module for module in model.modules() if isinstance(module, nn.Linear)] == layers
    assert model.state_dict().keys() == weights.keys()
    everywhere.clear()
    assert model.for_any_device() is model
    again = model(**batch)
    assert not everywhere and {type(layer) for layer in layers} == {nn.Linear}
    torch.testing.assert_close(dict(again.logits), dict(plain.logits), atol=0, rtol=0)


@torch.no_grad()
def test_what_it_is_not_made_for_runs_as_it_would(everywhere):
    layer, features = CpuLinear(4, 4), torch.ones(2, 4)
    layer(features)
    assert len(everywhere) == 1
    CpuLinear(4, 1)(features)
    layer.double()(features.double())
    CpuLinear(4, 4, device="meta")(torch.ones(2, 4, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(features).dtype == torch.bfloat16
    torch.vmap(layer)(features)
    torch.jit.trace(layer, features, check_trace=False)
    torch.export.export(layer, (features,))
    assert len(everywhere) == 1
    with pytest.raises(RuntimeError):
        layer(torch.ones(2, 5))
    layer(features)
    assert len(everywhere) == 3


@pytest.fixture
def by_mkl(monkeypatch):
    monkeypatch.setattr(cpu_speed, "onednn_pays", lambda: False)


@pytest.mark.parametrize("shape", [(3,), (9,), (2, 5), (2, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_layer_of_two_is_that_of_both_joined(by_mkl, shape, bias, gradients):
    torch.manual_seed(0)
    first, second, weight = torch.randn(*shape, 2), torch.randn(*shape, 5), torch.randn(3, 7)
    bias = torch.randn(3) if bias else None
    expected = F.linear(torch.cat([first, second], -1), weight, bias)
    with torch.set_grad_enabled(gradients):
        found = linear_of_two(first, second, weight.requires_grad_(), bias, few_rows=4)
    assert found.requires_grad is gradients and found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape, outputs", [((5, 64), 32), ((3, 7, 96), 17), ((1, 33), 1), ((2, 1, 5), 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_8_bits_are_nearly_the_layer(shape, outputs, bias):
    torch.manual_seed(0)
    layer, features = nn.Linear(shape[-1], outputs, bias), torch.randn(shape)
    features[0] *= 1000  # a row has its own scale
    expected, found = layer(features), Int8Linear(layer)(features)
    error = (found - expected).flatten(0, -2).norm(dim=-1) / expected.flatten(0, -2).norm(dim=-1).clamp(min=1)
    assert found.shape == expected.shape and error.max() < 0.05
    assert Int8Linear(layer)(features.bfloat16()).dtype == torch.bfloat16


def test_in_8_bits_a_row_depends_on_itself_alone():
    torch.manual_seed(0)
    layer, features = Int8Linear(nn.Linear(64, 16)), torch.randn(6, 64)
    torch.testing.assert_close(layer(features)[2:3], layer(features[2:3]), atol=0, rtol=0)
    torch.testing.assert_close(layer(torch.zeros(2, 64)), layer.bias.expand(2, 16))


def test_only_plain_linear_layers_are_put_in_8_bits():
    class Special(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 2), Special(4, 4)]), nn.LayerNorm(4))
    assert quantise_linear_layers(module) == 2
    assert type(module[0]) is type(module[1][0]) is Int8Linear and type(module[1][1]) is Special


def posts() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(3, 3, 16, 16, generator=generator),
        "input_ids": torch.randint(1, 50, (3, 6), generator=generator),
        "attention_mask": torch.ones(3, 6, dtype=torch.long),
    }


def test_a_model_with_8_bit_encoders(tmp_path):
    torch.manual_seed(0)
    config = small_towers(joint_config=None, relation_scope="memory", memory_top_k=4)
    model = MMOrientForMultiTaskClassification(config).eval()
    inputs = posts()
    with torch.no_grad():
        encoded = model.mm_orient.encode_posts(**inputs)
    references = [
        {"id": str(row), **{f"{m}_embeds": encoded[f"{m}_embeds"][row] for m in ("image", "text")}} for row in range(3)
    ]
    model.build_relation_memory(references)
    with torch.no_grad():
        expected = model(**inputs, output_components=True)
        assert model.for_cpu(int8=True) is model and not model.training
        found = model(**inputs, output_components=True)  # the memory is still its own
    moved = (found.region_vector - expected.region_vector).norm() / expected.region_vector.norm()
    assert 0 < moved < 0.1
    with pytest.raises(ValueError, match="8-bit encoders are not saved"):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(ValueError, match="the encoders' weights were not kept"):
        model.for_any_device()
    with pytest.raises(ValueError, match="no encoder with linear layers"):
        tiny_model().for_cpu(int8=True)
