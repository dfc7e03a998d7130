"""The notebooks of `examples/` run top to bottom."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .local_hub import local_hub

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = ["quickstart", "own_folder", "memory_and_evidence", "explain", "batch_over_parquet"]
PUSHES = "push_to_the_hub"


def run(name: str, folder, *arguments: str, **environment: str) -> None:
    environment = {
        "PYTHONPATH": str(EXAMPLES.parent),
        "HF_HOME": str(folder / "hf"),
        "OMP_NUM_THREADS": "1",
    } | environment
    ended = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_top_to_bottom(name, tmp_path):
    run(name, tmp_path)


@pytest.mark.slow
def test_the_notebook_that_pushes(tmp_path, monkeypatch):
    with local_hub(monkeypatch) as hub:
        run(PUSHES, tmp_path, "somebody/memes", **hub.environment(tmp_path / "home"))
        assert len(hub.model("somebody/memes").commits) == 2 and hub.model("somebody/memes").private


def test_every_notebook_is_run():
    scripts = {path.stem for path in EXAMPLES.glob("*.py") if "# %%" in path.read_text(encoding="utf-8")}
    assert scripts == {*NOTEBOOKS, PUSHES}
