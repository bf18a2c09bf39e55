# SPDX-License-Identifier: Apache-2.0
"""A batch in the form in which a GPU gets it, on the CPU."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from src.loss import MultiBoxLoss
from src.runtime.gpu.transfer import GpuTransfer, Transfer, positive_rows, whole_targets
from src.training.accumulation import AccumulatedStep
from src.training.optimizers import SGD
from src.training.train_step import Gradients, TrainStep, Update

pytestmark = pytest.mark.usefixtures("device")
BATCH, PRIORS, CLASSES = 2, 40, 5


class Here(GpuTransfer):
    """The form of a GPU, left where it is."""

    send = Transfer.send


class Net(nn.Cell):
    """Offsets and scores that follow from the images alone, with a weight on each."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(3)
        self.loc = Parameter(Tensor(random.normal(size=(PRIORS, 4)).astype(np.float32)), "loc")
        scores = random.normal(size=(PRIORS, CLASSES)).astype(np.float32)
        self.scores = Parameter(Tensor(scores), "scores")
        self.criterion = MultiBoxLoss(CLASSES)

    def construct(self, images, loc_targets, label_targets):
        factor = images.mean((1, 2, 3)).reshape(-1, 1, 1)
        loss = self.criterion(self.loc * factor, self.scores * factor, loc_targets, label_targets)
        return loss[0] + loss[1], loss[0], loss[1]


def batch(positives):
    """Images and targets with so many positives, the negatives' offsets being no zeros."""
    random = np.random.default_rng(positives)
    offsets = random.normal(size=(BATCH, PRIORS, 4)).astype(np.float32)
    labels = np.zeros(BATCH * PRIORS, np.int32)
    chosen = random.permutation(labels.size)[:positives]
    labels[chosen] = random.integers(1, CLASSES, positives)
    images = random.integers(1, 256, (BATCH, 3, 4, 4)).astype(np.uint8)
    return images, offsets, labels.reshape(BATCH, PRIORS)


@pytest.mark.parametrize(
    ("positives", "rows"), [(0, 10), (7, 10), (10, 10), (11, 20), (41, 80), (80, 80)]
)
def test_the_positives_arrive_and_the_number_of_rows_is_rough(positives, rows):
    _, offsets, labels = batch(positives)
    sent, places = positive_rows(offsets, labels)
    assert (sent.shape, places.shape) == ((rows, 4), (rows, 1))
    found, found_labels = whole_targets(*map(Tensor, (sent, labels.astype(np.uint8), places)))
    expected = np.where(labels[..., None] > 0, offsets, 0)
    np.testing.assert_array_equal(found.asnumpy(), expected)
    np.testing.assert_array_equal(found_labels.asnumpy(), labels)
    assert found_labels.asnumpy().dtype == np.int32


def test_more_classes_than_a_byte_holds():
    labels = np.full((1, 8), 299, np.int32)
    arrays = (np.zeros((1, 3, 4, 4), np.uint8), np.ones((1, 8, 4), np.float32), labels)
    _, *targets = Here(300).send_batch(*map(Tensor, arrays))
    np.testing.assert_array_equal(whole_targets(*targets)[1].asnumpy(), labels)


@pytest.mark.parametrize("parts", [1, 2])
def test_steps_are_the_same_to_the_bit(parts):
    found = []
    for transfer in (Transfer(), Here(CLASSES)):
        net = Net()
        parameters = net.trainable_params()
        update = Update(SGD(parameters, [0.0] * 2, [0.1] * 9, 0.9))
        gradients = Gradients(net, update, mean_bgr=(104.0, 117.0, 123.0))
        if parts > 1:
            step = AccumulatedStep(gradients, update, parts, transfer=transfer)
        else:
            step = TrainStep(gradients, update, transfer=transfer)
        outcomes = [step(*map(Tensor, (*batch(n), np.float32(0)))) for n in (5, 0, 30)]
        found.append([outcomes, *(p.asnumpy() for p in parameters)])
    plain, sent = found
    assert plain[0][0].grad_norm > 0.01
    assert plain[0] == sent[0]
    for one, other in zip(plain[1:], sent[1:]):
        np.testing.assert_array_equal(one, other)
