"""What a folder, a file or a picture can make the process do: nothing that was not asked for."""

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from modeling_mm_orient import (
    MMOrientConfig,
    MMOrientForMultiTaskClassification,
    MMOrientProcessor,
    MultimodalClassificationPipeline,
)
from modeling_mm_orient.pictures import FORMATS, MOST_ELONGATED, fetched, post_key, read_image, reduced
from modeling_mm_orient.runs.memory import add_to_memory, remove_from_memory
from modeling_mm_orient.text_removal import read_text

from ..helpers import as_bytes, make_processor, picture, small_towers

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.fixture
def pipe():
    config = small_towers(joint_config=None)
    config.text_config.vocab_size = 300
    torch.manual_seed(0)
    return MultimodalClassificationPipeline(
        model=MMOrientForMultiTaskClassification(config).eval(), processor=make_processor()
    )


# names in files


@pytest.mark.parametrize("field", ["text_reader", "inpainter"])
@pytest.mark.parametrize(
    "name", ["builtins:exec", "os:system", "modeling_mm_orient.text_removal:rapidocr_reader", "x", ""]
)
def test_a_name_in_a_file_is_looked_up_and_never_imported(tmp_path, field, name):
    make_processor().save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: name, "read_missing_text": True}))
    with pytest.raises(ValueError, match=f"`{field}` must be one of"):
        MMOrientProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["", "text_config", "vision_config"])
def test_a_number_of_labels_is_not_counted_out(tmp_path, part):
    small_towers(joint_config=None).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    said = json.loads(path.read_text())
    (said[part] if part else said)["num_labels"] = 10**9
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match="`num_labels` in a file is 1000000000, more than 100000"):
        MMOrientConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_processor": {"size": {"height": 60_000, "width": 16}}}, "`size` of the image processor is"),
        ({"image_processor": {"size": {"shortest_edge": 4096}}}, "a shortest edge alone may be 1024 pixels"),
        (
            {"image_processor": {"size_divisor": 12_000}},
            "`size_divisor` of the image processor is 12000, more than 4096",
        ),
        ({"image_processor": {"max_patches": 500_000}}, "`max_patches` of the image processor is 500000"),
        ({"image_processor": {"image_grid_pinpoints": [[40_960, 40_960]]}}, "`image_grid_pinpoints` of the image"),
        ({"max_tokens": 10**30}, "`max_tokens` must be a whole number from 1 to 2147483647"),
        (
            {"joint_padding": "max_length", "joint_max_tokens": 10**9},
            "`joint_max_tokens` pads every text to 1000000000",
        ),
    ],
)
def test_a_processor_asks_for_no_more_than_an_encoder_takes(tmp_path, change, said):
    make_processor().save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    before = json.loads(path.read_text())
    after = {name: before[name] | value if isinstance(value, dict) else value for name, value in change.items()}
    path.write_text(json.dumps(before | after))
    with pytest.raises(ValueError, match=said):
        MMOrientProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("members", 10**30),
        ("members", 10**6),
        ("relation_layers", 10**9),
        ("task_feature_dim", 10**30),
        ("memory_top_k", 10**12),
        ("attention_hidden_size", 2**40),
        ("learner_hidden_sizes", [2**40]),
    ],
)
def test_a_model_has_no_more_parts_than_one_may_have(tmp_path, field, value):
    small_towers(joint_config=None).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=f"`{field}` must be .*(at most|to) "):
        MMOrientConfig.from_pretrained(tmp_path)


def test_a_caller_gives_a_function_itself(tmp_path):
    seen = []
    processor = make_processor(text_reader=lambda pixels: seen.append(pixels.shape) or [], read_missing_text=True)
    with pytest.raises(ValueError, match="neither an image nor a text"):
        processor(images=[None], text=[""])
    processor(images=[picture()], text=["words"])
    processor(images=[picture()], text=[""], return_tensors="np")
    assert seen == [(30, 20, 3)]
    with pytest.raises(ValueError, match="a function of yours"):
        processor.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


# pictures


@pytest.mark.parametrize("name", ["a.eps", "a.jpg", "a.png", "a"])
def test_postscript_is_named_and_not_opened(tmp_path, name, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / name).write_bytes(EPS)
    for source in (tmp_path / name, EPS, io.BytesIO(EPS)):
        with pytest.raises(ValueError, match="pictures in EPS are not opened"):
            read_image(source)


