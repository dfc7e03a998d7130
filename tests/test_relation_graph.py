import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_mm_orient.relation_graph import cosine_similarity, relation_adjacency

EVERYONE = torch.ones(5, dtype=torch.bool)


def embeddings(count=5, width=3, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 8), st.floats(-0.9, 0.9), st.integers(0, 9999))
def test_edges_are_the_pairs_above_the_threshold_and_self_loops(count, threshold, seed):
    points, everyone = embeddings(count, 3, seed), torch.ones(count, dtype=torch.bool)
    found = relation_adjacency(points, points, everyone, everyone, threshold=threshold)
    for i in range(count):
        for j in range(count):
            cosine = torch.nn.functional.cosine_similarity(points[i], points[j], dim=0)
            if abs(cosine - threshold) > 1e-5:
                assert found[i, j] == float(i == j or cosine > threshold)


def test_no_self_loops():
    found = relation_adjacency(embeddings(), embeddings(), EVERYONE, EVERYONE, threshold=-1, self_loops=False)
    assert torch.equal(found, 1 - torch.eye(5))


def test_similarity_weights():
    points = embeddings()
    found = relation_adjacency(points, points, EVERYONE, EVERYONE, threshold=0.1, edge_weights="similarity")
    cosine = cosine_similarity(points, points)
    expected = torch.where(cosine > 0.1, cosine, 0).fill_diagonal_(1)
    torch.testing.assert_close(found, expected)


def test_a_missing_modality_has_no_edges_not_even_to_itself():
    present = torch.tensor([True, False, True, True, True])
    found = relation_adjacency(embeddings(), embeddings(), present, present, threshold=-1)
    assert found[1].sum() == 0 and found[:, 1].sum() == 0
    assert found[0].sum() == 4


def test_a_zero_vector_is_near_nobody():
    points = embeddings()
    points[2] = 0
    found = relation_adjacency(points, points, EVERYONE, EVERYONE, threshold=0.0)
    assert found[2].tolist() == [0, 0, 1, 0, 0] and not found.isnan().any()


def test_rows_of_a_part_of_the_batch_find_themselves():
    points = embeddings()
    whole = relation_adjacency(points, points, EVERYONE, EVERYONE, threshold=0.3)
    part = relation_adjacency(points[3:], points, EVERYONE[3:], EVERYONE, first_key=3, threshold=0.3)
    assert torch.equal(part, whole[3:])


def test_autocast_does_not_move_edges():
    points = embeddings(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_similarity(points, points)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cosine_similarity(points, points))
