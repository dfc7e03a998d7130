"""Every command that writes, stopped at moments drawn at random: nothing is lost but the step under way.

A process imports everything, and forks a child for each moment: the child runs the command, and at its n-th change of a
folder dies with nothing tidied up or gets a signal; or it may write no more than a few bytes to a file.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest

from modeling_mm_orient.cli import main
from modeling_mm_orient.runs.demo import make_memes
from modeling_mm_orient.runs.run_folder import load_run

from ..helpers import save_encoders

MOMENTS = 3
DRIVER = """
import json, os, resource, signal, sys
import datasets, modeling_mm_orient.features.cache, modeling_mm_orient.runs.evaluation, modeling_mm_orient.runs.training
import modeling_mm_orient.runs.benchmark.cells, modeling_mm_orient.runs.explanation_page, matplotlib.pyplot
import modeling_mm_orient.data.folder_text_removal, modeling_mm_orient.runs.data_set_graphs, modeling_mm_orient.runs.memory
import tests.contract.test_any_moment, transformers.models.auto.modeling_auto
from modeling_mm_orient.cli import main

def counted(call, how, moment):
    def counting(*args, **kwargs):
        global done
        done += 1
        if done == moment:
            if how == "killed":
                os._exit(9)
            os.kill(os.getpid(), {"interrupted": signal.SIGINT, "terminated": signal.SIGTERM}[how])
        return call(*args, **kwargs)
    return counting

def run(how, moment, arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if how == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (moment, moment))
    for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name), how, moment))
    status = main(arguments)
    print(f"\\nsteps {done}", flush=True)
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    done, (read, write) = 0, os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        try:
            run(*json.loads(line))
        finally:
            os._exit(8)
    os.close(write)
    with open(read, errors="replace") as file:
        said = file.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]), flush=True)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Runs a command in a child of a process that has imported everything: exit status, what it said, and its steps."""
    place = tmp_path_factory.mktemp("driver")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(place / "home")}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(how: str, moment: int, arguments: list) -> tuple[int, str, int]:
        process.stdin.write(json.dumps([how, moment, [*map(str, arguments)]]) + "\n")
        process.stdin.flush()
        status, said = json.loads(process.stdout.readline())
        return status, said, int(said.rpartition("\nsteps ")[2]) if "\nsteps " in said else 0

    yield run
    process.stdin.close()
    process.wait(timeout=60)


def reader(pixels):
    return []


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A finished run with a memory, posts, encoders and pictures: what every moment starts from."""
    place = tmp_path_factory.mktemp("start")
    make_memes(place / "data", 24)
    make_memes(place / "more", 12, seed=9)
    table = (place / "more" / "labels.csv").read_text()
    (place / "more" / "labels.csv").write_text(table.replace("meme-", "more-"))
    save_encoders(place / "encoders")
    arguments = ["train", "--data", place / "data", "--labels", "humour", "--split-column", "split", "--epochs", 1]
    assert main([*map(str, arguments), "--set", "relation_scope=memory", "--output", str(place / "RUN")]) == 0
    return place


def commands(place: Path) -> dict[str, list]:
    run, data, out = place / "RUN", place / "data", place / "out"
    cache = ["--feature-cache", out / "cache"]
    encoders = ["--text-encoder", place / "encoders" / "text", "--vision-encoder", place / "encoders" / "vision"]
    training = [
        "train",
        "--data",
        data,
        "--labels",
        "humour",
        "--split-column",
        "split",
        "--epochs",
        3,
        "--patience",
        0,
    ]
    benchmark = ["benchmark", "--data", data, "--labels", "humour", "--output", out / "bench", "--seeds", 0, 1]
    benchmark += ["--methods", "mm_orient", "logistic_regression", "--epochs", 1, "--bootstrap", 100, "--no-plots"]
    read = ["--reader", "tests.contract.test_any_moment:reader"]
    shown = [out / f"explanation.{ending}" for ending in ("html", "png", "json")]
    return {
        "train": [*training, "--output", out / "run"],
        "export": ["export", run, "--output", out / "hub"],
        "export over a run": ["export", run, "--output", run],
        "memory build": ["memory", "build", run, "--data", place / "more", "--no-labels"],
        "memory add": ["memory", "add", run, "--data", place / "more", "--no-labels"],
        "memory remove": ["memory", "remove", run, "--ids", "meme-0000"],
        "predict csv": ["predict", run, "--data", data, "--output", out / "p.csv"],
        "predict jsonl": ["predict", run, "--data", data, "--output", out / "p.jsonl"],
        "predict parquet": ["predict", run, "--data", data, "--output", out / "p.parquet"],
        "evaluate": ["evaluate", run, "--data", data, "--json", out / "m.json", *cache],
        "extract": ["extract", "--data", data, *encoders, "--output", out / "features", "--workers", 0],
        "graph": ["graph", "--data", data, *encoders, "--top-k", 2, "--output", out / "g.parquet", *cache],
        "inspect-data": ["inspect-data", "--data", data, "--json", out / "d.json"],
        "benchmark": [*benchmark, *encoders, *cache],
        "report": ["report", run, "--data", data, "--output", out / "report.html", *cache],
        "explain": ["explain", run, "--post", data / "images" / "0001.png", "x", "--output", *shown],
        "inspect-graph": ["inspect-graph", run, "--data", data, "--picture", out / "graph.png", "--json", out / "i.json"],
        "remove-text": ["remove-text", data / "images", "--output", out / "clean", *read],
    }  # fmt: skip


