"""The published forward pass, reproduced from the authors' weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_mm_orient.optional_dependencies import TORCH_SCATTER_AVAILABLE
from modeling_mm_orient.runs.reference_converter import convert_reference_weights, reference_deviations

SCRIPT = Path(__file__).parents[2] / "examples" / "reference_case.py"


def case_path() -> Path:
    return Path(__file__).parents[1] / "data" / "reference_case.npz"


@pytest.mark.parametrize("backend", ["fused", "torch_scatter", "index_add", "dense"])
def test_every_intermediate_and_probability(backend):
    if backend == "torch_scatter" and not TORCH_SCATTER_AVAILABLE:
        pytest.skip("torch-scatter is not installed")
    case = dict(np.load(case_path()))
    deviations = reference_deviations(case, convert_reference_weights(case, message_passing_backend=backend))
    assert {name for name in case if name.startswith("out_")} <= set(deviations)
    assert max(deviations.values()) <= 1e-5


def test_missing_and_misfitting_weights_are_refused():
    case = dict(np.load(case_path()))
    with pytest.raises(KeyError, match=r"word_attention\.bias"):
        convert_reference_weights({name: value for name, value in case.items() if name != "word_attention.bias"})
    with pytest.raises(ValueError, match="do not fit together"):
        convert_reference_weights(case | {"classifier.1.bias": np.zeros(3, np.float32)})


@pytest.mark.slow
def test_the_script_says_so_and_fails_on_a_deviation(tmp_path):
    good = subprocess.run(
        [sys.executable, SCRIPT, case_path(), "--save", tmp_path / "saved"], capture_output=True, text=True
    )
    assert good.returncode == 0 and "out_prob.sentiment" in good.stdout, good.stderr
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    case = dict(np.load(case_path()))
    case["head.humour.bias"][0] += 1e-3
    np.savez(tmp_path / "bad.npz", **case)
    assert subprocess.run([sys.executable, SCRIPT, tmp_path / "bad.npz"], capture_output=True).returncode == 1
