"""New tasks on an old checkpoint, adapters, export, and every way to save: what is loaded again says what it said."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from peft import PeftModel

from modeling_mm_orient import (
    MMOrientConfig,
    MMOrientForMultiTaskClassification,
    MMOrientProcessor,
    MultimodalClassificationPipeline,
)
from modeling_mm_orient.runs.adapters import adapt, load_adapter, modules_to_save, save_adapter
from modeling_mm_orient.runs.hub import travelling_files

from ..helpers import TASKS, feature_batch, make_processor, reference_posts, small_towers, tiny_model

NEW = {"name": "spam", "labels": ["no", "yes", "maybe"], "kind": "single_label"}


@pytest.fixture
def checkpoint(tmp_path):
    model = tiny_model(relation_scope="memory", neighbour_labels=True, task_loss_weighting="uncertainty")
    model.build_relation_memory(reference_posts(20))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_heads_go_by_name(checkpoint):
    batch = feature_batch()
    before = MMOrientForMultiTaskClassification.from_pretrained(checkpoint).eval()(**batch).logits
    chosen = [TASKS[2], NEW, TASKS[0]]
    model = MMOrientForMultiTaskClassification.from_pretrained(checkpoint, tasks=chosen).eval()
    logits = model(**batch).logits
    assert list(logits) == ["intensity", "spam", "offensive"] and logits["spam"].shape == (9, 3)
    for name in ("intensity", "offensive"):
        torch.testing.assert_close(logits[name], before[name])
    assert [task["name"] for task in model.config.tasks] == list(logits)
    alone = MMOrientForMultiTaskClassification.from_pretrained(checkpoint, tasks=[TASKS[1]]).eval()
    torch.testing.assert_close(alone(**batch).logits["emotions"], before["emotions"])


def test_heads_go_by_name_where_the_configuration_is_given(checkpoint):
    batch = feature_batch()
    before = MMOrientForMultiTaskClassification.from_pretrained(checkpoint).eval()(**batch).logits
    for chosen in ([TASKS[2], TASKS[0]], [TASKS[1]]):
        config = MMOrientConfig.from_pretrained(checkpoint, tasks=chosen)
        model = MMOrientForMultiTaskClassification.from_pretrained(checkpoint, config=config).eval()
        logits = model(**batch).logits
        assert list(logits) == [task["name"] for task in chosen] == [task["name"] for task in model.config.tasks]
        for name, found in logits.items():
            torch.testing.assert_close(found, before[name])


def test_new_tasks_are_saved_and_found_again(checkpoint, tmp_path):
    model = MMOrientForMultiTaskClassification.from_pretrained(
        checkpoint, tasks=[NEW, TASKS[0]], ignore_mismatched_sizes=True
    ).eval()
    model.save_pretrained(tmp_path / "again")
    again = MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "again").eval()
    batch = feature_batch()
    torch.testing.assert_close(again(**batch).logits["spam"], model(**batch).logits["spam"])


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"relation_scope": "foo"}, "`relation_scope` must be one of"),
        ({"memory_top_k": 0}, "`memory_top_k` must be a whole number"),
        ({"tasks": [{"name": "x"}]}, "at least 2 different names"),
        ({"tasks": [{"name": "x", "kind": "fuzzy", "labels": ["a", "b"]}]}, "kind` must be one of"),
        ({"num_labels": 5}, "`num_labels`: this model has a list of tasks"),
        ({"id2label": {0: "a"}}, "`id2label`: this model has a list of tasks"),
    ],
)
def test_a_wrong_field_is_refused_on_the_way_in(checkpoint, fields, said):
    with pytest.raises(ValueError, match=said):
        MMOrientForMultiTaskClassification.from_pretrained(checkpoint, **fields)


def test_a_field_set_by_hand_is_checked_before_it_is_used(checkpoint, tmp_path):
    config = MMOrientConfig.from_pretrained(checkpoint)
    config.edge_weights = "soft"
    with pytest.raises(ValueError, match="`edge_weights` must be one of"):
        MMOrientForMultiTaskClassification(config)
    with pytest.raises(ValueError, match="`edge_weights` must be one of"):
        config.save_pretrained(tmp_path / "config")
    with pytest.raises(ValueError, match="`edge_weights` must be one of"):
        config.update({"edge_weights": "hard"})


def test_a_model_without_a_text_encoder_has_no_input_embeddings():
    with pytest.raises(NotImplementedError, match="no text encoder"):
        tiny_model().get_input_embeddings()


def towers(**fields):
    config = small_towers(joint_config=None, frozen_encoders=["vision"], tasks=TASKS, **fields)
    torch.manual_seed(0)
    return MMOrientForMultiTaskClassification(config)


def tower_batch(count=6):
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(count, 3, 16, 16, generator=generator),
        "input_ids": torch.randint(5, 50, (count, 6), generator=generator),
        "attention_mask": torch.ones(count, 6, dtype=torch.long),
    }


def train_a_little(model) -> None:
    labels = {"offensive": torch.tensor([0, 1, 0, 1, 0, 1]), "intensity": torch.randn(6)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    model.train()
    for _ in range(3):
        keys = torch.arange(1, 7)
        model(**tower_batch(), labels=labels, post_keys=keys).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def test_an_adapter_reloads_with_the_same_logits(tmp_path):
    base = towers()
    adapted = adapt(copy.deepcopy(base), ["query", "value"], r=4, lora_dropout=0.0)
    train_a_little(adapted)
    expected = adapted(**tower_batch()).logits
    save_adapter(adapted, tmp_path)
    for again in (
        load_adapter(copy.deepcopy(base), tmp_path),
        PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval(),
    ):
        for name, logits in again(**tower_batch()).logits.items():
            torch.testing.assert_close(logits, expected[name], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(base.eval()(**tower_batch()).logits["offensive"], expected["offensive"])


@pytest.mark.parametrize(
    "tasks",
    [
        5,
        [{}],
        [{"name": "a", "kind": "zz", "labels": ["x", "y"]}],
        [{"name": "a", "kind": "single_label", "labels": ["x", "y"], "temperature": "hot"}],
    ],
)
def test_tasks_of_an_adapter_of_another_form_are_named(tmp_path, tasks):
    save_adapter(adapt(towers(), ["query"], r=2), tmp_path)
    (tmp_path / "adapter_tasks.json").write_text(json.dumps({"tasks": tasks}))
    with pytest.raises(ValueError, match=r"adapter_tasks\.json: "):
        load_adapter(towers(), tmp_path)


def test_an_adapter_of_a_model_with_a_memory(tmp_path):
    base = towers(relation_scope="memory", neighbour_labels=True, memory_top_k=3)
    posts = [{"id": str(n), "text": f"post {n}", "offensive": n % 2} for n in range(8)]
    processor = make_processor()
    for model in (base,):
        model.config.text_config.vocab_size = 300
    base = MMOrientForMultiTaskClassification(base.config)
    base.build_relation_memory(posts, processor)
    adapted = adapt(copy.deepcopy(base), ["query", "value"], r=4, init_lora_weights=False)
    with pytest.raises(ValueError, match="stale"):
        adapted.eval()(**tower_batch())
    adapted.get_base_model().build_relation_memory(posts, processor)
    expected = adapted.eval()(**tower_batch()).logits
    save_adapter(adapted, tmp_path)
    again = load_adapter(copy.deepcopy(base), tmp_path)
    for name, logits in again(**tower_batch()).logits.items():
        torch.testing.assert_close(logits, expected[name], atol=1e-6, rtol=1e-5)


def test_an_adapter_has_its_own_tasks(tmp_path):
    base = towers()
    fitted = copy.deepcopy(base)
    tasks = fitted.config.tasks
    number = next(task for task in tasks if task["kind"] == "regression")
    tasks[0]["temperature"], number["mean"], number["std"] = 1.5, 50.0, 10.0
    adapted = adapt(fitted, ["query"], r=2)
    save_adapter(adapted, tmp_path)
    again = load_adapter(copy.deepcopy(base), tmp_path)
    assert again.get_base_model().config.tasks[0]["temperature"] == 1.5
    for name, logits in adapted.eval()(**tower_batch()).logits.items():
        torch.testing.assert_close(again(**tower_batch()).logits[name], logits, atol=1e-5, rtol=1e-5)
    other_order, fewer = [*reversed(tasks)], tasks[1:]
    renamed = [tasks[0] | {"name": "spam"}, *tasks[1:]]
    turned = [tasks[0] | {"labels": tasks[0]["labels"][::-1]}, *tasks[1:]]
    for others in (other_order, fewer, renamed, turned):
        model = copy.deepcopy(base)
        model.config.update({"tasks": others})
        with pytest.raises(ValueError, match="the adapter's tasks are offensive"):
            load_adapter(model, tmp_path)


def test_what_an_adapter_is_saved_with():
    assert modules_to_save(towers()) == ["learner", "region_hima", "relations", "task_heads", "word_hima"]


@pytest.mark.slow
def test_a_model_with_a_memory_is_exported_once_for_every_batch_size():
    fields = {"relation_scope": "memory", "neighbour_labels": True, "edge_weights": "softmax", "relation_gate": True}
    for lookup in ("top_k", "threshold", "both"):
        model = tiny_model(**fields, memory_lookup=lookup, memory_top_k=4).eval()
        model.build_relation_memory(reference_posts(30))
        batch = feature_batch(5)
        shapes = {name: {0: torch.export.Dim("batch", min=2)} for name in batch}
        program = torch.export.export(model, (), kwargs=batch, dynamic_shapes=shapes, strict=False)
        for count in (2, 5, 9):
            inputs = feature_batch(count, seed=count)
            found, expected = program.module()(**inputs).logits, model(**inputs).logits
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


# every way to save: the folder is complete, and loads where the package is not installed

LOAD = """
import json, sys
sys.modules["modeling_mm_orient"] = None
from transformers import pipeline
pipe = pipeline("multimodal-classification", model=sys.argv[1], trust_remote_code=True)
verdict = pipe({"text": "a cat on a mat"})
print(json.dumps(verdict))
"""


def bare_environment(folder) -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
    }


def load_elsewhere(folder, tmp_path) -> dict:
    ended = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={
            "HF_HUB_OFFLINE": "1",
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        },
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def small_pipeline() -> MultimodalClassificationPipeline:
    config = small_towers(joint_config=None, tasks=[{"name": "offensive", "labels": ["no", "yes"]}])
    config.text_config.vocab_size = 300
    torch.manual_seed(0)
    return MultimodalClassificationPipeline(
        model=MMOrientForMultiTaskClassification(config).eval(), processor=make_processor()
    )


def by_parts(pipe, folder) -> None:
    pipe.model.save_pretrained(folder)
    pipe.processor.save_pretrained(folder)


def by_the_pipeline(pipe, folder) -> None:
    pipe.save_pretrained(folder)


def by_the_trainer(pipe, folder) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(folder / "checkpoints"), report_to="none", use_cpu=True)
    Trainer(pipe.model, arguments, processing_class=pipe.processor).save_model(str(folder))


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(by_parts, marks=pytest.mark.slow),
        pytest.param(by_the_pipeline, marks=pytest.mark.slow),
        by_the_trainer,
    ],
)
def test_every_way_to_save_leaves_a_folder_that_loads_by_itself(save, tmp_path):
    pipe = small_pipeline()
    expected = pipe({"text": "a cat on a mat"})
    save(pipe, tmp_path / "saved")
    assert {path.name for path in travelling_files()} <= {path.name for path in (tmp_path / "saved").iterdir()}
    found = load_elsewhere(tmp_path / "saved", tmp_path)
    assert found["offensive"] == pytest.approx(expected["offensive"], abs=1e-5)


def test_saved_again_from_an_export_with_the_installed_classes(tmp_path):
    pipe = small_pipeline()
    pipe.save_pretrained(tmp_path / "one")
    model = MMOrientForMultiTaskClassification.from_pretrained(tmp_path / "one")
    again = MultimodalClassificationPipeline(model=model, processor=MMOrientProcessor.from_pretrained(tmp_path / "one"))
    again.save_pretrained(tmp_path / "two")
    assert load_elsewhere(tmp_path / "two", tmp_path).keys() == {"offensive"}


RESAVE = """
import sys
sys.modules["modeling_mm_orient"] = None
from transformers import pipeline
pipe = pipeline("multimodal-classification", model=sys.argv[1], trust_remote_code=True)
pipe.save_pretrained(sys.argv[2])
"""


@pytest.mark.slow
def test_saved_again_from_remote_code(tmp_path):
    small_pipeline().save_pretrained(tmp_path / "one")
    ended = subprocess.run(
        [sys.executable, "-c", RESAVE, str(tmp_path / "one"), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=bare_environment(tmp_path),
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert {path.name for path in travelling_files()} <= {path.name for path in (tmp_path / "two").iterdir()}
    assert load_elsewhere(tmp_path / "two", tmp_path).keys() == {"offensive"}
