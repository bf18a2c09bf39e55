# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mindspore import Tensor, ops

from src.box_utils import decode
from src.config import LossConfig
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


def iou_and_giou(a, b):
    """Of two xyxy boxes, written out in float64."""
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union, inter / union - (hull - union) / hull


def loops_with_iou(loc, logits, loc_targets, labels, priors, giou, quality):
    """As `loops`, from boxes decoded with their priors, in float64."""
    found, truth = (decode(x.astype(np.float64), priors) for x in (loc, loc_targets))
    loc_sum, conf_sum = loops(loc, logits, loc_targets, labels)
    positives = max(int((labels > 0).sum()), 1)
    loc_sum, conf_sum = loc_sum * positives, conf_sum * positives
    if giou:
        loc_sum = 0.0
    for b, p in zip(*np.nonzero(labels)):
        iou, own_giou = iou_and_giou(found[b, p], truth[b, p])
        if giou:
            loc_sum += 1 - own_giou
        if quality:  # -log of the class's share becomes that of the mixture's cross-entropy
            row = logits[b, p].astype(np.float64)
            log_shares = row - row.max() - np.log(np.exp(row - row.max()).sum())
            mixed = iou * log_shares[labels[b, p]] + (1 - iou) * log_shares[0]
            conf_sum += log_shares[labels[b, p]] - mixed
    return loc_sum / positives, conf_sum / positives


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


@pytest.mark.parametrize(("box", "quality"), [("giou", False), ("smooth_l1", True), ("giou", True)])
def test_the_options_equal_a_double_loop_over_decoded_boxes(device, box, quality):
    arrays = example(7)
    rng = np.random.default_rng(8)
    priors = np.concatenate([rng.uniform(0, 1, (40, 2)), rng.uniform(0.05, 1, (40, 2))], axis=1)
    expected = loops_with_iou(*arrays, priors, box == "giou", quality)
    criterion = MultiBoxLoss(6, LossConfig(box=box, box_weight=2.5, quality=quality))
    np.testing.assert_allclose(run(criterion, arrays), (2.5 * expected[0], expected[1]), rtol=1e-5)


def test_giou_of_boxes_far_apart_by_hand(device):
    """Prior of side 1, box of side 1 ten sides to the right: IoU 0, hull 11, GIoU -9/11."""
    loc = np.array([[[100, 0, 0, 0], [0, 0, 0, 0]]], np.float32)
    logits, labels = np.zeros((1, 2, 2), np.float32), np.array([[1, 0]], np.int32)
    arrays = loc, logits, np.zeros_like(loc), labels
    result = run(MultiBoxLoss(2, LossConfig(box="giou", quality=True)), arrays)
    assert result == pytest.approx([1 + 9 / 11, 2 * np.log(2)], rel=1e-5)


def test_gradients_of_the_options_are_finite_for_absurd_boxes(device):
    loc, logits, targets, labels = example(3)
    loc = loc * np.float32(1e4)
    criterion = MultiBoxLoss(6, LossConfig(box="giou", quality=True))
    truth = Tensor(targets), Tensor(labels)

    def total(loc, logits):
        loc_loss, conf_loss = criterion(loc, logits, *truth)
        return loc_loss + conf_loss

    for grad in ops.grad(total, (0, 1))(Tensor(loc), Tensor(logits)):
        assert np.isfinite(grad.asnumpy()).all()


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
