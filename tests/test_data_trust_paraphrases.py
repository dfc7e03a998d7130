"""What a paraphrase run says, waits for and pays, against a server of our own."""

import base64
import logging
import threading

import pytest
from filelock import FileLock

from modeling_mm_orient.data import paraphrases as module
from modeling_mm_orient.data.paraphrases import Paraphraser, paraphrase, read_lines, without_password

from .chat_server import TEXTS, asking, online, serving  # noqa: F401


def test_a_password_in_the_url_is_sent_and_never_said(tmp_path, caplog, capsys):
    with serving() as server, caplog.at_level(logging.DEBUG):
        url = server.url.replace("http://", "http://me:s%40cret@")
        paraphraser = Paraphraser(url, "m", backoff=0.01)
        assert paraphrase(TEXTS[:2], paraphraser, tmp_path / "p.jsonl").answered_now == 2
        sent = base64.b64encode(b"me:s@cret").decode()
        assert set(server.keys) == {f"Basic {sent}"}
    with pytest.raises(ValueError, match="must be a URL") as caught:
        Paraphraser("ftp://me:s%40cret@host/v1", "m")
    said = caplog.text + repr(paraphraser) + str(caught.value) + "".join(capsys.readouterr())
    assert "cret" not in said and sent not in said


def test_a_failure_does_not_say_it_either(tmp_path):
    with serving(lambda number: 500) as server:
        url = server.url.replace("http://", "http://me:secret@")
        report = paraphrase(TEXTS[:1], Paraphraser(url, "m", backoff=0.01, retries=1), tmp_path / "p.jsonl")
    assert report.unanswered and "secret" not in str(report)
    report = paraphrase(TEXTS[:1], Paraphraser(url, "m", backoff=0.01, retries=0, timeout=1), tmp_path / "p.jsonl")
    assert report.unanswered and "secret" not in str(report)


def test_urls():
    assert without_password("http://h:1/v1") == ("http://h:1/v1", {})
    assert without_password("https://token@h/v1?x=1")[0] == "https://h/v1?x=1"


@pytest.mark.parametrize(
    "told, seconds", [("100000", 120), ("7", 7), ("Wed, 21 Oct 2065 07:28:00 GMT", None), ("²", None)]
)
def test_a_server_may_ask_for_two_minutes_at_most(told, seconds, caplog):
    paraphraser = Paraphraser("http://h/v1", "m", backoff=2.0)
    found = paraphraser._seconds_before(1, told)
    assert found == seconds if seconds else 3 < found < 5
    assert ("asks for 100000 s" in caplog.text) == (told == "100000")


def test_two_at_once_do_not_pay_twice(tmp_path):
    output, errors = tmp_path / "p.jsonl", []

    def second():
        try:
            paraphrase(TEXTS, asking(server), output)
        except FileExistsError as error:
            errors.append(str(error))

    with serving() as server:
        with FileLock(output.with_name(f".{output.name}.lock")):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        assert "another mm-orient paraphrase is writing to it" in errors[0] and server.requests == 0
        assert paraphrase(TEXTS, asking(server), output).answered_now == len(TEXTS)
        second()
        assert len(server.paid) == len(TEXTS) == len(read_lines(output)) and len(errors) == 1


def test_settings_are_checked():
    for fields in ({"variants": 0}, {"timeout": 0}, {"parallel": 0}, {"retries": -1}, {"requests_per_minute": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(fields))}` must be"):
            Paraphraser("http://h/v1", "m", **fields)
    assert module.LONGEST_WAIT == 120


@pytest.mark.parametrize(
    ("told", "counted"),
    [((5.0, 3.5), 8), (("5", "3"), 8), ((None, "many"), 0), (([], 1e400), 0), ((-4, 3), 3)],
)
def test_tokens_are_counted_however_a_server_says_them(tmp_path, told, counted):
    usage = dict(zip(("prompt_tokens", "completion_tokens"), told, strict=True)) | {"total_tokens": 0}
    output = tmp_path / "p.jsonl"
    with serving(lambda number: {"usage": usage}) as server:
        report = paraphrase(TEXTS[:2], asking(server, retries=0), output)
        assert (report.answered_now, report.prompt_tokens + report.completion_tokens) == (2, 2 * counted)
        assert paraphrase(TEXTS[:2], asking(server), output).answered_before == 2
    assert len(read_lines(output)) == 2


@pytest.mark.parametrize("content", [[{"type": "text", "text": "x"}], 7, {"a": 1}])
def test_an_answer_that_is_no_text_is_tried_again_and_counted(tmp_path, content):
    message = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}]}
    with serving(lambda number: message if number < 2 else None) as server:
        report = paraphrase(TEXTS[:2], asking(server, retries=1, parallel=1), tmp_path / "p.jsonl")
    assert report.answered_now == 1 and list(report.unanswered) == TEXTS[:1]
    assert "no text" in report.unanswered[TEXTS[0]] and server.requests == 3


@pytest.mark.parametrize("answer", [b"[" * 20_000, b'{"choices": [], "usage": {"prompt_tokens": NaN}}'])
def test_a_broken_answer_costs_one_text_and_not_all(tmp_path, answer):
    with serving(lambda number: answer if number == 0 else None) as server:
        report = paraphrase(TEXTS[:3], asking(server, retries=0, parallel=1), tmp_path / "p.jsonl")
    assert report.answered_now == 2 and list(report.unanswered) == TEXTS[:1]
