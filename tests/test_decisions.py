"""From validation posts to temperatures and offsets that serve other posts."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from modeling_mm_orient import MMOrientConfig, MultimodalClassificationPipeline
from modeling_mm_orient.cli import main
from modeling_mm_orient.runs.decisions import (
    FEWEST_POSTS,
    Aim,
    _offset_for,
    aims_of,
    fit_decisions,
    fit_temperature,
)
from modeling_mm_orient.runs.demo import make_memes
from modeling_mm_orient.runs.metrics import calibration_error, reliability
from modeling_mm_orient.runs.run_folder import load_run
from modeling_mm_orient.runs.scoring import metrics_of_logits
from modeling_mm_orient.tasks import (
    check_abstention,
    kind_of,
    predictions_by_task,
    probabilities_of,
    tasks_left_to_a_person,
)

MOOD = {"name": "mood", "kind": "single_label", "labels": ["a", "b", "c"]}
BOTH = {"name": "both", "kind": "single_label", "labels": ["no", "yes"]}
TAGS = {"name": "tags", "kind": "multi_label", "labels": ["x", "y"]}
SIZE = {"name": "size", "kind": "regression", "labels": []}


def rare(count: int, seed: int, tilt: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that know something, and lean to the first of three classes more than is right."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(3, count, p=[0.6, 0.3, 0.1])
    logits = draw.normal(size=(count, 3)) + 1.5 * np.eye(3)[labels] + np.array([tilt, 0, 0])
    return torch.from_numpy(logits), torch.from_numpy(labels)


def macro_f1(task: dict, logits: torch.Tensor, labels: torch.Tensor) -> float:
    decided = kind_of(task).decided(task, probabilities_of([task], {task["name"]: logits})[task["name"]])
    return float(f1_score(labels.int(), decided.int(), average="macro", zero_division=0))


MACRO_F1 = Aim("macro_f1")


def fitted(task: dict, logits, labels, aim: Aim = MACRO_F1) -> dict:
    return fit_decisions([task], {task["name"]: logits}, {task["name"]: labels}, {task["name"]: aim})[0]


def test_offsets_of_validation_serve_other_posts():
    rule, others = fitted(MOOD, *rare(400, 0)), rare(2000, 1)
    assert rule["decision_offsets"][0] < min(rule["decision_offsets"][1:])
    assert macro_f1(rule, *others) > macro_f1(MOOD, *others) + 0.05


def tagged(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that know something of two labels, and say of both too seldom that they are there."""
    draw = np.random.default_rng(seed)
    labels = (draw.random((count, 2)) < [0.15, 0.5]).astype(np.float32)
    return torch.from_numpy(1.5 * labels + draw.normal(size=(count, 2)) - [3, 1]), torch.from_numpy(labels)


@pytest.mark.parametrize(("task", "posts"), [(MOOD, rare), (TAGS, tagged)], ids=["one_class", "several_labels"])
def test_offsets_of_few_posts_come_near_to_those_of_many(task, posts):
    others = posts(4000, 100)
    many, few = (
        [macro_f1(fitted(task, *posts(count, seed)), *others) for seed in range(draws)]
        for count, draws in ((4000, 1), (80, 20))
    )
    assert np.mean(few) > many[0] - 0.02 and min(few) > many[0] - 0.045


def test_offsets_that_gain_nothing_elsewhere_are_not_kept():
    draw = np.random.default_rng(0)
    labels = torch.from_numpy(draw.choice(3, 300))
    good = torch.from_numpy(4 * np.eye(3)[labels] + 0.5 * draw.normal(size=(300, 3)))
    assert fitted(MOOD, good, labels)["decision_offsets"] is None
    assert fitted(MOOD, *rare(400, 0), Aim("most_probable"))["decision_offsets"] is None


def test_each_of_several_labels_has_a_cut_off_of_its_own():
    draw = np.random.default_rng(0)
    labels = (draw.random((600, 2)) < [0.1, 0.5]).astype(np.float32)
    logits = torch.from_numpy(2 * labels + draw.normal(size=(600, 2)) - [3, 1])
    rule = fitted(TAGS, logits[:300], torch.from_numpy(labels[:300]))
    others = logits[300:], torch.from_numpy(labels[300:])
    assert macro_f1(rule, *others) > macro_f1(TAGS, *others) + 0.05
    assert rule["decision_offsets"][0] > 0


