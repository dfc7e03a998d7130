"""A memory's file with anything in it that is not what it has to be: refused by name, never taken, never a traceback."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_mm_orient.cli import main
from modeling_mm_orient.memory_file import MEMORY_FILE, _checksum
from modeling_mm_orient.relation_memory import RelationMemory

from ..helpers import reference_posts, tiny_model


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    tiny_model(relation_scope="memory").build_relation_memory(reference_posts(8)).save(folder)
    with safe_open(folder / MEMORY_FILE, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def tensor_variants(tensors) -> dict:
    found = {}
    for name, value in tensors.items():
        found[f"{name} missing"] = {n: v for n, v in tensors.items() if n != name}
        found[f"{name} too short"] = tensors | {name: value[:-1].contiguous()}
        found[f"{name} of another shape"] = tensors | {name: value[None].contiguous()}
        other = torch.float32 if value.dtype != torch.float32 else torch.int32
        found[f"{name} of another type"] = tensors | {name: value.to(other)}
        if value.is_floating_point() and name.endswith("embeds"):
            broken = value.clone()
            broken[3, 0] = float("nan")
            found[f"{name} no number"] = tensors | {name: broken}
            broken = value.clone()
            broken[3, 0] = float("inf")
            found[f"{name} infinite"] = tensors | {name: broken}
    labels = tensors["labels.offensive"].clone()
    labels[0] = 7
    found["a class that there is not"] = tensors | {"labels.offensive": labels}
    found["half a label"] = tensors | {"labels.emotions": torch.full_like(tensors["labels.emotions"], 0.5)}
    found["an infinite label"] = tensors | {"labels.intensity": torch.full((8,), float("inf"))}
    lengths = tensors["id_lengths"].clone()
    lengths[0] = -3
    found["a negative length"] = tensors | {"id_lengths": lengths}
    found["an id twice"] = tensors | {"ids": torch.frombuffer(bytearray(b"post 0" * 8), dtype=torch.uint8)}
    found["ids that are no text"] = tensors | {"ids": torch.full_like(tensors["ids"], 255)}
    return found


def metadata_variants(described) -> dict:
    tasks = json.loads(described["tasks"])
    swapped = [task | {"kind": "regression", "labels": []} if task["name"] == "offensive" else task for task in tasks]
    return {
        "no format": {"format": ""},
        "another format": {"format": "mm-orient relation memory 9"},
        "fingerprints no list": {"fingerprints": json.dumps({"a": 1})},
        "fingerprints of numbers": {"fingerprints": json.dumps([1])},
        "fingerprints no JSON": {"fingerprints": "["},
        "tasks no JSON": {"tasks": "{"},
        "tasks a number": {"tasks": "7"},
        "a task without a name": {"tasks": json.dumps([{"kind": "regression", "labels": []}])},
        "a task's kind swapped": {"tasks": json.dumps(swapped)},
        "a kind that there is not": {"tasks": json.dumps([tasks[0] | {"kind": "fuzzy"}, *tasks[1:]])},
        "a task twice": {"tasks": json.dumps([tasks[0], tasks[0]])},
        "labels a number": {"tasks": json.dumps([tasks[0] | {"labels": 2}, *tasks[1:]])},
        "fewer labels": {"tasks": json.dumps([tasks[0] | {"labels": ["no"]}, *tasks[1:]])},
        "checksum missing": {"checksum": None},
        "checksum of another": {"checksum": "00000000"},
        "indexes no JSON": {"indexes": "image"},
        "indexes of nothing": {"indexes": json.dumps(["sound"])},
        "index hashes no JSON": {"index_hashes": "["},
    }


def write(folder, tensors, described, checksum=True) -> None:
    folder.mkdir(exist_ok=True)
    if checksum:
        described = described | {"checksum": _checksum(tensors)}
    described = {name: value for name, value in described.items() if value is not None}
    save_file(tensors, folder / MEMORY_FILE, metadata=described)


def test_tensors_that_are_not_what_they_have_to_be(sound, tmp_path):
    tensors, described = sound
    variants = tensor_variants(tensors)
    assert len(variants) > 40
    for number, (what, changed) in enumerate(variants.items()):
        write(tmp_path / str(number), changed, described)
        with pytest.raises(ValueError, match=MEMORY_FILE):
            RelationMemory.load(tmp_path / str(number))
            pytest.fail(f"{what} was taken")


def test_metadata_that_are_not_what_they_have_to_be(sound, tmp_path):
    tensors, described = sound
    for number, (what, changed) in enumerate(metadata_variants(described).items()):
        write(tmp_path / str(number), tensors, described | changed, checksum="checksum" not in what)
        with pytest.raises(ValueError, match=MEMORY_FILE):
            RelationMemory.load(tmp_path / str(number))
            pytest.fail(f"{what} was taken")


def test_a_sound_one_is_taken(sound, tmp_path):
    write(tmp_path, *sound)
    assert len(RelationMemory.load(tmp_path)) == 8


def test_fingerprints_emptied_are_noticed(tmp_path):
    """A memory that says nothing of its encoders belongs to feature arrays, not to a model that has encoders."""
    from modeling_mm_orient import MMOrientForMultiTaskClassification

    from ..helpers import make_processor, small_towers

    config = small_towers(joint_config=None, relation_scope="memory")
    config.text_config.vocab_size = 300
    model = MMOrientForMultiTaskClassification(config)
    model.build_relation_memory([{"id": "a", "text": "words"}], make_processor())
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / MEMORY_FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = file.metadata() | {"fingerprints": "[]"}
    save_file(tensors, tmp_path / MEMORY_FILE, metadata=described)
    with pytest.raises(ValueError, match="does not say by which encoders"):
        MMOrientForMultiTaskClassification.from_pretrained(tmp_path)


def test_inspect_calls_no_damaged_memory_sound(sound, tmp_path, capsys):
    from ..helpers import make_processor

    tensors, described = sound
    model = tiny_model(relation_scope="memory")
    model.build_relation_memory(reference_posts(8))
    model.save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    broken = tensors["image_embeds"].clone()
    broken[2] = float("nan")
    write(tmp_path, tensors | {"image_embeds": broken}, described)
    assert main(["memory", "inspect", str(tmp_path)]) == 1
    assert "the image embedding of the post 'post 2' is not finite" in capsys.readouterr().err


def test_no_post_that_is_no_number_is_added():
    model = tiny_model(relation_scope="memory")
    memory = model.build_relation_memory(reference_posts(8))
    bad = reference_posts(1, first=20)
    bad[0]["text_embeds"][0] = float("nan")
    with pytest.raises(ValueError, match="text embedding of the post 'post 20' is not finite"):
        memory.add(model.encode_reference_posts(bad))
    assert len(memory) == 8
