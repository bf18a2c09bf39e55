# SPDX-License-Identifier: Apache-2.0
"""The network in the form that is exported: fixed map sizes, operators that both formats have,
pixels in and boxes out where asked, BatchNorm folded where asked.

B batch, S input side, P priors, C classes with background 0.
"""

from typing import Any, List, Optional, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..box_utils import VARIANCES
from ..config import Config
from ..model import M2Det
from ..model.backbones import Stem
from ..model.mlfpn import MLFPN, FFMv1
from ..priors import make_priors, map_sizes


class FixedResize(nn.Cell):
    """`src.model.layers.Resize` to a size known beforehand, (height, width) in cells."""

    def __init__(self, size: Tuple[int, int], nearest: bool) -> None:
        super().__init__()
        self.size = size
        self.nearest = ops.ResizeNearestNeighbor(size) if nearest else None
        self.bilinear = ops.ResizeBilinearV2(half_pixel_centers=True)

    def construct(self, x: Tensor, like: Tensor) -> Tensor:
        if self.nearest is not None:
            return self.nearest(x)
        return self.bilinear(x, self.size)


class PaddedMaxPool(nn.Cell):
    """3x3 max-pool of stride 2 that overlaps both edges, for input that is nowhere negative.

    Padding in the pool itself has no ONNX form. Zeros do what minus infinity would after a ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pad = ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        self.pool = nn.MaxPool2d(3, 2, pad_mode="valid")

    def construct(self, x: Tensor) -> Tensor:
        return self.pool(self.pad(x))


class Pixels(nn.Cell):
    """Images (B, S, S, 3) uint8 BGR to the network's (B, 3, S, S) float32, minus the mean."""

    def __init__(self, mean_bgr: Sequence[float]) -> None:
        super().__init__()
        self.mean = Tensor(np.asarray(mean_bgr, np.float32).reshape(1, 3, 1, 1))

    def construct(self, images: Tensor) -> Tensor:
        return ops.cast(images, ms.float32).transpose(0, 3, 1, 2) - self.mean


class Boxes(nn.Cell):
    """loc (B, P, 4), logits (B, P, C) to boxes (B, P, 4) xyxy in [0, 1] of the image, unclipped,
    and scores (B, P, C - 1), the softmax without the background (as `src.box_utils.decode`).
    """

    def __init__(self, priors: np.ndarray) -> None:
        super().__init__()
        self.centre = Tensor(priors[None, :, :2])
        self.half_size = Tensor(priors[None, :, 2:] * np.float32(0.5))
        self.centre_step = Tensor(priors[None, :, 2:] * np.float32(VARIANCES[0]))
        # A tensor: a Python number would be an operator of its own, which MindSpore Lite lacks.
        self.size_step = Tensor(np.array([VARIANCES[1]], np.float32))
        self.softmax = ops.Softmax(-1)

    def construct(self, loc: Tensor, logits: Tensor) -> Tuple[Tensor, Tensor]:
        centre = self.centre + loc[:, :, :2] * self.centre_step
        half = self.half_size * ops.exp(loc[:, :, 2:] * self.size_step)
        boxes = ops.cat((centre - half, centre + half), 2)
        return boxes, self.softmax(logits)[:, :, 1:]


class ExportForm(nn.Cell):
    """A network between an optional first and an optional last cell."""

    def __init__(self, network: nn.Cell, first: Optional[nn.Cell], last: Optional[nn.Cell]) -> None:
        super().__init__(auto_prefix=False)  # the weights keep their names
        self.network = network
        self.first = first if first is not None else nn.Identity()
        self.last = last

    def construct(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        loc, logits = self.network(self.first(images))
        if self.last is None:
            return loc, logits
        return self.last(loc, logits)


def build_export_form(
    network: M2Det, config: Config, inputs: str = "tensor", outputs: str = "raw", fold: bool = False
) -> ExportForm:
    """`network`, which is changed, as it is exported.

    Args:
        network: of `config`, with its weights.
        config: what it was built from.
        inputs: "tensor" for (B, 3, S, S) float32, BGR minus mean; "image" for (B, S, S, 3) uint8
            BGR.
        outputs: "raw" for loc (B, P, 4) and logits (B, P, C); otherwise those of `Boxes`.
        fold: BatchNorms go into the convolutions before them.
    """
    fix_sizes(network, map_sizes(config.model), config.model.upsample == "nearest")
    if fold:
        fold_batchnorm(network)
    first = Pixels(config.data.mean_bgr) if inputs == "image" else None
    last = None if outputs == "raw" else Boxes(make_priors(config))
    return ExportForm(network, first, last).set_train(False)


def fix_sizes(network: M2Det, sizes: Sequence[int], nearest: bool) -> None:
    """Put in cells that need no shape at run time and that ONNX has; `sizes` largest first."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, Stem) and cell.pool.pad_mode.lower() == "pad":
            cell.pool = PaddedMaxPool()
        elif isinstance(cell, FFMv1):
            cell.resize = FixedResize((sizes[0], sizes[0]), True)
        elif isinstance(cell, MLFPN):
            for tum in cell.tums:
                upwards = list(sizes)[-2::-1]
                tum.resizes = nn.CellList([FixedResize((s, s), nearest) for s in upwards])


def fold_batchnorm(network: nn.Cell) -> int:
    """Put each BatchNorm that follows a convolution into its weights; how many there were.

    y = gamma (w x + b - mean) / sqrt(var + eps) + beta. The pairs go by the names of their
    attributes: conv and bn, conv1 and bn1, or neighbours in a sequence.
    """
    folded = 0
    for _, cell in list(network.cells_and_names()):
        for conv_name, norm_name in _pairs(cell):
            children = cell.name_cells()
            conv = children[conv_name]
            names = conv.weight.name, conv.weight.name[: -len("weight")] + "bias"
            merged = _folded(conv, children[norm_name])
            _replace(cell, conv_name, merged)
            _replace(cell, norm_name, nn.Identity())
            merged.weight.name, merged.bias.name = names  # putting it in has shortened them
            folded += 1
    return folded


def _pairs(cell: nn.Cell) -> List[Tuple[str, str]]:
    """Names of a cell's children where the second normalises what the first convolves."""
    children: Any = cell.name_cells()
    if isinstance(cell, nn.SequentialCell):
        names = list(children)
        candidates = list(zip(names, names[1:]))
    else:
        candidates = [(name, name.replace("conv", "bn")) for name in children]
    return [
        (conv, norm)
        for conv, norm in candidates
        if isinstance(children[conv], nn.Conv2d) and isinstance(children.get(norm), nn.BatchNorm2d)
    ]


def _replace(cell: nn.Cell, name: str, child: nn.Cell) -> None:
    if isinstance(cell, nn.SequentialCell):  # it keeps a list beside its attributes
        cell[list(cell.name_cells()).index(name)] = child
    else:
        setattr(cell, name, child)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution with bias that does what both do; sums in float64."""
    gamma, beta, mean, var = (
        p.asnumpy().astype(np.float64)
        for p in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(var + norm.eps)
    weight = conv.weight.asnumpy() * scale[:, None, None, None]
    bias = beta - mean * scale
    if conv.has_bias:
        bias += conv.bias.asnumpy() * scale
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.pad_mode,
        conv.padding,
        conv.dilation,
        conv.group,
        has_bias=True,
        weight_init=Tensor(weight.astype(np.float32)),
        bias_init=Tensor(bias.astype(np.float32)),
    )
