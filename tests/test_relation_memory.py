"""The memory by itself: what it finds, holds, writes and refuses."""

import json
import math
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from modeling_mm_orient import memory_file
from modeling_mm_orient import relation_memory as module
from modeling_mm_orient.memory_file import INDEX_FILES, MEMORY_FILE, _read, verify_memory
from modeling_mm_orient.optional_dependencies import FAISS_AVAILABLE
from modeling_mm_orient.relation_memory import RelationMemory

from .helpers import TASKS, feature_batch, reference_posts, tiny_model

EVERYONE = torch.ones(5, dtype=torch.bool)
needs_faiss = pytest.mark.skipif(not FAISS_AVAILABLE, reason="FAISS is not installed")


def make_memory(count: int = 40, first: int = 0, tasks=TASKS) -> RelationMemory:
    return tiny_model(tasks=tasks).encode_reference_posts(reference_posts(count, first))


def wider(memory: RelationMemory) -> RelationMemory:
    memory.embeds["image"] = F.pad(memory.embeds["image"], (0, 1))
    return memory


def queries(count: int = 5) -> torch.Tensor:
    return feature_batch(count, seed=7)["image_embeds"]


def cosines(memory: RelationMemory) -> torch.Tensor:
    return F.normalize(queries(), dim=-1) @ F.normalize(memory.embeds["image"].float(), dim=-1).T


def found(memory, *arguments, **options) -> list[list[int]]:
    entries = memory.look_up("image", queries(), EVERYONE, *arguments, **options).entries
    return [[entry for entry in row if entry >= 0] for row in entries.tolist()]


def test_top_k():
    memory = make_memory()
    assert found(memory, 6, None) == cosines(memory).topk(6).indices.tolist()


def test_threshold_alone_takes_all_above_and_both_takes_the_nearest_of_them():
    memory = make_memory(400)
    expected = [[i for i in row.argsort(descending=True).tolist() if row[i] > 0.3] for row in cosines(memory)]
    assert max(map(len, expected)) > 72 > 6 > min(len(row[:6]) for row in expected) - 1  # more than one window
    assert found(memory, None, 0.3) == expected
    assert found(memory, 6, 0.3) == [row[:6] for row in expected]


def test_similarities_stand_beside_their_entries_and_padding_is_marked():
    memory = make_memory()
    neighbours = memory.look_up("image", queries(), torch.tensor([True, True, False, True, True]), 6, 0.2)
    for row in range(5):
        for entry, similarity in zip(neighbours.entries[row], neighbours.similarity[row], strict=True):
            assert similarity == 0 if entry < 0 else abs(similarity - cosines(memory)[row, entry]) < 1e-5
    assert (neighbours.entries[2] == -1).all()


def test_a_post_without_the_modality_asks_for_nobody(monkeypatch):
    memory, asked = make_memory(), []
    engine = memory.search("image")
    nearest = engine.nearest
    monkeypatch.setattr(engine, "nearest", lambda rows, count: asked.append(len(rows)) or nearest(rows, count))
    everyone = memory.look_up("image", queries(), EVERYONE, 6, None)
    some = memory.look_up("image", queries(), torch.tensor([True, False, True, True, False]), 6, None)
    nobody = memory.look_up("image", queries(), ~EVERYONE, 6, None)
    assert asked == [5, 3] and not len(nobody.entries[0])
    for row in (0, 2, 3):
        torch.testing.assert_close(some.entries[row], everyone.entries[row])
        torch.testing.assert_close(some.similarity[row], everyone.similarity[row])


def all_alike(count: int) -> RelationMemory:
    memory = make_memory(count)
    nearest = int(cosines(memory)[0].argmax())
    memory.embeds["image"] = memory.embeds["image"][[nearest] * count]
    return memory


def test_equals_at_the_edge_are_all_neighbours_in_the_order_of_the_memory():
    assert found(all_alike(12), 3, None) == [list(range(12))] * 5


def test_at_most_so_many_are_found_the_nearest_and_of_equals_the_first():
    memory = make_memory(400)
    expected = [[i for i in row.argsort(descending=True).tolist() if row[i] > -0.9][:20] for row in cosines(memory)]
    assert found(memory, None, -0.9, most=20) == expected
    assert found(all_alike(150), 3, None, most=20) == [list(range(20))] * 5


def test_a_cosine_equal_to_the_threshold_is_not_above_it():
    memory = make_memory()
    near = memory.look_up("image", queries(), EVERYONE, 8, None)
    for row in range(5):
        for place in (1, 5):
            alone = queries()[row : row + 1]
            threshold = float(near.similarity[row, place])
            entries = memory.look_up("image", alone, EVERYONE[:1], None, threshold).entries[0]
            assert entries.tolist() == near.entries[row, :place].tolist()


def test_left_out_entries_are_replaced_by_the_next():
    memory = make_memory(400)
    near = cosines(memory).topk(100).indices
    left_out = [set(row[:90].tolist()) for row in near]

    def forbidden(entries):
        return torch.tensor([[e in left_out[row] for e in entries[row].tolist()] for row in range(len(entries))])

    assert found(memory, 6, None, left_out=forbidden) == near[:, 90:96].tolist()


