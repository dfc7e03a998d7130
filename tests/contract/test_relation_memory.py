"""What a relation memory promises its users: verdicts of the post alone, no leakage, evidence, and nothing stale."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import TrainerCallback

from modeling_mm_orient import MMOrientForMultiTaskClassification, MultimodalClassificationPipeline
from modeling_mm_orient import relation_memory as memory_module
from modeling_mm_orient.features.collation import PostCollator
from modeling_mm_orient.memory_file import MEMORY_FILE
from modeling_mm_orient.pictures import key_number
from modeling_mm_orient.relation_memory import RelationMemory
from modeling_mm_orient.runs.trainer import MMOrientTrainer, RefreshRelationMemory

from ..helpers import (
    feature_batch,
    free_port,
    leave,
    make_processor,
    reference_posts,
    small_towers,
    tiny_model,
    trained,
    trainer_arguments,
    training_posts,
)

FORMS = {
    "top k": {},
    "threshold": {"memory_lookup": "threshold"},
    "both, similarity weights": {"memory_lookup": "both", "edge_weights": "similarity"},
    "softmax, gate, two layers": {"edge_weights": "softmax", "relation_gate": True, "relation_layers": 2},
    "labels": {"neighbour_labels": True, "self_loops": False, "relation_dropout": 0.5},
    "batch too": {"relation_scope": "batch+memory", "neighbour_labels": True},
}


def model_with_memory(count: int = 60, **fields) -> MMOrientForMultiTaskClassification:
    model = tiny_model(**{"relation_scope": "memory", "memory_top_k": 8} | fields)
    posts = reference_posts(count)
    for post in posts[10:20]:  # the same picture ten times, under other texts and labels
        post["image_embeds"] = posts[10]["image_embeds"]
    model.build_relation_memory(posts)
    return model.eval()


MODELS = {form: model_with_memory(**fields) for form, fields in FORMS.items()}
POSTS = feature_batch(12, seed=3) | {"has_image": torch.arange(12) != 4, "has_text": torch.arange(12) != 5}


@torch.no_grad()
def logits_of(model, rows, batch=None) -> torch.Tensor:
    batch = POSTS if batch is None else batch
    outputs = model(**{name: value[rows] for name, value in batch.items()})
    return torch.cat([value.reshape(len(rows), -1) for value in outputs.logits.values()], -1)


@settings(max_examples=30, deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), rows=st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_a_verdict_depends_on_the_post_alone(form, rows):
    model = MODELS[form]
    alone = torch.cat([logits_of(model, [row]) for row in rows])
    torch.testing.assert_close(logits_of(model, rows), alone, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    scale=st.sampled_from([-1.0, 1e-3, 1e3]),
    noise=st.sampled_from([0.0, 1e-4, 1.0]),
    seed=st.integers(0, 1000),
)
def test_adversarial_batch_mates_change_nothing(form, scale, noise, seed):
    model, generator = MODELS[form], torch.Generator().manual_seed(seed)
    hostile = {}
    for name, value in POSTS.items():
        mates = value
        if value.is_floating_point():  # near copies, opposites and giants of the posts themselves
            mates = scale * value + noise * torch.randn(value.shape, generator=generator)
        hostile[name] = torch.cat([value, mates])
    found = logits_of(model, list(range(24)), hostile)[:12]
    torch.testing.assert_close(found, logits_of(model, list(range(12))), atol=1e-5, rtol=0)


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    rows = list(range(5)) if rank == 0 else list(range(5, 12))
    torch.save({form: logits_of(model, rows) for form, model in MODELS.items()}, f"{folder}/{rank}.pt")
    leave()


def test_two_processes_give_the_verdicts_of_one(tmp_path):
    multiprocessing.spawn(work, (free_port(), str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for form, model in MODELS.items():
        together = torch.cat([part[form] for part in parts])
        torch.testing.assert_close(together, logits_of(model, list(range(12))), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_the_memory_is_heard(form):
    before = logits_of(MODELS[form], list(range(12)))
    other = model_with_memory(**FORMS[form])
    other.load_state_dict(MODELS[form].state_dict())
    other.build_relation_memory(reference_posts(60, first=60))
    assert (logits_of(other, list(range(12))) - before).abs().max() > 1e-4


def know_the_posts(model, first_label: int) -> None:
    """A memory of `POSTS` themselves and a copy of each, among others; the first is labelled `first_label`."""
    posts = []
    for row in range(12):
        content = {f"{m}_embeds": POSTS[f"{m}_embeds"][row] for m in ("image", "text")}
        content |= {f"has_{m}": bool(POSTS[f"has_{m}"][row]) for m in ("image", "text")}
        label = row % 2 if row else first_label
        posts += [content | {"id": f"{name} {row}", "offensive": label} for name in ("own", "copy")]
    # as far from the first post as can be, and labelled the other way: the average of all labels stays the same
    opposite = {f"{m}_embeds": -POSTS[f"{m}_embeds"][0] for m in ("image", "text")}
    far = [post | opposite | {"offensive": 1 - first_label} for post in reference_posts(2, first=500)]
    model.build_relation_memory(posts + far + reference_posts(50))


def test_in_training_a_post_sees_neither_itself_nor_its_copies():
    model, own = model_with_memory(neighbour_labels=True, memory_top_k=3), torch.arange(24).reshape(12, 2)
    unseen, seen = {}, {}
    for label in (0, 1):
        know_the_posts(model, label)
        training, known = (model.train(mode)(**POSTS, output_relations=True) for mode in (True, False))
        unseen[label], seen[label] = training.neighbour_votes["offensive"], known.neighbour_votes["offensive"]
        for modality in ("image", "text"):
            here = POSTS[f"has_{modality}"]
            neighbours = training[f"{modality}_neighbours"]
            assert (neighbours[here, :3] >= 0).all() and (neighbours[:, :, None] != own[:, None]).all()
            # afterwards a known post is its own best evidence
            assert torch.equal(known[f"{modality}_neighbours"][here, :2].sort().values, own[here])
    torch.testing.assert_close(unseen[0][0], unseen[1][0])
    assert (seen[0][0] - seen[1][0]).abs().min() > 0.1


def test_a_key_leaves_out_what_embeddings_no_longer_show():
    model = model_with_memory(neighbour_labels=True, memory_top_k=1)
    posts = reference_posts(20)
    for row, post in enumerate(posts):
        post["post_key"] = f"{row + 5:x}".ljust(64, "0")
    model.build_relation_memory(posts)
    model.train()
    inputs = {name: value[:6] for name, value in POSTS.items() if name not in ("image_embeds", "text_embeds")}
    # as after a step of training, or under dropout: near its entry, and not equal to it
    inputs |= {f"{m}_embeds": torch.stack([p[f"{m}_embeds"] for p in posts[:6]]) + 0.05 for m in ("image", "text")}
    inputs |= {"has_image": torch.ones(6, dtype=torch.bool), "has_text": torch.ones(6, dtype=torch.bool)}
    nearest = model(**inputs, output_relations=True).image_neighbours[:, 0]
    assert nearest.tolist() == list(range(6))
    keys = torch.tensor([key_number(post["post_key"]) for post in posts[:6]])
    assert not (model(**inputs, post_keys=keys, output_relations=True).image_neighbours[:, 0] == nearest).any()


def test_labelled_copies_of_a_new_kind_of_post_move_verdicts_on_its_variants(tmp_path):
    data = training_posts(60, missing=False)
    model = tiny_model(relation_scope="memory", memory_top_k=8, neighbour_labels=True, edge_weights="softmax")
    model.build_relation_memory(data)
    model = trained(tmp_path, data, model, max_steps=60, optim="adamw_torch", learning_rate=3e-3).model.eval()

    new = {name: value[:1] for name, value in feature_batch(3, seed=99).items()}
    variants = {
        name: value + 0.05 * torch.randn(1, *value.shape[1:]) if value.is_floating_point() else value
        for name, value in new.items()
    }
    before = model(**variants).logits["offensive"].softmax(-1)[0]
    wanted = int(before.argmin())
    copies = [
        {
            "id": f"new {number}",
            **{f"{m}_embeds": new[f"{m}_embeds"][0] + 0.03 * torch.randn(1) for m in ("image", "text")},
            "offensive": wanted,
        }
        for number in range(8)
    ]
    model.relation_memory.add(model.encode_reference_posts(copies))
    after = model(**variants, output_relations=True)
    assert after.logits["offensive"].softmax(-1)[0, wanted] > before[wanted] + 0.1
    assert set(after.image_neighbours[0].tolist()) >= set(range(60, 68)) - {67}
    model.relation_memory.remove([f"new {number}" for number in range(8)])
    torch.testing.assert_close(model(**variants).logits["offensive"].softmax(-1)[0], before)


def test_the_memory_travels_with_the_checkpoint(tmp_path):
    model = MODELS["labels"]
    model.save_pretrained(tmp_path / "a")
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "a")
    torch.testing.assert_close(logits_of(again, [0, 1, 2]), logits_of(model, [0, 1, 2]))
    again.set_relation_memory(None)
    again.save_pretrained(tmp_path / "a")  # what was removed does not come back
    assert MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "a").relation_memory is None


def test_a_memory_too_large_for_the_checkpoint_lies_elsewhere(tmp_path, monkeypatch):
    model = model_with_memory()
    monkeypatch.setattr(memory_module, "MOST_BYTES_IN_CHECKPOINT", 100)
    with pytest.raises(ValueError, match=r"set `model\.config\.relation_memory`"):
        model.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    model.relation_memory.save(tmp_path / "memory")
    model.config.relation_memory = str(tmp_path / "memory")
    model.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a" / MEMORY_FILE).exists()
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "a")
    torch.testing.assert_close(logits_of(again, [0, 1, 2]), logits_of(model, [0, 1, 2]))
    os.rename(tmp_path / "memory", tmp_path / "moved")
    with pytest.raises(OSError, match=MEMORY_FILE):
        MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "a")
    moved = MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "a", relation_memory=str(tmp_path / "moved"))
    torch.testing.assert_close(logits_of(moved, [0, 1, 2]), logits_of(model, [0, 1, 2]))


def test_a_memory_may_lie_in_a_hub_repository(tmp_path):
    model = model_with_memory()
    repository = tmp_path / "cache" / "models--me--memory"  # as the Hub's client keeps what it has downloaded
    model.relation_memory.save(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    model.config.relation_memory = "me/memory"
    model.save_pretrained(tmp_path / "a")
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "a", cache_dir=str(tmp_path / "cache"))
    torch.testing.assert_close(logits_of(again, [0, 1, 2]), logits_of(model, [0, 1, 2]))
    with pytest.raises(OSError, match="me/memory"):
        MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "a", cache_dir=str(tmp_path / "empty"))


def test_a_damaged_memory_stops_loading(tmp_path):
    model_with_memory().save_pretrained(tmp_path)
    content = (tmp_path / MEMORY_FILE).read_bytes()
    (tmp_path / MEMORY_FILE).write_bytes(content[:-3])
    with pytest.raises(ValueError, match=f"{MEMORY_FILE}.*damaged"):
        MMOrientForMultiTaskClassification.from_pretrained(tmp_path)


def test_without_a_memory_the_error_says_what_to_do():
    with pytest.raises(ValueError, match="`relation_scope` is 'memory' and the model has no relation memory"):
        tiny_model(relation_scope="memory")(**feature_batch(2))


def test_a_memory_of_other_widths_or_tasks_is_refused():
    memory = tiny_model().encode_reference_posts(reference_posts(3))
    with pytest.raises(ValueError, match="image embeddings are 8 wide, the model's 9"):
        tiny_model(image_embed_dim=9).set_relation_memory(memory)
    other = [{"name": "offensive", "labels": ["yes", "no"]}]
    with pytest.raises(ValueError, match="no labels for the task 'offensive' as the model knows it"):
        tiny_model(tasks=other, relation_scope="memory", neighbour_labels=True).set_relation_memory(memory)


@dataclass
class Towers:
    """A model with small encoders, its processor and posts of pictures and texts."""

    model: MMOrientForMultiTaskClassification
    processor: object
    posts: list

    def batch(self, count: int = 3) -> dict:
        return PostCollator(self.processor, self.model.config.tasks, labels=False)(self.posts[:count])


@pytest.fixture
def towers(tmp_path):
    processor = make_processor()
    posts = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(path)
        image = {"path": str(path), "bytes": None}
        posts.append({"id": f"post {number}", "image": image, "text": "a cat on mat"[number:], "x": number % 2})
    torch.manual_seed(0)
    config = small_towers(joint_config=None, relation_scope="memory", memory_top_k=3, neighbour_labels=True)
    return Towers(MMOrientForMultiTaskClassification(config), processor, posts)


def test_a_memory_of_other_encoders_is_refused(towers, tmp_path):
    memory = towers.model.build_relation_memory(towers.posts, towers.processor)
    assert len(memory) == 8 and len(memory.fingerprints) == 2
    other = MMOrientForMultiTaskClassification(towers.model.config)
    with pytest.raises(ValueError, match="made by other encoders"):
        other.set_relation_memory(memory)
    other.build_relation_memory(towers.posts, towers.processor)
    other.save_pretrained(tmp_path / "other")
    towers.model.save_pretrained(tmp_path / "model")
    os.replace(tmp_path / "other" / MEMORY_FILE, tmp_path / "model" / MEMORY_FILE)
    with pytest.raises(ValueError, match=f"{MEMORY_FILE}: .*made by other encoders"):
        MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "model")
    others = RelationMemory.load(tmp_path / "model")
    others.ids = [f"other {name}" for name in others.ids]
    with pytest.raises(ValueError, match="encoded by other encoders"):
        memory.add(others)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_the_same_encoders(towers, tmp_path, dtype):
    towers.model.build_relation_memory(towers.posts, towers.processor)
    towers.model.save_pretrained(tmp_path)
    assert len(MMOrientForMultiTaskClassification.from_pretrained(tmp_path, dtype=dtype).relation_memory) == 8


def test_a_stale_memory_is_noticed(towers):
    model = towers.model.eval()
    model.build_relation_memory(towers.posts, towers.processor)
    model(**towers.batch())
    with torch.no_grad():
        for parameter in model.mm_orient.text_encoder.parameters():
            parameter.mul_(1.01)
    with pytest.raises(ValueError, match="the relation memory is stale"):
        model(**towers.batch())
    model.build_relation_memory(towers.posts, towers.processor)
    model(**towers.batch())


def test_trained_encoders_need_keys(towers):
    towers.model.freeze_encoders([])
    towers.model.build_relation_memory(towers.posts, towers.processor)
    batch = towers.batch()
    towers.model.train()(**batch)
    batch.pop("post_keys")
    with pytest.raises(ValueError, match="`post_keys` are needed"):
        towers.model(**batch)


def test_trained_encoders_get_a_new_memory_before_training_and_after_every_epoch(towers, tmp_path):
    model, built = towers.model, []
    model.freeze_encoders([])
    refresh = RefreshRelationMemory(towers.posts, towers.processor)

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            built.append(model.relation_memory)

    options = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_strategy": "epoch"}
    trainer = MMOrientTrainer(
        model=model,
        args=trainer_arguments(tmp_path, learning_rate=0.05, **options),
        train_dataset=towers.posts,
        eval_dataset=towers.posts[:4],
        data_collator=PostCollator(towers.processor, model.config.tasks),
        callbacks=[refresh, Watch()],
    )
    trainer.train()  # an evaluation on stale embeddings would raise
    assert built[0] is built[1] and built[2] is built[3] and built[1] is not built[2]
    assert not torch.equal(built[0].embeds["text"], built[2].embeds["text"])
    model.load_state_dict({name: value * 1.01 for name, value in model.state_dict().items()})
    with pytest.raises(ValueError, match="stale"):
        trainer.evaluate()
    refresh.rebuild(model)
    trainer.evaluate()


def test_the_pipeline_shows_its_evidence(towers):
    towers.model.build_relation_memory(towers.posts, towers.processor)
    pipe = MultimodalClassificationPipeline(model=towers.model.eval(), processor=towers.processor)
    posts = [{"image": post["image"]["path"], "text": post["text"]} for post in towers.posts[:3]]
    plain, shown = pipe(posts), pipe(posts, neighbours=2, batch_size=2)
    for number, (verdict, known) in enumerate(zip(plain, shown, strict=True)):
        assert set(verdict) == {"x"} and set(known) == {"x", "neighbours"}
        assert known["x"]["a"] == pytest.approx(verdict["x"]["a"], abs=1e-5)
        assert len(known["neighbours"]["image"]) == 2
        nearest = known["neighbours"]["text"]
        itself = next(item for item in nearest if item["id"] == f"post {number}")
        assert itself["similarity"] == pytest.approx(1, abs=1e-3) and itself["labels"] == {"x": "ab"[number % 2]}
    without = pipe({"text": "a cat"}, neighbours=5)["neighbours"]
    assert without["image"] == [] and len(without["text"]) == 3
    towers.model.config.relation_scope = "batch"
    with pytest.raises(ValueError, match="needs a model with a relation memory"):
        pipe(posts, neighbours=2)


def test_a_compiled_model_reads_its_memory():
    model = model_with_memory(neighbour_labels=True)
    expected = logits_of(model, [0, 1, 2])
    torch.testing.assert_close(logits_of(torch.compile(model, backend="eager"), [0, 1, 2]), expected, atol=1e-5, rtol=0)


def test_saving_beside_a_memory_of_other_encoders_says_so(towers, tmp_path, caplog):
    towers.model.build_relation_memory(towers.posts, towers.processor)
    towers.model.save_pretrained(tmp_path / "sound")
    assert "made by other encoders" not in caplog.text
    next(towers.model.mm_orient.encoders["text"].parameters()).data.add_(0.01)
    towers.model.save_pretrained(tmp_path / "stale")
    assert "made by other encoders" in caplog.text and "load_relation_memory=False" in caplog.text
    with pytest.raises(ValueError, match="load_relation_memory=False"):
        MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "stale")
    MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "stale", load_relation_memory=False)
