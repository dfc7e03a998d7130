# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A page to try a model on: `python app.py` shows the one that `model.json` names, `mm-orient serve RUN` a local one."""

import json
import logging
import math
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import gradio as gr
from drawing import CSS, error_page, escaped, verdict_page
from verdicts import MOST_ADDED, MOST_BYTES, MOST_FILES, Asker, Visit, posts_of, write_table

logger = logging.getLogger(__name__)

MODEL_FILE = Path(__file__).with_name("model.json")
MOST_WAITING = 64  # questions in the queue
AT_ONCE = 4  # of a kind; the model answers them one by one
LOOK_FOR_OLD_FILES, KEPT = 600, 3600  # seconds
NONE = -1  # among the numbers of labels
UNEXPECTED = "Something went wrong here, not with your post. The server's log has the details."
HINT = '<div class="mm"><p class="faint">Drop a picture, or write a text and press <b>Ask</b>.</p></div>'
WARNING = (
    "For a person to look at, not for sanctions without one: models like this err, and more about some people than about "
    "others. The model's `MODEL_CARD.md` says what it is for."
)
PAGE_CSS = """
.gradio-container { width: 100%; max-width: 76rem !important; margin: 0 auto !important; }
#head p { margin: 0; } #head h1 { margin: 0 0 .1rem; font-size: 1.4rem; }
"""
# `launch` takes them
LOOK = {
    "theme": gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    "css": PAGE_CSS + CSS,
    "footer_links": ["api"],
}
BOUNDS = {"max_file_size": MOST_BYTES, "run_history": False, "enable_monitoring": False, "ssr_mode": False}


def build(pipe, name: str) -> gr.Blocks:
    """The page of a `multimodal-classification` pipeline; `name` is what its head says. Start it with `launch`.

    Raises:
        ValueError: the model reads feature arrays, not posts.
    """
    if not pipe.model.config.encoder_names:
        raise ValueError(
            f"{name} reads feature arrays: without encoders there is no asking it about pictures and texts"
        )
    asker = Asker(pipe)
    with gr.Blocks(
        title=f"MM-ORIENT: {name}", analytics_enabled=False, delete_cache=(LOOK_FOR_OLD_FILES, KEPT)
    ) as page:
        gr.Markdown(_head(asker, name), elem_id="head", sanitize_html=True)
        visit = gr.State(Visit())
        with gr.Tab("One post"):
            picture, text = _one_post(asker, visit)
        with gr.Tab("Many posts"):
            _many_posts(asker, visit)
        _api(asker, picture, text, visit)
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=AT_ONCE)


def launch(page: gr.Blocks, **where):
    """Serve the page; `where` as `gradio.Blocks.launch` takes it."""
    return page.launch(**LOOK, **BOUNDS, **where)


def _head(asker: Asker, name: str) -> str:
    tasks = ", ".join(escaped(task["name"]) for task in asker.tasks)
    posts = "no relation memory" if asker.memory is None else f"{len(asker.memory):,} reference posts"
    numbers = ", ".join(escaped(column["name"]) for column in asker.pipe.processor.numeric_columns)
    unasked = f" Its numbers ({numbers}) are not asked for here, and count as unknown." if numbers else ""
    return f"# {escaped(name)}\n\nTasks: {tasks}; {posts}.{unasked}\n\n<small>{WARNING}</small>"


