# SPDX-License-Identifier: Apache-2.0
"""convert.py on ImageNet weights from NumPy archives and ONNX graphs: the same features as at home.

The sources are PyTorch networks with random weights and preprocessing of their own.
"""

import sys

import mindspore as ms
import numpy as np
import onnx
import pytest
import reference_torch as ref
import torch
from mindspore import nn
from onnx import TensorProto, helper, numpy_helper
from reference_backbones import ResNet, Vgg16

import convert
from src.formats.checkpoint import load_weights
from src.formats.imagenet_weights import read_npz, read_onnx
from src.formats.pytorch_keys import ConversionError
from src.model.backbones import build_backbone

SIDE = 64
OUR_MEAN_RGB = (123, 117, 104)


@pytest.fixture(scope="module")
def resnet():
    return ref.randomise(ResNet("resnet18_res4")).eval()


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)  # RGB


def run(source, output, *flags):
    convert.main(["--input", str(source), "--output", str(output), *flags])
    return output


def folded(net):
    """{key: array} with each BatchNorm inside the convolution before it."""
    state = {k: v.double() for k, v in net.state_dict().items()}
    arrays = {}
    for key, kernel in state.items():
        if kernel.ndim == 4:
            layer = key[: -len(".weight")]
            norm = layer.replace("downsample.0", "downsample.1").replace("conv", "bn")
            gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
            arrays[key] = (kernel * gain.reshape(-1, 1, 1, 1)).float().numpy()
            bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
            arrays[f"{layer}.bias"] = bias.float().numpy()
    return arrays


