# SPDX-License-Identifier: Apache-2.0
"""Necks to compare MLFPN with: SSD's extra layers, and a chain of deconvolutions over them.

Both take the two backbone maps and give K maps, largest first, like `src.model.mlfpn.MLFPN`.
"""

from typing import List, Sequence, Tuple

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Constant, initializer


class L2Norm(nn.Cell):
    """Scales each cell's channels to a learned length, 20 at first (ParseNet; SSD's conv4_3)."""

    def __init__(self, channels: int, length: float = 20.0) -> None:
        super().__init__()
        start = initializer(Constant(length), (1, channels, 1, 1), ms.float32)
        self.weight = Parameter(start, name="weight")

    def construct(self, x: Tensor) -> Tensor:
        wide = x.astype(ms.float32)  # float16 ends at lengths of 256
        length = ops.sqrt((wide * wide).sum(1, keepdims=True) + 1e-10)
        return (wide / length).astype(x.dtype) * self.weight


def _conv(cin: int, cout: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(
        cin,
        cout,
        kernel,
        stride,
        "pad",
        padding,
        has_bias=True,
        weight_init="he_normal",
        bias_init="zeros",
    )


class SSDNeck(nn.Cell):
    """The normalised shallow map, the deep one, and four more from pairs of convolutions.

    Liu et al., 2016, figure 2. A pair squeezes by 1x1, then steps down by a 3x3: the first two with
    stride 2 and padding, the others with stride 1 and none.

    Args:
        in_channels: channels of the shallow and the deep backbone map.
        sizes: sides of all maps in cells, e.g. 38 19 10 5 3 1.
    """

    EXTRAS = ((256, 512), (128, 256), (128, 256), (128, 256))

    def __init__(self, in_channels: Tuple[int, int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.norm = L2Norm(in_channels[0])
        self.out_channels = list(in_channels)
        extras: List[nn.Cell] = []
        for i, (squeezed, cout) in enumerate(self.EXTRAS[: len(sizes) - 2]):
            down = (2, 1) if i < 2 else (1, 0)
            layers = [_conv(self.out_channels[-1], squeezed, 1), nn.ReLU()]
            layers += [_conv(squeezed, cout, 3, *down), nn.ReLU()]
            extras.append(nn.SequentialCell(layers))
            self.out_channels.append(cout)
        self.extras = nn.CellList(extras)

    def construct(self, shallow: Tensor, deep: Tensor) -> Tuple[Tensor, ...]:
        maps = [self.norm(shallow), deep]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return tuple(maps)


class DeconvNeck(nn.Cell):
    """SSD's maps with a chain of deconvolutions from the smallest to the largest added to them.

    Args:
        in_channels: as `SSDNeck`.
        sizes: as `SSDNeck`.
        planes: channels of every map it gives.
    """

    def __init__(self, in_channels: Tuple[int, int], sizes: Sequence[int], planes: int) -> None:
        super().__init__()
        self.ssd = SSDNeck(in_channels, sizes)
        self.out_channels = [planes] * len(sizes)
        self.laterals = nn.CellList([_conv(c, planes, 1) for c in self.ssd.out_channels])
        pairs = zip(sizes, sizes[1:])
        self.ups = nn.CellList([_up(planes, b, a, i < 3) for i, (a, b) in enumerate(pairs)])
        self.relu = nn.ReLU()

    def construct(self, shallow: Tensor, deep: Tensor) -> Tuple[Tensor, ...]:
        sides = [conv(x) for conv, x in zip(self.laterals, self.ssd(shallow, deep))]
        maps = [self.relu(sides[-1])]
        for i in range(len(sides) - 2, -1, -1):
            maps.append(self.relu(sides[i] + self.ups[i](maps[-1])))
        return tuple(maps[::-1])


def _up(planes: int, before: int, after: int, halved: bool) -> nn.Conv2dTranspose:
    """The deconvolution from `before` to `after` cells a side: 2n or 2n - 1, or else n + 2."""
    kernel, stride, padding = (3, 1, 0)
    if halved:
        kernel, stride, padding = (2, 2, 0) if after == 2 * before else (3, 2, 1)
    return nn.Conv2dTranspose(
        planes,
        planes,
        kernel,
        stride,
        "pad",
        padding,
        has_bias=True,
        weight_init="he_normal",
        bias_init="zeros",
    )
