"""Against a server of our own that answers as the OpenAI API does, in front of a real one where `upstream` says so."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.import_utils import is_serve_available

from modeling_mm_orient.cli import main
from modeling_mm_orient.data.paraphrases import (
    READER,
    Paraphraser,
    add_paraphrases,
    chat_url,
    choose_variants,
    paraphrase,
    read_lines,
)
from modeling_mm_orient.data.reading import read_posts

from .chat_server import ENDLESS, TEXTS, asking, online, serving  # noqa: F401
from .helpers import describe, write_folder


def test_answers_are_kept_and_not_asked_for_again(tmp_path):
    output = tmp_path / "p.jsonl"
    with serving() as server:
        report = paraphrase([*TEXTS, *TEXTS[:3], "", "  "], asking(server), output)
        assert (report.answered_now, report.answered_before, report.paraphrases) == (12, 0, 36)
        assert (report.prompt_tokens, report.completion_tokens) == (1200, 120)
        again = paraphrase([*TEXTS, "a new one"], asking(server), output)
        assert (again.answered_now, again.answered_before) == (1, 12)
        assert (again.prompt_tokens, again.prompt_tokens_in_all) == (100, 1300)
        assert sorted(server.paid) == sorted([*TEXTS, "a new one"])
        assert set(server.keys) == {"Bearer none"}  # the Hub's token stays at home
        other = paraphrase(TEXTS[:1], asking(server, variants=2, api_key="secret"), output)  # another prompt
        assert other.answered_now == 1 and server.keys[-1] == "Bearer secret"
    lines = read_lines(output)
    assert len(lines) == 14 and {line["text"] for line in lines} == {*TEXTS, "a new one"}
    assert lines[0]["paraphrases"] == ["one wording", "another wording", "a third"]
    assert lines[0]["dropped"] == [{"text": "One wording!", "why": "duplicate"}]


@pytest.mark.parametrize("fault", [429, 500, 503, "cut", "html", "hang", *ENDLESS])
def test_failures_lose_nothing_and_nothing_is_paid_twice(tmp_path, fault):
    with serving(lambda number: fault if number % 3 == 0 else None) as server:
        options = {"timeout": 0.3} if fault in ("hang", *ENDLESS) else {}
        report = paraphrase(TEXTS, asking(server, **options), tmp_path / "p.jsonl")
        assert report.answered_now == 12 and not report.unanswered
        assert sorted(server.paid) == sorted(TEXTS)
    assert sorted(line["text"] for line in read_lines(tmp_path / "p.jsonl")) == sorted(TEXTS)


def test_an_answer_without_end_is_not_read_for_ever(tmp_path):
    with serving(lambda number: "flood") as server:
        report = paraphrase(TEXTS[:1], asking(server, retries=0, timeout=60.0), tmp_path / "p.jsonl")
        assert "the answer is longer than 4,194,304 bytes" in report.unanswered[TEXTS[0]]


@pytest.mark.parametrize(
    "endpoint, path",
    [
        ("http://x", "http://x/v1/chat/completions"),
        ("http://x/v1/", "http://x/v1/chat/completions"),
        ("http://x/openai?version=2", "http://x/openai/v1/chat/completions?version=2"),
        ("http://x/a/chat/completions", "http://x/a/chat/completions"),
    ],
)
def test_an_endpoint_is_a_server_its_version_or_the_place_itself(endpoint, path):
    assert chat_url(endpoint) == path


def test_an_endpoint_that_is_down_is_not_asked_forever(tmp_path):
    with serving(lambda number: 503) as server:
        report = paraphrase(TEXTS, asking(server, retries=1), tmp_path / "p.jsonl")
        assert set(report.unanswered) == set(TEXTS) and report.answered_now == 0
        assert server.requests < 2 * len(TEXTS)
        assert "the server answered 503" in report.unanswered[TEXTS[0]]
    with serving() as server:
        assert paraphrase(TEXTS, asking(server), tmp_path / "p.jsonl").answered_now == 12


def test_a_wrong_key_stops_at_once_and_what_was_paid_stays(tmp_path):
    with serving(lambda number: 401 if number >= 4 else None) as server:
        with pytest.raises(HfHubHTTPError, match="401"):
            paraphrase(TEXTS, asking(server, parallel=1), tmp_path / "p.jsonl")
        assert server.requests == 5
    assert len(read_lines(tmp_path / "p.jsonl")) == 4


@pytest.mark.parametrize("answer", ["I'm sorry, but I can't help with that.", "no list at all", "[]", ""])
def test_useless_answers_are_paid_for_once_and_kept_as_such(tmp_path, answer):
    with serving(lambda number: answer) as server:
        for _ in range(2):
            report = paraphrase(TEXTS[:2], asking(server), tmp_path / "p.jsonl")
        assert (report.answered_now, report.answered_before, len(server.paid)) == (0, 2, 2)
    assert [line["paraphrases"] for line in read_lines(tmp_path / "p.jsonl")] == [[], []]


def test_the_rate_limit_spaces_requests(monkeypatch):
    waits, now = [], [0.0]
    paraphraser = Paraphraser("http://x", "m", requests_per_minute=30)
    monkeypatch.setattr("modeling_mm_orient.data.paraphrases.time.monotonic", lambda: now[0])
    stop = type("Stop", (), {"wait": lambda self, seconds: waits.append(seconds)})()
    for _ in range(3):
        paraphraser._wait_for_turn(stop)
    now[0] = 100.0
    paraphraser._wait_for_turn(stop)
    assert waits == [0.0, 2.0, 4.0, 0.0]


@pytest.mark.parametrize(
    "answer, kept",
    [
        ('Sure! Here you go:\n["a b", "c"]\nEnjoy', ["a b", "c"]),
        ('1. first\n2) "second"\n- third', ["first", "second", "third"]),
        ('["one", "two", "three", "four"]', ["one", "two", "three"]),
        ('["The ORIGINAL text.", "", "new", "As an AI, I cannot"]', ["new"]),
        ('["ok", 3, null]', ["ok"]),
        ('["broken', []),
        ("1.\n- \n  2. second\n3 third", ["second"]),
        ("1.\nfirst wording\n2.\n\n  second wording\nand more", ["first wording", "second wording"]),
        ("\n" * 200_000, []),
        ("- a" + " " * 200_000 + "b", ["a" + " " * 200_000 + "b"]),
    ],
)
def test_variants_of_an_answer(answer, kept):
    assert choose_variants("the original text", answer, 3)[0] == kept


def test_a_text_that_says_sorry_may_be_answered_so():
    assert choose_variants("sorry, not sorry", '["Sorry, I am not sorry"]', 3)[0] == ["Sorry, I am not sorry"]


def test_texts_with_line_ends_of_their_own(tmp_path):
    texts = ["one\u2028two", "one\x85two\x0bthree", "one\r\ntwo\nthree"]
    with serving() as server:
        for expected in (3, 0):
            assert paraphrase(texts, asking(server), tmp_path / "p.jsonl").answered_now == expected
    assert sorted(line["text"] for line in read_lines(tmp_path / "p.jsonl")) == sorted(texts)


def test_a_line_that_a_crash_cut_short_is_asked_for_again(tmp_path):
    output = tmp_path / "p.jsonl"
    with serving() as server:
        paraphrase(TEXTS, asking(server, parallel=1), output)
        output.write_bytes(output.read_bytes()[:-30])
        assert paraphrase(TEXTS, asking(server), output).answered_now == 1
    assert sorted(line["text"] for line in read_lines(output)) == sorted(TEXTS)
    output.write_text("{}\n")
    with pytest.raises(ValueError, match=r"p.jsonl:1: no line of mm-orient paraphrase"):
        paraphrase(TEXTS, asking(server), output)


@pytest.mark.parametrize(
    "content", ['{"my": "only copy"}', "a,b\n1,2\n3,the last row", '{"key": 1}\n{"key": "torn', "", "{", '{"key": "ab']
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, content):
    output = tmp_path / "p.jsonl"
    output.write_text(content)
    with serving(lambda number: 403) as server, pytest.raises((ValueError, HfHubHTTPError)) as error:
        paraphrase(TEXTS, asking(server), output)
    is_ours = content in ("", "{", '{"key": "ab')
    assert ("no line of mm-orient paraphrase" in str(error.value)) != is_ours
    assert output.read_text() == ("" if is_ours else content)


@pytest.mark.parametrize("tail", [b"\0" * 20, b"\r", b"  ", b'{"text": "torn', b'{"key":"torn'])
def test_what_a_crash_left_behind_whole_lines_is_taken_off(tmp_path, tail):
    output = tmp_path / "p.jsonl"
    with serving() as server:
        paraphrase(TEXTS[:2], asking(server), output)
        sound = output.read_bytes()
        output.write_bytes(sound + tail)
        assert len(read_lines(output)) == 2
        assert paraphrase(TEXTS[:2], asking(server), output).answered_before == 2
    assert output.read_bytes() == sound


def test_a_request_asks_for_one_answer_and_says_who_asks(tmp_path):
    with serving() as server:
        paraphrase(TEXTS[:1], asking(server), tmp_path / "p.jsonl")
        assert server.bodies[0]["stream"] is False and "hf_hub" in server.agents[0]


def test_no_reader_is_left_of_endless_answers(tmp_path):
    with serving(lambda number: "headers") as server:
        report = paraphrase(TEXTS[:3], asking(server, retries=1, timeout=0.2), tmp_path / "p.jsonl")
        assert len(report.unanswered) == 3
        readers = [thread for thread in threading.enumerate() if thread.name == READER]
        for thread in readers:
            thread.join(5)
        assert not any(thread.is_alive() for thread in readers)


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    output = tmp_path / "p.jsonl"
    with serving() as server:
        paraphrase(TEXTS[:2], asking(server), output)
        output.write_bytes(output.read_bytes()[:-1])
        assert paraphrase(TEXTS[:3], asking(server), output).answered_now == 1
        assert len(server.paid) == 3
    assert output.read_bytes().endswith(b"\n") and len(read_lines(output)) == 3


def test_augmented_posts_never_cross_splits(tmp_path):
    posts, _, _ = read_posts(describe(write_folder(tmp_path / "d")))
    held_out = [*posts["validation"]["text"], *posts["test"]["text"]]
    line = {"key": "", "prompt_tokens": 0, "completion_tokens": 0}
    lines = [line | {"text": text, "paraphrases": [f"other {text}", held_out[0].upper() + "!"]} for text in TEXTS]
    lines += [line | {"text": text, "paraphrases": [f"new {text}"]} for text in ("caption 0", "caption 1", *held_out)]
    lines[-1]["paraphrases"].append("never")
    lines[12]["paraphrases"] += [f"{held_out[-1]}.", "fresh"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    augmented = add_paraphrases(posts, tmp_path / "p.jsonl")
    for split in ("validation", "test"):
        assert augmented[split].to_list() == posts[split].to_list()
    train = augmented["train"]
    assert train["text"][:6] == posts["train"]["text"]
    assert train["text"][6:] == ["new caption 0", "fresh", "new caption 1"]
    assert train["id"][6:] == ["0.png~1", "0.png~3", "1.png~1"]
    assert train["label.mood"][6:] == [train["label.mood"][0], train["label.mood"][0], train["label.mood"][1]]
    assert train["post_key"][6:] == [train["post_key"][0], train["post_key"][0], train["post_key"][1]]
    assert len(set(train["post_key"])) == 6
    (tmp_path / "p.jsonl").write_text(json.dumps(lines[-1]) + "\n")
    with pytest.raises(ValueError, match="no paraphrase of a text of the training posts"):
        add_paraphrases(posts, tmp_path / "p.jsonl")


def test_what_cleaning_makes_the_same_is_the_same(tmp_path):
    rows = [{"image": "", "text": f"{name} @bob says {i} http://x.y", "mood": "ab"[i % 2], "split": name}
            for name in ("train", "val", "test") for i in range(4)]  # fmt: skip
    posts, *_ = read_posts(describe(write_folder(tmp_path / "d", rows, pictures=False)))
    line = {"key": "k", "text": "train @bob says 0 http://x.y", "prompt_tokens": 1, "completion_tokens": 1}
    variants = ["test says 1", "Test @amy SAYS 2", "fresh", "", " ", "TRAIN @bob says 0 http://x.y!"]
    (tmp_path / "p.jsonl").write_text(json.dumps(line | {"paraphrases": variants}) + "\n")
    for cleaning, kept in ((["urls", "handles"], ["fresh"]), ([], ["test says 1", "Test @amy SAYS 2", "fresh"])):
        train = add_paraphrases(posts, tmp_path / "p.jsonl", cleaning)["train"]
        assert train["text"][4:] == kept


@pytest.mark.parametrize(
    "wrong",
    [
        {"paraphrases": "hello"},
        {"paraphrases": None},
        {"paraphrases": [1]},
        {"text": ["a"]},
        {"prompt_tokens": "x"},
        b"\xff\xfe",
    ],
)
def test_lines_of_other_types_are_told_with_their_number(tmp_path, wrong):
    line = {"key": "k", "text": "a", "paraphrases": ["b"], "prompt_tokens": 1, "completion_tokens": 1}
    good, file = json.dumps(line).encode(), tmp_path / "p.jsonl"
    file.write_bytes(good + b"\n" + (wrong if isinstance(wrong, bytes) else json.dumps(line | wrong).encode()) + b"\n")
    with pytest.raises(ValueError, match=r"p\.jsonl:2: no line of mm-orient paraphrase"):
        read_lines(file)
    file.write_bytes(good + b"\n" + good)  # no line end behind the last, as an editor leaves it
    assert len(read_lines(file)) == 2


def test_a_last_line_that_is_cut_short_is_told(tmp_path, caplog):
    line = json.dumps({"key": "k", "text": "a", "paraphrases": ["b"], "prompt_tokens": 1, "completion_tokens": 1})
    (tmp_path / "p.jsonl").write_text(f"{line}\n{line[:-9]}")
    assert len(read_lines(tmp_path / "p.jsonl")) == 1 and "its last line is cut short" in caplog.text


@pytest.mark.parametrize("answer", ['["nice \\ud83d", "other wording"]', "[" * 100_000 + "]", '["one", "two'])
def test_an_answer_of_any_form_is_kept(tmp_path, answer):
    kept, dropped = choose_variants("some words", answer, 5)
    for line in (kept, dropped):
        json.dumps(line, ensure_ascii=False).encode("utf-8")
    assert kept == (["other wording"] if "wording" in answer else [])
    assert dropped and dropped[0]["why"] in ("half a character", "no list")


def test_from_the_command_line_to_training(tmp_path, capsys, monkeypatch):
    folder, output = write_folder(tmp_path / "d"), tmp_path / "p.jsonl"
    data = ["--data", str(folder), "--labels", "mood", "--split-column", "split"]
    monkeypatch.setenv("SOME_KEY", "abc")
    with serving() as server:
        command = ["paraphrase", *data, "--endpoint", server.url, "--model", "m", "--output", str(output)]
        assert main([*command, "--api-key-env", "SOME_KEY", "--price", "1", "10"]) == 0
        assert sorted(server.paid) == [f"caption {i}" for i in range(6)] and server.keys[0] == "Bearer abc"
    printed = capsys.readouterr().out
    assert "6 texts of split 'train' answered now, 0 before, 18 new paraphrases" in printed
    assert "spent now: 600 prompt and 60 answer tokens, 0.0012 at these prices" in printed
    assert main([*command, "--api-key-env", "OTHER_KEY"]) == 1
    assert "OTHER_KEY of --api-key-env is not set" in capsys.readouterr().err
    command = ["train", *data, "--preset", "tiny", "--paraphrases", str(output), "--epochs", "1"]
    memory = ["--set", 'relation_scope="memory"', "--output", str(tmp_path / "run")]
    assert main([*command, *memory]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["splits"] == {"train": 6 + 18, "validation": 2, "test": 2}
    capsys.readouterr()
    assert main(["memory", "inspect", str(tmp_path / "run")]) == 0
    assert "posts: 6\n" in capsys.readouterr().out  # a paraphrase is no reference post


def save_chat_model(folder, answer: str) -> str:
    """A real causal language model whose weights lead from the start of an answer to `answer` and to the end of it."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "<s>": 2, "</s>": 3, "<|assistant|>": 4, answer: 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<|assistant|>"], **special)
    fast.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=6, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, max_position_embeddings=4096,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.model.layers[0].parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(6, 8))
        model.lm_head.weight.zero_()
        model.lm_head.weight[5, 4] = model.lm_head.weight[3, 5] = 100.0
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@contextmanager
def transformers_serve(model: str, tmp_path):
    """`transformers serve` on loopback; gives the endpoint once it answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    command = [os.path.join(os.path.dirname(sys.executable), "transformers"), "serve", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while True:
            assert process.poll() is None, "transformers serve ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not is_serve_available(), reason="transformers[serving] is not installed")
def test_a_real_server_and_its_failures(tmp_path):
    answer = json.dumps(["one wording", "another wording", "a third"])
    model = save_chat_model(tmp_path / "model", answer)
    with transformers_serve(model, tmp_path) as endpoint:
        direct = Paraphraser(endpoint, model, backoff=0.01)
        report = paraphrase(TEXTS[:2], direct, tmp_path / "p.jsonl")
        assert report.answered_now == 2 and report.paraphrases == 6 and report.completion_tokens > 0
        plan = [429, "cut", None, 503, "html", None, "hang", None]
        with serving(lambda number: plan[number % len(plan)], upstream=endpoint) as server:
            between = Paraphraser(server.url, model, backoff=0.01, timeout=5.0, retries=50)
            report = paraphrase(TEXTS, between, tmp_path / "p.jsonl")
            assert (report.answered_now, report.answered_before, report.unanswered) == (10, 2, {})
            assert sorted(server.paid) == sorted(TEXTS[2:])
        # killed while it asks, and gone on with
        many = [f"another text {number}" for number in range(40)]
        write_folder(tmp_path / "d", [{"text": text} for text in many])
        with serving(upstream=endpoint) as server:
            command = [sys.executable, "-m", "modeling_mm_orient", "paraphrase", "--data", str(tmp_path / "d")]
            command += ["--endpoint", server.url, "--model", model, "--output", str(tmp_path / "q.jsonl")]
            environment = os.environ | {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen([*command, "--parallel", "2"], env=environment)
            while process.poll() is None and len(server.paid) < 10:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.005)
            process.kill()
            process.wait()
            subprocess.run(command, check=True, env=environment)
            lines = read_lines(tmp_path / "q.jsonl")
            assert sorted(line["text"] for line in lines) == sorted(many)
            assert len(server.paid) <= len(many) + 2  # what was under way when it was killed
    assert all(len(line["paraphrases"]) == 3 for line in lines)
