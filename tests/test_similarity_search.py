"""Exact search against the definition, and the FAISS indexes against exact search."""

import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient.optional_dependencies import FAISS_AVAILABLE
from modeling_mm_orient.similarity_search import ExactSearch, IndexSearch, index_kind

from .helpers import crowded

needs_faiss = pytest.mark.skipif(not FAISS_AVAILABLE, reason="FAISS is not installed")


def clustered(count: int, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, width, generator=generator)
    return centres[torch.arange(count) % 40] + 0.3 * torch.randn(count, width, generator=generator)


@pytest.mark.parametrize("block, tile", [(7, 3), (1000, 1000), (16, 16)])
def test_exact_search_is_the_definition_whatever_the_blocks(block, tile):
    vectors, queries, present = clustered(50).half(), clustered(90)[50:54], torch.arange(50) % 5 != 0
    similarity, entries = ExactSearch(vectors, present, block, tile).nearest(queries, 12)
    cosines = F.normalize(queries, dim=-1) @ F.normalize(vectors.float(), dim=-1).T
    expected = cosines.masked_fill(~present, -torch.inf).topk(12)
    torch.testing.assert_close(similarity, expected.values)
    assert torch.equal(entries, expected.indices)


@pytest.mark.parametrize("width", [40, 128, 200])
@pytest.mark.parametrize("queries, count", [(1, 1), (3, 40), (20, 8), (9, 120), (9, 300), (600, 3)])
def test_exact_search_among_many_that_are_nearly_alike(width, queries, count):
    vectors, present = crowded(5000, width), torch.rand(5000, generator=torch.Generator().manual_seed(1)) > 0.2
    asked = F.normalize(vectors[:queries].float(), dim=-1)
    asked[0] = F.normalize(torch.randn(width, generator=torch.Generator().manual_seed(2)), dim=0)
    found, entries = ExactSearch(vectors, present).nearest(3 * asked, count)
    unit = F.normalize(vectors.float(), dim=-1)
    expected = (asked @ unit.T).masked_fill(~present, -torch.inf).topk(count).values
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(found, (asked[:, None] * unit[entries]).sum(-1), atol=2e-6, rtol=0)
    assert present[entries].all() and all(len(set(row.tolist())) == count for row in entries)


@pytest.mark.parametrize("equals", [2, 20, 60])  # fewer and more than are looked at beyond those asked for
@pytest.mark.parametrize("block", [64, 65_536])
def test_equals_come_in_the_order_of_their_entries_and_the_first_of_them(equals, block):
    vectors, everyone = clustered(300).half(), torch.ones(300, dtype=torch.bool)
    places = torch.arange(equals) * 4 + 3
    vectors[places] = 2 * vectors[198].clone()
    search, query = ExactSearch(vectors, everyone, block), vectors[198:200].float()
    among = sorted([*places.tolist(), 198])
    for count in (1, min(10, equals), equals + 1):
        assert search.nearest(query, count)[1][0].tolist() == among[:count]


def test_a_pair_has_one_number_alone_and_in_any_batch():
    vectors, everyone = crowded(3000, 100), torch.ones(3000, dtype=torch.bool)
    search, queries = ExactSearch(vectors, everyone), vectors[:40].float() + 0.1
    cosines, entries = search.nearest(queries, 30)
    for row in range(0, 40, 7):
        alone = search.nearest(queries[row : row + 1], 30)
        assert torch.equal(alone[0][0], cosines[row]) and torch.equal(alone[1][0], entries[row])


def test_few_entries_are_present_of_many():
    vectors, present = crowded(5000, 64), torch.zeros(5000, dtype=torch.bool)
    present[[5, 3000]] = True
    similarity, entries = ExactSearch(vectors, present).nearest(vectors[3000:3020], 4)
    assert entries[0, 0] == 3000 and set(entries[:, :2].flatten().tolist()) == {5, 3000}
    assert (similarity[:, 2:] == -torch.inf).all() and torch.isfinite(similarity[:, :2]).all()


def test_a_query_that_is_not_a_number_finds_nothing_and_spoils_nothing():
    vectors = crowded(5000, 64)
    search, queries = ExactSearch(vectors, torch.ones(5000, dtype=torch.bool)), vectors[:3].float()
    expected, _ = search.nearest(queries, 8)
    queries[1, 5] = torch.nan
    found, _ = search.nearest(queries, 8)
    assert not found[1].isfinite().any() and not search.nearest(queries[1:2], 8)[0].isfinite().any()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], atol=1e-6, rtol=0)


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
    again = IndexSearch.load(tmp_path / "index", vectors, present)
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
    vectors, present = clustered(300), torch.ones(300, dtype=torch.bool)
    IndexSearch.build(vectors, present, "hnsw").save(tmp_path / "index")
    with pytest.raises(ValueError, match="has 300 vectors of width 24, and the memory 299 posts of width 24"):
        IndexSearch.load(tmp_path / "index", vectors[1:], present[1:])
    with pytest.raises(ValueError, match="has 300 vectors of width 24, and the memory 300 posts of width 20"):
        IndexSearch.load(tmp_path / "index", vectors[:, :20], present)
    (tmp_path / "index").write_bytes(b"no index")
    with pytest.raises(ValueError, match="damaged or no FAISS index"):
        IndexSearch.load(tmp_path / "index", vectors, present)


def test_the_documented_choice_of_index():
    assert index_kind(100_001) == index_kind(300_000) == "hnsw" and index_kind(300_001) == "ivf"
