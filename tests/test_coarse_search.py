"""Exact search by 8-bit copies against all cosines: the bound loses nothing, and leaves little."""

import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient.runs.coarse_search import CoarseSearch, CoarseVectors

from .helpers import crowded


@pytest.fixture(params=[1, 32], ids=["tile by tile", "at once"])
def at_once(request):
    """Tiles and products that many queries are compared with at a time."""
    return request.param, request.param * 2048


@pytest.mark.parametrize("width", [40, 128, 200])
@pytest.mark.parametrize("queries, count", [(1, 1), (3, 40), (20, 8), (9, 120), (9, 300), (600, 3)])
@pytest.mark.parametrize("coarse", [True, False])
def test_the_coarse_comparison_loses_nothing(at_once, width, queries, count, coarse):
    vectors = crowded(5000, width)
    asked = F.normalize(vectors[:queries].float(), dim=-1)
    asked[0] = F.normalize(torch.randn(width, generator=torch.Generator().manual_seed(2)), dim=0)
    found, entries = CoarseSearch(vectors, coarse, at_once).nearest(3 * asked, count)
    unit = F.normalize(vectors.float(), dim=-1)
    torch.testing.assert_close(found, (asked @ unit.T).topk(count).values, atol=2e-6, rtol=0)
    torch.testing.assert_close(found, (asked[:, None] * unit[entries]).sum(-1), atol=2e-6, rtol=0)
    assert all(len(set(row.tolist())) == count for row in entries)


@pytest.mark.parametrize("coarse", [True, False])
@pytest.mark.parametrize("first", [0, 2100])
def test_pairs_above_a_threshold_are_those_of_later_entries(coarse, first):
    vectors = crowded(5000, 64)
    unit = F.normalize(vectors.float(), dim=-1)
    queries = unit[first : first + 300]
    parts = list(CoarseSearch(vectors, coarse).pairs_above(queries, 0.9, first))
    rows, entries, cosines = (torch.cat(part) for part in zip(*parts, strict=True))
    expected = queries @ unit.T
    later = torch.arange(5000)[None] > torch.arange(first, first + 300)[:, None]
    found = torch.zeros(300, 5000, dtype=torch.bool)
    found[rows, entries] = True
    clear = (expected - 0.9).abs() > 1e-5  # elsewhere rounding decides
    assert len(rows) == found.sum() > 1000 and ((found == ((expected > 0.9) & later)) | ~clear).all()
    torch.testing.assert_close(cosines, expected[rows, entries], atol=2e-6, rtol=0)


@pytest.mark.parametrize("queries", [2, 50])
def test_the_copies_leave_all_that_can_be_near_and_little_else(queries):
    vectors = F.normalize(crowded(3000, 200).float(), dim=-1)
    cosines = vectors[:queries] @ vectors.T
    coarse = CoarseVectors(vectors.split(2048), 3000, 200)
    compared = coarse.compare(coarse.quantise(vectors[:queries]), 0, 2)
    for count in (1, 30):
        nearest = cosines.topk(count).values[:, -1]
        assert (compared.reached(count) <= nearest).all()
        found = torch.zeros(queries, 3000, dtype=torch.bool)
        found[compared.at_least(nearest)] = True
        assert found[cosines >= nearest[:, None]].all()
        assert not found[cosines < nearest[:, None] - 0.07].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_query_that_is_not_a_number_finds_nothing_and_spoils_nothing(at_once):
    vectors = crowded(5000, 64)
    search = CoarseSearch(vectors, True, at_once)
    queries = vectors[:3].float()
    expected, _ = search.nearest(queries, 8)
    queries[1, 5] = torch.nan
    found, _ = search.nearest(queries, 8)
    assert not found[1].isfinite().any() and not search.nearest(queries[1:2], 8)[0].isfinite().any()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], atol=1e-6, rtol=0)


def test_the_bound_allows_for_an_entry_that_points_along_the_error_of_a_query():
    vectors = F.normalize(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)), dim=-1)
    query = vectors[40:41]
    coarse = CoarseVectors([vectors], 64, 128)
    rounded, step, length = coarse.quantise(query)
    error = coarse._turned(query) - rounded * step
    vectors[3] = error / length @ coarse._turned(torch.eye(128)).T  # turned back
    coarse = CoarseVectors([vectors], 64, 128)
    compared = coarse.compare(coarse.quantise(query), 0, 1)
    seen = compared.products[0, 0, 3] * step * coarse.step[0, 0]
    assert query[0] @ vectors[3] - seen > 0.9 * length
    # and the entry's own error can point along the query
    assert 3 in compared.at_least(seen + length + coarse.error[0, 0])[1]
    assert compared.reached(1) <= query[0] @ vectors[40]
