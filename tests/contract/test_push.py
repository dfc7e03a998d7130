"""`mm-orient push` against a Hub of our own: one commit that is there whole or not at all, loaded back by its hash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from modeling_mm_orient.cli import main
from modeling_mm_orient.runs.push import push

from ..helpers import save_classifier, save_run
from ..local_hub import TOKEN, local_hub

NAME = "somebody/a-model"
LOAD = """
import json, sys
from transformers import AutoModelForSequenceClassification, pipeline
name, commit = sys.argv[1:]
trust = {"trust_remote_code": True, "revision": commit}
pipe = pipeline("multimodal-classification", model=name, **trust)
model = AutoModelForSequenceClassification.from_pretrained(name, **trust)
print("RESULT " + json.dumps([pipe({"text": "a cat"}, neighbours=2), len(model.relation_memory)]))
"""


@pytest.fixture
def hub(monkeypatch):
    with local_hub(monkeypatch) as server:
        yield server


@pytest.fixture
def run(tmp_path):
    """A finished run with what training leaves in one, but for the training."""
    folder = save_run(tmp_path / "run")
    values = {"macro_f1": 0.7, "weighted_f1": 0.72, "accuracy": 0.75, "auroc": 0.8, "support": [120, 30]}
    values |= {"calibration_error": 0.05, "calibration_error_before": 0.11}
    values |= {"majority_macro_f1": 0.44, "majority_weighted_f1": 0.6, "majority_accuracy": 0.8}
    metrics = {
        "test": {"offensive": values, "intensity": {"mse": 1.0, "mae": 0.5, "pearson": 0.1, "mean_predictor_mse": 2.0}}
    }
    data = {"data": str(tmp_path / "posts"), "labels": ["offensive"]}
    said = {"data": data, "training": {"seed": 0, "epochs": 3}, "splits": {"train": 900, "test": 150}, "left_out": []}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "run.json").write_text(json.dumps(said))
    (folder / "splits.json").write_text(json.dumps({"a key": "train"}))
    (folder / "report.html").write_text("<p>report</p>")
    return folder


def command(*arguments) -> int:
    return main(["push", *map(str, arguments)])


def test_a_push_is_one_commit_that_loads_by_its_hash(hub, run, tmp_path, capsys):
    assert command(run, NAME, "--private", "--license", "apache-2.0", "--language", "en") == 0
    printed = capsys.readouterr()
    repository = hub.model(NAME)
    assert repository.private and len(repository.commits) == 2  # the one that it is made with, and ours
    assert f"revision {repository.head}" in printed.out
    files = set(repository.files)
    assert {
        "config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md", "MODEL_CARD.md",
        "modeling_mm_orient.py", "relation_memory.safetensors", "metrics.json", "report.html",
    } <= files  # fmt: skip
    assert not {"run.json", "splits.json", "handler.py"} & files
    card = ModelCard(repository.files["README.md"].decode())
    assert (card.data.license, card.data.language) == ("apache-2.0", ["en"])

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= hub.environment(tmp_path / "home")
    hub.create(NAME, {"config.json": b"{}"}, True)  # `main` is another model by now
    hub.model(NAME).commits = repository.commits | hub.model(NAME).commits
    done = subprocess.run(
        [sys.executable, "-c", LOAD, NAME, repository.head],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert "RESULT " in done.stdout, done.stderr[-3000:]
    verdict, reference_posts = json.loads(done.stdout.split("RESULT ")[1])
    assert set(verdict) == {"offensive", "emotions", "intensity", "neighbours"} and reference_posts == 20


def test_no_token_in_any_output(hub, run, capsys, caplog):
    caplog.set_level("DEBUG")
    hub.faults = lambda method, path: 403 if "/commit/" in path else None
    assert command(run, NAME) == 1
    hub.faults = lambda method, path: None
    assert command(run, NAME) == 0
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err + caplog.text
    assert not any(TOKEN.encode() in content for content in hub.model(NAME).files.values())


@pytest.mark.parametrize("where", ["/preupload/", "/lfs/objects/batch", "/lfs/", "/commit/", "validate-yaml"])
def test_a_failed_push_leaves_what_was_there(hub, run, where, capsys):
    hub.faults = lambda method, path: 403 if where in path else None
    assert command(run, NAME) == 1
    assert hub.model(NAME) is None  # made for this push, and removed
    before = hub.create(NAME, {"config.json": b"old"}).files
    assert command(run, NAME) == 1
    assert hub.model(NAME).files == before and len(hub.model(NAME).commits) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_somebody_elses_push_meanwhile_is_not_undone(hub, run, capsys):
    repository = hub.create(NAME, {})

    def meanwhile(method, path):
        if "/preupload/" in path and len(repository.commits) == 1:
            repository.commit({"theirs.txt": b"theirs"})

    hub.faults = meanwhile
    assert command(run, NAME) == 1
    assert set(repository.files) == {"theirs.txt"}
    assert "a commit has happened since" in capsys.readouterr().err


def test_a_repository_that_somebody_has_committed_to_is_not_removed_again(hub, run, capsys, caplog):
    def meanwhile(method, path):
        repository = hub.model(NAME)
        if "/preupload/" in path and len(repository.commits) == 1:
            repository.commit({"theirs.txt": b"theirs"})

    hub.faults = meanwhile
    assert command(run, NAME) == 1
    assert set(hub.model(NAME).files) == {"theirs.txt"}
    assert "a commit has happened since" in capsys.readouterr().err and "it is left there" in caplog.text


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("goes_silent", [True, False])
def test_a_commit_whose_answer_is_lost_is_said_to_be_unknown(hub, run, capsys, is_there, goes_silent):
    if is_there:
        hub.create(NAME, {})
    arrived = []

    def lost(method, path):
        if "/commit/" in path:
            arrived.append(hub.model(NAME).commit({"config.json": b"{}"}))
            return 504
        return 503 if arrived and goes_silent and path.startswith(f"/api/models/{NAME}") else None

    hub.faults = lost
    assert command(run, NAME) == 1
    said = capsys.readouterr().err
    assert "does not say whether the commit to the model" in said and "504" in said
    assert (f"its head is {arrived[0]} by now" in said) != goes_silent
    assert hub.model(NAME) is not None and len(hub.model(NAME).commits) == 2


def test_a_commit_that_has_not_arrived_is_a_failed_push(hub, run, capsys):
    hub.faults = lambda method, path: 504 if "/commit/" in path else None
    assert command(run, NAME) == 1
    assert hub.model(NAME) is None and "whether the commit" not in capsys.readouterr().err


@pytest.mark.parametrize("config", [b'{"model_type": "bert"}', b"[]", b"old", b"{}"])
def test_a_model_of_another_kind_is_not_replaced(hub, run, capsys, config):
    files = {"config.json": config, "vocab.txt": b"theirs", "onnx/model.onnx": b"theirs"}
    repository = hub.create(NAME, files)
    assert command(run, NAME) == 1
    assert f"the model {NAME} has a config.json of something else" in capsys.readouterr().err
    assert {method for method, _ in hub.requests} == {"GET", "HEAD"} and len(repository.commits) == 1


@pytest.mark.parametrize("theirs", ["model.safetensors", "tokenizer.json", "modeling_mm_orient.py"])
def test_an_adapter_or_another_model_without_a_configuration_is_not_replaced(hub, run, capsys, theirs):
    repository = hub.create(NAME, {"README.md": b"words", "adapter_config.json": b"{}", theirs: b"theirs"})
    assert command(run, NAME) == 1
    assert f"the model {NAME} has a {theirs} of something else" in capsys.readouterr().err
    assert len(repository.commits) == 1
    repository.files.pop(theirs)
    assert command(run, NAME) == 0 and "adapter_config.json" in repository.files


def test_what_no_export_wrote_stays(hub, run, tmp_path):
    theirs = {"vocab.txt": b"theirs", "noise.json": b"{}", "onnx/model.onnx": b"theirs", "onnx/notes.txt": b"theirs"}
    theirs |= {"joint_processor/notes.txt": b"theirs", "relation_memory/notes.txt": b"theirs"}
    repository = hub.create(NAME, theirs)
    assert command(run, NAME) == 0
    assert theirs.items() <= repository.files.items()
    assert command(run, NAME) == 0  # over an export, whose names are ours
    assert set(theirs) - set(repository.files) == {"vocab.txt", "noise.json"}
    repository.commit(repository.files | {"onnx/model.json": b"{}", "onnx/features.onnx.data": b"ours"})
    assert command(run, NAME) == 0
    assert {name for name in repository.files if name.startswith("onnx/")} == {"onnx/notes.txt"}


@pytest.mark.parametrize(
    "where, answer",
    [
        ("/api/repos/create", b"<html>log in</html>"),
        (f"/api/models/{NAME}", b"[1]"),
        ("/preupload/", b"{}"),
        ("/batch", b"{}"),
        ("/commit/", b"{}"),
        ("/commit/", b"\xff\xfe"),
    ],
)
def test_what_is_no_answer_of_a_hub_is_told_with_its_address(hub, run, capsys, where, answer):
    hub.instead = lambda method, path: answer if where in path and method != "DELETE" else None
    assert command(run, NAME) == 1
    said = capsys.readouterr().err
    assert hub.url in said and "unexpected" not in said and "Traceback" not in said


def test_what_an_earlier_export_left_is_deleted_in_the_same_commit(hub, run, tmp_path, capsys):
    ours = b"# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.\n"
    old = {"cpu_linear.py": ours, "handler.py": ours, "requirements.txt": ours, "joint_processor/tokenizer.json": b"{}"}
    old |= {"relation_memory.safetensors": b"old", "relation_memory/relation_memory.safetensors": b"old"}
    old |= {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}"}
    kept = {"notes.py": b"# by hand\n", "LICENSE": b"text", "docs/picture.png": b"png"}
    kept |= {
        "tokenizer_notes/a.txt": b"by hand",
        "docs/relation_memory/a.safetensors": b"theirs",
        "old/cpu_linear.py": ours,
    }
    repository = hub.create(NAME, old | kept)
    batch = save_run(tmp_path / "batch", scope="batch")
    assert command(batch, NAME) == 0
    assert not set(old) & set(repository.files) and len(repository.commits) == 2
    assert {name: repository.files[name] for name in kept} == kept
    printed = capsys.readouterr().out
    assert all(f"from an earlier export: {name}" in printed for name in old)
    assert "notes.py" not in printed

    assert command(run, NAME) == 0
    assert "relation_memory.safetensors" in repository.files
    assert command(batch, NAME) == 0
    assert "relation_memory.safetensors" not in repository.files


def test_a_dry_run_sends_nothing(hub, run, capsys):
    assert command(run, NAME, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert hub.requests == [] and "nothing was sent" in printed
    size = (run / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in printed and "relation_memory.safetensors" in printed


def test_what_cannot_be_published_is_refused_before_anything_is_sent(hub, run, tmp_path, capsys, monkeypatch):
    def refused(*arguments) -> str:
        assert command(*arguments) == 1
        return capsys.readouterr().err

    assert "no finished run" in refused(tmp_path / "nothing", NAME)
    assert "say whose repository it is: YOU/MODEL" in refused(run, "a-model")
    assert "Repo id must" in refused(run, "a/b/c")
    assert "--license 'My licence' has not the form" in refused(run, NAME, "--license", "My licence")
    assert "--language 'English' has not the form" in refused(run, NAME, "--language", "English")
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        patch.setattr("modeling_mm_orient.runs.push.get_token", lambda: None)
        assert "hf auth login" in refused(run, NAME)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE is set" in refused(run, NAME)
    (run / "report.html").write_text(f"<p>{tmp_path / 'posts'}</p>")
    assert f"report.html names {tmp_path / 'posts'}" in refused(run, NAME)
    (run / "report.html").unlink()
    config = json.loads((run / "processor_config.json").read_text())
    source = save_classifier(tmp_path / "classifier")
    entry = {"name": "mood", "source": source, "output": "probabilities", "revision": None}
    (run / "processor_config.json").write_text(json.dumps(config | {"task_features": [entry]}))
    assert f"'mood' comes from the folder {source}" in refused(run, NAME)
    (run / "processor_config.json").write_text(json.dumps(config))
    (run / "relation_memory.safetensors").unlink()
    assert "rest on a relation memory, and it has none" in refused(run, NAME)
    assert hub.requests == []


def test_a_private_push_into_a_public_repository_is_refused(hub, run, tmp_path):
    hub.create(NAME, {})
    with pytest.raises(ValueError, match=f"the model {NAME} is there and public"):
        push(str(run), NAME, private=True, space=space(tmp_path / "space"))
    assert {method for method, _ in hub.requests} == {"GET"} and len(hub.model(NAME).commits) == 1


def test_a_memory_that_lies_elsewhere_goes_along(hub, run, tmp_path):
    elsewhere = tmp_path / "memory"
    elsewhere.mkdir()
    os.rename(run / "relation_memory.safetensors", elsewhere / "relation_memory.safetensors")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"relation_memory": str(elsewhere)}))
    assert command(run, NAME) == 0
    files = hub.model(NAME).files
    assert "relation_memory.safetensors" in files and str(tmp_path).encode() not in files["config.json"]


def space(folder: Path) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text("---\ntitle: A demo\nsdk: gradio\napp_file: app.py\n---\n\nTry it.\n")
    (folder / "app.py").write_text("print('hello')\n")
    (folder / "requirements.txt").write_text("gradio\n")
    return folder


def test_a_space_shows_the_commit_that_was_pushed(hub, run, tmp_path):
    pushed = push(str(run), NAME, space=space(tmp_path / "space"))
    files = hub.space(NAME).files
    assert json.loads(files["model.json"]) == {"model": NAME, "revision": hub.model(NAME).head}
    assert pushed.revision == hub.model(NAME).head and files["app.py"] == b"print('hello')\n"
    assert b"sdk: gradio" in files["README.md"] and f"- {NAME}".encode() in files["README.md"]
    assert set(pushed.space_files) <= set(files)


def test_a_space_of_another_kind_is_not_replaced(hub, run, tmp_path):
    repository = hub.create(NAME, {"app.py": b"theirs"}, kind="spaces")
    with pytest.raises(ValueError, match=f"the Space {NAME} has an app.py of something else"):
        push(str(run), NAME, space=space(tmp_path / "space"))
    assert {method for method, _ in hub.requests} == {"GET"} and hub.model(NAME) is None
    repository.commit({"app.py": b"ours", "model.json": b"{}"})
    assert push(str(run), NAME, space=tmp_path / "space").space_url


def test_a_dry_run_lists_the_space_too(hub, run, tmp_path, capsys, monkeypatch):
    folder = space(tmp_path / "space")
    monkeypatch.setattr("modeling_mm_orient.runs.push.space_folder", lambda: folder)
    assert command(run, NAME, "--dry-run", "--space") == 0
    printed = capsys.readouterr().out
    assert f"Space {NAME}: 4 files" in printed and "  app.py" in printed and "  model.json" in printed
    assert hub.requests == [] and not (folder / "model.json").exists()


def test_a_space_whose_own_commit_fails_says_that_the_model_is_there(hub, run, tmp_path):
    hub.faults = lambda method, path: 403 if path.startswith("/api/spaces/") and "/commit/" in path else None
    with pytest.raises(OSError, match=f"the model is pushed to {NAME} as .*, its Space is not"):
        push(str(run), NAME, space=space(tmp_path / "space"))
    assert "config.json" in hub.model(NAME).files and hub.space(NAME) is None


def test_a_space_that_the_hub_refuses_is_refused_before_the_model_is_sent(hub, run, tmp_path):
    hub.faults = lambda method, path: 402 if path == "/api/repos/create" else None
    with pytest.raises(OSError, match="402"):
        push(str(run), NAME, space=space(tmp_path / "space"))
    assert not hub.repositories and [path for method, path in hub.requests if method != "GET"] == ["/api/repos/create"]


def test_a_folder_that_is_no_space_is_refused(hub, run, tmp_path):
    with pytest.raises(ValueError, match="no folder of a Space"):
        push(str(run), NAME, space=tmp_path / "nothing")
    (space(tmp_path / "space") / "README.md").write_text("---\ntitle: A demo\n---\n")
    with pytest.raises(ValueError, match="names no `sdk`"):
        push(str(run), NAME, space=tmp_path / "space")
    assert hub.requests == []
