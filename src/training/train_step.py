# SPDX-License-Identifier: Apache-2.0
"""One training step: gradients, their mean over ranks, clipping, update; on one batch or several.

Shape letters: B batch, S input side, P priors.
"""

from typing import Any, Callable, List, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size

from ..runtime.collectives import MeanOverRanks
from ..runtime.gpu.workarounds import UnusedSum
from .optimizers import Optimizer

_squared_sum = ops.MultitypeFuncGraph("squared_sum")


@_squared_sum.register("Tensor")
def _squared_sum_of_tensor(x: Tensor) -> Tensor:
    """Sum of squares. Fast L2Loss adds up in one float32, too coarse for large tensors (0.3 %)."""
    if x.size > 65536:
        rows = x.reshape(x.shape[0], -1)
        return ops.ReduceSum()(ops.ReduceSum()(rows * rows, 1))
    return 2.0 * ops.L2Loss()(x)


_copy = ops.MultitypeFuncGraph("copy")


@_copy.register("Tensor", "Tensor")
def _copy_one(target: Parameter, source: Parameter) -> Tensor:
    return ops.assign(target, source)


_restore = ops.MultitypeFuncGraph("restore")


@_restore.register("Tensor", "Tensor", "Tensor")
def _restore_one(finite: Tensor, target: Parameter, kept: Parameter) -> Tensor:
    return ops.assign(target, ops.select(finite, target, kept))


class Update(nn.Cell):
    """Mean over ranks, clipping by the global norm, the optimiser's update.

    A step whose gradients are not finite leaves weights, moments and `statistics` as they were.

    Args:
        optimizer: over the trainable parameters.
        clip_grad_norm: largest global norm let through; 0 switches clipping off.
        world_size: number of ranks.
        statistics: running averages of BatchNorm, which a forward pass changes.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clip_grad_norm: float = 0.0,
        world_size: int = 1,
        statistics: Sequence[Parameter] = (),
    ) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.clip_grad_norm = clip_grad_norm
        self.reduce = nn.Identity()
        if world_size > 1:
            self.reduce = nn.DistributedGradReducer(optimizer.parameters, True, get_group_size())
        self.statistics = ParameterTuple(statistics)
        self.kept = self.statistics.clone(prefix="kept")
        self.map = ops.HyperMap()
        self.sum = ops.AddN()

    def keep_statistics(self) -> Tensor:
        """Remembers the running averages; to be called before the forward pass."""
        if self.statistics:
            return self.map(_copy, self.kept, self.statistics)
        return Tensor(0.0)

    def construct(self, grads: Tuple[Tensor, ...], scale: Tensor, loss: Tensor) -> Tensor:
        """Steps with `grads` divided by `scale`; their global norm () before clipping.

        A `loss` that is not finite makes the norm NaN: the gradient of Smooth-L1 is finite even so.
        """
        grads = self.reduce(grads)
        norm = ops.sqrt(self.sum(self.map(_squared_sum, grads))) / scale
        norm = ops.select(ops.isfinite(loss), norm, Tensor(float("nan"), ms.float32))
        factor = 1.0 / scale
        if self.clip_grad_norm > 0:
            factor = factor * ops.minimum(self.clip_grad_norm / (norm + 1e-6), Tensor(1.0))
        finite = ops.isfinite(norm)
        done = self.optimizer(grads, factor, finite)
        if self.statistics:
            restored = self.map(ops.partial(_restore, finite), self.statistics, self.kept)
            done = ops.depend(done, restored)
        return ops.depend(norm, done)


class TrainOneStepCell(nn.Cell):
    """A step on one batch.

    Args:
        model_with_loss: cell whose first output is the loss to minimise.
        update: what is done with the gradients.
        loss_scale: factor on the loss, taken out of the gradients again (float16 training).
        world_size: number of ranks.
    """

    def __init__(
        self,
        model_with_loss: nn.Cell,
        update: Update,
        loss_scale: float = 1.0,
        world_size: int = 1,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.model_with_loss = model_with_loss
        self.update = update
        self.loss_scale = Parameter(Tensor(loss_scale, ms.float32), "scale", requires_grad=False)
        self.mean_over_ranks = MeanOverRanks(world_size)
        self.unused_sum = UnusedSum(world_size)
        self.value_and_grad = ops.value_and_grad(
            self._scaled, None, update.optimizer.parameters, has_aux=True
        )

    def _scaled(self, *batch: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        loss, loc_loss, conf_loss = self.model_with_loss(*batch)
        return loss * self.loss_scale, loc_loss, conf_loss

    def construct(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor, stop: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(loc_loss, conf_loss, norm, positives, stop): five scalars.

        Means over the ranks but for `stop`, which is their sum; `norm` is the global gradient norm
        before clipping, `positives` their number in the batch.

        Args:
            images: (B, 3, S, S) float32.
            loc_targets: (B, P, 4) float32.
            label_targets: (B, P) int32.
            stop: () float32, above 0 where a rank has been told to stop.
        """
        kept = self.update.keep_statistics()
        images = ops.depend(images, kept)
        (_, loc_loss, conf_loss), grads = self.value_and_grad(images, loc_targets, label_targets)
        positives = (label_targets > 0).astype(ms.float32).sum()
        means = self.mean_over_ranks(ops.stack((loc_loss, conf_loss, positives)))
        norm = self.update(grads, self.loss_scale, means[0] + means[1])
        return means[0], means[1], norm, means[2], self.unused_sum(stop)


