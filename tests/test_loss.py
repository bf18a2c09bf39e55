# SPDX-License-Identifier: Apache-2.0
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.loss import MultiBoxLoss, TrainOneStepCell

pytestmark = pytest.mark.usefixtures("device")


def loops(loc, logits, loc_targets, labels, ratio=3, empty_negatives=0):
    """The loss by loops in float64: mine by sorting a list of each image's negatives."""
    loc_sum = conf_sum = 0.0
    positives = int((labels > 0).sum())
    for b in range(len(labels)):
        losses = []
        for p in range(labels.shape[1]):
            row = logits[b, p].astype(np.float64)
            losses.append(row.max() + np.log(np.exp(row - row.max()).sum()) - row[labels[b, p]])
        own = [p for p in range(labels.shape[1]) if labels[b, p] > 0]
        others = sorted((losses[p] for p in range(labels.shape[1]) if p not in own), reverse=True)
        wanted = ratio * len(own) if own else empty_negatives
        conf_sum += sum(losses[p] for p in own) + sum(others[:wanted])
        for p in own:
            for d in np.abs(loc[b, p].astype(np.float64) - loc_targets[b, p]):
                loc_sum += 0.5 * d * d if d < 1 else d - 0.5
    return loc_sum / max(positives, 1), conf_sum / max(positives, 1)


def example(seed=0, images=3, priors=40, classes=6, scale=3.0, positives=(1, 4, 20)):
    rng = np.random.default_rng(seed)
    loc, targets = rng.normal(0, 1.5, (2, images, priors, 4)).astype(np.float32)
    logits = rng.normal(0, scale, (images, priors, classes)).astype(np.float32)
    labels = np.zeros((images, priors), np.int32)
    for b, count in zip(range(images), positives):
        labels[b, rng.permutation(priors)[:count]] = rng.integers(1, classes, count)
    return loc, logits, targets, labels


def run(criterion, arrays):
    return [float(v.asnumpy()) for v in criterion(*map(Tensor, arrays))]


@pytest.fixture(scope="module")
def criterion(device):
    return MultiBoxLoss(6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [3.0, 80.0])
def test_equals_a_double_loop(criterion, seed, scale):
    arrays = example(seed, scale=scale)
    np.testing.assert_allclose(run(criterion, arrays), loops(*arrays), rtol=1e-5)


def test_one_prior_by_hand(device):
    """One positive off by (0.5, 2, 0, 0), two equal scores; one negative sure of background."""
    loc = np.array([[[0.5, 2, 0, 0], [9, 9, 9, 9]]], np.float32)
    logits = np.array([[[1, 1], [100, 0]]], np.float32)
    labels = np.array([[1, 0]], np.int32)
    result = run(MultiBoxLoss(2), (loc, logits, np.zeros_like(loc), labels))
    assert result == pytest.approx([0.5 * 0.25 + 1.5, np.log(2)], rel=1e-6)


def test_no_positives_is_zero_by_default(criterion):
    assert run(criterion, example(positives=(0, 0, 0))) == [0, 0]


def test_an_image_without_boxes_trains_as_a_negative(device):
    arrays = example(positives=(0, 0, 2))
    result = run(MultiBoxLoss(6, empty_image_negatives=3), arrays)
    np.testing.assert_allclose(result, loops(*arrays, empty_negatives=3), rtol=1e-5)
    assert result[1] > run(MultiBoxLoss(6), arrays)[1]


def test_more_positives_than_negatives_can_match(criterion):
    arrays = example(positives=(40, 39, 30))
    np.testing.assert_allclose(run(criterion, arrays), loops(*arrays), rtol=1e-5)


@pytest.mark.parametrize("name", ["loss_a", "loss_large_scores"])
def test_values_and_gradients_of_the_official_code(golden, device, name):
    data = np.load(golden / f"{name}.npz")
    criterion = MultiBoxLoss(81)

    def total(loc, logits, loc_targets, labels):
        loc_loss, conf_loss = criterion(loc, logits, loc_targets, labels)
        return loc_loss + conf_loss, loc_loss, conf_loss

    keys = ("loc", "conf", "loc_targets", "conf_targets")
    gradient = ops.value_and_grad(total, (0, 1), None, has_aux=True)
    (_, loc_loss, conf_loss), grads = gradient(*(Tensor(data[key]) for key in keys))
    assert float(loc_loss) == pytest.approx(float(data["loss_l"]), rel=1e-5)
    assert float(conf_loss) == pytest.approx(float(data["loss_c"]), rel=1e-5)
    for grad, key in zip(grads, ("grad_loc", "grad_conf")):
        assert np.isfinite(grad.asnumpy()).all()
        assert np.abs(grad.asnumpy() - data[key]).max() <= 1e-4 * np.abs(data[key]).max()


class Slope(nn.Cell):
    """loss = sum(w * x), so the gradient of w is x; the "batch" is three vectors of two."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor([1.0, 2.0], ms.float32), name="weight")

    def construct(self, x, loc_targets, label_targets):
        loss = (self.weight * x).sum()
        return loss, loss, label_targets.sum()


def slope_step(clip, loss_scale=1.0):
    slope = Slope()
    optimizer = nn.Momentum(slope.trainable_params(), 0.1, 0.5)
    return slope, TrainOneStepCell(slope, optimizer, clip, loss_scale)


def test_clipping_momentum_and_update_by_hand(device):
    slope, step = slope_step(clip=1.0)
    x = Tensor([3.0, 4.0], ms.float32)  # norm 5, clipped to (0.6, 0.8)
    norms = [float(step(x, x, x)[2].asnumpy()) for _ in range(2)]
    assert norms == pytest.approx([5.0, 5.0], rel=1e-5)
    # velocities (0.6, 0.8) and 1.5 times that, times 0.1
    np.testing.assert_allclose(slope.weight.asnumpy(), [1 - 0.15, 2 - 0.2], rtol=1e-5)


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_small_gradients_are_not_clipped(device, loss_scale):
    slope, step = slope_step(clip=10.0, loss_scale=loss_scale)
    x = Tensor([3.0, 4.0], ms.float32)
    assert float(step(x, x, x)[2].asnumpy()) == pytest.approx(5.0, rel=1e-5)
    np.testing.assert_allclose(slope.weight.asnumpy(), [0.7, 1.6], rtol=1e-5)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_changes_nothing(device, clip):
    slope, step = slope_step(clip)
    bad = Tensor([np.nan, 4.0], ms.float32)
    assert np.isnan(float(step(bad, bad, bad)[2].asnumpy()))
    np.testing.assert_array_equal(slope.weight.asnumpy(), [1, 2])
    good = Tensor([0.3, 0.4], ms.float32)
    step(good, good, good)
    np.testing.assert_allclose(slope.weight.asnumpy(), [0.97, 1.96], rtol=1e-5)


def test_the_global_norm_is_exact_for_large_gradients(device):
    """A sum over 600,000 squares in one float32 is off by a thousandth."""
    x = np.random.default_rng(0).normal(size=(300, 2000)).astype(np.float32)

    class Wide(nn.Cell):
        def __init__(self):
            super().__init__()
            self.weight = Parameter(Tensor(np.zeros_like(x)), name="weight")

        def construct(self, x, loc_targets, label_targets):
            loss = (self.weight * x).sum()
            return loss, loss, loss

    wide = Wide()
    step = TrainOneStepCell(wide, nn.Momentum(wide.trainable_params(), 0.1, 0.5))
    norm = float(step(Tensor(x), Tensor(x), Tensor(x))[2].asnumpy())
    assert norm == pytest.approx(np.linalg.norm(x.astype(np.float64)), rel=1e-6)