def content(place: Path) -> dict:
    """What a command left, as far as it is the same every time."""
    found, out = {}, place / "out"
    model, _ = load_run(str(place / "RUN"))
    found["memory"] = sorted(model.relation_memory.ids)
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix in (".csv", ".jsonl", ".json") and name.split("/")[0] not in (
            "run",
            "hub",
            "features",
            "cache",
            "c",
            "bench",
        ):
            found[name] = sorted(path.read_text().splitlines())
        elif name in ("p.parquet", "g.parquet"):
            found[name] = pyarrow.parquet.read_table(path).to_pydict()
        elif path.suffix == ".png":
            found[name] = path.read_bytes()
    for name in ("run", "hub"):
        if (out / name).exists():
            model, _ = load_run(str(out / name))
            found[name] = {key: value.sum().item() for key, value in model.state_dict().items()}
            found[f"{name} memory"] = None if model.relation_memory is None else model.relation_memory.ids
    if (out / "run" / "metrics.json").exists():
        found["metrics"] = json.loads((out / "run" / "metrics.json").read_text())
    if (out / "bench" / "results.parquet").exists():
        rows = pyarrow.parquet.read_table(out / "bench" / "results.parquet").to_pylist()
        found["bench"] = [[row["method"], row["seed"], row["split"], row["macro_f1"], row["auroc"]] for row in rows]
        found["left of bench"] = sorted(path.name for path in (out / "bench").iterdir())
    if (out / "features").exists():
        rows = datasets.load_from_disk(str(next((out / "features").iterdir())))
        found["features"] = [rows["id"], rows["text_embeds"]]
    return found


def fresh(start: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(start, place)
    (place / "out").mkdir()
    return place


def partials(place: Path) -> list[str]:
    return [
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.name.startswith(".") and "partial" in path.name
    ]


def same(found, expected) -> bool:
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(same(found[name], expected[name]) for name in found)
    if isinstance(found, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == (pytest.approx(expected, abs=1e-5, nan_ok=True) if isinstance(found, float) else expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", commands(Path("x")))
def test_stopped_at_any_moment(start, driver, tmp_path, name):
    place = fresh(start, tmp_path / "place")
    before, command = content(place), commands(place)[name]
    status, said, steps = driver("killed", 0, command)
    assert status == 0, said[-2000:]
    expected, draw = content(place), random.Random(name)
    assert steps > 1 and partials(place) == []
    for how, wanted in {"killed": 9, "interrupted": 130, "terminated": 143}.items():
        for moment in sorted(draw.sample(range(1, steps + 1), min(MOMENTS if how == "killed" else 1, steps))):
            when = how, moment
            fresh(start, place)
            status, said, _ = driver(how, moment, command)
            assert status in (wanted, 0), (when, said[-2000:])  # what came as it ended changes nothing
            if status and how != "killed":
                assert "Traceback" not in said and f"mm-orient: {how}" in said, (when, said[-2000:])
            check_what_is_there(place, name, before, expected, when)
            goes_on(place, name, driver, expected, when)


def check_what_is_there(place: Path, name: str, before: dict, expected: dict, when: tuple) -> None:
    """The old or the new, whole."""
    out = place / "out"
    if (place / "RUN" / "config.json").exists():
        assert sorted(load_run(str(place / "RUN"))[0].relation_memory.ids) in (before["memory"], expected["memory"]), (
            when
        )
    for path in [*out.glob("p.*"), *out.glob("*.json"), *out.glob("g.parquet")]:
        whole = pyarrow.parquet.read_table(path).to_pydict() if path.suffix == ".parquet" else None
        assert same(whole or sorted(path.read_text().splitlines()), expected[path.name]), when
    if (out / "hub").exists():
        load_run(str(out / "hub"))


def goes_on(place: Path, name: str, driver, expected: dict, when: tuple) -> None:
    """The same command, with train --resume, makes it the new."""
    if not (place / "RUN" / "config.json").exists():
        return  # neither the old run nor the new: nothing loads it, and an export comes from elsewhere
    if name in ("memory add", "memory remove") and same(content(place), expected):
        return
    more = ["--resume"] if (place / "out" / "run" / "run.json").exists() else []
    status, said, _ = driver("killed", 0, [*commands(place)[name], *more])
    finished = "holds a finished run" in said
    assert status == 0 or finished, (when, said[-2000:])
    assert same(content(place), expected), when
    assert finished or partials(place) == [], when


@pytest.mark.slow
@pytest.mark.parametrize("name", commands(Path("x")))
def test_where_nothing_more_can_be_written(start, driver, tmp_path, name):
    place = fresh(start, tmp_path / "place")
    before = content(place)["memory"]
    status, said, _ = driver("full", 60_000 if name == "train" else 60, commands(place)[name])
    assert status == 1, said[-2000:]
    assert partials(place) == []
    assert sorted(load_run(str(place / "RUN"))[0].relation_memory.ids) == before
