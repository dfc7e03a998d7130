import math

import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient import relation_layers
from modeling_mm_orient.global_batch import GlobalBatch
from modeling_mm_orient.message_passing import Graph, aggregate_neighbours
from modeling_mm_orient.relation_layers import (
    STREAMS,
    CrossModalRelations,
    ReferencePosts,
    RelationLayer,
    neighbour_votes,
)

BATCH = GlobalBatch(6, torch.device("cpu"), gather=False)


def inputs():
    torch.manual_seed(0)
    embeds = {"image": torch.randn(6, 8), "text": torch.randn(6, 6)}
    graphs = {name: torch.eye(6).maximum((torch.rand(6, 6) < 0.3).float()) for name in embeds}
    present = {name: torch.ones(6, dtype=torch.bool) for name in embeds}
    return embeds, graphs, present


def all_streams(names=tuple(STREAMS), num_layers=1) -> CrossModalRelations:
    return CrossModalRelations(names, {"image": 8, "text": 6}, 7, num_layers)


def test_layer_is_graphsage():
    torch.manual_seed(0)
    layer, (embeds, graphs, present) = RelationLayer(8, 7), inputs()
    found = layer(embeds["image"], embeds["image"], Graph(graphs["text"]), present["image"])
    for i in range(6):
        mean = embeds["image"][graphs["text"][i] > 0].mean(0)
        hidden = layer.linear(torch.cat([embeds["image"][i], mean]))
        torch.testing.assert_close(found[i], F.normalize(hidden, dim=0))


