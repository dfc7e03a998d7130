"""The notebooks of `examples/` run top to bottom."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = ["quickstart", "own_folder", "memory_and_evidence", "explain", "batch_over_parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_top_to_bottom(name, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(EXAMPLES.parent),
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-3000:]


def test_every_notebook_is_run():
    scripts = {path.stem for path in EXAMPLES.glob("*.py") if "# %%" in path.read_text(encoding="utf-8")}
    assert scripts == set(NOTEBOOKS)
