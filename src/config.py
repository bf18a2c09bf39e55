# SPDX-License-Identifier: Apache-2.0
"""The configuration: frozen dataclasses, named presets and typed `section.key=value` overrides.

Only the standard library is imported here. Section and field names follow the MindSpore model zoo.
What each preset changes stands in `src/runtime/presets.py`.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Mapping, Optional, Sequence, Tuple

from .runtime import presets
from .runtime.config_file import is_config_file, parse_json, read_config_file
from .runtime.typed_config import ConfigError, nearest, override_fields, setting, update_fields

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

# Upper limits far above sensible values: a typing error is refused before memory runs out.
_MANY = 1_000_000
_LARGEST_INPUT = 4096
MOST_STEPS = 20_000_000  # 160 epochs of COCO, image by image


@dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the official code's form; the paper's is one option away."""

    backbone: str = setting("vgg16", "network that gives the two feature maps", choices=BACKBONES)
    input_size: int = setting(
        512, "pixels; images are squashed to a square of this side", 64, _LARGEST_INPUT
    )
    num_classes: int = setting(81, "with background; training counts it in the data", 2, 20_000)
    planes: int = setting(256, "channels of each TUM output", 16, 1024)
    num_levels: int = setting(8, "TUMs", 1, 32)
    num_scales: int = setting(6, "maps of each TUM; fewer where the input is too small", 2, 12)
    smooth: bool = setting(True, "1x1 convolution after each TUM output")
    sfam: bool = setting(False, "scale-wise attention over the levels")
    shared_squeeze: bool = setting(True, "FFMv2: one squeeze for all levels, or one each (paper)")
    shared_sfam: bool = setting(True, "one pair of SFAM layers for all scales, or one each (paper)")
    upsample: str = setting("nearest", "of the TUMs", choices=("nearest", "bilinear"))
    base_feature: str = setting(
        "every", "levels that see the base feature", choices=("every", "first")
    )
    neck: str = setting(
        "mlfpn",
        "M2Det's pyramid, SSD's maps, or the paper's SSD with deconvolutions",
        choices=("mlfpn", "ssd", "deconv"),
    )


@dataclass(frozen=True)
class AnchorConfig:
    """Prior boxes. Empty: the table of the input size, or a derived one (`src/priors.py`)."""

    scales: Tuple[float, ...] = setting(
        (), "one per feature map and one more, as a fraction of the input side", most=10, above=0
    )
    steps: Tuple[float, ...] = setting(
        (), "pixels between two cells of each feature map", most=_LARGEST_INPUT, above=0
    )
    ratios: Tuple[Tuple[float, ...], ...] = setting(
        ((2.0, 3.0),),
        "aspect ratios beside 1; a row per map or one for all",
        most=100,
        above=0,
        count=(1, 100),
    )
    iou_threshold: float = setting(
        0.5, "a prior above it is matched to its best ground truth", most=1, above=0
    )
    dynamic_k: int = setting(
        0,
        "not 0: match to each box as many priors as its k greatest IoUs add up to, as OTA does",
        0,
        500,
    )


@dataclass(frozen=True)
class LossConfig:
    """The multibox loss. Defaults are SSD's, as in the paper."""

    box: str = setting(
        "smooth_l1",
        "regression loss: smooth L1 of the offsets, or 1 - GIoU of the boxes",
        choices=("smooth_l1", "giou"),
    )
    box_weight: float = setting(1.0, "factor on the regression loss", 0, 1000)
    quality: bool = setting(
        False, "the score of a positive learns the IoU of its predicted box instead of 1"
    )


