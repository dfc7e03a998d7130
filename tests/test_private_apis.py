"""Every private name that the package rests on is still there, and does what it is used for."""

import argparse
import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, PreTrainedModel, ProcessorMixin

import modeling_mm_orient
from modeling_mm_orient import private_apis
from modeling_mm_orient.private_apis import PRIVATE_NAMES, PrivateName


def owner_of(name: PrivateName):
    module, _, attribute = name.owner.partition(":")
    path, rest = module.split("."), []
    while path:
        try:
            found = importlib.import_module(".".join(path))
            break
        except ImportError:
            rest.insert(0, path.pop())
    for part in (*rest, *filter(None, [attribute])):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", PRIVATE_NAMES, ids=lambda name: f"{name.owner}.{name.name}")
def test_the_name_is_there(name):
    owner = owner_of(name)
    if not name.of_instances:
        assert hasattr(owner, name.name), f"{name.owner} has no {name.name} any more: {name.why}"
    elif owner is argparse.ArgumentParser:
        parser = owner()
        assert hasattr(parser.add_mutually_exclusive_group() if name.name == "_group_actions" else parser, name.name)
    elif owner is nn.Module:
        assert name.name in vars(nn.Linear(1, 1))
    else:
        loader = owner([1, 2])
        assert hasattr(loader, name.name), f"{name.owner} has no {name.name} any more: {name.why}"


def test_every_private_name_used_is_listed():
    listed = {name.name for name in PRIVATE_NAMES}
    ours = set()
    package = Path(modeling_mm_orient.__file__).parent
    trees = [ast.parse(path.read_text()) for path in package.rglob("*.py")]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                ours.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                ours.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                ours.add(node.target.id)
    used = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert used - ours - listed <= {"_C", "_asdict", "_replace", "_fields", "_exit"}, (
        "name it in private_apis.py, with why nothing public serves"
    )


def test_transformers_asks_what_is_overridden():
    assert inspect.ismethod(PreTrainedModel.is_custom_code) and inspect.ismethod(ProcessorMixin.get_attributes)
    loading = inspect.getsource(ProcessorMixin.from_pretrained)
    assert "_get_arguments_from_pretrained" in loading
    assert "is_custom_code()" in inspect.getsource(inspect.getmodule(PreTrainedModel))


def test_the_attention_of_a_configuration():
    config = BertConfig()
    private_apis.set_attention_implementation(config, "eager")
    assert private_apis.attention_implementation(config) == "eager"


def test_a_weight_changed_in_place_shows():
    layer = nn.Linear(2, 2)
    before = private_apis.weights_state(layer.parameters())
    assert private_apis.weights_state(layer.parameters()) == before
    with torch.no_grad():
        layer.weight.add_(1)
    assert private_apis.weights_state(layer.parameters()) != before


def test_hooks_show():
    layer = nn.Linear(2, 2)
    assert not private_apis.is_listened_to(layer)
    handle = layer.register_forward_hook(lambda *_: None)
    assert private_apis.is_listened_to(layer)
    handle.remove()
    layer.register_forward_pre_hook(lambda *_: None)
    assert private_apis.is_listened_to(layer)


def test_a_transform_shows():
    seen = []
    torch.func.vmap(lambda x: seen.append(private_apis.is_transformed()) or x)(torch.ones(2))
    assert seen == [True] and not private_apis.is_transformed()


def test_products():
    features, weight, bias = torch.randn(5, 8), torch.randn(3, 8), torch.randn(3)
    if private_apis.has_onednn_linear():
        found = private_apis.onednn_linear(features, weight, bias)
        torch.testing.assert_close(found, F.linear(features, weight, bias), atol=1e-5, rtol=1e-5)
    first, second = (torch.randint(-127, 128, (32, 32), dtype=torch.int8) for _ in range(2))
    expected = first.int() @ second.int()
    assert torch.equal(private_apis.int8_product(first, second), expected)
    room = torch.empty(32, 32, dtype=torch.int32)
    private_apis.int8_product(first, second, out=room)
    assert torch.equal(room, expected)
