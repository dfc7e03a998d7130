import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient.global_batch import GlobalBatch
from modeling_mm_orient.relation_layers import CrossModalRelations, RelationLayer

from .conftest import tiny_config

BATCH = GlobalBatch(6, torch.device("cpu"), gather=False)


def inputs():
    torch.manual_seed(0)
    embeds = {"image": torch.randn(6, 8), "text": torch.randn(6, 6)}
    graphs = {name: torch.eye(6).maximum((torch.rand(6, 6) < 0.3).float()) for name in embeds}
    present = {name: torch.ones(6, dtype=torch.bool) for name in embeds}
    return embeds, graphs, present


def test_layer_is_graphsage():
    torch.manual_seed(0)
    layer, (embeds, graphs, _) = RelationLayer(tiny_config(), 8, 7), inputs()
    found = layer(embeds["image"], embeds["image"], graphs["text"])
    for i in range(6):
        mean = embeds["image"][graphs["text"][i] > 0].mean(0)
        hidden = layer.linear(torch.cat([embeds["image"][i], mean]))
        torch.testing.assert_close(found[i], F.normalize(hidden, dim=0))


def test_cross_modal_streams_take_one_modality_over_the_others_graph():
    torch.manual_seed(0)
    relations, (embeds, graphs, present) = CrossModalRelations(tiny_config()), inputs()
    before = relations(embeds, graphs, present, BATCH).split(7, -1)
    graphs["text"] = torch.ones(6, 6)
    after = relations(embeds, graphs, present, BATCH).split(7, -1)
    changed = [not torch.allclose(x, y) for x, y in zip(before, after, strict=True)]
    assert changed == [False, True, True, False]  # text over text, and image over text


def test_a_post_without_the_travelling_modality_sends_nothing():
    torch.manual_seed(0)
    relations, (embeds, graphs, present) = (
        CrossModalRelations(tiny_config(relation_streams=["image_over_text"])),
        inputs(),
    )
    graphs["text"] = torch.ones(6, 6)
    present["image"][0] = False
    before = relations(embeds, graphs, present, BATCH)
    embeds["image"][0] = 1e3
    torch.testing.assert_close(relations(embeds, graphs, present, BATCH)[1:], before[1:])


@pytest.mark.parametrize("streams", [["text_over_image"], ["image_over_image", "text_over_text"]])
def test_streams_can_be_switched_off(streams):
    relations = CrossModalRelations(tiny_config(relation_streams=streams))
    assert relations(*inputs(), BATCH).shape == (6, 7 * len(streams))


def test_two_layers_reach_neighbours_of_neighbours():
    torch.manual_seed(0)
    chain = torch.eye(3)
    chain[0, 1] = chain[1, 2] = 1
    present = {name: torch.ones(3, dtype=torch.bool) for name in ("image", "text")}
    for layers, reaches in ((1, False), (2, True)):
        relations = CrossModalRelations(tiny_config(relation_streams=["image_over_image"], relation_layers=layers))
        embeds = {"image": torch.randn(3, 8, requires_grad=True), "text": torch.zeros(3, 6)}
        relations(embeds, {"image": chain, "text": chain}, present, GlobalBatch(3, torch.device("cpu"), False))[
            0
        ].sum().backward()
        assert bool(embeds["image"].grad[2].abs().sum() > 0) == reaches
