"""Members, experts and what weighs them, on posts of random features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modeling_mm_orient import MMOrientForMultiTaskClassification
from modeling_mm_orient.experts import verdicts
from modeling_mm_orient.features.collation import FeatureCollator
from modeling_mm_orient.runs.blending import expert_weights, fit_experts, hear, heard_posts
from modeling_mm_orient.runs.linear_experts import fit_linear
from modeling_mm_orient.tasks import kind_of

from .helpers import TASKS, feature_batch, label_batch, reference_posts, tiny_model

EXPERTS = ["text", "image", "both", "neighbours", "network"]
MOOD = {"name": "mood", "kind": "single_label", "labels": ["a", "b", "c"]}
MEMORY = {"relation_scope": "memory", "memory_top_k": 4, "experts": EXPERTS}


def blended(members: int = 3, **fields) -> MMOrientForMultiTaskClassification:
    """A model of several members and all experts, whose tasks weigh them."""
    model = tiny_model(members=members, **MEMORY | fields)
    model.build_relation_memory(reference_posts(20))
    for layer in model.experts.linear.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight)
    weights = {"text": 0.4, "neighbours": 0.1, "network": 0.5}
    model.config.update({"tasks": [task | {"expert_weights": weights} for task in model.config.tasks]})
    return model.eval()


def test_each_member_leaves_out_its_part_of_the_posts():
    model = tiny_model(members=3).train()
    keys = torch.tensor([1, 4, 7, 10, 1, 4, 7, 10, 13])  # 1 by the number of members
    model(**feature_batch(), labels=label_batch(), post_keys=keys).loss.backward()
    learned = [any(p.grad.abs().sum() > 0 for p in heads.parameters()) for heads in model.member_heads]
    assert learned == [True, False, True]
    model.zero_grad()
    model(**feature_batch(), labels=label_batch(), post_keys=torch.zeros(9, dtype=torch.long)).loss.backward()
    assert all(any(p.grad.abs().sum() > 0 for p in heads.parameters()) for heads in model.member_heads)


def test_a_verdict_is_the_mean_of_log_probabilities():
    model = tiny_model(members=3).eval()
    found = model(**feature_batch(), output_members=True)
    members = found.member_logits["offensive"].log_softmax(-1)
    assert members.shape == (3, 9, 2) and members.std(0).max() > 0.01
    torch.testing.assert_close(found.logits["offensive"], members.mean(0))
    torch.testing.assert_close(found.logits["intensity"], found.member_logits["intensity"].mean(0))


def test_experts_are_weighed_by_hand():
    model = blended()
    found = model(**feature_batch(), output_members=True)
    for task in model.config.tasks:
        said = found.expert_scores[task["name"]]
        assert list(said) == EXPERTS
        by_hand = 0.4 * said["text"] + 0.1 * said["neighbours"] + 0.5 * said["network"]
        torch.testing.assert_close(found.logits[task["name"]], by_hand, atol=0.05, rtol=0.05)
    assert "expert_scores" not in model(**feature_batch())


def test_who_lacks_a_modality_is_not_heard_on_its_account():
    tasks = [MOOD | {"expert_weights": {"text": 1.0}}]
    scores = {"mood": {"text": torch.full((2, 3), 5.0), "both": torch.ones(2, 3), "network": torch.zeros(2, 3)}}
    present = {"image": torch.tensor([True, True]), "text": torch.tensor([True, False])}
    found = verdicts(tasks, scores, present)["mood"]
    assert found[0, 0] > 4.9 and found[1, 0] == 0


def test_a_blended_model_is_saved_and_depends_on_the_post_alone(tmp_path):
    model, batch = blended(), feature_batch()
    whole = model(**batch).logits
    alone = [model(**{name: value[row : row + 1] for name, value in batch.items()}).logits for row in range(9)]
    model.save_pretrained(tmp_path)
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path)(**batch).logits
    for task, values in whole.items():
        torch.testing.assert_close(again[task], values)
        torch.testing.assert_close(torch.cat([each[task] for each in alone]), values, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_blended_model_in_half_precision(dtype):
    model, batch = blended(), feature_batch()
    whole = model(**batch).logits
    halved = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
    for task, values in model.to(dtype)(**halved).logits.items():
        torch.testing.assert_close(values.float(), whole[task], atol=0.1, rtol=0.1)


def test_other_tasks_keep_what_was_fitted_for_those_that_stay():
    model, batch = blended(), feature_batch()
    before = model(**batch).logits
    stays = model.set_tasks([{"name": "new", "labels": ["a", "b"]}, TASKS[0], TASKS[2]])
    assert stays == ["offensive", "intensity"]
    after = model(**batch).logits
    torch.testing.assert_close(after["offensive"], before["offensive"])
    torch.testing.assert_close(after["intensity"], before["intensity"])
    assert model.config.task("new")["expert_weights"] is None


def test_modality_dropout_is_for_training_and_for_posts_that_have_both():
    model, batch = tiny_model(modality_dropout=1.0, relation_streams=[]), feature_batch(40)
    batch["has_text"] = torch.arange(40) % 2 == 0
    plain = tiny_model(relation_streams=[]).eval()
    with torch.no_grad():
        for task, logits in model.eval()(**batch).logits.items():
            torch.testing.assert_close(logits, plain(**batch).logits[task])
        found = model.train()(**batch, output_components=True)
        assert bool((found.has_image ^ found.has_text).all()) and bool(found.has_image[1::2].all())
        assert 0 < int(found.has_image[::2].sum()) < 20
        assert bool((found.region_vector[~found.has_image] == 0).all())


def test_label_smoothing_is_that_of_torch():
    logits, labels = torch.randn(9, 2), label_batch()["offensive"]
    losses, weights = kind_of(TASKS[0]).losses(logits, labels, None, 0.0, 0.2)
    wanted = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(losses.sum() / weights.sum(), wanted)


def test_components_on_one_scale():
    batch = feature_batch() | {"region_features": 100 * feature_batch()["region_features"]}
    merged = tiny_model(merge_normalize=True)(**batch, output_components=True).merged_features
    assert merged[:, 28:38].square().mean(1).max() < 1.1 and merged[:, 28:38].mean(1).abs().max() < 1e-4


@pytest.mark.parametrize("penalty", [0.3, 0.03])
def test_linear_experts_are_those_of_scikit_learn(penalty):
    draw = np.random.default_rng(0)
    labels = draw.choice(3, 200)
    features = draw.normal(size=(200, 6)) * [1, 10, 1, 1, 1, 0.1] + np.eye(6)[labels]
    folds = np.arange(200) % 5
    rows = torch.tensor(features).float()
    parts = [rows[:, :2], rows[:, 2:]]
    fitted = fit_linear(MOOD, parts, torch.from_numpy(labels), torch.from_numpy(folds), (penalty,))
    scaled = (features - features.mean(0)) / features.std(0) * np.repeat([1.5, 0.75], [2, 4]) ** 0.5  # of mean width 3
    coefficients = []
    for fold in range(5):
        others = folds != fold
        theirs = LogisticRegression(C=1 / (penalty * others.sum()), max_iter=1000, tol=1e-8).fit(
            scaled[others], labels[others]
        )
        left_out = fitted.left_out[folds == fold].softmax(-1).numpy()
        np.testing.assert_allclose(left_out, theirs.predict_proba(scaled[~others]), atol=2e-3)
        coefficients.append(theirs.decision_function(scaled))
    mean = torch.from_numpy(np.mean(coefficients, 0)).softmax(-1)
    np.testing.assert_allclose((rows @ fitted.weight.T + fitted.bias).softmax(-1), mean, atol=5e-3)


def test_a_part_of_many_features_does_not_drown_one_of_few():
    draw = torch.Generator().manual_seed(0)
    labels, folds = torch.randint(0, 3, (300,), generator=draw), torch.arange(300) % 5
    knows = torch.eye(3)[labels] + torch.randn(300, 3, generator=draw)
    chance = torch.randn(300, 600, generator=draw)
    alone, together = (fit_linear(MOOD, parts, labels, folds).loss for parts in ([knows], [chance, knows]))
    assert alone < 0.85 and together < alone + 0.1
    assert fit_linear(MOOD, [chance], labels, folds).loss < 1.11  # of chance nothing is learned: log 3 is 1.0986


def test_a_value_is_fitted_alike_whatever_it_is_measured_in():
    task, draw = {"name": "size", "kind": "regression", "labels": []}, torch.Generator().manual_seed(0)
    features = torch.randn(100, 5, generator=draw)
    values, folds = features[:, 0] + 0.1 * torch.randn(100, generator=draw), torch.arange(100) % 5
    plain, other = (fit_linear(task, [features], kept, folds) for kept in (values, 1000 * values + 7))
    torch.testing.assert_close(other.left_out, 1000 * plain.left_out + 7, atol=1.0, rtol=1e-3)
    assert plain.penalty == other.penalty and plain.loss < 0.1
    scores = {"text": plain.left_out[:, 0] + 1, "network": values}
    here = dict.fromkeys(("image", "text"), torch.ones(100, dtype=torch.bool))
    weights = expert_weights(task, scores, values, here)
    assert weights["network"] > 0.6 and sum(weights.values()) == pytest.approx(1, abs=1e-3)


def test_the_expert_who_knows_is_heard():
    labels = torch.from_numpy(np.random.default_rng(0).choice(3, 400, p=[0.7, 0.2, 0.1]))
    torch.manual_seed(0)
    scores = {"text": torch.randn(400, 3).log_softmax(-1), "network": (2 * torch.eye(3)[labels] + torch.randn(400, 3))}
    here = dict.fromkeys(("image", "text"), torch.ones(400, dtype=torch.bool))
    weights = expert_weights(MOOD, scores, labels, here)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3) and weights["network"] > 0.6
    assert expert_weights(MOOD, scores, torch.full((400,), -100), here) is None
    scores |= {"image": torch.randn(400, 3)}  # of posts without a picture
    nobody = here | {"image": torch.zeros(400, dtype=torch.bool)}
    assert expert_weights(MOOD, scores, labels, nobody) == weights


def posts(count: int, seed: int) -> list[dict]:
    """Posts whose second task can be read off their text, and whose first cannot be known."""
    features, labels = feature_batch(count, seed), label_batch(count, seed)
    labels["emotions"] = (features["text_embeds"][:, :3] > 0).float()
    labels["intensity"] = features["text_embeds"][:, 0]
    keys = [f"{seed * 1000 + row:016x}" + "0" * 48 for row in range(count)]
    return [
        {name: features[name][row] for name in ("image_embeds", "text_embeds", "task_features")}
        | {name: features[name][row] for name in ("region_features", "token_features")}
        | {"post_key": keys[row], "offensive": int(labels["offensive"][row].clamp(min=0))}
        | {"emotions": labels["emotions"][row].tolist(), "intensity": float(labels["intensity"][row])}
        for row in range(count)
    ]


def test_experts_hear_a_part_of_many_posts_and_say_so(caplog):
    with caplog.at_level("INFO"):
        few = heard_posts(range(100), 0, most=30)
    assert len(few) == 30 and len(set(few)) == 30 and list(few) == sorted(few) != list(range(30))
    assert "experts are fitted to 30 of 100 training posts" in caplog.text
    assert heard_posts(range(30), 0, most=30) == range(30)


def test_an_expert_with_nothing_to_learn_from_says_nothing():
    model, collate = tiny_model(members=3, **MEMORY), FeatureCollator(tiny_model().config.tasks)
    train = [post | {"has_image": False, "has_text": True} for post in posts(60, 1)]
    for post in train:
        post["image_embeds"] = torch.zeros(8)
    model.build_relation_memory(train)
    tasks, logits, _ = fit_experts(model, hear(model, train, collate, 32), hear(model, posts(20, 2), collate, 32))
    assert all(not {"image", "both"} & set(task["expert_weights"]) for task in tasks)
    assert not model.experts.layers("image")[0].weight.any() and logits["emotions"].isfinite().all()


def who_reads_texts(task: dict) -> float:
    return task["expert_weights"]["text"] + task["expert_weights"]["both"]


def test_what_is_fitted_is_fitted_to_posts_that_were_not_learned_from():
    model = tiny_model(members=5, **MEMORY)
    train, validation = posts(200, 1), posts(60, 2)
    model.build_relation_memory(train)
    collate = FeatureCollator(model.config.tasks)
    said = hear(model, train, collate, 32)
    tasks, logits, labels = fit_experts(model, said, hear(model, validation, collate, 32))
    assert len(logits["offensive"]) == len(labels["offensive"]) == 260
    # neighbours that vote with the post's own label, or layers that had seen it, would be right about coin tosses
    right = (logits["offensive"].argmax(-1) == labels["offensive"]).float().mean()
    assert 0.35 < right < 0.65
    known = ((logits["emotions"] > 0).float() == labels["emotions"]).float().mean()
    assert known > 0.9 and who_reads_texts(tasks[1]) > 0.45  # expected before any post is seen: .325
    error = (logits["intensity"] - labels["intensity"]).square().mean() / labels["intensity"].var()
    assert error < 0.5 and sum(tasks[2]["expert_weights"].values()) == pytest.approx(1, abs=1e-3)
    alone, _, others = fit_experts(model, said, hear(model, validation, collate, 32), apart=False)
    assert len(others) == 3 and who_reads_texts(alone[1]) > 0.36
