"""Words as n-grams: their numbers, who carries them, and the expert that reads them."""

import zlib

import datasets
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientProcessor
from modeling_mm_orient.experts import of_ngrams, tf_idf
from modeling_mm_orient.features.cache import CachedPosts, FeatureCache
from modeling_mm_orient.features.collation import FeatureCollator, PostCollator
from modeling_mm_orient.ngrams import BUCKETS, MOST_LETTERS, ngram_ids, padded
from modeling_mm_orient.runs.blending import fit_experts, hear
from modeling_mm_orient.runs.linear_experts import fit_rows
from modeling_mm_orient.runs.ngram_features import directions_of, rarity_of, sparse_tf_idf

from .helpers import TASKS, feature_batch, make_processor, mean_of_experts, picture, small_towers, tiny_model

EXPERTS = ["words", "text", "network"]
CLASSES = [{"name": "mood", "kind": "single_label", "labels": ["a", "b"]}]
TOPICS = (["cat", "dog", "mouse", "farm"], ["code", "compiler", "keyboard", "bug"])


def written(count: int, seed: int = 0) -> tuple[list[str], torch.Tensor]:
    """Texts on one of two topics among words of neither, and which."""
    draw = np.random.default_rng(seed)
    topics = draw.integers(0, 2, count)
    others = [f"filler{number}" for number in range(40)]
    texts = [" ".join([*draw.choice(others, 6), draw.choice(TOPICS[topic])]) for topic in topics]
    return texts, torch.from_numpy(topics)


def ids_of(texts: list[str]) -> torch.Tensor:
    return torch.from_numpy(padded([ngram_ids(text) for text in texts]))


def test_ngrams_are_words_pairs_and_pieces():
    wanted = ["w oh", "w no", "w oh no", "p o", "p oh", "p oh ", "poh", "poh ", "ph ", "p n", "p no", "p no ", "pno"]
    wanted += ["pno ", "po "]
    assert ngram_ids("Oh NO") == sorted({zlib.crc32(gram.encode()) % (BUCKETS - 1) + 1 for gram in wanted})


def test_whatever_a_text_holds_its_numbers_are_in_range_and_few():
    assert ngram_ids(" \n") == [] and ngram_ids("ＯＨ no") == ngram_ids("oh NO")  # noqa: RUF001
    for text in ("猫が好き", "\ud800 half a character", "a\0b", "x" * 10_000_000, "\ufdfa" * 999, "é e\u0301 \u202e"):
        found = ngram_ids(text)
        assert found == sorted(set(found)) and found[0] > 0 and found[-1] < BUCKETS and len(found) < 6 * MOST_LETTERS
    assert padded([[3, 5], []]).tolist() == [[3, 5], [0, 0]] and padded([[], []]).shape == (2, 1)


def test_words_have_their_vowel_signs():
    one, other = (set(ngram_ids(word)) for word in ("कुत्ता", "कुत्ती"))
    assert zlib.crc32("w कुत्ता".encode()) % (BUCKETS - 1) + 1 in one - other


def test_what_a_checkpoint_does_not_have_begins_at_nothing(tmp_path):
    tiny_model(experts=["text", "network"]).save_pretrained(tmp_path)
    model = MMOrientForMultiTaskClassification.from_pretrained(tmp_path, experts=EXPERTS)
    assert not model.experts.rarity.any()


def test_a_processor_gives_them_where_it_is_asked_to(tmp_path):
    processor = make_processor(ngrams=True)
    found = processor(images=[picture(), picture()], text=["a cat", None], return_tensors="pt")
    assert found["ngram_ids"].dtype == torch.int64 and not found["ngram_ids"][1].any()
    assert found["ngram_ids"][0].tolist() == ngram_ids("a cat") and "ngram_ids" in processor.model_input_names
    assert "ngram_ids" not in processor(images=[picture()], return_tensors="pt")
    assert "ngram_ids" not in make_processor()(text=["a cat"], return_tensors="pt")
    processor.save_pretrained(tmp_path)
    assert MMOrientProcessor.from_pretrained(tmp_path).ngrams
    assert "ngrams" not in make_processor().to_dict()  # of models without `words` nothing changes
    cleaned = make_processor(ngrams=True, text_cleaning=["urls"])(text=["a cat https://a.b/c"], return_tensors="pt")
    assert cleaned["ngram_ids"].tolist() == [ngram_ids("a cat")]


