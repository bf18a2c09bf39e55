# SPDX-License-Identifier: Apache-2.0
"""The multi-level feature pyramid: FFMv1, FFMv2, TUMs and SFAM (Zhao et al., 2019, section 3).

Where paper and official code differ, the configuration chooses; its default is the code's form.

Shape letters: B batch, S input side, L levels (TUMs), K scales, D planes, H x W a map.
"""

from typing import List, Sequence, Tuple

from mindspore import Tensor, nn, ops

from ..config import ModelConfig
from .layers import MLFPN_MOMENTUM, NORM_MOMENTUM, ConvBNReLU, Resize, _pointwise


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


class MLFPN(nn.Cell):
    """Multi-level feature pyramid: two backbone maps to K maps (B, L * D, H, W), largest first.

    Args:
        in_channels: channels of the shallow and the deep backbone map.
        config: D is its planes, L its num_levels, alternating FFMv2 and TUM.
        num_scales: K, which may be fewer than the configuration asks for.
    """

    def __init__(self, in_channels: Tuple[int, int], config: ModelConfig, num_scales: int) -> None:
        super().__init__()
        planes, num_levels = config.planes, config.num_levels
        self.out_channels = [planes * num_levels] * num_scales
        self.base_to_every = config.base_feature == "every"
        self.fuse = FFMv1(*in_channels)
        uses = num_levels if self.base_to_every else 1
        copies = 1 if config.shared_squeeze else uses
        # A squeeze shared by n levels runs once here; the original runs it, and updates its
        # running statistics with the same batch, n times.
        momentum = MLFPN_MOMENTUM**uses if config.shared_squeeze else MLFPN_MOMENTUM
        self.squeeze = nn.CellList(
            [
                ConvBNReLU(FFMv1.out_channels, planes // 2, 1, momentum=momentum)
                for _ in range(copies)
            ]
        )
        later = planes + planes // 2 if self.base_to_every else planes
        widths = [planes // 2] + [later] * (num_levels - 1)
        self.tums = nn.CellList(
            [TUM(c, planes, num_scales, config.smooth, config.upsample) for c in widths]
        )
        channels = planes * num_levels
        sfam = SFAM(channels, num_scales, config.shared_sfam) if config.sfam else nn.Identity()
        self.sfam = sfam
        self.norm = nn.BatchNorm2d(channels, eps=1e-5, momentum=NORM_MOMENTUM)

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
