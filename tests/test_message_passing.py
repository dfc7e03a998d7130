import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_mm_orient.message_passing import aggregate_neighbours
from modeling_mm_orient.optional_dependencies import TORCH_SCATTER_AVAILABLE

BACKENDS = ["index_add", "dense", "auto"] + ["torch_scatter"] * TORCH_SCATTER_AVAILABLE


def adjacency_and_features(targets, sources, width, density, weighted, seed):
    generator = torch.Generator().manual_seed(seed)
    adjacency = (torch.rand(targets, sources, generator=generator) < density).float()
    if weighted:
        adjacency = adjacency * torch.rand(targets, sources, generator=generator)
    return adjacency, torch.randn(sources, width, generator=generator)


def mean_by_definition(features, adjacency):
    rows = [
        (features * row[:, None]).sum(0) / row.sum() if row.sum() > 0 else torch.zeros(features.shape[1])
        for row in adjacency
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=40)
@given(
    targets=st.integers(1, 12),
    sources=st.integers(1, 12),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_every_backend_is_the_weighted_mean(backend, targets, sources, density, weighted, seed):
    adjacency, features = adjacency_and_features(targets, sources, 3, density, weighted, seed)
    found = aggregate_neighbours(features, adjacency, backend)
    torch.testing.assert_close(found, mean_by_definition(features, adjacency), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_agree(backend):
    adjacency, features = adjacency_and_features(7, 9, 4, 0.4, True, 1)
    gradients = []
    for name in (backend, "dense"):
        inputs = [features.clone().double().requires_grad_(), adjacency.clone().double().requires_grad_()]
        (aggregate_neighbours(*inputs, name) ** 2).sum().backward()
        gradients.append((inputs[0].grad, inputs[1].grad * (adjacency > 0)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16(backend):
    adjacency, features = adjacency_and_features(8, 8, 4, 0.5, False, 2)
    found = aggregate_neighbours(features.bfloat16(), adjacency, backend)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), mean_by_definition(features, adjacency), atol=0.03, rtol=0.03)


def test_compiled_numbers_are_right():
    # torch.compile of torch-scatter on CPU was measured to give wrong numbers without an error
    adjacency, features = adjacency_and_features(32, 32, 16, 0.3, True, 3)
    compiled = torch.compile(aggregate_neighbours, fullgraph=True)
    torch.testing.assert_close(
        compiled(features, adjacency), mean_by_definition(features, adjacency), atol=1e-6, rtol=1e-5
    )


def test_unknown_backend():
    with pytest.raises(ValueError, match="`backend` must be one of"):
        aggregate_neighbours(torch.zeros(1, 1), torch.zeros(1, 1), "dgl")


def test_torch_scatter_asked_for_and_missing(monkeypatch):
    monkeypatch.setattr("modeling_mm_orient.message_passing.torch_scatter", None)
    with pytest.raises(ImportError, match="not installed"):
        aggregate_neighbours(torch.zeros(1, 1), torch.zeros(1, 1), "torch_scatter")
    assert aggregate_neighbours(torch.ones(1, 1), torch.ones(1, 1), "auto") == 1
