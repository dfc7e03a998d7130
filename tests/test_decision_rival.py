import csv
import json
import logging
import shutil

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.pipelines import get_supported_tasks

from modeling_mm_orient.cli import main
from modeling_mm_orient.runs.benchmark.cell_files import read_cells
from modeling_mm_orient.runs.benchmark.decision_rival import DecisionRival
from modeling_mm_orient.runs.benchmark.noise import noise_rows
from modeling_mm_orient.runs.demo import make_memes

from .helpers import TASKS, TEXTS, TOWER, add_columns, as_bytes, picture, save_encoders

pytestmark = pytest.mark.skipif("decision" not in get_supported_tasks(), reason="an older transformers")

MOOD = {"name": "mood", "labels": ["sad", "happy", "neither of them"]}
SIGNS = {"name": "signs", "kind": "multi_label", "labels": ["rain", "sun"]}
TEMPLATE = (
    "{% for message in messages %}[user] {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} [model] {% endif %}"
)
LANGUAGE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, so that single letters are tokens; Yes and No are tokens too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[user]", "[model]", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *["Yes No"] * 9], trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", extra_special_tokens=special[1:])
    found.add_tokens(["Yes", "No"])
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory) -> str:
    """A tiny random language model that chats; its path."""
    folder, tokenizer = tmp_path_factory.mktemp("chat"), chat_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=400, max_position_embeddings=2048, initializer_range=0.5, **LANGUAGE)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def seeing_model(tmp_path_factory) -> str:
    """A tiny random model that chats about pictures; its path."""
    folder, tokenizer = tmp_path_factory.mktemp("seeing"), chat_tokenizer()
    torch.manual_seed(0)
    language = {"model_type": "llama", "vocab_size": 400, "max_position_embeddings": 2048, "initializer_range": 0.5}
    vision = {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8} | TOWER
    config = LlavaConfig(
        vision_config=vision,
        text_config=language | LANGUAGE,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        initializer_range=0.5,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return str(folder)


def posts(colours=((250, 0, 0), (0, 0, 250), None)) -> list[dict]:
    texts = ["a cat on a mat", "nobody: me: [picture] <image>", None]
    return [
        {
            "id": str(number),
            "image": colour and {"bytes": as_bytes(picture("RGB", (20, 20), colour)), "path": None},
            "text": text,
            "label.mood": number,
            "label.signs": [1.0, 0.0],
        }
        for number, (colour, text) in enumerate(zip(colours, texts, strict=True))
    ]


def test_a_chat_model_gives_every_label_a_probability(chat_model):
    rival = DecisionRival(chat_model, [MOOD, SIGNS])
    assert rival.name == f"decision:{chat_model}"
    found = rival.predict(posts())
    assert {name: values.shape for name, values in found.items()} == {"mood": (3, 3), "signs": (3, 2)}
    assert found["mood"].sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert ((found["signs"] > 0) & (found["signs"] < 1)).all()
    assert np.abs(found["mood"][0] - found["mood"][1]).max() > 1e-4  # the texts are read
    assert np.abs(found["signs"][:, 0] - found["signs"][:, 1]).max() > 1e-4  # and the labels
    decided = rival.decide(found)
    assert (decided["mood"] == found["mood"].argmax(1)).all()
    assert (decided["signs"] == (found["signs"] >= 0.5)).all()


def test_probabilities_are_those_of_the_answers_letters(chat_model):
    rival = DecisionRival(chat_model, [MOOD])
    found, tokenizer, model = rival.predict(posts()[:1])["mood"][0], rival.pipeline.tokenizer, rival.pipeline.model
    prompt = (
        "Text of the post: a cat on a mat\n\nWhich label of 'mood' fits the post?\nA. sad\nB. happy\n"
        "C. neither of them\nAnswer with the letter of the option that fits best (A to C) only."
    )
    message = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    logits = model(**ids.to(model.device)).logits[0, -1, tokenizer.convert_tokens_to_ids(["A", "B", "C"])]
    assert found == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)


