"""The paired bootstrap, on posts whose result is known by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from modeling_mm_orient.runs.benchmark.comparisons import Comparison
from modeling_mm_orient.runs.benchmark.statistics import (
    AVERAGE,
    Difference,
    auroc_of_resamples,
    difference_of,
    macro_f1_of_resamples,
    resample_weights,
)
from modeling_mm_orient.runs.benchmark.tables import verdict


def test_the_first_row_is_the_posts_and_every_resample_has_as_many():
    weights = resample_weights(7, 100)
    assert weights.shape == (101, 7) and (weights[0] == 1).all()
    assert (weights.sum(1) == 7).all() and len(np.unique(weights, axis=0)) > 50
    assert (weights == resample_weights(7, 100)).all() and (weights != resample_weights(7, 100, seed=1)).any()


def test_macro_f1_of_weights_is_that_of_posts_written_out():
    draw = np.random.default_rng(0)
    labels, decided, weights = draw.integers(0, 3, 40), draw.integers(0, 3, 40), resample_weights(40, 100)
    labels[3] = -100
    found = macro_f1_of_resamples(weights, labels, decided, 4)
    for row in (0, 5, 99):
        posts = np.repeat(np.arange(40), weights[row].astype(int))
        posts = posts[labels[posts] >= 0]
        by_hand = f1_score(labels[posts], decided[posts], labels=range(4), average="macro", zero_division=0)
        assert found[row] == pytest.approx(by_hand, abs=1e-6)


def test_several_labels_and_a_missing_row():
    labels = np.array([[1, 0], [0, 0], [np.nan, np.nan], [1, 1]])
    decided = np.array([[1, 1], [1, 0], [1, 1], [1, 1]])
    found = macro_f1_of_resamples(np.ones((1, 4), np.float32), labels, decided, 2)
    assert found[0] == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)


@pytest.mark.parametrize("several", [False, True])
def test_auroc_of_weights_is_that_of_posts_written_out(several):
    draw = np.random.default_rng(0)
    weights = resample_weights(40, 100)
    labels, scores = (
        draw.integers(0, 3, 40),
        draw.integers(0, 9, (40, 4)) / 8,
    )  # with equals, and a class that nobody has
    if several:
        labels = (draw.random((40, 4)) < (0.4, 0.02, 0.5, 0.0)).astype(float)
    labels[3] = np.nan if several else -100
    found = auroc_of_resamples(weights, labels, scores)
    for row in (0, 5, 99):
        posts = np.repeat(np.arange(40), weights[row].astype(int))
        posts = posts[posts != 3]
        truth = labels[posts] if several else labels[posts][:, None] == np.arange(4)
        both = [c for c in range(4) if 0 < truth[:, c].sum() < len(posts)]
        by_hand = np.mean([roc_auc_score(truth[:, c], scores[posts, c]) for c in both])
        assert found[row] == pytest.approx(by_hand, abs=1e-6)
    nothing = auroc_of_resamples(weights, labels * 0 - (0 if several else 100), scores)
    assert np.isnan(nothing).all() and np.isnan(difference_of(nothing, nothing).value)


def test_a_difference_that_every_post_shows_is_sure_and_one_of_chance_is_not():
    labels = np.tile([0, 1], 50)
    right, wrong, weights = labels, 1 - labels, resample_weights(100, 500)
    half = np.where(np.arange(100) < 50, labels, wrong)
    scores = {name: macro_f1_of_resamples(weights, labels, decided, 2) for name, decided in
              {"right": right, "wrong": wrong, "first half": half, "second half": np.roll(half, 50)}.items()}  # fmt: skip
    sure = difference_of(scores["right"], scores["wrong"])
    assert (sure.value, sure.low, sure.high, sure.above) == (1, 1, 1, 1)
    chance = difference_of(scores["first half"], scores["second half"])
    assert chance.value == 0 and chance.low < -0.1 and chance.high > 0.1 and 0.4 < chance.above < 0.6
    same = difference_of(scores["right"], scores["right"])
    assert (same.value, same.low, same.high, same.above) == (0, 0, 0, 0.5)


def test_a_sentence_says_what_a_method_is_better_than():
    intervals = {"tfidf": (-0.01, 0.02), "knn": (0.01, 0.03), "paper": (-0.03, -0.01), "late_fusion": (0.0, 0.1)}
    intervals["mm_orient:votes=false"] = (0.1, 0.2)
    found = [
        Comparison(name, ["memes"], {AVERAGE: Difference((low + high) / 2, low, high, 0.5)})
        for name, (low, high) in intervals.items()
    ]
    assert verdict("mm_orient", found) == (
        "\nBy macro-F1 on these test posts `mm_orient` is better than `knn`; within chance of `tfidf`, `late_fusion`; "
        "worse than `paper`.\n"
    )
    assert verdict("mm_orient", found[-1:]) == ""


def test_an_interval_is_as_wide_as_that_of_the_difference_of_means():
    # of binary verdicts that agree but for a share of posts, accuracy's paired difference has deviation sqrt(q/P): compare
    # with macro-F1, which of even classes is all but accuracy
    posts = 2000
    labels, draw = np.tile([0, 1], posts // 2), np.random.default_rng(1)
    theirs = np.where(draw.random(posts) < 0.2, 1 - labels, labels)
    ours = np.where(draw.random(posts) < 0.1, 1 - labels, labels)
    weights = resample_weights(posts, 1000)
    found = difference_of(*(macro_f1_of_resamples(weights, labels, decided, 2) for decided in (ours, theirs)))
    gains = (ours == labels).astype(float) - (theirs == labels)
    assert found.value == pytest.approx(gains.mean(), abs=2e-3)
    assert found.high - found.low == pytest.approx(2 * 1.96 * gains.std() / posts**0.5, rel=0.1)
