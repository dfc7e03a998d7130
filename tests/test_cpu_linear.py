import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_mm_orient import cpu_linear
from modeling_mm_orient.cpu_linear import fast_linear, with_fast_linear

from .conftest import feature_batch, tiny_model

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
