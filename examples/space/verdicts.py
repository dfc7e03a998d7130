# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""What the page asks a pipeline: one post, one visit's reference posts, many files. Nothing here knows of the page."""

import copy
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

MOST_BYTES = 25 * 2**20  # of one file
MOST_CHARACTERS = 20_000  # of a text
MOST_FILES = 200  # of a table
MOST_ADDED = 50  # reference posts of one visit
PICTURES_AS = ("pil", "bytes", "array")  # no string of a visitor's is opened as a path or fetched
NEIGHBOURS = 5
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes text for that begins like this
NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?")
FILE_COLUMNS, TEXT_COLUMN = ("file", "image", "file_name"), "text"


@dataclass(frozen=True)
class Visit:
    """One visitor's own: reference posts, and what the last question came to.

    Attributes:
        added: a relation memory of this visit's posts alone, or None. named: id -> its text, as the page lists them.
        count: posts that were ever added. last: the last `explanation`, or None.
    """

    added: Any = None
    named: dict[str, str] = field(default_factory=dict)
    count: int = 0
    last: dict | None = None


class Asker:
    """A pipeline, asked by many visitors: one post after another as they come, with each visitor's own reference posts.

    Args:
        pipe: of `multimodal-classification`.
    """

    def __init__(self, pipe):
        self.pipe, self.tasks = pipe, pipe.model.config.tasks
        self._in_order = ThreadPoolExecutor(1)  # a lock would let whoever asks for many posts go first again and again

    @property
    def memory(self):
        """The model's relation memory, None where it uses none."""
        return None if self.pipe.model.config.relation_scope == "batch" else self.pipe.model.relation_memory

    def read(self, content: bytes | None) -> Image.Image | None:
        """A picture from a file's bytes, upright and of a size that encoders can take.

        Raises:
            ValueError: it is too large, broken, or no picture.
        """
        if content is None:
            return None
        if len(content) > MOST_BYTES:
            raise ValueError(f"The file has {len(content) / 2**20:.0f} MB; at most {MOST_BYTES // 2**20} are taken.")
        try:
            return self.pipe.processor.read_picture(content, image_sources=PICTURES_AS)
        except ValueError as error:
            raise ValueError(f"The picture cannot be read: {str(error).partition(' cannot be read: ')[2]}.") from None

    def explain(self, picture: Image.Image | None, text: str | None, visit: Visit) -> dict:
        """The verdict and its evidence, see the model's `explanation.explain`.

        Raises:
            ValueError: there is neither picture nor text, or the text is too long.
        """
        return self._ask(picture, text, visit, explain=True)["explanation"]

    def verdict(self, picture: Image.Image | None, text: str | None, visit: Visit) -> dict:
        """Probabilities by task, `decisions`, and `neighbours` where there is a memory. Errors as for `explain`."""
        return self._ask(picture, text, visit, decisions=True, neighbours=0 if self.memory is None else NEIGHBOURS)

    def _ask(self, picture, text, visit: Visit, **asked) -> dict:
        post = {"image": picture, "text": checked_text(text)}
        if picture is None and not (text and text.strip()):
            raise ValueError("Give a picture, a text, or both.")

        def answer() -> dict:
            with self._with(visit.added):
                return self.pipe(post, image_sources=PICTURES_AS, **asked)

        return self._in_order.submit(answer).result()

    def add(self, picture: Image.Image | None, text: str | None, labels: dict, visit: Visit) -> Visit:
        """The visit with one more reference post; the model's own memory stays as it is.

        Args:
            labels: task name -> label, list of labels or number, None where unknown.

        Raises:
            ValueError: the model has no memory or one that is too large for that, the visit has too many posts, the post
                is empty, or a label is none of its task's.
        """
        if (memory := self.memory) is None:
            raise ValueError("This model has no relation memory: it cannot be taught by reference posts.")
        if memory.is_large:
            raise ValueError("This model's relation memory is too large to be asked with other posts beside it.")
        if len(visit.named) >= MOST_ADDED:
            raise ValueError(f"At most {MOST_ADDED} reference posts can be added in one visit.")
        text = checked_text(text)
        if picture is None and not (text and text.strip()):
            raise ValueError("A reference post needs a picture, a text, or both.")
        if not isinstance(labels, Mapping):
            raise ValueError(f"The labels must be an object of task and label, not {type(labels).__name__}.")
        if unknown := set(labels) - {task["name"] for task in self.tasks}:
            raise ValueError(f"The model has no task {sorted(unknown)[0]!r}.")
        taken = set(memory.ids) | set(visit.named)
        number = next(n for n in range(visit.count + 1, visit.count + 2 + len(taken)) if f"yours-{n}" not in taken)
        name = f"yours-{number}"
        post = {"id": name, "image": picture, "text": text}
        post |= {f"label.{task}": label for task, label in labels.items()}
        encode = self.pipe.model.encode_reference_posts
        added = self._in_order.submit(encode, [post], self.pipe.processor).result()
        if visit.added is not None:
            added = together(visit.added, added)
        shown = (text or "").strip() or "a picture"
        return replace(visit, added=added, named=visit.named | {name: shown}, count=number)

    @contextmanager
    def _with(self, added) -> Iterator[None]:
        """The model with a visit's posts in its memory, for as long as it is that visit's turn."""
        if added is None:
            yield
            return
        model = self.pipe.model.base_model
        own = model.relation_memory
        model.relation_memory = together(own, added)
        try:
            yield
        finally:
            model.relation_memory = own

    @property
    def columns(self) -> list[str]:
        """Of a table of `rows`."""
        of_tasks = [[task["name"], *(f"{task['name']}:{label}" for label in task["labels"])] for task in self.tasks]
        return ["file", "text", *(name for names in of_tasks for name in names), "error"]

    def rows(self, posts: list[dict], visit: Visit) -> Iterator[list]:
        """A row per post, with `columns`: per task what is decided and every probability; where there is an error, none.

        Args:
            posts: `{"file", "content", "text", "error"}`, see `posts_of`.
        """
        for post in posts:
            cells, error = [""] * (len(self.columns) - 3), post["error"]
            try:
                if not error:
                    content = post["content"]() if callable(post["content"]) else post["content"]
                    cells = self._cells(self.verdict(self.read(content), post["text"], visit))
            except (ValueError, RuntimeError) as told:
                error = str(told)
            yield [post["file"], post["text"] or "", *cells, error]

    def _cells(self, verdict: dict) -> list:
        cells = []
        for task in self.tasks:
            scores, decided = verdict[task["name"]], verdict["decisions"][task["name"]]
            cells += ["|".join(decided) if isinstance(decided, list) else decided]
            cells += [scores[label] for label in task["labels"]]
        return cells


