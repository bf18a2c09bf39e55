# SPDX-License-Identifier: Apache-2.0
"""Layers that the parts of M2Det are made of: convolution with BatchNorm, resizing."""

from mindspore import Tensor, nn, ops

# Share of the old running value that stays; torch's momentum of 0.01 in MLFPN, 0.1 in `Norm`.
MLFPN_MOMENTUM = 0.99


NORM_MOMENTUM = 0.9


class ConvBNReLU(nn.Cell):
    """Convolution without bias, BatchNorm, ReLU (`BasicConv` in layers/nn_utils.py)."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        momentum: float = MLFPN_MOMENTUM,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            cin, cout, kernel, stride, "pad", padding, has_bias=False, weight_init="he_normal"
        )
        self.bn = nn.BatchNorm2d(cout, eps=1e-5, momentum=momentum)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Resize(nn.Cell):
    """A map (B, D, H, W) at the size of another; half-pixel centres for "bilinear", floor for
    "nearest". Cells of their own, so that export can put others in their place.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.nearest = mode == "nearest"

    def construct(self, x: Tensor, like: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if not self.nearest:
            return ops.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
        if width % 32 == 0 and like.shape[2:] == (2 * height, 2 * width):
            return self._doubled(x)
        return ops.interpolate(x, size=like.shape[2:], mode="nearest")

    @staticmethod
    def _doubled(x: Tensor) -> Tensor:
        """Every cell four times. For maps 32, 64 or 128 wide MindSpore's operator takes three times
        as long on the CPU: its strides meet in the cache.
        """
        batch, channels, height, width = x.shape
        rows = x.reshape(batch * channels, height, 1, width, 1)
        rows = ops.broadcast_to(rows, (batch * channels, height, 2, width, 2))
        return rows.reshape(batch, channels, 2 * height, 2 * width)


def _pointwise(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 1, has_bias=True, weight_init="he_normal", bias_init="zeros")