@pytest.mark.parametrize("count", [80, 1500])
def test_a_label_that_no_post_has_is_not_made_likelier(count):
    logits, labels = tagged(count, 0)
    labels[:, 0] = 0
    rule = fitted(TAGS, logits, labels)
    assert rule["decision_offsets"][0] == 0 < rule["decision_offsets"][1]
    logits, labels = rare(count, 0)
    logits, labels = logits - torch.tensor([0.0, 0.0, 4.0]), labels.where(labels < 2, 0)
    rule = fitted(MOOD, logits, labels)
    decided = kind_of(rule).decided(rule, probabilities_of([rule], {"mood": logits})["mood"])
    assert rule["decision_offsets"] is not None and not (decided == 2).any()


def test_a_label_that_all_are_expected_to_have_is_given_to_all():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 2)))
    rule = fitted(TAGS, logits, torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]).repeat(100, 1))
    decided = kind_of(rule).decided(rule, probabilities_of([rule], {"tags": logits})["tags"])
    assert (decided[:, 0] == 1).all()


@pytest.mark.parametrize("kind", ["precision", "recall"])
def test_a_precision_or_recall_that_is_asked_for(kind, caplog):
    logits, labels = rare(500, 0)
    logits, labels = 2 * logits[:, 1:], (labels == 2).long()
    least = {"precision": 0.4, "recall": 0.8}[kind]
    rule = fitted(BOTH, logits, labels, Aim(kind, least))
    decided = kind_of(rule).decided(rule, probabilities_of([rule], {"both": logits})["both"])
    score = {"precision": precision_score, "recall": recall_score}
    other = {"precision": "recall", "recall": "precision"}[kind]
    assert score[kind](labels, decided) >= least and score[other](labels, decided) > 0.1
    never = fitted(BOTH, logits, torch.zeros(500, dtype=torch.long), Aim(kind, 0.8))
    assert never["decision_offsets"] == [0, 0] and "comes to 0.000 on validation, not 0.8" in caplog.text
    tags, truth = tagged(500, 0)
    truth[:, 0] = 0
    first, second = fitted(TAGS, tags, truth, Aim(kind, 0.8))["decision_offsets"]
    assert first == 0 != second


@pytest.mark.parametrize("least", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["precision", "recall"])
def test_no_other_cut_off_reaches_more(kind, least):
    for seed in range(20):
        draw = np.random.default_rng(seed)
        truth = draw.random(30) < 0.3
        odds = np.round(truth + draw.normal(size=30), int(seed % 2))  # with and without posts that are equal
        offset, reached = _offset_for(Aim(kind, least), odds, truth)
        scores = {"precision": precision_score, "recall": recall_score}
        other = "recall" if kind == "precision" else "precision"
        found = {cut: {n: score(truth, odds >= cut) for n, score in scores.items()} for cut in np.unique(odds)}
        mine = {n: score(truth, odds + offset >= 0) for n, score in scores.items()}
        assert mine[kind] == pytest.approx(reached)
        reaching = [each[other] for each in found.values() if each[kind] >= least]
        if reaching:
            assert mine[kind] >= least and mine[other] == pytest.approx(max(reaching))
        else:
            assert mine[kind] == pytest.approx(max(each[kind] for each in found.values()))


def test_a_share_of_very_sure_verdicts_is_left_to_a_person():
    draw = np.random.default_rng(0)
    labels = torch.from_numpy(draw.integers(0, 2, 300))
    logits = torch.from_numpy((2.0 * labels.numpy()[:, None] - 1) * [-1, 1] * (8 + 0.15 * draw.normal(size=(300, 1))))
    rule = fitted(BOTH, logits, labels, Aim("most_probable"))
    left = [bool(tasks_left_to_a_person([rule], {"both": row}, 0.1)) for row in logits]
    assert 0 < np.mean(left) < 0.2


def test_a_temperature_makes_probabilities_as_right_as_they_say():
    logits, labels = rare(3000, 0, tilt=0.0)
    rule = fitted(MOOD, 5 * logits, labels, Aim("most_probable"))
    assert rule["temperature"] == pytest.approx(fit_temperature(MOOD, 5 * logits, labels)) and rule["temperature"] > 2
    before, after = (metrics_of_logits([task], {"mood": 5 * logits}, {"mood": labels})["mood"] for task in (MOOD, rule))
    assert after["calibration_error"] < 0.05 < before["calibration_error"] == after["calibration_error_before"]
    assert after["macro_f1"] == before["macro_f1"] and after["auroc"] == pytest.approx(before["auroc"], abs=0.05)


def test_few_posts_that_are_all_told_right_make_nothing_certain():
    labels = torch.arange(100) % 3
    rule = fitted(MOOD, 4 * torch.eye(3, dtype=torch.float64)[labels], labels)
    assert 0.2 < rule["temperature"] < 1 and min(rule["doubts"]) > 1e-6


