# SPDX-License-Identifier: Apache-2.0
"""Replacements for layers of the network that give the same results faster on a CPU.

Each stands in for a plain layer where MindSpore's CPU operators (oneDNN; 2.7.2 to 2.10.0) have a
slow spot; `python -m benchmarks.run` measures the gain. A GPU keeps the plain layers.
"""

from typing import Optional, Tuple

import mindspore as ms
from mindspore import Tensor, nn, ops

from .head import MultiBoxHead
from .layers import Resize, replace_cells

STRIP_CELLS = 12800  # of a map that oneDNN's fast max-pool takes; by trying: benchmarks/RESULTS.md
FUSED_CELLS = 400  # cells of a map from which on one fused convolution is faster than two


def fit_to_device(model: nn.Cell) -> None:
    """Put the layers below into `model` if it will run on a CPU; its parameters stay as they are.

    To be called once the device is set, and before anything is compiled.
    """
    if ms.get_context("device_target") == "CPU":
        replace_cells(model, _cpu_layer)


def _cpu_layer(cell: nn.Cell) -> Optional[nn.Cell]:
    """What takes the place of `cell`; None where it stays."""
    if isinstance(cell, nn.MaxPool2d) and (cell.kernel_size, cell.stride) == (2, 2):
        return StripPool()
    if type(cell) is Resize:
        return DoublingResize(cell)
    if type(cell) is MultiBoxHead:
        return FusedHead(cell)
    return None


@ops.constexpr
def pool_strips(height: int, width: int) -> int:
    """Into how many strips of even height a map, in cells, is cut; 1 where it cannot be."""
    fitting = max(2, STRIP_CELLS // width)
    rows = max((n for n in range(2, fitting + 1, 2) if height % n == 0), default=height)
    return height // rows if width % 2 == 0 else 1


class StripPool(nn.Cell):
    """2x2 max-pool of stride 2: (B, C, H, W) to (B, C, H / 2, W / 2).

    For the gradient of a large map oneDNN has one slow loop, for that of a small one fast code. So
    training pools large maps in strips, which share no window: they are taken for more channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = ops.MaxPool(2, 2, "same")

    def construct(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        strips = pool_strips(height, width) if self.training else 1
        if strips == 1:
            return self.pool(x)
        x = self.pool(x.reshape(batch, channels * strips, height // strips, width))
        return x.reshape(batch, channels, height // 2, width // 2)


class DoublingResize(Resize):
    """`Resize` that doubles maps 32, 64, 96 ... cells wide by repeating every cell.

    For such widths MindSpore's operator takes three times as long (cache conflicts).
    """

    def __init__(self, resize: Resize) -> None:
        super().__init__("nearest" if resize.nearest else "bilinear")

    def construct(self, x: Tensor, like: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        doubles = like.shape[2:] == (2 * height, 2 * width)
        if not (self.nearest and doubles and width % 32 == 0):
            return self.resize_to(x, like.shape[2:])
        rows = x.reshape(batch * channels, height, 1, width, 1)
        rows = ops.broadcast_to(rows, (batch * channels, height, 2, width, 2))
        return rows.reshape(batch, channels, 2 * height, 2 * width)


class FusedHead(MultiBoxHead):
    """A head that reads a large map once: one convolution for offsets and scores."""

    def __init__(self, head: MultiBoxHead) -> None:
        nn.Cell.__init__(self, auto_prefix=False)  # the parameters keep their names
        self.num_classes, self.loc, self.conf = head.num_classes, head.loc, head.conf
        form = {"pad_mode": "pad", "pad": (1,) * 4, "stride": (1, 1), "dilation": (1, 1)}
        outputs = [a.out_channels + b.out_channels for a, b in zip(self.loc, self.conf)]
        self.both = tuple(ops.Conv2D(n, (3, 3), **form) for n in outputs)

    def outputs(self, i: int, x: Tensor) -> Tuple[Tensor, Tensor]:
        """As `MultiBoxHead.outputs`."""
        loc, conf = self.loc[i], self.conf[i]
        if x.shape[2] * x.shape[3] < FUSED_CELLS:
            return loc(x), conf(x)
        both = self.both[i](x, ops.cat((loc.weight, conf.weight), 0))
        both = ops.bias_add(both, ops.cat((loc.bias, conf.bias), 0))
        return both[:, : loc.out_channels], both[:, loc.out_channels :]