@dataclass(frozen=True)
class TrainConfig:
    """Length, schedule and batches of a run; what is frozen; when it is scored and saved."""

    lr: float = setting(7.5e-4, "learning rate; per device when scale_lr is on", 0, 1000)
    scale_lr: bool = setting(True, "multiply the learning rate by the number of ranks")
    warmup: float = setting(5.0, "epochs of rising learning rate, at most 0.3 of the run", 0, _MANY)
    per_batch_size: int = setting(7, "images of a batch on each device", 1, 4096)
    gamma: Tuple[float, ...] = setting(
        (0.5, 0.2, 0.1, 0.1), "factor applied at each of lr_epochs", 0, 10
    )
    lr_epochs: Tuple[int, ...] = setting(
        (90, 110, 130, 150), "epochs at which the step schedule changes the rate", 0, _MANY
    )
    total_epochs: int = setting(160, "length of the run", 1, _MANY)
    total_steps: int = setting(0, "length of the run in steps; 0: by total_epochs", 0, MOST_STEPS)
    num_workers: int = setting(3, "processes or threads that read images", 1, 512)
    schedule: str = setting("step", "how the learning rate falls", choices=("step", "cosine"))
    empty_image_negatives: int = setting(
        3, "hard negatives mined from an image without boxes; official 0", 0, _MANY
    )
    save_epochs: int = setting(1, "a checkpoint every so many epochs, and one at the end", 1, _MANY)
    save_steps: int = setting(0, "and one every so many steps; 0: none", 0, MOST_STEPS)
    keep_checkpoints: int = setting(1, "newest checkpoints kept, beside the best", 1, _MANY)
    max_bad_steps: int = setting(
        20, "consecutive steps without a finite gradient that end a run", 1, _MANY
    )
    accumulate: int = setting(1, "batches whose gradients make one step", 1, 10_000)
    ema: float = setting(0.0, "decay of the moving average of weights; 0: no average", 0, 0.999999)
    freeze_backbone: bool = setting(False, "keep its weights and BatchNorm as they are")
    freeze_stages: int = setting(
        0, "the same of its first parts; ResNet: stem, layer1, ...", 0, 100
    )
    freeze_batch_norm: str = setting(
        "none",
        "BatchNorm that keeps its statistics, gamma and beta",
        choices=("none", "backbone", "all"),
    )
    sync_batch_norm: bool = setting(False, "statistics of the batch over all ranks")
    amp_level: str = setting(
        "O0",
        "O0: float32; O2: float16 but for BatchNorm; O3: float16 altogether",
        choices=("O0", "O2", "O3"),
    )
    allow_tf32: bool = setting(
        False, "GPU of Ampere or later: float32 convolutions round inputs to 10 bits of mantissa"
    )
    eval_epochs: int = setting(0, "score `eval_split` every so many epochs", 0, _MANY)
    eval_times: int = setting(
        10,
        "or about so often in the run, at most once an epoch, if the data have it; 0: never",
        0,
        _MANY,
    )
    eval_split: str = setting("val", "split that is scored while training")
    early_stop: int = setting(0, "scorings without a better AP that end a run; 0: never", 0, _MANY)


@dataclass(frozen=True)
class DataConfig:
    """Reading and augmenting images."""

    strict: bool = setting(
        False, "an unreadable image ends the run instead of being reported and replaced"
    )
    allow_links: bool = setting(False, "follow links that lead out of the data set")
    augment: bool = setting(
        True, "false: images are only resized, and no box is too small to train on"
    )
    random_interpolation: bool = setting(
        False, "one of five methods for each image, as in the official code"
    )
    max_expand_ratio: float = setting(
        4.0, "largest side of the expanded canvas, in sides of the image", 1, 16
    )
    crop_prob: float = setting(1.0, "probability that the random crop is tried", 0, 1)
    vertical_flip: bool = setting(
        False, "for images without up and down: from microscopes, from the air"
    )
    color_jitter: float = setting(
        1.0, "factor on the ranges of brightness, contrast, hue and saturation", 0, 2
    )
    mosaic: float = setting(0.0, "probability of a training image made of four", 0, 1)
    mosaic_until: float = setting(1.0, "fraction of the run after which there is none", 0, 1)
    mixup: float = setting(0.0, "probability of a training image blended with another", 0, 1)
    multi_scale: Tuple[int, ...] = setting(
        (), "input sizes, one a step; each is compiled once", 64, _LARGEST_INPUT, count=(0, 32)
    )
    mean_bgr: Tuple[float, ...] = setting(
        (104.0, 117.0, 123.0), "subtracted from the pixels", 0, 255, count=(3, 3)
    )


@dataclass(frozen=True)
class TestConfig:
    """From the network's outputs to boxes."""

    __test__ = False  # not a pytest class

    topk: int = setting(0, "boxes kept per image; 0 keeps all", 0, _MANY)
    iou: float = setting(
        0.45, "of hard NMS; linear soft-NMS ignores it and uses 0.3, as in the official code", 0, 1
    )
    soft_nms: bool = setting(True, "or hard NMS")
    soft_nms_method: str = setting(
        "linear", "how scores fall with the overlap", choices=("linear", "gaussian")
    )
    sigma: float = setting(0.5, "of gaussian soft-NMS", 0.001, 1000)
    class_agnostic: bool = setting(False, "boxes of different classes suppress each other")
    voting_iou: float = setting(
        0.0, "overlap from which boxes of a class are averaged into each one kept; 0: none", 0, 1
    )
    score_threshold: float = setting(0.1, "lowest class probability of a detection", 0, 1)
    keep_per_class: int = setting(50, "boxes kept per class and image", 1, _MANY)
    batch_size: int = setting(1, "images per forward pass", 1, 4096)
    multi_scale: Tuple[int, ...] = setting(
        (),
        "input sizes whose detections are merged; empty: one size",
        64,
        _LARGEST_INPUT,
        count=(0, 32),
    )
    flip: bool = setting(False, "detect in the mirrored image as well")
    merge: str = setting(
        "wbf", "of several views' boxes; wbf: weighted boxes fusion", choices=("wbf", "soft_nms")
    )
    tile_px: int = setting(
        0, "side of the tiles of large images; 0: no tiles", 64, 100_000, or_zero=True
    )
    tile_overlap: float = setting(0.25, "of two tiles, as a fraction of the side", 0, 0.9)