def features_by_torchvision(net, picture):
    """Both maps with torchvision's preprocessing; around the image lies this project's mean."""
    framed = np.empty((SIDE + 6, SIDE + 6, 3))
    framed[:] = OUR_MEAN_RGB
    framed[3:-3, 3:-3] = picture
    x = (framed / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    x = torch.from_numpy(x.transpose(2, 0, 1)[None]).float()
    pads, net.conv1.padding = net.conv1.padding, (0, 0)
    with torch.no_grad():
        maps = net(x)
    net.conv1.padding = pads
    return [m.numpy() for m in maps]


def features_here(name, checkpoint, picture):
    model = nn.Cell()
    model.backbone = net = build_backbone(name)
    load_weights(net, checkpoint, "backbone.")
    net.set_train(False)
    bgr = picture[:, :, ::-1] - np.array([104, 117, 123], np.float32)
    maps = net(ms.Tensor(bgr.transpose(2, 0, 1)[None].astype(np.float32)))
    return [m.asnumpy() for m in maps]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def test_folded_resnet(resnet, picture, tmp_path, capsys, device):
    np.savez(tmp_path / "x.npz", **folded(resnet))
    output = run(tmp_path / "x.npz", tmp_path / "x.ckpt")
    found = features_here("resnet18_res4", output, picture)
    assert_same(found, features_by_torchvision(resnet, picture))
    report = capsys.readouterr().out
    assert "resnet18_res4 backbone\ninput: RGB by ImageNet's" in report
    assert "filled: 75 parameters" in report
    assert "fresh" not in report


def test_a_stage_without_its_kernels_is_left_out(resnet, tmp_path, capsys):
    extra = {"layer4.0.downsample.0.weight": (512, 256, 1, 1), "layer4.0.conv1.bias": (512,)}
    arrays = {**folded(resnet), **{k: np.ones(v, np.float32) for k, v in extra.items()}}
    np.savez(tmp_path / "x.npz", **arrays, **{"fc.bias": np.ones(1000, np.float32)})
    run(tmp_path / "x.npz", tmp_path / "x.ckpt")
    report = capsys.readouterr().out
    assert "not used: 2 keys, of layer4, whose 3x3 kernels are not there" in report
    assert "not used: 1 keys, ImageNet classifier" in report


@pytest.mark.parametrize("pixels", ["rgb", "bgr"])
def test_pytorch_file_of_four_stages_for_three(pixels, picture, tmp_path, capsys, device):
    """With BatchNorm of its own; as it is by default, as torchvision's on demand."""
    whole = ref.randomise(ResNet("resnet18")).eval()
    torch.save(whole.state_dict(), tmp_path / "x.pth")
    flags = ["--config", "m2det_photos", *(["--pixels", "rgb"] if pixels == "rgb" else [])]
    output = run(tmp_path / "x.pth", tmp_path / "x.ckpt", *flags)
    first_three = ResNet("resnet18_res4").eval()
    for part in ("conv1", "bn1", "layer1", "layer2", "layer3"):
        getattr(first_three, part).load_state_dict(getattr(whole, part).state_dict())
    found = features_here("resnet18_res4", output, picture)
    if pixels == "rgb":
        assert_same(found, features_by_torchvision(first_three, picture))
    else:
        bgr = picture[:, :, ::-1] - np.array([104, 117, 123], np.float32)
        with torch.no_grad():
            maps = first_three(torch.from_numpy(bgr.transpose(2, 0, 1)[None].astype(np.float32)))
        assert_same(found, [m.numpy() for m in maps])
        assert "--pixels rgb" in capsys.readouterr().out


def onnx_file(path, layers):
    """A chain of Conv nodes from (node name, weight name, weight, bias name, bias)."""
    nodes, constants, last = [], [], "input"
    for name, weight_name, weight, bias_name, bias in layers:
        constants += [numpy_helper.from_array(weight, weight_name)]
        constants += [numpy_helper.from_array(bias, bias_name)]
        nodes.append(helper.make_node("Conv", [last, weight_name, bias_name], [f"{name}:0"], name))
        last = f"{name}:0"
    constants.append(numpy_helper.from_array(np.ones((4, 2), np.float32), "dense/kernel:0"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("input", last)]
    graph = helper.make_graph(nodes, "trunk", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph), path)
    return path


def keras_layers(net):
    """The convolutions of a PyTorch VGG-16 under the names that tf2onnx gives Keras' ones."""
    counts, numbers = (2, 2, 3, 3, 3), [i for i, m in enumerate(net) if hasattr(m, "weight")]
    names = [f"block{b}_conv{k + 1}" for b, n in enumerate(counts, 1) for k in range(n)]
    for name, number in zip(names, numbers):
        scope = f"functional_1/{name}_1"
        weight, bias = (p.detach().numpy() for p in (net[number].weight, net[number].bias))
        names = f"{scope}/convolution/ReadVariableOp:0", f"{scope}/Squeeze:0"
        yield f"{scope}/BiasAdd", names[0], weight, names[1], bias


def test_oxford_trunk_from_onnx(picture, tmp_path, capsys, device):
    net = Vgg16().eval()  # fresh: PyTorch's initialisation keeps 13 layers in bounds
    source = onnx_file(tmp_path / "vgg16.onnx", keras_layers(net))
    output = run(source, tmp_path / "vgg16.ckpt")
    bgr = torch.from_numpy(
        (picture[:, :, ::-1] - np.array([104, 117, 123], np.float32)).transpose(2, 0, 1)[None]
    )
    with torch.no_grad():
        shallow, _ = net(bgr)
    found, deep = features_here("vgg16", output, picture)
    assert_same([found], [shallow.numpy()])
    assert deep.std() > 0  # conv6 and conv7 begin with random weights, not with zeros
    report = capsys.readouterr().out
    assert "vgg16 backbone" in report
    assert "filled: 26 parameters" in report
    assert "fresh: 4 parameters, conv6 and conv7" in report
    assert "not used: 1 keys, not part of VGG-16's convolutions" in report


def test_resnet_from_onnx_by_the_names_of_its_nodes(resnet, picture, tmp_path, device):
    arrays = folded(resnet)
    layers = []
    for number, key in enumerate(k for k in arrays if k.endswith(".weight")):
        layer = key[: -len(".weight")]
        parts = layer.split(".")  # layer1.0.conv1 -> /layer1/layer1.0/conv1/Conv
        if len(parts) > 1:
            parts = [parts[0], ".".join(parts[:2]), *parts[2:]]
            if parts[2] == "downsample":
                parts = [*parts[:3], "downsample.0"]
        name = "/".join(["", *parts, "Conv"])
        weight, bias = f"onnx::Conv_{2 * number}", f"onnx::Conv_{2 * number + 1}"
        layers.append((name, weight, arrays[key], bias, arrays[f"{layer}.bias"]))
    source = onnx_file(tmp_path / "x.onnx", layers)
    found = read_onnx(source)
    assert found.pop("dense/kernel:0").shape == (4, 2)
    assert found.keys() == arrays.keys()
    for key, values in arrays.items():
        np.testing.assert_array_equal(found[key], values)


def test_refused_archives(resnet, tmp_path):
    output = tmp_path / "out" / "x.ckpt"
    with pytest.raises(ConversionError, match=r"gone\.npz: not found"):
        run(tmp_path / "gone.npz", output)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ConversionError, match=r"text\.npz: expected an archive of arrays"):
        run(tmp_path / "text.npz", output)
    np.savez(tmp_path / "objects.npz", x=np.array([print], object))
    with pytest.raises(ConversionError, match=r"objects\.npz: expected an archive of arrays"):
        run(tmp_path / "objects.npz", output)
    arrays = folded(resnet)
    del arrays["layer2.1.conv2.weight"]
    np.savez(tmp_path / "less.npz", **arrays)
    with pytest.raises(ConversionError, match=r"less\.npz: expected layer2\.1\.conv2\.weight"):
        run(tmp_path / "less.npz", output)
    np.savez(tmp_path / "other.npz", **{"head.weight": np.ones(3)})
    with pytest.raises(ConversionError, match=r"other\.npz: expected .* 1 keys like head\.weight"):
        run(tmp_path / "other.npz", output)
    np.savez(tmp_path / "x.npz", **folded(resnet))
    with pytest.raises(ValueError, match=r"model\.backbone=vgg16"):
        run(tmp_path / "x.npz", output, "--config", "m2det512_vgg16")
    assert not output.parent.exists()


def test_refused_graphs(tmp_path, monkeypatch):
    for content, said in (
        (b"no graph", "damaged, or not an ONNX file"),
        (b"", "expected an ONNX graph with weights, found none"),
    ):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ConversionError, match=rf"bad\.onnx: {said}"):
            read_onnx(tmp_path / "bad.onnx")
    with pytest.raises(ConversionError, match=r"gone\.onnx: not found"):
        read_onnx(tmp_path / "gone.onnx")
    source = onnx_file(tmp_path / "x.onnx", [("a", "w", np.ones((1, 1, 1, 1)), "b", np.ones(1))])
    model = onnx.load(source)
    options = {"save_as_external_data": True, "size_threshold": 0}
    onnx.save(model, tmp_path / "outside.onnx", **options)
    with pytest.raises(ConversionError, match=r"outside\.onnx: .* w lies outside"):
        read_onnx(tmp_path / "outside.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConversionError, match=r"needs onnx, see requirements-onnx\.txt"):
        read_onnx(source)


def test_half_precision_is_widened(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2, np.float16), n=np.ones(2, np.int64))
    assert [v.dtype for v in read_npz(tmp_path / "x.npz").values()] == [np.float32, np.int64]
