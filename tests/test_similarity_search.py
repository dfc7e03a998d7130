"""Exact search against the definition, and the FAISS indexes against exact search."""

import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient import similarity_search
from modeling_mm_orient.optional_dependencies import FAISS_AVAILABLE
from modeling_mm_orient.runs.coarse_search import CoarseVectors
from modeling_mm_orient.similarity_search import ExactSearch, IndexSearch, index_kind

from .helpers import crowded

needs_faiss = pytest.mark.skipif(not FAISS_AVAILABLE, reason="FAISS is not installed")


def clustered(count: int, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, width, generator=generator)
    return centres[torch.arange(count) % 40] + 0.3 * torch.randn(count, width, generator=generator)


@pytest.mark.parametrize("block, tile", [(7, 3), (1000, 1000), (16, 16)])
def test_exact_search_is_the_definition_whatever_the_blocks(monkeypatch, block, tile):
    monkeypatch.setattr(similarity_search, "BLOCK", block)
    monkeypatch.setattr(similarity_search, "TILE", tile)
    vectors, queries, present = clustered(50).half(), clustered(90)[50:54], torch.arange(50) % 5 != 0
    similarity, entries = ExactSearch(vectors, present).nearest(queries, 12)
    cosines = F.normalize(queries, dim=-1) @ F.normalize(vectors.float(), dim=-1).T
    expected = cosines.masked_fill(~present, -torch.inf).topk(12)
    torch.testing.assert_close(similarity, expected.values)
    assert torch.equal(entries, expected.indices)


def test_fewer_entries_than_asked_for():
    similarity, _ = ExactSearch(torch.eye(3), torch.tensor([True, False, True])).nearest(torch.eye(3)[:1], 5)
    assert similarity[0, :2].tolist() == [1, 0] and (similarity[0, 2:] == -torch.inf).all()


@needs_faiss
@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_index_finds_nearly_what_exact_search_finds(kind, tmp_path):
    vectors, present = clustered(3000).half(), torch.arange(3000) % 3 != 0
    index, exact = IndexSearch.build(vectors, present, kind), ExactSearch(vectors, present)
    assert index.kind == kind and index.recall(exact, 10) > 0.9
    index.save(tmp_path / "index")
    again = IndexSearch.load(tmp_path / "index", present)
    queries = clustered(3010)[3000:]
    assert torch.equal(again.nearest(queries, 5)[1], index.nearest(queries, 5)[1])
    similarity, entries = again.nearest(queries, 5)
    assert present[entries].all()
    torch.testing.assert_close(similarity[:, 0], exact.nearest(queries, 1)[0][:, 0], atol=0.01, rtol=0.01)


@needs_faiss
def test_recall_notices_an_index_of_other_vectors():
    vectors, present = clustered(500), torch.ones(500, dtype=torch.bool)
    other = IndexSearch.build(clustered(500)[torch.randperm(500)], present, "hnsw")
    assert other.recall(ExactSearch(vectors, present), 10) < 0.5


@needs_faiss
def test_a_wrong_or_damaged_index_is_refused(tmp_path):
    present = torch.ones(300, dtype=torch.bool)
    IndexSearch.build(clustered(300), present, "hnsw").save(tmp_path / "index")
    with pytest.raises(ValueError, match="has 300 vectors, and the memory 299 posts"):
        IndexSearch.load(tmp_path / "index", present[1:])
    (tmp_path / "index").write_bytes(b"no index")
    with pytest.raises(ValueError, match="damaged or no FAISS index"):
        IndexSearch.load(tmp_path / "index", present)


def test_the_documented_choice_of_index():
    assert index_kind(100_001) == index_kind(300_000) == "hnsw" and index_kind(300_001) == "ivf"


@pytest.fixture(params=[1, 32], ids=["tile by tile", "at once"])
def tiles(request, monkeypatch):
    """Tiles that many queries are compared with at a time, and whether each is fetched into the cache first; whatever is
    measured to be faster here, the bound is used."""
    monkeypatch.setattr(similarity_search, "STAYS_IN_CACHE", 0 if request.param == 1 else 2**24)
    monkeypatch.setattr(similarity_search, "TILES", request.param)
    monkeypatch.setattr(similarity_search, "PRODUCTS", request.param * 2048)
    monkeypatch.setattr(ExactSearch, "_coarse_is_faster", lambda search, queries: True)


