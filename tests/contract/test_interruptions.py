"""Killed at any moment, two at once, a full disk, a read-only folder: what lies there afterwards is the old or the new."""

import errno
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image

from modeling_mm_orient import (
    MMOrientForMultiTaskClassification,
    MMOrientProcessor,
    relation_memory,
    save_for_hub,
)
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.folder_text_removal import LOCK_FILE, remove_text_from_folder
from modeling_mm_orient.memory_file import LARGE_MEMORY, MEMORY_FILE
from modeling_mm_orient.optional_dependencies import FAISS_AVAILABLE
from modeling_mm_orient.partial_files import partial_name
from modeling_mm_orient.relation_memory import RelationMemory
from modeling_mm_orient.runs.demo import make_memes
from modeling_mm_orient.runs.memory import build_memory, remove_from_memory
from modeling_mm_orient.runs.run_folder import load_run

from ..helpers import make_processor, small_towers

STEPS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir")


def killed_at(step: int, action) -> bool:
    """Run an action in a process of its own that dies, with nothing tidied up, at the n-th change of a folder; whether it
    lived."""
    child = os.fork()
    if child == 0:
        done = 0

        def dying(call):
            def counted(*args, **kwargs):
                nonlocal done
                if done == step:
                    os._exit(9)
                done += 1
                return call(*args, **kwargs)

            return counted

        for name in STEPS:
            setattr(os, name, dying(getattr(os, name)))
        try:
            action()
        except BaseException:
            os._exit(8)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "the action failed"
    return status == 0


def at_every_step(action, before: Path, place: Path, check, most: int = 200) -> int:
    """Kill an action at each of its steps in turn, each time from the state `before`; returns how many there were."""
    for step in range(most):
        shutil.rmtree(place, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, place, symlinks=True)
        lived = killed_at(step, action)
        check(lived)
        if lived:
            return step
    pytest.fail("the action has no end")


@pytest.fixture
def run(tmp_path):
    config = small_towers(joint_config=None, relation_scope="memory", memory_top_k=2, neighbour_labels=True)
    config.text_config.vocab_size = 300
    torch.manual_seed(0)
    model, processor = MMOrientForMultiTaskClassification(config).eval(), make_processor(max_tokens=12)
    model.build_relation_memory([{"id": f"p{n}", "text": f"post {n}", "x": n % 2} for n in range(8)], processor)
    save_for_hub(model, processor, tmp_path / "before")
    return tmp_path / "before"


@pytest.mark.parametrize("index", [None, *["ivf"] * FAISS_AVAILABLE])
def test_a_removal_killed_at_every_step(run, tmp_path, index):
    if index:
        memory = RelationMemory.load(run)
        memory.build_index("hnsw")
        memory.save(run)
    place = tmp_path / "place"
    old, new = set(RelationMemory.load(run).ids), set(RelationMemory.load(run).ids) - {"p3"}

    def check(lived):
        model, _ = load_run(str(place))
        found = model.relation_memory
        assert set(found.ids) == new if lived else set(found.ids) in (old, new)
        for row in range(len(found)):  # everyone finds himself: an index of the other memory is not looked into
            queries = found.embeds["text"][[row]].float()
            assert found.look_up("text", queries, torch.ones(1, dtype=torch.bool), 1, None).entries[0, 0] == row

    steps = at_every_step(lambda: remove_from_memory(str(place), ["p3"]), run, place, check)
    assert steps > 1


def test_an_export_killed_at_every_step(run, tmp_path):
    model, processor = load_run(str(run))
    place = tmp_path / "exported"

    def check(lived):
        assert place.exists() == lived
        if lived:
            load_run(str(place))
            assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".exported")) == []

    at_every_step(lambda: save_for_hub(model, processor, place), tmp_path / "nothing", place, check)


def test_an_export_over_an_old_one_killed_at_every_step(run, tmp_path):
    model, _ = load_run(str(run))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.set_relation_memory(None)
    model.config.update({"relation_scope": "batch", "neighbour_labels": False})
    model.task_heads.trust = None
    processor = make_processor(max_tokens=9)
    place = tmp_path / "exported"

    def check(lived):
        try:
            found, its = load_run(str(place))
        except FileNotFoundError:
            assert not lived  # neither: nothing loads it
            return
        changed = float(found.mm_orient.learner[0].dense.bias[0]) > 0.5
        assert changed == (its.max_tokens == 9) == (found.relation_memory is None)
        assert changed or not lived

    at_every_step(lambda: save_for_hub(model, processor, place), run, place, check)


