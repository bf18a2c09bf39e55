# SPDX-License-Identifier: Apache-2.0
"""Names of parameters against those of the PyTorch reference and of the official schemas."""

from pathlib import Path

import golden_values as golden
import pytest
import torch
from mindspore.nn.utils import no_init_parameters
from reference_backbones import VARIANTS, ResNet, Vgg16

from src.config import BACKBONES
from src.formats.pytorch_config import choose_config, layout_of
from src.formats.pytorch_keys import Layout, find_backbone, find_model, is_detector
from src.model import build_model
from src.model.backbones import build_backbone


def shapes_of(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def make_backbone(name):
    return Vgg16() if name == "vgg16" else ResNet(name)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_known_by_its_keys(name):
    with torch.device("meta"):
        theirs = shapes_of(make_backbone(name))
    assert not is_detector(theirs)
    assert find_backbone(theirs) == name
    with no_init_parameters():
        ours = {f"backbone.{k}": p for k, p in build_backbone(name).parameters_dict().items()}
    keys = {k: Layout(name).official_keys(k) for k in ours}
    found = {key[5:]: tuple(ours[k].shape) for k, several in keys.items() for key in several}
    unused = ("num_batches_tracked", "fc.weight", "fc.bias", "linear.weight", "linear.bias")
    assert found == {k: v for k, v in theirs.items() if not k.endswith(unused) or "se_module" in k}


@pytest.mark.parametrize("name", golden.FORWARD_CASES)
def test_every_key_of_the_official_schema_is_used(name):
    schema = {key: tuple(shape) for key, (shape, _) in golden.schema(name).items()}
    facts = find_model(schema)
    expected = {"num_classes": 81, "planes": 256, "num_levels": 8, "num_scales": 6, "smooth": True}
    expected.update(base_feature="every", sfam=False, neck="mlfpn")
    assert facts == {**expected, **golden.FORWARD_CASES[name]}
    config, _ = choose_config(facts, [Path(f"{name}.pth")])
    assert config.model.input_size == 320
    with no_init_parameters():
        ours = build_model(config).parameters_dict()
    keys = {k: layout_of(config.model).official_keys(k) for k in ours}
    found = {key: tuple(ours[k].shape) for k, several in keys.items() for key in several}
    unused = ("num_batches_tracked", "base.fc", "base.last_linear")
    assert found == {k: v for k, v in schema.items() if not any(part in k for part in unused)}


def test_variants_cover_the_config():
    assert set(VARIANTS) | {"vgg16"} == set(BACKBONES)
