# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mindspore import Tensor, ops

from src.loss import MultiBoxLoss

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


def test_scores_of_other_classes_are_refused(criterion):
    with pytest.raises(ValueError, match="scores of 5 classes, expected 6"):
        run(criterion, example(classes=5))


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