def test_the_order_of_posts_and_what_else_is_asked_do_not_matter(chat_model):
    both = DecisionRival(chat_model, [MOOD, SIGNS]).predict(posts())["mood"]
    alone = DecisionRival(chat_model, [MOOD]).predict(posts()[::-1])["mood"]
    assert (both == alone[::-1]).all()


def test_a_model_without_eyes_reads_the_text_alone(chat_model):
    rival = DecisionRival(chat_model, [MOOD])
    assert not rival.reads_pictures
    assert (rival.predict(posts())["mood"] == rival.predict(posts((None, None, (0, 9, 9))))["mood"]).all()


def test_a_model_with_eyes_is_given_the_pictures(seeing_model):
    rival = DecisionRival(seeing_model, [MOOD])
    assert rival.reads_pictures
    plain = rival.predict(posts())["mood"]
    assert plain.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    other = rival.predict(posts(((250, 0, 0), (0, 250, 0), None)))["mood"]
    assert (plain[0] == other[0]).all() and (plain[2] == other[2]).all()
    assert np.abs(plain[1] - other[1]).max() > 1e-6
    without = rival.predict(posts((None, None, None)))["mood"]
    assert np.abs(plain[:2] - without[:2]).max(1).min() > 1e-6


def test_a_text_cannot_name_the_place_of_the_picture(seeing_model):
    rival = DecisionRival(seeing_model, [MOOD])
    request = rival._request(posts()[1])
    ((place, _),) = request["assets"].items()
    assert request["state"].count(place) == 1 and "me: [picture] <image>" in request["state"]


def test_data_sets_are_read_as_lists_are(seeing_model):
    rival = DecisionRival(seeing_model, [MOOD])
    for feature in (datasets.Image(decode=False), datasets.Image()):
        data = datasets.Dataset.from_list(posts()).cast_column("image", feature)
        assert (rival.predict(data)["mood"] == rival.predict(posts())["mood"]).all()


def test_no_posts_have_no_probabilities(chat_model):
    found = DecisionRival(chat_model, [MOOD, SIGNS]).predict([])
    assert {name: values.shape for name, values in found.items()} == {"mood": (0, 3), "signs": (0, 2)}


def test_it_takes_part_in_the_study_of_noise(chat_model):
    rows = noise_rows(
        "memes", [DecisionRival(chat_model, [MOOD, SIGNS])], posts(), [MOOD, SIGNS], degradations=["word_drop"]
    )
    assert {(row.method, row.task) for row in rows} == {(f"decision:{chat_model}", name) for name in ("mood", "signs")}
    assert len(rows) == 2 * 5


def test_instructions_replace_the_question(chat_model):
    asked = DecisionRival(chat_model, [MOOD, SIGNS], {"mood": "How does it feel?", "signs": "Is there some?"})
    plain = DecisionRival(chat_model, [MOOD, SIGNS])
    for task in ("mood", "signs"):
        assert np.abs(asked.predict(posts())[task] - plain.predict(posts())[task]).max() > 1e-4


def test_what_cannot_be_asked_is_said(chat_model, caplog):
    with caplog.at_level(logging.WARNING):
        rival = DecisionRival(chat_model, TASKS)
    assert "is not asked for intensity: a number is no choice" in caplog.text
    assert set(rival.predict(posts()[:1])) == {"offensive", "emotions"}
    with pytest.raises(ValueError, match="no task with labels"):
        DecisionRival(chat_model, TASKS[2:])
    with pytest.raises(ValueError, match="instructions for moods: the tasks with labels are mood"):
        DecisionRival(chat_model, [MOOD], {"moods": "?"})
    many = {"name": "topic", "labels": [f"topic {number}" for number in range(27)]}
    with pytest.raises(ValueError, match="at most 26 options, and 'topic' has 27 labels"):
        DecisionRival(chat_model, [many])


