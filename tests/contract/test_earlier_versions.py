"""A checkpoint and an exported folder of version 0.1.0 load, and give the numbers they gave."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_mm_orient import (
    MMOrientForMultiTaskClassification,
    MMOrientModel,
    MMOrientProcessor,
    MultimodalClassificationPipeline,
)

DATA = Path(__file__).parents[1] / "data"


def test_a_checkpoint_gives_the_same_numbers():
    folder = DATA / "checkpoint_0_1"
    model = MMOrientForMultiTaskClassification.from_pretrained(folder).eval()
    case = load_file(folder / "case.safetensors")
    inputs = {name.removeprefix("in."): value for name, value in case.items() if name.startswith("in.")}
    asked = {"output_components": True, "output_relations": True, "output_attentions": True}
    with torch.no_grad():
        outputs = model(**inputs, **asked)
    found = dict(outputs) | {f"logits.{name}": value for name, value in outputs.logits.items()}
    expected = {name.removeprefix("out."): value for name, value in case.items() if name.startswith("out.")}
    assert len(expected) == 18
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)
    assert len(model.relation_memory) == 40


def test_its_weights_are_written_under_the_same_names(tmp_path):
    folder = DATA / "checkpoint_0_1"
    MMOrientForMultiTaskClassification.from_pretrained(folder).save_pretrained(tmp_path)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    memories = [load_file(place / "relation_memory.safetensors") for place in (folder, tmp_path)]
    assert memories[0].keys() == memories[1].keys()
    assert all(torch.equal(memories[0][name], memories[1][name]) for name in memories[0])
    old, new = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    later = {"members": 1, "experts": [], "merge_normalize": False, "modality_dropout": 0.0, "label_smoothing": 0.0}
    later |= {"unfamiliar_pictures": 0.0, "picture_familiarity": None}
    assert set(new) - set(old) == {"auto_map", "custom_pipelines", *later} and not set(old) - set(new)
    assert {name: new[name] for name in later} == later  # what was trained without them does without them


@pytest.fixture
def exported(tmp_path) -> Path:
    with zipfile.ZipFile(DATA / "export_0_1.zip") as file:
        file.extractall(tmp_path)
    return tmp_path


def test_an_exported_folder_gives_the_same_verdicts(exported):
    case = json.loads((exported / "case.json").read_text())
    model = MMOrientForMultiTaskClassification.from_pretrained(exported)
    pipe = MultimodalClassificationPipeline(model=model, processor=MMOrientProcessor.from_pretrained(exported))
    posts = [{"image": str(exported / "post.png"), "text": case["texts"][0]}, {"text": case["texts"][1]}]
    for found, expected in zip(pipe(posts, neighbours=2), case["verdicts"], strict=True):
        assert found.keys() == expected.keys()
        assert found["offensive"] == pytest.approx(expected["offensive"], abs=1e-5)
        assert found["emotions"] == pytest.approx(expected["emotions"], abs=1e-5)
        assert found["intensity"] == pytest.approx(expected["intensity"], abs=1e-5)
        for modality, theirs in expected["neighbours"].items():
            ours = found["neighbours"][modality]
            assert [entry["id"] for entry in ours] == [entry["id"] for entry in theirs]
            assert [e["similarity"] for e in ours] == pytest.approx([e["similarity"] for e in theirs], abs=1e-5)


def test_the_model_without_heads_loads_from_it(exported):
    assert MMOrientModel.from_pretrained(exported).relation_memory is not None
