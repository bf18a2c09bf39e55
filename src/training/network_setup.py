# SPDX-License-Identifier: Apache-2.0
"""Changes to a network before training: freezing, synchronised BatchNorm, float16."""

from typing import Iterator, List, Tuple

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from ..model.layers import replace_cells
from ..runtime.gpu.workarounds import InferBatchNorm


def freeze(
    model: nn.Cell, backbone: bool = False, batch_norm: str = "none", parts: int = 0
) -> None:
    """Take parts of `model` out of training.

    Args:
        model: with its backbone as `model.backbone`.
        backbone: neither weights nor BatchNorm of the backbone change.
        batch_norm: "none", "backbone" or "all": layers whose statistics, gamma and beta stay.
        parts: how many of the backbone's first `parts()` stay as they are, with their BatchNorm.
    """
    frozen = [model.backbone] if backbone else model.backbone.parts()[:parts] if parts else []
    for parameter in (p for cell in frozen for p in cell.get_parameters()):
        parameter.requires_grad = False
    scope = {"none": [], "backbone": [model.backbone], "all": [model]}[batch_norm]
    for _, norm in (found for cell in [*frozen, *scope] for found in batch_norms(cell)):
        norm.use_batch_statistics = False
        norm.gamma.requires_grad = norm.beta.requires_grad = False


def batch_norms(cell: nn.Cell) -> Iterator[Tuple[str, nn.BatchNorm2d]]:
    """Every BatchNorm layer with its name."""
    return ((n, c) for n, c in cell.cells_and_names() if isinstance(c, nn.BatchNorm2d))


def running_statistics(model: nn.Cell) -> List[Parameter]:
    """The running averages that training changes."""
    moving = [norm for _, norm in batch_norms(model) if norm.use_batch_statistics is not False]
    return [p for norm in moving for p in (norm.moving_mean, norm.moving_variance)]


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks, on any device; it takes over another's parameters.

    `nn.SyncBatchNorm` is for Ascend only.
    """

    def __init__(self, norm: nn.BatchNorm2d, world_size: int) -> None:
        super().__init__(norm.num_features, norm.eps, 1.0 - norm.momentum)
        self.gamma, self.beta = norm.gamma, norm.beta
        self.moving_mean, self.moving_variance = norm.moving_mean, norm.moving_variance
        self.use_batch_statistics = norm.use_batch_statistics
        self.world_size = world_size
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, x: Tensor) -> Tensor:
        if not self.training or self.use_batch_statistics is False:
            return self.bn_infer(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[
                0
            ]
        wide = x.astype(ms.float32)
        mean, variance = self._statistics(wide)
        count = x.shape[0] * x.shape[2] * x.shape[3] * self.world_size
        self._track(ops.stop_gradient(mean), ops.stop_gradient(variance), count)
        scale = self.gamma / ops.sqrt(variance + self.eps)
        shift = self.beta - mean * scale
        return (wide * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)).astype(x.dtype)

    def _statistics(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Mean and variance (channels,) over all ranks, by one sum over them.

        Means are taken from the running ones, the same on all ranks: the square of a mean that is
        large beside the deviation would swallow the variance.
        """
        mean = x.mean((0, 2, 3))
        variance = ops.square(x - mean.reshape(1, -1, 1, 1)).mean((0, 2, 3))
        usual = ops.stop_gradient(self.moving_mean * 1.0)
        mean = mean - usual
        both = self.all_reduce(ops.stack((mean, variance + mean * mean))) / self.world_size
        return both[0] + usual, both[1] - both[0] * both[0]

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """`momentum` is the weight of the new value here; the variance is the unbiased one."""
        unbiased = variance * (count / max(count - 1, 1))
        ops.assign_sub(self.moving_mean, self.momentum * (self.moving_mean - mean))
        ops.assign_sub(self.moving_variance, self.momentum * (self.moving_variance - unbiased))


def synchronise_batch_norm(model: nn.Cell, world_size: int) -> None:
    """Put a `SyncBatchNorm` in the place of every BatchNorm of `model`; names stay."""
    replace_cells(
        model, lambda c: SyncBatchNorm(c, world_size) if type(c) is nn.BatchNorm2d else None
    )


def use_float16(model: nn.Cell, level: str) -> nn.Cell:
    """`model` computing in float16; its parameters stay float32.

    Args:
        model: the network.
        level: "O2" keeps BatchNorm in float32, "O3" does not; "O0" changes nothing.
    """
    if level == "O0":
        return model
    network = ms.amp.auto_mixed_precision(model, level)
    if level == "O3":
        for _, norm in batch_norms(model):
            norm.bn_infer = InferBatchNorm(norm)
    return network
