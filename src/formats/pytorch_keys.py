# SPDX-License-Identifier: Apache-2.0
"""Names of M2Det's parameters here and in PyTorch checkpoints. Standard library only.

Four kinds of checkpoint are told apart by their keys: reduced VGG-16 (the numbered layers of
ssd.pytorch's `vgg16_reducedfc.pth`), torchvision's ResNets, the squeeze-and-excite family of
Cadene's pretrained-models, and whole M2Det models of the official code, which hold one of those
under `base.`. "Shapes" below are {key: dimensions} of a checkpoint.
"""

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence, Tuple

from ..runtime.errors import M2DetError

Shapes = Mapping[str, Tuple[int, ...]]

_RESNETS: Dict[Tuple[str, Tuple[int, ...]], str] = {
    ("slim", (2, 2, 2, 2)): "resnet18_slim",
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (2, 2, 2, 0)): "resnet18_res4",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
    ("se_resnet", (3, 4, 6, 3)): "se_resnet50",
    ("se_resnet", (3, 4, 23, 3)): "se_resnet101",
    ("se_resnet", (3, 8, 36, 3)): "se_resnet152",
    ("se_resnext", (3, 4, 6, 3)): "se_resnext50_32x4d",
    ("se_resnext", (3, 4, 23, 3)): "se_resnext101_32x4d",
    ("senet154", (3, 8, 36, 3)): "senet154",
}
# Where each stage of VGG-16 starts in the numbered list of layers; ReLU and pooling count too.
_VGG_STAGE_STARTS = (0, 5, 10, 17, 24)
# {(block, convolution), both from 1: its number in that list}
VGG_CONVOLUTIONS = {
    (block, k + 1): start + 2 * k
    for block, (start, count) in enumerate(zip(_VGG_STAGE_STARTS, (2, 2, 3, 3, 3)), 1)
    for k in range(count)
}
_VGG_LAST = {"conv6": 31, "conv7": 33}
_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_NECK_PARTS = (
    ("neck.fuse.reduce_shallow.", "reduce."),
    ("neck.fuse.reduce_deep.", "up_reduce."),
    ("neck.norm.", "Norm."),
    ("head.", ""),
)
_TUM_PARTS = {"encoder": "layers", "top": "toplayer.0", "laterals": "latlayer", "smooth": "smooth"}
_UNUSED = (
    (re.compile(r"(^|\.)num_batches_tracked$"), "counter of training steps, used by nothing here"),
    (re.compile(r"^(base\.)?(fc|last_linear)\."), "ImageNet classifier, not part of a detector"),
)


class ConversionError(M2DetError, ValueError):
    """A checkpoint that cannot be converted; the message is one line with expected and found."""


@dataclass(frozen=True)
class Layout:
    """What decides the names in a checkpoint; the fields are those of `ModelConfig`.

    `num_scales` is the number of scales the network has, after those the input size leaves.
    """

    backbone: str
    num_levels: int = 8
    num_scales: int = 6
    shared_squeeze: bool = True
    shared_sfam: bool = True
    base_feature: str = "every"

    def official_keys(self, name: str) -> List[str]:
        """Keys of the official code for the parameter `name`; several where it repeats a module.

        Raises:
            KeyError: `name` is no parameter of an M2Det network.
        """
        path, _, last = name.rpartition(".")
        name = f"{path}.{_BATCH_NORM.get(last, last)}"
        for ours, theirs in _NECK_PARTS:
            if name.startswith(ours):
                return [theirs + name[len(ours) :]]
        part, _, rest = name.partition(".")
        if part == "backbone":
            return [f"base.{self._backbone_key(rest)}"]
        if rest.startswith("tums."):
            return [_tum_key(rest)]
        if rest.startswith("squeeze."):
            _, index, tail = rest.split(".", 2)
            uses = self.num_levels if self.base_feature == "every" else 1
            copies = range(uses) if self.shared_squeeze else [int(index)]
            return [f"leach.{i}.{tail}" for i in copies]
        if rest.startswith("sfam."):
            _, layer, index, tail = rest.split(".", 3)
            copies = range(self.num_scales) if self.shared_sfam else [int(index)]
            return [f"sfam_module.{layer}.{i}.{tail}" for i in copies]
        raise KeyError(f"{name} has no counterpart in the official code")

    def _backbone_key(self, rest: str) -> str:
        part, _, tail = rest.partition(".")
        if part in _VGG_LAST:
            return f"{_VGG_LAST[part]}.{tail}"
        if part == "stages":
            stage, layer, tail = tail.split(".")
            return f"{_VGG_STAGE_STARTS[int(stage)] + int(layer)}.{tail}"
        if part == "stem":
            return f"layer0.{tail}" if self.backbone.startswith("se") else tail
        return rest


def _tum_key(rest: str) -> str:
    _, index, part, tail = rest.split(".", 3)
    return f"unet{int(index) + 1}.{_TUM_PARTS[part]}.{tail}"