def test_posts_without_the_modality_are_not_found():
    memory = make_memory()
    memory.present["image"][:35] = False
    assert all(set(row) == {35, 36, 37, 38, 39} for row in found(memory, 6, None))


def test_adding_and_removing():
    memory, more = make_memory(), make_memory(3, first=40)
    memory.add(more)
    assert len(memory) == 43 and memory.ids[-1] == "post 42"
    assert memory.label(memory.tasks[0], 42) == more.label(memory.tasks[0], 2)
    memory.remove(["post 0", "post 41"])
    assert len(memory) == 41 and memory.ids[0] == "post 1" and memory.ids[-2:] == ["post 40", "post 42"]
    assert torch.equal(memory.embeds["text"][-1], more.embeds["text"][2])
    memory.remove(memory.ids[:])
    assert len(memory) == 0 and found(memory, 6, None) == [[]] * 5


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda memory: memory.add(make_memory(3, first=38)), "a post 'post 38' already"),
        (lambda memory: memory.remove(["post 3", "post 99"]), "no post 'post 99'"),
        (lambda memory: memory.add(make_memory(3, 50, tasks=TASKS[:1])), "labelled for other tasks"),
        (lambda memory: memory.add(wider(make_memory(3, 50))), "image embeddings of another width"),
    ],
)
def test_refused_changes_change_nothing(change, message):
    memory = make_memory()
    with pytest.raises(ValueError, match=message):
        change(memory)
    assert len(memory) == 40 and len(memory.embeds["image"]) == 40


def test_an_id_twice_is_refused():
    posts = reference_posts(3)
    posts[2]["id"] = "post 0"
    with pytest.raises(ValueError, match="the id 'post 0' twice"):
        tiny_model().build_relation_memory(posts)


def test_posts_without_ids_are_named_by_content_or_row():
    posts = [post | {"id": None, "post_key": "ab" * 32} for post in reference_posts(2)]
    assert tiny_model().encode_reference_posts(posts).ids == ["ab" * 8, "ab" * 8 + "#2"]
    posts = [{name: value for name, value in post.items() if name != "id"} for post in reference_posts(2)]
    assert tiny_model().encode_reference_posts(posts).ids == ["0", "1"]


def test_labels_by_number_or_name_and_missing_ones():
    posts = reference_posts(4)
    posts[0] |= {"offensive": "yes", "emotions": ["anger"], "intensity": 2.5}
    posts[1] |= {"offensive": 0, "emotions": [1, 0, 1], "intensity": None}
    posts[2] |= {"offensive": None, "emotions": None}
    memory = tiny_model().encode_reference_posts(posts)
    known = [[memory.label(task, entry) for task in memory.tasks] for entry in range(3)]
    assert known[0] == ["yes", ["anger"], 2.5] and known[1] == ["no", ["joy", "fear"], None]
    assert known[2][:2] == [None, None]
    posts[3]["offensive"] = "maybe"
    with pytest.raises(ValueError, match="'maybe' is no label of the task 'offensive'; it has no, yes"):
        tiny_model().encode_reference_posts(posts)


def test_label_summaries_are_beyond_the_average():
    posts = reference_posts(4)
    for post, value in zip(posts, ("yes", "yes", "no", None), strict=True):
        post |= {"offensive": value, "emotions": None, "intensity": {"yes": 3.0, "no": 0.0}.get(value)}
    values, known = tiny_model().encode_reference_posts(posts).label_summaries()["offensive"]
    torch.testing.assert_close(values[:, 1], torch.tensor([1 / 3, 1 / 3, -2 / 3, 0]))
    assert known[:, 1].tolist() == [1, 1, 1, 0]
    values, _ = tiny_model().encode_reference_posts(posts).label_summaries()["intensity"]
    torch.testing.assert_close(values[:3].square().mean(), torch.tensor(1.0))
    assert math.isclose(values.sum(), 0, abs_tol=1e-6) and values[3] == 0


def test_evidence_names_posts_and_labels():
    memory = make_memory()
    neighbours = memory.look_up("image", queries(), EVERYONE, 6, None)
    evidence = memory.evidence(neighbours.entries[0], neighbours.similarity[0], most=2)
    assert [item["id"] for item in evidence] == [f"post {entry}" for entry in neighbours.entries[0, :2]]
    assert evidence[0]["similarity"] > evidence[1]["similarity"]
    assert evidence[0]["labels"]["offensive"] in ("no", "yes")


def test_a_memory_comes_back_as_it_was_saved(tmp_path):
    memory = make_memory()
    memory.ids[0] = "ein Käse 🧀, with\nnewline"
    memory.save(tmp_path)
    again = RelationMemory.load(tmp_path)
    assert again.ids == memory.ids and again.tasks == memory.tasks
    assert [path.name for path in tmp_path.iterdir()] == [MEMORY_FILE]
    for part in ("embeds", "present", "labels"):
        for name, value in getattr(memory, part).items():
            torch.testing.assert_close(getattr(again, part)[name], value, equal_nan=True)
    assert found(again, 6, None) == found(memory, 6, None)


