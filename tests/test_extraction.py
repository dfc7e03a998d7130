import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mm_orient import MMOrientModel
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.features import extraction as module
from modeling_mm_orient.features.cache import FeatureCache
from modeling_mm_orient.features.extraction import extract_features
from modeling_mm_orient.pictures import post_key

from .helpers import joint_config, make_processor, save_classifier, save_encoders, small_towers, write_folder


def write_posts(folder, count: int):
    rows = [{"id": f"post {i}", "image": f"{i}.png", "text": "cat " * (i % 3 + 1)} for i in range(count)]
    write_folder(folder, rows)
    for row in range(count):
        noise = np.random.default_rng(row).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{row}.png")
    return folder


def make_model() -> MMOrientModel:
    torch.manual_seed(0)
    return MMOrientModel(small_towers(joint_config=None)).eval()


def stored(report) -> datasets.Dataset:
    return datasets.load_from_disk(report["folder"])


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_the_encoders_in_the_order_of_the_rows(tmp_path, workers):
    folder, model, processor = write_posts(tmp_path / "d", 11), make_model(), make_processor()
    description = DataDescription(str(folder))
    report = extract_features(
        description, model, processor, tmp_path / "f", batch_size=3, workers=workers, shard_posts=4
    )
    assert (report["rows"], report["stored"], report["encoded_now"], report["problems"]) == (11, 11, 11, [])
    rows = stored(report)
    assert rows["id"] == [f"post {i}" for i in range(11)]
    posts = read_posts(description, training=False)[0]["all"]
    for row, post in zip(rows, posts, strict=True):
        inputs = processor(images=[post["image"]["path"]], text=[post["text"]], return_tensors="pt")
        with torch.no_grad():
            encoded = model.encode_posts(**inputs)
        for name in ("image_embeds", "text_embeds", "region_features", "token_features"):
            np.testing.assert_allclose(row[name], encoded[name].flatten().numpy(), atol=3e-3, rtol=3e-3)
    cache = FeatureCache(tmp_path / "f", model, processor)
    assert cache.missing([post_key(post) for post in posts]) == []  # what training looks for is there


