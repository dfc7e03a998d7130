import logging

import datasets
import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from modeling_mm_orient.data.degradation import DEGRADATIONS
from modeling_mm_orient.features.cache import CachedPosts, FeatureCache
from modeling_mm_orient.features.collation import FeatureCollator, PostCollator
from modeling_mm_orient.modeling_mm_orient import MMOrientModel
from modeling_mm_orient.runs.benchmark.noise import (
    CellPredictor,
    NoiseRow,
    curve_area,
    degraded_features,
    noise_areas,
    noise_rows,
    noise_summary,
    stored_features,
)
from modeling_mm_orient.runs.benchmark.noise_tables import curve, kept_table, noise_report, plot_noise, summary_table
from modeling_mm_orient.runs.predictions import predict_logits
from modeling_mm_orient.runs.run_folder import load_run
from modeling_mm_orient.tasks import kind_of

from .helpers import as_bytes, make_processor, picture, save_run, small_towers

MOOD = {"name": "mood", "labels": ["sad", "happy"]}
SIGNS = {"name": "signs", "kind": "multi_label", "labels": ["rain", "sun"]}
TASKS = [MOOD, SIGNS, {"name": "score", "kind": "regression"}]
SAYS = ["all is grey and the rain falls on us", "what a bright day with sun over the sea"]


def posts(count: int = 24, with_picture: bool = False) -> list[dict]:
    """Posts whose texts say their labels; the first has no mood."""
    image = {"bytes": as_bytes(picture("RGB", (16, 16), (200, 30, 60))), "path": None} if with_picture else None
    found = [
        {
            "id": str(number),
            "image": image,
            "text": f"{SAYS[number % 2]} {number}",
            "label.mood": number % 2,
            "label.signs": [float(number % 2 == 0), float(number % 2)],
            "label.score": number / 10,
        }
        for number in range(count)
    ]
    found[0]["label.mood"] = None
    return found


class OfWords:
    """Logistic regression on words, of mood alone or also of signs."""

    def __init__(self, name: str, seed: int = 0, tasks=(MOOD, SIGNS)):
        self.name, self.seed, self.tasks = name, seed, list(tasks)
        training = posts(40)[1:]
        self.words = TfidfVectorizer().fit([post["text"] for post in training])
        rows = self.words.transform([post["text"] for post in training])
        self.happy = LogisticRegression().fit(rows, [post["label.mood"] for post in training])

    def predict(self, posts) -> dict[str, np.ndarray]:
        happy = self.happy.predict_proba(self.words.transform([post["text"] or "" for post in posts]))
        return {task["name"]: happy for task in self.tasks}

    def decide(self, probabilities):
        found = {"mood": probabilities["mood"].argmax(1)}
        return found | ({"signs": probabilities["signs"] >= 0.5} if "signs" in probabilities else {})


class Always:
    """One class, whatever the post."""

    name, seed = "always", 0

    def predict(self, posts):
        return {"mood": np.tile([0.9, 0.1], (len(posts), 1))}

    def decide(self, probabilities):
        return {"mood": probabilities["mood"].argmax(1)}


def test_every_method_is_scored_at_every_strength_from_posts_encoded_once():
    encoded = []

    def encode(given):
        encoded.append(given)
        return list(given)

    chosen = ["word_drop", "character_errors", "shuffled_captions"]
    rows = noise_rows("weather", [OfWords("words"), Always()], posts(), TASKS, degradations=chosen, encode=encode)
    strengths = sum(len(DEGRADATIONS[name].strengths) for name in chosen)
    assert len(encoded) == 1 + strengths
    assert len(rows) == (2 + 1) * (strengths + len(chosen))  # one method does two tasks, the other one
    assert {row.task for row in rows} == {"mood", "signs"}
    clean = {(row.method, row.task): row.macro_f1 for row in rows if row.strength == 0}
    assert clean["words", "mood"] == clean["words", "signs"] == 1
    assert clean["always", "mood"] == pytest.approx(1 / 2 * 22 / 34)  # 11 of 23 posts with a mood are sad
    noisy = {(row.degradation, row.strength): row for row in rows if row.method == "words" and row.task == "mood"}
    assert noisy["shuffled_captions", 1.0].macro_f1 < noisy["shuffled_captions", 0.25].macro_f1 < 1
    assert noisy["shuffled_captions", 1.0].auroc < 0.7
    assert all(row.macro_f1 == clean["always", "mood"] for row in rows if row.method == "always")


