"""The command lines as the README writes them, on a few demo memes with tiny encoders."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from modeling_mm_orient import relation_memory, similarity_search
from modeling_mm_orient.cli import main
from modeling_mm_orient.runs import training
from modeling_mm_orient.runs.demo import make_memes

from ..helpers import joint_config, make_processor, repeatable, save_classifier, shared, small_towers

LABELS = ["sarcasm", "offensive"]


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def memes(tmp_path_factory):
    return make_memes(tmp_path_factory.mktemp("memes"), 120)


@pytest.fixture(scope="module")
def trained(memes, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    command = ["train", "--data", memes, "--labels", *LABELS, "--text-column", "text", "--image-column", "image"]
    command += ["--split-column", "split", "--labels-file", "labels.csv", "--preset", "tiny", "--output", output]
    assert run(*command, "--epochs", 2, "--batch-size", 16, "--seed", 3) == 0
    return output


def test_train_leaves_a_complete_run(trained):
    files = {path.name for path in trained.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "run.json",
        "metrics.json",
        "README.md",
        "modeling_mm_orient.py",
    } <= files
    assert "checkpoints" not in files
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) == {"validation", "test"} and metrics["test"]["offensive"]["majority_macro_f1"] > 0
    settings = json.loads((trained / "run.json").read_text())
    assert settings["training"]["seed"] == 3 and settings["splits"] == {"train": 84, "validation": 12, "test": 24}
    card = (trained / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers") and "| majority class |" in card


def test_evaluate_gives_what_training_found(trained, memes, tmp_path, capsys):
    assert run("evaluate", trained, "--data", memes, "--split", "test", "--json", tmp_path / "m" / "metrics.json") == 0
    metrics = json.loads((tmp_path / "m" / "metrics.json").read_text())
    expected = json.loads((trained / "metrics.json").read_text())["test"]
    for task in LABELS:
        assert metrics[task]["support"] == expected[task]["support"]
        for name in ("macro_f1", "weighted_f1", "accuracy", "majority_macro_f1", "auroc"):
            assert metrics[task][name] == pytest.approx(expected[task][name], abs=1e-3)
    assert metrics["mean_macro_f1"] == pytest.approx(sum(metrics[task]["macro_f1"] for task in LABELS) / 2)
    assert "| offensive | majority class |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.csv", "predictions.parquet"])
def test_predict(trained, memes, tmp_path, name):
    assert (
        run("predict", trained, "--data", memes, "--split", "test", "--output", tmp_path / name, "--batch-size", 7) == 0
    )
    if name.endswith("jsonl"):
        lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for line in lines:
            assert set(line) == {"id", *LABELS} and set(line["offensive"]) == {"not_offensive", "offensive"}
            assert sum(line["offensive"].values()) == pytest.approx(1, abs=1e-5)
    else:
        table = tmp_path / name
        csv_file = name.endswith("csv")
        lines = list(csv.DictReader(table.open())) if csv_file else pyarrow.parquet.read_table(table).to_pylist()
        for line in lines:
            scores = {label: float(line[f"offensive:{label}"]) for label in ("not_offensive", "offensive")}
            assert line["offensive"] == max(scores, key=scores.get)
    assert [line["id"] for line in lines] == [f"meme-{index:04d}" for index in range(96, 120)]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_encoders_in_8_bits(trained, memes, tmp_path, capsys):
    output, found = tmp_path / "p.csv", {}
    for options in ([], ["--int8-encoders"]):
        assert run("predict", trained, "--data", memes, "--split", "test", "--output", output, *options) == 0
        found[bool(options)] = [float(line["offensive:offensive"]) for line in csv.DictReader(output.open())]
    assert found[True] != found[False] and found[True] == pytest.approx(found[False], abs=0.1)
    assert run("evaluate", trained, "--data", memes, "--int8-encoders", "--json", tmp_path / "m.json") == 0
    printed, metrics = capsys.readouterr().out, json.loads((tmp_path / "m.json").read_text())
    assert printed.count("| offensive | model |") == 2 and "with encoders in 8 bits" in printed
    assert f", in 8 bits {metrics['offensive']['macro_f1']:.3f} (" in printed.split("offensive: macro_f1")[1]


def test_predict_posts_without_labels_and_bare_pictures(trained, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30), "teal").save(folder / name)
    assert run("predict", trained, "--data", folder, "--output", tmp_path / "bare.jsonl") == 0
    (folder / "posts.csv").write_text("image,text\na.png,hello\n,only words\nb.jpg,\n")
    assert run("predict", trained, "--data", folder, "--output", tmp_path / "posts.jsonl") == 0
    bare, posts = (
        [json.loads(line)["id"] for line in (tmp_path / f"{name}.jsonl").open()] for name in ("bare", "posts")
    )
    assert bare == ["a.png", "b.jpg"] and posts == ["a.png", "1", "b.jpg"]


def test_posts_that_are_left_out_are_named(trained, tmp_path, caplog):
    folder = make_memes(tmp_path / "memes", 30)
    (folder / "images" / "0003.png").write_bytes(b"no picture")
    command = ["predict", trained, "--data", folder, "--output", tmp_path / "p.jsonl"]
    assert run(*command) == 1
    assert not (tmp_path / "p.jsonl").exists()
    assert run(*command, "--skip-bad-posts") == 0
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 29
    assert "1 post(s) left out" in caplog.text
    assert "labels.csv:5" in caplog.text


def test_export(trained, tmp_path):
    assert run("export", trained, "--output", tmp_path / "hub", "--name", "me/my-model") == 0
    assert 'model="me/my-model"' in (tmp_path / "hub" / "README.md").read_text()
    files = {path.name for path in (tmp_path / "hub").iterdir()}
    assert {"metrics.json", "MODEL_CARD.md"} <= files and not {"run.json", "splits.json"} & files
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub", trust_remote_code=True)
    assert [task["name"] for task in model.config.tasks] == LABELS


def test_inspect_graph(trained, memes, tmp_path, capsys):
    command = ["inspect-graph", trained, "--data", memes, "--split", "train", "--json", tmp_path / "graphs.json"]
    assert run(*command, "--batch-size", 20) == 0
    found = json.loads((tmp_path / "graphs.json").read_text())
    assert set(found) == {"image", "text"}
    assert (found["image"]["posts"], found["image"]["batch_size"], found["text"]["threshold"]) == (84, 20, 0.9)
    assert "| image | 84 | 0.900 | batch of 20 |" in capsys.readouterr().out


@pytest.fixture
def run_copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_inspect_graph_of_a_memory(run_copy, memes, tmp_path, capsys):
    def inspected() -> dict:
        command = ["inspect-graph", run_copy, "--data", memes, "--split", "train", "--json", tmp_path / "graphs.json"]
        assert run(*command) == 0
        return json.loads((tmp_path / "graphs.json").read_text())["text"]

    assert run("memory", "build", run_copy, "--data", memes, "--split", "train", "--lookup", "top_k", "--top-k", 5) == 0
    found = inspected()
    assert (found["posts"], found["memory_size"], found["batch_size"], found["threshold"]) == (84, 84, None, None)
    assert found["mean_degree"] >= 5 and found["isolated"] == 0
    assert "| text | 84 | none | memory of 84 |" in capsys.readouterr().out
    config = json.loads((run_copy / "config.json").read_text())
    config |= {"memory_lookup": "threshold", "text_threshold": 0.99999}
    (run_copy / "config.json").write_text(json.dumps(config))
    found = inspected()
    assert found["threshold"] == 0.99999 and found["isolated"] > 0.5  # 0 if a post were its own neighbour


def predictions(run_folder, memes, output, *extra) -> dict[str, dict]:
    assert run("predict", run_folder, "--data", memes, "--split", "test", "--output", output, *extra) == 0
    return {line["id"]: line for line in map(json.loads, output.read_text().splitlines())}


def test_the_memory_of_a_finished_run(run_copy, memes, tmp_path, capsys):
    assert run("memory", "inspect", run_copy) == 1 and "has no relation memory" in capsys.readouterr().err
    assert run("memory", "build", run_copy, "--data", memes, "--split", "train", "--lookup", "top_k", "--top-k", 5) == 0
    assert "84 reference posts in the memory" in capsys.readouterr().out
    config = json.loads((run_copy / "config.json").read_text())
    assert (config["relation_scope"], config["memory_lookup"], config["memory_top_k"]) == ("memory", "top_k", 5)
    assert "auto_map" in config
    assert run("memory", "inspect", run_copy, "--json", tmp_path / "memory.json") == 0
    report = json.loads((tmp_path / "memory.json").read_text())
    assert (report["posts"], report["search"], report["labels"]["offensive"]["labelled"]) == (84, "exact", 74)

    known = predictions(run_copy, memes, tmp_path / "a.jsonl", "--neighbours", 3)
    nearest = known["meme-0096"]["neighbours"]["text"]
    assert len(nearest) == 3 and nearest[0]["similarity"] >= nearest[2]["similarity"]
    assert nearest[0]["id"].startswith("meme-00") and set(nearest[0]["labels"]) <= set(LABELS)
    alone = predictions(run_copy, memes, tmp_path / "b.jsonl", "--batch-size", 1)
    assert alone["meme-0100"]["sarcasm"] == pytest.approx(known["meme-0100"]["sarcasm"], abs=1e-5)

    assert run("memory", "add", run_copy, "--data", memes, "--split", "test", "--no-labels") == 0
    assert "24 reference posts added, 108 in the memory" in capsys.readouterr().out
    added = predictions(run_copy, memes, tmp_path / "c.jsonl", "--neighbours", 3)["meme-0096"]["neighbours"]["text"]
    itself = next(item for item in added if item["id"] == "meme-0096")
    assert itself["similarity"] == pytest.approx(1, abs=1e-3) and itself["labels"] == {}
    assert run("memory", "add", run_copy, "--data", memes, "--split", "test") == 1
    assert "a post 'meme-0096' already" in capsys.readouterr().err

    (tmp_path / "ids.txt").write_text("".join(f"meme-{index:04d}\n" for index in range(97, 120)))
    assert run("memory", "remove", run_copy, "--ids-file", tmp_path / "ids.txt") == 0
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe\xff")
    assert run("memory", "remove", run_copy, "--ids-file", tmp_path / "ids.txt") == 1
    assert "ids.txt: not UTF-8" in capsys.readouterr().err
    assert run("memory", "remove", run_copy, "--ids", "meme-0096") == 0
    assert "84 in the memory" in capsys.readouterr().out
    again = predictions(run_copy, memes, tmp_path / "d.jsonl", "--neighbours", 3)
    assert again == known
    assert run("memory", "remove", run_copy, "--ids", "meme-0096") == 1
    assert "has no post 'meme-0096'" in capsys.readouterr().err

    assert run("export", run_copy, "--output", tmp_path / "hub") == 0
    assert "relation_memory.safetensors" in {path.name for path in (tmp_path / "hub").iterdir()}
    pipe = pipeline("multimodal-classification", model=str(tmp_path / "hub"), trust_remote_code=True)
    verdict = pipe({"image": str(memes / "images" / "0096.png"), "text": "x"}, neighbours=1)
    assert len(verdict["neighbours"]["image"]) == 1


def test_a_memory_may_lie_elsewhere(run_copy, memes, tmp_path, capsys):
    elsewhere = tmp_path / "memory"
    assert run("memory", "build", run_copy, "--data", memes, "--output", elsewhere) == 0
    assert not (run_copy / "relation_memory.safetensors").exists()
    assert run("memory", "inspect", run_copy) == 0
    output = capsys.readouterr().out
    assert str(elsewhere) in output and "posts: 120" in output
    content = bytearray((elsewhere / "relation_memory.safetensors").read_bytes())
    content[-9] ^= 1
    (elsewhere / "relation_memory.safetensors").write_bytes(content)
    assert run("memory", "inspect", run_copy) == 1
    message = capsys.readouterr().err
    assert "is damaged" in message and message.count(str(elsewhere)) == 1
    assert run("memory", "build", run_copy, "--data", memes, "--split", "test", "--output", run_copy) == 0
    assert json.loads((run_copy / "config.json").read_text())["relation_memory"] is None
    assert run("memory", "inspect", run_copy) == 0 and "posts: 24" in capsys.readouterr().out


def test_a_large_memory_lies_in_a_folder_of_the_run(memes, tmp_path, monkeypatch):
    monkeypatch.setattr(relation_memory, "MOST_BYTES_IN_CHECKPOINT", 100)
    command = ["train", "--data", memes, "--labels", "offensive", "--split-column", "split", "--epochs", 1]
    assert run(*command, "--set", "relation_scope=memory", "--output", tmp_path / "run") == 0
    assert not (tmp_path / "run" / "relation_memory.safetensors").exists()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert run("memory", "remove", tmp_path / "moved", "--ids", "meme-0000") == 0
    assert run("export", tmp_path / "moved", "--output", tmp_path / "hub") == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub", trust_remote_code=True)
    assert len(model.relation_memory) == 83
    (tmp_path / "hub" / "relation_memory" / "relation_memory.safetensors").unlink()
    with pytest.raises(OSError, match=r"no relation_memory\.safetensors in"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub", trust_remote_code=True)


@pytest.mark.parametrize(
    "command, message",
    [
        (["memory", "build", "RUN", "--data", "DATA", "--split", "dev"], "no split 'dev'"),
        (["memory", "build", "RUN", "--data", "DATA", "--top-k", "0"], "--top-k must be at least 1"),
        (["memory", "build", "RUN", "--data", "DATA", "--labels", "humour"], "'humour' is no task of"),
        (["memory", "build", "/no/run", "--data", "DATA"], "/no/run is no finished run"),
        (["memory", "add", "RUN", "--data", "DATA"], "has no relation memory"),
        (["memory", "remove", "RUN", "--ids", "x"], "has no relation memory"),
        (["predict", "RUN", "--data", "DATA", "--output", "p.jsonl", "--neighbours", "2"], "has no relation memory"),
        (
            ["predict", "RUN", "--data", "DATA", "--output", "p.csv", "--neighbours", "2"],
            "neighbours are written to .jsonl",
        ),
    ],
)
def test_wrong_memory_commands_are_one_message_and_change_nothing(trained, memes, capsys, command, message):
    before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert run(*({"RUN": trained, "DATA": memes}.get(word, word) for word in command)) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert {path.name: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_an_index_without_faiss_is_refused_before_anything_is_read(trained, capsys, monkeypatch):
    monkeypatch.setattr(similarity_search, "faiss", None)
    assert run("memory", "build", trained, "--data", "/no/such/folder", "--index", "hnsw") == 1
    assert "pip install faiss-cpu" in capsys.readouterr().err


@pytest.mark.parametrize("frozen", ["[]", '["text", "vision"]'])
def test_training_with_a_memory(memes, tmp_path, frozen, monkeypatch):
    falling = itertools.count(0, -1)  # the first epoch is the best: its weights come back, the memory must be theirs
    monkeypatch.setattr(training, "task_metrics_function", lambda tasks: lambda _: {"mean_macro_f1": next(falling)})
    command = ["train", "--data", memes, "--labels", "offensive", "--split-column", "split", "--epochs", 2]
    fields = ["relation_scope=memory", "neighbour_labels=true", "memory_top_k=5", f"frozen_encoders={frozen}"]
    command += ["--feature-cache", tmp_path / "cache", "--output", tmp_path / "run", "--set", *fields]
    assert run(*command) == 0
    assert run("memory", "inspect", tmp_path / "run", "--json", tmp_path / "m.json") == 0
    assert json.loads((tmp_path / "m.json").read_text())["posts"] == 84
    assert "reference posts in `relation_memory.safetensors`" in (tmp_path / "run" / "README.md").read_text()
    expected = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["offensive"]
    assert run("evaluate", tmp_path / "run", "--data", memes, "--json", tmp_path / "e.json") == 0
    found = json.loads((tmp_path / "e.json").read_text())["offensive"]
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"], abs=1e-3)
    assert found["auroc"] == pytest.approx(expected["auroc"], abs=1e-3)


def test_training_in_bfloat16_on_any_machine(memes, tmp_path):
    command = ["train", "--data", memes, "--labels", *LABELS, "--split-column", "split", "--preset", "tiny", "--bf16"]
    assert run(*command, "--epochs", 1, "--output", tmp_path / "run") == 0
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["offensive"]["macro_f1"] > 0


def test_every_row_is_accounted_for(memes, tmp_path, capsys):
    folder = shutil.copytree(memes, tmp_path / "memes")
    (folder / "images" / "0003.png").write_bytes(b"no picture")
    with (folder / "labels.csv").open("a") as file:
        file.write("meme-0001" + "," * (len((folder / "labels.csv").read_text().splitlines()[0].split(",")) - 1) + "\n")
    assert run("inspect-data", "--data", folder, "--labels", *LABELS, "--json", tmp_path / "account.json") == 0
    output = capsys.readouterr().out
    assert "121 rows: 119 posts read, 0 of them repaired, 2 rejected" in output and "labels of offensive: " in output
    account = json.loads((tmp_path / "account.json").read_text())
    assert account["rows"] == 121 and {entry["where"] for entry in account["rejected"]} == {
        "labels.csv:5",
        "labels.csv:122",
    }


def test_texts_are_cleaned_in_training_and_in_prediction(memes, tmp_path):
    command = ["train", "--data", memes, "--labels", "humour", "--split-column", "split", "--epochs", 1]
    assert run(*command, "--clean-text", "paper", "--output", tmp_path / "run") == 0
    settings = json.loads((tmp_path / "run" / "processor_config.json").read_text())
    assert settings["text_cleaning"] == ["urls", "handles", "watermarks", "special_characters", "lower_case"]


@pytest.mark.slow
def test_thresholds_by_quantile_and_the_warning_without(memes, tmp_path, caplog):
    frozen = ["--set", 'frozen_encoders=["text", "vision"]', "--feature-cache", tmp_path / "cache", "--epochs", 1]
    command = ["train", "--data", memes, "--labels", "humour", "--split-column", "split", *frozen]
    assert run(*command, "--output", tmp_path / "fixed") == 0
    assert (
        "the image graph says little at `image_threshold` 0.900" in caplog.text
    )  # random encoders: all pictures alike
    caplog.clear()
    assert run(*command, "--output", tmp_path / "fitted", "--threshold-quantile", 0.9) == 0
    assert "says little" not in caplog.text
    config = json.loads((tmp_path / "fitted" / "config.json").read_text())
    assert config["image_threshold"] != 0.9
    assert (
        run("inspect-graph", tmp_path / "fitted", "--data", memes, "--split", "train", "--json", tmp_path / "g.json")
        == 0
    )
    assert json.loads((tmp_path / "g.json").read_text())["image"]["density"] == pytest.approx(0.1, abs=0.04)


def test_any_field_can_be_set(memes, tmp_path):
    command = [
        "train",
        "--data",
        memes,
        "--labels",
        "humour",
        "--split-column",
        "split",
        "--epochs",
        1,
        "--output",
        tmp_path / "r",
    ]
    assert run(*command, "--set", "relation_streams=[]", "hima_stage2=false", "--class-weights", "balanced") == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["relation_streams"] == [] and config["hima_stage2"] is False
    assert config["tasks"][0]["class_weights"] != [1.0, 1.0] and config["frozen_encoders"] == []


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--labels", "irony"], "no column irony"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--set", "thresholds=3"], "'thresholds' is no field"),
        (["--set", "image_threshold=3"], "`image_threshold` must be"),
        (["--epochs", "0"], "`epochs` must be at least 1"),
        (["--threshold-quantile", "1.5"], "`threshold_quantile` must be between 0 and 1"),
        (["--threshold-quantile", "0.9"], "`threshold_quantile` needs frozen encoders"),
        (["--data", "/no/such/folder"], "no such folder"),
        (["--text-encoder", "/no/such/encoder"], "no vision encoder is named"),
        (["--text-encoder", "/no/such/text", "--vision-encoder", "/no/such/vision"], "/no/such/vision"),
        (["--preset", "paper"], "no vision encoder is named"),
        (["--preset", "modern", "--joint-encoder", "none", "--text-encoder", "none"], "no text encoder is named"),
        (["--set", "neighbour_labels=true"], "`relation_scope` must be 'memory'"),
    ],
)
def test_wrong_settings_are_one_message_and_leave_nothing(memes, tmp_path, capsys, extra, message):
    command = ["train", "--data", memes, "--labels", "humour", "--split-column", "split", "--output", tmp_path / "run"]
    assert run(*command, *extra) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_presets_unknown_entries_are_refused(memes, tmp_path, capsys):
    (tmp_path / "mine.json").write_text('{"training": {"rate": 1}}')
    command = ["train", "--data", memes, "--labels", "humour", "--output", tmp_path / "run"]
    assert run(*command, "--preset", "tiny", tmp_path / "mine.json") == 1
    assert "unknown entry 'rate'" in capsys.readouterr().err


def test_all_problems_of_the_data_are_shown_before_training(tmp_path, capsys):
    folder = make_memes(tmp_path / "memes", 30)
    (folder / "images" / "0003.png").unlink()
    (folder / "images" / "0005.png").write_bytes(b"no picture")
    assert (
        run("train", "--data", folder, "--labels", "humour", "--split-column", "split", "--output", tmp_path / "run")
        == 1
    )
    error = capsys.readouterr().err
    assert "2 problem(s)" in error and "labels.csv:5" in error and "labels.csv:7" in error
    assert not (tmp_path / "run").exists()


def test_runs_are_not_overwritten_by_accident(trained, memes, tmp_path, capsys):
    command = ["train", "--data", memes, "--labels", "humour", "--output"]
    assert run(*command, trained) == 1
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "precious.txt").write_text("mine")
    assert run(*command, tmp_path, "--overwrite") == 1
    assert (tmp_path / "precious.txt").read_text() == "mine"
    for verb in (["evaluate"], ["predict", "--output", tmp_path / "p.jsonl"]):
        assert run(verb[0], tmp_path, "--data", memes, *verb[1:]) == 1
        assert "no finished run" in capsys.readouterr().err


def test_an_interrupted_run_resumes(memes, tmp_path, capsys):
    output = tmp_path / "run"
    command = [
        "train",
        "--data",
        memes,
        "--labels",
        "humour",
        "--split-column",
        "split",
        "--output",
        output,
        "--epochs",
        3,
    ]
    code = "import sys; from modeling_mm_orient.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *map(str, command)], stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for line in process.stdout:
        if "epoch 2" in line:
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert not (output / "config.json").exists() and list(output.glob("checkpoints/checkpoint-*"))
    assert run(*command) == 1
    assert "--resume" in capsys.readouterr().err
    assert run(*command, "--resume", "--seed", 5) == 1
    assert "`seed` was 0 and is 5 now" in capsys.readouterr().err
    assert run(*command, "--resume") == 0
    assert "epoch 1 " not in capsys.readouterr().err
    assert (output / "model.safetensors").exists()


@repeatable
def test_the_same_seed_gives_the_same_run(memes, tmp_path):
    command = ["train", "--data", memes, "--labels", "humour", "--split-column", "split", "--epochs", 1]
    for name in ("first", "second"):
        assert run(*command, "--output", tmp_path / name) == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


@pytest.mark.slow
def test_two_processes_under_accelerate(tmp_path):
    """Frozen real encoders, features stored by two processes, on a sample of real posts."""
    source = shared("data", "fashion_small")
    encoders = [
        "--vision-encoder",
        shared("encoders", "mobilenet_v2_1.0_224"),
        "--text-encoder",
        shared("encoders", "all-MiniLM-L6-v2"),
    ]
    rows = list(csv.DictReader((source / "labels.csv").open()))[::6]
    folder = tmp_path / "posts"
    folder.mkdir()
    (folder / "images").symlink_to(source / "images")
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    command += [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "modeling_mm_orient",
        "train",
    ]
    command += [
        "--data",
        folder,
        "--labels",
        "gender",
        "season",
        "--image-column",
        "image_name",
        "--split-column",
        "split",
    ]
    command += [
        *encoders,
        "--output",
        tmp_path / "run",
        "--epochs",
        "2",
        "--batch-size",
        "16",
        "--feature-cache",
        tmp_path / "cache",
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("saved to") == 1
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["gender"]["posts"] > 0
    import datasets

    stored = [
        key for shard in (tmp_path / "cache").rglob("*.arrow") for key in datasets.Dataset.from_file(str(shard))["key"]
    ]
    assert len(stored) == len(set(stored)) == len(rows)


def test_task_features_from_training_to_the_pipeline(memes, tmp_path, capsys):
    source = save_classifier(tmp_path / "classifier")
    command = ["train", "--data", memes, "--labels", "offensive", "--split-column", "split", "--preset", "tiny"]
    command += ["--task-features", f"mood={source}:hidden_state", f"tone={source}", "--epochs", 1]
    assert run(*command, "--output", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["task_features"] == [{"name": "mood", "size": 16}, {"name": "tone", "size": 5}]
    assert config["task_feature_dim"] == 21
    command = ["predict", tmp_path / "run", "--data", memes, "--split", "test", "--batch-size", 1]
    assert run(*command, "--split-column", "split", "--output", tmp_path / "p.jsonl") == 0
    pipe = pipeline("multimodal-classification", model=str(tmp_path / "run"), trust_remote_code=True)
    with (memes / "labels.csv").open() as file:
        posts = {row["id"]: row for row in csv.DictReader(file)}
    for line in (tmp_path / "p.jsonl").read_text().splitlines()[:4]:
        line = json.loads(line)
        post = posts[line["id"]]
        picture = None if not post["image"] else str(memes / "images" / post["image"])
        verdict = pipe({"image": picture, "text": post["text"]})
        assert verdict["offensive"] == pytest.approx(line["offensive"], abs=1e-4)
    assert run("export", tmp_path / "run", "--output", tmp_path / "hub") == 1  # whose classifier nobody else has
    assert source in capsys.readouterr().err and not (tmp_path / "hub").exists()


def save_arrays(folder, count: int, **widths) -> list[str]:
    shapes = {"region_features": (4,), "token_features": (3,), "task_features": ()}
    arrays = []
    for number, (name, width) in enumerate(widths.items()):
        path = folder / f"{name}.npy"
        np.save(path, np.random.default_rng(number).normal(size=(count, *shapes[name], width)).astype(np.float32))
        arrays.append(f"{name}={path}")
    return arrays


def test_feature_arrays_in_place_of_every_encoder(memes, tmp_path, capsys):
    arrays = save_arrays(tmp_path, 120, region_features=20, token_features=12, task_features=784)
    data = ["--data", memes, "--split-column", "split"]
    command = ["train", *data, "--labels", *LABELS, "--feature-arrays", *arrays, "--epochs", 1]
    scope = ["--set", 'relation_scope="memory"', "learner_hidden_sizes=[32]"]
    assert run(*command, *scope, "--output", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["region_feature_dim"], config["image_embed_dim"], config["task_feature_dim"]) == (20, 20, 784)
    assert run("evaluate", tmp_path / "run", "--data", memes, "--json", tmp_path / "m.json") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert json.loads((tmp_path / "m.json").read_text()) == metrics
    predictions = tmp_path / "p.jsonl"
    assert run("predict", tmp_path / "run", "--data", memes, "--output", predictions, "--neighbours", 1) == 0
    assert len(predictions.read_text().splitlines()) == 120
    assert run("memory", "build", tmp_path / "run", "--data", memes, "--split", "train") == 0
    other = tmp_path / "other"
    shutil.copytree(memes, other)
    capsys.readouterr()
    assert run("predict", tmp_path / "run", "--data", other, "--output", predictions) == 1
    assert "name those of" in capsys.readouterr().err
    assert run(*command[:-4], "--feature-arrays", arrays[0], "--output", tmp_path / "r2") == 1
    assert "no text encoder is named: name it, or give an array of token_features" in capsys.readouterr().err


@pytest.mark.slow
def test_the_papers_mixture_of_encoders_and_arrays(memes, tmp_path, capsys):
    joint, processor = (
        small_towers(joint_config=joint_config(max_position_embeddings=200)).joint_config,
        make_processor(joint=True),
    )
    AutoModel.from_config(joint).save_pretrained(tmp_path / "clip")
    processor.joint_processor.save_pretrained(tmp_path / "clip")
    text = small_towers().text_config
    text.max_position_embeddings = 200
    AutoModel.from_config(text).save_pretrained(tmp_path / "bert")
    processor.tokenizer.save_pretrained(tmp_path / "bert")
    arrays = save_arrays(tmp_path, 120, region_features=2048, task_features=784)
    command = ["train", "--preset", "paper", "--data", memes, "--labels", *LABELS, "--split-column", "split"]
    command += ["--joint-encoder", tmp_path / "clip", "--text-encoder", tmp_path / "bert", "--feature-arrays", *arrays]
    command += ["--set", "learner_hidden_sizes=[32]", "--epochs", 1, "--feature-cache", tmp_path / "cache"]
    assert run(*command, "--output", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["region_feature_dim"], config["image_embed_dim"], config["task_feature_dim"]) == (2048, 12, 784)
    assert run("evaluate", tmp_path / "run", "--data", memes, "--json", tmp_path / "m.json") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert json.loads((tmp_path / "m.json").read_text()) == metrics
    assert run("predict", tmp_path / "run", "--data", memes, "--output", tmp_path / "p.jsonl") == 0  # without the cache
    assert run(*command, "--vision-encoder", tmp_path / "clip", "--output", tmp_path / "r2") == 1
    assert "region_features come from the vision encoder and from an array" in capsys.readouterr().err


def test_a_column_that_is_said_has_to_be_there(tmp_path, capsys):
    rows = "image,caption,mood\n0.png,x,a\n1.png,y,b\n"
    (tmp_path / "labels.csv").write_text(rows)
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert run("inspect-data", "--data", tmp_path, "--labels", "mood") == 0
    assert run("inspect-data", "--data", tmp_path, "--labels", "mood", "--text-column", "text") == 1
    assert "has no column text" in capsys.readouterr().err


WRONG_RUNS = [
    "[]", "{", "[" * 100_000, '{"data": []}', '{"data": {"labels": 3}}', '{"data": {"split_seed": "x"}}',
    '{"data": {"unknown": 1}}', '{"training": {"batch_size": "x"}}', '{"training": 7}',
]  # fmt: skip


@pytest.mark.parametrize("content", WRONG_RUNS)
def test_a_runs_file_that_is_none_is_named(run_copy, memes, tmp_path, content, capsys):
    (run_copy / "run.json").write_text(content)
    assert run("predict", run_copy, "--data", memes, "--output", tmp_path / "p.csv") == 1
    said = capsys.readouterr().err
    assert "run.json" in said and "unexpected" not in said


@pytest.mark.parametrize("content", ["[]", '{"config": []}', '{"data": {"labels": 3}}', '{"training": {"epochs": []}}'])
def test_a_preset_that_is_none_is_named(memes, tmp_path, content, capsys):
    (tmp_path / "p.json").write_text(content)
    arguments = ["--data", memes, "--preset", tmp_path / "p.json", "--labels", "humour", "--output", tmp_path / "run"]
    assert run("train", *arguments) == 1
    said = capsys.readouterr().err
    assert "unexpected" not in said and ("p.json" in said or "the preset's part" in said)


@pytest.mark.parametrize("name", ["dataset_dict.json", "state.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "[" * 100_000])
def test_a_saved_data_set_that_is_none_is_named(tmp_path, name, content, capsys):
    (tmp_path / name).write_text(content)
    assert run("inspect-data", "--data", tmp_path) == 1
    assert "no sound saved data set" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["base64", "rot13", "no such"])
def test_what_is_no_encoding_of_texts_is_named(memes, encoding, capsys):
    assert run("inspect-data", "--data", memes, "--encoding", encoding) == 1
    assert f"there is no encoding {encoding!r}" in capsys.readouterr().err