_add = ops.MultitypeFuncGraph("add")


@_add.register("Tensor", "Tensor", "Tensor")
def _add_to_one(weight: Tensor, total: Parameter, grad: Tensor) -> Tensor:
    return ops.assign_add(total, grad * weight)


_value = ops.MultitypeFuncGraph("value")


@_value.register("Tensor")
def _value_of_one(total: Parameter) -> Tensor:
    return total * 1.0


_clear = ops.MultitypeFuncGraph("clear")


@_clear.register("Tensor")
def _clear_one(total: Parameter) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))


class _AddGradients(nn.Cell):
    """Adds the gradients of a part of a batch, not divided by its positives, to `totals`."""

    def __init__(self, step: TrainOneStepCell, totals: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.step, self.totals = step, totals
        self.map = ops.HyperMap()

    def construct(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor, stop: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """(3,) sums over the part: loc loss, conf loss, positives; () stop, over the ranks."""
        (_, loc, conf), grads = self.step.value_and_grad(images, loc_targets, label_targets)
        positives = (label_targets > 0).astype(ms.float32).sum()
        means = self.step.mean_over_ranks(ops.stack((loc, conf, positives)))
        divisor = ops.maximum(means[2], 1.0)
        added = self.map(ops.partial(_add, divisor), self.totals, grads)
        sums = ops.stack((means[0] * divisor, means[1] * divisor, means[2]))
        return ops.depend(sums, added), self.step.unused_sum(stop)


class _Finish(nn.Cell):
    """The update by what `totals` holds, which is cleared."""

    def __init__(self, step: TrainOneStepCell, totals: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.step, self.totals = step, totals
        self.map = ops.HyperMap()

    def construct(
        self, sums: Tensor, stop: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        divisor = ops.maximum(sums[2], 1.0)
        loc_loss, conf_loss = sums[0] / divisor, sums[1] / divisor
        grads = self.map(_value, self.totals)
        norm = self.step.update(grads, self.step.loss_scale * divisor, loc_loss + conf_loss)
        cleared = self.map(_clear, ops.depend(self.totals, norm))
        norm = ops.depend(norm, cleared)
        return loc_loss, conf_loss, norm, sums[2], self.step.unused_sum(stop)


class _Keep(nn.Cell):
    """Remembers the running averages before the first part."""

    def __init__(self, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.update = update

    def construct(self) -> Tensor:
        return self.update.keep_statistics()


class AccumulatedStep:
    """A step on a batch that is passed through the network in parts, to need less memory.

    The gradient is that of the whole batch: the losses of all parts are divided by the positives of
    all parts. Only the statistics of BatchNorm are those of the parts.

    Args:
        step: the step it stands for.
        parts: how many; the batch must be a multiple of it.
        compiled: put around each cell that is called.
    """

    def __init__(
        self,
        step: TrainOneStepCell,
        parts: int,
        compiled: Callable[[nn.Cell], Callable[..., Any]] = lambda cell: cell,
    ) -> None:
        totals = step.update.optimizer.parameters.clone(prefix="totals", init="zeros")
        self.step, self.parts = step, parts
        self._keep = compiled(_Keep(step.update))
        self._add = compiled(_AddGradients(step, totals))
        self._finish = compiled(_Finish(step, totals))

    @property
    def loss_scale(self) -> Parameter:
        """As that of `TrainOneStepCell`."""
        return self.step.loss_scale

    def __call__(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor, stop: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As `TrainOneStepCell.construct`."""
        self._keep()
        batch = (images, loc_targets, label_targets)
        sums = [self._add(*part, stop)[0] for part in zip(*(self._split(x) for x in batch))]
        total = sum(part.asnumpy() for part in sums)
        return self._finish(Tensor(total.astype(np.float32)), stop)

    def _split(self, x: Tensor) -> List[Tensor]:
        return [Tensor(part) for part in np.split(x.asnumpy(), self.parts)]