def test_a_data_set_gives_the_same_rows_as_a_list():
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(decode=False),
            "text": datasets.Value("string"),
            "label.mood": datasets.ClassLabel(names=MOOD["labels"]),
            "label.signs": datasets.Sequence(datasets.Value("float64")),
            "label.score": datasets.Value("float64"),
        }
    )
    found = posts(with_picture=True)
    options = {"degradations": ["word_drop", "missing_text", "blur"], "noise_seed": 5}
    rows = noise_rows("weather", [OfWords("words")], found, TASKS, **options)
    assert rows == noise_rows(
        "weather", [OfWords("words")], datasets.Dataset.from_list(found, features=features), TASKS, **options
    )
    assert {row.noise_seed for row in rows} == {5}


def test_what_no_post_can_show_is_left_out_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        rows = noise_rows("weather", [Always()], posts(), [MOOD], degradations=["blur", "missing_image", "word_drop"])
    assert {row.degradation for row in rows} == {"word_drop"}
    assert "blur is left out" in caplog.text and "missing_image is left out" in caplog.text


def test_a_method_that_loses_posts_is_refused():
    class Lossy(Always):
        def predict(self, posts):
            return {"mood": np.tile([0.9, 0.1], (len(posts) - 1, 1))}

    with pytest.raises(ValueError, match="always gives mood of 23 posts, not of 24"):
        noise_rows("weather", [Lossy()], posts(), [MOOD], degradations=["word_drop"])


def test_features_of_degraded_posts_are_encoded_once_and_stored(tmp_path):
    given = posts(4, with_picture=True)
    data = datasets.Dataset.from_list(given).cast_column("image", datasets.Image(decode=False))
    cache = FeatureCache(tmp_path, MMOrientModel(small_towers(joint_config=None)), make_processor(max_tokens=16))
    encode = stored_features(cache)
    blurred = degraded_features(data, DEGRADATIONS["occlusion"], 0.5, 0, encode)
    files = sorted(cache.folder.iterdir())
    again = degraded_features(data, DEGRADATIONS["occlusion"], 0.5, 0, encode)
    assert sorted(cache.folder.iterdir()) == files
    assert (blurred[2]["image_embeds"] == again[2]["image_embeds"]).all()
    other = degraded_features(data, DEGRADATIONS["occlusion"], 0.5, 1, encode)
    assert (blurred[2]["image_embeds"] != other[2]["image_embeds"]).any()


@pytest.mark.parametrize("scope", ["memory", "batch"])
def test_a_run_predicts_degraded_posts_as_its_evaluation_would(tmp_path, scope):
    model, processor = load_run(str(save_run(tmp_path / "run", scope)))

    def logits(posts):
        stored = isinstance(posts, CachedPosts)
        collator = FeatureCollator([], labels=False) if stored else PostCollator(processor, [], labels=False)
        return predict_logits(model, posts, collator, 32)[0]

    predictor = CellPredictor("ours", 0, model.config.tasks, logits)
    tasks, short = model.config.tasks, ["a dog", "my cat", "a mat", "nobody", "me", "once"]
    labelled = [{"text": text, "label.offensive": number % 2} for number, text in enumerate(short)]
    given = [post | own for post, own in zip(posts(6, with_picture=True), labelled, strict=True)]
    data = datasets.Dataset.from_list(given).cast_column("image", datasets.Image(decode=False))
    rows = noise_rows("memes", [predictor], data, tasks[:1], degradations=["pixel_noise", "missing_image"])
    assert len(rows) == 2 * 5 and {row.method for row in rows} == {"ours"}
    assert rows == noise_rows("memes", [predictor], given, tasks[:1], degradations=["pixel_noise", "missing_image"])
    noisy = DEGRADATIONS["pixel_noise"].degrade(data, 0.4)
    encode = stored_features(FeatureCache(tmp_path / "features", model.base_model, processor))
    found, of_stored = predictor.predict(noisy), predictor.predict(encode(noisy))
    for name, values in found.items():
        assert values == pytest.approx(of_stored[name], abs=5e-3)  # features are stored in half precision
    assert np.abs(found["offensive"] - predictor.predict(data)["offensive"]).max() > 1e-4
    assert set(predictor.decide(found)) == {task["name"] for task in tasks}


def row(method="a", seed=0, degradation="blur", strength=0.0, macro_f1=0.8, noise_seed=0) -> NoiseRow:
    return NoiseRow("memes", method, seed, degradation, strength, "mood", macro_f1, None, noise_seed)


def test_the_area_of_a_hand_made_curve():
    assert curve_area([0, 1], [1, 0]) == 0.5
    assert curve_area([0, 0.1, 0.5], [0.8, 0.6, 0.2]) == pytest.approx((0.1 * 0.7 + 0.4 * 0.4) / 0.5)
    assert curve_area([0, 0.3, 0.4], [0.7] * 3) == pytest.approx(0.7)
    for strengths in ([0], [0, 0], [0.2, 0.1]):
        with pytest.raises(ValueError, match="at rising strengths"):
            curve_area(strengths, [1.0] * len(strengths))


