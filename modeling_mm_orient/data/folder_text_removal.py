# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Text removal over a folder of pictures: several processes, resumable, nothing silently dropped.

The target folder gets each picture under its own name, and `texts.jsonl` with a line per picture, written after the picture
itself: `{"image", "text", "regions"}`, or `{"image", "problem"}` for one that was skipped.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from tqdm.auto import tqdm

from ..pictures import read_image
from ..text_removal import INPAINTERS, READERS, find_by_name, joined_text, read_text, remove_text
from .picture_files import pictures_below

TEXTS_FILE = "texts.jsonl"
WAITING = 8  # tasks per process that are handed out at a time: the list of pictures may be long
LOSSY = {".jpg": {"quality": 95}, ".jpeg": {"quality": 95}, ".webp": {"quality": 95}}


def remove_text_from_folder(
    source, target, reader: str = "rapidocr", inpainter: str = "opencv", workers: int = 1
) -> dict[str, int]:
    """Treat every picture below `source` that `target` does not have yet.

    Args:
        source, target: different folders. reader, inpainter: see `text_removal`. workers: processes, of one thread each.

    Returns:
        `{"pictures", "done_before", "treated", "skipped"}`; why a picture was skipped stands in `texts.jsonl`.

    Raises:
        ValueError: the folders are the same or one in the other, or a name is unknown. FileNotFoundError: no `source`.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder")
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(f"{target} and {source} must be different folders, neither inside the other")
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}")
    find_by_name(reader, READERS), find_by_name(inpainter, INPAINTERS)
    target.mkdir(parents=True, exist_ok=True)
    done = _done_before(target)
    names = [str(path.relative_to(source)) for path in pictures_below(source)]
    todo = [name for name in names if name not in done]
    counts = {"pictures": len(names), "done_before": len(names) - len(todo), "treated": 0, "skipped": 0}
    with (
        (target / TEXTS_FILE).open("a", encoding="utf-8") as lines,
        tqdm(total=len(todo), desc="removing text", unit="picture", disable=not todo) as progress,
    ):
        for line in _treat_all(todo, workers, (source, target, reader, inpainter)):
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            lines.flush()
            counts["skipped" if "problem" in line else "treated"] += 1
            progress.update()
    return counts


def _treat_all(names: list[str], workers: int, arguments: tuple) -> Iterator[dict]:
    if workers == 1:
        yield from (_treat(name, *arguments) for name in names)
        return
    # spawned, not forked: the engines' threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        waiting, left = set(), iter(names)
        while True:
            waiting |= {
                pool.submit(_treat, name, *arguments) for name in islice(left, WAITING * workers - len(waiting))
            }
            if not waiting:
                return
            finished = next(as_completed(waiting))
            waiting.discard(finished)
            yield finished.result()


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def _treat(name: str, source: Path, target: Path, reader: str, inpainter: str) -> dict:
    path = source / name
    if not path.resolve().is_relative_to(source):
        return {"image": name, "problem": "a link out of the folder"}
    try:
        picture = read_image(path)
    except ValueError as error:
        return {"image": name, "problem": str(error)}
    regions = read_text(picture, reader)
    cleaned = remove_text(picture, regions, inpainter)
    output = target / name
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial{output.suffix}")
    cleaned.save(partial, **LOSSY.get(output.suffix.lower(), {}))
    os.replace(partial, output)
    return {"image": name, "text": joined_text(regions), "regions": [region._asdict() for region in regions]}


def _done_before(target: Path) -> set[str]:
    """Names with a line and, unless skipped, a picture; a last line cut short by a crash is taken off the file."""
    path = target / TEXTS_FILE
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    return {line["image"] for line in _lines(target) if "problem" in line or (target / line["image"]).is_file()}


def _lines(target: Path) -> Iterator[dict]:
    path = target / TEXTS_FILE
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)
