import pytest
import torch

from modeling_mm_orient.relation_graph import relation_adjacency
from modeling_mm_orient.runs.graph_inspection import graph_statistics, pair_similarities, threshold_at_quantile


def embeddings(count=60, width=4):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.97])
def test_a_quantile_joins_the_rest_of_the_pairs(quantile):
    embeds, everyone = embeddings(), torch.ones(60, dtype=torch.bool)
    threshold = threshold_at_quantile(embeds, quantile)
    graph = relation_adjacency(embeds, embeds, everyone, everyone, threshold=threshold, self_loops=False)
    assert graph.sum() / (60 * 59) == pytest.approx(1 - quantile, abs=0.002)


@pytest.mark.parametrize("quantile", [0, 1, 99])
def test_wrong_quantiles_are_refused(quantile):
    with pytest.raises(ValueError, match="`threshold_quantile` must be between 0 and 1"):
        threshold_at_quantile(embeddings(), quantile)


def test_statistics_are_those_of_the_graph():
    embeds, everyone = embeddings(), torch.ones(60, dtype=torch.bool)
    found = graph_statistics(embeds, 0.8, batch_size=60)
    degrees = relation_adjacency(embeds, embeds, everyone, everyone, threshold=0.8, self_loops=False).sum(1)
    assert found.mean_degree == pytest.approx(float(degrees.mean()))
    assert found.largest_degree == int(degrees.max())
    assert found.isolated == pytest.approx(float((degrees == 0).float().mean()))
    assert found.density == pytest.approx(float(degrees.sum()) / (60 * 59))
    assert found.similarity_quantiles["0.5"] == pytest.approx(float(pair_similarities(embeds).median()), abs=0.01)


def test_smaller_batches_have_fewer_neighbours():
    whole, parts = (graph_statistics(embeddings(), 0.5, size) for size in (60, 6))
    assert parts.mean_degree < whole.mean_degree / 5
    assert parts.isolated > whole.isolated


def test_advice():
    assert "have no neighbour" in graph_statistics(embeddings(), 0.9999, 60).advice()
    assert "of all pairs are neighbours" in graph_statistics(embeddings(), -1.0, 60).advice()
    assert graph_statistics(embeddings(), 0.5, 60).advice() is None
    assert graph_statistics(embeddings(1), 0.5, 60) is None
