# SPDX-License-Identifier: Apache-2.0
"""One training step: forward pass, loss, gradients, their sum over ranks, clipping, update.

Shape letters: B batch, S input side, P priors.
"""

import math
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..runtime.collectives import MeanOverRanks
from ..runtime.gpu.transfer import Transfer, whole_targets
from ..runtime.gpu.workarounds import UnusedSum, zero_unless
from .ema import Ema
from .optimizers import Optimizer
from .packing import Packing

Compiled = Callable[..., Any]


class StepOutcome(NamedTuple):
    """Means over the ranks; `grad_norm` is the global norm before clipping, not finite where the
    step was skipped, `positives` their number in the batch, `stop` above 0 where a rank is to stop.
    """

    loc_loss: float
    conf_loss: float
    grad_norm: float
    positives: float
    stop: float


class Step:
    """Base of the steps. Without a finite gradient nothing changes but `global_step`.

    Args:
        gradients: of the network with its loss.
        update: what is done with them.
        statistics: running averages of BatchNorm, which a forward pass changes.
        ema: the average of weights that follows them.
        compiled: put around each cell that is called.
        transfer: brings batches to the device.
    """

    def __init__(
        self,
        gradients: "Gradients",
        update: "Update",
        statistics: Sequence[Parameter] = (),
        ema: Optional[Ema] = None,
        compiled: Callable[[nn.Cell], Compiled] = lambda cell: cell,
        transfer: Optional[Transfer] = None,
    ) -> None:
        self.loss_scale = gradients.loss_scale
        self._transfer = transfer or Transfer()
        self._taken = update.optimizer.global_step
        self._batch_norm = BatchNormStatistics(statistics)
        self._ema = None if ema is None else compiled(ema)

    def _finish(self, report: Tensor, saved: Tensor) -> StepOutcome:
        """Moves the average of weights, or restores the BatchNorm statistics of a skipped step."""
        outcome = StepOutcome(*report.asnumpy().tolist())
        if not math.isfinite(outcome.grad_norm):
            self._batch_norm.restore(saved)
        elif self._ema is not None:
            self._ema(self._taken)
        return outcome


class TrainStep(Step):
    """A step on one batch; arguments as of `Step`."""

    def __init__(
        self,
        gradients: "Gradients",
        update: "Update",
        statistics: Sequence[Parameter] = (),
        ema: Optional[Ema] = None,
        compiled: Callable[[nn.Cell], Compiled] = lambda cell: cell,
        transfer: Optional[Transfer] = None,
    ) -> None:
        super().__init__(gradients, update, statistics, ema, compiled, transfer)
        self._step = compiled(TrainOneStepCell(gradients, update, self._batch_norm))

    def __call__(
        self, images: Tensor, loc_targets: Tensor, label_targets: Tensor, stop: Tensor
    ) -> StepOutcome:
        """The outcome of one step.

        Args:
            images: (B, 3, S, S) BGR, uint8, or float32 minus the mean.
            loc_targets: (B, P, 4) float32.
            label_targets: (B, P) int32.
            stop: () float32, above 0 where this rank has received a signal.
        """
        batch = self._transfer.send_batch(images, loc_targets, label_targets)
        report, saved, _ = self._step(self._transfer.send(stop), *batch)
        return self._finish(report, saved)


