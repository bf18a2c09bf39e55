# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.training.callback import StepReport
from src.training.ema import Ema, EmaUpdate, decay_at

pytestmark = pytest.mark.usefixtures("device")


def parameter(values, name="w"):
    return Parameter(Tensor(np.array(values, np.float32)), name=name)


def test_warm_up():
    assert decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert decay_at(90, 0.999) == pytest.approx(0.91)
    assert decay_at(100_000, 0.999) == 0.999


def test_the_average_by_hand_and_skipped_steps():
    weight, frozen = parameter([0.0, 10.0]), parameter([3.0], "mean")
    frozen.requires_grad = False
    ema = Ema([weight, frozen], 0.25)
    callback = EmaUpdate(ema)
    weight.set_data(Tensor(np.array([8.0, 2.0], np.float32)))
    # decays of 2/11 and 0.25 (below 3/12): what is left of the old average
    callback.on_step(StepReport(1, 9, 0, False, 1, 1, 1, 0.1, 1, 0))
    expected = np.array([0.0, 10.0]) * 2 / 11 + np.array([8.0, 2.0]) * 9 / 11
    np.testing.assert_allclose(ema.weights()["w"].asnumpy(), expected, rtol=1e-6)
    callback.on_step(StepReport(2, 9, 0, False, 1, 1, np.nan, 0.1, 1, 0, bad_steps=1))
    np.testing.assert_allclose(ema.weights()["w"].asnumpy(), expected, rtol=1e-6)
    callback.on_step(StepReport(2, 9, 0, False, 1, 1, 1, 0.1, 1, 0))
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
    ema.restart()
    assert ema.weights()["w"].asnumpy() == 5
