import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_mm_orient.message_passing import Graph, aggregate_neighbours
from modeling_mm_orient.optional_dependencies import TORCH_SCATTER_AVAILABLE

BACKENDS = ["fused", "index_add", "dense", "auto"] + ["torch_scatter"] * TORCH_SCATTER_AVAILABLE


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
    expected = mean_by_definition(features, adjacency)
    torch.testing.assert_close(
        aggregate_neighbours(features, Graph(adjacency), backend), expected, atol=1e-6, rtol=1e-5
    )
    listed = Graph(adjacency)
    rows, columns, weights = listed.listed
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    graph = Graph.from_edges(torch.stack([columns, rows])[:, shuffled], targets, sources, weights[shuffled])
    torch.testing.assert_close(aggregate_neighbours(features, graph, backend), expected, atol=1e-6, rtol=1e-5)
    present = torch.arange(sources) % 2 == 0
    found = aggregate_neighbours(features, graph, backend, present)
    torch.testing.assert_close(found, mean_by_definition(features, adjacency * present), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_without_weights(backend):
    adjacency, features = adjacency_and_features(70, 90, 4, 0.03, False, 5)
    targets, sources = adjacency.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    graph = Graph.from_edges(torch.stack([sources, targets])[:, shuffled], 70, 90)
    assert (adjacency.sum(1) == 0).any()
    gradients = []
    for edges, name in ((Graph(adjacency), "dense"), (graph, backend)):
        inputs = features.clone().requires_grad_()
        found = aggregate_neighbours(inputs, edges, name)
        torch.testing.assert_close(found, mean_by_definition(features, adjacency), atol=1e-6, rtol=1e-5)
        (found**2).sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_agree(backend):
    adjacency, features = adjacency_and_features(7, 9, 4, 0.4, True, 1)
    gradients = []
    for name in (backend, "dense"):
        inputs = [features.clone().double().requires_grad_(), adjacency.clone().double().requires_grad_()]
        (aggregate_neighbours(inputs[0], Graph(inputs[1]), name) ** 2).sum().backward()
        gradients.append((inputs[0].grad, inputs[1].grad * (adjacency > 0)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_summed_exactly(backend, autocast):
    adjacency, features = adjacency_and_features(64, 64, 4, 0.5, True, 2)
    features = features.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = aggregate_neighbours(features, Graph(adjacency), backend)
        rows, columns = (adjacency > 0).nonzero(as_tuple=True)
        unweighted = Graph.from_edges(torch.stack([columns, rows]), 64, 64)
        single = aggregate_neighbours(features.float(), unweighted, backend)
    torch.testing.assert_close(single, mean_by_definition(features.float(), (adjacency > 0).float()))
    assert found.dtype == torch.bfloat16
    expected = mean_by_definition(features.float(), adjacency)
    torch.testing.assert_close(found.float(), expected.bfloat16().float(), atol=1e-6, rtol=2**-8)
    assert (found == expected.bfloat16()).float().mean() > 0.99  # at most a last digit, where a sum lies between two


def test_compiled_numbers_are_right():
    # torch.compile of torch-scatter on CPU was measured to give wrong numbers without an error
    adjacency, features = adjacency_and_features(200, 200, 16, 0.05, True, 3)
    for backend in BACKENDS:
        compiled = torch.compile(lambda x, a, name=backend: aggregate_neighbours(x, Graph(a), name), fullgraph=True)
        found = compiled(features, adjacency)
        torch.testing.assert_close(found, mean_by_definition(features, adjacency), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "nodes, degree, expected",
    [(32, 1.5, "dense dense"), (120, 1.5, "fused fused"), (120, 25, "dense fused"), (120, 60, "dense dense")],
)
def test_the_choice_by_size_and_density(nodes, degree, expected):
    adjacency, features = adjacency_and_features(nodes, nodes, 8, degree / nodes, False, 4)
    graph = Graph(adjacency)
    with torch.no_grad():
        forward = graph.best_backend()
    assert f"{graph.best_backend()} {forward}" == expected
    if nodes == 32:
        targets, sources, _ = graph.listed
        assert Graph.from_edges(torch.stack([sources, targets]), nodes, nodes).best_backend() == "fused"
    torch.testing.assert_close(
        aggregate_neighbours(features, graph), aggregate_neighbours(features, graph, "dense"), atol=1e-6, rtol=1e-5
    )


def test_unknown_backend():
    with pytest.raises(ValueError, match="`backend` must be one of"):
        aggregate_neighbours(torch.zeros(1, 1), Graph(torch.zeros(1, 1)), "dgl")


def test_torch_scatter_asked_for_and_missing(monkeypatch):
    monkeypatch.setattr("modeling_mm_orient.message_passing.torch_scatter", None)
    with pytest.raises(ImportError, match="not installed"):
        aggregate_neighbours(torch.zeros(1, 1), Graph(torch.zeros(1, 1)), "torch_scatter")
    assert aggregate_neighbours(torch.ones(1, 1), Graph(torch.ones(1, 1)), "auto") == 1
