# SPDX-License-Identifier: Apache-2.0
"""The form a network is exported in computes what the network does."""

import mindspore as ms
import numpy as np
import pytest
from exporting import images_for, random_network
from mindspore import nn

from src.formats.export_cells import (
    Boxes,
    FixedResize,
    PaddedMaxPool,
    build_export_form,
    fold_batchnorm,
)
from src.model.layers import Resize


@pytest.fixture(autouse=True)
def _pynative(device):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 5), (5, 10), (10, 19), (32, 64)])
def test_resizing_to_a_known_size(mode, before, after):
    x = ms.Tensor(np.random.default_rng(0).normal(size=(2, 3, before, before)), ms.float32)
    like = ms.Tensor(np.zeros((2, 3, after, after)), ms.float32)
    expected = Resize(mode)(x, like).asnumpy()
    found = FixedResize((after, after), mode == "nearest")(x, like).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_padded_pool_is_the_pool_with_padding():
    x = np.abs(np.random.default_rng(0).normal(size=(1, 2, 9, 9))).astype(np.float32)
    expected = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)(ms.Tensor(x)).asnumpy()
    np.testing.assert_array_equal(PaddedMaxPool()(ms.Tensor(x)).asnumpy(), expected)


def test_boxes_by_hand():
    priors = np.array([[0.5, 0.5, 0.2, 0.4], [0.25, 0.75, 0.1, 0.1]], np.float32)
    # the first prior as it is; the second moved right by its width, and e times as high
    loc = np.array([[[0, 0, 0, 0], [10, 0, 0, 5]]], np.float32)
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]], np.float32))
    boxes, scores = (x.asnumpy() for x in Boxes(priors)(ms.Tensor(loc), ms.Tensor(logits)))
    half = 0.05 * np.e
    expected = [[0.4, 0.3, 0.6, 0.7], [0.3, 0.75 - half, 0.4, 0.75 + half]]
    np.testing.assert_allclose(boxes[0], expected, atol=1e-6)
    np.testing.assert_allclose(scores[0], [[0.25, 0.25], [0.8, 0.1]], atol=1e-6)


FORMS = {
    "resnet": ([], True),
    "not folded": ([], False),
    "vgg": (["model.backbone=vgg16"], True),
    "ssd": (["model.neck=ssd", "model.input_size=300"], False),
    "deconv": (["model.neck=deconv", "model.input_size=300"], True),
    "bilinear": (
        ["model.upsample=bilinear", "model.backbone=se_resnet50"],
        True,
    ),
    "three convolutions in the stem": (["model.backbone=senet154"], True),
}


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=pytest.mark.slow if "three" in f else ()) for f in FORMS]
)
def test_the_form_gives_what_the_network_gives(form):
    overrides, fold = FORMS[form]
    network, config = random_network(*overrides)
    pixels, tensor = images_for(config, 2)
    expected = [x.asnumpy() for x in network(ms.Tensor(tensor))]
    exported = build_export_form(network, config, "image", "raw", fold)
    for own, found in zip(expected, exported(ms.Tensor(pixels))):
        scale = np.abs(own).max()
        np.testing.assert_allclose(found.asnumpy(), own, rtol=0, atol=1e-5 * scale)


def test_folding_leaves_only_the_norm_without_convolution():
    network, _ = random_network()
    before = {name for name in network.parameters_dict() if "conv" in name and "weight" in name}
    count = sum(isinstance(cell, nn.BatchNorm2d) for _, cell in network.cells_and_names())
    assert fold_batchnorm(network) == count - 1
    left = [n for n, c in network.cells_and_names() if isinstance(c, nn.BatchNorm2d)]
    assert left == ["neck.norm"]
    assert before <= set(network.parameters_dict())  # weights keep their names


def test_folding_by_hand():
    """One channel: w = 2, b = none; gamma 3, beta 1, mean 4, variance 0.25 - eps."""
    block = nn.SequentialCell(
        nn.Conv2d(1, 1, 1, has_bias=False), nn.BatchNorm2d(1, eps=1e-5)
    ).set_train(False)
    for parameter, value in (
        (block[0].weight, 2.0),
        (block[1].gamma, 3.0),
        (block[1].beta, 1.0),
        (block[1].moving_mean, 4.0),
        (block[1].moving_variance, 0.25 - 1e-5),
    ):
        parameter.set_data(ms.Tensor(np.full(parameter.shape, value, np.float32)))
    assert fold_batchnorm(block) == 1
    # 3 (2 x - 4) / 0.5 + 1 = 12 x - 23
    assert block[0].weight.asnumpy().item() == pytest.approx(12, rel=1e-6)
    assert block[0].bias.asnumpy().item() == pytest.approx(-23, rel=1e-6)
    x = ms.Tensor(np.full((1, 1, 1, 1), 5, np.float32))
    assert block(x).asnumpy().item() == pytest.approx(37, rel=1e-6)


def test_running_a_network_leaves_the_names_of_its_weights():
    network, config = random_network("model.backbone=vgg16")
    before = {name: parameter.name for name, parameter in network.parameters_dict().items()}
    network(ms.Tensor(images_for(config, 1)[1]))
    assert {n: p.name for n, p in network.parameters_dict().items()} == before
    assert all(name == own for name, own in before.items())
