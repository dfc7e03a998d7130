"""Pages to look at: a run's report, an explanation, the relation graph's picture."""

import json
import re
import shutil

import datasets
import numpy as np
import pytest
import torch

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.runs.graph_picture import drawn_graph, relation_edges
from modeling_mm_orient.runs.metric_plots import metrics_figure, on_figure
from modeling_mm_orient.runs.pages import figure_url
from modeling_mm_orient.runs.report.contents import Judged, class_table, clearest_errors, label_counts_by_split
from modeling_mm_orient.runs.report.plots import learning_curves
from modeling_mm_orient.runs.report.summary import summarise, summary_text
from modeling_mm_orient.runs.scoring import kept_by

from .helpers import save_encoders, train_on, write_folder

HOSTILE = "<script>alert('x')</script> & \"quoted\""
CLASSES = {"name": "mood", "kind": "single_label", "labels": ["a", "b", "c"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of real encoders' kind on posts one of which tries to be a page of its own."""
    place = tmp_path_factory.mktemp("report")
    rows = [
        {
            "id": f"p{i}",
            "image": f"{i}.png",
            "text": f"{'good' if i % 2 else 'bad'} caption {i}{HOSTILE if i > 33 else ''}",
            "split": "train" if i < 24 else "validation" if i < 34 else "test",
            "mood": ["sad", "happy"][(i % 2) ^ (i in (36, 37))],
            "score": i / 4,
        }
        for i in range(44)
    ]
    data = write_folder(place / "data", rows)
    encoders = save_encoders(place)
    command = ["train", "--data", str(data), "--labels", "mood", "score", "--split-column", "split", *encoders]
    command += ["--output", str(place / "run"), "--epochs", "2", "--feature-cache", str(place / "cache")]
    assert main(command) == 0
    return place


def outside(html: str) -> list[str]:
    """What a page asks others for."""
    return [url for url in re.findall(r'(?:src|href)="([^"]*)"', html) if not url.startswith(("data:", "#"))]


def test_training_ends_with_a_summary_and_a_page(run, capsys):
    html = (run / "run" / "report.html").read_text(encoding="utf-8")
    for section in ("Summary", "Learning", "mood", "score", "Data", "Settings", "Clearest errors", "Farthest off"):
        assert section in html
    assert outside(html) == [] and "<script>" not in html
    assert "&lt;script&gt;" in html  # the post that is shown as an error, or as a neighbour
    assert (
        main(["report", str(run / "run"), "--output", str(run / "again.html"), "--feature-cache", str(run / "cache")])
        == 0
    )
    said = capsys.readouterr().out
    assert "on test: the run, the majority class" in said and "the best single baseline on validation" in said
    again = (run / "again.html").read_text(encoding="utf-8")
    scores = r"macro-F1 ([0-9.]+) \(majority ([0-9.]+)\), accuracy ([0-9.]+)"
    assert re.findall(scores, again) == re.findall(scores, html)
    metrics = json.loads((run / "run" / "metrics.json").read_text())["test"]["mood"]
    assert re.findall(scores, html)[0][0] == f"{metrics['macro_f1']:.3f}"
    baselines = json.loads((run / "run" / "baselines.json").read_text())
    assert set(baselines) == {"tfidf", "text_only", "image_only", "logistic_regression", "knn"}
    assert all("mse" in found["test"]["score"] for found in baselines.values())


def test_a_report_of_other_posts(run, tmp_path, capsys):
    rows = [
        {"image": f"n{i}.png", "text": f"word {i}", "mood": ["sad", "happy"][i % 2], "score": i, "split": "test"}
        for i in range(6)
    ]
    other = write_folder(tmp_path / "other", rows)
    command = [
        "report",
        str(run / "run"),
        "--data",
        str(other),
        "--labels",
        "mood",
        "--output",
        str(tmp_path / "o.html"),
    ]
    assert main(command) == 0
    assert "6 posts of <b>test</b>" in (tmp_path / "o.html").read_text(encoding="utf-8")
    assert "the best single baseline" not in capsys.readouterr().out  # those were measured on the run's own posts
    assert main([*command[:-1], str(tmp_path / "o.pdf")]) == 1
    assert "a report is written to an .html file" in capsys.readouterr().err


def test_explain_writes_a_page_a_picture_and_values(run, capsys, tmp_path):
    picture = str(run / "data" / "images" / "40.png")
    files = [str(tmp_path / f"out.{ending}") for ending in ("html", "png", "json")]
    assert main(["explain", str(run / "run"), "--post", picture, HOSTILE, "--output", *files]) == 0
    html = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert outside(html) == [] and "<script>" not in html and "without the picture" in html
    assert html.count("<rect") == 4 and "data:image/jpeg;base64," in html.split("Neighbours")[1]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert set(found["without"]) == {"picture", "text", "neighbours"} and len(found["regions"]) == 4
    assert "mood: " in capsys.readouterr().out
    for command, said in (
        (["--post", "none", "none"], "neither an image nor a text"),
        (["--post", str(run / "absent.png"), "x"], "does not exist"),
        (["--post", picture, "x", "--output", "out.pdf"], ".html, .png or .json"),
        (["--post", picture, "x", "--neighbours", "-1"], "at least 0"),
        (["--post", picture, "x", "--output", str(run / "run" / "run.json" / "e.html")], "run.json"),
    ):
        assert main(["explain", str(run / "run"), *command]) == 1
        assert said in capsys.readouterr().err


def test_an_explanation_does_without_reference_posts_that_are_unreadable(run, tmp_path, caplog):
    changed = tmp_path / "run"
    shutil.copytree(run / "run", changed)
    record = json.loads((changed / "run.json").read_text())
    (tmp_path / "emptied").mkdir()
    record["data"]["data"] = str(tmp_path / "emptied")
    (changed / "run.json").write_text(json.dumps(record))
    assert main(["explain", str(changed), "--post", "none", "words", "--output", str(tmp_path / "a.html")]) == 0
    assert "reference posts are not shown" in caplog.text
    command = ["explain", str(changed), "--post", "none", "words", "--data", str(tmp_path / "emptied")]
    assert main([*command, "--output", str(tmp_path / "b.html")]) == 1


def test_posts_of_many_labels_and_without_labelled_test_posts(tmp_path, capsys):
    rows = [
        {"image": f"{i}.png", "text": f"words {i} " * 40, "split": ["train", "val", "test"][min(2, i // 10)],
         "joy": i % 2 if i < 20 else "", "fear": i // 2 % 2 if i < 20 else ""}
        for i in range(24)
    ]  # fmt: skip
    data, place = write_folder(tmp_path / "data", rows), str(tmp_path / "run")
    command = ["train", "--data", str(data), "--labels", "emotions=joy,fear", "--epochs", "1", "--output", place]
    assert main(command) == 0
    assert "on validation: the run" in capsys.readouterr().out
    assert "10 posts of <b>validation</b>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert main(["report", place]) == 0 and "on validation: the run" in capsys.readouterr().out
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "there were no labelled test posts" in card and "### test\n\nNo post has a label." in card
    files = [str(tmp_path / f"why.{ending}") for ending in ("png", "html")]
    assert main(["explain", place, "--post", "none", "words " * 80, "--output", *files]) == 0


def test_the_graph_of_posts_is_drawn(run, tmp_path, capsys):
    command = ["inspect-graph", str(run / "run"), "--data", str(run / "data"), "--split", "test", "--picture"]
    assert main([*command, str(tmp_path / "graph.svg")]) == 0
    assert "10 posts; edges:" in capsys.readouterr().out and (tmp_path / "graph.svg").stat().st_size > 5000
    assert main([*command, str(tmp_path / "graph.gif")]) == 1
    assert "drawn to .png, .svg or .pdf" in capsys.readouterr().err


def test_edges_are_those_of_the_rule():
    embeds = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.05], [1.0, 0.0]])
    present = torch.tensor([True, True, True, True, False])
    assert relation_edges(embeds, present, 0.9, None) == {(0, 1), (0, 3), (1, 3)}
    assert (2, 1) not in relation_edges(embeds, present, None, 1) and (1, 2) in relation_edges(embeds, present, None, 1)
    graph = drawn_graph({(0, 1), (0, 3)}, {(0, 3), (1, 2)}, 5)
    assert graph.edges == {"pictures alone": [(0, 1)], "texts alone": [(1, 2)], "both": [(0, 3)]}
    assert graph.communities[4] not in graph.communities[:4] and graph.communities[0] == graph.communities[3]


class Posts(list):
    """Posts as `Judged` reads them."""

    features = None


def judged() -> Judged:
    logits = {"mood": torch.tensor([[4.0, 0, 0], [0, 2.0, 0], [0, 0, 9.0], [0, 3.0, 0]])}
    labels = {"mood": torch.tensor([0, 0, 1, -100])}
    posts = Posts({"id": f"p{i}", "image": None, "text": f"text {i}"} for i in range(4))
    evidence = [{"image": [], "text": [{"id": "r", "similarity": 1.0, "labels": {}}]} for _ in range(4)]
    return Judged(posts, [CLASSES], logits, labels, evidence, {"r": {"image": None, "text": "near"}})


def test_the_surest_errors_come_first_and_unlabelled_posts_never():
    cards = clearest_errors(judged(), CLASSES)
    assert [(card["id"], card["labelled"], card["decided"]) for card in cards] == [("p2", "b", "c"), ("p1", "a", "b")]
    assert cards[0]["scores"][0][0] == "c" and cards[0]["neighbours"]["text"][0]["id"] == "r"


def test_a_class_that_nobody_decided_has_an_f1_of_0():
    found = {"precision": [1.0, 0.0, 0.5], "recall": [0.5, 0.0, 1.0], "support": [2, 1, 1]}
    rows = class_table(CLASSES, found, {"train": {"a": 7, "b": 0, "c": 3}})
    assert [row["train"] for row in rows] == [7, 0, 3]
    assert [row["f1"] for row in rows] == [pytest.approx(2 / 3), 0.0, pytest.approx(2 / 3)]


def test_the_summary_names_what_is_weak():
    found = {
        "macro_f1": 0.4, "majority_macro_f1": 0.39, "calibration_error": 0.2, "posts": 60,
        "precision": [1, 0, 0], "recall": [1, 0, 0], "support": [3, 2, 1],
    }  # fmt: skip
    value = {"mse": 1.0, "mean_predictor_mse": 1.0, "posts": 60}
    tasks = [CLASSES, {"name": "score", "kind": "regression", "labels": []}]
    baselines = {
        name: {
            split: {
                "mood": {"macro_f1": score, "majority_macro_f1": 0.39, "posts": 60},
                "score": {"mse": error, "mean_predictor_mse": 1.0, "posts": 60},
                "mean_macro_f1": mean,
            }
            for split, mean in means.items()
        }
        for name, score, error, means in (
            ("knn", 0.5, 0.5, {"validation": 0.5, "test": 0.5}),
            ("text_only", 0.9, 0.1, {"validation": 0.4, "test": 0.9}),
        )
    }
    counts = {"mood": {"a": 50, "b": 3, "c": 2}}
    entries, best = summarise(tasks, {"mood": found, "score": value}, baselines, "test", counts)
    assert best == "knn" and [entry.baseline for entry in entries] == [0.5, 0.5]
    said = " ".join(entries[0].notes)
    assert (
        "nothing learned" in said and "knn alone is better" in said and "c (2), b (3)" in said and "off by 0.20" in said
    )
    assert "nothing learned" in entries[1].notes[0] and "knn alone is nearer" in entries[1].notes[1]
    assert "mood   macro-F1 0.400  0.390  0.500" in summary_text(entries, best, "test")
    assert summarise(tasks, {"mood": found}, {}, "test", {})[1] is None
    # other posts than the baselines', and too few: neither is compared or judged
    entries, best = summarise(tasks, {"mood": found | {"posts": 9}}, baselines, "test", counts)
    assert best is None and [entry.baseline for entry in entries] == [None, None]
    said = summary_text(entries, best, "test")
    assert "9 posts with a label here: too few to judge by" in said and "nothing learned" not in said
    assert "score  mse unknown" in said and "no post here has a label" in said
    assert "knn" not in said and "or the mean" in said


def test_a_summary_of_numbers_alone_has_a_baseline_beside_it():
    tasks = [{"name": "score", "kind": "regression", "labels": []}]
    value = {"mse": 1.0, "mean_predictor_mse": 2.0, "posts": 60}
    baselines = {
        name: {split: {"score": value | {"mse": mse}, "mean_macro_f1": None} for split in ("validation", "test")}
        for name, mse in (("knn", 3.0), ("text_only", 0.5))
    }
    entries, best = summarise(tasks, {"score": value}, baselines, "test", {})
    assert best == "text_only" and entries[0].baseline == 0.5
    assert "the run, the mean (of mse less is better), text_only" in summary_text(entries, best, "test")


def test_the_dotted_epoch_is_the_one_that_was_kept():
    log = [{"epoch": n, "eval_loss": loss, "eval_mean_macro_f1": f1, "eval_x_mean_macro_f1": f1}
           for n, loss, f1 in ((1, 0.5, 0.1), (2, 0.9, 0.7))]  # fmt: skip

    def dotted(trainer: dict) -> float:
        axis = learning_curves(log, kept_by(trainer)).axes[1]
        assert "x_mean" in [text.get_text() for text in axis.get_legend().get_texts()]
        return next(line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":")

    assert dotted({}) == 2 and dotted({"metric_for_best_model": "eval_loss"}) == 1
    assert dotted({"metric_for_best_model": "eval_loss", "greater_is_better": True}) == 2


def test_names_leave_room_on_figures(recwarn):
    name = "a task\nof $many$ words " * 9
    table = {"reliability": [(0.5, 0.5, 3)], "calibration_error": 0.1, "coverage": [(1.0, 0.5)]}
    figure_url(metrics_figure({name: table}))
    assert not [str(warning.message) for warning in recwarn if "constrained_layout" in str(warning.message)]
    assert on_figure(name) == r"a task of \$many\$ words …"


def test_labels_are_counted_by_split():
    values = {"train": [0, 0, 2, None], "test": [1]}
    splits = {split: datasets.Dataset.from_dict({"label.mood": column}) for split, column in values.items()}
    counts = label_counts_by_split(splits, [CLASSES])
    assert counts["mood"] == {"train": {"a": 2, "b": 0, "c": 1, "": 1}, "test": {"a": 0, "b": 1, "c": 0, "": 0}}
    assert np.sum(list(counts["mood"]["train"].values())) == 4


def test_posts_that_were_left_out_are_counted_and_name_no_folder_of_this_machine(tmp_path):
    rows = [{"image": f"{i}.png", "text": f"words {i}", "mood": "ab"[i % 2], "likes": i % 7} for i in range(40)]
    for i, row in enumerate(rows):
        row["split"] = "train" if i < 20 else "val" if i < 30 else "test"
    folder = write_folder(tmp_path / "posts", rows)
    (folder / "images" / "3.png").write_bytes(b"no picture")
    (tmp_path / "elsewhere.png").write_bytes(b"none")
    (folder / "images" / "4.png").unlink()
    (folder / "images" / "4.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "images" / "5.png").unlink()
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("3.png,words 3,b,3", "3.png,words 3,b,many"))
    run, options = tmp_path / "run", ("--labels", "mood", "--regression", "likes", "--epochs", 1)
    assert train_on(folder, run, *options, "--skip-bad-posts") == 0
    assert main(["report", str(run), "--data", str(folder), "--skip-bad-posts", "--output", f"{tmp_path}/r.html"]) == 0
    for page in (run / "report.html", tmp_path / "r.html"):
        text = page.read_text()
        assert "Left out: 3" in text and str(folder) not in text and str(tmp_path / "elsewhere.png") not in text
        assert (
            "labels.csv:5: likes is &#39;many&#39;, not a number; image &#39;images/3.png&#39; cannot be read" in text
        )
    assert "posts left out: 3" in (run / "README.md").read_text()
    assert str(tmp_path) not in json.dumps(read_json(run / "run.json")["left_out"])
    assert main(["export", str(run), "--output", str(tmp_path / "hub")]) == 0
