"""Exact search against the definition, and the FAISS indexes against exact search."""

import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient import similarity_search
from modeling_mm_orient.optional_dependencies import FAISS_AVAILABLE
from modeling_mm_orient.similarity_search import ExactSearch, IndexSearch, index_kind

needs_faiss = pytest.mark.skipif(not FAISS_AVAILABLE, reason="FAISS is not installed")


def clustered(count: int, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, width, generator=generator)
    return centres[torch.arange(count) % 40] + 0.3 * torch.randn(count, width, generator=generator)


@pytest.mark.parametrize("block, converted", [(7, 3), (1000, 1000), (16, 16)])
def test_exact_search_is_the_definition_whatever_the_blocks(monkeypatch, block, converted):
    monkeypatch.setattr(similarity_search, "BLOCK", block)
    monkeypatch.setattr(similarity_search, "CONVERTED", converted)
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
