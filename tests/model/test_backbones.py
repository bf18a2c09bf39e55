# SPDX-License-Identifier: Apache-2.0
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.model.backbones import HalvingPool, pool_strips


@pytest.mark.parametrize(
    ("side", "strips"), [(320, 8), (300, 10), (160, 2), (80, 1), (75, 1), (512, 32), (800, 50)]
)
def test_strips_are_even_and_small(side, strips):
    assert pool_strips(side, side) == strips
    rows = side // strips
    assert strips == 1 or (rows % 2 == 0 and rows * side <= 12800)


@pytest.mark.parametrize("side", [160, 75])
def test_halving_pool_trains_like_the_pool_it_cuts(device, side):
    """Few values, so that windows hold equal ones: the gradient goes to the same of them."""
    rng = np.random.default_rng(side)
    x = Tensor(rng.integers(0, 3, (2, 2, side, side)).astype(np.float32))
    weights = Tensor(rng.normal(0, 1, (2, 2, (side + 1) // 2, (side + 1) // 2)).astype(np.float32))
    found = []
    for pool in (HalvingPool(), nn.MaxPool2d(2, 2, pad_mode="same")):
        pool.set_train()
        found.append(_pooled_and_gradient(pool, x, weights))
    for ours, plain in zip(*found):
        np.testing.assert_array_equal(ours, plain)


def _pooled_and_gradient(pool, x, weights):
    def total(x):
        return (pool(x) * weights).sum()

    gradient = ms.jit(ms.grad(total))(x)
    return pool(x).asnumpy(), gradient.asnumpy()
