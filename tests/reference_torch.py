# SPDX-License-Identifier: Apache-2.0
"""M2Det in PyTorch, for tests only: the official state-dict names and the official arithmetic.

Anyone can repeat the forward, loss and training comparisons with it in one process. It is checked
itself against values computed with the official code (`tests/model/test_reference.py`).

Letters: B batch, P priors, C classes with background 0, G ground truths.
"""

import math

import numpy as np
import torch
from reference_backbones import ResNet, Vgg16, conv
from torch import nn
from torch.nn import functional as F


class BasicConv(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, padding=None):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.01)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class TUM(nn.Module):
    """Thinned U-shape module; returns K maps, smallest first."""

    def __init__(self, inputs, planes, num_scales, smooth, upsample):
        super().__init__()
        self.layers = nn.Sequential(BasicConv(inputs, planes, 3, 2))
        for _ in range(num_scales - 3):
            self.layers.append(BasicConv(planes, planes, 3, 2))
        self.layers.append(BasicConv(planes, planes, 3, 1, padding=0))
        self.toplayer = nn.Sequential(BasicConv(planes, planes, 1))
        widths = [planes] * (num_scales - 2) + [inputs]
        self.latlayer = nn.Sequential(*(BasicConv(width, planes, 3) for width in widths))
        if smooth:
            self.smooth = nn.Sequential(*(BasicConv(planes, planes, 1) for _ in widths))
        self.upsample = {"mode": upsample}
        if upsample != "nearest":
            self.upsample["align_corners"] = False

    def forward(self, x):
        down = [x]
        for layer in self.layers:
            down.append(layer(down[-1]))
        up = [self.toplayer(down.pop())]
        for lateral, skip in zip(self.latlayer, reversed(down)):
            up.append(F.interpolate(up[-1], size=skip.shape[2:], **self.upsample) + lateral(skip))
        if hasattr(self, "smooth"):
            up[1:] = [smooth(x) for smooth, x in zip(self.smooth, up[1:])]
        return up