def test_stored_features_have_them_whoever_stored_them(tmp_path):
    torch.manual_seed(0)
    model = MMOrientForMultiTaskClassification(small_towers(joint_config=None)).base_model.eval()
    rows = [{"id": str(i), "image": None, "text": text} for i, text in enumerate(["two cats", "one dog", "a cat too"])]
    posts, keys = datasets.Dataset.from_list(rows), ["a" * 64, "b" * 64, "c" * 64]
    FeatureCache(tmp_path, model, make_processor()).add(posts, keys)
    cache = FeatureCache(tmp_path, model, make_processor(ngrams=True))
    stored = [CachedPosts(posts, keys, cache)[row] for row in range(3)]
    batch = FeatureCollator([], labels=False)(stored)
    direct = PostCollator(make_processor(ngrams=True), [], labels=False)(rows)
    assert torch.equal(batch["ngram_ids"], direct["ngram_ids"]) and batch["ngram_ids"].dtype == torch.int64


def test_tf_idf_by_hand():
    ids = torch.tensor([[1, 2, 0], [1, 3, 4], [1, 2, 4]])
    rarity = rarity_of(ids)
    counts = {1: 3, 2: 2, 3: 1, 4: 2}
    for bucket, count in counts.items():
        assert float(rarity[bucket]) == pytest.approx(np.log(4 / (1 + count)) + 1 if count > 1 else 0)
    assert float(rarity[0]) == 0 and int((rarity[5:] == 0).all())
    values = tf_idf(ids, rarity)
    torch.testing.assert_close(values.norm(dim=1), torch.ones(3))
    assert float(values[1, 1]) == 0 == float(values[0, 2])
    dense = sparse_tf_idf(ids, rarity).toarray()
    assert dense[2, [1, 2, 4]] == pytest.approx(values[2].numpy()) and dense[:, 0].any() == 0
    layer = torch.nn.Linear(BUCKETS, 3)
    wanted = layer(torch.from_numpy(dense).float())
    torch.testing.assert_close(of_ngrams(layer, ids, values), wanted, atol=1e-6, rtol=1e-5)


def test_the_layer_of_words_is_that_of_scikit_learn():
    texts, labels = written(150)
    ids = ids_of(texts)
    posts = sparse_tf_idf(ids, rarity_of(ids))
    directions, folds = directions_of(posts), torch.arange(150) % 5
    fitted = fit_rows(CLASSES[0], directions.rows, labels, folds, (1e-3,))
    coefficients = []
    for fold in range(5):
        others = (folds != fold).numpy()
        theirs = LogisticRegression(C=1 / (0.5e-3 * others.sum()), max_iter=5000, tol=1e-9)
        theirs.fit(posts[others], labels.numpy()[others])  # of two classes it penalises the difference
        left_out = fitted.left_out[folds == fold].softmax(-1)[:, 1].numpy()
        np.testing.assert_allclose(left_out, theirs.predict_proba(posts[~others])[:, 1], atol=2e-2)
        coefficients.append(theirs.decision_function(posts))
    in_ngrams = posts @ directions.in_ngrams(fitted.weight).numpy().T + fitted.bias.numpy()
    np.testing.assert_allclose(in_ngrams[:, 1] - in_ngrams[:, 0], np.mean(coefficients, 0), atol=5e-2)


@pytest.mark.parametrize("texts", [["abc", "xyz", "qvw"], [" ", "\t", "."]])
def test_words_that_no_two_posts_share_say_nothing(texts):
    ids = ids_of(texts)
    posts = sparse_tf_idf(ids, rarity_of(ids))
    directions = directions_of(posts)
    fitted = fit_rows(CLASSES[0], directions.rows, torch.tensor([0, 1, 1]), torch.arange(3), (1e-3,))
    assert not directions.in_ngrams(fitted.weight).any() and fitted.bias[1] > fitted.bias[0]


def test_ngrams_of_another_form_are_refused():
    model, batch = tiny_model(experts=EXPERTS).eval(), feature_batch()
    for wrong in (torch.full((9, 2), -5), torch.full((9, 2), BUCKETS)):
        with pytest.raises(ValueError, match="`ngram_ids` must be from 0 to 32767"):
            model(**batch, ngram_ids=wrong)
    for wrong in (torch.zeros(9, dtype=torch.long), torch.zeros(8, 2, dtype=torch.long), torch.zeros(9, 2)):
        with pytest.raises(ValueError, match="`ngram_ids` must be int64 of shape"):
            model(**batch, ngram_ids=wrong)


