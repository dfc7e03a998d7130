"""The page of `examples/space`, a Space and what `mm-orient serve` shows: its answers, its API, and in a browser."""

import ast
import base64
import csv
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_mm_orient.cli import main, serving
from modeling_mm_orient.pipeline_mm_orient import MultimodalClassificationPipeline
from modeling_mm_orient.runs.run_folder import load_run

from .helpers import as_bytes, free_port, picture, save_run

SPACE = Path(__file__).parents[1] / "examples" / "space"
POST = {"offensive": "yes", "emotions": ["joy"], "intensity": 1.5}
EVIL = "<img src=x onerror=\"document.title='taken'\"> {{value}} ${document.title='taken'} `x`"


def newest_gradio() -> bool:
    try:
        return int(version("gradio").split(".")[0]) >= serving.LEAST_GRADIO
    except PackageNotFoundError:
        return False


needs_gradio = pytest.mark.skipif(not newest_gradio(), reason="needs the extra `space`: make test-space")


@pytest.fixture(scope="module")
def verdicts():
    sys.path.insert(0, str(SPACE))
    return importlib.import_module("verdicts")


def pipe_of(folder):
    model, processor = load_run(str(folder))
    return MultimodalClassificationPipeline(model=model, processor=processor)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return pipe_of(save_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def asker(verdicts, pipe):
    return verdicts.Asker(pipe)


def noise(side: int, seed: int = 0) -> bytes:
    """A picture's file that no compression makes small."""
    return as_bytes(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)))


# What is asked.


def test_a_verdict_is_that_of_the_pipeline(asker, pipe, verdicts):
    content = as_bytes(picture(colour=(200, 30, 30)))
    found = asker.verdict(asker.read(content), "a cat", verdicts.Visit())
    assert found == pipe({"image": content, "text": "a cat"}, decisions=True, neighbours=5)
    explained = asker.explain(asker.read(content), "a cat", verdicts.Visit())
    assert explained == pipe({"image": content, "text": "a cat"}, explain=True)["explanation"]


def test_reference_posts_count_for_their_own_visit_alone(asker, pipe, verdicts):
    read, nobody = asker.read(as_bytes(picture(colour=(200, 30, 30)))), verdicts.Visit()
    before, ids = asker.verdict(read, "a cat", nobody), list(pipe.model.relation_memory.ids)
    mine = asker.add(read, "a cat", POST, nobody)
    theirs = asker.add(read, "a cat", {"offensive": "no"}, nobody)
    after = asker.verdict(read, "a cat", mine)
    assert after["neighbours"]["image"][0] == {"id": "yours-1", "similarity": pytest.approx(1), "labels": POST}
    assert after["offensive"] != before["offensive"]
    assert asker.verdict(read, "a cat", theirs)["neighbours"]["image"][0]["labels"] == {"offensive": "no"}
    assert asker.verdict(read, "a cat", nobody) == before and pipe.model.relation_memory.ids == ids
    more = asker.add(None, "another", {}, mine)
    assert list(more.named) == ["yours-1", "yours-2"] and list(mine.named) == ["yours-1"] and len(mine.added) == 1


