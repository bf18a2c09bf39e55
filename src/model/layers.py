# SPDX-License-Identifier: Apache-2.0
"""Layers that the parts of M2Det are made of: convolution with BatchNorm, resizing."""

from typing import Callable, Optional, Tuple

from mindspore import Tensor, nn, ops

# MindSpore's momentum is 1 - torch's, which is 0.01 in MLFPN and 0.1 in `Norm`.
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
    """Resizes (B, D, H, W) to the size of another map; half-pixel centres for "bilinear", floor for
    "nearest". A cell of its own, so that export can replace it.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.nearest = mode == "nearest"

    def construct(self, x: Tensor, like: Tensor) -> Tensor:
        return self.resize_to(x, like.shape[2:])

    def resize_to(self, x: Tensor, size: Tuple[int, int]) -> Tensor:
        """`x` with `size` (height, width) in cells."""
        if self.nearest:
            return ops.interpolate(x, size=size, mode="nearest")
        return ops.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _pointwise(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 1, has_bias=True, weight_init="he_normal", bias_init="zeros")


def replace_cells(model: nn.Cell, replacement: Callable[[nn.Cell], Optional[nn.Cell]]) -> None:
    """Put `replacement(cell)` in the place of every cell of `model` for which it is not None.

    Parameters keep their names.
    """
    for _, parent in list(model.cells_and_names()):
        for name, child in list(parent.name_cells().items()):
            names = [p.name for p in child.get_parameters()]
            new = replacement(child)
            if new is not None:
                parent._cells[name] = new
                for parameter, own in zip(child.get_parameters(), names):
                    parameter.name = own
        if isinstance(parent, nn.SequentialCell):
            parent.cell_list = list(parent.cells())  # what it runs
