"""What a command writes replaces nothing that it reads, and no other run."""

import html
import json
import shutil
from urllib.parse import quote

import pytest

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.json_files import read_json
from modeling_mm_orient.runs import training
from modeling_mm_orient.runs.explanation_page import explain_with_run
from modeling_mm_orient.runs.hub import export_run
from modeling_mm_orient.runs.own_files import remove_run

from .helpers import train_on, write_folder

ROWS = [
    {"id": f"p{i}", "image": f"{i}.png", "text": f"words {i}", "mood": "ab"[i % 2], "split": split}
    for i, split in enumerate(["train"] * 12 + ["val"] * 4 + ["test"] * 4)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Posts, a run on them, and another."""
    folder = tmp_path_factory.mktemp("outputs")
    write_folder(folder / "posts", ROWS)
    options = ("--labels", "mood", "--epochs", 1, "--split-column", "split", "--set", "relation_scope=memory")
    assert train_on(folder / "posts", folder / "run", *options) == 0
    assert train_on(folder / "posts", folder / "other", *options) == 0
    return folder


def content(place) -> dict:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        "predict {run} --data {posts} --output {posts}/labels.csv",
        "memory inspect {run} --json {run}/config.json",
        "evaluate {run} --data {posts} --json {run}/config.json",
        "evaluate {run} --data {posts} --json {posts}/labels.csv",
        "inspect-data --data {posts} --labels mood --json {posts}/labels.csv",
        "export {run} --output {other}",
        "memory build {run} --data {posts} --output {other}",
        "inspect-graph {run} --data {posts} --picture {posts}/images/1.png",
        "explain {run} --post {posts}/images/1.png hi --output {posts}/images/1.png",
        *(f"evaluate {{run}} --data {{posts}} --json {{run}}/{name}" for name in (
            "model.safetensors", "relation_memory.safetensors", "README.md", "modeling_mm_orient.py", "history.json",
        )),
    ],
)  # fmt: skip
def test_what_is_read_or_is_another_runs_is_not_replaced(folder, capsys, command):
    before, places = content(folder), {name: folder / name for name in ("run", "other", "posts")}
    assert main([word.format(**places) for word in command.split()]) == 1
    assert "another" in capsys.readouterr().err and content(folder) == before


@pytest.mark.parametrize(
    "name, said, content",
    [
        ("metrics.json", "metrics by task", {"test": 5}),
        ("metrics.json", "metrics by name", {"test": {"mood": [1]}}),
        ("metrics.json", "'accuracy' of 'mood' in 'test' must be a number", {"test": {"mood": {"accuracy": "x"}}}),
        ("metrics.json", "'mae' of 'mood' in 'test' must be a number", {"test": {"mood": {"mae": []}}}),
        ("metrics.json", "'support' of 'mood'", {"test": {"mood": {"support": [1, "x"]}}}),
        ("metrics.json", "'mean_macro_f1' of", {"test": {"mean_macro_f1": "x"}}),
        ("run.json", "`labels` must be counts by task, split and label", {"labels": {"mood": {"train": True}}}),
        ("run.json", "`splits` must be counts by split", {"splits": {"train": "many"}}),
        ("run.json", "`left_out` must be a list of objects", {"left_out": [1]}),
        ("run.json", "`feature_cache` must be a folder or null", {"feature_cache": 1e308}),
        ("run.json", "`training.batch_size` must be at least 1, got 0", {"training": {"batch_size": 0}}),
        ("splits.json", "is in no split but", {"a": [1]}),
        ("config.json", "no sound JSON", "[" * 100_000),
        ("tokenizer.json", "no sound JSON", "{"),
        ("tokenizer_config.json", "a JSON object is expected", "[]"),
    ],
)
def test_a_file_of_a_run_that_makes_no_sense_is_named(folder, tmp_path, capsys, name, said, content):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    (run / name).write_text(content if isinstance(content, str) else json.dumps(content))
    command = ["export", run, "--output", tmp_path / "hub"]
    if name == "splits.json":
        command = ["evaluate", run, "--data", folder / "posts"]
    assert main([str(part) for part in command]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"mm-orient: {run / name}: ") and said in error and not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    "name, change",
    [
        ("config.json", {"dtype": 5}),
        ("config.json", {"dtype": "x"}),
        ("config.json", {"model_type": {}}),
        ("config.json", {"custom_pipelines": [None]}),
        ("config.json", {"task_feature_dim": 5}),
        ("processor_config.json", {"parts": 5}),
        ("processor_config.json", {"image_processor": "x"}),
        ("processor_config.json", {"text_cleaning": True}),
        ("processor_config.json", {"task_features": ["x"]}),
        ("processor_config.json", {"max_tokens": 10**30}),
        ("processor_config.json", {"auto_map": 5}),
    ],
)
def test_a_value_of_another_type_is_no_surprise(folder, tmp_path, capsys, name, change):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    (run / name).write_text(json.dumps(read_json(run / name) | change))
    picture = folder / "posts" / "images" / "1.png"
    status = main(["explain", str(run), "--post", str(picture), "some words", "--output", str(tmp_path / "e.html")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 0 or (error.startswith("mm-orient: ") and "unexpected" not in error)
    (field,) = change
    assert status == 0 or field in error or str(run) in error, error


@pytest.mark.parametrize("table", ["json", "utf-16", "stem"])
def test_a_picture_that_a_table_names_in_another_way_is_not_replaced(folder, tmp_path, capsys, table):
    posts = write_folder(tmp_path / "posts", [row | {"image": f"café{row['image']}"} for row in ROWS])
    rows = (posts / "labels.csv").read_text(encoding="utf-8")
    if table == "utf-16":
        (posts / "labels.csv").write_text(rows, encoding="utf-16")
    else:
        (posts / "labels.csv").unlink()
        rows = [dict(zip(ROWS[0], line.split(","), strict=True)) for line in rows.splitlines()[1:]]
        cut = -4 if table == "stem" else None
        lines = [json.dumps(row | {"image": row["image"][:cut]}) for row in rows]
        (posts / "labels.jsonl").write_text("\n".join(lines))
    picture = posts / "images" / "café1.png"
    before = picture.read_bytes()
    command = ["inspect-graph", folder / "run", "--data", posts, "--picture", picture]
    assert main([*map(str, command)]) == 1
    assert "lies among the posts" in capsys.readouterr().err and picture.read_bytes() == before


def test_an_output_that_no_cell_names_is_made_anew(folder, tmp_path):
    rows = [row | {"text": f"when the plot thickens {i}"} for i, row in enumerate(ROWS)]
    posts = write_folder(tmp_path / "posts", rows)
    (posts / "out").mkdir()
    (posts / "out" / "plot.png").write_bytes(b"an earlier one")
    command = ["inspect-graph", folder / "run", "--data", posts, "--picture", posts / "out" / "plot.png"]
    assert main([*map(str, command)]) == 0
    assert (posts / "out" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_knows_all_its_files(folder, tmp_path, caplog):
    shutil.copytree(folder / "run", tmp_path / "run")
    export_run(str(tmp_path / "run"), tmp_path / "run", "me/a-model", endpoint=True, online=False)
    remove_run(tmp_path / "run")
    assert not any((tmp_path / "run").iterdir()) and not caplog.records


@pytest.mark.parametrize("folds", [(), ("--folds", 2)])
def test_overwriting_a_run_leaves_what_is_none_of_it(tmp_path, caplog, folds):
    run, options = tmp_path / "run", ("--labels", "mood", "--epochs", 1, *folds)
    assert train_on(write_folder(tmp_path / "posts", ROWS), run, *options) == 0
    posts = write_folder(run / "data", ROWS)
    (run / "notes.txt").write_text("mine")
    (run / "train.py").write_text("print('mine')")
    theirs = ["logs/cluster.out", "onnx/notes.txt", "vocab.csv", "tokenizer_notes.md", "fold-up/config.json"]
    theirs += [f"{name}/notes.txt" for name in ("relation_memory", "joint_processor", "checkpoints", ".partial-mine")]
    for name in theirs:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    (run / "logs" / "events.out.tfevents.1.here").write_text("a run's")
    before = content(posts)
    name = "run.json" if not folds else "fold-1/run.json"
    assert train_on(posts, run, *options, "--overwrite", "--seed", 3) == 0
    assert content(posts) == before and read_json(run / name)["data"]["data"] == str(posts)
    files = [path for path in run.rglob("*") if path.is_file() and "mine" in path.read_text("latin1")]
    kept = {path.relative_to(run).as_posix() for path in files}
    assert kept >= {"notes.txt", "train.py", *theirs}
    if not folds:
        assert "left there: .partial-mine, checkpoints, data, fold-up, joint_processor and 7 more" in caplog.text
        assert not [*(run / "logs").glob("events*")]


def test_an_output_of_ones_own_is_replaced(folder, tmp_path):
    for _ in range(2):
        for file in ("p.jsonl", "p.csv"):
            command = ["predict", folder / "run", "--data", folder / "posts", "--output", tmp_path / file]
            assert main([*map(str, command)]) == 0
        assert main(["export", str(folder / "run"), "--output", str(tmp_path / "hub")]) == 0


def test_data_without_the_runs_split_column(folder, tmp_path, capsys):
    rows = [{name: value for name, value in row.items() if name != "split"} for row in ROWS[16:]]
    new = write_folder(tmp_path / "new", rows)
    command = ["evaluate", str(folder / "run"), "--data", str(new)]
    assert main(command) == 1 and "where no column says the splits: --split-column none" in capsys.readouterr().err
    assert main([*command, "--split-column", "none", "--json", str(tmp_path / "m.json")]) == 0
    assert read_json(tmp_path / "m.json")["mood"]["posts"] == 4


def test_the_splits_of_the_data_can_be_left_aside(folder, tmp_path, capsys):
    drawn = {}
    for options in ((), ("--split-column", "none")):
        run = tmp_path / f"run{len(options)}"
        assert train_on(folder / "posts", run, "--labels", "mood", "--epochs", 1, *options) == 0
        drawn[run] = read_json(run / "run.json")["splits"]
    assert list(drawn.values()) == [
        {"train": 12, "validation": 4, "test": 4},
        {"train": 16, "validation": 2, "test": 2},
    ]
    command = ["evaluate", str(run), "--data", str(folder / "posts"), "--json", str(tmp_path / "m.json")]
    assert main(command) == 0 and read_json(tmp_path / "m.json")["mood"]["posts"] == 2  # its own
    assert (
        read_json(tmp_path / "m.json")["mood"]["macro_f1"]
        == read_json(run / "metrics.json")["test"]["mood"]["macro_f1"]
    )


def test_an_emptied_memory_still_predicts(folder, tmp_path):
    options = ("--labels", "mood", "kind=x,y", "--epochs", 1)
    rows = [row | {"x": i % 2, "y": (i + 1) % 2} for i, row in enumerate(ROWS)]
    data, run = write_folder(tmp_path / "posts", rows), tmp_path / "run"
    fields = ("relation_scope=memory", "neighbour_labels=true", "memory_top_k=2")
    assert train_on(data, run, *options, "--set", *fields) == 0
    ids = [row["id"] for row in ROWS[:12]]
    assert main(["memory", "remove", str(run), "--ids", *ids]) == 0
    assert main(["predict", str(run), "--data", str(data), "--output", str(tmp_path / "p.jsonl")]) == 0


def test_other_posts_of_the_same_ids_are_not_shown_as_neighbours(folder, tmp_path, caplog):
    rows = [row | {"text": f"others {i}", "split": "train"} for i, row in enumerate(ROWS)]
    others, run = write_folder(tmp_path / "others", rows), tmp_path / "run"
    options = ("--labels", "mood", "--epochs", 1, "--set", "relation_scope=memory")
    assert train_on(folder / "posts", run, *options, "--split-column", "split") == 0

    def shown(data=None) -> set[str]:
        found = explain_with_run(str(run), {"text": "others 3"}, data)
        return {post["text"] for post in found.thumbnails.values()}

    assert shown() and shown() <= {row["text"] for row in ROWS}
    assert main(["memory", "build", str(run), "--data", str(others)]) == 0
    assert not shown() and "reference posts are not shown: the data has others under their ids" in caplog.text
    assert "others 3" in shown(str(others))


def test_a_label_that_is_no_task_of_the_run_is_refused(folder, tmp_path, capsys):
    write_folder(tmp_path / "posts", [{"feeling" if k == "mood" else k: v for k, v in row.items()} for row in ROWS])
    command = ["evaluate", str(folder / "run"), "--data", str(tmp_path / "posts"), "--labels", "feeling"]
    assert main(command) == 1
    assert "the run has no task 'feeling'; it has mood" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("evaluate {run} --data {posts} --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("explain {run} --post none hi --numbers likes=1 likes=2", "--numbers: 'likes' stands there twice"),
        (
            "train --data {posts} --labels mood --output {run}x --set members=1 members=2",
            "'members' stands there twice",
        ),
        (
            "benchmark --data {posts} --labels mood --output {run}x --methods mm_orient:members=1,members=2",
            "'members' stands there twice",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, capsys, options, said):
    places = {name: folder / name for name in ("run", "posts")}
    assert main([word.format(**places) for word in options.split()]) == 1
    assert said in capsys.readouterr().err


def test_an_export_can_be_entered_by_whoever_may(folder, tmp_path):
    assert main(["export", str(folder / "run"), "--output", str(tmp_path / "hub")]) == 0
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "hub").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_ones_own_figures_and_long_texts_are_no_hindrance(folder, tmp_path):
    figures = folder / "posts" / "figures"
    figures.mkdir()
    command = [
        "inspect-graph",
        str(folder / "run"),
        "--data",
        str(folder / "posts"),
        "--picture",
        str(figures / "graph.png"),
    ]
    assert main(command) == main(command) == 0
    explained = ["explain", str(folder / "run"), "--post", "none", "word " * 80, "--output", str(tmp_path / "why.html")]
    assert main(explained) == main(explained) == 0
    shutil.rmtree(figures)


@pytest.mark.parametrize("has_report", [True, False])
def test_who_is_interrupted_is_told_what_makes_the_report(folder, tmp_path, monkeypatch, capsys, has_report):
    def stop(*arguments, **named):
        shutil.copytree(folder / "run", tmp_path / "run", dirs_exist_ok=True)
        if not has_report:
            (tmp_path / "run" / "report.html").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop)
    posts = folder / "posts"
    assert main(["train", "--data", str(posts), "--labels", "mood", "--output", str(tmp_path / "run")]) == 130
    advice = f"it is trained; mm-orient report {tmp_path / 'run'} --data {posts} makes its report"
    expected = "the same command with --resume goes on" if has_report else advice
    assert capsys.readouterr().err.splitlines()[-1] == f"mm-orient: interrupted; {expected}"
    if not has_report:
        assert main(["report", str(tmp_path / "run"), "--data", str(posts)]) == 0


@pytest.mark.parametrize("form", [str, html.escape, lambda place: json.dumps(place)[1:-1], quote])
def test_a_place_on_this_machine_is_found_however_it_is_written(folder, tmp_path, capsys, form):
    place = '/home/älice/my & "posts"'
    shutil.copytree(folder / "run", tmp_path / "run")
    said = read_json(tmp_path / "run" / "run.json")
    said["data"]["data"] = place
    (tmp_path / "run" / "run.json").write_text(json.dumps(said))
    (tmp_path / "run" / "report.html").write_text(f"<p>{form(place)}/1.png</p>", encoding="utf-8")
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "hub")]) == 1
    assert "a place on this machine" in capsys.readouterr().err and not (tmp_path / "hub").exists()


def test_baselines_that_are_none_are_named(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "baselines.json").write_text('{"x": 1}')
    assert main(["report", str(tmp_path / "run"), "--data", str(folder / "posts")]) == 1
    assert "baselines.json: 'x' is no baseline's metrics by split" in capsys.readouterr().err