@pytest.mark.parametrize("format", ["TGA", "PCX", "SGI", "PDF", "DDS"])
def test_only_listed_formats_are_opened(format):
    content = as_bytes(picture(), format)
    with pytest.raises(ValueError, match=r"not opened|no picture in a known format"):
        read_image(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM"])
def test_every_listed_format_is_read(format):
    assert format in FORMATS
    found = read_image(as_bytes(picture("RGB", (32, 32), "red"), format))
    assert found.mode == "RGB" and found.size == (32, 32)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00garbage", b"\x00" * 20])
def test_broken_metadata_never_refuses_a_picture(format, exif):
    content = as_bytes(picture("RGB", (8, 8), "red"), format, exif=exif)
    assert read_image(content).getpixel((4, 4))[0] > 200


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 30_000), (30_000, 1), (2, 900), (65_000, 3)])
def test_an_elongated_picture_stays_small(size):
    found = reduced(Image.new("RGB", size, "red"))
    assert max(found.size) <= MOST_ELONGATED * min(found.size) and found.width * found.height <= 4_000_000
    assert (255, 0, 0) in set(found.getdata())


def test_an_elongated_picture_through_a_resize_by_the_shortest_side():
    clip = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    processor = MMOrientProcessor(clip, make_processor().tokenizer)
    tracemalloc.start()
    inputs = processor(images=[Image.new("RGB", (1, 30_000))], text=["x"], return_tensors="np")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert inputs["pixel_values"].shape == (1, 3, 224, 224) and peak < 200 * 2**20


def test_a_picture_too_narrow_for_a_letter_is_not_given_to_an_engine():
    assert read_text(Image.new("RGB", (1, 100)), lambda pixels: pytest.fail("was read")) == []


def test_an_engines_error_is_that_pictures_problem():
    def breaks(pixels):
        raise RuntimeError("onnx: out of ideas")

    processor = make_processor(text_reader=breaks, remove_overlaid_text=True)
    with pytest.raises(ValueError, match=r"`images\[0\]`: its text cannot be read: onnx: out of ideas"):
        processor(images=[picture()], text=["x"])


def test_a_long_string_is_not_repeated_in_the_message():
    content = base64.b64encode(bytes(2_000_000)).decode()
    with pytest.raises(ValueError) as raised:
        read_image(content)
    assert len(str(raised.value)) < 1000
    with pytest.raises(ValueError, match="not base64"):
        read_image("data:image/png;base64,%%%")
    with pytest.raises(ValueError, match="must be in base64"):
        read_image("data:image/png,abc")
    url = "data:image/png;base64," + base64.b64encode(as_bytes(picture("RGB", (3, 4)))).decode()
    assert read_image(url).size == (3, 4)


@pytest.mark.parametrize("source", [{}, {"path": None, "bytes": None}, None, 7, ["a.jpg"]])
def test_what_is_no_picture_is_said_so(source):
    with pytest.raises(ValueError, match="is no picture"):
        read_image(source)


@pytest.mark.parametrize("content, said", [(b"", "it is empty"), (b"x", "no picture in a known format")])
def test_next_to_nothing_is_no_picture(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)
    for source in (tmp_path / "a.jpg", content, io.BytesIO(content)):
        with pytest.raises(ValueError, match=said):
            read_image(source)


def test_only_regular_files_are_read(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "loop.jpg", "folder.jpg"):
        for read in (read_image, lambda path: post_key({"image": path})):
            with pytest.raises((ValueError, OSError)):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "array, size",
    [
        (np.zeros((4, 6, 3), np.uint8), (6, 4)),
        (np.zeros((3, 4, 6), np.float32), (6, 4)),
        (torch.zeros(3, 4, 6), (6, 4)),
        (np.zeros((4, 6)), (6, 4)),
        (np.zeros((4, 6, 4), np.uint8), (6, 4)),
        (np.zeros((4, 6, 1), np.uint8), (6, 4)),
    ],
)
def test_arrays_are_pictures(array, size, pipe):
    assert read_image(array).size == size
    assert "x" in pipe({"image": array, "text": "words"})


