# SPDX-License-Identifier: Apache-2.0
"""M2Det: backbone -> multi-level feature pyramid (MLFPN) -> prediction head.

Zhao et al., "M2Det: A Single-Shot Object Detector based on Multi-Level Feature Pyramid Network",
AAAI 2019, section 3; where paper and official code differ, an argument chooses and the default is
the code's form.

Shape letters: B batch, S input side, P priors, C classes with the background first.
"""

from typing import Sequence, Tuple

from mindspore import Tensor, nn

from ..config import Config, ModelConfig
from ..priors import map_sizes, prior_shapes_per_cell
from .backbones import build_backbone
from .head import MultiBoxHead
from .mlfpn import MLFPN
from .ssd import DeconvNeck, SSDNeck


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
    return MLFPN(in_channels, model, len(sizes))
