"""The models' inputs: named once, found by everyone who inspects a signature, a misspelt one refused."""

import inspect

import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientModel
from modeling_mm_orient.features.collation import FeatureCollator
from modeling_mm_orient.inputs import INPUT_NAMES

from .helpers import feature_batch, label_batch, tiny_model

ASKED = ("output_attentions", "output_relations", "output_components")
APART = ("without_themselves", "without_neighbours")


def test_signatures_list_every_input():
    names = list(inspect.signature(MMOrientModel.forward).parameters)
    assert names == ["self", *INPUT_NAMES, *ASKED, *APART] and len(INPUT_NAMES) == 21
    names = list(inspect.signature(MMOrientForMultiTaskClassification.forward).parameters)
    assert names == ["self", *INPUT_NAMES, "labels", *ASKED, "output_members", *APART]
    assert list(inspect.signature(MMOrientModel.encode_posts).parameters) == ["self", *INPUT_NAMES]


@pytest.mark.parametrize(
    "wrong, meant",
    [("has_imag", "has_image"), ("token_feature", "token_features"), ("label", "labels"), ("post_key", "post_keys")],
)
def test_a_misspelt_input_is_refused_with_the_nearest_name(wrong, meant):
    with pytest.raises(TypeError, match=f"no input `{wrong}`; did you mean `{meant}`"):
        tiny_model()(**feature_batch(), **{wrong: None})
    if wrong != "label":
        with pytest.raises(TypeError, match=f"no input `{wrong}`; did you mean `{meant}`"):
            tiny_model().mm_orient.encode_posts(**feature_batch(), **{wrong: None})


def test_an_input_given_twice_or_one_too_many():
    with pytest.raises(TypeError, match="`pixel_values` twice"):
        tiny_model()(torch.zeros(1), pixel_values=torch.zeros(1))
    with pytest.raises(TypeError, match="takes 28 inputs, got 29"):
        tiny_model()(*[None] * 29)


def test_inputs_by_position_are_those_by_name():
    model, batch = tiny_model().eval(), feature_batch()
    by_name = model(**batch)
    by_position = model(*[batch.get(name) for name in INPUT_NAMES])
    assert torch.equal(by_name.logits["offensive"], by_position.logits["offensive"])


def test_what_transformers_and_adapters_pass_to_any_model():
    model, batch = tiny_model().eval(), feature_batch()
    passed = {"num_items_in_batch": torch.tensor(9), "use_cache": False, "inputs_embeds": None, "task_ids": None}
    outputs = model(**batch, labels=label_batch(), return_dict=False, **passed)
    assert isinstance(outputs, tuple) and outputs[0].dim() == 0  # the loss comes first
    with pytest.raises(ValueError, match="no `inputs_embeds`"):
        model(**batch, inputs_embeds=torch.zeros(9, 5, 12))


def test_hidden_states_are_said_not_to_be_returned(caplog):
    with caplog.at_level("WARNING"):
        import transformers.utils.logging as logging

        logging.enable_propagation()
        outputs = tiny_model().eval()(**feature_batch(), output_hidden_states=True)
        logging.disable_propagation()
    assert "the encoders' hidden states are not returned" in caplog.text
    assert "hidden_states" not in outputs


def test_trainer_keeps_the_inputs_of_the_signature(tmp_path):
    # with remove_unused_columns left on, the Trainer drops what the signature does not list
    rows = [{"image_embeds": row, "id": "x", "post_keys": 1} for row in torch.randn(4, 8)]
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = Trainer(tiny_model(), arguments, data_collator=FeatureCollator([]), train_dataset=rows)
    trainer._set_signature_columns_if_needed()
    assert {"image_embeds", "post_keys", "has_image", "labels"} <= set(trainer._signature_columns)
    assert "id" not in trainer._signature_columns


def test_torch_export_takes_inputs_by_name():
    model, batch = tiny_model().eval(), feature_batch(4)
    program = torch.export.export(model, (), kwargs=batch, strict=False)
    found = program.module()(**batch)
    torch.testing.assert_close(found.logits["offensive"], model(**batch).logits["offensive"])
