"""The installed package is known to transformers once it is imported: no remote code is needed, or run."""

import json
import subprocess
import sys
import tempfile

import pytest

from modeling_mm_orient.cli import main
from modeling_mm_orient.cli.doctor import extras

from .helpers import save_run

CLASSES = "AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor"
USE = f"""
import json
from transformers import {CLASSES}, pipeline
found = [each.from_pretrained(place) for each in ({CLASSES})]
pipes = [pipeline("multimodal-classification", model=place), pipeline(model=place)]
modules = [type(each).__module__.removeprefix("modeling_mm_orient.") for each in (*found, *pipes)]
print(json.dumps([modules, sorted(pipes[0]({{"text": "a cat"}}))]))
"""


def run(code: str):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> str:
    return str(save_run(tmp_path_factory.mktemp("registered")))


ORDERS = {
    "before": "import modeling_mm_orient\n",
    "after": "import transformers.models.auto.modeling_auto, transformers.pipelines\nimport modeling_mm_orient\n",
    # a module of ours is what imports transformers first
    "between": "import modeling_mm_orient.task_features\n",
    "by a name": "from modeling_mm_orient import MMOrientProcessor\n",
}


@pytest.mark.parametrize(
    "order", [name if name == "before" else pytest.param(name, marks=pytest.mark.slow) for name in ORDERS]
)
def test_auto_classes_and_pipelines_are_the_installed_ones(place, order):
    modules, tasks = run(f"{ORDERS[order]}place = {place!r}\n{USE}")
    names = ("configuration", "modeling", "modeling", "processing", "pipeline", "pipeline")
    assert modules == [f"{name}_mm_orient" for name in names]
    assert tasks == ["emotions", "intensity", "offensive"]


def test_the_installed_code_counts_more_than_the_code_of_a_checkpoint(place, tmp_path):
    from modeling_mm_orient import save_for_hub
    from modeling_mm_orient.runs.run_folder import load_run

    save_for_hub(*load_run(place), tmp_path / "hub")
    code = f"import modeling_mm_orient\nplace = {str(tmp_path / 'hub')!r}\nfrom transformers import pipeline\nimport json\n"
    code += "pipe = pipeline(model=place, trust_remote_code=True)\nprint(json.dumps(type(pipe).__module__))"
    assert run(code) == "modeling_mm_orient.pipeline_mm_orient"


def test_the_doctor_says_what_is_there(capsys, tmp_path):
    assert main(["doctor", "--json", str(tmp_path / "d.json")]) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "d.json").read_text())
    assert {"versions", "extras", "machine", "folders"} == set(found)
    assert found["versions"]["torch"] in said and "cores" in found["machine"]
    assert extras()["test"] in ("found", found["extras"]["test"]) and "scatter" in extras()


def test_a_shell_is_told_what_may_come_next():
    argcomplete = pytest.importorskip("argcomplete", reason="needs the extra `completion`")
    assert argcomplete
    line = "mm-orient tra"
    code = f"""
import os, sys
os.environ.update(_ARGCOMPLETE="1", COMP_LINE={line!r}, COMP_POINT="{len(line)}", _ARGCOMPLETE_STDOUT_FILENAME=sys.argv[1])
from modeling_mm_orient.cli import main
main([])
"""
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run([sys.executable, "-c", code, file.name], timeout=120, check=False, capture_output=True)
        assert "train" in file.read().decode()