def test_a_benchmark_takes_it_for_a_method(chat_model, tmp_path, capsys):
    memes, method = make_memes(tmp_path / "memes", 30), f"decision:{chat_model}"
    command = ["benchmark", "--data", memes, "--labels", "humour", *save_encoders(tmp_path), "--output", tmp_path / "b"]
    command += ["--feature-cache", tmp_path / "cache", "--seeds", 0, "--no-plots", "--bootstrap", 100, "--noise"]
    assert main([*map(str, command), "--methods", "majority", method]) == 0
    assert f"| `{method}` |" in (tmp_path / "b" / "results.md").read_text(encoding="utf-8")
    cells = {cell.method: cell for cell in read_cells(tmp_path / "b")}
    rival = DecisionRival(chat_model, [{"name": "humour", "labels": load_labels(memes)}])
    assert cells[method].probabilities["humour"].shape == (len(cells["majority"].ids), len(load_labels(memes)))
    assert rival.name == cells[method].method and json.loads(cells[method].rows[0]["setting"]) == {}
    assert main([*map(str, command), "--methods", "decision:"]) == 1
    assert "decision:MODEL names a chat model" in capsys.readouterr().err


def test_another_chat_model_at_the_same_place_is_not_taken_for_it(chat_model, tmp_path, capsys):
    memes, place = make_memes(tmp_path / "memes", 30), shutil.copytree(chat_model, tmp_path / "chat")
    command = ["benchmark", "--data", memes, "--labels", "humour", *save_encoders(tmp_path), "--output", tmp_path / "b"]
    command += [
        "--feature-cache",
        tmp_path / "cache",
        "--no-plots",
        "--bootstrap",
        100,
        "--methods",
        f"decision:{place}",
    ]
    command = [*map(str, command), "--seeds"]
    assert main([*command, "0"]) == 0
    assert main([*command, "0", "1"]) == 0  # the same model, whose answers are those of any seed
    (place / "chat_template.jinja").write_text(TEMPLATE.replace("[user]", "[model]"))
    assert main([*command, "0", "1", "2"]) == 1
    folder = tmp_path / "b" / "cells" / "memes"
    assert f"remove {next(folder.iterdir())} to ask it anew" in (said := capsys.readouterr().err)
    assert f"decision:{place} is another model than in" in said and len(read_cells(tmp_path / "b")) == 2


def test_probabilities_that_are_no_numbers_are_told(chat_model):
    rival = DecisionRival(chat_model, [MOOD])
    torch.nn.init.constant_(rival.pipeline.model.get_output_embeddings().weight, float("nan"))
    with pytest.raises(ValueError, match="its probabilities of 'mood' are no numbers, of the post 'p1'"):
        rival.predict([{"id": "p1", "text": "a cat", "image": None}])


def test_a_benchmark_asks_it_for_labels_and_others_for_numbers_too(chat_model, tmp_path, capsys):
    table = make_memes(tmp_path / "memes", 60) / "labels.csv"
    add_columns(table, lambda number, row: {"score": f"{number}.5"})
    command = ["benchmark", "--data", tmp_path / "memes", *save_encoders(tmp_path), "--output", tmp_path / "b"]
    command += ["--feature-cache", tmp_path / "cache", "--seeds", 0, "--no-plots", "--bootstrap", 100]
    command = [*map(str, command), "--methods", "tfidf", f"decision:{chat_model}", "--labels"]
    assert main([*command, "score"]) == 1
    assert "decision:" in (said := capsys.readouterr().err) and "no task with labels to ask for" in said
    add_columns(table, lambda number, row: {"topic": f"topic {number % 27}"})
    assert main([*command, "topic"]) == 1
    assert "at most 26 options, and 'topic' has 27 labels" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert main([*command, "score", "humour"]) == 0
    cells = {cell.method.partition(":")[0]: cell for cell in read_cells(tmp_path / "b")}
    assert [*cells["tfidf"].decided] == ["score", "humour"] and [*cells["decision"].decided] == ["humour"]
    for cell in cells.values():
        (row,) = [row for row in cell.rows if (row["task"], row["split"]) == ("humour", "test")]
        known = cell.labels["humour"] >= 0
        accuracy = (cell.labels["humour"] == cell.decided["humour"])[known].mean()
        assert row["accuracy"] == pytest.approx(accuracy, abs=1e-6)


def load_labels(memes) -> list[str]:
    with (memes / "labels.csv").open(encoding="utf-8", newline="") as file:
        return sorted({row["humour"] for row in csv.DictReader(file)} - {""})
