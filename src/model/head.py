# SPDX-License-Identifier: Apache-2.0
"""The prediction head.

Shape letters: B batch, H x W a map, P priors, C classes with the background first.
"""

from typing import Sequence, Tuple

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

FUSED_CELLS = 400  # cells of a map from which on joining the weights of both heads pays


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
        # Tuples throughout: the ONNX exporter fails on a stride that is a number.
        form = {"pad_mode": "pad", "pad": (1,) * 4, "stride": (1, 1), "dilation": (1, 1)}
        outputs = [n * (4 + num_classes) for n in priors_per_cell]
        self.both = tuple(ops.Conv2D(n, (3, 3), **form) for n in outputs)

    @staticmethod
    def _conv(cin: int, cout: int) -> nn.Conv2d:
        return nn.Conv2d(
            cin, cout, 3, 1, "pad", 1, has_bias=True, weight_init=Normal(0.01), bias_init="zeros"
        )

    def construct(self, maps: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Maps (B, channels, H, W), largest first -> offsets (B, P, 4) and scores (B, P, C)."""
        loc, logits = [], []
        for i, x in enumerate(maps):
            offsets, scores = self._outputs(i, x)
            loc.append(self._rows(offsets, 4))
            logits.append(self._rows(scores, self.num_classes))
        return ops.cat(loc, 1), ops.cat(logits, 1)

    def _outputs(self, i: int, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Offsets and scores of map `i`; one convolution where that saves reading a large map."""
        loc, conf = self.loc[i], self.conf[i]
        if x.shape[2] * x.shape[3] < FUSED_CELLS:
            return loc(x), conf(x)
        both = self.both[i](x, ops.cat((loc.weight, conf.weight), 0))
        both = ops.bias_add(both, ops.cat((loc.bias, conf.bias), 0))
        return both[:, : loc.out_channels], both[:, loc.out_channels :]

    def _rows(self, x: Tensor, width: int) -> Tensor:
        """(B, n * width, H, W) -> (B, H * W * n, width): row, column, prior of the cell."""
        return x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1, width)
