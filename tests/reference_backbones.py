# SPDX-License-Identifier: Apache-2.0
"""The backbones of `reference_torch.py`: VGG-16-reduced, ResNet, SE family; usual parameter names.

Each takes images (B, 3, S, S) and returns a map at 1/8 and one at 1/16 of their side; `channels`
are their widths.
"""

from torch import nn
from torch.nn import functional as F

VARIANTS = {
    "resnet18_slim": ("slim", (2, 2, 2, 2)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet18_res4": ("basic", (2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
    "se_resnet50": ("se_resnet", (3, 4, 6, 3)),
    "se_resnet101": ("se_resnet", (3, 4, 23, 3)),
    "se_resnet152": ("se_resnet", (3, 8, 36, 3)),
    "se_resnext50_32x4d": ("se_resnext", (3, 4, 6, 3)),
    "se_resnext101_32x4d": ("se_resnext", (3, 4, 23, 3)),
    "senet154": ("senet154", (3, 8, 36, 3)),
}


def conv(inputs, outputs, kernel, stride=1, groups=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def chain(**modules):
    made = nn.Sequential()
    for name, module in modules.items():
        made.add_module(name, module)
    return made


class Vgg16(nn.ModuleList):
    """VGG-16 with fc6 and fc7 as convolutions; outputs conv4_3 (1/8) and fc7 (1/16)."""

    channels = (512, 1024)

    def __init__(self):
        layers, inputs = [], 3
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [conv(inputs, width, 3, bias=True), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        layers[-1] = nn.MaxPool2d(3, 1, 1)  # pool5 keeps the size
        fc6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        super().__init__([*layers, fc6, nn.ReLU(), conv(1024, 1024, 1, bias=True), nn.ReLU()])

    def forward(self, x):
        outputs = []
        for layer in self:
            x = layer(x)
            outputs.append(x)
        return outputs[22], outputs[34]


class SEModule(nn.Module):
    def __init__(self, channels, reduction=16):
        super().__init__()
        self.fc1 = conv(channels, channels // reduction, 1, bias=True)
        self.fc2 = conv(channels // reduction, channels, 1, bias=True)

    def forward(self, x):
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.fc2(F.relu(self.fc1(pooled))).sigmoid()


class Residual(nn.Module):
    """One residual block. `plan` lists its convolutions as (outputs, kernel, stride, groups)."""

    def __init__(self, inputs, plan, stride, shortcut_kernel, attention):
        super().__init__()
        outputs, self.count, width = plan[-1][0], len(plan), inputs
        for i, (planes, kernel, step, groups) in enumerate(plan, 1):
            setattr(self, f"conv{i}", conv(width, planes, kernel, step, groups))
            setattr(self, f"bn{i}", nn.BatchNorm2d(planes))
            width = planes
        self.se_module = SEModule(outputs) if attention else nn.Identity()
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = conv(inputs, outputs, shortcut_kernel, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(self.se_module(y) + self.downsample(x))


def block_plan(family, planes, stride):
    """The convolutions of a residual block: (outputs, kernel, stride, groups) each."""
    if family in ("basic", "slim"):
        return [(planes, 3, stride, 1), (planes, 3, 1, 1)]
    if family == "bottleneck":
        return [(planes, 1, 1, 1), (planes, 3, stride, 1), (planes * 4, 1, 1, 1)]
    if family == "se_resnet":  # the Caffe form: the stride is in the first 1x1
        return [(planes, 1, stride, 1), (planes, 3, 1, 1), (planes * 4, 1, 1, 1)]
    if family == "se_resnext":  # 32 groups of planes / 16 channels
        return [(planes * 2, 1, 1, 1), (planes * 2, 3, stride, 32), (planes * 4, 1, 1, 1)]
    return [(planes * 2, 1, 1, 1), (planes * 4, 3, stride, 64), (planes * 4, 1, 1, 1)]  # senet154


class ResNet(nn.Module):
    """ResNet and SE family; outputs layer2 (1/8) and the last stage (1/16).

    Of four stages the third has stride 1.
    """

    def __init__(self, name):
        super().__init__()
        family, blocks = VARIANTS[name]
        self.attention = family.startswith("se")
        planes = 32 if family == "slim" else 64
        inputs = self._stem(family, planes)
        widths = []
        for i, stride in enumerate((1, 2, 1, 2) if len(blocks) == 4 else (1, 2, 2)):
            shortcut = 3 if family == "senet154" and i > 0 else 1
            stage = nn.Sequential()
            for j in range(blocks[i]):
                step = stride if j == 0 else 1
                plan = block_plan(family, planes << i, step)
                stage.append(Residual(inputs, plan, step, shortcut, self.attention))
                inputs = plan[-1][0]
            setattr(self, f"layer{i + 1}", stage)
            widths.append(inputs)
        self.channels = (widths[1], widths[-1])
        # The ImageNet classifier is carried in official checkpoints, unused.
        setattr(self, "last_linear" if self.attention else "fc", nn.Linear(inputs, 1000))

    def _stem(self, family, planes):
        if not self.attention:
            self.conv1, self.bn1 = conv(3, planes, 7, 2), nn.BatchNorm2d(planes)
            return planes
        if family == "senet154":
            self.layer0 = chain(
                conv1=conv(3, 64, 3, 2), bn1=nn.BatchNorm2d(64), relu1=nn.ReLU(),
                conv2=conv(64, 64, 3), bn2=nn.BatchNorm2d(64), relu2=nn.ReLU(),
                conv3=conv(64, 128, 3), bn3=nn.BatchNorm2d(128), relu3=nn.ReLU(),
            )  # fmt: skip
            return 128
        self.layer0 = chain(conv1=conv(3, 64, 7, 2), bn1=nn.BatchNorm2d(64), relu1=nn.ReLU())
        return 64

    def forward(self, x):
        if self.attention:
            x = F.max_pool2d(self.layer0(x), 3, 2, ceil_mode=True)
        else:
            x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        shallow = self.layer2(self.layer1(x))
        deep = self.layer3(shallow)
        return shallow, self.layer4(deep) if hasattr(self, "layer4") else deep
