# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""transformers' common model and configuration tests against this package's classes."""

import copy
import unittest

import torch
from transformers import BertConfig, SiglipConfig, ViTConfig
from transformers.testing_utils import require_torch, torch_device

from modeling_mm_orient import MMOrientConfig, MMOrientForMultiTaskClassification, MMOrientModel

from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor, random_attention_mask

TASKS = [
    {"name": "offensive", "labels": ["no", "yes"]},
    {"name": "emotions", "kind": "multi_label", "labels": ["joy", "anger", "fear"]},
    {"name": "intensity", "kind": "regression"},
]


class MMOrientModelTester:
    """A tiny model of three transformers."""

    is_training = True
    batch_size = 5
    seq_length = 7
    image_size = 16

    def __init__(self, parent):
        self.parent = parent
        self.sequence_classification_class = MMOrientForMultiTaskClassification
        self.base_model_class = MMOrientModel

    def get_config(self):
        small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        vision = small | {"image_size": self.image_size, "patch_size": 8}
        text = small | {"vocab_size": 99, "max_position_embeddings": 16}
        joint_text = text | {"bos_token_id": 0, "eos_token_id": 98, "pad_token_id": 1}
        return MMOrientConfig(
            joint_config=SiglipConfig(text_config=joint_text, vision_config=vision),
            text_config=BertConfig(**text, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            vision_config=ViTConfig(**vision),
            tasks=TASKS,
            frozen_encoders=[],
            attention_hidden_size=8,
            relation_hidden_size=8,
            learner_hidden_sizes=[24, 16],
            learner_dropout=0.0,
            image_threshold=0.99999,
            text_threshold=0.99999,
        )

    def prepare_config_and_inputs_for_common(self):
        pixels = [self.batch_size, 3, self.image_size, self.image_size]
        tokens = [self.batch_size, self.seq_length]
        mask = random_attention_mask(tokens)
        inputs = {
            "pixel_values": floats_tensor(pixels),
            "input_ids": ids_tensor(tokens, 99),
            "attention_mask": mask,
            "joint_pixel_values": floats_tensor(pixels),
            "joint_input_ids": ids_tensor(tokens, 98),
            "joint_attention_mask": mask,
        }
        return self.get_config(), inputs


@require_torch
class MMOrientModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MMOrientModel, MMOrientForMultiTaskClassification)
    has_attentions = False
    test_resize_embeddings = False
    test_torch_exportable = False
    _is_composite = True
    model_tester = None

    def setUp(self):
        self.model_tester = MMOrientModelTester(self)
        self.config_tester = ConfigTester(self, config_class=MMOrientConfig, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is MMOrientForMultiTaskClassification:
            count = self.model_tester.batch_size
            inputs["labels"] = {
                "offensive": torch.zeros(count, dtype=torch.long, device=torch_device),
                "emotions": torch.ones(count, 3, device=torch_device),
                "intensity": torch.ones(count, device=torch_device),
            }
        return inputs

    def check_training_gradient_checkpointing(self, *args, **kwargs):
        self.all_model_classes = (MMOrientForMultiTaskClassification,)  # the model without heads has no loss
        super().check_training_gradient_checkpointing(*args, **kwargs)

    def test_training(self):
        self.all_model_classes = (MMOrientForMultiTaskClassification,)
        super().test_training()

    @unittest.skip("hidden states are the encoders' own, tested with their models, as for CLIP")
    def test_hidden_states_output(self):
        pass

    @unittest.skip("hidden states are the encoders' own, tested with their models, as for CLIP")
    def test_retain_grad_hidden_states_attentions(self):
        pass

    def test_config(self):
        self.config_tester.run_common_tests()
