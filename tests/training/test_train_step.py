# SPDX-License-Identifier: Apache-2.0
"""Steps by hand: clipping, momentum, skipped steps, accumulated parts."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.training.accumulation import AccumulatedStep
from src.training.optimizers import SGD
from src.training.train_step import Gradients, TrainStep, Update

pytestmark = pytest.mark.usefixtures("device")
GO_ON = np.float32(0)


class Slope(nn.Cell):
    """loss = sum(w x) / positives, for the sum of the "images" (B, 2); their running mean, too."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor([1.0, 2.0], ms.float32), name="weight")
        self.mean = Parameter(Tensor([5.0, 5.0], ms.float32), name="mean", requires_grad=False)

    def construct(self, x, loc_targets, label_targets):
        ops.assign(self.mean, x.mean(0))
        positives = (label_targets > 0).astype(ms.float32).sum()
        loss = (self.weight * x.sum(0)).sum() / ops.maximum(positives, 1.0)
        return loss, loss, loc_targets.sum()


def slope_step(clip=0.0, loss_scale=1.0, parts=1, packed=False):
    """The cell, its optimiser and a step."""
    slope = Slope()
    optimizer = SGD([slope.weight], [0.0], (0.1,) * 4, 0.5)
    update = Update(optimizer, clip, packed=packed)
    gradients = Gradients(slope, update, loss_scale)
    if parts > 1:
        return slope, optimizer, AccumulatedStep(gradients, update, parts, [slope.mean])
    return slope, optimizer, TrainStep(gradients, update, [slope.mean])


def take(step, x, labels=None, loc=0.0, stop=GO_ON):
    x = np.asarray(x, np.float32).reshape(-1, 2)
    labels = np.zeros((len(x), 3), np.int32) if labels is None else np.asarray(labels, np.int32)
    loc = np.full((len(x), 1), loc, np.float32)
    return list(step(*(Tensor(part) for part in (x, loc, labels, stop))))


@pytest.mark.parametrize("packed", [False, True])
def test_clipping_momentum_and_update_by_hand(packed):
    slope, _, step = slope_step(clip=1.0, packed=packed)
    norms = [take(step, [3.0, 4.0])[2] for _ in range(2)]  # norm 5, clipped to (0.6, 0.8)
    assert norms == pytest.approx([5.0, 5.0], rel=1e-5)
    # velocities (0.6, 0.8) and 1.5 times that, times 0.1
    np.testing.assert_allclose(slope.weight.asnumpy(), [1 - 0.15, 2 - 0.2], rtol=1e-5)


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_small_gradients_are_not_clipped(loss_scale):
    slope, _, step = slope_step(clip=10.0, loss_scale=loss_scale)
    found = take(step, [3.0, 4.0], stop=np.float32(1))
    assert found == pytest.approx([11.0, 0.0, 5.0, 0.0, 1.0], rel=1e-5)
    np.testing.assert_allclose(slope.weight.asnumpy(), [0.7, 1.6], rtol=1e-5)


@pytest.mark.parametrize(("parts", "packed"), [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("what", ["image", "loss"])
def test_what_is_not_finite_leaves_weights_momentum_and_statistics(parts, packed, what):
    slope, optimizer, step = slope_step(clip=1.0, parts=parts, packed=packed)
    moment = optimizer.moments[0]
    take(step, [[0.3, 0.4]] * 2)
    before = [p.asnumpy().copy() for p in (slope.weight, slope.mean, moment)]
    assert np.abs(before[2]).min() > 0.1
    bad = [[0.3, 0.4], [np.nan, 1.0]] if what == "image" else [[1.0, 2.0], [3.0, 4.0]]
    assert np.isnan(take(step, bad, loc=np.inf if what == "loss" else 0.0)[2])
    for parameter, old in zip((slope.weight, slope.mean, moment), before):
        np.testing.assert_array_equal(parameter.asnumpy(), old)
    take(step, [[0.3, 0.4]] * 2)
    velocity = 1.5 * before[2]
    np.testing.assert_allclose(slope.weight.asnumpy(), before[0] - 0.1 * velocity, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_parts_make_the_gradient_of_the_whole_batch(packed):
    """Positives 3 and 1 in the parts: a mean of the parts' means would be another gradient."""
    x = [[3.0, 4.0], [5.0, 0.0], [1.0, 1.0], [0.0, 2.0]]
    labels = [[1, 1, 0], [2, 0, 0], [0, 0, 0], [0, 0, 1]]
    whole_slope, _, whole = slope_step()
    expected = take(whole, x, labels, loc=1.0)
    slope, _, accumulated = slope_step(parts=2, packed=packed)
    found = take(accumulated, x, labels, loc=1.0)
    assert found[0] == pytest.approx(expected[0])
    assert found[2] == pytest.approx(np.hypot(9, 7) / 4, rel=1e-6)
    assert found[3] == 4
    np.testing.assert_allclose(slope.weight.asnumpy(), [1 - 0.225, 2 - 0.175], rtol=1e-6)
    take(whole, x, labels)
    take(accumulated, x, labels)  # the sums begin anew
    np.testing.assert_allclose(slope.weight.asnumpy(), whole_slope.weight.asnumpy(), rtol=1e-6)


def test_the_global_norm_is_exact_for_large_gradients():
    """A sum over 600,000 squares in one float32 is off by a thousandth."""
    x = np.random.default_rng(0).normal(size=(300, 2000)).astype(np.float32)
    weight = Parameter(Tensor(np.zeros_like(x)), name="weight")
    update = Update(SGD([weight], [0.0], [0.1]))
    norm = update((Tensor(x),), Tensor(1.0), Tensor(0.0))
    assert float(norm.asnumpy()) == pytest.approx(np.linalg.norm(x.astype(np.float64)), rel=1e-6)


def test_images_of_whole_numbers_have_the_mean_subtracted():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
    mean = (104.0, 117.5, 123.0)
    seen = []

    class Sum(nn.Cell):
        """Its gradient is the sum of the images."""

        def __init__(self):
            super().__init__()
            self.weight = Parameter(Tensor(np.zeros((3, 4, 5), np.float32)), name="weight")

        def construct(self, images, loc_targets, label_targets):
            loss = (self.weight * images.sum(0)).sum()
            return loss, loss, loss

    for images in (pixels, pixels.astype(np.float32) - np.float32(mean).reshape(1, 3, 1, 1)):
        cell = Sum()
        update = Update(SGD([cell.weight], [0.0], [1.0], 0.0))
        step = TrainStep(Gradients(cell, update, mean_bgr=mean), update)
        step(*map(Tensor, (images, np.zeros((2, 1, 4), np.float32), np.zeros((2, 1), np.int32))),
             Tensor(GO_ON))  # fmt: skip
        seen.append(cell.weight.asnumpy())
    assert np.abs(seen[0]).max() > 100
    np.testing.assert_array_equal(*seen)