NO_PICTURES = [(2, 2, 2, 3), (5, 6, 5), (3,), (0, 3)]


@pytest.mark.parametrize("array", [*(np.zeros(shape) for shape in NO_PICTURES), np.full((2, 2), np.nan)])
def test_arrays_that_are_none(array):
    with pytest.raises(ValueError, match="array"):
        read_image(array)


# URLs


class Endless(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.flush_headers() if self.path == "/drips" else self.end_headers()
        try:
            while self.path == "/drips":
                self.wfile.write(b"X-A: b\r\n")
                time.sleep(0.05)
            if self.path == "/stops":
                time.sleep(30)
            for _ in range(3000):
                self.wfile.write(bytes(2**20))
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()


def test_a_url_has_a_size_and_a_time(server):
    with pytest.raises(ValueError, match="more than 2 MiB"):
        fetched(f"{server}/endless", most_bytes=2**21)
    with pytest.raises(ValueError, match="no answer within"):
        fetched(f"{server}/stops", timeout=0.3)
    with pytest.raises(ValueError, match="not there after"):
        fetched(f"{server}/drips", in_all=0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=r"cannot be fetched|no answer"):
            read_image(f"http://127.0.0.1:{free.getsockname()[1]}/x")


# a server that passes on what strangers send


def test_a_pipeline_that_reads_no_strings(pipe, tmp_path):
    picture().save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    safe = ("pil", "bytes", "array")
    for source in (str(tmp_path / "a.png"), tmp_path / "a.png", "http://127.0.0.1:1/x", "file:///etc/passwd",
                   "data:image/png;base64,AA==", {"path": str(tmp_path / "a.png"), "bytes": None}):  # fmt: skip
        with pytest.raises(ValueError, match="may not be given as"):
            pipe({"image": source, "text": "x"}, image_sources=safe)
    for source in (content, picture(), {"bytes": content, "path": "/etc/passwd"}, np.zeros((4, 4, 3), np.uint8)):
        assert "x" in pipe({"image": source, "text": "x"}, image_sources=safe)
    always = MultimodalClassificationPipeline(model=pipe.model, processor=pipe.processor, image_sources=safe)
    with pytest.raises(ValueError, match="may not be given as path"):
        always({"image": str(tmp_path / "a.png"), "text": "x"})
    with pytest.raises(ValueError, match="`image_sources` must be some of"):
        pipe({"text": "x"}, image_sources="bytes")


def test_posts_of_the_pipeline(pipe):
    assert pipe([]) == []
    with pytest.raises(ValueError, match="not 'images'"):
        pipe({"images": "a.png", "text": "x"})
    with pytest.raises(ValueError, match="neither an image nor a text"):
        pipe({"text": " "})
    with pytest.raises(ValueError, match="`neighbours` must be a whole number of at least 0"):
        pipe({"text": "x"}, neighbours=-1)
    with pytest.raises(ValueError, match="must be a string or None, got int"):
        pipe({"text": 3})


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_bad_post_does_not_end_a_list(pipe, batch_size):
    posts = [{"text": "one"}, {"image": b"no picture", "text": "x"}, {"text": "two"}, {"image": "missing.png"}]
    with pytest.raises(ValueError, match="known format"):
        pipe(posts, batch_size=batch_size)
    found = pipe(posts, batch_size=batch_size, on_error="skip")
    assert [set(verdict) for verdict in found] == [{"x"}, {"error"}, {"x"}, {"error"}]
    assert "known format" in found[1]["error"] and "does not exist" in found[3]["error"]
    assert found[2]["x"] == pytest.approx(pipe({"text": "two"})["x"], abs=1e-6)
    with pytest.raises(ValueError, match="`on_error` must be"):
        pipe(posts, on_error="ignore")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_the_processor_refuses_is_one_posts_own(pipe, batch_size, monkeypatch):
    whole = pipe.processor.image_processor

    def fussy(images, **options):
        if any(image.size == (7, 7) for image in images):
            raise ValueError("an engine that takes no 7 x 7 pixels")
        return whole(images, **options)

    monkeypatch.setattr(pipe.processor, "image_processor", fussy)
    posts = [{"image": picture(), "text": "one"}, {"image": picture(size=(7, 7)), "text": "x"}, {"text": "two"}]
    with pytest.raises(ValueError, match="an engine"):
        pipe(posts, batch_size=batch_size)
    found = pipe(posts, batch_size=batch_size, on_error="skip")
    assert [set(verdict) for verdict in found] == [{"x"}, {"error"}, {"x"}]
    assert "an engine" in found[1]["error"]
    assert found[2]["x"] == pytest.approx(pipe({"text": "two"})["x"], abs=1e-6)


def test_a_data_set_through_the_pipeline_and_the_processor(pipe):
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]})
    assert [verdict["x"] for verdict in pipe(rows)] == [pipe({"text": text})["x"] for text in ("one", "two")]
    mapped = rows.map(pipe.processor, batched=True)
    assert len(mapped["input_ids"]) == 2
    with pytest.raises(ValueError, match="neither `image` nor `text`"):
        pipe(rows.select_columns(["label"]))


