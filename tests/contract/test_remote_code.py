"""An exported folder in a fresh process where the package cannot be imported, offline, with and without torch-scatter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientProcessor, save_for_hub
from modeling_mm_orient.runs.hub import travelling_files

from ..helpers import TASKS, joint_config, make_processor, small_towers

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
folder, picture, scatter = sys.argv[1:4]
if scatter == "without":
    sys.modules["torch_scatter"] = sys.modules["faiss"] = None
elif scatter == "broken":
    import importlib.abc
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "torch_scatter":
                raise OSError("undefined symbol")
    sys.meta_path.insert(0, Broken())
try:
    import modeling_mm_orient
    sys.exit("the package can be imported: this proves nothing")
except ModuleNotFoundError:
    pass
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor, pipeline
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
base = AutoModel.from_pretrained(folder, **trust).eval()
model = AutoModelForSequenceClassification.from_pretrained(folder, **trust).eval()
inputs = processor(images=[picture, None], text=["a cat on a mat", "nobody: me:"], return_tensors="pt")
outputs = model(**inputs)
same = bool((base(**inputs).joint_representation == outputs.joint_representation).all())
pipe = pipeline("multimodal-classification", model=folder, **trust)
posts = [{"image": picture, "text": "a cat on a mat"}, {"text": "nobody: me:"}, {"image": picture}]
again = AutoModel.from_config(config, **trust)
print("RESULT " + json.dumps({
    "classes": [type(x).__name__ for x in (config, processor, base, model)],
    "logits": {name: value.tolist() for name, value in outputs.logits.items()},
    "same": same,
    "one": pipe(posts[0]),
    "batch": pipe(posts, batch_size=2),
    "scatter": sys.modules.get("torch_scatter") is not None,
    "neighbours": pipe(posts[0], neighbours=1)["neighbours"] if config.relation_scope == "memory" else None,
}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("hub") / "model")


def export(folder, **fields):
    torch.manual_seed(0)
    config = small_towers(
        joint_config=joint_config(), tasks=TASKS, image_threshold=0.99999, text_threshold=0.99999, **fields
    )
    model = MMOrientForMultiTaskClassification(config).eval()
    processor = make_processor(joint=True)
    picture = folder.parent / "picture.png"
    Image.linear_gradient("L").save(picture)
    if config.relation_scope == "memory":
        posts = [{"image": str(picture), "text": "a cat on a mat", "offensive": "yes"}, {"text": "nobody: me:"}]
        model.build_relation_memory(posts, processor)
    save_for_hub(model, processor, folder, "# card\n")
    return folder, picture, model, processor


def load_elsewhere(folder, picture, scatter, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    # -I: neither the working directory nor user paths; an editable install is taken off both import paths
    block = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
sys.path = [path for path in sys.path if path != sys.argv[4]]
"""
    command = [sys.executable, "-I", "-c", block + SCRIPT, str(folder), str(picture), scatter, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert "RESULT " in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT ")[1])


@pytest.mark.parametrize("scatter", [pytest.param("with", marks=pytest.mark.slow), "without", "broken"])
def test_auto_classes_and_pipeline(exported, scatter, tmp_path):
    folder, picture, model, processor = exported
    found = load_elsewhere(folder, picture, scatter, tmp_path)
    assert found["classes"] == [
        "MMOrientConfig", "MMOrientProcessor", "MMOrientModel", "MMOrientForMultiTaskClassification",
    ]  # fmt: skip
    assert found["same"]
    inputs = processor(images=[str(picture), None], text=["a cat on a mat", "nobody: me:"], return_tensors="pt")
    for name, value in model(**inputs).logits.items():
        torch.testing.assert_close(torch.tensor(found["logits"][name]), value, atol=1e-5, rtol=1e-4)
    assert list(found["one"]) == ["offensive", "emotions", "intensity"]
    assert sum(found["one"]["offensive"].values()) == pytest.approx(1)
    assert isinstance(found["one"]["intensity"], float) and len(found["batch"]) == 3
    for task in ("offensive", "emotions"):
        assert found["batch"][0][task] == pytest.approx(found["one"][task], abs=1e-5)


def test_the_exported_folder(exported):
    folder, *_ = exported
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoConfig"] == "modeling_mm_orient.MMOrientConfig"
    assert config["custom_pipelines"]["multimodal-classification"]["pt"] == ["AutoModelForSequenceClassification"]
    files = {path.name for path in folder.iterdir()}
    assert {
        *(path.name for path in travelling_files()),
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "README.md",
    } <= files
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_a_relation_memory_travels_too(tmp_path):
    folder, picture, model, processor = export(tmp_path / "model", relation_scope="memory", neighbour_labels=True)
    found = load_elsewhere(folder, picture, "without", tmp_path)
    inputs = processor(images=[str(picture), None], text=["a cat on a mat", "nobody: me:"], return_tensors="pt")
    for name, value in model(**inputs).logits.items():
        torch.testing.assert_close(torch.tensor(found["logits"][name]), value, atol=1e-5, rtol=1e-4)
    assert [post["labels"] for post in found["neighbours"]["image"]] == [{"offensive": "yes"}]
    save_for_hub(MMOrientForMultiTaskClassification(small_towers()), None, folder)
    assert not (folder / "relation_memory.safetensors").exists()


def test_travelling_files_import_each_other_alone():
    package = ROOT / "modeling_mm_orient"
    faces = ("modeling_mm_orient.py", "processing_mm_orient.py", "pipeline_mm_orient.py")
    needed = {os.path.basename(file) for face in faces for file in get_relative_import_files(str(package / face))}
    assert needed | set(faces) == {path.name for path in travelling_files()}
    # what transformers itself demands
    of_transformers = {"torch", "transformers", "numpy", "PIL", "safetensors", "huggingface_hub"}
    for path in travelling_files():
        assert set(get_imports(str(path))) <= of_transformers | set(sys.stdlib_module_names), path


def test_the_installed_package_loads_it_without_running_its_code(exported, monkeypatch):
    folder, picture, model, _ = exported
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.get_class_in_module", lambda *a, **k: pytest.fail("ran remote code")
    )
    again = MMOrientForMultiTaskClassification.from_pretrained(folder).eval()
    inputs = MMOrientProcessor.from_pretrained(folder)(images=[str(picture)], text=["a cat"], return_tensors="pt")
    for name, value in again(**inputs).logits.items():
        torch.testing.assert_close(value, model(**inputs).logits[name])


def test_an_export_over_an_existing_folder_and_a_failed_one(exported, tmp_path, monkeypatch):
    _, _, model, processor = exported
    folder = save_for_hub(model, processor, tmp_path / "model")
    before = (folder / "config.json").read_bytes()
    for name in ("onnx", "mine"):
        (folder / name).mkdir()
        (folder / name / "model.json").write_text("{}")
    save_for_hub(model, processor, folder)
    assert not (folder / "onnx").exists() and (folder / "mine" / "model.json").is_file()
    assert (folder / "joint_processor" / "tokenizer.json").is_file()
    missing = tmp_path / "no_such_file.py"
    monkeypatch.setattr("modeling_mm_orient.runs.hub.travelling_files", lambda: [*travelling_files(), missing])
    with pytest.raises(FileNotFoundError):
        save_for_hub(model, processor, folder)
    assert (folder / "config.json").read_bytes() == before
    with pytest.raises(FileNotFoundError):
        save_for_hub(model, processor, tmp_path / "other")
    assert not (tmp_path / "other").exists()
