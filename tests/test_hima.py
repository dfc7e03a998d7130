import torch
from torch.nn import functional as F

from modeling_mm_orient.global_batch import GlobalBatch
from modeling_mm_orient.hima import HIMA, BatchAttention, SequenceAttention, masked_softmax

from .helpers import feature_batch

BATCH = GlobalBatch(9, torch.device("cpu"), gather=False)


def test_softmax_spares_padding_and_empty_rows():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    weights = masked_softmax(torch.tensor([[1.0, 1.0, 50.0], [1.0, 2.0, 3.0]]), mask)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]))


def test_attention_is_the_papers_formula():
    torch.manual_seed(0)
    attention, inputs = SequenceAttention(12, 5, context_vector=True), feature_batch()
    vectors, weights = attention(inputs["token_features"], inputs["token_mask"])
    for i in range(9):
        q = inputs["token_features"][i][inputs["token_mask"][i]]
        theta = F.gelu(q @ attention.hidden.weight.T + attention.hidden.bias)
        a = (theta @ attention.context.weight[0]).softmax(0)
        torch.testing.assert_close(vectors[i], a @ q)
        torch.testing.assert_close(weights[i][inputs["token_mask"][i]], a)


def test_padding_content_changes_nothing():
    torch.manual_seed(0)
    hima, inputs = HIMA(12, 5), feature_batch()
    changed = torch.where(inputs["token_mask"][..., None], inputs["token_features"], torch.tensor(1e4))
    first, _ = hima(inputs["token_features"], inputs["token_mask"], BATCH)
    second, _ = hima(changed, inputs["token_mask"], BATCH)
    torch.testing.assert_close(first, second)


def test_stage_one_switched_off_is_the_mean():
    hima, inputs = HIMA(12, 5, stage1=False, stage2=False), feature_batch()
    vectors, _ = hima(inputs["token_features"], inputs["token_mask"], BATCH)
    expected = inputs["token_features"][0][inputs["token_mask"][0]].mean(0)
    torch.testing.assert_close(vectors[0], expected)


def batch_attention(combine="sum"):
    torch.manual_seed(0)
    return BatchAttention(4, 3, context_vector=True, momentum=0.25, combine=combine)


def test_stage_two_adds_the_batch_bias_and_keeps_a_running_estimate():
    stage, vectors, present = batch_attention(), torch.randn(9, 4), torch.ones(9, dtype=torch.bool)
    bias = stage.attention(vectors[None], present[None])[0][0]
    torch.testing.assert_close(stage(vectors, present, BATCH), vectors + bias)
    torch.testing.assert_close(stage.running_bias, bias.detach())
    other = torch.randn(9, 4)
    next_bias = stage.attention(other[None], present[None])[0][0]
    stage(other, present, BATCH)
    torch.testing.assert_close(stage.running_bias, (0.75 * bias + 0.25 * next_bias).detach())


def test_stage_two_in_eval_does_not_see_the_batch():
    stage, vectors, present = batch_attention(), torch.randn(9, 4), torch.ones(9, dtype=torch.bool)
    stage(vectors, present, BATCH)
    stage.eval()
    before = stage.running_bias.clone()
    alone = stage(vectors[:1], present[:1], BATCH)
    together = stage(torch.cat([vectors[:1], 100 * torch.randn(5, 4)]), present[:6], BATCH)[:1]
    torch.testing.assert_close(alone, together)
    assert torch.equal(stage.running_bias, before)


def test_stage_two_by_concatenation():
    stage, vectors = batch_attention("concat"), torch.randn(9, 4)
    combined = stage(vectors, torch.ones(9, dtype=torch.bool), BATCH)
    assert combined.shape == (9, 8)
    torch.testing.assert_close(combined[:, :4], vectors)


def test_posts_without_the_modality_neither_give_nor_get_a_bias():
    stage, vectors = batch_attention(), torch.randn(9, 4)
    present = torch.arange(9) < 6
    combined = stage(vectors, present, BATCH)
    assert torch.equal(combined[6:], torch.zeros(3, 4))
    bias = stage.attention(vectors[None, :6], present[None, :6])[0][0]
    torch.testing.assert_close(combined[:6], vectors[:6] + bias)
    running = stage.running_bias.clone()
    stage(vectors, torch.zeros(9, dtype=torch.bool), BATCH)
    assert torch.equal(stage.running_bias, running)
