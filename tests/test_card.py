"""The model card: what the Hub reads of it, what people read of it, and that nothing in an export says where it was made."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from modeling_mm_orient.cli import main
from modeling_mm_orient.runs.card import encoder_licenses, model_card
from modeling_mm_orient.runs.card_facts import CardFacts
from modeling_mm_orient.runs.demo import make_memes
from modeling_mm_orient.runs.run_folder import METRICS_FILE

from .helpers import TASKS, save_encoders, save_run, small_towers
from .local_hub import local_hub

SCORES = {
    "macro_f1": 0.71, "weighted_f1": 0.74, "accuracy": 0.75, "auroc": None, "support": [120, 30],
    "calibration_error": 0.041, "calibration_error_before": 0.127,
    "majority_macro_f1": 0.44, "majority_weighted_f1": 0.61, "majority_accuracy": 0.8,
}  # fmt: skip
METRICS = {
    "test": {
        "offensive": SCORES,
        "emotions": SCORES | {"support": [200, 200, 200], "macro_f1": 0.4, "auroc": float("nan")},
        "intensity": {"mse": 1.5, "mae": 0.9, "pearson": 0.3, "mean_predictor_mse": 2.0},
        "mean_macro_f1": 0.555,
    }
}
RUN = {
    "data": {"data": "/no/such/folder"},
    "training": {"seed": 0, "epochs": 3, "bf16": False, "threshold_quantile": None},
    "splits": {"train": 900, "validation": 100, "test": 150},
    "left_out": [{}, {}],
}


def configuration():
    config = small_towers(tasks=TASKS)
    config.tasks[0] |= {"temperature": 1.7, "decision_offsets": [0.0, -0.25]}
    config.text_config._name_or_path = "somebody/text-encoder"
    config.vision_config._name_or_path = "/no/such/encoders/vision"
    return config


def card(**fields) -> ModelCard:
    facts = CardFacts(license="cc-by-nc-4.0", language=["en", "hi"], dataset=["somebody/posts"])
    return ModelCard(model_card(configuration(), METRICS, RUN, **{"name": "me/a-model", "facts": facts} | fields))


def test_the_header_is_what_the_hub_reads():
    data = card().data
    assert (data.license, data.language, data.datasets) == ("cc-by-nc-4.0", ["en", "hi"], ["somebody/posts"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    assert data.base_model == ["somebody/text-encoder"]  # the other is a folder of this machine
    assert "memes" not in data.tags
    again = ModelCard(f"---\n{data.to_yaml()}\n---\n").data
    assert again.to_dict() == data.to_dict()


def test_the_model_index_has_every_task_and_metric_by_itself():
    results = card().data.eval_results
    found = {(result.task_name, result.metric_name): result for result in results}
    assert {task for task, _ in found} == {"offensive", "emotions", "intensity"}
    f1 = found["offensive", "offensive macro-F1"]
    assert (f1.metric_type, f1.metric_value, f1.metric_args) == ("f1", 0.71, {"average": "macro"})
    assert (f1.dataset_type, f1.dataset_config, f1.dataset_split) == ("somebody/posts", "offensive", "test")
    assert found["intensity", "intensity mean squared error"].metric_value == 1.5
    assert not [name for _, name in found if "AUROC" in name]  # one has none, one is no number
    for result in results:
        assert isinstance(result.metric_value, float) and re.fullmatch(r"[\w-]+", result.metric_type)


def test_what_nobody_has_said_is_not_in_the_header():
    data = card(facts=None).data
    assert data.license is None and data.language is None and data.datasets is None
    assert {result.dataset_type for result in data.eval_results} == {"other"}
    read_from_the_hub = RUN | {"data": {"data": "somebody/published-posts"}}
    text = model_card(configuration(), METRICS, read_from_the_hub, "me/a-model")
    assert ModelCard(text).data.datasets == ["somebody/published-posts"]


def test_the_text_says_what_a_reader_has_to_know():
    text = card(licenses={"somebody/text-encoder": "apache-2.0"}).text
    for words in (
        "- seed: 0",
        "posts in train: 900",
        "posts left out: 2",
        "| offensive | majority class | 0.440 |",
        "temperature 1.7; decided with offsets no +0.00, yes -0.25",
        "test, offensive: 0.041 (before the temperature 0.127)",
        "text: [somebody/text-encoder](https://huggingface.co/somebody/text-encoder) (frozen), licence apache-2.0",
        "emotions: it is no better than always saying the most frequent label",
        "offensive: few test posts speak for yes (30)",
        "texts in other languages than en, hi were not tried",
        '"me/a-model", revision="COMMIT", trust_remote_code=True',
        "[MODEL_CARD.md](MODEL_CARD.md)",
    ):
        assert words in text, words
    assert "/no/such" not in text and "bf16" not in text
    assert "Posts that are made worse" not in text


def test_names_of_the_data_are_names_in_the_text():
    hostile = "<img src=x onerror=alert(1)> | a\n\n## Owned\n\n[x](javascript:alert(1)) *b* `c` https://x.y"
    config = configuration()
    config.tasks[0] |= {"name": hostile, "labels": [hostile, "plain_name"]}
    metrics = {"test": {hostile: SCORES | {"support": [20, 3]}, "mean_macro_f1": 0.5}}
    run = RUN | {"labels": {hostile: {"train": {hostile: 3, "plain_name": 4}}}}
    noise = [{"degradation": "blur", "strength": s, "task": hostile, "macro_f1": 0.5} for s in (0, 1)]
    text = ModelCard(model_card(config, metrics, run, "me/a-model", noise=noise)).text
    markdown = pytest.importorskip("markdown_it", reason="Markdown is read by markdown-it-py")
    html = markdown.MarkdownIt("commonmark").enable("table").render(text)
    for markup in ("<img", ">Owned", 'href="javascript', "<em>b", "<code>c<"):
        assert markup not in html
    assert re.search(r"<td>[^\n]*Owned[^\n]*</td>\n<td[^>]*>model</td>", html)
    assert html.count("<li><strong>") == len(config.tasks) and "plain_name" in text and "https://x.y" not in text


def test_the_noise_area_of_a_run_that_has_one():
    rows = [
        {"degradation": "blur", "strength": strength, "task": "offensive", "macro_f1": value}
        for strength, value in ((0, 0.8), (0.5, 0.6), (1, 0.4))
    ]
    assert "| offensive | blur | 0.800 | 0.600 | 0.75 |" in card(noise=rows).text


def test_the_encoders_licences_are_those_that_the_hub_says(monkeypatch):
    assert encoder_licenses(configuration()) == {}  # offline
    with local_hub(monkeypatch) as hub:
        assert encoder_licenses(configuration()) == {}  # there is no such model
        hub.create("somebody/text-encoder", {"README.md": b"---\nlicense: mit\n---\n"})
        assert encoder_licenses(configuration()) == {"somebody/text-encoder": "mit"}
        hub.create("somebody/text-encoder", {"README.md": b'---\nlicense: "mit)\\n\\n# Moved to https://evil"\n---\n'})
        assert encoder_licenses(configuration()) == {}  # what stands there would stand in our card
        hub.instead = lambda method, path: b"<html>log in</html>"
        assert encoder_licenses(configuration()) == {}
        hub.instead = lambda method, path: None
        hub.faults = lambda method, path: 503
        assert encoder_licenses(configuration()) == {}
        assert all("vision" not in path for _, path in hub.requests)  # nobody is told of a folder
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        assert encoder_licenses(configuration()) == {}  # nobody listens


@pytest.mark.parametrize("fields", [{"license": "My own"}, {"language": ["English"]}, {"dataset": ["../posts"]}])
def test_facts_of_another_form_are_refused(fields):
    with pytest.raises(ValueError, match=f"--{next(iter(fields))} .* has not the form"):
        CardFacts(**fields)


def test_no_file_of_an_export_says_where_it_was_made(tmp_path, capsys):
    posts, run, hub = make_memes(tmp_path / "posts", 40), tmp_path / "run", tmp_path / "hub"
    command = ["train", "--data", str(posts), "--labels", "offensive", "--split-column", "split", "--epochs", "1"]
    command += ["--set", "learner_hidden_sizes=[8]", "members=2", "--feature-cache", str(tmp_path / "features")]
    assert main([*command, *save_encoders(tmp_path), "--output", str(run)]) == 0
    config = json.loads((run / "config.json").read_text())
    assert "_name_or_path" not in config["text_config"] and "_name_or_path" not in config["vision_config"]
    # as training before this version left it
    for name in ("text", "vision"):
        config[f"{name}_config"]["_name_or_path"] = str(tmp_path / name)
    (run / "config.json").write_text(json.dumps(config))

    assert main(["export", str(run), "--output", str(hub), "--name", "me/a-model"]) == 0
    files = [path for path in hub.rglob("*") if path.is_file()]
    assert {"config.json", "relation_memory.safetensors", METRICS_FILE, "README.md"} <= {path.name for path in files}
    named = [path.name for path in files if str(tmp_path).encode() in path.read_bytes()]
    assert named == []
    assert ModelCard.load(hub / "README.md").data.base_model is None


def test_the_data_set_that_training_read_stays_in_the_card(tmp_path):
    run = save_run(tmp_path / "run", scope="batch")
    (run / "run.json").write_text(json.dumps(RUN))
    (run / METRICS_FILE).write_text(json.dumps({"test": {"offensive": SCORES}}))
    (run / "README.md").write_text("---\ndatasets:\n- somebody/posts\n---\n")
    for extra, expected in (([], ["somebody/posts"]), (["--dataset", "me/mine"], ["me/mine"])):
        assert main(["export", str(run), "--output", str(tmp_path / "hub"), *extra]) == 0
        assert ModelCard.load(tmp_path / "hub" / "README.md").data.datasets == expected
