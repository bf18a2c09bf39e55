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
        self.normalise = _NormaliseOverRanks(world_size, norm.eps)

    def construct(self, x: Tensor) -> Tensor:
        if not self.training or self.use_batch_statistics is False:
            return self.bn_infer(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[
                0
            ]
        usual = self.moving_mean * 1.0
        y, mean, variance = self.normalise(x, self.gamma, self.beta, usual)
        count = x.shape[0] * x.shape[2] * x.shape[3] * self.world_size
        self._track(ops.stop_gradient(mean), ops.stop_gradient(variance), count)
        return y

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """`momentum` is the weight of the new value here; the variance is the unbiased one."""
        unbiased = variance * (count / max(count - 1, 1))
        ops.assign_sub(self.moving_mean, self.momentum * (self.moving_mean - mean))
        ops.assign_sub(self.moving_variance, self.momentum * (self.moving_variance - unbiased))


class _NormaliseOverRanks(nn.Cell):
    """x (B, C, H, W) normalised over the batches of all ranks; its gradient is written out.

    With the one that MindSpore 2.8.0 derives a layer takes 74 kernels on a GPU instead of 47.
    """

    def __init__(self, world_size: int, eps: float) -> None:
        super().__init__()
        self.world_size, self.eps = world_size, eps
        self.sum_statistics = ops.AllReduce(ops.ReduceOp.SUM)
        self.sum_gradients = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(
        self, x: Tensor, gamma: Tensor, beta: Tensor, usual: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The result, and mean and variance (C,); `usual` (C,) is a mean the same on all ranks."""
        wide = x.astype(ms.float32)
        mean, variance = self._statistics(wide, usual)
        scale = gamma / ops.sqrt(variance + self.eps)
        shift = beta - mean * scale
        y = wide * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return y.astype(x.dtype), mean, variance

    def _statistics(self, x: Tensor, usual: Tensor) -> Tuple[Tensor, Tensor]:
        """Mean and variance (C,) over all ranks, by one sum over them.

        Means are taken from the running ones: the square of a mean that is large beside the
        deviation would swallow the variance.
        """
        mean = x.mean((0, 2, 3))
        variance = ops.square(x - mean.reshape(1, -1, 1, 1)).mean((0, 2, 3))
        mean = mean - usual
        both = self.sum_statistics(ops.stack((mean, variance + mean * mean))) / self.world_size
        return both[0] + usual, both[1] - both[0] * both[0]

    def bprop(self, x, gamma, beta, usual, out, dout):
        """Gradients of x, gamma and beta by that of the result, with one sum over the ranks:
        dx = gamma / deviation * (dy - mean(dy) - x' * mean(dy x')), x' being x normalised.
        """
        _, mean, variance = out
        dy = dout[0].astype(ms.float32)
        inverse = 1.0 / ops.sqrt(variance + self.eps)
        centred = x.astype(ms.float32) - mean.reshape(1, -1, 1, 1)
        dbeta = dy.sum((0, 2, 3))
        dgamma = (dy * centred).sum((0, 2, 3)) * inverse
        count = x.shape[0] * x.shape[2] * x.shape[3] * self.world_size
        means = self.sum_gradients(ops.stack((dbeta, dgamma))) / count
        slope = (means[1] * inverse).reshape(1, -1, 1, 1)
        dx = dy - centred * slope - means[0].reshape(1, -1, 1, 1)
        dx = dx * (gamma * inverse).reshape(1, -1, 1, 1)
        return dx.astype(x.dtype), dgamma, dbeta, ops.zeros_like(usual)


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