def test_a_data_sets_pictures_are_opened_as_all_others_are(pipe, monkeypatch):
    import datasets

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    pictures = [{"bytes": content, "path": None} for content in (EPS, b"junk", as_bytes(picture()))]
    posts = datasets.Dataset.from_dict({"image": pictures, "text": ["a", "b", "c"]}, features=features)
    found = pipe(posts, on_error="skip")
    assert [set(verdict) for verdict in found] == [{"error"}, {"error"}, {"x"}]
    with pytest.raises(ValueError, match="may not be given as bytes"):
        pipe(posts, image_sources=("pil",))
    with pytest.raises(ValueError, match="EPS are not opened"):
        pipe.model.build_relation_memory(posts, pipe.processor)


def test_half_a_surrogate_is_a_text(pipe):
    assert "x" in pipe({"text": "half \ud83d of one"})


# what a run's own files say


def test_a_part_of_a_processor_asks_for_no_code_of_its_own(tmp_path):
    processor = make_processor()
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    described = json.loads(path.read_text())
    named = {"AutoImageProcessor": "evil.Evil"}
    described["image_processor"] = {**described.get("image_processor", {}), "image_processor_type": "Evil"}
    described["image_processor"]["auto_map"] = named
    path.write_text(json.dumps(described))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        MMOrientProcessor.from_pretrained(tmp_path)


def test_nor_does_the_joint_processor(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    make_processor(joint=True).save_pretrained(tmp_path)
    path = tmp_path / "joint_processor" / "processor_config.json"
    named = {"processor_class": "Evil", "auto_map": {"AutoProcessor": "evil.Evil"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        MMOrientProcessor.from_pretrained(tmp_path)


def test_a_memory_outside_the_run_is_changed_only_if_named(tmp_path):
    config = small_towers(joint_config=None, relation_scope="memory", memory_top_k=2)
    config.text_config.vocab_size = 300
    model, processor = MMOrientForMultiTaskClassification(config), make_processor()
    model.build_relation_memory([{"id": str(n), "text": f"post {n}"} for n in range(4)], processor)
    elsewhere = tmp_path / "elsewhere"
    model.relation_memory.save(elsewhere)
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"relation_memory": str(elsewhere)}))
    before = (elsewhere / "relation_memory.safetensors").read_bytes()
    with pytest.raises(ValueError, match="outside the run: --output"):
        remove_from_memory(str(tmp_path / "run"), ["1"])
    with pytest.raises(ValueError, match="outside the run: --output"):
        add_to_memory(str(tmp_path / "run"), None)
    assert (elsewhere / "relation_memory.safetensors").read_bytes() == before
    memory, _ = remove_from_memory(str(tmp_path / "run"), ["1"], output=str(elsewhere))
    assert len(memory) == 3


def test_no_module_of_the_package_opens_pictures_by_itself():
    code = "import ast, pathlib, modeling_mm_orient as m\n"
    code += "for p in pathlib.Path(m.__file__).parent.rglob('*.py'):\n"
    code += "    for n in ast.walk(ast.parse(p.read_text())):\n"
    code += "        if isinstance(n, ast.Attribute) and n.attr == 'open' and getattr(n.value, 'id', '') == 'Image':\n"
    code += "            print(p.name)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(found) <= {"pictures.py", "picture_files.py"}