class SFAM(nn.Module):
    def __init__(self, channels, num_scales, shared):
        super().__init__()
        self.fc1 = repeat(lambda: conv(channels, channels // 16, 1, bias=True), num_scales, shared)
        self.fc2 = repeat(lambda: conv(channels // 16, channels, 1, bias=True), num_scales, shared)

    def forward(self, maps):
        made = []
        for x, fc1, fc2 in zip(maps, self.fc1, self.fc2):
            made.append(x * torch.sigmoid(fc2(F.relu(fc1(x.mean((2, 3), keepdim=True))))))
        return made


def repeat(make, count, shared):
    """`count` modules under their own names; one and the same module when `shared`."""
    return nn.ModuleList([make()] * count if shared else [make() for _ in range(count)])


def fitting_scales(input_size, num_scales):
    """`num_scales`, or as many as leave the last, unpadded 3x3 convolution something to work on."""

    def last_input(scales):
        return math.ceil(input_size / 8 / 2 ** (scales - 2))

    while last_input(num_scales) < 3:
        num_scales -= 1
    return num_scales


class M2Det(nn.Module):
    """images (B, 3, S, S) -> loc (B, P, 4), logits (B, P, C). Defaults are the official form."""

    def __init__(
        self,
        backbone="vgg16",
        input_size=320,
        num_classes=81,
        planes=256,
        num_levels=8,
        num_scales=6,
        smooth=True,
        sfam=False,
        shared_squeeze=True,
        shared_sfam=True,
        upsample="nearest",
        base_feature="every",
    ):
        super().__init__()
        num_scales = fitting_scales(input_size, num_scales)
        self.num_classes, self.num_levels = num_classes, num_levels
        self.fuse_all = base_feature == "every"
        squeezed, channels = planes // 2, planes * num_levels
        for i in range(num_levels):
            inputs = squeezed if i == 0 else planes + squeezed * self.fuse_all
            setattr(self, f"unet{i + 1}", TUM(inputs, planes, num_scales, smooth, upsample))
        self.base = Vgg16() if backbone == "vgg16" else ResNet(backbone)
        self.reduce = BasicConv(self.base.channels[0], 256, 3)
        self.up_reduce = BasicConv(self.base.channels[1], 512, 1)
        squeezes = num_levels if self.fuse_all else 1
        self.leach = repeat(lambda: BasicConv(768, squeezed, 1), squeezes, shared_squeeze)
        self.Norm = nn.BatchNorm2d(channels)
        self.loc = repeat(lambda: conv(channels, 6 * 4, 3, bias=True), num_scales, False)
        self.conf = repeat(lambda: conv(channels, 6 * num_classes, 3, bias=True), num_scales, False)
        if sfam:
            self.sfam_module = SFAM(channels, num_scales, shared_sfam)

    def forward(self, images):
        shallow, deep = self.base(images)
        deep = F.interpolate(self.up_reduce(deep), scale_factor=2, mode="nearest")
        base = torch.cat((self.reduce(shallow), deep), 1)
        levels = [self.unet1(self.leach[0](base))]
        for i in range(1, self.num_levels):
            x = levels[-1][-1]
            if self.fuse_all:
                x = torch.cat((self.leach[i](base), x), 1)
            levels.append(getattr(self, f"unet{i + 1}")(x))
        maps = [torch.cat(same_scale, 1) for same_scale in zip(*levels)][::-1]  # largest first
        if hasattr(self, "sfam_module"):
            maps = self.sfam_module(maps)
        maps[0] = self.Norm(maps[0])
        return self._heads(self.loc, maps, 4), self._heads(self.conf, maps, self.num_classes)

    @staticmethod
    def _heads(heads, maps, width):
        rows = [head(x).permute(0, 2, 3, 1).flatten(1) for head, x in zip(heads, maps)]
        rows = torch.cat(rows, 1)
        return rows.reshape(len(rows), -1, width)


def randomise(net, seed=0):
    """Draw weights and statistics that keep activations near one; returns `net`."""
    rng = np.random.default_rng(seed)
    for name, values in [*net.named_parameters(), *net.named_buffers()]:
        shape, last = tuple(values.shape), name.rsplit(".", 1)[-1]
        if last == "num_batches_tracked":
            continue
        if last == "running_var" or (len(shape) == 1 and last == "weight"):
            residual_end = name.startswith("base") and (".bn3.w" in name or ".bn2.w" in name)
            drawn = rng.uniform(0.8, 1.2, shape) * (0.3 if residual_end else 1)
        elif len(shape) == 1:
            drawn = rng.normal(0, 0.05, shape)
        else:
            gain = 1 / 64 if shape[1] == 3 else 0.45 if name.startswith("unet") else 1.0
            drawn = rng.normal(0, gain * math.sqrt(2 / np.prod(shape[1:])), shape)
        values.data.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return net


def skeleton(**options):
    """The network without memory behind its parameters."""
    with torch.device("meta"):
        return M2Det(**options).eval()


def with_weights(state, **options):
    """The network, in evaluation mode, on the memory of an official state dict of arrays."""
    net = skeleton(**options)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, assign=True)
    return net


def multibox_loss(loc, logits, loc_targets, labels, neg_pos_ratio=3):
    """SSD's loss: smooth L1 over positives; cross entropy over positives and the hardest negatives.

    loc and loc_targets (B, P, 4), logits (B, P, C), labels (B, P). Both results are over the number
    of positives.
    """
    positive = labels > 0
    count = positive.sum().clamp(min=1)
    loss_l = F.smooth_l1_loss(loc[positive], loc_targets[positive], reduction="sum")
    entropy = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    hardness = entropy.detach().masked_fill(positive, 0)
    rank = hardness.argsort(1, descending=True).argsort(1)
    quota = (neg_pos_ratio * positive.sum(1, keepdim=True)).clamp(max=labels.shape[1] - 1)
    chosen = positive | (rank < quota)
    return loss_l / count, entropy[chosen].sum() / count


def encode_targets(boxes_xyxy, box_labels, priors, iou_threshold=0.5):
    """Targets of one image: encoded boxes (P, 4) and labels (P,), as SSD assigns them.

    boxes_xyxy (G, 4) and priors (P, 4; cxcywh) in [0, 1]. A box keeps its best prior, a later box
    before an earlier one; every other prior above the threshold goes to the box it overlaps most.
    """
    low, high = priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2
    sides = np.minimum(boxes_xyxy[:, None, 2:], high) - np.maximum(boxes_xyxy[:, None, :2], low)
    shared = sides.clip(0).prod(2)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
    iou = shared / (areas[:, None] + (high - low).prod(1) - shared)
    owner, best = iou.argmax(0), iou.max(0)
    for box, prior in enumerate(iou.argmax(1)):
        owner[prior], best[prior] = box, 2
    matched = boxes_xyxy[owner]
    centre = ((matched[:, :2] + matched[:, 2:]) / 2 - priors[:, :2]) / (0.1 * priors[:, 2:])
    size = np.log((matched[:, 2:] - matched[:, :2]) / priors[:, 2:]) / 0.2
    labels = np.where(best < iou_threshold, 0, box_labels[owner])
    return np.concatenate((centre, size), 1).astype(np.float32), labels.astype(np.int64)


def train_steps(net, images, loc_targets, labels, steps, lr=1e-3, momentum=0.9, clip_norm=4.0):
    """SGD with clipping on one batch; per step (loss_l, loss_c, gradient norm before clipping)."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss_l, loss_c = multibox_loss(*net(images), loc_targets, labels)
        (loss_l + loss_c).backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
        optimizer.step()
        seen.append((loss_l.item(), loss_c.item(), float(norm)))
    return seen
