# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Text removal over a folder of pictures: several processes, resumable, nothing silently dropped.

The target folder gets each picture under its own name, and `texts.jsonl` with a line per picture, written after the picture
itself: `{"image", "text", "regions"}`, or `{"image", "problem"}` for one that was skipped. A picture of more than 16 million
pixels, or longer than 16 times its width, is treated and written smaller, and its line says `reduced_from`.
"""

import io
import json
import math
from collections.abc import Generator, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from ..partial_files import remove_all_leftovers, whole_file
from ..pictures import FORMATS, LONGEST_ELONGATED, MOST_ELONGATED, format_of, read_image, reduced
from ..text_removal import INPAINTERS, READERS, find_by_name, joined_text, read_text, remove_text
from .json_files import read_json, write_json
from .locks import only_one
from .picture_files import Places, pictures_below
from .problems import readable
from .worker_processes import worker_pool

TEXTS_FILE = "texts.jsonl"
LOCK_FILE = ".remove-text.lock"
MADE_FILE = ".remove-text.json"  # of what the target was made: the source and the engines
WAITING = 8  # tasks per process that are handed out at a time: the list of pictures may be long
MOST_TREATED_PIXELS = 16_000_000  # larger pictures take minutes
LOSSY = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "AVIF": {"quality": 90}}
STAND_INS = {"ICO": "PNG", "MPO": "JPEG"}  # formats that hold less than a picture, or more


def remove_text_from_folder(
    source, target, reader: str = "rapidocr", inpainter: str = "opencv", workers: int = 1
) -> dict[str, int]:
    """Treat every picture below `source` that `target` does not have yet.

    Args:
        source, target: different folders. reader, inpainter: see `text_removal`. workers: processes, of one thread each.

    Returns:
        `{"pictures", "done_before", "treated", "skipped"}`; why a picture was skipped stands in `texts.jsonl`. What
        was skipped before is tried again.

    Raises:
        ValueError: the folders are the same or one in the other, a name is unknown, or `target` was made of another folder
            or by other engines. FileNotFoundError: no `source`.
        FileExistsError: another process writes to `target`.
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
    with only_one(target / LOCK_FILE, f"another process removes text into {target}"):
        return _remove_all(source, target, reader, inpainter, workers)


def _remove_all(source: Path, target: Path, reader: str, inpainter: str, workers: int) -> dict[str, int]:
    remove_all_leftovers(target)
    made = {"source": str(source), "reader": reader, "inpainter": inpainter}
    before = read_json(target / MADE_FILE) if (target / MADE_FILE).is_file() else made
    for name in made:  # what lies there would count as done
        if before.get(name) != made[name]:
            raise ValueError(
                f"{target} was made with the {name} {before.get(name)}, not {made[name]}; name another output"
            )
    write_json(target / MADE_FILE, made)
    done = _done_before(target)
    names = [str(path.relative_to(source)) for path in pictures_below(source, report=True)]
    todo = [name for name in names if name not in done]
    counts = {"pictures": len(names), "done_before": len(names) - len(todo), "treated": 0, "skipped": 0}
    with (
        (target / TEXTS_FILE).open("a", encoding="utf-8") as lines,
        tqdm(total=len(todo), desc="removing text", unit="picture", disable=not todo) as progress,
    ):
        for line in _treat_all(todo, workers, (source, target, reader, inpainter)):
            lines.write(_line(line))
            lines.flush()
            counts["skipped" if "problem" in line else "treated"] += 1
            progress.update()
    return counts


def _treat_all(names: list[str], workers: int, arguments: tuple) -> Iterator[dict]:
    if workers == 1:
        yield from (_treat(name, *arguments) for name in names)
        return
    left = iter(names)
    while suspects := (yield from _treat_until_a_death(left, workers, arguments)):
        for name in suspects:  # each alone: the one that a process dies of is found
            if (yield from _treat_until_a_death(iter([name]), 1, arguments)):
                yield {"image": name, "problem": "the process that treated it died"}


def _treat_until_a_death(names: Iterator[str], workers: int, arguments: tuple) -> Generator[dict, None, list[str]]:
    """Lines of pictures as they are done; returns the names that were in hand when a process died, none at the end."""
    waiting = {}
    with worker_pool(workers) as pool:
        while True:
            for name in islice(names, WAITING * workers - len(waiting)):
                waiting[pool.submit(_treat, name, *arguments)] = name
            if not waiting:
                return []
            finished = next(as_completed(waiting))
            try:
                line = finished.result()
            except BrokenProcessPool:
                return list(waiting.values())
            del waiting[finished]
            yield line


def _treat(name: str, source: Path, target: Path, reader: str, inpainter: str) -> dict:
    path, output = source / name, target / name
    if not Places(source).allow(path):
        return {"image": name, "problem": "a link out of the folder"}
    try:
        whole = read_image(path)
        picture = _bounded(whole)
        regions = read_text(picture, reader)
        cleaned = remove_text(picture, regions, inpainter)
        content = io.BytesIO()
        kind = _format_for(path)
        cleaned.save(content, kind, **LOSSY.get(kind, {}))
    except ImportError:  # an engine that is not installed is no picture's fault
        raise
    except Exception as error:  # engines raise anything, and too little memory is this picture's problem too
        return {"image": name, "problem": str(error)[:300] or type(error).__name__}
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output, leftovers=False) as partial:
        partial.write_bytes(content.getbuffer())
    line = {"image": name, "text": joined_text(regions), "regions": [region._asdict() for region in regions]}
    return line if picture.size == whole.size else line | {"reduced_from": list(whole.size)}


def _bounded(picture: Image.Image) -> Image.Image:
    factor = math.ceil(math.sqrt(picture.width * picture.height / MOST_TREATED_PIXELS))
    if max(picture.size) > MOST_ELONGATED * min(picture.size):
        # averaged first: a filter over millions of pixels takes gigabytes
        shrink = [max(1, side // (2 * LONGEST_ELONGATED)) for side in picture.size]
        return reduced(picture.reduce((shrink[0], shrink[1])))
    return picture.reduce(factor) if factor > 1 else picture


def _format_for(path: Path) -> str:
    """The format that a picture is written in: that of its name, or where it says none that is read, of its bytes."""
    found = Image.registered_extensions().get(path.suffix.lower())
    if STAND_INS.get(found, found) not in FORMATS:
        with path.open("rb") as file:
            found = format_of(file.read(16))
    found = STAND_INS.get(found, found)
    return found if found in FORMATS and found in Image.SAVE else "PNG"


def _line(line: dict) -> str:
    """A line of the file; a name that is not UTF-8 is written with escapes, which JSON reads back."""
    text = json.dumps(line, ensure_ascii=False, default=float)
    return (text if readable(text) == text else json.dumps(line, default=float)) + "\n"


def _done_before(target: Path) -> set[str]:
    """Names with a line and a picture. Other lines, and a last one that a crash cut short, are taken off the file."""
    path = target / TEXTS_FILE
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    lines = list(_lines(target))
    done = [line for line in lines if "problem" not in line and (target / line["image"]).is_file()]
    if len(done) < len(lines):
        with whole_file(path) as partial:
            partial.write_text("".join(map(_line, done)), encoding="utf-8")
    return {line["image"] for line in done}


def _lines(target: Path) -> Iterator[dict]:
    path = target / TEXTS_FILE
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    found = json.loads(line)
                    found["image"] + ""
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise ValueError(f"{path}:{number}: no line of mm-orient remove-text") from None
                yield found