def test_the_calibration_error_by_hand():
    table = reliability(np.array([0.9, 0.92, 0.92, 0.94, 0.1]), np.array([1, 1, 1, 0, 0]))
    assert table == [[0.1, 0.0, 1], [pytest.approx(2.74 / 3), 1.0, 3], [0.94, 0.0, 1]]
    assert calibration_error(table) == pytest.approx((0.1 + (3 - 2.74) + 0.94) / 5)
    assert calibration_error([[1.0, 1.0, 2], [0.0, 0.0, 1]]) == 0
    assert np.isnan(calibration_error(reliability(np.array([]), np.array([]))))


def test_the_doubtful_are_left_to_a_person():
    logits, labels = rare(2000, 0)
    rule, (others, truth) = fitted(MOOD, logits, labels), rare(2000, 1)
    left = torch.tensor([bool(tasks_left_to_a_person([rule], {"mood": row}, 0.25)) for row in others])
    assert 0.2 < left.float().mean() < 0.3
    decided = kind_of(rule).decided(rule, probabilities_of([rule], {"mood": others})["mood"])
    right = decided == truth
    kept, everybody, doubtful = (float(rows.float().mean()) for rows in (right[~left], right, right[left]))
    assert kept > everybody + 0.02 and doubtful < everybody - 0.05
    curve = metrics_of_logits([rule], {"mood": others}, {"mood": truth})["mood"]["coverage"]
    assert len(curve) == 20 and curve[-1] == [1.0, pytest.approx(1 - float(right.float().mean()))]
    assert dict(curve)[0.75] == pytest.approx(1 - float(right[~left].float().mean()), abs=0.02)
    assert tasks_left_to_a_person([rule], {"mood": others[0]}, 0.0) == []
    with pytest.raises(ValueError, match="how doubtful verdicts of 'mood' are is not known"):
        check_abstention([MOOD], 0.1)


def test_few_posts_missing_labels_and_values_are_left_as_they_are(caplog):
    logits, labels = rare(400, 0)
    labels[FEWEST_POSTS - 1 :] = -100
    assert fitted(MOOD, logits, labels) == MOOD
    assert fitted(MOOD, logits, labels, Aim("recall", 0.5)) == MOOD and "no rule is fitted" in caplog.text
    assert fit_decisions([SIZE], {"size": torch.zeros(90)}, {"size": torch.zeros(90)}, {}) == [SIZE]


def test_rules_are_read_or_refused():
    tasks = [MOOD, BOTH, TAGS, SIZE]
    assert aims_of([], tasks) == dict.fromkeys(("mood", "both", "tags"), Aim("macro_f1"))
    aims = aims_of(["tags=precision:0.9", "most_probable"], tasks)
    assert aims == {"mood": Aim("most_probable"), "both": Aim("most_probable"), "tags": Aim("precision", 0.9)}
    for rule, said in {
        "x=macro_f1": "'x' is no task with labels", "size=macro_f1": "'size' is no task with labels",
        "mood=recall:0.9": "'mood' has 3 classes", "both=recall": "want", "both=recall:2": "want",
        "both=precision:x": "want", "best": "want", "both=macro_f1:0.5": "want",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=said):
            aims_of([rule], tasks)


def test_rules_that_contradict_each_other_or_decide_nothing_are_refused():
    with pytest.raises(ValueError, match=r"--decide tags=precision:0\.9: there is another rule for 'tags'"):
        aims_of(["tags=precision:0.9", "tags=recall:0.5"], [MOOD, TAGS])
    with pytest.raises(ValueError, match="there is another rule for all tasks"):
        aims_of(["macro_f1", "most_probable"], [MOOD, TAGS])
    with pytest.raises(ValueError, match=r"--decide precision:0\.9: there is no task with labels"):
        aims_of(["precision:0.9"], [SIZE])
    assert aims_of(["recall:0.5", "recall:0.5", "tags=macro_f1"], [TAGS])["tags"].kind == "macro_f1"
    assert aims_of(["most_probable"], [SIZE]) == {}


def test_what_a_reader_is_told():
    tasks = [MOOD | {"decision_offsets": [0.0, 2.0, 0.0]}, TAGS | {"decision_offsets": [0.0, 3.0]}, SIZE]
    logits = {"mood": torch.tensor([1.0, 0.0, 0.0]), "tags": torch.tensor([-1.0, -2.0]), "size": torch.tensor(2.5)}
    found = predictions_by_task(tasks, logits)
    assert max(found["mood"], key=found["mood"].get) == "a"
    assert [kind_of(task).decision(task, found[task["name"]]) for task in tasks] == ["b", ["y"], 2.5]
    assert [kind_of(task).cell(task, found[task["name"]]) for task in tasks] == ["b", "y", 2.5]


