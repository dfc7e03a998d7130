# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Caption augmentation (paper section 4.1): texts paraphrased by a chat model, through any OpenAI-compatible endpoint.

Answers are kept in a JSONL file, a line per text, written the moment an answer is there: it is the result, the record of
what was spent, and what a later run does not ask for again.
"""

import base64
import hashlib
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import datasets
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from tqdm.auto import tqdm

from ..pictures import post_key
from ..text_cleaning import clean_text
from .description import ChatModel
from .locks import only_one
from .problems import readable, shown

logger = logging.getLogger(__name__)

INSTRUCTION = (
    "You rewrite the text of internet memes so that a classifier sees the same meaning in other words. Keep the mood, the "
    "target and any sarcasm, offence or joke exactly as strong as they are; do not soften, explain or censor. Keep names, "
    "numbers, language and roughly the length. Answer with a JSON list of {variants} different strings and nothing else."
)
EXAMPLES = (
    (
        "when you finally fix the bug but it breaks three other things",
        ["that moment the bug is gone and three new ones show up", "fixed one bug, got three more for free"],
    ),
    (
        "my boss: we are a family here. also my boss: no raises this year",
        [
            "boss says we're one big family, then says nobody gets a raise",
            "'we're family here' - same boss: zero raises",
        ],
    ),
    (
        "nobody: absolutely nobody: my cat at 3 am",
        ["no one at all: my cat when it's 3 in the morning", "3 am and nobody asked, but here is my cat"],
    ),
)
REFUSAL = re.compile(
    r"^\W*(?:i'?m sorry|i am sorry|sorry,|i apologi[sz]e|i can(?:no|')t|i won't|i'?m (?:not able|unable)"
    r"|i am (?:not able|unable)|as an ai)(?!\w)",
    re.IGNORECASE,
)
BULLET = re.compile(r"(?:\d+[.):]|[-*•])\s*")
LINE_START = b'{"key": "'
MOST_BYTES = 4 * 2**20  # of a server's answer
READER = "reads an answer"  # a thread
TOLD_OF_ERRORS = ("retry-after", "x-error-code", "x-error-message", "x-request-id", "content-type")
WORST_STATUS = (408, 409, 425, 429)  # of the refusals of a server, those that another try may change
LONGEST_WAIT = 120.0  # seconds that a server may ask for
MOST_FAILURES = 5  # texts in a row without an answer, then the endpoint counts as down


@dataclass(repr=False)
class Paraphraser(ChatModel):
    """A chat model behind an OpenAI-compatible endpoint that is asked to rewrite texts; fields as in `ChatModel`.

    A user's name and password in the endpoint's URL become a header: no log and no message has the URL with them.
    """

    def __post_init__(self):
        self.endpoint, self._headers = without_password(self.endpoint)
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"`endpoint` must be a URL (http://...), got {self.endpoint!r}")
        for name, least in (("variants", 1), ("parallel", 1), ("retries", 0), ("temperature", 0), ("backoff", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        for name in ("timeout", "requests_per_minute"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}")
        self._turn, self._free_at = threading.Lock(), 0.0

    def __repr__(self) -> str:
        return f"Paraphraser({self.endpoint!r}, {self.model!r})"

    def request(self, text: str) -> dict:
        """The request for a text: few-shot messages and sampling."""
        messages = [{"role": "system", "content": INSTRUCTION.format(variants=self.variants)}]
        for original, rewritten in EXAMPLES:
            messages.append({"role": "user", "content": original})
            messages.append({"role": "assistant", "content": json.dumps(rewritten, ensure_ascii=False)})
        messages.append({"role": "user", "content": text})
        longest = self.max_tokens or 60 * self.variants + 100
        return {"model": self.model, "messages": messages, "temperature": self.temperature, "max_tokens": longest}

    def key(self, text: str) -> str:
        """What an answer is kept under: text, prompt, model and sampling."""
        return hashlib.sha256(json.dumps(self.request(text), sort_keys=True).encode()).hexdigest()

    def ask(self, text: str, stop: threading.Event) -> dict:
        """A line of the file for one text.

        Raises:
            HfHubHTTPError: the server refuses the request as such (a wrong key, an unknown model).
            NoAnswer: every try failed.
        """
        for attempt in range(self.retries + 1):
            self._wait_for_turn(stop)
            if stop.is_set():
                raise NoAnswer("stopped")
            try:
                answer = self._answer(self.request(text))
                content, usage = answer["choices"][0]["message"]["content"] or "", answer.get("usage")
                if not isinstance(content, str):
                    raise TypeError(f"the answer's content is {shown(content)}, no text")
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status < 500 and status not in WORST_STATUS:
                    raise
                problem, told = f"the server answered {status}", error.response.headers.get("Retry-After", "")
            except Exception as error:
                if not _is_transport(error):
                    raise
                problem, told = f"{type(error).__name__}: {error}", ""
            else:
                return self._line(text, content, usage)
            if attempt < self.retries:
                stop.wait(self._seconds_before(attempt, told))
        raise NoAnswer(problem)

    def _answer(self, request: dict) -> dict:
        """What the endpoint answers. A client bounds the seconds between two bytes alone: the whole is waited for here, and
        then the client closed."""
        found: Future = Future()
        client = type(get_session())(follow_redirects=True, timeout=self.timeout)

        def read() -> None:
            try:
                found.set_result(self._read(client, request))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=read, daemon=True, name=READER).start()
        try:
            return found.result(self.timeout)
        except TimeoutError as error:
            raise error if str(error) else TimeoutError(f"no whole answer within {self.timeout:g} s") from None
        finally:
            client.close()

    def _read(self, client, request: dict) -> dict:
        headers = build_hf_headers(token=False) | {"Authorization": f"Bearer {self.api_key or 'none'}"} | self._headers
        content = bytearray()
        call = {"json": request | {"stream": False}, "headers": headers}
        with client.stream("POST", chat_url(self.endpoint), **call) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise ValueError(f"the answer is longer than {MOST_BYTES:,} bytes")
            if response.is_error:  # it was read in parts, so as one that was read whole
                told = {name: value for name, value in response.headers.items() if name.lower() in TOLD_OF_ERRORS}
                read = {"headers": told, "content": bytes(content), "request": response.request}
                hf_raise_for_status(type(response)(response.status_code, **read))
        return json.loads(content)

    def _seconds_before(self, attempt: int, told: str) -> float:
        """How long to wait before the try after `attempt`: as the server has `told`, within bounds."""
        if not told.isdecimal():
            return self.backoff * 2**attempt * random.uniform(0.8, 1.2)
        if float(told) > LONGEST_WAIT:
            logger.warning(
                "the server asks for %s s before another try; it is asked again after %g s", told, LONGEST_WAIT
            )
        return min(float(told), LONGEST_WAIT)

    def _line(self, text: str, content: str, usage) -> dict:
        kept, dropped = choose_variants(text, content, self.variants)
        said = usage if isinstance(usage, dict) else {}
        tokens = {name: _count(said.get(name)) for name in ("prompt_tokens", "completion_tokens")}
        line = {"key": self.key(text), "model": self.model, "text": text, "paraphrases": kept, "dropped": dropped}
        return line | tokens | ({} if kept else {"answer": readable(content[:500])})

    def _wait_for_turn(self, stop: threading.Event) -> None:
        if self.requests_per_minute is None:
            return
        with self._turn:
            now = time.monotonic()
            seconds = max(0.0, self._free_at - now)
            self._free_at = max(now, self._free_at) + 60 / self.requests_per_minute
        stop.wait(seconds)


class NoAnswer(Exception):
    """A text that every try failed for."""


@dataclass
class Paraphrasing:
    """What a run did: texts answered before and now, those without an answer and why, tokens spent now and in all."""

    answered_before: int = 0
    answered_now: int = 0
    without: int = 0  # texts whose answer, now or before, was of no use
    paraphrases: int = 0
    unanswered: dict[str, str] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_in_all: int = 0
    completion_tokens_in_all: int = 0


def paraphrase(texts, paraphraser: Paraphraser, output) -> Paraphrasing:
    """Ask for every text that `output` has no answer for; each answer is on the disk before the next is waited for.

    An answer that is no use (a refusal, no list) was paid for and is kept as such, so that it is not paid for twice.

    Args:
        texts: strings; those that are there several times are asked for once.
        output: JSONL file, made or gone on with.

    Raises:
        ValueError: `output` has a line that is not of this form. HfHubHTTPError: see `Paraphraser.ask`.
        FileExistsError: another process is writing to it, and both would pay for the same texts.
    """
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set, and huggingface_hub then asks no endpoint at all: unset it")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    message = f"{output}: another mm-orient paraphrase is writing to it; wait for its end"
    with only_one(output.with_name(f".{output.name}.lock"), message):
        return _paraphrase(texts, paraphraser, output)


def _paraphrase(texts, paraphraser: Paraphraser, output: Path) -> Paraphrasing:
    done = {line["key"]: line for line in read_lines(output, mend=True)}
    todo = [text for text in dict.fromkeys(texts) if text.strip() and paraphraser.key(text) not in done]
    report = Paraphrasing(answered_before=len({text for text in texts if text.strip()}) - len(todo))
    report.without = sum(
        not done[key]["paraphrases"] for key in map(paraphraser.key, dict.fromkeys(texts)) if key in done
    )
    report.prompt_tokens_in_all = sum(line["prompt_tokens"] for line in done.values())
    report.completion_tokens_in_all = sum(line["completion_tokens"] for line in done.values())
    with (
        output.open("a", encoding="utf-8") as file,
        tqdm(total=len(todo), desc="paraphrasing", unit="text", disable=not todo) as progress,
    ):
        for text, line in _answers(todo, paraphraser):
            if isinstance(line, NoAnswer):
                report.unanswered[text] = str(line)
                continue
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            report.answered_now += 1
            report.without += not line["paraphrases"]
            report.paraphrases += len(line["paraphrases"])
            report.prompt_tokens += line["prompt_tokens"]
            report.completion_tokens += line["completion_tokens"]
            report.prompt_tokens_in_all += line["prompt_tokens"]
            report.completion_tokens_in_all += line["completion_tokens"]
            progress.update()
    return report


def without_password(url: str) -> tuple[str, dict[str, str]]:
    """A URL without the name and password in it, and the header that says them."""
    parts = urlsplit(url)
    if not (parts.username or parts.password):
        return url, {}
    said = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    header = {"Authorization": f"Basic {base64.b64encode(said.encode()).decode()}"}
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), header


def chat_url(endpoint: str) -> str:
    """Where chats are completed below an endpoint, which may be a server, its `/v1`, or the place itself."""
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return urlunsplit(parts._replace(path=path))


def _answers(todo: list[str], paraphraser: Paraphraser) -> Iterator[tuple[str, dict | NoAnswer]]:
    """Answers as they come. When it is stopped or something is wrong, those under way are still waited for and given."""
    stop, waiting, left = threading.Event(), {}, iter(todo)
    failed, problem = 0, None
    with ThreadPoolExecutor(paraphraser.parallel) as pool:
        while True:
            if problem is None and failed < MOST_FAILURES:
                for text in islice(left, paraphraser.parallel - len(waiting)):
                    waiting[pool.submit(paraphraser.ask, text, stop)] = text
            if not waiting:
                break
            try:
                finished = wait(waiting, return_when=FIRST_COMPLETED).done
            except KeyboardInterrupt as error:
                problem, finished = error, ()
                stop.set()
            for future in finished:
                text, answer = waiting.pop(future), _result(future)
                if isinstance(answer, NoAnswer):
                    failed += 1
                elif isinstance(answer, BaseException):
                    problem = answer
                    stop.set()
                    continue
                else:
                    failed = 0
                yield text, answer
    if problem is not None:
        raise problem
    for text in left:
        yield text, NoAnswer(f"not asked: {failed} texts before it had no answer")


def _result(future: Future) -> dict | BaseException:
    error = future.exception()
    return future.result() if error is None else error


def choose_variants(text: str, answer: str, most: int) -> tuple[list[str], list[dict]]:
    """The usable variants of a chat model's answer, at most `most`, and what was dropped and why.

    An answer is a JSON list of strings, perhaps with words around it, or a numbered or bulleted list.
    """
    if _refuses(answer) and not _refuses(text):
        return [], [{"text": readable(answer[:200]), "why": "refusal"}]
    found = _listed(answer)
    if not found:
        return [], [{"text": readable(answer[:200]), "why": "no list"}]
    kept, dropped, seen = [], [], {same_text(text)}
    for variant in found:
        why = None
        if _refuses(variant) and not _refuses(text):
            why = "refusal"
        elif not same_text(variant):
            why = "empty"
        elif readable(variant) != variant:
            why = "half a character"
        elif same_text(variant) in seen:
            why = "duplicate"
        elif len(kept) == most:
            why = "too many"
        if why is None:
            kept.append(variant.strip())
            seen.add(same_text(variant))
        else:
            dropped.append({"text": readable(variant), "why": why})
    return kept, dropped


def same_text(text: str) -> str:
    """A text without case, punctuation and white space: two texts that differ in nothing else are duplicates."""
    letters = "".join(character for character in text.casefold() if character.isalnum())
    return letters or "".join(text.split())


def read_lines(path, mend: bool = False) -> list[dict]:
    """Lines of a file of paraphrases. With `mend` a last line that a crash cut short is taken off the file, once the rest is
    known to be one.

    Raises:
        ValueError: a line is of another form; the message has its number.
    """
    path = Path(path)
    if not path.exists():
        return []
    *whole, rest = path.read_bytes().split(b"\n")  # texts may hold other line ends
    lines, last = [_line_of(line) for line in whole], _line_of(rest)
    is_cut = rest.startswith(LINE_START) or LINE_START.startswith(rest)
    if whole and None not in lines:  # of ours: whatever begins as a line, or what a power cut left
        is_cut = not rest.strip(b"\0 \t\r") or rest.startswith(b"{")
    if last is None and not is_cut:
        lines.append(None)
    if None in lines:
        raise ValueError(f"{path}:{lines.index(None) + 1}: no line of mm-orient paraphrase")
    if rest and mend:
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in whole) + (0 if last is None else len(rest)))
            if last is not None:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
    elif rest and last is None:
        logger.warning("%s: its last line is cut short, and left out", path)
    return [line for line in (*lines, last) if line is not None]


def _line_of(content: bytes) -> dict | None:
    """A line of a file of paraphrases, or None."""
    try:
        line = json.loads(content.decode("utf-8"))
        told = [line["key"], line["text"], *line["paraphrases"]]
        numbers = [line["prompt_tokens"], line["completion_tokens"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_sound = isinstance(line["paraphrases"], list) and all(isinstance(text, str) for text in told)
    return line if is_sound and all(isinstance(number, int) for number in numbers) else None


def add_paraphrases(posts: datasets.DatasetDict, path, cleaning: Sequence[str] = ()) -> datasets.DatasetDict:
    """The posts with a further row in training for every paraphrase of a text there, behind the posts themselves.

    Such a row has the picture and the labels of its post, and its `post_key`: to a relation memory both are one post. Rows
    never cross splits: a paraphrase that is the text of a post of another split is left out, and so is one that is empty or
    says what its text says.

    Args:
        cleaning: steps that texts go through before they are read; what is the same after them is the same.

    Raises:
        FileNotFoundError: no such file. ValueError: no paraphrase in it is of a training text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of paraphrases")
    variants = {}
    for line in read_lines(path):
        variants.setdefault(line["text"], []).extend(line["paraphrases"])

    def read(text: str) -> str:
        return same_text(clean_text(text, cleaning))

    elsewhere = {read(text) for split, rows in posts.items() if split != "train" for text in rows["text"] if text}
    train, features = posts["train"], posts["train"].features | {"post_key": datasets.Value("string")}
    keys, more, crossing = [], [], 0
    for post in train:
        keys.append(post_key(post))
        for number, text in enumerate(dict.fromkeys(variants.get(post["text"], ())), 1):
            if not same_text(text) or same_text(text) == same_text(post["text"]):
                continue
            if read(text) in elsewhere:
                crossing += 1
                continue
            more.append(post | {"id": f"{post['id']}~{number}", "text": text, "post_key": keys[-1]})
    if not more:
        raise ValueError(f"{path}: no paraphrase of a text of the training posts")
    logger.info(
        "%d paraphrases added to %d training posts; %d left out: texts of other splits", len(more), len(train), crossing
    )
    train = train.add_column("post_key", keys)
    augmented = datasets.Dataset.from_list(more, features=datasets.Features(features))
    return datasets.DatasetDict(posts | {"train": datasets.concatenate_datasets([train, augmented])})


def _refuses(text: str) -> bool:
    return REFUSAL.match(text.replace("\u2019", "'")) is not None


def _listed(answer: str) -> list[str]:
    start, end = answer.find("["), answer.rfind("]")
    if 0 <= start < end:
        try:
            values = json.loads(answer[start : end + 1])
            return [value for value in values if isinstance(value, str)]
        except (ValueError, RecursionError):
            pass
    found, is_begun = [], False
    for line in filter(None, (line.strip() for line in answer.split("\n"))):
        bullet = BULLET.match(line)
        rest = line[bullet.end() :] if bullet else line if is_begun else ""
        is_begun = bullet is not None and not rest  # its text stands below
        found += [rest.strip("\"'")] if rest else []
    return found


def _count(value) -> int:
    """Tokens as a server says them, a number or a text; 0 for what is no count."""
    try:
        return max(0, int(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def _is_transport(error: Exception) -> bool:
    """Time-outs, lost connections and answers that are none: worth another try."""
    kinds = (TimeoutError, ConnectionError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)
    return isinstance(error, kinds) or type(error).__module__.startswith("httpx")
