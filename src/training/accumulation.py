# SPDX-License-Identifier: Apache-2.0
"""A training step on a batch that is too large to pass through the network at once.

The gradient is that of the whole batch: the losses of all parts are divided by the positives of all
parts. Only the statistics of BatchNorm are those of the parts.
"""

from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..runtime.collectives import MeanOverRanks
from ..runtime.gpu.transfer import Transfer
from ..runtime.gpu.workarounds import UnusedSum
from .ema import Ema
from .train_step import BatchNormStatistics, Gradients, Step, StepOutcome, Update

_add = ops.MultitypeFuncGraph("add")


@_add.register("Tensor", "Tensor", "Tensor")
def _add_one(weight: Tensor, total: Parameter, grad: Tensor) -> Tensor:
    return ops.assign_add(total, grad * weight)


_taken = ops.MultitypeFuncGraph("taken")


@_taken.register("Tensor")
def _taken_one(total: Parameter) -> Tensor:
    return total * 1.0


_clear = ops.MultitypeFuncGraph("clear")


@_clear.register("Tensor")
def _clear_one(total: Parameter) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))


class AccumulatedStep(Step):
    """A step on a batch in `parts`; the batch must be a multiple of it. The rest as of `Step`."""

    def __init__(
        self,
        gradients: Gradients,
        update: Update,
        parts: int,
        statistics: Sequence[Parameter] = (),
        ema: Optional[Ema] = None,
        compiled: Callable[[nn.Cell], Callable[..., Any]] = lambda cell: cell,
        transfer: Optional[Transfer] = None,
    ) -> None:
        super().__init__(gradients, update, statistics, ema, compiled, transfer)
        self.parts = parts
        totals = _Totals(update)
        self._begin = compiled(_Begin(self._batch_norm))
        self._add = compiled(_Add(gradients, totals))
        self._end = compiled(_End(gradients.loss_scale, update, totals))

    def __call__(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor, stop: Tensor
    ) -> StepOutcome:
        """As `TrainStep`."""
        saved = self._begin()
        for part in zip(*(self._split(x) for x in (images, loc_targets, label_targets))):
            self._add(*self._transfer.send_batch(*part))
        report, _ = self._end(self._transfer.send(stop))
        return self._finish(report, saved)

    def _split(self, x: Tensor) -> List[Tensor]:
        """The batch has not been on the device yet: nothing is fetched from there."""
        return [Tensor(part) for part in np.split(x.asnumpy(), self.parts)]


class _Totals(nn.Cell):
    """Sums over the parts: gradients, and losses times positives, with the positives."""

    def __init__(self, update: Update) -> None:
        super().__init__(auto_prefix=False)
        zeros = [*update.zeros(), Tensor(np.zeros(3, np.float32))]
        *grads, self.losses = [
            Parameter(x, f"totals_{i}", requires_grad=False) for i, x in enumerate(zeros)
        ]
        self.grads = ParameterTuple(grads)


class _Begin(nn.Cell):
    """Saves the running averages before the first part."""

    def __init__(self, batch_norm: BatchNormStatistics) -> None:
        super().__init__(auto_prefix=False)
        self.batch_norm = batch_norm

    def construct(self) -> Tensor:
        return self.batch_norm.save()


class _Add(nn.Cell):
    """Adds the gradients of a part of a batch, not divided by its positives, to the totals."""

    def __init__(self, gradients: Gradients, totals: _Totals) -> None:
        super().__init__(auto_prefix=False)
        self.gradients, self.totals = gradients, totals
        world_size = gradients.update.world_size
        self.mean_over_ranks = MeanOverRanks(world_size)
        self.unused_sum = UnusedSum(world_size)
        self.map = ops.HyperMap()

    def construct(self, images: Tensor, *targets: Tensor) -> Tuple[Tensor, Tensor]:
        losses, grads = self.gradients(images, *targets)
        means = self.mean_over_ranks(losses)
        positives = ops.maximum(means[2], 1.0)
        added = self.map(ops.partial(_add, positives), self.totals.grads, grads)
        sums = ops.cat((means[:2] * positives, means[2:]))
        added = ops.depend(ops.assign_add(self.totals.losses, sums), added)
        return added, self.unused_sum(positives)


class _End(nn.Cell):
    """The update by the summed gradients; clears the sums."""

    def __init__(self, loss_scale: Parameter, update: Update, totals: _Totals) -> None:
        super().__init__(auto_prefix=False)
        self.loss_scale, self.update, self.totals = loss_scale, update, totals
        self.mean_over_ranks = MeanOverRanks(update.world_size)
        self.unused_sum = UnusedSum(update.world_size)
        self.map = ops.HyperMap()

    def construct(self, stop: Tensor) -> Tuple[Tensor, Tensor]:
        """(5,) the numbers of a `StepOutcome`, and an unused sum."""
        sums, grads = self.totals.losses * 1.0, self.map(_taken, self.totals.grads)
        positives = ops.maximum(sums[2], 1.0)
        losses = sums[:2] / positives
        norm = self.update(grads, self.loss_scale * positives, losses[0] + losses[1])
        stop_of_any = self.mean_over_ranks(stop)
        report = ops.cat((losses, norm.reshape(1), sums[2:], stop_of_any.reshape(1)))
        cleared = self.map(_clear, ops.depend(self.totals.grads, report))
        cleared = (cleared, _clear_one(ops.depend(self.totals.losses, report)))
        return ops.depend(report, cleared), self.unused_sum(norm)