def test_a_failed_export_leaves_what_was_there(run, tmp_path, monkeypatch):
    model, processor = load_run(str(run))
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MMOrientProcessor, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_for_hub(model, processor, run)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert not [path for path in run.iterdir() if path.name.startswith(".partial")]


@pytest.mark.parametrize("target", ["file", "dangling", "config", "card"])
def test_an_export_replaces_nothing_of_somebody_elses(run, tmp_path, target, capsys):
    place = tmp_path / "there"
    if target == "file":
        place.write_text("mine")
    elif target == "dangling":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
        (place / {"config": "config.json", "card": "README.md"}[target]).write_text('{"mine": 1}')
    assert main(["export", str(run), "--output", str(place)]) == 1
    assert ("is no folder" if target in ("file", "dangling") else "would be replaced") in capsys.readouterr().err
    if place.is_dir():
        assert [path.read_text() for path in place.iterdir()] == ['{"mine": 1}']


def test_what_a_killed_export_left_is_removed_by_the_next(run, tmp_path):
    model, processor = load_run(str(run))
    (tmp_path / ".exported.partial-999999999").mkdir()
    (run / ".partial-999999999").mkdir()
    save_for_hub(model, processor, tmp_path / "exported")
    save_for_hub(model, processor, run)
    assert not list(tmp_path.glob(".exported.partial-*")) and not list(run.glob(".partial-*"))


def test_an_index_with_a_flipped_byte_is_not_looked_into(run, caplog):
    pytest.importorskip("faiss")
    memory = RelationMemory.load(run)
    memory.build_index("ivf")
    memory.save(run)
    assert RelationMemory.load(run).search("text").kind == "ivf"
    path = run / "relation_memory.text.faiss"
    content = bytearray(path.read_bytes())
    for place in random.Random(0).sample(range(len(content)), 20):
        flipped = content.copy()
        flipped[place] ^= 1
        path.write_bytes(flipped)
        assert RelationMemory.load(run).search("text").kind == "exact"


# two at once

REMOVE = """
import sys
from modeling_mm_orient.cli import main
sys.exit(main(["memory", "remove", sys.argv[1], "--ids", sys.argv[2]]))
"""


@pytest.mark.slow
def test_two_at_once_each_do_what_they_say(run):
    processes = [subprocess.Popen([sys.executable, "-c", REMOVE, str(run), name]) for name in ("p1", "p2", "p5")]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert RelationMemory.load(run).ids == ["p0", "p3", "p4", "p6", "p7"]


def test_a_memory_that_moved_meanwhile_is_changed_where_it_is(run, tmp_path, monkeypatch):
    monkeypatch.setattr(relation_memory, "MOST_BYTES_IN_CHECKPOINT", 100)
    make_memes(tmp_path / "memes", 12)
    data = DataDescription(str(tmp_path / "memes"))
    build_memory(str(run), data)
    assert (run / LARGE_MEMORY / MEMORY_FILE).is_file() and not (run / MEMORY_FILE).exists()
    model, _ = load_run(str(run))  # as `memory add` does before it encodes
    monkeypatch.setattr(relation_memory, "MOST_BYTES_IN_CHECKPOINT", 2**29)
    build_memory(str(run), data)
    assert (run / MEMORY_FILE).is_file() and not (
        run / LARGE_MEMORY / MEMORY_FILE
    ).exists()  # nothing is left to publish
    monkeypatch.setattr("modeling_mm_orient.runs.memory._load_with_memory", lambda _: (model, None))
    memory, _ = remove_from_memory(str(run), ["meme-0000"])
    again, _ = load_run(str(run))
    assert len(again.relation_memory) == len(memory) == 11


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(run):
    dead, living = (partial_name(run / MEMORY_FILE) for _ in range(2))
    dead = dead.with_name(dead.name.replace(str(os.getpid()), "999999999"))
    living = living.with_name(living.name.replace(str(os.getpid()), str(os.getppid())))
    for path in (dead, living):
        path.write_bytes(b"half")
    remove_from_memory(str(run), ["p1"])
    assert not dead.exists() and living.exists()


