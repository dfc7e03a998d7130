# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""transformers' common processor tests against this package's class."""

import unittest

from transformers import ViTImageProcessorPil
from transformers.testing_utils import require_vision

from modeling_mm_orient import MMOrientProcessor
from modeling_mm_orient.runs.presets import train_tokenizer

from ...test_processing_common import ProcessorTesterMixin


@require_vision
class MMOrientProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MMOrientProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return train_tokenizer(["lower newer", "upper older longer string"], 100)

    @classmethod
    def _setup_image_processor(cls):
        return ViTImageProcessorPil()