def together(memory, added):
    """A relation memory of the posts of both, which stay as they are."""
    both = copy.copy(memory)  # `add` gives it values of its own, and writes into none of the old
    both.add(added)
    return both


def checked_text(text: str | None) -> str | None:
    """The text. Raises ValueError for one that is too long, or none."""
    if text is not None and not isinstance(text, str):
        raise ValueError(f"The text must be a string, not {type(text).__name__}.")
    if text and len(text) > MOST_CHARACTERS:
        raise ValueError(f"The text has {len(text):,} characters; at most {MOST_CHARACTERS:,} are taken.")
    return text


def posts_of(files: list[tuple[str, bytes | Callable[[], bytes]]], table: bytes | None) -> list[dict]:
    """Posts of pictures and of a table of their texts: one per file, then one per row without a file of its own.

    Args:
        files: names, and contents or what reads them. table: a CSV with a header, `file` and `text`; a row without a name is
            a text alone.

    Raises:
        ValueError: there is nothing, too much, or the table is none.
    """
    texts, alone = read_texts(table) if table is not None else ({}, [])
    there = Counter(name for name, _ in files)
    unclear = {name for name in texts if there[name] > 1}
    several = "Several pictures have this name, and the table says one text of it."
    posts = [
        {"file": name, "content": content, "text": texts.get(name), "error": several if name in unclear else ""}
        for name, content in files
    ]
    missing = [name for name in texts if name not in there]
    posts += [
        {
            "file": name,
            "content": None,
            "text": texts[name],
            "error": "The table names this file, and it was not given.",
        }
        for name in missing
    ]
    posts += [{"file": "", "content": None, "text": text, "error": ""} for text in alone]
    if not posts:
        raise ValueError("Give pictures, a table of texts, or both.")
    if len(posts) > MOST_FILES:
        raise ValueError(f"These are {len(posts)} posts; at most {MOST_FILES} are taken at a time.")
    return posts


def read_texts(table: bytes) -> tuple[dict[str, str], list[str]]:
    """File name -> text, and the texts of rows without a file name, from a CSV. Raises ValueError, with row and column."""
    if len(table) > MOST_BYTES:
        raise ValueError(f"The table has more than {MOST_BYTES // 2**20} MB.")
    try:
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""), strict=True)
        columns = reader.fieldnames or []
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise ValueError(f"The table has the column {twice[0]!r} twice.")
        named = next((name for name in FILE_COLUMNS if name in columns), None)
        if named is None or TEXT_COLUMN not in columns:
            raise ValueError(
                f"The table needs the columns {FILE_COLUMNS[0]!r} and {TEXT_COLUMN!r}; it has {', '.join(columns)[:200]}."
            )
        texts, alone = {}, []
        for row in reader:
            if None in row or None in row.values():  # a text with a comma has to stand between quotes
                count = sum(value is not None for value in row.values()) + len(row.get(None) or [0]) - 1
                raise ValueError(
                    f"Line {reader.line_num} of the table has {count} field(s), the header {len(columns)}."
                )
            name, text = Path((row[named] or "").strip()).name, row[TEXT_COLUMN] or ""
            if not name:
                alone.append(text)
            elif name in texts:
                raise ValueError(f"The table has {name!r} twice, again in line {reader.line_num}.")
            else:
                texts[name] = text
    except UnicodeDecodeError as error:
        raise ValueError(f"The table must be in UTF-8; byte {error.start} is not.") from None
    except csv.Error as error:
        raise ValueError(f"The table is no sound CSV: {error} in line {reader.line_num}.") from None
    return texts, alone


def write_table(path: Path, columns: list[str], rows: list[list]) -> None:
    """A CSV in which no cell is a formula."""
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(map(harmless, columns))
        writer.writerows(map(harmless, row) for row in rows)


def harmless(cell):
    """Text that begins like a formula gets an apostrophe; numbers stay."""
    if not isinstance(cell, str) or not cell.startswith(FORMULAS) or NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"