def _one_post(asker: Asker, visit: gr.State) -> tuple[gr.Image, gr.Textbox]:
    """Picture and text to the left, verdict and evidence to the right, reference posts below the former."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            picture = _uploads_only(gr.Image(label="Picture", sources=["upload", "clipboard"], height=260, buttons=[]))
            text = gr.Textbox(label="Text", lines=2, max_lines=8, placeholder="what the post says", submit_btn=False)
            ask = gr.Button("Ask", variant="primary")
            if asker.memory is not None:
                reference = _reference_form(asker)
            else:
                gr.Markdown("This model has no relation memory: reference posts cannot be added.")
        with gr.Column(scale=3, min_width=320):
            answer = gr.HTML(HINT, elem_id="answer")

    def show(picture, text, visit):
        return _answered(asker, picture, text, visit)

    private = {"api_visibility": "private", "preprocess": False, "show_progress_on": answer}
    for event in (picture.upload, ask.click, text.submit):
        event(show, [picture, text, visit], [answer, visit], **private)
    if asker.memory is not None:
        their_picture, their_text, labels, add, forget, listing = reference

        def add_and_show(picture, text, their_picture, their_text, visit, *said):
            try:
                with _unexpected_told():
                    known = {task["name"]: _label(task, value) for task, value in zip(asker.tasks, said, strict=True)}
                    own = their_picture is not None or (their_text and their_text.strip())
                    content, words = (their_picture, their_text) if own else (picture, text)
                    visit = asker.add(asker.read(_content(content)), words, known, visit)
            except ValueError as error:
                return error_page(str(error)), visit, _listing(visit), their_picture, their_text
            page, visit = _answered(asker, picture, text, visit) if picture or text else (HINT, visit)
            return page, visit, _listing(visit), None, ""

        def forget_and_show(picture, text, visit):
            visit = replace(visit, added=None, named={})
            page, visit = _answered(asker, picture, text, visit) if picture or text else (HINT, visit)
            return page, visit, _listing(visit)

        private |= {"postprocess": True}
        posts = [picture, text, their_picture, their_text, visit]
        add.click(add_and_show, [*posts, *labels], [answer, visit, listing, their_picture, their_text], **private)
        forget.click(forget_and_show, [picture, text, visit], [answer, visit, listing], **private)
    return picture, text


def _reference_form(asker: Asker):
    with gr.Accordion("Add a reference post and ask again", open=False):
        gr.Markdown(
            "A post whose labels you know joins the model's memory, for this visit alone. Leave picture and text empty to "
            f"add the post above; at most {MOST_ADDED} posts."
        )
        picture = _uploads_only(gr.Image(label="Its picture", sources=["upload", "clipboard"], height=140, buttons=[]))
        text = gr.Textbox(label="Its text", lines=1)
        labels = [_label_input(task) for task in asker.tasks]
        with gr.Row():
            add, forget = gr.Button("Add and ask again", size="md"), gr.Button("Forget them", size="md")
        listing = gr.HTML(_listing(Visit()))
    return picture, text, labels, add, forget, listing


def _label_input(task: dict):
    """An input whose value is a label's number, the numbers of several, or a number itself; see `_label`."""
    title = f"Its {task['name']}"
    if not task["labels"]:
        return gr.Textbox(label=title, lines=1, placeholder="a number; empty: unknown")  # a gr.Number left empty says 0
    choices = [(label, place) for place, label in enumerate(task["labels"])]
    if task["kind"] == "multi_label":
        return gr.Dropdown([*choices, ("none of these", NONE)], label=title, multiselect=True, info="empty: unknown")
    return gr.Dropdown([("unknown", NONE), *choices], label=title, value=NONE)


def _label(task: dict, said):
    """What an input of `_label_input` says as a label, several or a number; None for unknown.

    Raises:
        ValueError: it is no number.
    """
    if not task["labels"]:
        return _number(task, said)
    if isinstance(said, list):
        return [task["labels"][place] for place in said if place != NONE] if said else None
    return None if said is None or said == NONE else task["labels"][said]


def _number(task: dict, said: str | None) -> float | None:
    try:
        value = float(said) if said and said.strip() else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise ValueError(f"Its {task['name']} must be a number, or empty where it is unknown; got {said!r}.")
    return value


def _listing(visit: Visit) -> str:
    if not visit.named:
        return '<div class="mm"><p class="faint">No posts of yours yet.</p></div>'
    posts = "; ".join(f"<b>{escaped(name)}</b> {escaped(text[:80])}" for name, text in visit.named.items())
    return f'<div class="mm"><p>In the memory for this visit: {posts}</p></div>'


def _answered(asker: Asker, picture: dict | None, text: str | None, visit: Visit) -> tuple[str, Visit]:
    """The page of a verdict or of what is wrong with the question, and the visit that remembers it."""
    try:
        with _unexpected_told():
            read = asker.read(_content(picture))
            found = asker.explain(read, text, visit)
            return verdict_page(found, asker.tasks, read, visit.last), replace(visit, last=found)
    except ValueError as error:
        return error_page(str(error)), visit


def _many_posts(asker: Asker, visit: gr.State) -> None:
    """Files, and a table of their texts, to a table."""
    gr.Markdown(
        f"Up to {MOST_FILES} posts. Texts come from a CSV with the columns `file` and `text`, by the files' names; a row "
        "without a name is a text alone."
    )
    with gr.Row():
        files = _uploads_only(gr.File(label="Pictures", file_count="multiple", file_types=["image"], height=160))
        table = _uploads_only(gr.File(label="Texts (CSV, may be left out)", file_types=[".csv"], height=160))
    with gr.Row():
        judge = gr.Button("Ask about all", variant="primary")
        download = gr.DownloadButton("Download as CSV", interactive=False)
    said = gr.HTML()
    rows = gr.Dataframe(label="Verdicts", interactive=False, wrap=True, visible=False, max_height=600)

    def judge_all(files, table, visit, progress=gr.Progress()):  # noqa: B008, gradio looks for it there
        try:
            with _unexpected_told():
                posts, found = _posts(files, table), []
                for row in progress.tqdm(asker.rows(posts, visit), total=len(posts), unit="posts"):
                    found.append(row)
                path = Path(tempfile.mkdtemp(dir=download.GRADIO_CACHE)) / "verdicts.csv"
                write_table(path, asker.columns, found)
        except ValueError as error:
            return error_page(str(error)), gr.update(visible=False), gr.update(interactive=False)
        bad = sum(bool(row[-1]) for row in found)
        told = f'<div class="mm"><p>{len(found)} posts, {bad} with an error. The CSV has every probability.</p></div>'
        shown = [place for place, name in enumerate(asker.columns) if place in _short_columns(asker)]
        value = {"headers": [asker.columns[i] for i in shown], "data": [[row[i] for i in shown] for row in found]}
        return told, gr.update(value=value, visible=True), gr.update(value=str(path), interactive=True)

    judge.click(
        judge_all,
        [files, table, visit],
        [said, rows, download],
        api_visibility="private",
        preprocess=False,
        show_progress_on=said,
        concurrency_limit=2,
    )


