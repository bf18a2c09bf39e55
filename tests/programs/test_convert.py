# SPDX-License-Identifier: Apache-2.0
"""convert.py: what it recognises, what it writes, what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_torch as ref
import torch
from reference_backbones import ResNet, Vgg16

import convert
from src.config import ConfigError, from_json, get_config
from src.formats.checkpoint import (
    STATE_PREFIX,
    CheckpointError,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from src.formats.pytorch_keys import ConversionError
from src.model import build_model

ROOT = Path(__file__).resolve().parents[2]


TINY = {
    "backbone": "resnet18",
    "input_size": 128,
    "num_classes": 5,
    "planes": 32,
    "num_levels": 3,
    "num_scales": 4,
    "sfam": True,
}


SIZE = ("--set", "model.input_size=128")


def shapes_of(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def make_backbone(name):
    return Vgg16() if name == "vgg16" else ResNet(name)


def run(source, output, *flags):
    convert.main(["--input", str(source), "--output", str(output), *flags])


def saved(state, folder, name="model.pth"):
    torch.save(state, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def tiny_net():
    return ref.randomise(ref.M2Det(**TINY)).eval()


@pytest.fixture(scope="module")
def tiny_pth(tiny_net, tmp_path_factory):
    return saved(tiny_net.state_dict(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_ckpt(tiny_pth, tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "model.ckpt"
    run(tiny_pth, output, *SIZE)
    return output


@pytest.fixture
def tiny_state(tiny_net):
    return {key: value.clone() for key, value in tiny_net.state_dict().items()}


def test_values_land_where_they_belong(tiny_net, tiny_ckpt):
    """A sample of each rule of naming, written out by hand."""
    pairs = {
        "backbone.stem.conv1.weight": "base.conv1.weight",
        "backbone.layer2.0.downsample.1.moving_variance": "base.layer2.0.downsample.1.running_var",
        "backbone.layer4.1.bn2.gamma": "base.layer4.1.bn2.weight",
        "neck.fuse.reduce_shallow.conv.weight": "reduce.conv.weight",
        "neck.fuse.reduce_deep.bn.moving_mean": "up_reduce.bn.running_mean",
        "neck.squeeze.0.bn.beta": "leach.2.bn.bias",
        "neck.tums.2.encoder.1.conv.weight": "unet3.layers.1.conv.weight",
        "neck.tums.0.top.conv.weight": "unet1.toplayer.0.conv.weight",
        "neck.tums.1.laterals.2.conv.weight": "unet2.latlayer.2.conv.weight",
        "neck.tums.1.smooth.0.bn.gamma": "unet2.smooth.0.bn.weight",
        "neck.sfam.fc1.0.weight": "sfam_module.fc1.3.weight",
        "neck.sfam.fc2.0.bias": "sfam_module.fc2.0.bias",
        "neck.norm.gamma": "Norm.weight",
        "head.loc.3.weight": "loc.3.weight",
        "head.conf.0.bias": "conf.0.bias",
    }
    content, state = read_checkpoint(tiny_ckpt), tiny_net.state_dict()
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(content[ours].asnumpy(), state[theirs].numpy(), err_msg=ours)


def test_config_is_written_beside(tiny_ckpt):
    config = from_json((tiny_ckpt.parent / "config.json").read_text())
    assert {key: getattr(config.model, key) for key in TINY} == TINY
    net = build_model(config)
    load_weights(net, tiny_ckpt)


def test_vgg_stages(tmp_path):
    net = ref.randomise(Vgg16())
    run(saved(net.state_dict(), tmp_path), tmp_path / "vgg.ckpt")
    content = read_checkpoint(tmp_path / "vgg.ckpt")
    assert len(content) == 30
    for ours, layer in (("stages.0.0", 0), ("stages.1.2", 7), ("stages.3.4", 21), ("conv7", 33)):
        found = content[f"backbone.{ours}.weight"].asnumpy()
        np.testing.assert_array_equal(found, net[layer].weight.detach().numpy())
    assert not (tmp_path / "config.json").exists()
    model = build_model(get_config("m2det_tiny", ["model.backbone=vgg16"]))
    load_weights(model.backbone, tmp_path / "vgg.ckpt", "backbone.")


PRESET_FLAG = {
    "resnet50": "--config m2det320_resnet50",
    "se_resnext50_32x4d": "--set model.backbone=se_resnext50_32x4d",
}


@pytest.mark.parametrize("name", PRESET_FLAG)
def test_classifier_is_left_out(name, tmp_path, capsys):
    state = make_backbone(name).state_dict()
    run(saved(state, tmp_path), tmp_path / "x.safetensors", "--set", f"model.backbone={name}")
    report = capsys.readouterr().out
    assert f"{name} backbone" in report
    assert f"next: python train.py --dataset_path DATASET {PRESET_FLAG[name]} " in report
    assert "not used: 2 keys, ImageNet classifier" in report
    content = read_checkpoint(tmp_path / "x.safetensors")
    assert not [key for key in content if "fc.weight" in key or "linear" in key]
    parts = [key for key in state if "num_batches" not in key]
    assert len(content) == len(parts) - 2


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {key: v.half() if v.is_floating_point() else v for key, v in state.items()},
    ],
    ids=["module", "state_dict", "float16"],
)
def test_other_wrappings(wrap, tiny_state, tiny_ckpt, tmp_path):
    run(saved(wrap(tiny_state), tmp_path), tmp_path / "x.ckpt", *SIZE)
    found, expected = read_checkpoint(tmp_path / "x.ckpt"), read_checkpoint(tiny_ckpt)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].asnumpy().dtype == np.float32
        np.testing.assert_allclose(found[name].asnumpy(), value.asnumpy(), rtol=1e-3, atol=1e-4)


def test_to_pytorch_and_strictly_back(tiny_net, tiny_ckpt, tmp_path):
    run(tiny_ckpt, tmp_path / "back.pth", "--to", "pytorch")
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    ref.M2Det(**TINY).load_state_dict(state)
    for key, value in tiny_net.state_dict().items():
        if not key.startswith("base.fc"):
            assert torch.equal(state[key], value), key
    assert not state["base.fc.weight"].any()
    shared = (("leach.0.conv.weight", "leach.2.conv.weight"), ("loc.0.weight", "loc.1.weight"))
    assert [state[a].data_ptr() == state[b].data_ptr() for a, b in shared] == [True, False]


def test_to_pytorch_leaves_out_the_optimizer(tiny_ckpt, tmp_path):
    content = dict(read_checkpoint(tiny_ckpt))
    content[f"{STATE_PREFIX}moments.head.loc.0.bias"] = content["head.loc.0.bias"]
    save_checkpoint(content, tmp_path / "x.ckpt")
    (tmp_path / "config.json").write_text((tiny_ckpt.parent / "config.json").read_text())
    run(tmp_path / "x.ckpt", tmp_path / "x.pth", "--to", "pytorch")
    assert not [key for key in torch.load(tmp_path / "x.pth") if "moments" in key]


def test_to_pytorch_refuses(tiny_ckpt, tmp_path):
    output = tmp_path / "x.pth"
    with pytest.raises(ConversionError, match=r"backbone\.layer1\.0\.conv3\.weight is missing"):
        run(tiny_ckpt, output, "--to", "pytorch", "--config", "m2det320_resnet50")
    with pytest.raises(ConversionError, match=r"x\.ckpt.*\.pth"):
        run(tiny_ckpt, tmp_path / "x.ckpt", "--to", "pytorch")
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(tiny_ckpt.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        run(bad, output, "--to", "pytorch")
    content = dict(read_checkpoint(tiny_ckpt))
    content["neck.norm.gamma"].set_data(content["neck.norm.gamma"] * float("nan"))
    save_checkpoint(content, bad)
    (tmp_path / "config.json").write_text((tiny_ckpt.parent / "config.json").read_text())
    with pytest.raises(ConversionError, match=r"found 96 of 96 in neck\.norm\.gamma"):
        run(bad, output, "--to", "pytorch")
    bad.rename(tmp_path / "lonely.ckpt")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match="--config"):
        run(tmp_path / "lonely.ckpt", output, "--to", "pytorch")
    assert not output.exists()


def test_one_squeeze_per_level(tmp_path):
    net = ref.randomise(ref.M2Det(**TINY, shared_squeeze=False, shared_sfam=False))
    source, output = saved(net.state_dict(), tmp_path), tmp_path / "x.ckpt"
    with pytest.raises(ConversionError, match=r"leach\.1, leach\.2 to repeat leach\.0"):
        run(source, output, *SIZE)
    options = [f"model.shared_{part}=false" for part in ("squeeze", "sfam")]
    run(source, output, *SIZE, *(text for option in options for text in ("--set", option)))
    content = read_checkpoint(output)
    for ours, theirs in (("neck.squeeze.2.conv", "leach.2.conv"), ("neck.sfam.fc1.3",) * 2):
        theirs = theirs.replace("neck.sfam", "sfam_module")
        expected = net.state_dict()[f"{theirs}.weight"].numpy()
        np.testing.assert_array_equal(content[f"{ours}.weight"].asnumpy(), expected)
    run(output, tmp_path / "back.pth", "--to", "pytorch")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(back[k], v) for k, v in net.state_dict().items() if ".fc." not in k)


def test_config_of_another_checkpoint_is_not_replaced(tiny_pth, tiny_ckpt, tmp_path):
    run(tiny_pth, tmp_path / "a.ckpt", *SIZE)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ConversionError, match=r"config\.json belongs to a\.ckpt and differs"):
        run(tiny_pth, tmp_path / "b.ckpt", "--set", "model.input_size=192")
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "config.json"]
    assert (tmp_path / "config.json").read_text() == before
    run(tiny_pth, tmp_path / "a.ckpt", "--set", "model.input_size=192")
    assert json.loads((tmp_path / "config.json").read_text())["model"]["input_size"] == 192


def test_a_config_that_is_not_utf8_belongs_to_another_checkpoint(tiny_pth, tmp_path):
    (tmp_path / "a.ckpt").touch()
    (tmp_path / "config.json").write_bytes(b"\xff")
    with pytest.raises(ConversionError, match=r"config\.json belongs to a\.ckpt and differs"):
        run(tiny_pth, tmp_path / "b.ckpt", *SIZE)
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "config.json"]


def test_convert_vgg_script(tmp_path):
    source = saved(Vgg16().state_dict(), tmp_path, "vgg16_reducedfc.pth")
    script = ["bash", ROOT / "scripts" / "convert_vgg.sh"]
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([*script, source], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "vgg16_reducedfc.ckpt").is_file()
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: bash scripts/convert_vgg.sh")