def test_a_damaged_memory_is_refused(tmp_path, monkeypatch):
    make_memory().save(tmp_path)
    content = bytearray((tmp_path / MEMORY_FILE).read_bytes())
    content[-1000] ^= 1
    (tmp_path / MEMORY_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its content does not match its checksum"):
        RelationMemory.load(tmp_path)
    monkeypatch.setattr(memory_file, "MOST_BYTES_IN_CHECKPOINT", 10)  # too big to be read whole at each start
    RelationMemory.load(tmp_path)
    with pytest.raises(ValueError, match="is damaged"):
        verify_memory(tmp_path)
    (tmp_path / MEMORY_FILE).write_bytes(content[:-50])
    with pytest.raises(ValueError, match="is damaged"):
        RelationMemory.load(tmp_path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no relation memory there"):
        RelationMemory.load(tmp_path)
    save_file({"weight": torch.zeros(2)}, tmp_path / MEMORY_FILE)
    with pytest.raises(ValueError, match="is no relation memory of format"):
        RelationMemory.load(tmp_path)


@needs_faiss
@pytest.mark.parametrize("of", ["nobody", "another memory", "a memory that does not say"])
def test_an_index_that_is_damaged_or_anothers_is_not_used(tmp_path, caplog, of):
    memory, other = make_memory(300), make_memory(300, first=300)
    for folder, content in (("a", memory), ("b", other)):
        content.build_index("hnsw", count=6)
        content.save(tmp_path / folder)
    path = tmp_path / "a" / INDEX_FILES["image"]
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged if of == "nobody" else (tmp_path / "b" / path.name).read_bytes())
    if of == "a memory that does not say":
        tensors, described = _read(tmp_path / "a" / MEMORY_FILE)
        hashes = json.loads(described["index_hashes"])
        described["index_hashes"] = json.dumps({"text": hashes["text"]})
        save_file({name: value.clone() for name, value in tensors.items()}, tmp_path / "a" / MEMORY_FILE, described)
    again = RelationMemory.load(tmp_path / "a")
    assert (again.search("image").kind, again.search("text").kind) == ("exact", "hnsw")
    assert f"{path} is damaged, or an index of another memory: exact search instead" in caplog.text
    assert found(again, 6, None) == cosines(memory).topk(6).indices.tolist()
    with pytest.raises(ValueError, match="is damaged, or an index of another memory: build it anew"):
        verify_memory(tmp_path / "a")


@needs_faiss
def test_an_index_is_saved_with_the_memory_and_dropped_when_posts_change(tmp_path, monkeypatch):
    memory = make_memory(300)
    recalls = memory.build_index("hnsw", count=6)
    assert set(recalls) == {"image", "text"} and min(recalls.values()) > 0.9
    memory.save(tmp_path)
    again = RelationMemory.load(tmp_path)
    assert again.search("text").kind == "hnsw" and found(again, 6, None) == found(memory, 6, None)
    again.add(make_memory(1, first=300))
    assert again.search("text").kind == "exact"
    again.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MEMORY_FILE]
    memory.save(tmp_path)
    (tmp_path / INDEX_FILES["image"]).unlink()  # a crash between the files
    assert RelationMemory.load(tmp_path).search("image").kind == "exact"
    monkeypatch.setattr(module, "FAISS_AVAILABLE", False)
    assert RelationMemory.load(tmp_path).search("image").kind == "exact"


def test_file_holds_half_precision(tmp_path):
    make_memory().save(tmp_path)
    assert load_file(tmp_path / MEMORY_FILE)["image_embeds"].dtype == torch.float16


def test_same_posts_by_key_or_by_embeddings():
    posts = reference_posts(6)
    posts[1] |= {name: posts[0][name] for name in ("image_embeds", "text_embeds")}
    posts[2] |= {"image_embeds": posts[0]["image_embeds"]}
    for row, post in enumerate(posts):
        post["post_key"] = f"{7 if row == 3 else row + 7:x}".ljust(64, "0")
    memory = tiny_model().encode_reference_posts(posts)
    embeds = {m: torch.as_tensor(posts[0][f"{m}_embeds"])[None] for m in ("image", "text")}
    present = {m: torch.tensor([True]) for m in ("image", "text")}
    entries = torch.arange(6)[None]
    assert memory.same_posts(entries, None, embeds, present)[0].tolist() == [True, True, False, False, False, False]
    by_key = memory.same_posts(entries, memory.keys[:1], embeds, present)[0]
    assert by_key.tolist() == [True, True, False, True, False, False]
    only_text = memory.same_posts(entries, None, embeds, present | {"image": torch.tensor([False])})
    assert not only_text.any()


def test_a_memory_that_is_replaced_while_it_is_read_is_one_or_the_other(tmp_path):
    small, large = make_memory(8), make_memory(300)
    small.save(tmp_path)
    ended = threading.Event()

    def replace():
        while not ended.is_set():
            for memory in (large, small):
                memory.save(tmp_path)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        sizes = {len(RelationMemory.load(tmp_path)) for _ in range(60)}
        verify_memory(tmp_path)
    finally:
        ended.set()
        writer.join()
    assert sizes <= {8, 300}
