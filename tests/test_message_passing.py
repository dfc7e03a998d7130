from types import SimpleNamespace

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


def everyone(count):
    return torch.ones(count, dtype=torch.bool)


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
    graph = Graph(adjacency)
    for present in (everyone(sources), torch.arange(sources) % 2 == 0):
        found = aggregate_neighbours(features, graph, present, backend)
        torch.testing.assert_close(found, mean_by_definition(features, adjacency * present), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_of_a_large_sparse_graph(backend):
    adjacency, features = adjacency_and_features(70, 90, 4, 0.03, False, 5)
    assert (adjacency.sum(1) == 0).any()
    gradients = []
    for name in ("dense", backend):
        inputs = features.clone().requires_grad_()
        found = aggregate_neighbours(inputs, Graph(adjacency), everyone(90), name)
        torch.testing.assert_close(found, mean_by_definition(features, adjacency), atol=1e-6, rtol=1e-5)
        (found**2).sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_source_that_is_not_finite_sends_nothing(backend, value):
    adjacency, features = adjacency_and_features(7, 9, 4, 0.4, True, 1)
    features[4, 2] = value
    found = aggregate_neighbours(features, Graph(adjacency), everyone(9), backend)
    finite = torch.where(features.isfinite().all(-1, keepdim=True), features, 0.0)
    expected = mean_by_definition(finite, adjacency * (torch.arange(9) != 4))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sources_listed_for_a_target_are_neighbours_like_any_other(backend):
    adjacency, features = adjacency_and_features(7, 9, 4, 0.4, True, 1)
    listed = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(2))
    weights = torch.rand(7, 3, generator=torch.Generator().manual_seed(3)) * torch.tensor([1.0, 1.0, 0.0])
    found = aggregate_neighbours(features, Graph(adjacency), everyone(9), backend, listed, weights)
    for target in range(7):
        together, row = torch.cat([features, listed[target]]), torch.cat([adjacency[target], weights[target]])
        torch.testing.assert_close(found[target], mean_by_definition(together, row[None])[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_agree(backend):
    adjacency, features = adjacency_and_features(7, 9, 4, 0.4, True, 1)
    gradients = []
    for name in (backend, "dense"):
        inputs = [features.clone().double().requires_grad_(), adjacency.clone().double().requires_grad_()]
        (aggregate_neighbours(inputs[0], Graph(inputs[1]), everyone(9), name) ** 2).sum().backward()
        gradients.append((inputs[0].grad, inputs[1].grad * (adjacency > 0)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_summed_exactly(backend, autocast):
    adjacency, features = adjacency_and_features(64, 64, 4, 0.5, True, 2)
    features = features.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = aggregate_neighbours(features, Graph(adjacency), everyone(64), backend)
        unweighted = Graph((adjacency > 0).float())
        single = aggregate_neighbours(features.float(), unweighted, everyone(64), backend)
    torch.testing.assert_close(single, mean_by_definition(features.float(), (adjacency > 0).float()))
    assert found.dtype == torch.bfloat16
    expected = mean_by_definition(features.float(), adjacency)
    torch.testing.assert_close(found.float(), expected.bfloat16().float(), atol=1e-6, rtol=2**-8)
    assert (found == expected.bfloat16()).float().mean() > 0.99  # at most a last digit, where a sum lies between two


def test_compiled_numbers_are_right():
    # torch.compile of torch-scatter on CPU was measured to give wrong numbers without an error
    adjacency, features = adjacency_and_features(200, 200, 16, 0.05, True, 3)
    for backend in BACKENDS:
        compiled = torch.compile(
            lambda x, a, name=backend: aggregate_neighbours(x, Graph(a), everyone(200), name), fullgraph=True
        )
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
    found, dense = (aggregate_neighbours(features, graph, everyone(nodes), name) for name in ("auto", "dense"))
    torch.testing.assert_close(found, dense, atol=1e-6, rtol=1e-5)


class OnAGpu(Graph):
    """A graph of so many posts and edges of each."""

    def __init__(self, nodes: int, degree: float):
        super().__init__(torch.empty(nodes, nodes, device="meta"))
        self.edges = (range(round(nodes * degree)),)  # all that is asked of them is how many there are
        self.adjacency = SimpleNamespace(numel=self.adjacency.numel, is_cuda=True)


@pytest.mark.parametrize(
    "nodes, degree, expected",
    [
        (120, 1.5, "dense"),
        (4096, 1.5, "dense"),
        (8192, 1.5, "index_add"),
        (8192, 10, "index_add"),
        (8192, 100, "dense"),
    ],
)
def test_the_choice_on_a_gpu(nodes, degree, expected):
    assert OnAGpu(nodes, degree).best_backend() == expected


def test_unknown_backend():
    with pytest.raises(ValueError, match="`backend` must be one of"):
        aggregate_neighbours(torch.zeros(1, 1), Graph(torch.zeros(1, 1)), everyone(1), "dgl")


def test_torch_scatter_asked_for_and_missing(monkeypatch):
    monkeypatch.setattr("modeling_mm_orient.message_passing.torch_scatter", None)
    with pytest.raises(ImportError, match="not installed"):
        aggregate_neighbours(torch.zeros(1, 1), Graph(torch.zeros(1, 1)), everyone(1), "torch_scatter")
    assert aggregate_neighbours(torch.ones(1, 1), Graph(torch.ones(1, 1)), everyone(1), "auto") == 1


def test_the_fused_way_is_a_cpus():
    features = torch.zeros(3, 2, device="meta")
    with pytest.raises(ValueError, match="'fused' runs on a CPU, these features are on meta"):
        aggregate_neighbours(features, Graph(torch.eye(3)), torch.ones(3, dtype=torch.bool), "fused")
