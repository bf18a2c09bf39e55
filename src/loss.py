# SPDX-License-Identifier: Apache-2.0
"""Multibox loss, the network with its loss, and one training step.

Shape letters: B batch, P priors, C classes with the background first.
"""

from typing import Tuple

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.communication import get_group_size


class MeanOverRanks(nn.Cell):
    """The mean of a scalar over all ranks; itself where there is one."""

    def __init__(self, world_size: int = 1) -> None:
        super().__init__()
        self.world_size = world_size
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM) if world_size > 1 else nn.Identity()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x) / self.world_size


class MultiBoxLoss(nn.Cell):
    """Smooth-L1 on the positives, softmax cross-entropy on them and the hardest negatives.

    SSD (Liu et al., 2016, section 2.2) as in the official layers/modules/multibox_loss.py.

    Args:
        num_classes: C, background included.
        neg_pos_ratio: negatives mined per positive, in each image.
        empty_image_negatives: negatives mined in an image without positives (the original: 0).
        world_size: number of ranks the number of positives is averaged over, so that the mean of
            the ranks' gradients is the gradient of the whole batch.
    """

    def __init__(
        self,
        num_classes: int,
        neg_pos_ratio: int = 3,
        empty_image_negatives: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
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
        """
        loc, logits = loc.astype(ms.float32), logits.astype(ms.float32)
        positive = label_targets > 0
        cross_entropy = self._cross_entropy(logits, label_targets)
        chosen = ops.logical_or(positive, self._mine(cross_entropy, positive))
        loc_error = ops.smooth_l1_loss(loc, loc_targets, beta=1.0, reduction="none").sum(-1)
        zero = ops.zeros_like(cross_entropy)
        loc_loss = ops.select(positive, loc_error, zero).sum()
        conf_loss = ops.select(chosen, cross_entropy, zero).sum()
        positives = self.mean_over_ranks(positive.astype(ms.float32).sum())
        divisor = ops.stop_gradient(ops.maximum(positives, 1.0))
        return loc_loss / divisor, conf_loss / divisor

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, P). Subtracting each row's own maximum keeps large scores finite."""
        shifted = logits - ops.stop_gradient(logits.max(-1, keepdims=True))
        own_class = ops.equal(labels.expand_dims(-1), ops.arange(self.num_classes))
        own = ops.select(own_class, shifted, ops.zeros_like(shifted)).sum(-1)
        return ops.log(ops.exp(shifted).sum(-1)) - own

    def _mine(self, cross_entropy: Tensor, positive: Tensor) -> Tensor:
        """(B, P) bool: the negatives with the largest loss, a fixed ratio to the positives."""
        difficulty = ops.stop_gradient(
            ops.select(positive, ops.zeros_like(cross_entropy), cross_entropy)
        )
        _, order = ops.sort(difficulty, -1, True)
        _, rank = ops.sort(order.astype(ms.float32), -1)
        positives = positive.astype(ms.int32).sum(-1, keepdims=True)
        wanted = ops.minimum(self.neg_pos_ratio * positives, positive.shape[1] - 1)
        empty = ops.full_like(wanted, self.empty_image_negatives)
        wanted = ops.select(positives > 0, wanted, empty)
        return ops.logical_and(rank < wanted, ops.logical_not(positive))


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


_squared_sum = ops.MultitypeFuncGraph("squared_sum")


@_squared_sum.register("Tensor")
def _squared_sum_of_tensor(x: Tensor) -> Tensor:
    """Sum of squares. Fast L2Loss adds up in one float32, too coarse for large tensors (0.3 %)."""
    if x.size > 65536:
        rows = x.reshape(x.shape[0], -1)
        return ops.ReduceSum()(ops.ReduceSum()(rows * rows, 1))
    return 2.0 * ops.L2Loss()(x)


_scale_if = ops.MultitypeFuncGraph("scale_if")


@_scale_if.register("Tensor", "Tensor", "Tensor")
def _scale_tensor_if(finite: Tensor, factor: Tensor, x: Tensor) -> Tensor:
    """`x` times `factor`, or zeros. A branch around the update would hold every gradient twice."""
    return ops.select(finite, x * factor, ops.zeros_like(x))


class TrainOneStepCell(nn.Cell):
    """Gradients, their mean over ranks, clipping by the global norm, then the optimiser's update.

    A step whose gradients are not finite adds nothing: the weights only follow their momentum.

    Args:
        model_with_loss: cell whose first output is the loss to minimise.
        optimizer: MindSpore optimiser over the trainable parameters.
        clip_grad_norm: largest global norm let through; 0 switches clipping off.
        loss_scale: factor on the loss, taken out of the gradients again (float16 training).
        world_size: number of ranks.
    """

    def __init__(
        self,
        model_with_loss: nn.Cell,
        optimizer: nn.Optimizer,
        clip_grad_norm: float = 0.0,
        loss_scale: float = 1.0,
        world_size: int = 1,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.model_with_loss = model_with_loss
        self.optimizer = optimizer
        self.clip_grad_norm = clip_grad_norm
        self.loss_scale = loss_scale
        self.reduce = nn.Identity()
        if world_size > 1:
            self.reduce = nn.DistributedGradReducer(optimizer.parameters, True, get_group_size())
        self.value_and_grad = ops.value_and_grad(
            self._scaled, None, optimizer.parameters, has_aux=True
        )
        self.map = ops.HyperMap()
        self.sum = ops.AddN()

    def _scaled(self, *batch: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        loss, loc_loss, conf_loss = self.model_with_loss(*batch)
        return loss * self.loss_scale, loc_loss, conf_loss

    def construct(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """(loc_loss, conf_loss, global gradient norm before clipping): three scalars.

        Args:
            images: (B, 3, S, S) float32.
            loc_targets: (B, P, 4) float32.
            label_targets: (B, P) int32.
        """
        (_, loc_loss, conf_loss), grads = self.value_and_grad(images, loc_targets, label_targets)
        grads = self.reduce(grads)
        norm = ops.sqrt(self.sum(self.map(_squared_sum, grads))) / self.loss_scale
        factor = Tensor(1.0 / self.loss_scale)
        if self.clip_grad_norm > 0:
            factor = factor * ops.minimum(self.clip_grad_norm / (norm + 1e-6), Tensor(1.0))
        finite = ops.isfinite(norm)
        self.optimizer(self.map(ops.partial(_scale_if, finite, factor), grads))
        return loc_loss, conf_loss, norm
