# SPDX-License-Identifier: Apache-2.0
"""What each named preset changes of the defaults in `src/config.py`, with a description."""

from typing import Any, Mapping, NamedTuple


class Preset(NamedTuple):
    about: str
    keys: Mapping[str, Any]  # as in a configuration file
    images_per_second: float = 0.0  # of training on one CPU core, about; 0: not measured


_TINY_MODEL = {
    "backbone": "resnet18",
    "input_size": 128,
    "sfam": True,
    "planes": 64,
    "num_levels": 2,
    "num_scales": 4,
}
_SMALL_MODEL = {
    **_TINY_MODEL,
    "backbone": "resnet18_slim",
    "input_size": 320,
    "num_levels": 3,
    "num_scales": 5,
}
# Four maps, of 32, 16, 8 and 6 cells, so that large objects have priors near their centre; a low
# IoU threshold gives each object about 20.
_PHOTOS_MODEL = {
    **_SMALL_MODEL,
    "backbone": "resnet18_res4",
    "input_size": 256,
    "num_scales": 4,
}
_PHOTOS_ANCHORS = {"scales": (0.08, 0.2, 0.4, 0.68, 1.0), "iou_threshold": 0.4}
_TINY_TRAIN = {
    "lr": 1e-3,
    "warmup": 0.4,
    "schedule": "cosine",
    "total_epochs": 8,
    "per_batch_size": 8,
    "num_workers": 1,
    "ema": 0.98,
}
_SMALL_TRAIN = {
    **_TINY_TRAIN,
    "per_batch_size": 4,
    "total_steps": 3000,
    "ema": 0.998,
    "save_steps": 500,  # an epoch may be longer than the run
}
_PHOTOS_TEST = {"score_threshold": 0.01, "voting_iou": 0.7}
_PHOTOS_TRAIN = {
    **_SMALL_TRAIN,
    "lr": 7e-4,
    "total_steps": 9000,
    "eval_times": 5,
    "freeze_stages": 2,
    "freeze_batch_norm": "backbone",
}
_FINETUNE_TRAIN = {**_SMALL_TRAIN, "total_steps": 2000, "eval_times": 5, "freeze_stages": 2}
_ADAM = {"type": "AdamW", "weight_decay": 0.01, "clip_grad_norm": 10.0}
# For short runs on a CPU: strong scale augmentation needs more steps than they have.
_SHORT = {
    "random_seed": 0,
    "data": {"max_expand_ratio": 1.5, "crop_prob": 0.3},
    "optimizer": _ADAM,
}
# 8,732 priors, 4 or 6 a cell.
_SSD300_ANCHORS = {
    "scales": (0.10, 0.20, 0.37, 0.54, 0.71, 0.88, 1.05),
    "steps": (8.0, 16.0, 32.0, 64.0, 100.0, 300.0),
    "ratios": ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
}


def _paper(backbone: str, size: int, neck: str = "mlfpn") -> Mapping[str, Any]:
    return {"model": {"backbone": backbone, "input_size": size, "neck": neck}}


PRESETS: Mapping[str, Preset] = {
    "m2det320_vgg16": Preset("M2Det of the paper, 33.5 AP there", _paper("vgg16", 320)),
    "m2det512_vgg16": Preset("M2Det of the paper, 37.6 AP there", _paper("vgg16", 512)),
    "m2det704_vgg16": Preset("the official code's, for larger images", _paper("vgg16", 704)),
    "m2det800_vgg16": Preset("M2Det of the paper, 41.0 AP there", _paper("vgg16", 800)),
    "m2det320_resnet101": Preset("M2Det of the paper, 34.3 AP there", _paper("resnet101", 320)),
    "m2det512_resnet101": Preset("M2Det of the paper, 38.8 AP there", _paper("resnet101", 512)),
    "m2det320_resnet50": Preset("less work than with ResNet-101", _paper("resnet50", 320)),
    "ssd320_vgg16": Preset("SSD at the size of M2Det", _paper("vgg16", 320, "ssd")),
    "deconv320_vgg16": Preset(
        "SSD with deconvolutions, compared with in the paper's Table 2",
        _paper("vgg16", 320, "deconv"),
    ),
    "ssd300_vgg16": Preset(
        "SSD300 with the priors of the PyTorch tutorials",
        {**_paper("vgg16", 300, "ssd"), "anchors": _SSD300_ANCHORS},
    ),
    "m2det_tiny": Preset(
        "to try things out, in minutes on a CPU",
        {**_SHORT, "model": _TINY_MODEL, "train": _TINY_TRAIN},
        12,
    ),
    "m2det_small": Preset(
        "small enough to train on a CPU, and the default there",
        {**_SHORT, "model": _SMALL_MODEL, "train": _SMALL_TRAIN},
        3.3,
    ),
    "m2det_photos": Preset(
        "photographs on a CPU, from a backbone trained on ImageNet",
        {
            **_SHORT,
            "model": _PHOTOS_MODEL,
            "anchors": _PHOTOS_ANCHORS,
            "train": _PHOTOS_TRAIN,
            "test": _PHOTOS_TEST,
            "optimizer": {**_ADAM, "weight_decay": 0.05, "backbone_lr": 0.1},
        },
        4.8,
    ),
    "m2det_finetune": Preset(
        "your own images on a CPU, with --finetune photos",
        {
            **_SHORT,
            "model": {**_PHOTOS_MODEL, "input_size": 320},
            "anchors": _PHOTOS_ANCHORS,
            "train": _FINETUNE_TRAIN,
            "test": _PHOTOS_TEST,
            "optimizer": {**_ADAM, "weight_decay": 0.05, "backbone_lr": 0.3},
        },
        2.6,
    ),
}

# `test=NAME` on the command line sets these: the form of the official code, and that of the paper's
# section 4.1.
_OFFICIAL_TEST: Mapping[str, Any] = {
    "soft_nms": True,
    "soft_nms_method": "linear",
    "class_agnostic": False,
    "iou": 0.45,
    "score_threshold": 0.1,
    "keep_per_class": 50,
    "topk": 0,
    "voting_iou": 0.0,
}
TEST_FORMS: Mapping[str, Mapping[str, Any]] = {
    "official": _OFFICIAL_TEST,
    "paper": {**_OFFICIAL_TEST, "score_threshold": 0.05},
}
