import pytest
import torch
from transformers import BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from modeling_mm_orient import MMOrientConfig, MMOrientProcessor
from modeling_mm_orient.optional_dependencies import nrclex
from modeling_mm_orient.runs.presets import train_tokenizer
from modeling_mm_orient.task_features import (
    NRC_EMOTIONS,
    check_sources,
    classifier_features,
    feature_sizes,
    nrc_emotions,
    task_features,
)

from .helpers import TEXTS, make_processor, picture, save_classifier

needs_lexicon = pytest.mark.skipif(nrclex is None, reason="NRCLex is not installed")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("classifier"))


def test_probabilities_are_the_classifiers_whatever_shares_the_batch(classifier):
    sources = check_sources([{"name": "sentiment", "source": classifier}])
    together = task_features(["a cat", "", *TEXTS], sources)
    assert together.shape == (5, 5)
    assert together[1].tolist() == [0.0] * 5
    torch.testing.assert_close(together[[0, 2, 3, 4]].sum(-1), torch.ones(4))
    model = BertForSequenceClassification.from_pretrained(classifier).eval()
    for row, text in ((0, "a cat"), (3, TEXTS[1])):
        inputs = train_tokenizer(TEXTS, 300)(text, return_tensors="pt")
        torch.testing.assert_close(together[row : row + 1], model(**inputs).logits.softmax(-1).detach())


def test_the_hidden_state_is_what_the_head_reads():
    tokenizer = train_tokenizer(TEXTS, 300)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=3,
    )
    model = GPT2ForSequenceClassification(config).eval()
    logits = model(**tokenizer(TEXTS, return_tensors="pt", padding=True)).logits
    for side in ("left", "right"):
        tokenizer.padding_side = side
        inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
        logits = model(**inputs).logits
        with torch.no_grad():
            hidden = classifier_features(TEXTS, model, tokenizer, "hidden_state")
        torch.testing.assert_close(model.score(hidden), logits)


def test_the_first_token_is_found_behind_padding_too(classifier):
    model = BertForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.padding_side = "left"
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]
        found = classifier_features(TEXTS, model, tokenizer, "hidden_state")
    firsts = inputs["attention_mask"].shape[1] - inputs["attention_mask"].sum(-1)
    assert firsts.max() > 0
    torch.testing.assert_close(found, hidden[torch.arange(3), firsts])


def test_labels_that_do_not_exclude_each_other(tmp_path):
    sources = [{"name": "toxicity", "source": save_classifier(tmp_path, 6, problem_type="multi_label_classification")}]
    values = task_features(TEXTS, check_sources(sources))
    assert values.shape == (3, 6) and not torch.allclose(values.sum(-1), torch.ones(3))


def test_long_texts_are_cut(classifier):
    sources = check_sources([{"name": "a", "source": classifier, "output": "hidden_state"}])
    assert task_features(["cat " * 10_000], sources).isfinite().all()


@needs_lexicon
def test_the_emotion_lexicon_knows_words_in_any_case():
    happy = dict(zip(NRC_EMOTIONS, nrc_emotions("HAPPY, happy!"), strict=True))
    assert happy["joy"] > 0 and happy["fear"] == 0
    assert abs(sum(happy.values()) - 1) < 1e-6
    assert nrc_emotions("qwertzuiop 42") == [0.0] * 10


@needs_lexicon
def test_sources_stand_side_by_side_and_are_recorded(classifier, tmp_path):
    sources = [
        {"name": "toxicity", "source": classifier, "output": "hidden_state"},
        {"name": "emotions", "source": "nrc"},
        {"name": "sentiment", "source": classifier},
    ]
    sizes = feature_sizes(sources)
    assert sizes == [
        {"name": "toxicity", "size": 16}, {"name": "emotions", "size": 10}, {"name": "sentiment", "size": 5}
    ]  # fmt: skip
    config = MMOrientConfig(task_features=sizes)
    assert config.task_feature_dim == 31
    config.save_pretrained(tmp_path)
    assert MMOrientConfig.from_pretrained(tmp_path).task_features == sizes
    processor = make_processor(task_features=sources)
    inputs = processor(images=[picture(), picture()], text=["so happy", None], return_tensors="pt")
    assert inputs["task_features"].shape == (2, 31) and inputs["task_features"].dtype == torch.float32
    assert inputs["task_features"][0, 16:26].tolist() == pytest.approx(nrc_emotions("so happy"))
    assert inputs["task_features"][1].abs().sum() == 0
    processor.save_pretrained(tmp_path)
    again = MMOrientProcessor.from_pretrained(tmp_path)
    assert again.task_features == processor.task_features
    torch.testing.assert_close(
        again(text="so happy", return_tensors="pt")["task_features"], inputs["task_features"][:1]
    )


def test_sizes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="`task_feature_dim` must be 5, the sum of `task_features`"):
        MMOrientConfig(task_features=[{"name": "a", "size": 5}], task_feature_dim=6)
    with pytest.raises(ValueError, match="`task_features` must be None or a list"):
        MMOrientConfig(task_features=["a"])


@pytest.mark.parametrize(
    "sources, message",
    [
        ([{"name": "a"}], "must have a `name` and a `source`"),
        ([{"name": "a", "source": "x", "output": "logits"}], "`output` must be one of probabilities, hidden_state"),
        ([{"name": "a", "source": "x", "size": 3}], "unknown key 'size'"),
        ([{"name": "a", "source": "x"}] * 2, "must have different names"),
    ],
)
def test_wrong_sources_are_refused(sources, message):
    with pytest.raises(ValueError, match=message):
        MMOrientProcessor(task_features=sources)
