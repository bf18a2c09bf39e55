# SPDX-License-Identifier: Apache-2.0
"""The prediction head.

Shape letters: B batch, H x W a map, P priors, C classes with the background first.
"""

from typing import Sequence, Tuple

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal


class MultiBoxHead(nn.Cell):
    """3x3 convolutions that give each prior its offsets and class scores.

    `channels` and `priors_per_cell` have one entry per map. Weights start from normal(0.01): with
    larger ones the first epochs of a fresh network learn nothing.
    """

    def __init__(
        self, channels: Sequence[int], priors_per_cell: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        pairs = list(zip(channels, priors_per_cell))
        self.loc = nn.CellList([self._conv(c, n * 4) for c, n in pairs])
        self.conf = nn.CellList([self._conv(c, n * num_classes) for c, n in pairs])

    @staticmethod
    def _conv(cin: int, cout: int) -> nn.Conv2d:
        return nn.Conv2d(
            cin, cout, 3, 1, "pad", 1, has_bias=True, weight_init=Normal(0.01), bias_init="zeros"
        )

    def construct(self, maps: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Maps (B, channels, H, W), largest first -> offsets (B, P, 4) and scores (B, P, C)."""
        loc, logits = [], []
        for i, x in enumerate(maps):
            offsets, scores = self.outputs(i, x)
            loc.append(self._rows(offsets, 4))
            logits.append(self._rows(scores, self.num_classes))
        return ops.cat(loc, 1), ops.cat(logits, 1)

    def outputs(self, i: int, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Offsets (B, n * 4, H, W) and scores (B, n * C, H, W) of map `i`, n priors a cell."""
        return self.loc[i](x), self.conf[i](x)

    def _rows(self, x: Tensor, width: int) -> Tensor:
        """(B, n * width, H, W) -> (B, H * W * n, width): row, column, prior of the cell."""
        return x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1, width)
