"""The notebooks of `examples/` run top to bottom."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .local_hub import local_hub

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = ["quickstart", "own_folder", "memory_and_evidence", "explain", "batch_over_parquet"]
PUSHES = "push_to_the_hub"


def run(name: str, folder, *arguments: str, **environment: str) -> str:
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
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_top_to_bottom(name, tmp_path):
    run(name, tmp_path)


@pytest.mark.slow
def test_the_notebook_that_pushes(tmp_path, monkeypatch):
    with local_hub(monkeypatch) as hub:
        run(PUSHES, tmp_path, "somebody/memes", **hub.environment(tmp_path / "home"))
        assert len(hub.model("somebody/memes").commits) == 2 and hub.model("somebody/memes").private


def test_a_table_over_seeds_has_numbers_too(tmp_path, capsys):
    scores = {"macro_f1": 0.5, "weighted_f1": 0.6, "accuracy": 0.7}
    scores |= {f"majority_{name}": 0.25 for name in scores}
    for seed in range(2):
        (tmp_path / str(seed)).mkdir()
        found = {"mood": scores, "likes": {"mse": 1.0 + seed, "mae": 0.5, "pearson": None}, "mean_macro_f1": 0.5}
        (tmp_path / str(seed) / "metrics.json").write_text(json.dumps({"test": found}))
    said = run("table_over_seeds", tmp_path, str(tmp_path / "0"), str(tmp_path / "1"))
    assert (
        "| mood | MM-ORIENT | 0.500 ± 0.000 |" in said and "likes: squared error 1.500 ± 0.707, absolute error" in said
    )


def test_every_notebook_is_run():
    scripts = {path.stem for path in EXAMPLES.glob("*.py") if "# %%" in path.read_text(encoding="utf-8")}
    assert scripts == {*NOTEBOOKS, PUSHES}
