"""On a GPU: the numbers of a CPU, and every way to train, ask and explain. Skipped where there is none."""

import copy

import pytest
import torch

from modeling_mm_orient import (
    MMOrientClassifier,
    MMOrientForMultiTaskClassification,
    MultimodalClassificationPipeline,
    relation_memory,
)
from modeling_mm_orient.cli import main
from modeling_mm_orient.message_passing import Graph, aggregate_neighbours
from modeling_mm_orient.optional_dependencies import FAISS_AVAILABLE
from modeling_mm_orient.runs.adapters import adapt
from modeling_mm_orient.runs.run_folder import load_run

from .helpers import (
    feature_batch,
    label_batch,
    picture,
    reference_posts,
    save_encoders,
    small_towers,
    tiny_model,
    tower_inputs,
    train_on,
    write_folder,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
FORMS = {
    "batch": {},
    "memory": {"relation_scope": "memory", "neighbour_labels": True},
    "both, experts, members": {
        "relation_scope": "batch+memory",
        "neighbour_labels": True,
        "members": 3,
        "experts": ["text", "image", "both", "neighbours", "network"],
    },
}
LABELS = ("mood", "signs=joy,fear", "--regression", "likes")


def on_gpu(batch: dict) -> dict:
    return {name: value.cuda() for name, value in batch.items()}


def with_memory(**fields) -> MMOrientForMultiTaskClassification:
    model = tiny_model(**fields).eval()
    if model.config.relation_scope != "batch":
        model.build_relation_memory(reference_posts(40))
    return model


def assert_same(found: dict, expected: dict, tolerance: float = 1e-4) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name].float().cpu(), value, atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_gradients_are_those_of_a_cpu(form):
    here = with_memory(**FORMS[form])
    there = copy.deepcopy(here).cuda()
    assert_same(there(**on_gpu(feature_batch())).logits, here(**feature_batch()).logits)
    for model, batch in ((here, feature_batch() | {"labels": label_batch()}), (there, on_gpu(feature_batch()))):
        labels = batch.pop("labels", None) or on_gpu(label_batch())
        model(**batch, labels=labels).loss.backward()
    gradients = {name: p.grad for name, p in here.named_parameters() if p.grad is not None}
    assert_same({name: p.grad for name, p in there.named_parameters()}, gradients, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_verdicts_in_half_precision(form, dtype):
    here = with_memory(**FORMS[form])
    there = copy.deepcopy(here).to("cuda", dtype)
    found = there(**on_gpu({name: v.to(dtype) if v.is_floating_point() else v for name, v in feature_batch().items()}))
    assert_same(found.logits, here(**feature_batch()).logits, 0.1)


def test_a_memory_too_large_for_the_gpu_is_asked_where_it_is(monkeypatch):
    here = with_memory(**FORMS["memory"])
    there = copy.deepcopy(here)
    monkeypatch.setattr(relation_memory, "MOST_BYTES_IN_CHECKPOINT", 1)
    there.cuda()
    found = there(**on_gpu(feature_batch()))
    assert there.relation_memory.keys.device.type == "cpu" and found.logits["offensive"].device.type == "cuda"
    assert_same(found.logits, here(**feature_batch()).logits)


@pytest.mark.skipif(not FAISS_AVAILABLE, reason="needs faiss")
def test_an_index_is_asked_from_the_gpu():
    here = with_memory(**FORMS["memory"])
    here.relation_memory.build_index("hnsw")
    there = copy.deepcopy(here).cuda()
    assert_same(there(**on_gpu(feature_batch())).logits, here(**feature_batch()).logits)


@pytest.mark.parametrize("backend", ["index_add", "dense", "auto"])
def test_message_passing(backend):
    adjacency = (torch.rand(70, 90, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    features, everyone = (
        torch.randn(90, 4, generator=torch.Generator().manual_seed(1)),
        torch.ones(90, dtype=torch.bool),
    )
    found = aggregate_neighbours(features.cuda(), Graph(adjacency.cuda()), everyone.cuda(), backend)
    expected = aggregate_neighbours(features, Graph(adjacency), everyone, "dense")
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


def test_a_model_that_was_made_fast_for_a_cpu_goes_to_a_gpu():
    here = with_memory(**FORMS["memory"])
    there = copy.deepcopy(here).for_cpu().for_any_device().cuda()
    assert_same(there(**on_gpu(feature_batch())).logits, here(**feature_batch()).logits)


def test_adapters_learn():
    model = MMOrientForMultiTaskClassification(small_towers(joint_config=None))
    adapted = adapt(model, ["query", "value"], r=2).cuda().train()
    inputs = on_gpu({name: value for name, value in tower_inputs().items() if "joint" not in name})
    loss = adapted(**inputs, labels={"x": torch.tensor([0, 1, 1]).cuda()}).loss
    loss.backward()
    learning = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert learning and all(grad is not None and grad.isfinite().all() for grad in learning)


@pytest.fixture(scope="module", params=[(), ("--bf16",)], ids=["float32", "bfloat16"])
def run(request, tmp_path_factory):
    """A run with a task of every kind on a GPU, on posts of which some lack their picture."""
    place = tmp_path_factory.mktemp("gpu")
    rows = [
        {"id": f"p{i}", "image": f"{i}.png" if i % 7 else "", "text": f"{'good' if i % 2 else 'bad'} caption {i}",
         "split": "train" if i < 60 else "validation" if i < 80 else "test", "mood": ["sad", "happy"][i % 2],
         "joy": i % 2, "fear": i // 2 % 2, "likes": i / 4}
        for i in range(100)
    ]  # fmt: skip
    data = write_folder(place / "data", rows)
    options = ["--labels", *LABELS, "--split-column", "split", "--epochs", "2", "--feature-cache", place / "cache"]
    assert train_on(data, place / "run", *options, *save_encoders(place), *request.param) == 0
    return place


def test_a_pipeline_says_on_a_gpu_what_it_says_on_a_cpu(run):
    post = {"image": picture(size=(16, 16), colour=(9, 99, 200)), "text": "good caption 7"}
    said = {}
    for device in ("cuda", "cpu"):
        model, processor = load_run(str(run / "run"))
        asked = MultimodalClassificationPipeline(model=model, processor=processor, device=device)
        said[device] = asked(post, neighbours=3, explain=True)
    there, here = said["cuda"], said["cpu"]
    assert [n["id"] for n in there["neighbours"]["text"]] == [n["id"] for n in here["neighbours"]["text"]]
    assert [n["labels"] for n in there["neighbours"]["text"]] == [n["labels"] for n in here["neighbours"]["text"]]
    for name, value in here["explanation"]["verdict"].items():
        assert there["explanation"]["verdict"][name] == pytest.approx(value, abs=2e-3), name


def test_every_command_runs(run, capsys):
    data, cache = str(run / "data"), ["--feature-cache", str(run / "cache")]
    folder = str(run / "run")
    assert main(["evaluate", folder, "--data", data, *cache]) == 0
    assert main(["predict", folder, "--data", data, "--output", str(run / "verdicts.jsonl"), "--neighbours", "2"]) == 0
    assert main(["report", folder, "--output", str(run / "again.html"), *cache]) == 0
    post = ["--post", str(run / "data" / "images" / "1.png"), "good caption", "--output", str(run / "why.html")]
    assert main(["explain", folder, *post]) == 0
    assert main(["memory", "build", folder, "--data", data, "--split", "train"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_classifier_learns_and_explains():
    posts = [{"text": f"a {['red', 'blue'][i % 2]} thing {i}", "image": picture(colour=i), "mood": i % 2, "likes": i}
             for i in range(24)]  # fmt: skip
    fitted = MMOrientClassifier(epochs=1, batch_size=8).fit(posts, ["mood"], regression="likes", image="image")
    assert fitted.predict(posts[:3]).shape == (3, 2)
    assert "mood" in fitted.explain({"image": picture(), "text": "a red thing"})._repr_html_()


def test_full_determinism_gives_the_same_run_twice(run, tmp_path):
    options = ["--labels", *LABELS, "--split-column", "split", "--epochs", "2", "--full-determinism"]
    options += ["--text-encoder", run / "text", "--vision-encoder", run / "vision", "--feature-cache", run / "cache"]
    for name in ("first", "second"):
        assert train_on(run / "data", tmp_path / name, *options) == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
