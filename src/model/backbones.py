# SPDX-License-Identifier: Apache-2.0
"""Backbones: VGG-16 with reduced fully connected layers, ResNet, and the squeeze-and-excite family.

Each takes images (B, 3, S, S) and returns the two maps that FFMv1 joins: a shallow one at 1/8 and a
deep one at 1/16 of the input side. `out_channels` gives their channels. Parameter names below
`layer1` to `layer4` are torchvision's (ResNet) and Cadene's (SE), so their weights convert by name.
"""

from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from mindspore import Tensor, nn, ops

# MindSpore's momentum is the weight of the running value, 1 - torch's: torch's 0.1 is 0.9 here.
BACKBONE_MOMENTUM = 0.9


def _conv(
    cin: int,
    cout: int,
    kernel: int,
    stride: int = 1,
    group: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """A convolution padded so that stride 1 keeps the size."""
    return nn.Conv2d(
        cin,
        cout,
        kernel,
        stride,
        pad_mode="pad",
        padding=dilation * (kernel // 2),
        dilation=dilation,
        group=group,
        has_bias=bias,
        weight_init="he_normal",
        bias_init="zeros",
    )


def _norm(channels: int, gamma: str = "ones") -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=BACKBONE_MOMENTUM, gamma_init=gamma)


def _last_norm(channels: int) -> nn.BatchNorm2d:
    """The BatchNorm that ends a residual branch: zero at first, so that a fresh block is its
    shortcut and gradients reach the image in bounds (Goyal et al., 2017, section 5.1).
    """
    return _norm(channels, "zeros")


class VGG16Reduced(nn.Cell):
    """VGG-16 whose fc6 and fc7 are a dilated 3x3 and a 1x1 convolution (official layers/backbones).

    The shallow map is conv4_3, the deep one conv7, both after ReLU.
    """

    out_channels = (512, 1024)
    STAGES: Tuple[Tuple[int, int], ...] = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

    def __init__(self) -> None:
        super().__init__()
        stages: List[nn.Cell] = []
        channels = 3
        for width, convs in self.STAGES:
            layers: List[nn.Cell] = []
            for _ in range(convs):
                layers += [_conv(channels, width, 3, bias=True), nn.ReLU()]
                channels = width
            stages.append(nn.SequentialCell(layers))
        self.stages = nn.CellList(stages)
        # "same" rounds up like the ceil mode of the original (300 pixels: 75 -> 38).
        self.pool = nn.MaxPool2d(2, 2, pad_mode="same")
        self.pool5 = nn.MaxPool2d(3, 1, pad_mode="same")
        self.conv6 = _conv(512, 1024, 3, dilation=6, bias=True)
        self.conv7 = _conv(1024, 1024, 1, bias=True)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        for i in range(3):  # a slice would be a list of its own, and rename the weights
            x = self.pool(self.stages[i](x))
        shallow = self.stages[3](x)
        x = self.pool5(self.stages[4](self.pool(shallow)))
        deep = self.relu(self.conv7(self.relu(self.conv6(x))))
        return shallow, deep

    def parts(self) -> List[nn.Cell]:
        """The five stages, in the order an image passes them."""
        return list(self.stages)


class SEModule(nn.Cell):
    """Channel attention of SENet (Hu et al., 2018), reduction 16."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = _conv(channels, channels // reduction, 1, bias=True)
        self.fc2 = _conv(channels // reduction, channels, 1, bias=True)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        pooled = ops.mean(x, (2, 3), True)
        return x * ops.sigmoid(self.fc2(self.relu(self.fc1(pooled))))


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(
        self, cin: int, planes: int, stride: int = 1, downsample: Optional[nn.Cell] = None
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(cin, planes, 3, stride), _norm(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3), _last_norm(planes)
        self.relu = nn.ReLU()
        self.downsample = downsample if downsample is not None else nn.Identity()

    def construct(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Cell):
    """1x1, 3x3, 1x1 convolutions with stride in the 3x3, and optional squeeze-and-excite.

    `widths` are the outputs of the first two convolutions.
    """

    expansion = 4

    def __init__(
        self,
        cin: int,
        planes: int,
        stride: int = 1,
        downsample: Optional[nn.Cell] = None,
        widths: Optional[Tuple[int, int]] = None,
        group: int = 1,
        stride_first: bool = False,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        first, second = widths or (planes, planes)
        cout = planes * self.expansion
        stride1, stride2 = (stride, 1) if stride_first else (1, stride)
        self.conv1, self.bn1 = _conv(cin, first, 1, stride1), _norm(first)
        self.conv2, self.bn2 = _conv(first, second, 3, stride2, group), _norm(second)
        self.conv3, self.bn3 = _conv(second, cout, 1), _last_norm(cout)
        self.se_module = SEModule(cout) if squeeze else nn.Identity()
        self.relu = nn.ReLU()
        self.downsample = downsample if downsample is not None else nn.Identity()

    def construct(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se_module(self.bn3(self.conv3(out)))
        return self.relu(out + self.downsample(x))


def _se_resnet_block(cin: int, planes: int, stride: int, downsample: Optional[nn.Cell]) -> nn.Cell:
    """SE-ResNet: the stride sits in the first convolution."""
    return Bottleneck(cin, planes, stride, downsample, stride_first=True, squeeze=True)


def _se_resnext_block(cin: int, planes: int, stride: int, downsample: Optional[nn.Cell]) -> nn.Cell:
    """SE-ResNeXt 32x4d: 32 groups of 4 channels at 64 planes."""
    return Bottleneck(
        cin, planes, stride, downsample, widths=(2 * planes,) * 2, group=32, squeeze=True
    )


def _senet154_block(cin: int, planes: int, stride: int, downsample: Optional[nn.Cell]) -> nn.Cell:
    """SENet-154: 64 groups, twice and four times the planes inside."""
    return Bottleneck(
        cin, planes, stride, downsample, widths=(2 * planes, 4 * planes), group=64, squeeze=True
    )


class ResNet(nn.Cell):
    """Residual stages; the maps after `layer2` and after the last one are returned.

    Of four stages the third keeps stride 1, so that `layer4` is at 1/16 (official code). Three
    stages, at their own strides, are there sooner: `layer3` is at 1/16 (Res3 and Res4 in the
    official README).

    Args:
        stem: cell from the image to 1/4 of its side.
        stem_channels: channels the stem gives.
        block: `(cin, planes, stride, downsample) -> cell`.
        depths: blocks in each of three or four stages.
        expansion: output channels of a block over its planes.
        downsample_kernel: side of the shortcut convolution after the first stage.
        planes: of the first stage; each stage after it has twice those of the one before.
    """

    def __init__(
        self,
        stem: nn.Cell,
        stem_channels: int,
        block: Callable[..., nn.Cell],
        depths: Sequence[int],
        expansion: int,
        downsample_kernel: int = 1,
        planes: int = 64,
    ) -> None:
        super().__init__()
        self.stem = stem
        stages: List[nn.Cell] = []
        channels = stem_channels
        strides = (1, 2, 1, 2) if len(depths) == 4 else (1, 2, 2)
        widths = []
        for i, stride in enumerate(strides):
            cout = planes * expansion
            shortcut = None
            if stride != 1 or channels != cout:
                kernel = downsample_kernel if i else 1
                shortcut = nn.SequentialCell(_conv(channels, cout, kernel, stride), _norm(cout))
            blocks = [block(channels, planes, stride, shortcut)]
            blocks += [block(cout, planes, 1, None) for _ in range(depths[i] - 1)]
            stages.append(nn.SequentialCell(blocks))
            widths.append(cout)
            channels = cout
            planes *= 2
        self.out_channels = (widths[1], widths[-1])
        self.layer1, self.layer2, self.layer3 = stages[:3]
        self.layer4 = stages[3] if len(stages) == 4 else nn.Identity()

    def construct(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        shallow = self.layer2(self.layer1(self.stem(x)))
        return shallow, self.layer4(self.layer3(shallow))

    def parts(self) -> List[nn.Cell]:
        """Stem and stages, in the order an image passes them."""
        return [self.stem, self.layer1, self.layer2, self.layer3, self.layer4]


class Stem(nn.Cell):
    """7x7 convolution of stride 2 and a 3x3 max-pool of stride 2.

    The pool of the SE family overlaps the far edge only (ceil mode), torchvision's both edges.
    """

    def __init__(self, pad_both_edges: bool, channels: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, channels, 7, 2), _norm(channels)
        self.relu = nn.ReLU()
        # Padding belongs to the pool: the gradient of ops.pad hangs on the CPU (2.8.0) from the
        # 34th step on.
        both = {"pad_mode": "pad", "padding": 1}
        self.pool = nn.MaxPool2d(3, 2, **(both if pad_both_edges else {"pad_mode": "same"}))

    def construct(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.bn1(self.conv1(x))))


class DeepStem(nn.Cell):
    """Three 3x3 convolutions instead of the 7x7 (SENet-154)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 3, 2), _norm(64)
        self.conv2, self.bn2 = _conv(64, 64, 3), _norm(64)
        self.conv3, self.bn3 = _conv(64, 128, 3), _norm(128)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, pad_mode="same")

    def construct(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.pool(self.relu(self.bn3(self.conv3(x))))


_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_BUILDERS: Mapping[str, Callable[[], nn.Cell]] = {
    "vgg16": VGG16Reduced,
    "resnet18": lambda: ResNet(Stem(True), 64, BasicBlock, _DEPTHS[18], 1),
    "resnet18_res4": lambda: ResNet(Stem(True), 64, BasicBlock, _DEPTHS[18][:3], 1),
    # Half the channels, a quarter of the work: trainable from scratch on a CPU.
    "resnet18_slim": lambda: ResNet(Stem(True, 32), 32, BasicBlock, _DEPTHS[18], 1, planes=32),
    "resnet34": lambda: ResNet(Stem(True), 64, BasicBlock, _DEPTHS[34], 1),
    "resnet50": lambda: ResNet(Stem(True), 64, Bottleneck, _DEPTHS[50], 4),
    "resnet101": lambda: ResNet(Stem(True), 64, Bottleneck, _DEPTHS[101], 4),
    "resnet152": lambda: ResNet(Stem(True), 64, Bottleneck, _DEPTHS[152], 4),
    "se_resnet50": lambda: ResNet(Stem(False), 64, _se_resnet_block, _DEPTHS[50], 4),
    "se_resnet101": lambda: ResNet(Stem(False), 64, _se_resnet_block, _DEPTHS[101], 4),
    "se_resnet152": lambda: ResNet(Stem(False), 64, _se_resnet_block, _DEPTHS[152], 4),
    "se_resnext50_32x4d": lambda: ResNet(Stem(False), 64, _se_resnext_block, _DEPTHS[50], 4),
    "se_resnext101_32x4d": lambda: ResNet(Stem(False), 64, _se_resnext_block, _DEPTHS[101], 4),
    "senet154": lambda: ResNet(DeepStem(), 128, _senet154_block, _DEPTHS[152], 4, 3),
}


def build_backbone(name: str) -> nn.Cell:
    """The backbone called `name` (a value of `model.backbone`).

    Raises:
        ValueError: unknown name.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown backbone {name!r}; choose from {', '.join(_BUILDERS)}")
    return _BUILDERS[name]()
