# SPDX-License-Identifier: Apache-2.0
"""A training batch on its way to a GPU: fewer bytes, and no waiting for the device.

Seen in MindSpore 2.8.0: a tensor of the host that a graph takes is copied while the graph runs, and
the host waits for the device before that copy and after it. `Tensor.move_to` without blocking puts
the copy before the graph's kernels, on their stream, and returns: the driver has taken the bytes by
then, as they lie in ordinary memory. Where a step with `Transfer` waits no more often on the fake
GPU (`tests/runtime/test_fake_gpu.py`), `GpuTransfer.send` can go.
"""

from typing import Optional, Tuple

import numpy as np
from mindspore import Tensor, ops

PRIORS_PER_ROW = 8  # more positives take twice as many rows, and another graph


class Transfer:
    """Leaves the batch to MindSpore: what a CPU and an Ascend take.

    Shape letters: B batch, S input side, P priors, K rows.
    """

    def send(self, x: Tensor) -> Tensor:
        """x where the graph takes it."""
        return x

    def send_batch(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor
    ) -> Tuple[Tensor, ...]:
        """The batch: images (B, 3, S, S), and the targets in a form that `whole_targets` takes."""
        return images, loc_targets, label_targets


class GpuTransfer(Transfer):
    """Sends offsets for the positives alone, the others' being without use, and labels as bytes.

    Args:
        num_classes: with the background.
    """

    def __init__(self, num_classes: int) -> None:
        self.label_type = np.uint8 if num_classes <= 256 else np.int32

    def send(self, x: Tensor) -> Tensor:
        return x.move_to("GPU", blocking=False)

    def send_batch(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor
    ) -> Tuple[Tensor, ...]:
        labels = label_targets.asnumpy()
        rows, places = positive_rows(loc_targets.asnumpy(), labels)
        targets = (Tensor(x) for x in (rows, labels.astype(self.label_type), places))
        return tuple(self.send(x) for x in (images, *targets))


def positive_rows(offsets: np.ndarray, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Offsets (K, 4) of the positives in (B, P, 4), and places (K, 1) int32 among the B P priors.

    K depends on their number in rough steps only. Rows of zeros for place 0, which change nothing
    when they are added there, fill up.
    """
    found = np.flatnonzero(labels > 0)
    count = -(-labels.size // PRIORS_PER_ROW)
    while count < len(found):
        count *= 2
    rows, places = np.zeros((count, 4), np.float32), np.zeros((count, 1), np.int32)
    rows[: len(found)] = offsets.reshape(-1, 4)[found]
    places[: len(found), 0] = found
    return rows, places


def whole_targets(
    loc_targets: Tensor, label_targets: Tensor, places: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """In a graph: offsets (B, P, 4), zeros for what is no positive, and labels (B, P) int32.

    Without `places` the targets are whole as they are.
    """
    if places is None:
        return loc_targets, label_targets
    batch, priors = label_targets.shape
    offsets = ops.scatter_nd(places, loc_targets, (batch * priors, 4))
    return offsets.reshape(batch, priors, 4), label_targets.astype("int32")
