# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.training.ema import Ema

pytestmark = pytest.mark.usefixtures("device")


def parameter(values, name="w"):
    return Parameter(Tensor(np.array(values, np.float32)), name=name)


def move(ema, step):
    ema(Tensor(np.array([step], np.int32)))


@pytest.mark.parametrize(("step", "left"), [(1, 2 / 11), (90, 0.91), (100_000, 0.999)])
def test_warm_up(step, left):
    weight = parameter([0.0])
    ema = Ema([weight], 0.999)
    weight.set_data(Tensor(np.array([1.0], np.float32)))
    move(ema, step)
    assert ema.weights()["w"].asnumpy() == pytest.approx([1 - left], rel=1e-6)


def test_the_average_by_hand():
    weight, frozen = parameter([0.0, 10.0]), parameter([3.0], "mean")
    frozen.requires_grad = False
    ema = Ema([weight, frozen], 0.25)
    weight.set_data(Tensor(np.array([8.0, 2.0], np.float32)))
    # decays of 2/11 and 0.25 (below 3/12): what is left of the old average
    move(ema, 1)
    expected = np.array([0.0, 10.0]) * 2 / 11 + np.array([8.0, 2.0]) * 9 / 11
    np.testing.assert_allclose(ema.weights()["w"].asnumpy(), expected, rtol=1e-6)
    move(ema, 2)
    expected = 0.25 * expected + 0.75 * np.array([8.0, 2.0])
    np.testing.assert_allclose(ema.weights()["w"].asnumpy(), expected, rtol=1e-6)
    assert ema.weights()["mean"].asnumpy().tolist() == [3.0]
    assert set(ema.state()) == {"ema.w", "ema.mean"}


def test_in_place_of_the_weights_and_back_again():
    weight = parameter([1.0])
    ema = Ema([weight], 0.9)
    weight.set_data(Tensor(np.array([5.0], np.float32)))
    with ema.in_place():
        assert weight.asnumpy() == 1
    assert weight.asnumpy() == 5
    ema.restore({})  # from a checkpoint without one
    assert ema.weights()["w"].asnumpy() == 5
    ema.restore({"ema.w": np.array([7.0], np.float32)})
    assert ema.weights()["w"].asnumpy() == 7
