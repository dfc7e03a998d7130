import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_mm_orient import cpu_speed as cpu_linear
from modeling_mm_orient.cpu_speed import fast_linear, linear_of_two, mixed_linear, with_fast_linear, without_gaps

from .helpers import feature_batch, tiny_model

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no linear layer of oneDNN"
)


@pytest.mark.parametrize("shape", [(5, 12), (3, 4, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_linear_layer_with_its_gradients(shape, bias):
    torch.manual_seed(0)
    arguments = [torch.randn(shape), torch.randn(7, 12), *([torch.randn(7)] if bias else [])]
    sides = []
    for function in (F.linear, fast_linear):
        inputs = [value.clone().requires_grad_() for value in arguments]
        output = function(*inputs)
        (output * torch.arange(7)).sum().backward()
        sides.append((output, *(value.grad for value in inputs)))
        assert function(*arguments).requires_grad is False
    for expected, found in zip(*sides, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


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
        torch.testing.assert_close(fast_linear(features, weight), features @ weight.T)


def test_second_derivatives():
    torch.manual_seed(0)
    found = []
    for function in (F.linear, fast_linear):
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
    calls = []

    def watched(*arguments):
        calls.append(arguments)
        return fast_linear(*arguments)

    monkeypatch.setattr(cpu_linear, "FEWEST_PRODUCTS", 1)
    monkeypatch.setattr(cpu_linear, "onednn_pays", lambda: True)
    monkeypatch.setattr(cpu_linear, "fast_linear", watched)
    return calls


def test_a_model_takes_it_and_gives_the_same(everywhere):
    model, batch = tiny_model().eval(), feature_batch()
    fast = model(**batch)
    assert len(everywhere) > 8
    everywhere.clear()
    cpu_linear.FEWEST_PRODUCTS = 10**12
    slow = model(**batch)
    assert not everywhere
    torch.testing.assert_close(dict(fast.logits), dict(slow.logits), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_what_it_is_not_made_for_runs_as_it_would(everywhere):
    layer, features = nn.Linear(4, 4), torch.ones(2, 4)
    run = with_fast_linear(lambda layer, features: layer(features))
    run(layer, features)
    assert len(everywhere) == 1
    run(nn.Linear(4, 1), features)
    run(layer.double(), features.double())
    run(nn.Linear(4, 4, device="meta"), torch.ones(2, 4, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert run(layer.float(), features).dtype == torch.bfloat16
    torch.vmap(lambda row: run(layer, row))(features)
    torch.jit.trace(lambda x: run(lambda row: F.linear(row, torch.ones(4, 4)), x), features, check_trace=False)
    layer(features)
    assert len(everywhere) == 1
    with pytest.raises(RuntimeError):
        run(layer, torch.ones(2, 5))
    run(layer, features)  # an error leaves nothing behind
    assert len(everywhere) == 3


@pytest.fixture
def by_mkl(monkeypatch):
    monkeypatch.setattr(cpu_linear, "onednn_pays", lambda: False)
    monkeypatch.setattr(cpu_linear, "FEW_ROWS", 4)


@pytest.mark.parametrize("shape", [(3,), (9,), (2, 5), (2, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_layer_of_two_is_that_of_both_joined(by_mkl, shape, bias, gradients):
    torch.manual_seed(0)
    first, second, weight = torch.randn(*shape, 2), torch.randn(*shape, 5), torch.randn(3, 7)
    bias = torch.randn(3) if bias else None
    expected = F.linear(torch.cat([first, second], -1), weight, bias)
    with torch.set_grad_enabled(gradients):
        found = linear_of_two(first, second, weight.requires_grad_(), bias)
    assert found.requires_grad is gradients and found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("features_dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_is_autocast_with_gradients_in_single_precision(features_dtype):
    torch.manual_seed(0)
    arguments = [torch.randn(6, 5, 64).to(features_dtype), torch.randn(32, 64), torch.randn(32)]
    slope, sides = torch.randn(6, 5, 32).bfloat16(), []
    for function in (F.linear, mixed_linear):
        inputs = [value.clone().requires_grad_() for value in arguments]
        with torch.autocast("cpu", torch.bfloat16):
            output = function(*inputs)
        output.backward(slope)
        sides.append((output, *(value.grad for value in inputs)))
    for expected, found, value in zip(*sides, [None, *arguments], strict=True):
        assert value is None or found.dtype == value.dtype
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)
    rows, features = slope.view(-1, 32).double(), arguments[0].bfloat16().view(-1, 64).double()
    torch.testing.assert_close(sides[1][2].double(), rows.T @ features, atol=1e-4, rtol=1e-4)
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_mixed_precision_where_amx_multiplies(monkeypatch):
    calls = []

    def watched(*arguments):
        calls.append(arguments)
        return mixed_linear(*arguments)

    monkeypatch.setattr(cpu_linear, "FEWEST_PRODUCTS", 1)
    monkeypatch.setattr(cpu_linear, "onednn_pays", lambda: False)
    monkeypatch.setattr(cpu_linear, "mixed_linear", watched)
    torch.manual_seed(0)
    model, found = tiny_model().train(), []
    batch = feature_batch() | {"labels": {"offensive": torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])}}
    for amx in (False, True):
        monkeypatch.setattr(cpu_linear, "amx_multiplies", lambda amx=amx: amx)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        found.append((loss.detach(), model.mm_orient.learner[0].dense.weight.grad))
        assert bool(calls) is amx
    torch.testing.assert_close(found[1], found[0], atol=2e-2, rtol=5e-2)
    calls.clear()
    model(**batch)  # without autocast
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    assert not calls