def reason_unused(key: str) -> str:
    """Why a key of a checkpoint is not needed, or "" when it is not known to be needless."""
    return next((reason for pattern, reason in _UNUSED if pattern.search(key)), "")


def strip_module(keys: Sequence[str]) -> Dict[str, str]:
    """{key: key without the `module.` that torch's DataParallel puts in front}.

    Raises:
        ConversionError: two keys become one.
    """
    plain = {key: re.sub(r"^(module\.)+", "", key) for key in keys}
    if len(set(plain.values())) < len(plain):
        seen = list(plain.values())
        twice = next(key for key in seen if seen.count(key) > 1)
        raise ConversionError(f"{twice} is there twice, with and without a leading module.")
    return plain


def is_detector(shapes: Shapes) -> bool:
    """Whether the keys are those of a whole M2Det model rather than of a backbone."""
    return any(key.startswith(("unet1.", "leach.", "base.")) for key in shapes)


def find_backbone(shapes: Shapes) -> str:
    """The backbone (a value of `model.backbone`) that keys without `base.` belong to.

    Raises:
        ConversionError: none that is known.
    """
    if "28.weight" in shapes and "0.weight" in shapes:
        return "vgg16"
    if "features.0.weight" in shapes:
        raise ConversionError(
            "expected a VGG-16 with fc6 and fc7 as convolutions (vgg16_reducedfc.pth of"
            " ssd.pytorch), found torchvision's VGG classifier"
        )
    family = _find_family(shapes)
    blocks = tuple(_count(shapes, f"layer{stage}") for stage in range(1, 5))
    if (family, blocks) not in _RESNETS:
        raise ConversionError(
            "expected a reduced VGG-16, a ResNet, an SE network or a whole M2Det model, found"
            f" {_describe(shapes, family, blocks)}"
        )
    return _RESNETS[family, blocks]


def _find_family(shapes: Shapes) -> str:
    if not any(".se_module." in key for key in shapes):
        if "layer1.0.conv3.weight" in shapes:
            return "bottleneck"
        return "slim" if shapes.get("layer1.0.conv1.weight", (0,))[0] == 32 else "basic"
    if "layer0.conv3.weight" in shapes:
        return "senet154"
    grouped = shapes.get("layer1.0.conv2.weight", (0, 0))[1] == 4
    return "se_resnext" if grouped else "se_resnet"


def _describe(shapes: Shapes, family: str, blocks: Tuple[int, ...]) -> str:
    if any(blocks):
        return f"residual stages of {blocks} {family} blocks"
    first = ", ".join(list(shapes)[:3])
    return f"{len(shapes)} keys like {first}"


def _count(shapes: Shapes, prefix: str) -> int:
    """How many indices follow `prefix.` in the keys."""
    start = len(prefix) + 1
    found = {key[start:].split(".")[0] for key in shapes if key.startswith(prefix + ".")}
    return len(found)


def find_model(shapes: Shapes) -> Dict[str, object]:
    """Fields of `ModelConfig` that the shapes of an official M2Det checkpoint tell.

    `input_size`, `upsample` and the two `shared_` fields leave no trace and are not among them.

    Raises:
        ConversionError: a part is missing, or the parts do not fit together.
    """
    backbone = find_backbone({k[5:]: v for k, v in shapes.items() if k.startswith("base.")})
    levels = len({key.split(".")[0] for key in shapes if re.match(r"unet\d+\.", key)})
    scales = _count(shapes, "loc")
    wanted = ["unet1.layers.0.conv.weight", "loc.0.weight", "conf.0.weight"]
    wanted += [f"unet{i + 1}.layers.0.conv.weight" for i in range(1, levels)]
    absent = [key for key in wanted if len(shapes.get(key, ())) != 4]
    if absent:
        raise ConversionError(f"expected a whole M2Det model, found none of its {absent[0]}")
    planes = shapes["unet1.layers.0.conv.weight"][0]
    priors, odd = divmod(shapes["loc.0.weight"][0], 4)
    classes, rest = divmod(shapes["conf.0.weight"][0], max(priors, 1))
    if odd or rest:
        raise ConversionError(
            "expected 4 outputs of loc.0 a prior and as many of conf.0 a prior as there are"
            f" classes, found {shapes['loc.0.weight'][0]} and {shapes['conf.0.weight'][0]}"
        )
    fused = levels == 1 or shapes["unet2.layers.0.conv.weight"][1] != planes
    return {
        "neck": "mlfpn",
        "backbone": backbone,
        "num_classes": classes,
        "planes": planes,
        "num_levels": levels,
        "num_scales": scales,
        "smooth": any(key.startswith("unet1.smooth.") for key in shapes),
        "sfam": any(key.startswith("sfam_module.") for key in shapes),
        "base_feature": "every" if fused else "first",
    }
