"""`handler.py` of an exported model, found and called as the toolkit of Inference Endpoints does it."""

import base64
import importlib.metadata
import importlib.util
import json
import re
import sys

import pytest
from transformers import pipeline

from modeling_mm_orient.cli import main

from .helpers import as_bytes, picture, save_run

IMAGE = as_bytes(picture("RGB", (6, 6), (200, 10, 10)))
BASE64 = base64.b64encode(IMAGE).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("endpoint")
    run = save_run(place / "run")
    assert main(["export", str(run), "--output", str(place / "hub"), "--endpoint"]) == 0
    return place / "hub"


@pytest.fixture(scope="module")
def handler(folder):
    """As `huggingface_inference_toolkit.utils.check_and_register_custom_pipeline_from_directory`."""
    spec = importlib.util.spec_from_file_location("handler.py", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
        return module.EndpointHandler(str(folder))
    finally:
        sys.path.remove(str(folder))


def called(handler, body):
    """The answer, through JSON as a server sends it."""
    return json.loads(json.dumps(handler(body), allow_nan=False))


def test_the_verdicts_are_the_pipelines(handler, folder):
    pipe = pipeline("multimodal-classification", model=str(folder), trust_remote_code=True)
    expected = pipe({"image": IMAGE, "text": "a cat on a mat"})
    for image in (BASE64, f"data:image/png;base64,{BASE64}", IMAGE):
        found = called(handler, {"inputs": {"text": "a cat on a mat", "image": image}})
        assert found["offensive"] == pytest.approx(expected["offensive"], abs=1e-6)
        assert found["intensity"] == pytest.approx(expected["intensity"], abs=1e-6)
    assert called(handler, {"inputs": "a cat"})["emotions"] == pytest.approx(
        pipe({"text": "a cat"})["emotions"], abs=1e-6
    )
    assert handler({"inputs": picture("RGB", (6, 6))}) == handler(
        {"inputs": {"image": as_bytes(picture("RGB", (6, 6)))}}
    )


def test_a_list_of_posts_is_answered_in_its_order(handler):
    posts = ["a cat", {"id": "second", "image": BASE64}, {"text": "a cat", "id": 3}, {"image": "bm8gcGljdHVyZQ=="}]
    found = called(handler, {"inputs": posts, "parameters": {"batch_size": 2}})
    assert [verdict.get("id") for verdict in found] == [None, "second", 3, None]
    assert found[0]["offensive"] == pytest.approx(found[2]["offensive"], abs=1e-6)
    assert "no picture in a known format" in found[3]["error"]
    assert called(handler, {"inputs": []}) == []


def test_the_parameters_are_the_pipelines(handler):
    body = {"inputs": {"text": "a cat"}, "parameters": {"neighbours": 2, "decisions": True}}
    found = called(handler, body)
    assert len(found["neighbours"]["text"]) == 2 and set(found["decisions"]) == {"offensive", "emotions", "intensity"}
    assert called(handler, {"inputs": "a cat", "parameters": None}) == called(handler, {"inputs": "a cat"})


def test_no_string_of_a_user_is_opened_or_fetched(handler, tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_bytes(IMAGE)
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("fetched"))
    for image in (str(tmp_path / "secret.png"), "http://127.0.0.1:9/x.png", "file:///etc/passwd", "data:,x"):
        with pytest.raises(ValueError, match=r"inputs\.image(:| is not base64)"):
            handler({"inputs": {"image": image}})
    # letters of base64, and a file here: its content is what the letters decode to
    monkeypatch.chdir(tmp_path)
    (tmp_path / "abcd").write_bytes(IMAGE)
    assert "error" in handler({"inputs": {"image": "abcd"}})
    assert set(handler({"inputs": "abcd"})) == {"offensive", "emotions", "intensity"}  # a text


@pytest.mark.parametrize(
    "body, message",
    [
        ([], "the body must be an object, got list"),
        ({"text": "a"}, "the body has `inputs` and `parameters`, not 'text'"),
        ({}, "the body has no `inputs`"),
        ({"inputs": 3}, "inputs must be a text or an object with `text` and `image`, got int"),
        ({"inputs": ["a", None]}, r"inputs\[1\] must be a text or an object"),
        ({"inputs": [{"image": 3}]}, r"inputs\[0\]\.image must be a picture in base64, got int"),
        ({"inputs": {"caption": "a"}}, "inputs has `text`, `image`, `numbers` and `id`, not 'caption'"),
        (
            {"inputs": {"text": "a", "numbers": [1]}},
            r"inputs\.numbers must be an object of numbers by column, got list",
        ),
        ({"inputs": {"text": ["a"]}}, r"inputs\.text must be a text, got list"),
        ({"inputs": {"text": " "}}, "inputs has neither a text nor a picture"),
        ({"inputs": ["a", "b" * 100_001]}, r"inputs\[1\]\.text has 100,001 characters; at most 100,000 are taken"),
        ({"inputs": ["a"] * 257}, "at most 256 posts"),
        ({"inputs": ["b" * 99_000] * 11}, "the texts have 1,089,000 characters; at most 1,000,000 are taken"),
        ({"inputs": "a", "parameters": [1]}, "`parameters` must be an object"),
        ({"inputs": "a", "parameters": {"image_sources": ["path"]}}, "there is no parameter 'image_sources'"),
        ({"inputs": "a", "parameters": {"neighbours": "many"}}, "`neighbours` must be a whole number"),
        ({"inputs": "a", "parameters": {"batch_size": 0}}, "`batch_size` must be a whole number from 1"),
    ],
)
def test_a_wrong_body_is_told(handler, body, message):
    with pytest.raises(ValueError, match=message):
        handler(body)


def test_the_requirements_are_what_this_machine_has(folder):
    lines = (folder / "requirements.txt").read_text().splitlines()[2:]
    assert f"transformers=={importlib.metadata.version('transformers')}" in lines
    assert lines[0].startswith("torch>=") and "+" not in lines[0]
    assert all(re.fullmatch(r"[\w-]+(==|>=)[\w.]+", line) for line in lines)
    assert not any(line.startswith(("rapidocr", "nrclex")) for line in lines)