def _short_columns(asker: Asker) -> set[int]:
    names = {"file", "text", "error"} | {task["name"] for task in asker.tasks}
    return {place for place, name in enumerate(asker.columns) if name in names}


def _posts(files: list | None, table: dict | None) -> list[dict]:
    uploads = [(Path(file["orig_name"] or file["path"]).name, partial(_content, file)) for file in files or ()]
    return posts_of(uploads, _content(table))


def _api(asker: Asker, picture: gr.Image, text: gr.Textbox, visit: gr.State) -> None:
    """The same as endpoints for programs, with errors as errors; see docs/serve.md."""
    files = _uploads_only(gr.File(file_count="multiple", visible=False, label="pictures"))
    table = _uploads_only(gr.File(visible=False, label="table"))
    labels, found = gr.JSON(visible=False, label="labels"), gr.JSON(visible=False, label="found")
    trigger = gr.Button(visible=False)

    def verdict(picture, text, visit):
        """Per task the probability of every label, or a value; what is decided; and the nearest reference posts."""
        with _gradio_errors():
            return asker.verdict(asker.read(_content(picture)), text, visit)

    def explain(picture, text, visit):
        """The verdict, and what it rests on: attention, experts, neighbours, and verdicts without each part."""
        with _gradio_errors():
            return asker.explain(asker.read(_content(picture)), text, visit)

    def add_reference(picture, text, labels, visit):
        """Add a post to this session's memory. `labels` is an object of task and label; returns the post's id."""
        with _gradio_errors():
            visit = asker.add(asker.read(_content(picture)), text, {} if labels is None else labels, visit)
            return {"id": list(visit.named)[-1]}, visit

    def forget_references(visit):
        """Forget this session's reference posts; returns how many there were."""
        return {"forgotten": len(visit.named)}, replace(visit, added=None, named={})

    def verdicts(files, table, visit):
        """A row per picture and per text of the table, a CSV with `file` and `text`: `columns` and `rows`."""
        with _gradio_errors():
            return {"columns": asker.columns, "rows": list(asker.rows(_posts(files, table), visit))}

    for call, inputs, outputs in (
        (verdict, [picture, text, visit], found),
        (explain, [picture, text, visit], found),
        (add_reference, [picture, text, labels, visit], [found, visit]),
        (forget_references, [visit], [found, visit]),
        (verdicts, [files, table, visit], found),
    ):
        trigger.click(call, inputs, outputs, api_name=call.__name__, preprocess=False, show_progress="hidden")


def _uploads_only(component):
    """The component, which gradio would fetch a file for from any address that a request names."""
    move = component.async_move_resource_to_block_cache

    async def refuse_addresses(place):
        if str(place).startswith(("http://", "https://")):
            raise gr.Error("No address is fetched here: upload the file.", print_exception=False)
        return await move(place)

    component.async_move_resource_to_block_cache = refuse_addresses
    return component


def _content(file: dict | None) -> bytes | None:
    """An uploaded file's bytes. Raises ValueError for anything else."""
    if file is None:
        return None
    path, uploads = Path(file.get("path") or "").resolve(), Path(gr.utils.get_upload_folder()).resolve()
    if not path.is_relative_to(uploads) or not path.is_file():
        raise ValueError("The file is not here (any more): upload it again.")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"The file has more than {MOST_BYTES // 2**20} MB.")
    return path.read_bytes()


@contextmanager
def _unexpected_told():
    """What nobody foresaw is logged, and a sentence for the visitor."""
    try:
        yield
    except ValueError:
        raise
    except Exception:
        logger.exception("a question could not be answered")
        raise ValueError(UNEXPECTED) from None


@contextmanager
def _gradio_errors():
    try:
        with _unexpected_told():
            yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None


def of_the_hub(model_file: Path = MODEL_FILE) -> gr.Blocks:
    """The page of the model that `model.json` names, at the commit that it names.

    Raises:
        ValueError: there is no such file, or it does not say both.
    """
    from transformers import pipeline

    form = '{"model": "YOU/MODEL", "revision": "COMMIT"}'
    if not model_file.is_file():
        raise ValueError(
            f"{model_file.name} is missing: `mm-orient push RUN YOU/MODEL --space` writes it, or write {form}"
        )
    said = json.loads(model_file.read_text(encoding="utf-8"))
    if not isinstance(said, dict) or not {"model", "revision"} <= set(said):
        raise ValueError(f"{model_file.name} must be {form}, got {said!r}")
    model, revision = said["model"], said["revision"]
    pipe = pipeline("multimodal-classification", model=model, revision=revision, trust_remote_code=True)
    return build(pipe, f"{model} at {revision[:8]}")


if __name__ == "__main__":
    launch(of_the_hub())