def test_only_what_is_missing_or_changed_is_encoded_again(tmp_path):
    folder, model, processor = write_posts(tmp_path / "d", 11), make_model(), make_processor()
    arguments = DataDescription(str(folder)), model, processor, tmp_path / "f"
    first = extract_features(*arguments, workers=0, shard_posts=4)
    assert extract_features(*arguments, workers=0, shard_posts=4)["encoded_now"] == 0
    Image.new("RGB", (9, 9), "red").save(folder / "images" / "5.png")
    second = extract_features(*arguments, workers=0, shard_posts=4)
    assert (second["rows"], second["encoded_now"]) == (11, 4)
    assert stored(second)["id"] == [f"post {i}" for i in range(11)]
    shards = sorted((tmp_path / "f").rglob("*.arrow"))
    shards[0].unlink()
    extract_features(*arguments, workers=0, shard_posts=4)
    assert stored(first)["id"] == [f"post {i}" for i in range(11)]
    files = json.loads((Path(first["folder"]) / "state.json").read_text())["_data_files"]
    used = Path(first["folder"]) / files[1]["filename"]
    used.write_bytes(used.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{used.name} is damaged .*: remove it"):
        extract_features(*arguments, workers=0, shard_posts=4)
    used.unlink()
    assert extract_features(*arguments, workers=0, shard_posts=4)["encoded_now"] == 4


def test_processes_take_different_shards(tmp_path):
    folder = write_posts(tmp_path / "d", 30)
    taken = [
        [shard.name for shard in module.DataShards(DataDescription(str(folder)), share, 3, frozenset(), shard_posts=4)]
        for share in range(3)
    ]
    everything = [
        shard.name for shard in module.DataShards(DataDescription(str(folder)), 0, 1, frozenset(), shard_posts=4)
    ]
    assert sorted(name for names in taken for name in names) == sorted(everything) and len(set(everything)) == 8


def test_bad_posts_are_reported_and_nothing_else_is_lost(tmp_path):
    folder, model, processor = write_posts(tmp_path / "d", 10), make_model(), make_processor()
    (folder / "images" / "2.png").write_bytes(b"no picture")
    (folder / "images" / "4.png").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (folder / "images" / "6.png").unlink()
    (folder / "images" / "6.png").symlink_to(tmp_path / "outside.png")
    table = (folder / "labels.csv").read_text().splitlines()
    table[9] = "post 8,,"
    (folder / "labels.csv").write_text("\n".join(table) + "\n")
    report = extract_features(DataDescription(str(folder)), model, processor, tmp_path / "f", workers=2, shard_posts=4)
    assert (report["rows"], report["stored"]) == (10, 6)
    assert {problem["where"]: problem["what"].split(":")[0] for problem in report["problems"]} == {
        "labels.csv:4": f"image '{folder}/images/2.png' cannot be read",
        "labels.csv:6": f"image '{folder}/4.png' does not exist",
        "labels.csv:8": f"image 6.png is a link out of the folder, to {tmp_path}/outside.png",
        "labels.csv:10": "neither an image nor a text",
    }
    assert json.loads((tmp_path / "f").rglob("extraction.json").__next__().read_text()) == report
    assert stored(report)["id"] == [f"post {i}" for i in (0, 1, 3, 5, 7, 9)]


def test_a_joint_encoder_alone_and_task_features(tmp_path):
    folder = write_posts(tmp_path / "d", 5)
    fields = {"joint_config": joint_config(), "text_config": None, "vision_config": None}
    model = MMOrientModel(small_towers(**fields)).eval()
    sources = [{"name": "sentiment", "source": save_classifier(tmp_path / "c")}]
    processor = make_processor(joint=True, task_features=sources)
    processor.image_processor = processor.tokenizer = None
    processor.get_attributes = list
    report = extract_features(DataDescription(str(folder)), model, processor, tmp_path / "f", workers=0, shard_posts=4)
    row = stored(report)[3]
    assert len(row["image_embeds"]) == 12 and np.abs(row["image_embeds"]).max() > 0
    assert sum(row["task_features"]) == pytest.approx(1, abs=2e-3)


def test_training_reads_what_was_extracted(tmp_path, capsys):
    rows = [
        {"image": f"{i}.png", "text": f"caption {i}", "mood": ["sad", "happy"][i % 2], "split": ["train", "val"][i > 7]}
        for i in range(12)
    ]
    folder, encoders = write_folder(tmp_path / "d", rows), save_encoders(tmp_path)
    data = ["--data", str(folder), *encoders, "--clean-text", "urls"]
    assert main(["extract", *data, "--output", str(tmp_path / "f")]) == 0
    assert "12 rows: 12 stored, 12 of them now, 0 left out" in capsys.readouterr().out
    before = {path.name for path in (tmp_path / "f").rglob("*.arrow")}
    command = ["train", *data, "--labels", "mood", "--split-column", "split", "--feature-cache", str(tmp_path / "f")]
    assert main([*command, "--output", str(tmp_path / "run"), "--epochs", "1"]) == 0
    assert {path.name for path in (tmp_path / "f").rglob("*.arrow")} == before
    assert main(["extract", "--data", str(folder), "--output", str(tmp_path / "g")]) == 1
    assert "name the encoders to run" in capsys.readouterr().err


def test_processes_that_were_not_joined_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["extract", "--output", str(tmp_path / "f"), "--data", str(write_posts(tmp_path / "d", 1))]) == 1
    assert "WORLD_SIZE says 2 processes, and each would do all the work" in capsys.readouterr().err


def test_a_shard_that_another_job_finishes_meanwhile_is_no_error(tmp_path, monkeypatch):
    description = DataDescription(str(write_posts(tmp_path / "d", 3)))
    fsync, output = os.fsync, tmp_path / "f"

    def other_job(number):
        fsync(number)
        monkeypatch.setattr(os, "fsync", fsync)
        extract_features(description, make_model(), make_processor(), output)

    monkeypatch.setattr(os, "fsync", other_job)
    report = extract_features(description, make_model(), make_processor(), output)
    assert stored(report)["id"] == ["post 0", "post 1", "post 2"]
    assert not list(output.rglob("*.partial"))


@pytest.mark.slow
def test_killed_at_any_moment_and_gone_on_with_in_two_processes(tmp_path):
    folder, encoders = write_posts(tmp_path / "d", 4000), save_encoders(tmp_path)
    output = tmp_path / "f"
    command = ["extract", "--data", str(folder), *encoders, "--output", str(output)]
    alone = [sys.executable, "-m", "modeling_mm_orient", *command]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for wanted in (1, 3):
        process = subprocess.Popen(alone, start_new_session=True, env=environment)
        while process.poll() is None and len(list(output.rglob("rows-*.arrow"))) < wanted:
            try:
                process.wait(timeout=0.01)
            except subprocess.TimeoutExpired:
                continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = {path: path.stat().st_mtime_ns for path in output.rglob("rows-*.arrow")}
    assert 3 <= len(done) < 8
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["-m", "modeling_mm_orient", *command]
    ended = subprocess.run(launch, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    left = 4000 - 512 * len(done)
    assert ended.stdout.startswith(f"4000 rows: 4000 stored, {left} of them now") and ended.stdout.count("rows:") == 1
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(output.rglob("*.arrow"))) == 8 and not list(output.rglob("*.partial"))
    rows = datasets.load_from_disk(str(next(output.iterdir())))
    assert rows["id"] == [f"post {i}" for i in range(4000)]