class TrainOneStepCell(nn.Cell):
    """The graph of `TrainStep`."""

    def __init__(
        self, gradients: "Gradients", update: "Update", batch_norm: "BatchNormStatistics"
    ) -> None:
        super().__init__(auto_prefix=False)
        self.gradients, self.update, self.batch_norm = gradients, update, batch_norm
        self.mean_over_ranks = MeanOverRanks(update.world_size)
        self.unused_sum = UnusedSum(update.world_size)

    def construct(
        self, stop: Tensor, images: Tensor, *targets: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """(5,) the numbers of a `StepOutcome`, BatchNorm's statistics before, and an unused sum."""
        saved = self.batch_norm.save()
        losses, grads = self.gradients(ops.depend(images, saved), *targets)
        means = self.mean_over_ranks(ops.cat((losses, stop.reshape(1))))
        norm = self.update(grads, self.gradients.loss_scale, means[0] + means[1])
        report = ops.cat((means[:2], norm.reshape(1), means[2:]))
        return report, saved, self.unused_sum(stop)


class Gradients(nn.Cell):
    """Forward pass, loss and gradients of a batch, each gradient times the scale of the loss.

    Args:
        cell: the network with its loss, the first of three outputs.
        update: what will be done with the gradients.
        loss_scale: factor on the loss, taken out of the gradients again (float16 training).
        mean_bgr: subtracted from images that are uint8.
    """

    def __init__(
        self,
        cell: nn.Cell,
        update: "Update",
        loss_scale: float = 1.0,
        mean_bgr: Sequence[float] = (0, 0, 0),
    ) -> None:
        super().__init__(auto_prefix=False)
        self.cell, self.update = cell, update
        self.loss_scale = Parameter(Tensor(loss_scale, ms.float32), "scale", requires_grad=False)
        self.mean = Tensor(np.array(mean_bgr, np.float32).reshape(1, 3, 1, 1))
        parameters = update.optimizer.parameters
        self.value_and_grad = ops.value_and_grad(self._scaled, None, parameters, has_aux=True)

    def _scaled(self, *batch: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        loss, loc_loss, conf_loss = self.cell(*batch)
        return loss * self.loss_scale, loc_loss, conf_loss

    def construct(self, images: Tensor, *targets: Tensor) -> Tuple[Tensor, Tuple[Tensor, ...]]:
        """(3,) loc loss, conf loss and number of positives; the gradients, packed.

        The batch is as a `Transfer` sends it.
        """
        if images.dtype == ms.uint8:
            images = images.astype(ms.float32) - self.mean
        loc_targets, label_targets = whole_targets(*targets)
        (_, loc_loss, conf_loss), grads = self.value_and_grad(images, loc_targets, label_targets)
        positives = (label_targets > 0).astype(ms.float32).sum()
        return ops.stack((loc_loss, conf_loss, positives)), self.update.pack(grads)


_squared_sum = ops.MultitypeFuncGraph("squared_sum")


@_squared_sum.register("Tensor")
def _half_squared_sum_of_tensor(x: Tensor) -> Tensor:
    """Half the sum of squares. L2Loss, fast, adds up in one float32, too coarse for large ones
    (0.3 %).
    """
    if x.size > 65536:
        rows = x.reshape(x.shape[0], -1)
        return 0.5 * ops.ReduceSum()(ops.ReduceSum()(rows * rows, 1))
    return ops.L2Loss()(x)


_scale = ops.MultitypeFuncGraph("scale")


@_scale.register("Tensor", "Tensor", "Tensor")
def _scale_one(factor: Tensor, switch: Tensor, grad: Tensor) -> Tensor:
    return zero_unless(switch, grad * factor)


class Update(nn.Cell):
    """Sum over ranks, clipping by the global norm, the optimiser's update.

    Gradients that are not finite change nothing but the number of the step.

    Args:
        optimizer: over the trainable parameters.
        clip_grad_norm: largest global norm let through; 0 switches clipping off.
        world_size: number of ranks.
        packed: join the gradients to a few large tensors: on a GPU hundreds of small kernels cost
            more than the copies, on a CPU the copies do.
        saturating: numbers may not tell of an overflow: an Ascend 910A, and later ones in
            SATURATION_MODE, give the largest number or zero in place of infinity and NaN.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clip_grad_norm: float = 0.0,
        world_size: int = 1,
        packed: bool = False,
        saturating: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.saturating = saturating
        self.clip_grad_norm = clip_grad_norm
        self.world_size = world_size
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM) if world_size > 1 else None
        self.packing = Packing([p.shape for p in optimizer.parameters]) if packed else None
        self.map = ops.HyperMap()
        self.sum = ops.AddN()

    def pack(self, grads: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        """The gradients in the form in which `construct` takes them."""
        return grads if self.packing is None else self.packing.pack(grads)

    def zeros(self) -> List[Tensor]:
        """Of the shapes that packed gradients have."""
        if self.packing is None:
            return [Tensor(np.zeros(p.shape, np.float32)) for p in self.optimizer.parameters]
        return [Tensor(np.zeros(shape, np.float32)) for shape in self.packing.packed_shapes()]

    def construct(self, grads: Tuple[Tensor, ...], scale: Tensor, loss: Tensor) -> Tensor:
        """Steps with `grads` divided by `scale`; their global norm () before clipping.

        A `loss` that is not finite makes the norm NaN: the gradient of Smooth-L1 is finite even so.
        """
        overflows = self._overflows(grads) if self.saturating else None
        if self.all_reduce is not None:
            grads = self.map(self.all_reduce, grads)
            scale = scale * self.world_size
        norm = ops.sqrt(2.0 * self.sum(self.map(_squared_sum, grads))) / scale
        norm = ops.select(ops.isfinite(loss), norm, Tensor(float("nan"), ms.float32))
        if overflows is not None:
            norm = ops.select(overflows == 0, norm, Tensor(float("nan"), ms.float32))
        factor = 1.0 / scale
        if self.clip_grad_norm > 0:
            factor = factor * ops.minimum(self.clip_grad_norm / (norm + 1e-6), Tensor(1.0))
        finite = ops.isfinite(norm)
        grads = self.map(ops.partial(_scale, factor, finite.astype(ms.float32)), grads)
        if self.packing is not None:
            grads = self.packing.unpack(grads)
        return ops.depend(norm, self.optimizer(grads, finite))

    def _overflows(self, grads: Tuple[Tensor, ...]) -> Tensor:
        """() float32: the ranks where a gradient is not finite, or where one of these Ascends has
        seen an overflow since this was last asked (`amp.all_finite` reads its float status).
        """
        overflows = 1.0 - ms.amp.all_finite(grads).astype(ms.float32)
        return overflows if self.all_reduce is None else self.all_reduce(overflows)


class BatchNormStatistics(nn.Cell):
    """The running averages of BatchNorm before a step, put back where the step is skipped.

    A forward pass changes them before its gradients are known. In a graph they are joined to one
    tensor; putting them back, which is rare, is left to the host.
    """

    def __init__(self, statistics: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.statistics = ParameterTuple(statistics)
        self.end = Tensor(np.zeros(1, np.float32))

    def save(self) -> Tensor:
        """All of them in one tensor, before the forward pass changes them."""
        # with a constant, so that a single parameter is copied, not returned itself
        return ops.cat((*self.statistics, self.end))

    def restore(self, saved: Tensor) -> None:
        """Take the values of `save`."""
        ends = np.cumsum([p.size for p in self.statistics])
        for parameter, values in zip(self.statistics, np.split(saved.asnumpy(), ends)):
            parameter.set_data(Tensor(values, parameter.dtype))