@pytest.mark.parametrize(
    "fields", [{"temperature": 0}, {"temperature": "1"}, {"decision_offsets": [1.0]},
               {"decision_offsets": [0, 1, float("inf")]}, {"decision_offsets": "abc"}]
)  # fmt: skip
def test_a_configuration_checks_them(fields):
    with pytest.raises(ValueError, match=rf"tasks\[0\] \(mood\)\.{next(iter(fields))}"):
        MMOrientConfig(tasks=[MOOD | fields])


def test_a_run_keeps_its_rules_and_everything_follows_them(tmp_path, capsys):
    memes = make_memes(tmp_path / "memes", 700)
    command = ["train", "--data", memes, "--labels", "humour", "offensive", "--split-column", "split", "--epochs", "1"]
    assert main([*map(str, command), "--output", str(tmp_path / "no"), "--decide", "humour=recall:0"]) == 1
    assert "--decide humour=recall:0" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert main([*map(str, command), "--output", str(tmp_path / "run"), "--decide", "offensive=recall:0.9"]) == 0
    config = MMOrientConfig.from_pretrained(tmp_path / "run")
    assert config.task("offensive")["decision_offsets"] is not None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["validation"]["offensive"]["recall"][1] >= 0.9
    assert (tmp_path / "run" / "metrics.png").exists()
    assert "decided with offsets" in (tmp_path / "run" / "README.md").read_text()
    model, processor = load_run(str(tmp_path / "run"))
    pipe = MultimodalClassificationPipeline(model=model, processor=processor)
    output = tmp_path / "p.csv"
    assert (
        main(["predict", str(tmp_path / "run"), "--data", str(memes), "--split", "test", "--output", str(output)]) == 0
    )
    rows = list(csv.DictReader(output.open(newline="")))
    offsets = np.array(config.task("offensive")["decision_offsets"])
    for row in rows:
        scores = np.log([float(row[f"offensive:{label}"]) for label in config.task("offensive")["labels"]]) + offsets
        assert row["offensive"] == config.task("offensive")["labels"][scores.argmax()]
    abstaining = [
        "predict",
        str(tmp_path / "run"),
        "--data",
        str(memes),
        "--split",
        "test",
        "--abstain",
        "0.3",
        "--output",
    ]
    assert main([*abstaining, str(output)]) == 0 and main([*abstaining, str(tmp_path / "p.jsonl")]) == 0
    left = [row["id"] for row in csv.DictReader(output.open(newline="")) if not row["offensive"]]
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert left == [line["id"] for line in lines if "offensive" in line["abstained"]]
    assert 0.1 * len(rows) < len(left) < 0.6 * len(rows)
    doubt = {
        row["id"]: min(float(row[f"offensive:{label}"]) for label in ("not_offensive", "offensive")) for row in rows
    }
    assert all(doubt[name] > 0 for name in left)
    found = pipe({"text": "what a day"}, abstain=0.999)["decisions"]
    assert list(found) == ["humour", "offensive"] and None in found.values()
    model.config.update({"tasks": [task | {"doubts": None} for task in model.config.tasks if task["name"] == "humour"]
                                  + [task for task in model.config.tasks if task["name"] != "humour"]})  # fmt: skip
    assert set(pipe({"text": "what a day"}, tasks="offensive", abstain=0.2)["decisions"]) == {"offensive"}
    with pytest.raises(ValueError, match="how doubtful verdicts of 'humour' are is not known"):
        pipe({"text": "what a day"}, abstain=0.2)
    with pytest.raises(ValueError, match="`abstain` must be a share from 0 to below 1"):
        pipe({"text": "what a day"}, abstain=1.5)
    for parts in ({"images": "a caption"}, {"text": "a caption"}):  # beside a post it would be dropped
        with pytest.raises(ValueError, match="by `images` and `text`: give one of them"):
            pipe({"text": "what a day"}, **parts)
    for name in ("decisions", "answers", "explain"):
        with pytest.raises(ValueError, match=f"`{name}` must be True or False, got 'false'"):
            pipe({"text": "what a day"}, **{name: "false"})
    found = pipe({"text": "what a day"}, decisions=True)
    assert set(found) == {"humour", "offensive", "decisions"} and set(found["decisions"]) == {"humour", "offensive"}
    assert set(pipe({"text": "what a day"})) == {"humour", "offensive"}