@dataclass(frozen=True)
class OptimizerConfig:
    """The update of the weights."""

    type: str = setting("SGD", "optimiser", choices=("SGD", "AdamW"))
    momentum: float = setting(0.9, "of AdamW: its first beta", 0, 0.999999)
    beta2: float = setting(0.999, "of AdamW", 0, 0.999999)
    weight_decay: float = setting(5e-5, "L2 for SGD, decoupled for AdamW", 0, 100)
    decay_bias_and_norm: bool = setting(False, "weight decay on biases and BatchNorm, too")
    loss_scale: float = setting(
        1.0, "with float16: where it starts, 65536 if this is 1", 1e-6, 1e12
    )
    dampening: float = setting(0.0, "of SGD's momentum", 0, 1)
    backbone_lr: float = setting(1.0, "factor on the learning rate of the backbone", 0, 1000)
    clip_grad_norm: float = setting(4.0, "global norm over all parameters; 0: no clipping", 0, 1e12)


@dataclass(frozen=True)
class Config:
    """The whole configuration. `model.num_classes` is taken from the data."""

    model: ModelConfig = ModelConfig()
    anchors: AnchorConfig = AnchorConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    test: TestConfig = TestConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    random_seed: Optional[int] = setting(
        None, "none: no shuffling, as in the model zoo", 0, 2**32 - 1
    )
    experiment_tag: str = setting("m2det", "folder of the run below --train_url", name=True)


# Old names of keys that were renamed.
RENAMED: Mapping[str, str] = {
    "data.most_expand": "data.max_expand_ratio",
    "data.crop_share": "data.crop_prob",
}
PRESETS: Mapping[str, Config] = {
    name: update_fields(Config(experiment_tag=name), preset.keys)
    for name, preset in presets.PRESETS.items()
}


def default_preset(device_target: str) -> str:
    """What is trained where no preset is named: on a CPU one that it can train."""
    return "m2det_small" if device_target == "CPU" else "m2det512_vgg16"


def get_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The preset or file `name` with `section.key=value` overrides, e.g. `["model.sfam=true"]`.

    A .yaml or .json file holds sections with keys, as `config.json` of a run does. What it leaves
    out is as in the preset that its key `preset` names, or else as in the classes above.

    Raises:
        ConfigError: unknown preset or key, or wrong type of value; the message lists the choices.
    """
    if name in PRESETS:
        return override(PRESETS[name], overrides)
    if not is_config_file(name):
        near, known = nearest(name, list(PRESETS)) or ":", ", ".join(PRESETS)
        raise ConfigError(
            f"unknown config {name!r}{near} expected a .yaml or .json file, or one of {known}"
        )
    values = read_config_file(name)
    try:
        base = values.pop("preset", None) if isinstance(values, dict) else None
        if base is not None and str(base) not in PRESETS:
            raise ConfigError(f"preset must be one of {', '.join(PRESETS)}")
        config = update_fields(PRESETS.get(str(base), Config()), values, RENAMED)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return override(config, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with each `section.key=value` applied; `test=NAME` takes one of `TEST_FORMS`.

    Raises:
        ConfigError: as `get_config`.
    """
    return override_fields(config, overrides, RENAMED, {"test": presets.TEST_FORMS})


def to_json(config: Config) -> str:
    """The configuration as indented JSON, the contents of `config.json` beside a checkpoint."""
    return json.dumps(asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`.

    Raises:
        ConfigError: not JSON, or a section, key or value that does not fit.
    """
    return update_fields(Config(), parse_json(text), RENAMED)


def with_classes(config: Config, num_classes: int) -> Config:
    """`config` for a data set of `num_classes` classes, background included."""
    return replace(config, model=replace(config.model, num_classes=num_classes))