@pytest.mark.parametrize("backend", ["fused", "index_add", "dense"])
def test_neighbours_projected_first_are_the_same(monkeypatch, backend):
    layer, (embeds, graphs, _) = RelationLayer(8, 3, backend=backend), inputs()
    present, widths, sides = torch.tensor([True] * 5 + [False]), [], []

    def watched(features, *others):
        widths.append(features.shape[-1])
        return aggregate_neighbours(features, *others)

    monkeypatch.setattr(relation_layers, "aggregate_neighbours", watched)
    for weights in (10**9, 0):
        layer.cheap_weights = weights
        own = embeds["image"].clone().requires_grad_()
        output = layer(own, own, Graph(graphs["text"]), present)
        gradients = torch.autograd.grad((output * torch.arange(3)).sum(), [own, *layer.parameters()])
        sides.append((output, *gradients))
    assert widths == [8, 3]
    for expected, found in zip(*sides, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_an_adapter_or_a_hook_on_the_linear_layer_is_not_passed_by():
    layer, own = RelationLayer(8, 7), torch.randn(3, 8)
    layer.linear.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    assert not layer.combine(own, own).any()

    class Adapter(torch.nn.Linear):
        def forward(self, features):
            return super().forward(features) * 0

    layer.linear = Adapter(16, 7)
    assert not layer.combine(own, own).any()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_networks_that_read_the_same_posts_gather_their_neighbourhoods_once(monkeypatch, num_layers):
    networks, (embeds, graphs, present), gathered = [all_streams(num_layers=num_layers) for _ in range(3)], inputs(), []
    alone = [network(embeds, graphs, present, BATCH) for network in networks]

    def watched(features, *others):
        gathered.append(features.shape[-1])
        return aggregate_neighbours(features, *others)

    monkeypatch.setattr(relation_layers, "aggregate_neighbours", watched)
    shared: dict[str, torch.Tensor] = {}
    together = [network(embeds, graphs, present, BATCH, None, shared) for network in networks]
    assert sorted(gathered) == sorted([8, 8, 6, 6] + [7] * 12 * (num_layers - 1)) and list(shared) == list(STREAMS)
    torch.testing.assert_close(together, alone)


def test_cross_modal_streams_take_one_modality_over_the_others_graph():
    torch.manual_seed(0)
    relations, (embeds, graphs, present) = all_streams(), inputs()
    before = relations(embeds, graphs, present, BATCH).split(7, -1)
    graphs["text"] = torch.ones(6, 6)
    after = relations(embeds, graphs, present, BATCH).split(7, -1)
    changed = [not torch.allclose(x, y) for x, y in zip(before, after, strict=True)]
    assert changed == [False, True, True, False]  # text over text, and image over text


def test_a_post_without_the_travelling_modality_sends_nothing():
    torch.manual_seed(0)
    relations, (embeds, graphs, present) = (
        all_streams(["image_over_text"]),
        inputs(),
    )
    graphs["text"] = torch.ones(6, 6)
    present["image"][0] = False
    before = relations(embeds, graphs, present, BATCH)
    embeds["image"][0] = 1e3
    torch.testing.assert_close(relations(embeds, graphs, present, BATCH)[1:], before[1:])


def reference_posts_near(count: int, weights) -> ReferencePosts:
    embeds = {"image": torch.randn(6, count, 8), "text": torch.randn(6, count, 6)}
    present = {name: torch.ones(6, count, dtype=torch.bool) for name in embeds}
    entries = torch.arange(count).expand(6, count)
    return ReferencePosts(embeds, present, torch.tensor(weights).expand(6, count), entries, torch.zeros(6, count))


def test_reference_posts_are_neighbours_like_any_other():
    torch.manual_seed(0)
    relations, (embeds, graphs, present) = all_streams(num_layers=2), inputs()
    graphs = {m: torch.eye(6) for m in graphs}
    near = reference_posts_near(3, [1.0, 0.5, 0.0])
    found = relations(embeds, graphs, present, BATCH, {"image": near, "text": near})
    # the same graph with the reference posts as nodes of the batch that receive messages from themselves alone
    for row in range(6):
        nodes = {m: torch.cat([embeds[m], near.embeds[m][row]]) for m in embeds}
        bigger = {m: torch.block_diag(graphs[m], torch.eye(3)) for m in graphs}
        for graph in bigger.values():
            graph[row, 6:] = near.weights[row]
        everyone = {m: torch.ones(9, dtype=torch.bool) for m in embeds}
        expected = relations(nodes, bigger, everyone, GlobalBatch(9, torch.device("cpu"), False))[row]
        torch.testing.assert_close(found[row], expected)


def test_a_reference_post_without_the_travelling_modality_sends_nothing():
    torch.manual_seed(0)
    relations, (embeds, graphs, present) = (
        all_streams(["image_over_text"]),
        inputs(),
    )
    near = reference_posts_near(3, [1.0, 1.0, 1.0])
    near.embeds["image"][:, 2] = 0
    near.present["image"][:, 2] = False
    fewer = ReferencePosts(
        *[{m: v[:, :2] for m, v in part.items()} if isinstance(part, dict) else part[:, :2] for part in near]
    )
    found, expected = (relations(embeds, graphs, present, BATCH, {"image": n, "text": n}) for n in (near, fewer))
    torch.testing.assert_close(found, expected)


def test_votes_are_softmax_weighted_and_count_a_post_once():
    own = torch.tensor([[1.0, 0.0]])
    # of four posts: said beyond the average, and known
    said = torch.tensor([[0.5, -0.5], [-0.5, 0.5], [-0.5, 0.5], [0.0, 0.0]])
    summaries = {"x": (said, torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 0.0]]))}
    embeds = {m: torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]) for m in ("image", "text")}
    present = {m: torch.ones(1, 3, dtype=torch.bool) for m in embeds}
    cosines = torch.tensor([[1.0, 0.0, 0.5**0.5]])
    image = ReferencePosts(embeds, present, torch.ones(1, 3), torch.tensor([[0, 1, 3]]), cosines)
    text = ReferencePosts(embeds, present, torch.ones(1, 3), torch.tensor([[0, 2, -1]]), cosines)
    votes = neighbour_votes({"image": image, "text": text}, {"image": own, "text": own}, summaries, temperature=0.5)
    near, far = 1.0, math.exp(-1 / 0.5)
    one_far = (0.5 * near - 0.5 * far) / (near + far + 0.5)
    two_far = (0.5 * near - 0.5 * 2 * far) / (near + 2 * far + 0.5)
    torch.testing.assert_close(votes["x"][0, :, 0], torch.tensor([one_far, one_far, two_far]))
    torch.testing.assert_close(votes["x"][0, :, 1], -votes["x"][0, :, 0])


@pytest.mark.parametrize("streams", [["text_over_image"], ["image_over_image", "text_over_text"]])
def test_streams_can_be_switched_off(streams):
    relations = all_streams(streams)
    assert relations(*inputs(), BATCH).shape == (6, 7 * len(streams))


def test_two_layers_reach_neighbours_of_neighbours():
    torch.manual_seed(0)
    chain = torch.eye(3)
    chain[0, 1] = chain[1, 2] = 1
    present = {name: torch.ones(3, dtype=torch.bool) for name in ("image", "text")}
    for layers, reaches in ((1, False), (2, True)):
        relations = all_streams(["image_over_image"], layers)
        embeds = {"image": torch.randn(3, 8, requires_grad=True), "text": torch.zeros(3, 6)}
        relations(embeds, {"image": chain, "text": chain}, present, GlobalBatch(3, torch.device("cpu"), False))[
            0
        ].sum().backward()
        assert bool(embeds["image"].grad[2].abs().sum() > 0) == reaches
