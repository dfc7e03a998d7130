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
