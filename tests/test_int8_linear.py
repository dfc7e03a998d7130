import pytest
import torch
from torch import nn

from modeling_mm_orient import MMOrientForMultiTaskClassification
from modeling_mm_orient.cpu_speed import Int8Linear, quantise_linear_layers

from .helpers import small_towers, tiny_model


@pytest.mark.parametrize("shape, outputs", [((5, 64), 32), ((3, 7, 96), 17), ((1, 33), 1), ((2, 1, 5), 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_nearly_the_layer(shape, outputs, bias):
    torch.manual_seed(0)
    layer, features = nn.Linear(shape[-1], outputs, bias), torch.randn(shape)
    features[0] *= 1000  # a row has its own scale
    expected, found = layer(features), Int8Linear(layer)(features)
    error = (found - expected).flatten(0, -2).norm(dim=-1) / expected.flatten(0, -2).norm(dim=-1).clamp(min=1)
    assert found.shape == expected.shape and error.max() < 0.05
    assert Int8Linear(layer)(features.bfloat16()).dtype == torch.bfloat16


def test_a_row_depends_on_itself_alone():
    torch.manual_seed(0)
    layer, features = Int8Linear(nn.Linear(64, 16)), torch.randn(6, 64)
    torch.testing.assert_close(layer(features)[2:3], layer(features[2:3]), atol=0, rtol=0)
    torch.testing.assert_close(layer(torch.zeros(2, 64)), layer.bias.expand(2, 16))


def test_only_plain_linear_layers_change():
    class Special(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 2), Special(4, 4)]), nn.LayerNorm(4))
    assert quantise_linear_layers(module) == 2
    assert type(module[0]) is type(module[1][0]) is Int8Linear and type(module[1][1]) is Special


def posts() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(3, 3, 16, 16, generator=generator),
        "input_ids": torch.randint(1, 50, (3, 6), generator=generator),
        "attention_mask": torch.ones(3, 6, dtype=torch.long),
    }


def test_a_model_with_8_bit_encoders(tmp_path):
    torch.manual_seed(0)
    config = small_towers(joint_config=None, relation_scope="memory", memory_top_k=4)
    model = MMOrientForMultiTaskClassification(config).eval()
    inputs = posts()
    with torch.no_grad():
        encoded = model.mm_orient.encode_posts(**inputs)
    references = [
        {"id": str(row), **{f"{m}_embeds": encoded[f"{m}_embeds"][row] for m in ("image", "text")}} for row in range(3)
    ]
    model.build_relation_memory(references)
    with torch.no_grad():
        expected = model(**inputs, output_components=True)
        assert model.quantise_encoders() is model and not model.training
        found = model(**inputs, output_components=True)  # the memory is still its own
    moved = (found.region_vector - expected.region_vector).norm() / expected.region_vector.norm()
    assert 0 < moved < 0.1
    with pytest.raises(ValueError, match="8-bit encoders are not saved"):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(ValueError, match="no encoder with linear layers"):
        tiny_model().quantise_encoders()