@pytest.mark.parametrize("width", [40, 128, 200])
@pytest.mark.parametrize("queries, count", [(1, 1), (3, 40), (20, 8), (9, 120), (9, 300), (600, 3)])
def test_the_coarse_comparison_loses_nothing(tiles, width, queries, count):
    vectors, present = crowded(5000, width), torch.rand(5000, generator=torch.Generator().manual_seed(1)) > 0.2
    search = ExactSearch(vectors, present)
    asked = F.normalize(vectors[:queries].float(), dim=-1)
    asked[0] = F.normalize(torch.randn(width, generator=torch.Generator().manual_seed(2)), dim=0)
    found, entries = search.nearest(3 * asked, count)
    expected, _ = search._nearest_of_all(asked, count)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    cosines = (asked[:, None] * F.normalize(vectors.float(), dim=-1)[entries]).sum(-1)
    torch.testing.assert_close(found, cosines, atol=2e-6, rtol=0)
    assert present[entries].all() and all(len(set(row.tolist())) == count for row in entries)


@pytest.mark.parametrize("queries", [1, 20])
def test_few_entries_are_left_of_many(tiles, queries):
    vectors, present = crowded(5000, 64), torch.zeros(5000, dtype=torch.bool)
    present[[5, 3000]] = True
    similarity, entries = ExactSearch(vectors, present).nearest(vectors[3000 : 3000 + queries], 4)
    assert entries[0, 0] == 3000 and set(entries[:, :2].flatten().tolist()) == {5, 3000}
    assert (similarity[:, 2:] == -torch.inf).all() and torch.isfinite(similarity[:, :2]).all()


@pytest.mark.parametrize("queries", [2, 50])
def test_the_copies_leave_all_that_can_be_near_and_little_else(queries):
    vectors = F.normalize(crowded(3000, 200).float(), dim=-1)
    cosines = vectors[:queries] @ vectors.T
    coarse = CoarseVectors(vectors.split(2048), torch.zeros(3000, dtype=torch.bool), 200)
    compared = coarse.compare(coarse.quantise(vectors[:queries]), 0, 2)
    for count in (1, 30):
        nearest = cosines.topk(count).values[:, -1]
        assert (compared.reached(count) <= nearest).all()
        found = torch.zeros(queries, 3000, dtype=torch.bool)
        found[compared.at_least(nearest)] = True
        assert found[cosines >= nearest[:, None]].all()
        assert not found[cosines < nearest[:, None] - 0.07].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_query_that_is_not_a_number_finds_nothing_and_spoils_nothing(tiles):
    vectors = crowded(5000, 64)
    search = ExactSearch(vectors, torch.ones(5000, dtype=torch.bool))
    queries = vectors[:3].float()
    expected, _ = search.nearest(queries, 8)
    queries[1, 5] = torch.nan
    found, _ = search.nearest(queries, 8)
    assert not found[1].isfinite().any() and not search.nearest(queries[1:2], 8)[0].isfinite().any()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], atol=1e-6, rtol=0)


def test_one_query_leaves_what_many_leave():
    vectors, absent = F.normalize(crowded(5000, 100).float(), dim=-1), torch.arange(5000) % 7 == 0
    coarse = CoarseVectors(vectors.split(2048), absent, 100)
    for row in (0, 11, 2500):
        compared = coarse.compare(coarse.quantise(vectors[row : row + 1]), 0, 3)
        reached = compared.reached(50)  # so many that groups are not put together
        found = set(coarse.can_be_nearest(vectors[row].numpy(), 50).tolist())
        assert (
            set(compared.at_least(reached + 1e-4)[1].tolist())
            <= found
            <= set(compared.at_least(reached - 1e-4)[1].tolist())
        )


def test_the_bound_allows_for_an_entry_that_points_along_the_error_of_a_query():
    vectors = F.normalize(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)), dim=-1)
    present, query = torch.zeros(64, dtype=torch.bool), vectors[40:41]
    coarse = CoarseVectors([vectors], present, 128)
    rounded, step, length = coarse.quantise(query)
    error = coarse._turned(query) - rounded * step
    vectors[3] = error / length @ coarse._turned(torch.eye(128)).T  # turned back
    coarse = CoarseVectors([vectors], present, 128)
    compared = coarse.compare(coarse.quantise(query), 0, 1)
    seen = compared.products[0, 0, 3] * step * coarse.step[0, 0]
    assert query[0] @ vectors[3] - seen > 0.9 * length
    # and the entry's own error can point along the query
    assert 3 in compared.at_least(seen + length + coarse.error[0, 0])[1]
    assert compared.reached(1) <= query[0] @ vectors[40]
