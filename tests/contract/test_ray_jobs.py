"""Ray jobs: every row once, whatever dies, and the answers of the commands that run alone."""

import io
import os
import subprocess
import sys
from functools import partial

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.features.cache import FeatureCache
from modeling_mm_orient.pictures import post_key
from modeling_mm_orient.runs.preset_files import load_preset
from modeling_mm_orient.runs.presets import encoders_alone
from modeling_mm_orient.runs.ray_jobs import Worker, predict_batch, predictions_schema
from modeling_mm_orient.runs.run_folder import load_run

from ..helpers import save_encoders, save_run

pytest.importorskip("ray", reason="needs Ray, the extra `ray`")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(folder, rows: list[dict], files: int = 3):
    folder.mkdir()
    for number in range(files):
        pq.write_table(pa.Table.from_pylist(rows[number::files]), folder / f"part-{number}.parquet")
    return folder


def some_posts(count: int) -> list[dict]:
    return [
        {"id": f"post {row}", "image": picture(row), "text": "cat " * (row % 4), "other": row} for row in range(count)
    ]


def run_and_kill_a_worker(command: list[str]) -> str:
    """Run a job with two workers, kill the first that has posts in hand, and return what the command printed."""
    command = [sys.executable, "-m", "modeling_mm_orient", *command, "--workers", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    killed = False
    while not killed and job.poll() is None:
        for process in psutil.Process(job.pid).children(recursive=True):
            try:
                if not killed and ".submit" in " ".join(process.cmdline()):  # Ray's name of a worker with posts in hand
                    process.kill()
                    killed = True
            except psutil.NoSuchProcess:
                continue
    printed = job.communicate()[0]
    assert killed and job.returncode == 0
    return printed


def by_id(table: pa.Table) -> list[dict]:
    return sorted(table.to_pylist(), key=lambda row: row["id"])


def test_a_worker_gives_a_row_for_every_row_in_their_order(tmp_path):
    posts = some_posts(40)
    for post in posts[::2]:
        (tmp_path / f"{post['id']}.png").write_bytes(post["image"])
        post["picture"] = f"{post['id']}.png"  # pictures by their paths
    posts[6]["picture"], posts[7]["text"], posts[9]["other"] = "no such.png", "", None
    description = DataDescription(str(tmp_path), image_column="picture", id_column="other")
    load = partial(load_run, save_run(tmp_path / "run"))
    schema = predictions_schema(load()[0].config)
    worker = Worker(load, predict_batch, schema, description, batch_size=8, cpus=1, device="cpu")
    rows = worker(pa.Table.from_pylist(posts)).to_pylist()
    problems = {row["id"]: row["problem"] for row in rows if row["problem"]}
    assert len(rows) == 40 and len(problems) == 3 and "does not exist" in problems["6"]
    assert problems["7"] == "neither an image nor a text" and problems[None] == "the post has no id"
    predicted = [row["id"] for row in rows if not row["problem"]]
    assert predicted == [str(row) for row in range(40) if row not in (6, 7, 9)]


@pytest.mark.slow
def test_predictions_are_those_of_one_process_though_a_worker_dies(tmp_path):
    run, posts = save_run(tmp_path / "run"), write_parquet(tmp_path / "d", some_posts(1500))
    alone, output = tmp_path / "alone.parquet", tmp_path / "out"
    assert main(["predict", str(run), "--data", str(posts), "--output", str(alone)]) == 0
    printed = run_and_kill_a_worker(["ray", "predict", str(run), "--data", str(posts), "--output", str(output)])
    assert f"1500 rows: 1500 predicted, 0 with a problem (the column says which), in {output}" in printed
    expected, found = by_id(pq.read_table(alone)), by_id(pq.read_table(output))
    assert [row["id"] for row in found] == [row["id"] for row in expected] and len(found) == 1500
    for one, other in zip(found, expected, strict=True):
        assert one.pop("problem") is None and one.keys() == other.keys()
        for name, value in other.items():
            assert one[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)


@pytest.mark.slow
def test_features_are_those_of_one_process_and_read_by_training(tmp_path):
    rows = some_posts(1200)
    rows[700]["image"] = b"no picture"
    rows[800]["image"] = rows[800]["text"] = None
    posts, encoders = write_parquet(tmp_path / "d", rows), save_encoders(tmp_path)
    arguments = ["--data", str(posts), *encoders, "--output"]
    assert main(["extract", *arguments, str(tmp_path / "alone")]) == 0
    printed = run_and_kill_a_worker(["ray", "extract", *arguments, str(tmp_path / "out")])
    (folder,) = (tmp_path / "out").iterdir()
    assert f"1200 rows: 1198 encoded, 2 with a problem (the column says which), in {folder}" in printed
    alone = datasets.load_from_disk(str(tmp_path / "alone" / folder.name))
    expected, table = by_id(alone.data.table), pq.read_table(folder)
    problems = {row["id"]: row["problem"] for row in table.to_pylist() if row["problem"]}
    assert problems["post 800"] == "neither an image nor a text" and "cannot be read" in problems["post 700"]
    found = [row for row in by_id(table) if row["id"] not in problems]
    assert len(table) == 1200 and [row["id"] for row in found] == [row["id"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["key"] == other["key"]
        for name in ("image_embeds", "text_embeds", "region_features", "token_features"):
            np.testing.assert_allclose(one[name], other[name], atol=3e-3)

    preset = load_preset() | {"encoders": {"text": encoders[1], "vision": encoders[3]}}
    description = DataDescription(str(posts))
    cache = FeatureCache(tmp_path / "out", *encoders_alone(preset, description))
    posts = read_posts(description, skip_bad_posts=True, training=False)[0]["all"]
    keys = [post_key(post) for post in posts]
    assert cache.missing(keys) == []
    np.testing.assert_array_equal(cache.read(keys[5:6])[0]["image_embeds"], np.float16(found_by(found, posts[5]["id"])))


def found_by(rows: list[dict], name: str) -> list[float]:
    return next(row["image_embeds"] for row in rows if row["id"] == name)


@pytest.mark.parametrize(
    "change, options, message",
    [
        (
            {},
            ["--text-column", "caption", "--image-column", "photo"],
            "has no column photo, caption; its columns are id, image",
        ),
        ({}, ["--id-column", "number"], "has no column 'number'; --id-column names the one"),
        ({"scope": "batch"}, [], "predicts a post by its batch mates"),
        ({"output": True}, [], "is there already"),
        ({"rows": 0}, [], "has no rows"),
        ({"posts": False}, [], "no Parquet file, and no folder with any"),
        ({"damaged": True}, [], "damaged or no Parquet file"),
        ({}, ["--workers", "0"], "must be at least 1"),
    ],
)
def test_what_cannot_work_is_said_before_ray_starts(tmp_path, capsys, monkeypatch, change, options, message):
    monkeypatch.setattr("ray.init", lambda **arguments: pytest.fail("Ray was started"))
    run, output = save_run(tmp_path / "run", change.get("scope", "memory")), tmp_path / "out"
    posts = tmp_path / "d"
    if change.get("posts", True):
        write_parquet(posts, some_posts(4))
    if change.get("rows") == 0:
        for path in posts.iterdir():
            pq.write_table(pq.read_table(path).slice(0, 0), path)
    if change.get("output"):
        output.mkdir()
        (output / "kept").write_text("")
    if change.get("damaged"):
        (posts / "part-1.parquet").write_bytes(b"no table")
    before = sorted(tmp_path.rglob("*"))
    assert main(["ray", "predict", str(run), "--data", str(posts), "--output", str(output), *options]) == 1
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_written_does_not_lie_among_the_posts(tmp_path, capsys):
    run = save_run(tmp_path / "run")
    posts = write_parquet(tmp_path / "d", some_posts(4))
    assert main(["ray", "predict", str(run), "--data", str(posts), "--output", str(posts / "out")]) == 1
    assert f"{posts / 'out'} lies among the posts of {posts}" in capsys.readouterr().err
    assert not (posts / "out").exists()


@pytest.mark.slow
def test_a_job_is_terminated_as_other_commands_are():
    code = """
import os, signal
from modeling_mm_orient.runs.ray_jobs import Workers, _with_ray
def at_sigterm(number, frame):
    raise KeyboardInterrupt("SIGTERM")
signal.signal(signal.SIGTERM, at_sigterm)
try:
    _with_ray(Workers(), lambda: os.kill(os.getpid(), signal.SIGTERM))
except KeyboardInterrupt as error:
    print("RESULT", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "RESULT SIGTERM" in done.stdout and done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_columns_are_those_of_all_files(tmp_path, capsys):
    run, folder = save_run(tmp_path / "run"), tmp_path / "d"
    folder.mkdir()
    rows = some_posts(12)
    pq.write_table(pa.Table.from_pylist([{"id": r["id"], "image": r["image"]} for r in rows[:6]]), folder / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[6:]), folder / "b.parquet")
    assert (
        main(["ray", "predict", str(run), "--data", str(folder), "--output", str(tmp_path / "out"), "--workers", "1"])
        == 0
    )
    alone = tmp_path / "alone.parquet"
    assert main(["predict", str(run), "--data", str(folder), "--output", str(alone)]) == 0
    expected, found = by_id(pq.read_table(alone)), by_id(pq.read_table(tmp_path / "out"))
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            assert one[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)
    capsys.readouterr()
    pq.write_table(pa.Table.from_pylist([{"id": "x", "text": 1.5}]), folder / "c.parquet")
    assert (
        main(["ray", "predict", str(run), "--data", str(folder), "--output", str(tmp_path / "no"), "--workers", "1"])
        == 1
    )
    assert "c.parquet has another type in the column 'text' than the files before it" in capsys.readouterr().err
