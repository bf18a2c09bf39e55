# SPDX-License-Identifier: Apache-2.0
"""What convert.py refuses: one line with expected and found, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import reference_torch as ref
import torch
from reference_backbones import ResNet

import convert
from src.formats.pytorch_keys import ConversionError
from src.programs import convert as program

ROOT = Path(__file__).resolve().parents[2]
SIZE = ("--set", "model.input_size=128")


def run(source, output, *flags):
    convert.main(["--input", str(source), "--output", str(output), *flags])


def saved(state, folder, name="model.pth"):
    torch.save(state, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def tiny_net():
    return ref.M2Det("resnet18", 128, num_classes=5, planes=32, num_levels=3, sfam=True)


@pytest.fixture(scope="module")
def tiny_pth(tiny_net, tmp_path_factory):
    return saved(tiny_net.state_dict(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_state(tiny_net):
    return {key: value.clone() for key, value in tiny_net.state_dict().items()}


def change(key, value):
    def apply(state):
        state[key] = value(state[key]) if callable(value) else value

    return apply


REFUSED = {
    "leach": (
        change("leach.2.conv.weight", lambda v: v + 1),
        r"expected leach\.2 to repeat leach\.0",
    ),
    "sfam": (
        change("sfam_module.fc2.1.bias", lambda v: v + 1),
        r"sfam_module\.fc2\.1 to repeat sfam_module\.fc2\.0",
    ),
    "shape": (
        change("unet2.layers.1.conv.weight", lambda v: v[:, :5]),
        r"expected unet2\.layers\.1\.conv\.weight of shape 32x32x3x3 .*, found 32x5x3x3",
    ),
    "missing": (lambda state: state.pop("leach.1.bn.bias"), r"expected leach\.1\.bn\.bias"),
    "unknown": (change("extra.weight", torch.zeros(1)), r"extra\.weight, which the network"),
    "nan": (change("Norm.bias", lambda v: v / 0), r"found 96 of 96 in Norm\.bias"),
    "infinite": (
        change("loc.0.bias", lambda v: torch.full_like(v, 1e300, dtype=torch.float64)),
        r"found 24 of 24 in loc\.0\.bias",
    ),
    "twice": (change("module.loc.0.bias", torch.zeros(24)), r"loc\.0\.bias is there twice"),
    "no backbone": (
        lambda state: [state.pop(key) for key in list(state) if key.startswith("base.layer3")],
        r"found residual stages of \(2, 2, 0, 2\)",
    ),
    "no heads": (
        lambda state: [state.pop(key) for key in list(state) if key.startswith("conf.")],
        r"found none of its conf\.0\.weight",
    ),
    "odd heads": (change("conf.0.weight", lambda v: v[:7]), r"found 24 and 7"),
    "not tensors": (change("epoch", 3), r"found 'epoch' of type int"),
    "sparse": (change("Norm.bias", lambda v: v.to_sparse()), r"'Norm\.bias' of type sparse"),
    "quantised": (
        change("Norm.bias", lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)),
        r"'Norm\.bias' of type quantised tensor",
    ),
    "meta": (change("Norm.bias", lambda v: v.to("meta")), r"'Norm\.bias' of type meta tensor"),
    "complex": (change("Norm.bias", lambda v: v + 1j), r"'Norm\.bias' of type complex"),
    "other names": (change("a\nb" * 999, 3), r"found 'a\\nb.* of type int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tiny_state, tmp_path):
    spoil, message = REFUSED[case]
    spoil(tiny_state)
    source = saved(tiny_state, tmp_path)
    with pytest.raises(ConversionError, match=message) as caught:
        run(source, tmp_path / "out" / "x.ckpt", *SIZE)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config", "m2det320_vgg16"],
            "expected model.backbone=vgg16 by config .* found resnet18",
        ),
        (["--config", "m2det_tiny"], "expected model.num_classes=81 by config m2det_tiny, found 5"),
        (["--set", "model.sfam=false"], "expected model.sfam=false by --set, found true"),
        ([*SIZE, "--set", "model.num_levels=8"], "expected model.num_levels=8 .* found 3"),
        (["--set", "model.input_size=64"], "expected model.num_scales=3 by --set, found 4"),
    ],
)
def test_wrong_preset(flags, message, tiny_pth, tmp_path):
    with pytest.raises(ConversionError, match=message):
        run(tiny_pth, tmp_path / "x.ckpt", *flags)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"features.0.weight": torch.zeros(1)}, "found torchvision's VGG classifier"),
        ({"vgg.0.weight": torch.zeros(1)}, r"found 1 keys like vgg\.0\.weight"),
        ({"0.weight": torch.zeros(64, 3, 3, 3)}, "found 1 keys"),
        ({}, "expected a state dict, found dict"),
        ([torch.zeros(1)], "expected a state dict, found list"),
        (torch.zeros(2), "expected a state dict, found Tensor"),
    ],
)
def test_other_architectures(state, message, tmp_path):
    with pytest.raises(ConversionError, match=message):
        run(saved(state, tmp_path), tmp_path / "x.ckpt")
    assert os.listdir(tmp_path) == ["model.pth"]


def test_wide_resnet_is_not_a_resnet(tmp_path):
    state = ResNet("resnet18").state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(128, 64, 3, 3)
    with pytest.raises(ConversionError, match=r"expected layer1\.0\.conv1\.weight of shape 64x64"):
        run(saved(state, tmp_path), tmp_path / "x.ckpt")
    with pytest.raises(ConversionError, match=r"expected model\.backbone=vgg16 by config"):
        run(tmp_path / "model.pth", tmp_path / "x.ckpt", "--config", "m2det320_vgg16")
    with pytest.raises(ConversionError, match=r"expected model\.backbone=resnet50 by --set"):
        run(tmp_path / "model.pth", tmp_path / "x.ckpt", "--set", "model.backbone=resnet50")


def test_the_input_is_not_written_over(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"of PyTorch, by Lightning")
    with pytest.raises(ConversionError, match=r"a\.ckpt: is the input; choose another name"):
        run(tmp_path / "a.ckpt", tmp_path / "x" / ".." / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == b"of PyTorch, by Lightning"


def test_odd_names_are_printed_on_one_line_and_quoted_in_commands(tmp_path, monkeypatch, capsys):
    source = tmp_path / "of\nmine.npz"
    monkeypatch.setattr(
        "src.programs.convert.convert_to_mindspore", lambda source, *_: [f"{source}: a backbone"]
    )
    run(source, tmp_path / "y.ckpt")
    assert capsys.readouterr().out == f"{tmp_path}/of\\nmine.npz: a backbone\n"
    command = program._training("vgg16", Path("my weights.ckpt"))
    assert command.endswith(" --pretrained_backbone 'my weights.ckpt'")


def test_output_name(tiny_pth, tmp_path):
    with pytest.raises(ConversionError, match=r"expected a file name in \.ckpt or \.safetensors"):
        run(tiny_pth, tmp_path / "x.pth", *SIZE)
    with pytest.raises(ConversionError, match=r"nothing\.pth: not found"):
        run(tmp_path / "nothing.pth", tmp_path / "x.ckpt")


def test_command_line_error_is_one_line(tmp_path):
    source = tmp_path / "broken.pth"
    source.write_bytes(b"PK\x03\x04 not really")
    command = [sys.executable, ROOT / "convert.py", "--input", source, "--output", "x.ckpt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {source}: damaged")
    assert done.stderr.count("\n") == 1
