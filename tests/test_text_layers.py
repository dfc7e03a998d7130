"""What a text encoder's middle layers say: how it is made, stored and missed, and the expert that reads it."""

import datasets
import pytest
import torch
from torch.nn import functional as F

from modeling_mm_orient import MMOrientForMultiTaskClassification
from modeling_mm_orient.encoders import middle_layers
from modeling_mm_orient.features.cache import CachedPosts, FeatureCache
from modeling_mm_orient.features.collation import FeatureCollator, PostCollator
from modeling_mm_orient.runs.blending import expected_weights, fit_experts, hear

from .helpers import (
    TASKS,
    feature_batch,
    make_processor,
    mean_of_experts,
    picture,
    small_towers,
    tiny_model,
    tower_inputs,
)

EXPERTS = ["text", "text_layers", "network"]
ALONE = {"relation_streams": []}  # no post looks at others of its batch


def layered(count: int, seed: int) -> list[dict]:
    """Posts whose first task is in their middle layers alone."""
    features, width = feature_batch(count, seed), 2 * tiny_model().config.token_feature_dim
    layers = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    names = ("image_embeds", "text_embeds", "region_features", "token_features", "task_features")
    return [
        {name: features[name][row] for name in names}
        | {"post_key": f"{seed * 1000 + row:016x}" + "0" * 48, "text_layers": layers[row]}
        | {"offensive": int(layers[row, :3].sum() > 0), "emotions": None, "intensity": None}
        for row in range(count)
    ]


@pytest.fixture(scope="module")
def fitted():
    model, collate = tiny_model(members=5, experts=EXPERTS, **ALONE), FeatureCollator(TASKS)
    parts = (hear(model, layered(count, seed), collate, 32) for count, seed in ((200, 1), (40, 2)))
    model.config.update({"tasks": fit_experts(model, *parts)[0]})
    return model.eval()


def inputs_of_towers() -> dict[str, torch.Tensor]:
    return {name: value for name, value in tower_inputs().items() if not name.startswith("joint")}


@pytest.fixture
def towers():
    torch.manual_seed(0)
    config = small_towers(joint_config=None, relation_scope="batch", experts=EXPERTS, tasks=TASKS)
    return MMOrientForMultiTaskClassification(config).eval()


def test_they_are_means_over_tokens_at_one_length(towers):
    inputs, encoder = inputs_of_towers(), towers.base_model.encoders["text"]
    inputs["attention_mask"][0, -1] = 0
    states = encoder(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True).hidden_states
    mask = inputs["attention_mask"].bool()
    chosen = [states[round(share * (len(states) - 1))] for share in (1 / 3, 2 / 3)]
    by_hand = [torch.stack([row[kept].mean(0) for row, kept in zip(state, mask, strict=True)]) for state in chosen]
    width = towers.config.token_feature_dim
    found = towers.base_model.encode_posts(**inputs).text_layers
    torch.testing.assert_close(found, torch.cat([F.normalize(part, dim=-1) * width**0.5 for part in by_hand], -1))
    assert found.shape == (3, towers.config.text_layers_dim)


def test_other_posts_and_large_values_change_nothing(towers):
    inputs = inputs_of_towers()
    whole = towers.base_model.encode_posts(**inputs).text_layers
    one = towers.base_model.encode_posts(**{name: value[:1] for name, value in inputs.items()}).text_layers
    torch.testing.assert_close(one, whole[:1])

    class Outputs:
        last_hidden_state = torch.full((2, 9, 4), 6e4).half()
        hidden_states = (last_hidden_state,) * 4

    assert middle_layers(Outputs, None).isfinite().all()


def test_encoders_without_layers_of_one_form_have_none():
    class Outputs:
        last_hidden_state = torch.zeros(2, 9, 4)
        hidden_states = (torch.zeros(2, 9, 4), torch.zeros(2, 5, 4), torch.zeros(2, 3, 8))

    assert middle_layers(Outputs, None) is None
    Outputs.hidden_states = None
    assert middle_layers(Outputs, None) is None


def test_stored_as_they_are_read(towers, tmp_path):
    texts = ["two cats", None, "a cat too"]
    rows = [{"id": str(row), "image": picture(), "text": text} for row, text in enumerate(texts)]
    posts, keys, encoder = datasets.Dataset.from_list(rows), ["a" * 64, "b" * 64, "c" * 64], towers.base_model
    cache = FeatureCache(tmp_path, encoder, make_processor())
    cache.add(posts.select([1]), keys[1:2])  # in a batch that has no text at all
    cache.add(posts, keys)
    batch = FeatureCollator([], labels=False)([CachedPosts(posts, keys, cache)[row] for row in range(3)])
    direct = encoder.encode_posts(**PostCollator(make_processor(), [], labels=False)(rows)).text_layers
    torch.testing.assert_close(batch["text_layers"], direct, atol=1e-3, rtol=1e-3)
    assert direct[0].any() and not direct[1].any()


def test_what_they_alone_say_is_learned(fitted):
    assert fitted.config.task("offensive")["expert_weights"]["text_layers"] > 0.3
    batch = FeatureCollator(TASKS)(layered(60, 3))
    truth = batch.pop("labels")["offensive"]
    said = fitted(**batch, output_members=True).expert_scores["offensive"]["text_layers"]
    assert (said.argmax(-1) == truth).float().mean() > 0.85


def test_without_them_the_others_speak(fitted):
    batch = FeatureCollator(TASKS, labels=False)(layered(9, 3))
    layers = batch.pop("text_layers")
    found = fitted(**batch, output_members=True)
    by_hand = mean_of_experts(fitted, found, "offensive", ("text", "network"))
    torch.testing.assert_close(found.logits["offensive"], by_hand)
    batch |= {"has_text": torch.zeros(9, dtype=torch.bool)}
    no_text = fitted(**batch).logits["offensive"]
    torch.testing.assert_close(fitted(**batch, text_layers=layers * float("nan")).logits["offensive"], no_text)


def test_nobody_has_them_and_nothing_is_learned():
    model, collate = tiny_model(members=5, experts=EXPERTS, **ALONE), FeatureCollator(TASKS)
    bare = [{name: value for name, value in post.items() if name != "text_layers"} for post in layered(60, 1)]
    tasks, _, _ = fit_experts(model, hear(model, bare, collate, 32), hear(model, bare[:9], collate, 32))
    assert "text_layers" not in tasks[0]["expert_weights"] and tasks[0]["expert_weights"]["network"] > 0


def test_another_width_is_refused_by_name(fitted):
    batch = FeatureCollator(TASKS, labels=False)(layered(9, 3))
    with pytest.raises(ValueError, match=r"`text_layers` must have shape \(9, "):
        fitted(**batch | {"text_layers": batch["text_layers"][:, 1:]})


def test_one_encoder_is_expected_to_be_heard_once():
    assert expected_weights(["words", "text", "network"]) == pytest.approx([1 / 3] * 3)
    found = expected_weights(["words", "text", "text_layers", "neighbours", "network"])
    assert found == pytest.approx([1 / 4, 1 / 8, 1 / 8, 1 / 4, 1 / 4])
