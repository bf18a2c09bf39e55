# SPDX-License-Identifier: Apache-2.0
"""The CPU's own layers compute what the plain ones do."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.config import get_config
from src.model import build_model
from src.model.cpu_layers import (
    FUSED_CELLS,
    DoublingResize,
    FusedHead,
    StripPool,
    fit_to_device,
    pool_strips,
)
from src.model.head import MultiBoxHead
from src.model.layers import Resize


@pytest.mark.parametrize(
    ("side", "strips"), [(320, 8), (300, 10), (160, 2), (80, 1), (75, 1), (512, 32), (800, 50)]
)
def test_strips_are_even_and_small(side, strips):
    assert pool_strips(side, side) == strips
    rows = side // strips
    assert strips == 1 or (rows % 2 == 0 and rows * side <= 12800)


@pytest.mark.parametrize("side", [160, 75])
def test_strip_pool_trains_like_the_pool_it_cuts(device, side):
    """Few values, so that windows hold equal ones: the gradient goes to the same of them."""
    rng = np.random.default_rng(side)
    x = Tensor(rng.integers(0, 3, (2, 2, side, side)).astype(np.float32))
    weights = Tensor(rng.normal(0, 1, (2, 2, (side + 1) // 2, (side + 1) // 2)).astype(np.float32))
    found = []
    for pool in (StripPool(), nn.MaxPool2d(2, 2, pad_mode="same")):
        pool.set_train()
        found.append(_pooled_and_gradient(pool, x, weights))
    for ours, plain in zip(*found):
        np.testing.assert_array_equal(ours, plain)


def _pooled_and_gradient(pool, x, weights):
    def total(x):
        return (pool(x) * weights).sum()

    gradient = ms.jit(ms.grad(total))(x)
    return pool(x).asnumpy(), gradient.asnumpy()


@pytest.mark.parametrize("side", [2, 20])  # the larger map goes through one convolution
def test_fused_head_gives_what_the_head_gives(device, side):
    assert (side**2 >= FUSED_CELLS) == (side == 20)
    head = MultiBoxHead([3], [2], 3)
    x = Tensor(np.random.default_rng(side).normal(size=(2, 3, side, side)).astype(np.float32))
    for found, expected in zip(FusedHead(head)((x,)), head((x,))):
        np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("nearest", 32, 64),
        ("nearest", 32, 63),
        ("nearest", 5, 10),
        ("bilinear", 32, 64),
    ],
)
def test_doubling_resize_gives_what_resize_gives(device, mode, before, after):
    rng = np.random.default_rng(before)
    x = Tensor(rng.normal(size=(1, 2, before, before)).astype(np.float32))
    like = ops.zeros((1, 1, after, after))
    plain = Resize(mode)
    found = DoublingResize(plain)(x, like).asnumpy()
    np.testing.assert_array_equal(found, plain(x, like).asnumpy())


def test_fitting_keeps_parameters_and_their_names(device):
    """And fitting twice is fitting once."""
    net = build_model(get_config("m2det_tiny", ["model.backbone=vgg16"]))
    before = {name: id(p) for name, p in net.parameters_and_names()}
    for _ in range(2):
        fit_to_device(net)
        assert {p.name: id(p) for p in net.get_parameters()} == before
        kinds = [type(cell) for _, cell in net.cells_and_names()]
        assert kinds.count(StripPool) == kinds.count(FusedHead) == 1
        assert not {Resize, MultiBoxHead} & set(kinds)
        assert nn.MaxPool2d in kinds  # pool5 stays
