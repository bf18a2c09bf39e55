# SPDX-License-Identifier: Apache-2.0
"""Multibox loss, and the network with its loss.

Shape letters: B batch, P priors, C classes with the background first.
"""

from typing import Tuple

import mindspore as ms
from mindspore import Tensor, nn, ops

from .box_utils import VARIANCES
from .config import LossConfig
from .runtime.collectives import MeanOverRanks
from .runtime.gpu.workarounds import sortable

_LARGEST_LOG = 4.0  # of a side over the prior's: exp stays finite
_DEFAULT = LossConfig()


class MultiBoxLoss(nn.Cell):
    """Smooth-L1 on the positives, softmax cross-entropy on them and the hardest negatives.

    SSD (Liu et al., 2016, section 2.2) as in the official layers/modules/multibox_loss.py. By
    option, GIoU in place of smooth-L1 (Rezatofighi et al., 2019), and scores that learn the IoU of
    the predicted box, the rest of 1 being the background's (after Li et al., Generalized Focal
    Loss, 2020, for a softmax).

    Args:
        num_classes: C, background included.
        config: the options.
        neg_pos_ratio: negatives mined per positive, in each image.
        empty_image_negatives: negatives mined in an image without positives (the original: 0).
        world_size: number of ranks the number of positives is averaged over, so that the mean of
            the ranks' gradients is the gradient of the whole batch.
    """

    def __init__(
        self,
        num_classes: int,
        config: LossConfig = _DEFAULT,
        neg_pos_ratio: int = 3,
        empty_image_negatives: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.giou, self.quality = config.box == "giou", config.quality
        self.box_weight = config.box_weight
        self.neg_pos_ratio = neg_pos_ratio
        self.empty_image_negatives = empty_image_negatives
        self.mean_over_ranks = MeanOverRanks(world_size)

    def construct(
        self, loc: Tensor, logits: Tensor, loc_targets: Tensor, label_targets: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Two scalars, each a sum over the batch divided by the number of positives (at least 1).

        Args:
            loc: (B, P, 4) predicted offsets.
            logits: (B, P, C) class scores.
            loc_targets: (B, P, 4) encoded targets.
            label_targets: (B, P) int32, 0 for background.

        Raises:
            ValueError: logits with another number of classes.
        """
        if logits.shape[-1] != self.num_classes:
            raise ValueError(f"scores of {logits.shape[-1]} classes, expected {self.num_classes}")
        loc, logits = loc.astype(ms.float32), logits.astype(ms.float32)
        positive = label_targets > 0
        cross_entropy = self._cross_entropy(logits, label_targets)
        chosen = ops.logical_or(positive, self._mine(cross_entropy, positive))
        if self.quality:
            iou = ops.stop_gradient(iou_and_giou(loc, loc_targets)[0])
            as_background = self._cross_entropy(logits, ops.zeros_like(label_targets))
            cross_entropy = iou * cross_entropy + (1.0 - iou) * as_background
        zero = ops.zeros_like(cross_entropy)
        loc_loss = (
            self.box_weight * ops.select(positive, self._box_error(loc, loc_targets), zero).sum()
        )
        conf_loss = ops.select(chosen, cross_entropy, zero).sum()
        positives = self.mean_over_ranks(positive.astype(ms.float32).sum())
        divisor = ops.stop_gradient(ops.maximum(positives, 1.0))
        return loc_loss / divisor, conf_loss / divisor

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, P). Subtracting each row's own maximum keeps large scores finite."""
        shifted = logits - ops.stop_gradient(logits.max(-1, keepdims=True))
        own = ops.gather_elements(shifted, 2, labels.expand_dims(-1)).squeeze(-1)
        return ops.log(ops.exp(shifted).sum(-1)) - own

    def _box_error(self, loc: Tensor, loc_targets: Tensor) -> Tensor:
        """(B, P), whatever the label."""
        if self.giou:
            return 1.0 - iou_and_giou(loc, loc_targets)[1]
        return ops.smooth_l1_loss(loc, loc_targets, beta=1.0, reduction="none").sum(-1)

    def _mine(self, cross_entropy: Tensor, positive: Tensor) -> Tensor:
        """(B, P) bool: the negatives with the largest loss, a fixed ratio to the positives.

        A loss that is not finite ranks first, so that it reaches the sum and is noticed.
        """
        difficulty = ops.stop_gradient(
            ops.select(positive, ops.zeros_like(cross_entropy), cross_entropy)
        )
        _, order = ops.sort(sortable(difficulty), -1, True)
        # by scattering: a second sort, of float32, would lose places beyond 2,048 on an Ascend
        places = ops.broadcast_to(ops.arange(order.shape[1]).astype(order.dtype), order.shape)
        rank = ops.tensor_scatter_elements(ops.zeros_like(order), order, places, 1)
        positives = positive.astype(ms.int32).sum(-1, keepdims=True)
        wanted = ops.minimum(self.neg_pos_ratio * positives, positive.shape[1] - 1)
        empty = ops.full_like(wanted, self.empty_image_negatives)
        wanted = ops.select(positives > 0, wanted, empty)
        return ops.logical_and(rank < wanted, ops.logical_not(positive))


def iou_and_giou(a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
    """IoU and GIoU (Rezatofighi et al., 2019) of boxes encoded by one prior: (..., 4) to (...).

    Neither changes when both boxes are moved or stretched alike, so the prior may be a unit square.
    """
    a_low, a_high, a_size = _corners(a)
    b_low, b_high, b_size = _corners(b)
    overlap = ops.maximum(ops.minimum(a_high, b_high) - ops.maximum(a_low, b_low), 0.0)
    hull = ops.maximum(a_high, b_high) - ops.minimum(a_low, b_low)
    inter, enclosing = overlap[..., 0] * overlap[..., 1], hull[..., 0] * hull[..., 1]
    union = a_size[..., 0] * a_size[..., 1] + b_size[..., 0] * b_size[..., 1] - inter
    iou = inter / union
    return iou, iou - (enclosing - union) / enclosing


def _corners(loc: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Corners and sides of encoded boxes, each (..., 2), for a prior of side 1 at the origin."""
    size = ops.exp(ops.minimum(VARIANCES[1] * loc[..., 2:], _LARGEST_LOG))
    centre = VARIANCES[0] * loc[..., :2]
    return centre - size / 2, centre + size / 2, size


class ModelWithLoss(nn.Cell):
    """Images and targets to (loc_loss + conf_loss, loc_loss, conf_loss), one forward pass."""

    def __init__(self, model: nn.Cell, criterion: nn.Cell) -> None:
        super().__init__(auto_prefix=False)  # the weights keep the model's own names
        self.model = model
        self.criterion = criterion

    def construct(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        loc, logits = self.model(images)
        loc_loss, conf_loss = self.criterion(loc, logits, loc_targets, label_targets)
        return loc_loss + conf_loss, loc_loss, conf_loss
