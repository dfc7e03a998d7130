"""Graphs of a whole data set against all cosines."""

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient import MMOrientProcessor
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.runs.coarse_search import CoarseSearch
from modeling_mm_orient.runs.data_set_graphs import MutualCandidates, threshold_graph, top_k_graph, write_graph

from .helpers import crowded, feature_batch, tiny_model, write_folder


def all_cosines(vectors: torch.Tensor) -> torch.Tensor:
    """(N, N), -2 of a post with itself."""
    unit = F.normalize(vectors.float(), dim=-1)
    return (unit @ unit.T).fill_diagonal_(-2)


@pytest.mark.parametrize("coarse", [True, False], ids=["by copies", "by plain products"])
@pytest.mark.parametrize("count", [900, 5000])
def test_graphs_of_a_whole_data_set(coarse, count):
    vectors = crowded(count, 64)
    cosines = all_cosines(vectors)
    edges, values = threshold_graph(vectors, 0.9, coarse)
    clear = (cosines - 0.9).abs() > 1e-5  # elsewhere rounding decides
    adjacency = torch.zeros(count, count, dtype=torch.bool)
    adjacency[edges[1], edges[0]] = True
    assert edges.shape[1] == int(adjacency.sum()) > count
    assert ((adjacency == (cosines > 0.9)) | ~clear).all()
    assert (edges[1].diff() >= 0).all() and torch.equal(adjacency, adjacency.T)
    torch.testing.assert_close(values, cosines[edges[1], edges[0]], atol=2e-6, rtol=0)
    sources, nearest = top_k_graph(vectors, 5, coarse)
    torch.testing.assert_close(nearest, cosines.topk(5).values, atol=2e-6, rtol=0)
    assert (sources != torch.arange(count)[:, None]).all()
    with pytest.raises(ValueError, match="`top_k` must be from 1"):
        top_k_graph(vectors, count)


@pytest.fixture
def mutual(monkeypatch):
    """The posts that were searched for alone."""
    searched, nearest = [], CoarseSearch.nearest

    def watched(search, queries, count):
        searched.append(len(queries))
        return nearest(search, queries, count)

    monkeypatch.setattr(CoarseSearch, "nearest", watched)
    return searched


MUTUALLY = {"coarse": True, "first_tiles": 1, "least_mutual": 4096}  # even where that was not measured to pay


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
    sources, nearest = top_k_graph(vectors, top_k, **MUTUALLY)
    cosines = all_cosines(vectors)
    torch.testing.assert_close(nearest, cosines.topk(top_k).values, atol=2e-6, rtol=0)
    torch.testing.assert_close(nearest, cosines.gather(1, sources), atol=2e-6, rtol=0)
    assert all(len(set(row.tolist())) == top_k for row in sources)
    assert sum(mutual) < count / 2


def test_posts_with_more_candidates_than_a_list_holds_are_searched_for_alone(mutual):
    vectors = crowded(5000, 64)
    vectors[100:400] = vectors[100]
    sources, nearest = top_k_graph(vectors, 20, **MUTUALLY)
    torch.testing.assert_close(nearest, all_cosines(vectors).topk(20).values, atol=2e-6, rtol=0)
    assert (sources != torch.arange(5000)[:, None]).all()
    assert 300 <= sum(mutual) <= 5000


def test_lists_hold_what_the_bound_leaves_and_little_else(mutual):
    count, top_k, vectors = 5000, 10, spread(5000)
    coarse = CoarseSearch(vectors, coarse=True).coarse
    candidates = MutualCandidates(coarse, count, top_k, first_tiles=1)
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


def write(folder, rows: list[dict], **options) -> tuple[list[dict], dict]:
    model, processor = tiny_model().mm_orient, MMOrientProcessor()
    write_folder(folder, rows, "posts.jsonl", pictures=False)
    names = ("image_embeds", "text_embeds", "region_features", "token_features")
    for name in names:
        np.save(folder / f"{name}.npy", feature_batch(len(rows))[name].numpy())
    arrays = {name: str(folder / f"{name}.npy") for name in names}
    data = DataDescription(str(folder), feature_arrays=arrays)
    counts = write_graph(data, model, processor, str(folder / "edges.parquet"), **options)
    return pyarrow.parquet.read_table(folder / "edges.parquet").to_pylist(), counts


def test_a_graphs_file_has_the_edges_by_id(tmp_path):
    rows = [{"id": f"post {number}", "text": "x"} for number in range(12)]
    edges, counts = write(tmp_path, rows, top_k=3)
    assert counts["image"] == counts["text"] == (12, 36)
    vectors = torch.from_numpy(np.load(tmp_path / "text_embeds.npy"))
    cosines, near = all_cosines(vectors).topk(3)
    for number in range(12):
        found = [edge for edge in edges if edge["modality"] == "text" and edge["target"] == f"post {number}"]
        assert [edge["source"] for edge in found] == [f"post {entry}" for entry in near[number].tolist()]
        assert [edge["cosine"] for edge in found] == pytest.approx(cosines[number].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    "options, said",
    [({"top_k": 0}, "at least 1"), ({"top_k": 12}, "12 posts have image features: top_k must be from 1 to 11"),
     ({"threshold": 1.1}, "from -1 to 1"), ({"threshold": float("nan")}, "from -1 to 1")],
)  # fmt: skip
def test_a_graph_that_cannot_be_writes_nothing(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        write(tmp_path, [{"id": f"{number}", "text": "x"} for number in range(12)], **options)
    assert not list(tmp_path.glob("*edges*"))


def test_a_threshold_of_one_and_a_single_post(tmp_path):
    (tmp_path / "many").mkdir()
    (tmp_path / "one").mkdir()
    assert write(tmp_path / "many", [{"id": f"{number}", "text": "x"} for number in range(5)], threshold=1.0)[0] == []
    edges, counts = write(tmp_path / "one", [{"id": "0", "text": "x"}], top_k=3)
    assert edges == [] and counts["text"] == (1, 0)
