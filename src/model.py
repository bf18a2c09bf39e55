# SPDX-License-Identifier: Apache-2.0
"""M2Det: backbone -> multi-level feature pyramid (MLFPN) -> prediction head.

Zhao et al., "M2Det: A Single-Shot Object Detector based on Multi-Level Feature Pyramid Network",
AAAI 2019, section 3; where paper and official code differ, an argument chooses and the default is
the code's form.

Shape letters: B batch, S input side, L levels (TUMs), K scales, D planes, H x W a map, P priors,
C classes with the background first.
"""

from typing import List, Sequence, Tuple

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from src.backbones import build_backbone
from src.config import Config, ModelConfig
from src.priors import map_sizes, prior_shapes_per_cell
from src.ssd import DeconvNeck, SSDNeck

# Share of the old running value that stays; torch's momentum of 0.01 in MLFPN, 0.1 in `Norm`.
MLFPN_MOMENTUM = 0.99
NORM_MOMENTUM = 0.9
FUSED_CELLS = 400  # cells of a map from which on joining the weights of both heads pays


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


class FFMv1(nn.Cell):
    """Fuses the two backbone maps into the base feature (B, 768, S/8, S/8)."""

    out_channels = 768

    def __init__(self, shallow_channels: int, deep_channels: int) -> None:
        super().__init__()
        self.reduce_shallow = ConvBNReLU(shallow_channels, 256, 3, padding=1)
        self.reduce_deep = ConvBNReLU(deep_channels, 512, 1)
        self.resize = Resize("nearest")

    def construct(self, shallow: Tensor, deep: Tensor) -> Tensor:
        deep = self.resize(self.reduce_deep(deep), shallow)
        return ops.cat((self.reduce_shallow(shallow), deep), 1)


class TUM(nn.Cell):
    """Thinned U-shape module: (B, cin, S/8, S/8) to K maps of D planes, smallest first."""

    def __init__(
        self, cin: int, planes: int, num_scales: int, smooth: bool = True, upsample: str = "nearest"
    ) -> None:
        super().__init__()
        encoder: List[nn.Cell] = [ConvBNReLU(cin, planes, 3, stride=2, padding=1)]
        encoder += [
            ConvBNReLU(planes, planes, 3, stride=2, padding=1) for _ in range(num_scales - 3)
        ]
        if num_scales > 2:
            encoder.append(ConvBNReLU(planes, planes, 3))
        self.encoder = nn.CellList(encoder)
        self.top = ConvBNReLU(planes, planes, 1)
        laterals = [ConvBNReLU(planes, planes, 3, padding=1) for _ in range(num_scales - 2)]
        self.laterals = nn.CellList([*laterals, ConvBNReLU(cin, planes, 3, padding=1)])
        self.resizes = nn.CellList([Resize(upsample) for _ in self.laterals])
        self.smooth = nn.CellList(
            [ConvBNReLU(planes, planes, 1) if smooth else nn.Identity() for _ in self.laterals]
        )

    def construct(self, x: Tensor) -> Tuple[Tensor, ...]:
        encoded = [x]
        for layer in self.encoder:
            encoded.append(layer(encoded[-1]))
        decoded = self.top(encoded[-1])
        outputs = [decoded]
        for i, lateral in enumerate(self.laterals):
            side = lateral(encoded[-2 - i])
            decoded = self.resizes[i](decoded, side) + side
            outputs.append(self.smooth[i](decoded))
        return tuple(outputs)