def test_a_question_that_fails_leaves_the_memory_as_it_was(asker, pipe, verdicts, monkeypatch):
    mine, own = asker.add(None, "a cat", {}, verdicts.Visit()), pipe.model.relation_memory
    monkeypatch.setattr(type(pipe.model), "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asker.verdict(None, "a cat", mine)
    assert pipe.model.relation_memory is own


def test_visitors_who_ask_at_the_same_time_get_their_own_answers(asker, verdicts):
    visits = [asker.add(None, f"post {n}", {}, verdicts.Visit()) for n in range(3)] + [verdicts.Visit()]
    expected = [asker.verdict(None, "post 1", visit) for visit in visits]
    found = [[] for _ in visits]

    def ask(n):
        for _ in range(5):
            found[n].append(asker.verdict(None, "post 1", visits[n]))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(visits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[answer] * 5 for answer in expected]
    assert len({json.dumps(answer) for answer in expected}) > 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\nnothing more", "The picture cannot be read: "),
        (b"\x89PNG\r\n\x1a\nx", "it begins as PNG does, and is broken"),
        (b"plain words", "no picture in a known format"),
        (b"", "it is empty"),
        (b"0" * (25 * 2**20 + 1), "at most 25 are taken"),
    ],
)
def test_a_file_that_is_no_picture_is_told_in_words(asker, content, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        asker.read(content)


def test_a_picture_of_too_many_pixels_is_told(asker, pipe, monkeypatch):
    monkeypatch.setattr(pipe.processor, "max_image_pixels", 100)
    with pytest.raises(ValueError, match="20 x 30 pixels are more than the 100 allowed"):
        asker.read(as_bytes(picture()))


def test_wrong_questions_are_told(asker, verdicts, pipe, tmp_path):
    visit = verdicts.Visit()
    for text in (None, "  "):
        with pytest.raises(ValueError, match="Give a picture, a text, or both"):
            asker.verdict(None, text, visit)
    for ask in (asker.verdict, asker.explain, lambda picture, text, visit: asker.add(picture, text, {}, visit)):
        with pytest.raises(ValueError, match="must be a string, not list"):
            ask(None, ["x"], visit)
    with pytest.raises(ValueError, match="20,001 characters"):
        asker.verdict(None, "x" * 20_001, visit)
    with pytest.raises(ValueError, match="no task 'mood'"):
        asker.add(None, "x", {"mood": "bad"}, visit)
    with pytest.raises(ValueError, match="'perhaps' is no label of the task 'offensive'"):
        asker.add(None, "x", {"offensive": "perhaps"}, visit)
    with pytest.raises(ValueError, match="needs a picture, a text, or both"):
        asker.add(None, " ", {}, visit)
    full = verdicts.Visit(named={str(n): "" for n in range(verdicts.MOST_ADDED)})
    with pytest.raises(ValueError, match="At most 50"):
        asker.add(None, "x", {}, full)
    without = verdicts.Asker(pipe_of(save_run(tmp_path / "batch", "batch")))
    with pytest.raises(ValueError, match="no relation memory"):
        without.add(None, "x", {}, visit)
    assert "neighbours" not in without.verdict(None, "x", visit)


def test_many_files_and_a_table_of_texts_become_a_row_each(asker, verdicts, tmp_path):
    table = "\ufefffile,text\na.png,=1+1\ngone.png,lost\n,words alone\n,\n".encode()
    files = [("a.png", as_bytes(picture())), ("b.png", as_bytes(picture(colour=255))), ("-bad.png", b"no picture")]
    rows = list(asker.rows(verdicts.posts_of(files, table), verdicts.Visit()))
    assert [row[0] for row in rows] == ["a.png", "b.png", "-bad.png", "gone.png", "", ""]
    assert [bool(row[-1]) for row in rows] == [False, False, True, True, False, True]
    assert all(len(row) == len(asker.columns) for row in rows)
    verdicts.write_table(tmp_path / "table.csv", asker.columns, rows)
    found = list(csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")))
    assert found[0]["text"] == "'=1+1" and found[2]["file"] == "'-bad.png"
    direct = asker.verdict(asker.read(files[0][1]), "=1+1", verdicts.Visit())
    assert float(found[0]["offensive:yes"]) == direct["offensive"]["yes"]
    assert found[0]["offensive"] == direct["decisions"]["offensive"]
    assert found[0]["emotions"] == "|".join(direct["decisions"]["emotions"])
    assert float(found[0]["intensity"]) == direct["intensity"]


def test_uploads_are_counted_before_they_are_read_and_read_one_by_one(asker, verdicts):
    read = []
    content = as_bytes(picture())
    with pytest.raises(ValueError, match="201 posts; at most 200"):
        verdicts.posts_of([("a.png", lambda: read.append(1))] * 201, None)
    assert read == []
    rows = asker.rows(
        verdicts.posts_of([(f"{n}.png", lambda: read.append(1) or content) for n in range(3)], None), verdicts.Visit()
    )
    next(rows)
    assert read == [1]


def test_a_text_of_several_pictures_of_one_name_is_nobodys(asker, verdicts):
    files = [("a.png", as_bytes(picture())), ("a.png", as_bytes(picture(colour=99))), ("b.png", as_bytes(picture()))]
    posts = verdicts.posts_of(files, b"file,text\na.png,of the first\nb.png,fine\n")
    assert [bool(post["error"]) for post in posts] == [True, True, False]
    assert not any(post["error"] for post in verdicts.posts_of(files, None))


@pytest.mark.parametrize(
    "labels", [["offensive"], "offensive", {"emotions": "joy"}, {"intensity": "high"}, {"offensive": {"a": 1}}]
)
def test_labels_of_another_form_are_told(asker, verdicts, labels):
    with pytest.raises(ValueError, match=r"must be an object|is no "):
        asker.add(None, "x", labels, verdicts.Visit())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"name,words\na,b\n", "needs the columns 'file' and 'text'; it has name, words"),
        (b"file,text\na.png,x\nb.png,y\na.png,z\n", "'a.png' twice, again in line 4"),
        (b"file,text\na.png,\xff\n", "must be in UTF-8; byte 16 is not"),
        (b'file,text\na.png,"open\n', "no sound CSV"),
        (b"file,text\na.png,hello, world\n", "Line 2 of the table has 3 field(s), the header 2"),
        (b"file,text\na.png\n", "Line 2 of the table has 1 field(s), the header 2"),
        (b"file,text,text\na.png,x,y\n", "has the column 'text' twice"),
        (b"", "needs the columns"),
        (b"file,text\n" + b",x\n" * 201, "201 posts; at most 200"),
        (b"file,text\n", "Give pictures, a table of texts, or both"),
    ],
)
def test_a_bad_table_is_told(verdicts, table, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        verdicts.posts_of([], table)


# How it is drawn.


def test_what_posts_and_models_say_is_text_on_the_page(asker, verdicts, pipe):
    drawing = importlib.import_module("drawing")
    read = asker.read(as_bytes(picture(colour=(9, 9, 9))))
    found = asker.explain(read, "a cat", verdicts.Visit())
    found["words"][0]["word"] = EVIL
    found["neighbours"]["image"][0] |= {"id": EVIL, "labels": {EVIL: EVIL}}
    page = drawing.verdict_page(found, asker.tasks, read)
    for part in ("<img src=x", "{{", "${", "`"):
        assert part not in page
    assert page.count("&lt;img") == 4 and "onerror=&quot;" in page
    assert "<script" not in drawing.error_page("<script>") and "&lt;script" in drawing.error_page("<script>")


def test_the_page_shows_evidence_and_what_has_changed(asker, verdicts):
    drawing = importlib.import_module("drawing")
    read = asker.read(as_bytes(picture(colour=(9, 200, 9))))
    before, found = (asker.explain(read, text, verdicts.Visit()) for text in ("a cat", "a dog on a mat"))
    before["verdict"]["offensive"] = {"no": 0.125, "yes": 0.875}
    page = drawing.verdict_page(found, asker.tasks, read, before)
    assert page.count("<rect") == len(found["regions"]) and page.count("<span style") == len(found["words"])
    now = found["verdict"]["offensive"]["yes"]
    assert f'{now:.2f}</td><td class="n">0.88 <span class="up">{0.875 - now:+.2f}' in page
    for name in ("last time", "no picture", "no text", "no neighbours", found["neighbours"]["text"][0]["id"]):
        assert name in page
    words = drawing.verdict_page(asker.explain(None, "a cat", verdicts.Visit()), asker.tasks, None)
    assert "<img" not in words and "last time" not in words and "no picture" not in words


def test_experts_are_shown(asker, verdicts):
    drawing = importlib.import_module("drawing")
    found = asker.explain(None, "a cat", verdicts.Visit())
    for task in asker.tasks:
        found["experts"][task["name"]] = {"linear": {"weight": 0.25, "says": found["verdict"][task["name"]]}}
    page = drawing.verdict_page(found, asker.tasks, None)
    assert page.count('<td>linear</td><td class="n">0.25</td>') == len(asker.tasks)


# As a Space.


def test_the_folder_is_a_space_whose_requirements_are_those_of_the_package():
    header = (SPACE / "README.md").read_text(encoding="utf-8").split("---")[1]
    said = dict(line.split(": ", 1) for line in header.strip().splitlines())
    assert said["sdk"] == "gradio" and said["app_file"] == "app.py" and (SPACE / "app.py").is_file()
    assert said["python_version"] == '"3.11"' and len(said["short_description"]) <= 60
    pins = (SPACE.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"gradio=={said['sdk_version']}" in pins
    setup = (SPACE.parents[1] / "setup.py").read_text()
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    for line in filter(lambda line: not line.startswith("#"), lines):
        assert f'"{line}"' in setup, line


def test_the_app_imports_what_a_space_installs():
    files = sorted(SPACE.glob("*.py"))
    known = {"gradio", "transformers", "PIL", *(path.stem for path in files), *sys.stdlib_module_names}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= known, path.name


@needs_gradio
def test_a_space_without_a_model_says_how_to_name_one(verdicts, tmp_path):
    app = serving._app()
    with pytest.raises(ValueError, match=r"model.json is missing: .*push .*--space"):
        app.of_the_hub(tmp_path / "model.json")
    (tmp_path / "model.json").write_text('{"model": "x/y"}')
    with pytest.raises(ValueError, match=r'must be .*"revision"'):
        app.of_the_hub(tmp_path / "model.json")


def test_serving_without_gradio_says_what_to_install(pipe, monkeypatch, capsys):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert main(["serve", pipe.model.name_or_path]) == 1
    assert "pip install 'modeling-mm-orient[space]'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.36.1")
    assert main(["serve", pipe.model.name_or_path]) == 1
    assert "gradio 6 or newer, 3.36.1 is installed" in capsys.readouterr().err
    assert main(["serve", pipe.model.name_or_path, "--port", "70000"]) == 1
    assert "--port must be between 1 and 65535, got 70000" in capsys.readouterr().err


# As a server.


@pytest.fixture(scope="module")
def server(pipe):
    """The address of the page."""
    app = serving._app()
    page = app.build(pipe, "a <run>")
    app.launch(page, server_port=free_port(), prevent_thread_lock=True, quiet=True)
    yield page.local_url.rstrip("/")
    page.close()


@pytest.fixture
def client(server):
    from gradio_client import Client

    return Client(server, verbose=False)


@pytest.fixture
def meme(tmp_path) -> Path:
    path = tmp_path / "meme.png"
    path.write_bytes(as_bytes(picture(colour=(200, 30, 30))))
    return path


@needs_gradio
def test_the_api_gives_what_the_pipeline_does(client, server, meme, pipe):
    from gradio_client import Client, handle_file

    post = {"picture": handle_file(meme), "text": "a cat"}
    direct = {"image": meme.read_bytes(), "text": "a cat"}
    before = client.predict(**post, api_name="/verdict")
    assert before == pipe(direct, decisions=True, neighbours=5)
    assert client.predict(**post, api_name="/explain") == pipe(direct, explain=True)["explanation"]
    assert client.predict(**post, labels=POST, api_name="/add_reference") == {"id": "yours-1"}
    assert client.predict(**post, api_name="/verdict")["neighbours"]["image"][0]["id"] == "yours-1"
    assert Client(server, verbose=False).predict(**post, api_name="/verdict") == before
    assert client.predict(api_name="/forget_references") == {"forgotten": 1}
    assert client.predict(**post, api_name="/verdict") == before
    table = meme.with_name("texts.csv")
    table.write_text("file,text\nmeme.png,a cat\n")
    found = client.predict([handle_file(meme)], handle_file(table), api_name="/verdicts")
    row = dict(zip(found["columns"], found["rows"][0], strict=True))
    assert row["file"] == "meme.png" and row["offensive:yes"] == before["offensive"]["yes"] and not row["error"]


@needs_gradio
def test_errors_of_the_api_are_sentences(client, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(AppError, match="The picture cannot be read"):
        client.predict(handle_file(broken), "a cat", api_name="/verdict")
    with pytest.raises(AppError, match="Give a picture, a text, or both"):
        client.predict(None, "", api_name="/explain")
    with pytest.raises(AppError, match="'perhaps' is no label"):
        client.predict(None, "x", {"offensive": "perhaps"}, api_name="/add_reference")


def ask_by_hand(server: str, endpoint: str, values: list) -> str:
    """What the server answers to a request as no client of Gradio's would write it."""
    body = json.dumps({"data": values}).encode()
    request = urllib.request.Request(f"{server}/gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    with urllib.request.urlopen(f"{server}/gradio_api/call/{endpoint}/{event}", timeout=60) as answer:
        return answer.read().decode()


@needs_gradio
@pytest.mark.parametrize("endpoint", ["verdict", "verdicts"])
@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
@pytest.mark.parametrize("source", ["path", "address", "data"])
def test_no_path_or_address_of_a_visitors_is_opened(server, meme, monkeypatch, endpoint, meta, source):
    from gradio import processing_utils

    opened = []

    async def fetch(url, *_, **__):
        opened.append(url)
        return str(meme)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    url = "data:image/png;base64," + base64.b64encode(meme.read_bytes()).decode()
    file = {"path": str(meme)} if source == "path" else {"path": "https://example.org/meme.png"}
    file = {"path": None, "url": url} if source == "data" else file
    values = [file | meta, "a cat"] if endpoint == "verdict" else [[file | meta], None]
    answer = ask_by_hand(server, endpoint, values)
    assert answer.startswith("event: error") and not opened, answer


@needs_gradio
def test_uploads_are_bounded(server):
    boundary = "--------"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="big.png"\r\n\r\n'
    body = head.encode() + b"0" * (25 * 2**20 + 1) + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{server}/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 413


@needs_gradio
def test_the_page_says_nothing_to_anybody_else(server):
    config = json.load(urllib.request.urlopen(f"{server}/config", timeout=60))
    assert config["analytics_enabled"] is False
    theme = urllib.request.urlopen(f"{server}/theme.css", timeout=60).read().decode()
    assert not re.findall(r"url\(['\"]?https?:", theme) and "@import" not in theme


@needs_gradio
@pytest.mark.slow
def test_a_space_runs_where_the_package_cannot_be_imported(pipe, tmp_path, meme):
    """The Space as `push` lays it out, in a process that has only what its requirements bring."""
    from gradio_client import Client, handle_file

    from modeling_mm_orient import save_for_hub

    folder, port = tmp_path / "space", free_port()
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    save_for_hub(pipe.model, pipe.processor, tmp_path / "model")
    (folder / "model.json").write_text(json.dumps({"model": str(tmp_path / "model"), "revision": "0" * 40}))
    code = (
        "import sys, runpy; sys.modules['modeling_mm_orient'] = None; sys.path[0] = ''; "
        "runpy.run_path('app.py', run_name='__main__')"
    )
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    command = [sys.executable, "-u", "-c", code]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        try:
            said = []
            while "Running on" not in "".join(said[-1:]):
                said.append(process.stdout.readline())
                assert said[-1], "".join(said)
            found = Client(f"http://127.0.0.1:{port}", verbose=False).predict(
                handle_file(meme), "a cat", api_name="/verdict"
            )
        finally:
            process.terminate()
    expected = pipe({"image": meme.read_bytes(), "text": "a cat"})["offensive"]
    assert found["offensive"] == pytest.approx(expected, abs=1e-5)


# In a browser.


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `test-space`: make test-space")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        sandbox = [] if os.getuid() else ["--no-sandbox"]
        browser = driver.chromium.launch(executable_path=program, args=sandbox)
        yield browser
        browser.close()


class Visitor:
    """A person at the page, in a browser of their own."""

    def __init__(self, browser, server: str, width: int = 1280):
        self.page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        self.elsewhere: list[str] = []
        self.page.on("request", lambda request: self.elsewhere.append(request.url))
        self.page.goto(server)
        self.answer, self.ask = self.page.locator("#answer"), self.page.get_by_role("button", name="Ask", exact=True)
        self.ask.wait_for()

    def drop(self, name: str, content: bytes) -> None:
        file = {"name": name, "mimeType": "image/png", "buffer": content}
        self.page.locator("input[type=file]").first.set_input_files(file)

    def write(self, text: str) -> None:
        self.page.get_by_label("Text", exact=True).fill(text)
        self.ask.click()

    def sees(self, text: str) -> None:
        self.answer.get_by_text(text).first.wait_for(timeout=60_000)

    def scores(self) -> list[str]:
        return self.answer.locator("td.label + td").all_inner_texts()


@pytest.fixture
def visitor(browser, server):
    visitor = Visitor(browser, server)
    yield visitor
    own = (server, "data:", "blob:")
    assert [url for url in visitor.elsewhere if not url.startswith(own)] == []
    visitor.page.context.close()


def shown(found: dict) -> list[str]:
    """A verdict as the page's column of scores has it."""
    return [
        f"{score:.2f}"
        for name in ("offensive", "emotions", "intensity")
        for score in (found[name].values() if isinstance(found[name], dict) else [found[name]])
    ]


@needs_gradio
@pytest.mark.slow
def test_a_dropped_picture_gets_a_verdict_and_an_edited_text_shows_what_changes(visitor, meme, pipe):
    visitor.drop("meme.png", meme.read_bytes())
    visitor.sees("Where it looked")
    assert visitor.scores() == shown(pipe({"image": meme.read_bytes()}))
    assert visitor.answer.locator("svg rect").count() == 4
    visitor.write("a cat on a mat")
    visitor.sees("last time")
    assert visitor.scores() == shown(pipe({"image": meme.read_bytes(), "text": "a cat on a mat"}))
    assert visitor.answer.locator(".words span").all_inner_texts() == ["a", "cat", "on", "a", "mat"]


@needs_gradio
@pytest.mark.slow
def test_markup_of_a_post_stays_text(visitor):
    visitor.write("<b>{{ ${1}}")
    visitor.sees("Where it looked")
    assert visitor.answer.locator(".words span").all_inner_texts() == ["<b>{{", "${1}}"]


@needs_gradio
@pytest.mark.slow
def test_a_broken_file_is_told_on_the_page(visitor, meme):
    visitor.drop("broken.png", b"\x89PNG\r\n\x1a\nnothing more")
    visitor.sees("The picture cannot be read")
    assert "Traceback" not in visitor.page.content()
    visitor.page.get_by_label("Clear").or_(visitor.page.get_by_label("Remove Image")).first.click()
    visitor.drop("meme.png", meme.read_bytes())
    visitor.sees("Where it looked")


@needs_gradio
@pytest.mark.slow
def test_a_picture_of_20_mb_is_judged_and_one_above_the_limit_is_refused(visitor, pipe):
    large = noise(2600)
    assert 20e6 < len(large) < 25 * 2**20
    visitor.drop("large.png", large)
    visitor.sees("Where it looked")
    assert visitor.scores() == shown(pipe({"image": large}))
    visitor.page.get_by_label("Clear").or_(visitor.page.get_by_label("Remove Image")).first.click()
    visitor.drop("larger.png", noise(3100))
    visitor.page.get_by_text("exceed").first.wait_for(timeout=60_000)


@needs_gradio
@pytest.mark.slow
def test_two_people_at_once_get_their_own_answers(browser, server, visitor, pipe, meme):
    other = Visitor(browser, server)
    mine, theirs = meme.read_bytes(), as_bytes(picture(colour=(10, 60, 250)))
    for _ in range(3):
        visitor.drop("meme.png", mine) if not visitor.scores() else visitor.write("a cat")
        other.drop("meme.png", theirs) if not other.scores() else other.write("a mat")
        visitor.sees("Where it looked"), other.sees("Where it looked")
    visitor.sees("last time"), other.sees("last time")
    assert visitor.scores() == shown(pipe({"image": mine, "text": "a cat"}))
    assert other.scores() == shown(pipe({"image": theirs, "text": "a mat"}))
    other.page.context.close()


@needs_gradio
@pytest.mark.slow
def test_a_reference_post_is_added_for_one_visitor(browser, server, visitor, meme):
    other = Visitor(browser, server)
    visitor.drop("meme.png", meme.read_bytes())
    visitor.sees("Where it looked")
    visitor.page.get_by_text("Add a reference post and ask again").click()
    visitor.page.get_by_label("Its offensive").click()
    visitor.page.get_by_role("option", name="yes").click()
    visitor.page.get_by_role("button", name="Add and ask again").click()
    visitor.sees("yours-1")
    assert visitor.answer.get_by_role("row", name="yours-1").first.inner_text().split("\t")[-1] == "offensive: yes"
    other.drop("meme.png", meme.read_bytes())
    other.sees("Where it looked")
    assert other.answer.get_by_text("yours-1").count() == 0
    visitor.page.get_by_role("button", name="Forget them").click()
    visitor.page.get_by_text("No posts of yours yet").wait_for()
    assert visitor.answer.get_by_text("yours-1").count() == 0
    other.page.context.close()


@needs_gradio
@pytest.mark.slow
def test_many_files_become_a_table_to_take_home(visitor, meme, tmp_path):
    visitor.page.get_by_role("tab", name="Many posts").click()
    pictures, texts = visitor.page.locator("[role=tabpanel]:visible input[type=file]").all()
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    sound = {"name": "meme.png", "mimeType": "image/png", "buffer": meme.read_bytes()}
    pictures.set_input_files([sound, broken])
    texts.set_input_files({"name": "texts.csv", "mimeType": "text/csv", "buffer": b"file,text\nmeme.png,=a cat\n"})
    visitor.page.get_by_text("texts.csv").wait_for()
    visitor.page.get_by_label("broken.png").wait_for()
    visitor.page.get_by_role("button", name="Ask about all").click()
    visitor.page.get_by_text("2 posts, 1 with an error").wait_for(timeout=60_000)
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Download as CSV").or_(
            visitor.page.get_by_role("link", name="Download as CSV")
        ).first.click()
    download.value.save_as(tmp_path / "table.csv")
    rows = list(csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")))
    assert [row["text"] for row in rows] == ["'=a cat", ""] and "no picture in a known format" in rows[1]["error"]


@needs_gradio
@pytest.mark.slow
def test_on_a_phone_nothing_sticks_out(browser, server, meme):
    visitor = Visitor(browser, server, width=390)
    visitor.drop("meme.png", meme.read_bytes())
    visitor.sees("Where it looked")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    visitor.page.context.close()
