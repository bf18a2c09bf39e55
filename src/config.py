# SPDX-License-Identifier: Apache-2.0
"""Every parameter: frozen dataclasses, named presets and typed `section.key=value` overrides.

Only the standard library is imported here. Section and field names follow the MindSpore model zoo.
"""

import dataclasses
import json
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Optional, Sequence, Tuple

from .runtime.typed_config import ConfigError, at_least, between, from_dict, override_fields

BACKBONES = (
    "vgg16",
    "resnet18_slim",
    "resnet18_res4",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"se_resnet{depth}" for depth in (50, 101, 152)),
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
    "senet154",
)


@dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the official code's form; the paper's is one option away."""

    backbone: str = field(default="vgg16", metadata={"choices": BACKBONES})
    input_size: int = at_least(64, 512)  # pixels; images are squashed to a square of this side
    num_classes: int = at_least(2, 81)  # with background; training counts it in the data
    planes: int = at_least(16, 256)  # channels of each TUM output
    num_levels: int = at_least(1, 8)  # TUMs
    num_scales: int = at_least(2, 6)  # maps of each TUM; fewer where the input is too small
    smooth: bool = True  # 1x1 convolution after each TUM output
    sfam: bool = False  # scale-wise attention over the levels
    shared_squeeze: bool = True  # FFMv2: one squeeze for all levels, or one each (paper)
    shared_sfam: bool = True  # one pair of SFAM layers for all scales, or one each (paper)
    upsample: str = field(default="nearest", metadata={"choices": ("nearest", "bilinear")})
    base_feature: str = field(default="every", metadata={"choices": ("every", "first")})
    neck: str = field(default="mlfpn", metadata={"choices": ("mlfpn", "ssd", "deconv")})


@dataclass(frozen=True)
class AnchorConfig:
    """Prior boxes. Empty: the table of the input size, or a derived one (`src/priors.py`)."""

    scales: Tuple[float, ...] = ()  # one per feature map and one more, as a share of the input side
    steps: Tuple[float, ...] = ()  # pixels between two cells of each feature map
    ratios: Tuple[Tuple[float, ...], ...] = ((2.0, 3.0),)  # beside 1; a row per map or one for all
    iou_threshold: float = 0.5  # a prior above it is matched to its best ground truth


@dataclass(frozen=True)
class TrainConfig:
    lr: float = at_least(0, 7.5e-4)  # per device when scale_lr is on
    scale_lr: bool = True  # multiply the learning rate by the number of ranks
    warmup: float = at_least(0, 5.0)  # epochs
    per_batch_size: int = at_least(1, 7)
    gamma: Tuple[float, ...] = (0.5, 0.2, 0.1, 0.1)  # factor applied at each of lr_epochs
    lr_epochs: Tuple[int, ...] = (90, 110, 130, 150)
    total_epochs: int = at_least(1, 160)
    total_steps: int = at_least(0, 0)  # length of the run whatever the data; 0: total_epochs
    num_workers: int = at_least(1, 3)
    schedule: str = field(default="step", metadata={"choices": ("step", "cosine")})
    empty_image_negatives: int = at_least(0, 3)  # mined from an image without boxes; official 0
    save_epochs: int = at_least(1, 1)  # a checkpoint every so many epochs, and one at the end
    save_steps: int = at_least(0, 0)  # and one every so many steps; 0: none
    keep_checkpoints: int = at_least(1, 5)
    max_bad_steps: int = at_least(1, 20)  # steps running without a finite gradient that end a run
    accumulate: int = at_least(1, 1)  # batches whose gradients make one step
    ema: float = between(0, 0.999999, 0.0)  # share of the old average that stays; 0: no average
    freeze_backbone: bool = False  # neither its weights nor its BatchNorm change
    freeze_stages: int = at_least(0, 0)  # the same of its first parts; ResNet: stem, layer1, ...
    # BatchNorm that keeps its statistics, gamma and beta
    freeze_batch_norm: str = field(
        default="none", metadata={"choices": ("none", "backbone", "all")}
    )
    sync_batch_norm: bool = False  # statistics of the batch over all ranks
    # O0: float32; O2: float16 but for BatchNorm; O3: float16 altogether
    amp_level: str = field(default="O0", metadata={"choices": ("O0", "O2", "O3")})
    eval_epochs: int = at_least(0, 0)  # score `eval_split` every so many epochs
    eval_times: int = at_least(0, 0)  # or about so often in the whole run, if the data have it
    eval_split: str = "val"
    early_stop: int = at_least(0, 0)  # scorings without a better AP that end a run; 0: never


@dataclass(frozen=True)
class DataConfig:
    strict: bool = False  # an unreadable image ends the run instead of being reported and replaced
    allow_links: bool = False  # follow links that lead out of the data set
    augment: bool = True  # false: images are only resized, and no box is too small to train on
    random_interpolation: bool = False  # one of five for each image, as in the official code
    most_expand: float = at_least(1, 4.0)  # sides of the image the canvas around it may have
    crop_share: float = between(0, 1, 1.0)  # of the images that the random crop is tried on
    vertical_flip: bool = False  # for images without up and down: from microscopes, from the air
    mosaic: float = 0.0  # probability of a training image made of four
    mixup: float = 0.0  # probability of a training image blended with another
    multi_scale: Tuple[int, ...] = ()  # input sizes to take turns; each is compiled once
    mean_bgr: Tuple[float, ...] = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class TestConfig:
    __test__ = False  # not a pytest class

    topk: int = at_least(0, 0)  # boxes kept per image; 0 keeps all
    iou: float = 0.45  # lands in the sigma of linear soft-NMS, as in the official code
    soft_nms: bool = True
    soft_nms_method: str = field(default="linear", metadata={"choices": ("linear", "gaussian")})
    sigma: float = at_least(0.001, 0.5)  # of gaussian soft-NMS
    class_agnostic: bool = False  # boxes of different classes suppress each other
    score_threshold: float = 0.1
    keep_per_class: int = at_least(1, 50)
    batch_size: int = at_least(1, 1)
    multi_scale: Tuple[int, ...] = ()  # input sizes whose boxes are put together; empty: one
    flip: bool = False  # look at the mirrored image as well
    merge: str = field(default="wbf", metadata={"choices": ("wbf", "soft_nms")})
    tile_px: int = at_least(0, 0)  # side of the tiles of large images; 0: no tiles
    tile_overlap: float = at_least(0, 0.25)  # of two tiles, as a share of the side


# `test=NAME` on the command line sets these: the form of the official code, and that of the paper's
# section 4.1.
_OFFICIAL_TEST: Mapping[str, Any] = {
    **{"soft_nms": True, "soft_nms_method": "linear", "class_agnostic": False, "iou": 0.45},
    **{"score_threshold": 0.1, "keep_per_class": 50, "topk": 0},
}
TEST_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "official": _OFFICIAL_TEST,
    "paper": {**_OFFICIAL_TEST, "score_threshold": 0.05},
}


@dataclass(frozen=True)
class OptimizerConfig:
    type: str = field(default="SGD", metadata={"choices": ("SGD", "AdamW")})
    momentum: float = between(0, 0.999999, 0.9)  # of AdamW: its first beta
    beta2: float = between(0, 0.999999, 0.999)  # of AdamW
    weight_decay: float = at_least(0, 5e-5)
    decay_bias_and_norm: bool = False  # weight decay on biases and BatchNorm, too
    loss_scale: float = at_least(1e-6, 1.0)  # with float16: where it starts, 65536 if this is 1
    dampening: float = between(0, 1, 0.0)
    backbone_lr: float = at_least(0, 1.0)  # factor on the learning rate of the backbone
    clip_grad_norm: float = at_least(0, 4.0)  # global norm over all parameters; 0: no clipping


@dataclass(frozen=True)
class Config:
    model: ModelConfig = ModelConfig()
    anchors: AnchorConfig = AnchorConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    test: TestConfig = TestConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    random_seed: Optional[int] = None  # None: no shuffling, as in the model zoo
    experiment_tag: str = "m2det"


def _preset(tag: str, random_seed: Optional[int] = None, **sections: Mapping[str, Any]) -> Config:
    base = Config(experiment_tag=tag, random_seed=random_seed)
    changed = {name: replace(getattr(base, name), **keys) for name, keys in sections.items()}
    return replace(base, **changed)


_TINY_MODEL = {
    "backbone": "resnet18",
    "input_size": 128,
    "planes": 64,
    "num_levels": 2,
    "num_scales": 4,
    "sfam": True,
}
_SMALL_MODEL = {
    **_TINY_MODEL,
    **{"backbone": "resnet18_slim", "input_size": 320, "num_levels": 3, "num_scales": 5},
}
_TINY_TRAIN = {
    "lr": 1e-3,
    "warmup": 0.4,
    "per_batch_size": 8,
    "schedule": "cosine",
    "total_epochs": 8,
    "num_workers": 1,
    "ema": 0.98,
}
_SMALL_TRAIN = {
    **_TINY_TRAIN,
    **{"per_batch_size": 4, "total_steps": 3000, "ema": 0.998},
    **{"eval_times": 10, "keep_checkpoints": 1},
}
# Photographs on a CPU, from a backbone that knows ImageNet. Four maps, of 32, 16, 8 and 6 cells, so
# that large objects have priors near their centre; a low threshold gives each object about 20.
_PHOTOS_MODEL = {
    **_SMALL_MODEL,
    **{"backbone": "resnet18_res4", "input_size": 256, "num_scales": 4},
}
_PHOTOS_ANCHORS = {"scales": (0.08, 0.2, 0.4, 0.68, 1.0), "iou_threshold": 0.4}
_PHOTOS_TRAIN = {
    **_SMALL_TRAIN,
    **{"lr": 7e-4, "total_steps": 9000, "eval_times": 5},
    **{"freeze_stages": 2, "freeze_batch_norm": "backbone"},
}
# For training on a CPU: short runs cannot learn from much zooming.
_SHORT_DATA = {"most_expand": 1.5, "crop_share": 0.3}
_ADAM = {"type": "AdamW", "weight_decay": 0.01, "clip_grad_norm": 10.0}
# SSD300 as in the PyTorch tutorials: 8,732 priors, 4 or 6 a cell.
_SSD300_ANCHORS = {
    "scales": (0.10, 0.20, 0.37, 0.54, 0.71, 0.88, 1.05),
    "steps": (8.0, 16.0, 32.0, 64.0, 100.0, 300.0),
    "ratios": ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
}

PRESETS: Mapping[str, Config] = {
    config.experiment_tag: config
    for config in (
        _preset("m2det320_vgg16", model={"input_size": 320}),
        _preset("m2det512_vgg16", model={"input_size": 512}),
        _preset("m2det704_vgg16", model={"input_size": 704}),
        _preset("m2det800_vgg16", model={"input_size": 800}),
        _preset("m2det320_resnet101", model={"backbone": "resnet101", "input_size": 320}),
        _preset("m2det512_resnet101", model={"backbone": "resnet101", "input_size": 512}),
        _preset("m2det320_resnet50", model={"backbone": "resnet50", "input_size": 320}),
        # What the paper's Table 2 compares with, and SSD itself.
        _preset("ssd320_vgg16", model={"input_size": 320, "neck": "ssd"}),
        _preset("deconv320_vgg16", model={"input_size": 320, "neck": "deconv"}),
        _preset("ssd300_vgg16", model={"input_size": 300, "neck": "ssd"}, anchors=_SSD300_ANCHORS),
        *(
            _preset(name, 0, model=model, train=train, data=_SHORT_DATA, optimizer=_ADAM)
            for name, model, train in (
                ("m2det_tiny", _TINY_MODEL, _TINY_TRAIN),
                ("m2det_small", _SMALL_MODEL, _SMALL_TRAIN),
            )
        ),
        _preset(
            "m2det_photos",
            0,
            model=_PHOTOS_MODEL,
            anchors=_PHOTOS_ANCHORS,
            train=_PHOTOS_TRAIN,
            data=_SHORT_DATA,
            test={"score_threshold": 0.01},
            optimizer={**_ADAM, "weight_decay": 0.05, "backbone_lr": 0.1},
        ),
    )
}


def default_preset(device_target: str) -> str:
    """What is trained where no preset is named: on a CPU one that it can train."""
    return "m2det_small" if device_target == "CPU" else "m2det512_vgg16"


def get_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The preset `name` with `section.key=value` overrides applied, e.g. `["model.sfam=true"]`.

    Raises:
        ConfigError: unknown preset or key, or wrong type of value; the message lists the choices.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown config {name!r}; choose from {', '.join(PRESETS)}")
    return override(PRESETS[name], overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with each `section.key=value` applied; `test=NAME` takes one of `TEST_PRESETS`.

    Raises:
        ConfigError: as `get_config`.
    """
    for text in overrides:
        key, _, name = text.partition("=")
        if key.strip() == "test" and name.strip() in TEST_PRESETS:
            config = replace(config, test=replace(config.test, **TEST_PRESETS[name.strip()]))
        else:
            config = override_fields(config, [text])
    return config


def to_json(config: Config) -> str:
    """The configuration as indented JSON, the contents of `config.json` beside a checkpoint."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`.

    Raises:
        ConfigError: not JSON, or a section, key or value that does not fit.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}") from None
    return from_dict(Config, values)


def with_classes(config: Config, num_classes: int) -> Config:
    """`config` for a data set of `num_classes` classes, background included."""
    return replace(config, model=replace(config.model, num_classes=num_classes))
