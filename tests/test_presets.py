import json

import pytest

from modeling_mm_orient import MMOrientConfig
from modeling_mm_orient.cli import main
from modeling_mm_orient.data.description import DataDescription
from modeling_mm_orient.data.labels import label_column
from modeling_mm_orient.data.reading import read_posts
from modeling_mm_orient.runs.preset_files import load_preset, preset_names
from modeling_mm_orient.runs.presets import build_on_meta, train_tokenizer
from modeling_mm_orient.task_features import check_sources

from .helpers import shared


def test_presets_are_complete():
    memotion = {"memotion_task_a", "memotion_task_b", "memotion_task_c"}
    others = {"harmeme", "hateful_memes", "mami", "met_meme", "mmhs150k", "multioff", "pridemm"}
    assert set(preset_names()) == {"modern", "paper", "paper_task_features", "tiny"} | memotion | others


@pytest.mark.parametrize("name", ["paper", "modern", "tiny"])
def test_architecture_presets_build(name):
    model = build_on_meta(name)
    assert all(value.is_meta for value in model.parameters())
    assert MMOrientConfig.from_dict(model.config.to_dict()).to_dict() == model.config.to_dict()


def test_the_papers_sizes():
    config = build_on_meta("paper").config
    assert (config.joint_config.model_type, config.image_embed_dim, config.text_embed_dim) == ("clip", 512, 512)
    assert (config.token_feature_dim, config.region_feature_dim, config.task_feature_dim) == (768, 2048, 784)
    assert load_preset("paper")["training"] == {"learning_rate": 5e-6, "batch_size": 120}


def test_task_features_of_a_preset_are_three_sources():
    sources = load_preset("paper", "paper_task_features")["task_features"]
    assert list(sources) == ["toxicity", "emotions", "sentiment"]
    assert check_sources([{"name": name} | entry for name, entry in sources.items()])[0]["output"] == "hidden_state"


def test_presets_merge_and_files_can_be_given(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"training": {"epochs": 3}, "config": {"hima_stage2": False}}))
    merged = load_preset("tiny", "memotion_task_a", str(path))
    assert merged["training"]["epochs"] == 3 and merged["training"]["batch_size"] == 32
    assert merged["data"]["labels"] == ["sentiment"] and merged["config"]["hima_stage2"] is False


def test_wrong_presets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no preset 'papper'; there are harmeme, "):
        load_preset("papper")
    (tmp_path / "x.json").write_text('{"optimizer": {}}')
    with pytest.raises(ValueError, match="unknown part 'optimizer'"):
        load_preset(str(tmp_path / "x.json"))


@pytest.mark.parametrize("task, classes", [("a", [3]), ("b", [2, 2, 2, 2]), ("c", [4, 4, 4, 2])])
def test_memotion_presets_read_the_real_files(task, classes):
    preset = load_preset(f"memotion_task_{task}")
    posts, tasks, left_out = read_posts(
        DataDescription(str(shared("data", "memotion7k_128")), **preset["data"]), check_images=False
    )
    assert [len(task["labels"]) for task in tasks] == classes
    assert {split: len(rows) for split, rows in posts.items()} == {"train": 5598, "validation": 697, "test": 697}
    assert left_out == []
    assert all(
        number is not None for rows in posts.values() for task in tasks for number in rows[label_column(task["name"])]
    )


def test_a_trained_tokenizer_knows_its_texts_and_every_script():
    tokenizer = train_tokenizer(["one two three", "two three four"], 300)
    assert tokenizer.decode(tokenizer("Two three")["input_ids"]) == "[CLS] two three[SEP]"
    assert len(tokenizer("two three")["input_ids"]) == 4
    words = "\u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f600"
    assert tokenizer.decode(tokenizer(words)["input_ids"], skip_special_tokens=True).strip() == words
    assert train_tokenizer(["one two three", "two three four"], 300).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    "verb", [["train", "--labels", "x", "--output", "run"], ["inspect-data"], ["extract", "--output", "x"]]
)
@pytest.mark.parametrize(
    "place",
    [{"data": "/etc"}, {"allow_outside": ["/"]}, {"feature_arrays": {"text_embeds": "x.npy"}}, {"paraphrases": "x"}],
)
def test_a_preset_names_no_places(tmp_path, verb, place, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps({"data": place}))
    assert main([*verb[:1], "--data", str(tmp_path), "--preset", "p.json", *verb[1:]]) == 1
    assert f"has {next(iter(place))!r}, a place" in capsys.readouterr().err