def test_many_posts_are_spanned_by_some(monkeypatch):
    texts, _ = written(90)
    ids = ids_of(texts)
    posts = sparse_tf_idf(ids, rarity_of(ids))
    monkeypatch.setattr("modeling_mm_orient.runs.ngram_features.MOST_SPANNING", 30)
    few = directions_of(posts)
    assert few.rows.shape == (90, 30) and few.spanning.shape[0] == 30
    layer = torch.randn(2, few.rows.shape[1])
    said = posts @ few.in_ngrams(layer).numpy().T
    np.testing.assert_allclose(said, few.rows @ layer.T, atol=1e-4)


def worded(count: int, seed: int) -> list[dict]:
    """Posts whose first task is in their words alone."""
    texts, labels = written(count, seed)
    features = feature_batch(count, seed)
    names = ("image_embeds", "text_embeds", "region_features", "token_features", "task_features")
    return [
        {name: features[name][row] for name in names}
        | {"post_key": f"{seed * 1000 + row:016x}" + "0" * 48, "ngram_ids": ngram_ids(texts[row])}
        | {"offensive": int(labels[row]), "emotions": None, "intensity": float(labels[row])}
        for row in range(count)
    ]


@pytest.fixture(scope="module")
def fitted():
    alone = {"relation_streams": []}  # no post looks at others of its batch
    model, collate = tiny_model(members=5, experts=EXPERTS, **alone), FeatureCollator(tiny_model().config.tasks)
    tasks, logits, labels = fit_experts(
        model, hear(model, worded(200, 1), collate, 32), hear(model, worded(40, 2), collate, 32)
    )
    model.config.update({"tasks": tasks})
    return model.eval(), logits, labels


def test_what_words_alone_say_is_learned(fitted):
    model, logits, labels = fitted
    assert model.config.task("offensive")["expert_weights"]["words"] > 0.3
    assert (logits["offensive"].argmax(-1) == labels["offensive"]).float().mean() > 0.9
    batch = FeatureCollator(model.config.tasks)(worded(60, 3))
    truth = batch.pop("labels")
    said = model(**batch, output_members=True).expert_scores
    assert (said["offensive"]["words"].argmax(-1) == truth["offensive"]).float().mean() > 0.9
    error = (said["intensity"]["words"] - truth["intensity"]).square().mean() / truth["intensity"].var()
    assert error < 0.5 and model.config.task("emotions")["expert_weights"] is None


def test_words_depend_on_the_post_alone_and_are_saved(fitted, tmp_path):
    model = fitted[0]
    batch = FeatureCollator(model.config.tasks, labels=False)(worded(9, 3))
    batch["has_text"][4] = False
    whole = model(**batch).logits
    model.save_pretrained(tmp_path)
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path)(**batch).logits
    alone = [model(**{name: value[row : row + 1] for name, value in batch.items()}).logits for row in range(9)]
    for task in ("offensive", "intensity"):
        torch.testing.assert_close(again[task], whole[task])
        torch.testing.assert_close(torch.cat([each[task] for each in alone]), whole[task], atol=2e-6, rtol=1e-5)


def test_without_words_the_others_speak(fitted):
    model = fitted[0]
    batch = FeatureCollator(model.config.tasks, labels=False)(worded(9, 3))
    ids = batch.pop("ngram_ids")
    found = model(**batch, output_members=True)
    by_hand = mean_of_experts(model, found, "offensive", ("text", "network"))
    torch.testing.assert_close(found.logits["offensive"], by_hand)
    no_text = model(**batch | {"has_text": torch.zeros(9, dtype=torch.bool)}, ngram_ids=ids).logits["offensive"]
    torch.testing.assert_close(
        no_text, model(**batch | {"has_text": torch.zeros(9, dtype=torch.bool)}).logits["offensive"]
    )


def test_other_tasks_keep_the_words_of_those_that_stay():
    texts, _ = written(20)
    model = tiny_model(members=3, experts=EXPERTS).eval()
    model.experts.rarity.copy_(rarity_of(ids_of(texts)))
    batch = feature_batch(20) | {"ngram_ids": ids_of(texts)}
    before = model(**batch, output_members=True).expert_scores["offensive"]["words"]
    model.set_tasks([{"name": "new", "labels": ["a", "b"]}, TASKS[0]])
    torch.testing.assert_close(model(**batch, output_members=True).expert_scores["offensive"]["words"], before)
