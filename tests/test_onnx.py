"""A trained model as ONNX: ONNX Runtime says what PyTorch says, whatever the batch and the length of the texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import modeling_mm_orient
from modeling_mm_orient import MMOrientForMultiTaskClassification, relation_memory
from modeling_mm_orient.cli import main
from modeling_mm_orient.runs import hub, onnx_export
from modeling_mm_orient.runs.onnx_export import deviation, export_onnx
from modeling_mm_orient.runs.preset_files import load_preset
from modeling_mm_orient.runs.run_folder import load_run
from modeling_mm_orient.tasks import probabilities_of

from .helpers import TASKS, TOWER, make_processor, picture, reference_posts, save_run, small_towers, tiny_model

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

TEXTS = ["a cat", "when the code compiles at once", None, "nobody: me:", "cat"]


def posts(processor, count: int) -> dict:
    draw = np.random.default_rng(count)
    pictures = [None if row == 1 else draw.integers(0, 255, (20, 30, 3), dtype=np.uint8) for row in range(count)]
    return dict(processor(images=pictures, text=TEXTS[:count], return_tensors="pt"))


def answers(path, inputs: dict) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = {item.name for item in session.get_inputs()}
    outputs = [item.name for item in session.get_outputs()]
    found = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in names})
    return dict(zip(outputs, found, strict=True))


@torch.no_grad()
def assert_alike(model, path, inputs: dict) -> None:
    expected = probabilities_of(model.config.tasks, model.eval()(**inputs).logits)
    found = answers(path, inputs)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_run_with_its_memory_inside(tmp_path, capsys):
    run = save_run(tmp_path / "run")
    make_processor(max_tokens=16).save_pretrained(run)
    assert main(["export", str(run), "--output", str(tmp_path / "hub"), "--onnx"]) == 0
    folder = tmp_path / "hub" / "onnx"
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "features.onnx", "model.json"}
    model, processor = load_run(str(tmp_path / "hub"))
    for count in (1, 2, 5):
        assert_alike(model, folder / "model.onnx", posts(processor, count))
    said = json.loads((folder / "model.json").read_text())
    inputs = said["graphs"]["model.onnx"]["inputs"]
    assert inputs["input_ids"] == {"type": "int64", "shape": ["posts", "tokens"]}
    assert inputs["pixel_values"]["shape"] == ["posts", 3, 16, 16]
    assert [output["output"] for output in said["outputs"]] == ["offensive", "emotions", "intensity"]
    assert said["outputs"][0]["labels"] == ["no", "yes"] and "20 reference posts" in said["about"]["verdicts"]
    places = (
        str(tmp_path),
        str(Path(torch.__file__).parents[1]),
        str(Path(modeling_mm_orient.__file__).parent),
        'File "',
    )
    for graph in ("model.onnx", "features.onnx"):
        content = (folder / graph).read_bytes()
        assert not [place for place in places if place.encode() in content]


def test_packages_that_are_missing_are_named_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_export, "ONNX_AVAILABLE", False)
    monkeypatch.setattr(hub, "load_run", lambda *a: pytest.fail("loaded the model first"))
    assert main(["export", str(save_run(tmp_path / "run")), "--output", str(tmp_path / "hub"), "--onnx"]) == 1
    assert "modeling-mm-orient[onnx]" in capsys.readouterr().err and not (tmp_path / "hub").exists()


def test_a_graph_that_says_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"features\.onnx deviates from PyTorch by .*, more than"):
        export_onnx(tiny_model(tasks=TASKS[:1]).eval(), None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_a_graph_says_why(tmp_path, monkeypatch):
    model = tiny_model(relation_scope="memory").eval()
    model.build_relation_memory(reference_posts(12))
    with monkeypatch.context() as patch:
        patch.setattr(relation_memory, "MOST_BYTES_IN_CHECKPOINT", 10)
        with pytest.raises(ValueError, match="too large to be part of an ONNX graph"):
            export_onnx(model, None, tmp_path)
    with pytest.raises(ValueError, match="has encoders and no processor"):
        export_onnx(MMOrientForMultiTaskClassification(small_towers(joint_config=None)), None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_equals_at_the_last_place_are_found_by_a_graph_too():
    """As many as `look_up` finds: of equals none is left out by its place in the memory."""
    model = tiny_model(relation_scope="memory", memory_top_k=3).eval()
    references = reference_posts(12)
    for row in range(1, 6):
        references[row]["image_embeds"] = references[0]["image_embeds"]
    memory = model.build_relation_memory(references)
    asked = ("image", references[0]["image_embeds"][None].float(), torch.ones(1, dtype=torch.bool), 3, None)
    found, static = memory.look_up(*asked), memory.look_up_static(*asked)
    assert set(static.entries[0].tolist()) - {-1} == set(found.entries[0].tolist()) == set(range(6))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["modern", "paper", "features"])
def test_every_form(tmp_path, form):
    torch.manual_seed(0)
    fields = load_preset("modern" if form == "modern" else "paper")["config"]
    own = {"joint_config", "text_config", "vision_config"}
    fields = {name: value for name, value in fields.items() if name not in own and not name.endswith("_dim")}
    fields |= {"learner_hidden_sizes": [8], "relation_hidden_size": 8, "tasks": TASKS}
    if form == "features":
        model, processor = tiny_model(**fields | {"task_feature_dim": 3}).eval(), None
    elif form == "modern":
        text, vision = (
            TOWER | {"vocab_size": 400, "max_position_embeddings": 64},
            TOWER | {"image_size": 16, "patch_size": 8},
        )
        model = MMOrientForMultiTaskClassification(
            small_towers(
                joint_config={"model_type": "siglip", "text_config": text, "vision_config": vision},
                text_config={"model_type": "modernbert", "pad_token_id": 0} | text,
                vision_config={"model_type": "dinov2"} | TOWER | {"image_size": 16, "patch_size": 8, "mlp_ratio": 1},
                **fields,
            )
        ).eval()  # fmt: skip
        processor = make_processor(
            joint=True, max_tokens=64, joint_max_tokens=64, joint_padding="max_length", ngrams=True
        )
        processor.joint_processor.image_processor.size = {"shortest_edge": 16}
        processor.joint_processor.image_processor.crop_size = {"height": 16, "width": 16}
        words = [{"id": str(row), "text": f"cat number {row}", "offensive": row % 2} for row in range(30)]
        pictured = [
            {"id": f"p{row}", "image": picture("RGB", (9, 9), (row * 8, 10, 99)), "text": "x"} for row in range(20)
        ]
        model.build_relation_memory(words + pictured, processor)
        model.experts.rarity.fill_(1.0)
        model.config.picture_familiarity = 0.75
        weights = {"words": 0.2, "text": 0.2, "image": 0.2, "both": 0.1, "neighbours": 0.3, "network": 0.2}
        for task in model.config.tasks:
            task |= {"expert_weights": weights, "temperature": 1.3}
    else:
        model = MMOrientForMultiTaskClassification(small_towers(**fields)).eval()
        processor = make_processor(joint=True, max_tokens=16, joint_max_tokens=16)
        processor.joint_processor.image_processor.size = {"shortest_edge": 16}
        processor.joint_processor.image_processor.crop_size = {"height": 16, "width": 16}
    written = export_onnx(model, processor, tmp_path)
    assert (tmp_path / "features.onnx") in written and ((tmp_path / "model.onnx") in written) == (processor is not None)
    said = json.loads((tmp_path / "model.json").read_text())
    assert all(graph["deviation"] <= 1e-4 for graph in said["graphs"].values())
    if form == "modern":
        assert all(graph["inputs"]["ngram_ids"]["shape"] == ["posts", "ngrams"] for graph in said["graphs"].values())
    for count in (1, 4, 5) if processor is not None else ():
        assert_alike(model, tmp_path / "model.onnx", posts(processor, count))


def test_a_deviation_is_that_of_single_precision():
    assert deviation(np.float32([0.5, 2012.0002]), np.float32([0.5, 2012.0])) < 1e-6
    assert (
        deviation(np.float32([0.5002]), np.float32([0.5])) > 1e-4 and deviation(np.float32([9]), np.float32([0])) == 9
    )