class SFAM(nn.Cell):
    """Scale-wise feature aggregation: reweights the L * D channels of each scale.

    `shared` uses one pair of layers for all scales (official code), else one each (paper, 3.3).
    """

    def __init__(
        self, channels: int, num_scales: int, shared: bool = True, reduction: int = 16
    ) -> None:
        super().__init__()
        copies = 1 if shared else num_scales
        hidden = channels // reduction
        self.fc1 = nn.CellList([_pointwise(channels, hidden) for _ in range(copies)])
        self.fc2 = nn.CellList([_pointwise(hidden, channels) for _ in range(copies)])
        self.relu = nn.ReLU()

    def construct(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        outputs = []
        for i, x in enumerate(maps):
            k = i % len(self.fc1)
            hidden = self.relu(self.fc1[k](ops.mean(x, (2, 3), True)))
            outputs.append(x * ops.sigmoid(self.fc2[k](hidden)))
        return tuple(outputs)


def _pointwise(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 1, has_bias=True, weight_init="he_normal", bias_init="zeros")


class MLFPN(nn.Cell):
    """Multi-level feature pyramid: two backbone maps to K maps (B, L * D, H, W), largest first.

    Args:
        in_channels: channels of the shallow and the deep backbone map.
        planes: D, outputs of each TUM.
        num_levels: L, alternating FFMv2 and TUM.
        num_scales: K.
        smooth: 1x1 convolutions after the TUM outputs.
        sfam: attention over the concatenated levels.
        shared_squeeze: one squeeze of the base feature for all levels instead of one each.
        shared_sfam: one pair of SFAM layers for all scales instead of one each.
        upsample: "nearest" or "bilinear" inside the TUMs.
        base_feature: "every" TUM sees the base feature or only the "first".
    """

    def __init__(
        self,
        in_channels: Tuple[int, int],
        planes: int = 256,
        num_levels: int = 8,
        num_scales: int = 6,
        smooth: bool = True,
        sfam: bool = False,
        shared_squeeze: bool = True,
        shared_sfam: bool = True,
        upsample: str = "nearest",
        base_feature: str = "every",
    ) -> None:
        super().__init__()
        self.out_channels = [planes * num_levels] * num_scales
        self.base_to_every = base_feature == "every"
        self.fuse = FFMv1(*in_channels)
        uses = num_levels if self.base_to_every else 1
        copies = 1 if shared_squeeze else uses
        # A squeeze shared by n levels runs once here; the original runs it, and updates its
        # running statistics with the same batch, n times.
        momentum = MLFPN_MOMENTUM**uses if shared_squeeze else MLFPN_MOMENTUM
        self.squeeze = nn.CellList(
            [
                ConvBNReLU(FFMv1.out_channels, planes // 2, 1, momentum=momentum)
                for _ in range(copies)
            ]
        )
        later = planes + planes // 2 if self.base_to_every else planes
        widths = [planes // 2] + [later] * (num_levels - 1)
        self.tums = nn.CellList([TUM(c, planes, num_scales, smooth, upsample) for c in widths])
        self.sfam = SFAM(planes * num_levels, num_scales, shared_sfam) if sfam else nn.Identity()
        self.norm = nn.BatchNorm2d(planes * num_levels, eps=1e-5, momentum=NORM_MOMENTUM)

    def construct(self, shallow: Tensor, deep: Tensor) -> Tuple[Tensor, ...]:
        base = self.fuse(shallow, deep)
        squeezed = [squeeze(base) for squeeze in self.squeeze]
        levels = [self.tums[0](squeezed[0])]
        for i in range(1, len(self.tums)):
            x = levels[-1][-1]
            if self.base_to_every:  # FFMv2
                x = ops.cat((squeezed[i % len(squeezed)], x), 1)
            levels.append(self.tums[i](x))
        maps = [ops.cat(same_scale, 1) for same_scale in zip(*levels)][::-1]
        maps = self.sfam(tuple(maps))
        return (self.norm(maps[0]), *maps[1:])


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


class M2Det(nn.Cell):
    """Images (B, 3, S, S), BGR minus mean -> loc (B, P, 4) encoded, logits (B, P, C)."""

    def __init__(self, backbone: nn.Cell, neck: nn.Cell, head: nn.Cell) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def construct(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        shallow, deep = self.backbone(images)
        return self.head(self.neck(shallow, deep))


def build_model(config: Config) -> M2Det:
    """The network of a configuration, freshly initialised.

    Raises:
        ValueError: an input size that the feature pyramid cannot be built on.
    """
    backbone = build_backbone(config.model.backbone)
    sizes = map_sizes(config.model)
    neck = _build_neck(config.model, backbone.out_channels, sizes)
    priors_per_cell = prior_shapes_per_cell(config.anchors, len(sizes))
    head = MultiBoxHead(neck.out_channels, priors_per_cell, config.model.num_classes)
    return M2Det(backbone, neck, head)


def _build_neck(model: ModelConfig, in_channels: Tuple[int, int], sizes: Sequence[int]) -> nn.Cell:
    if model.neck == "ssd":
        return SSDNeck(in_channels, sizes)
    if model.neck == "deconv":
        return DeconvNeck(in_channels, sizes, model.planes)
    return MLFPN(
        in_channels,
        model.planes,
        model.num_levels,
        len(sizes),
        model.smooth,
        model.sfam,
        model.shared_squeeze,
        model.shared_sfam,
        model.upsample,
        model.base_feature,
    )
