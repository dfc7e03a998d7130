"""Graphs of a whole data set against all cosines."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient.runs import data_set_graphs
from modeling_mm_orient.runs.coarse_search import CoarseSearch
from modeling_mm_orient.runs.data_set_graphs import MutualCandidates, threshold_graph, top_k_graph

from .helpers import crowded


def all_cosines(vectors: torch.Tensor) -> torch.Tensor:
    """(N, N), -2 of a post with itself."""
    unit = F.normalize(vectors.float(), dim=-1)
    return (unit @ unit.T).fill_diagonal_(-2)


@pytest.fixture(params=[True, False], ids=["by copies", "by plain products"])
def search(request, monkeypatch):
    """By which products graphs are searched, whatever is measured to pay."""
    monkeypatch.setattr(data_set_graphs, "CoarseSearch", partial(CoarseSearch, coarse=request.param))


@pytest.mark.parametrize("count", [900, 5000])
def test_graphs_of_a_whole_data_set(search, count):
    vectors = crowded(count, 64)
    cosines = all_cosines(vectors)
    edges, values = threshold_graph(vectors, 0.9)
    clear = (cosines - 0.9).abs() > 1e-5  # elsewhere rounding decides
    adjacency = torch.zeros(count, count, dtype=torch.bool)
    adjacency[edges[1], edges[0]] = True
    assert edges.shape[1] == int(adjacency.sum()) > count
    assert ((adjacency == (cosines > 0.9)) | ~clear).all()
    assert (edges[1].diff() >= 0).all() and torch.equal(adjacency, adjacency.T)
    torch.testing.assert_close(values, cosines[edges[1], edges[0]], atol=2e-6, rtol=0)
    sources, nearest = top_k_graph(vectors, 5)
    torch.testing.assert_close(nearest, cosines.topk(5).values, atol=2e-6, rtol=0)
    assert (sources != torch.arange(count)[:, None]).all()
    with pytest.raises(ValueError, match="`top_k` must be from 1"):
        top_k_graph(vectors, count)


@pytest.fixture
def mutual(monkeypatch):
    """Each pair is compared once even where that was not measured to pay; the posts that were searched for alone."""
    searched, nearest = [], CoarseSearch.nearest

    def watched(search, queries, count):
        searched.append(len(queries))
        return nearest(search, queries, count)

    monkeypatch.setattr(data_set_graphs, "CoarseSearch", partial(CoarseSearch, coarse=True))
    monkeypatch.setattr(CoarseSearch, "nearest", watched)
    monkeypatch.setattr(data_set_graphs, "LEAST_MUTUAL", 4096)
    monkeypatch.setattr(data_set_graphs, "FIRST", 1)
    return searched


def spread(count: int) -> torch.Tensor:
    """Posts in clusters of some thirty on one side, a few of them twice, one without length and two on the other side."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count // 30, 64, generator=generator) + 1
    rows = rows[torch.randint(0, len(rows), (count,), generator=generator)]
    rows = rows + 0.5 * torch.randn(count, 64, generator=generator)
    rows[7], rows[count // 2], rows[11], rows[[13, -900]] = rows[8], rows[9], 0, torch.tensor(-1.0)
    return rows.half()


@pytest.mark.parametrize("count, top_k", [(4096, 1), (6000, 20), (6200, 70)])
def test_comparing_each_pair_once_finds_all_of_the_nearest(mutual, count, top_k):
    vectors = spread(count)
    sources, nearest = top_k_graph(vectors, top_k)
    cosines = all_cosines(vectors)
    torch.testing.assert_close(nearest, cosines.topk(top_k).values, atol=2e-6, rtol=0)
    torch.testing.assert_close(nearest, cosines.gather(1, sources), atol=2e-6, rtol=0)
    assert all(len(set(row.tolist())) == top_k for row in sources)
    assert sum(mutual) < count / 2


def test_posts_with_more_candidates_than_a_list_holds_are_searched_for_alone(mutual):
    vectors = crowded(5000, 64)
    vectors[100:400] = vectors[100]
    sources, nearest = top_k_graph(vectors, 20)
    torch.testing.assert_close(nearest, all_cosines(vectors).topk(20).values, atol=2e-6, rtol=0)
    assert (sources != torch.arange(5000)[:, None]).all()
    assert 300 <= sum(mutual) <= 5000


def test_lists_hold_what_the_bound_leaves_and_little_else(mutual):
    count, top_k, vectors = 5000, 10, spread(5000)
    coarse = CoarseSearch(vectors, coarse=True).coarse
    candidates = MutualCandidates(coarse, count, top_k)
    step, error = (values.repeat(1, 16).flatten()[:count] for values in (coarse.step, coarse.error))
    whole = coarse.vectors.flatten(0, 1)[:count].float()
    products = (whole @ whole.T) * step[:, None] * step
    doubt = error[:, None] + error + error[:, None] * error
    least = (products - doubt).fill_diagonal_(-2).topk(top_k).values[:, -1:]
    can_be_nearest = ((products + doubt).fill_diagonal_(-2) > least + 1e-5).numpy()
    listed = candidates.values > -np.inf
    rows, places = listed[:count].nonzero()
    held = np.zeros((count, count), bool)
    held[rows, candidates.entries[rows, places]] = True
    fits = ~candidates.crowded
    assert fits.mean() > 0.9 and not (can_be_nearest & ~held)[fits].any()
    assert held[fits].sum() < 1.3 * can_be_nearest[fits].sum()