def test_areas_do_not_depend_on_the_order_of_rows_and_know_what_is_kept():
    rows = [row(strength=s, macro_f1=f) for s, f in ((0.5, 0.2), (0.0, 0.8), (0.1, 0.6))]
    (area,) = noise_areas(rows)
    assert (area.clean, area.mean) == (0.8, pytest.approx(0.4))
    assert area.area == pytest.approx(0.46) and area.kept == pytest.approx(0.46 / 0.8)
    (nothing,) = noise_areas([row(macro_f1=0.0), row(strength=1.0, macro_f1=0.0)])
    assert nothing.kept is None
    for short in ([row()], [row(strength=0.1), row(strength=0.2)]):
        with pytest.raises(ValueError, match="memes a 0 blur mood: a curve has strength 0"):
            noise_areas(short)


def test_a_summary_weighs_degradations_alike_and_deviates_over_seeds():
    rows = []
    for seed, end in ((0, 0.4), (1, 0.6)):
        rows += [row(seed=seed), row(seed=seed, strength=1.0, macro_f1=end)]
        rows += [row(seed=seed, degradation="word_drop", strength=s) for s in (0.0, 0.5, 1.0)]
    (found,) = noise_summary(noise_areas(rows))
    assert found.seeds == 2 and found.clean == pytest.approx(0.8)
    assert found.mean == pytest.approx((0.4 + 0.6 + 0.8 + 0.8) / 4)
    assert found.mean_deviation == pytest.approx(np.std([0.6, 0.7], ddof=1))
    assert found.kept == pytest.approx((0.75 + 0.875 + 1 + 1) / 4)
    assert found.kept_deviation == pytest.approx(np.std([0.875, 0.9375], ddof=1))


def test_tables_say_the_figures_and_the_best_first():
    rows = [row(), row(strength=1.0, macro_f1=0.4), row("b|c"), row("b|c", strength=1.0), row("z", macro_f1=0.0)]
    rows += [row("z", strength=1.0, macro_f1=0.0)]
    areas = noise_areas(rows)
    lines = summary_table(noise_summary(areas)).splitlines()
    assert lines[2] == r"| memes | mood | b\|c | 1 | 0.800 | 0.800 ± 0.000 | 0.800 | 100.0% ± 0.0 |"
    assert lines[3] == "| memes | mood | a | 1 | 0.800 | 0.400 ± 0.000 | 0.600 | 75.0% ± 0.0 |"
    assert lines[4].endswith("| 0.000 | - |")
    assert "| memes | mood | a | 75.0% |" in kept_table(areas)
    rows += [row._replace(task="other", macro_f1=0.0) for row in rows]
    report = noise_report(rows)
    assert summary_table(noise_summary(noise_areas(rows))) in report
    assert "| memes | mean of tasks | a | 1 | 0.400 | 0.200 ± 0.000 | 0.300 | 75.0% ± 0.0 |" in report


def test_a_curve_is_the_mean_over_seeds_with_their_deviation():
    rows = [
        row(seed=seed, strength=s, macro_f1=f) for seed, s, f in ((0, 0, 0.8), (1, 0, 0.6), (0, 1, 0.3), (1, 1, 0.3))
    ]
    strengths, means, deviations = curve(rows)
    assert strengths.tolist() == [0, 1] and means == pytest.approx([0.7, 0.3])
    assert deviations == pytest.approx([np.std([0.8, 0.6], ddof=1), 0])


def test_the_picture_has_a_panel_per_degradation(tmp_path):
    pytest.importorskip("matplotlib")
    names = list(DEGRADATIONS)[:5]
    rows = [row(m, s, n, x, 0.8 - x / 2) for m in "ab" for s in (0, 1) for n in names for x in (0.0, 0.5, 1.0)]
    path = plot_noise(rows, tmp_path / "new" / "noise.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_noise([], path)


def test_rules_of_the_tasks_decide_where_a_predictor_uses_them():
    class ByRule(OfWords):
        def decide(self, probabilities):
            rule, scores = MOOD | {"decision_offsets": [20.0, 0.0]}, torch.from_numpy(probabilities["mood"])
            return {"mood": kind_of(rule).decided(rule, scores).numpy()}

    rows = noise_rows("weather", [ByRule("rule", tasks=[MOOD])], posts(), [MOOD], degradations=["word_drop"])
    assert rows[0].macro_f1 < 0.4 and rows[0].auroc == 1.0  # all are said to be sad