def test_two_do_not_remove_text_into_one_folder(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK_FILE), pytest.raises(FileExistsError, match="another process"):
        remove_text_from_folder(tmp_path / "in", tmp_path / "out")


def test_many_threads_share_a_pipeline(run):
    from modeling_mm_orient import MultimodalClassificationPipeline

    model, processor = load_run(str(run))
    pipe = MultimodalClassificationPipeline(model=model, processor=processor)
    posts = [{"text": f"words {n} {'and more ' * (n % 5)}"} for n in range(12)]
    expected, found = [pipe(post)["x"]["a"] for post in posts], {}

    def work(number):
        for _ in range(3):
            for row, post in enumerate(posts):
                found.setdefault(row, set()).add(round(pipe(post)["x"]["a"], 5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row, value in enumerate(expected):
        assert all(abs(other - value) < 1e-4 for other in found[row])


@pytest.mark.slow
def test_memory_stays_flat_over_many_calls(run):
    from modeling_mm_orient import MultimodalClassificationPipeline

    model, processor = load_run(str(run))
    pipe = MultimodalClassificationPipeline(model=model, processor=processor)
    picture = Image.effect_noise((200, 150), 90).convert("RGB")

    def resident() -> float:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def call(times):
        for number in range(times):
            pipe({"image": picture, "text": f"words {number}"})

    call(200)
    before = resident()
    call(2000)
    assert resident() - before < 20


# stopped, and a machine that does not play along

TRAIN = """
import sys
from modeling_mm_orient.cli import main
sys.exit(main(["train", "--data", sys.argv[1], "--labels", "humour", "--split-column", "split", "--output", sys.argv[2],
               "--epochs", "200", "--patience", "0"]))
"""


@pytest.mark.parametrize(
    "number, status, said", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_is_one_line_that_says_how_to_go_on(tmp_path, number, status, said):
    make_memes(tmp_path / "memes", 40)
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(tmp_path / "memes"), str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while not (tmp_path / "run" / "checkpoints").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.splitlines()[-1] == f"mm-orient: {said}; the same command with --resume goes on"
    assert "Traceback" not in errors


LOST = """
import argparse, os, signal, sys
from modeling_mm_orient import cli
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(1000):
            pass  # Python looks for signals here
def run(options):
    Finalised()
    signal.pause()
parser = argparse.ArgumentParser()
parser.set_defaults(run=run, traceback=False, interrupted="")
cli.parser = lambda: parser
sys.exit(cli.main([]))
"""


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_falls_into_a_finaliser_is_not_lost(name, status):
    done = subprocess.run(
        [sys.executable, "-c", LOST, name],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert (done.returncode, "Exception ignored" in done.stderr) == (status, False)


TWICE = LOST.replace("    Finalised()\n    signal.pause()", """\
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass""")  # fmt: skip


def test_a_command_that_is_terminated_twice_says_so_once():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, "mm-orient: terminated\n")


def test_a_program_that_calls_a_command_keeps_its_handlers(tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert main(["evaluate", str(tmp_path), "--data", str(tmp_path)]) == 1
    assert {number: signal.getsignal(number) for number in before} == before


def test_an_output_that_cannot_be_written_is_said_before_training(tmp_path, capsys):
    make_memes(tmp_path / "memes", 40)
    (tmp_path / "file").write_text("in the way")
    arguments = ["train", "--data", str(tmp_path / "memes"), "--labels", "humour", "--split-column", "split"]
    assert main([*arguments, "--output", str(tmp_path / "file" / "run")]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EROFS, "Read-only file system"), MemoryError()],
    ids=["full", "read-only", "memory"],
)
def test_a_machine_that_does_not_play_along_is_one_line(run, capsys, monkeypatch, error):
    def breaks(*_, **__):
        raise error

    monkeypatch.setattr("modeling_mm_orient.memory_file.save_file", breaks)
    before = (run / MEMORY_FILE).read_bytes()
    assert main(["memory", "remove", str(run), "--ids", "p1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("mm-orient: ") and "Traceback" not in "\n".join(lines)
    assert (run / MEMORY_FILE).read_bytes() == before
    assert not list(run.glob("*.partial"))
