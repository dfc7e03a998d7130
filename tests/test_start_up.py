"""Starting costs nothing: what is imported before a command runs, not how long it takes."""

import json
import subprocess
import sys

import pytest

import modeling_mm_orient

HEAVY = ("torch", "transformers", "datasets", "numpy", "accelerate", "huggingface_hub", "pyarrow", "sklearn")


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def heavy_after(code: str) -> list[str]:
    """The heavy libraries that a piece of code has imported."""
    ended = run(
        f"import json, sys, atexit\natexit.register(lambda: print('\\n' + json.dumps([n for n in {HEAVY!r} if n in "
        f"sys.modules])))\n{code}"
    )
    return json.loads(ended.stdout.splitlines()[-1])


def test_the_package_imports_nothing_heavy_until_a_name_is_used():
    assert heavy_after("import modeling_mm_orient; dir(modeling_mm_orient)") == []
    assert "torch" in heavy_after("from modeling_mm_orient import MMOrientModel")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["memory", "build", "--help"],
        ["ray", "predict", "--help"],
        ["serve", "--help"],
        ["no-such-verb"],
        ["train", "--data", "x", "--output", "y", "--epochs", "many"],
        ["memory", "build", "RUN", "--data", "x", "--top-k", "0"],
        [],
    ],
)
def test_help_and_a_wrong_argument_import_nothing_heavy(arguments):
    assert heavy_after(f"from modeling_mm_orient.cli import main\nmain({arguments!r})") == []


def test_a_setting_out_of_range_is_told_before_anything_heavy():
    arguments = ["train", "--data", "x", "--labels", "a", "--output", "y", "--epochs", "0"]
    assert heavy_after(f"from modeling_mm_orient.cli import main\nmain({arguments!r})") == []


def test_version():
    ended = run("from modeling_mm_orient.cli import main\nmain(['--version'])")
    assert ended.stdout.split() == ["mm-orient", modeling_mm_orient.__version__]


def test_every_public_name_is_there_and_no_other():
    for name in modeling_mm_orient.__all__:
        assert getattr(modeling_mm_orient, name).__name__ == name
    assert set(modeling_mm_orient.__all__) <= set(dir(modeling_mm_orient))
    with pytest.raises(AttributeError, match="no attribute 'MMOrientModell'"):
        modeling_mm_orient.MMOrientModell  # noqa: B018
