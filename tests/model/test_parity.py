# SPDX-License-Identifier: Apache-2.0
"""The MindSpore network computes what the official code computes.

Against `../shared/golden` where it is there, and against `reference_torch.py` everywhere. Most runs
are in PyNative mode, which spares compiling; graph mode has its own cases.
"""

import golden_values as golden
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn
from networks import golden_network, images_for, pair

import convert
from src.config import BACKBONES
from src.formats.checkpoint import load_weights, resolve_config
from src.loss import MultiBoxLoss
from src.model import build_model

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FORMS = {
    "squeeze per level": {"shared_squeeze": False, "num_levels": 3},
    "sfam per scale": {"sfam": True, "shared_sfam": False},
    "bilinear": {"upsample": "bilinear", "input_size": 208},
    "first base feature": {"base_feature": "first", "num_levels": 4, "sfam": True},
    "paper": {
        "shared_squeeze": False,
        "shared_sfam": False,
        "sfam": True,
        "upsample": "bilinear",
        "smooth": False,
    },
    "no smoothing": {"smooth": False},
    "one level": {"num_levels": 1, "planes": 64},
    "sixteen levels": {"num_levels": 16},
    "21 classes": {"num_classes": 21, "input_size": 192},
    "five scales": {"input_size": 256, "sfam": True},
    "four scales": {"input_size": 256, "num_scales": 4},
}


@pytest.fixture
def pynative(device):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def assert_same_forward(reference, net, size, batch=1):
    images = images_for(size, batch)
    with torch.no_grad():
        loc, logits = reference(torch.from_numpy(images))
    found_loc, found_logits = (x.asnumpy() for x in net(ms.Tensor(images)))
    assert_forward(found_loc, found_logits, loc.numpy(), logits.softmax(2).numpy())


def assert_forward(loc, logits, expected_loc, expected_probabilities):
    probabilities = torch.from_numpy(logits).softmax(-1).numpy()
    assert loc.shape == expected_loc.shape
    scale = np.abs(expected_loc).max()
    np.testing.assert_allclose(loc, expected_loc, rtol=0, atol=1e-4 * scale)
    np.testing.assert_allclose(probabilities, expected_probabilities, rtol=0, atol=1e-4)


def assert_golden_forward(net, name):
    stored = golden.arrays(f"forward_{name}")
    loc, logits = net(ms.Tensor(golden.as_input(stored["image_bgr_u8"])))
    expected = stored["loc"], stored["conf_every_7th"]
    logits = logits.asnumpy()[0]
    assert logits.shape == (len(expected[0]), 81)
    assert_forward(loc.asnumpy()[0], logits[::7], *expected)


class LossSum(nn.Cell):
    """The sum of both losses."""

    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def construct(self, *batch):
        loc_loss, conf_loss = self.criterion(*batch)
        return loc_loss + conf_loss


def test_golden_forward_through_files(graph, tmp_path):
    """As a user does it: convert.py, config.json beside, strict loading, graph mode."""
    source, output = tmp_path / "vgg16_320_sfam.pth", tmp_path / "out" / "model.ckpt"
    tensors = {key: torch.from_numpy(v) for key, v in golden.state_dict(source.stem).items()}
    torch.save(tensors, source)
    convert.main(["--input", str(source), "--output", str(output)])
    source.unlink()
    net = build_model(resolve_config(None, (), output))
    load_weights(net, output)
    output.unlink()
    net.set_train(False)
    assert_golden_forward(net, source.stem)


@pytest.mark.parametrize("name", sorted(set(golden.FORWARD_CASES) - {"vgg16_320_sfam"}))
def test_golden_forward(name, pynative):
    assert_golden_forward(golden_network(name), name)


@pytest.mark.parametrize("name", golden.LOSS_CASES)
def test_golden_loss(name, graph):
    stored = golden.arrays(name)
    inputs = [ms.Tensor(stored[key]) for key in ("loc", "conf", "loc_targets", "conf_targets")]
    criterion = MultiBoxLoss(num_classes=81)
    expected = [float(stored["loss_l"]), float(stored["loss_c"])]
    found = [float(value.asnumpy()) for value in criterion(*inputs)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradients = ms.grad(LossSum(criterion), (0, 1))(*inputs)
    for gradient, key in zip(gradients, ("grad_loc", "grad_conf")):
        bound = 1e-4 * np.abs(stored[key]).max()
        np.testing.assert_allclose(gradient.asnumpy(), stored[key], rtol=0, atol=bound)


DEEP = ("resnet101", "se_resnet101", "se_resnet152", "se_resnext101_32x4d")


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(b, marks=pytest.mark.slow if b in DEEP else ()) for b in BACKBONES],
)
def test_backbones(backbone, pynative):
    reference, net = pair(backbone=backbone)
    assert_same_forward(reference, net, 128)


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, pynative):
    reference, net = pair(**FORMS[form])
    assert_same_forward(reference, net, FORMS[form].get("input_size", 128), batch=2)


def test_graph_mode(graph):
    reference, net = pair(sfam=True)
    assert_same_forward(reference, net, 128, batch=3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [512, 704, 800])
def test_sizes(size, pynative):
    reference, net = pair(backbone="vgg16", input_size=size, planes=256, num_levels=8, sfam=True)
    assert_same_forward(reference, net, size)
