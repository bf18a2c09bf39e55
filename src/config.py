# SPDX-License-Identifier: Apache-2.0
"""Every parameter: frozen dataclasses, named presets and typed `section.key=value` overrides.

Only the standard library is imported here. Section and field names follow the MindSpore model zoo.
"""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

BACKBONES = (
    "vgg16",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"se_resnet{depth}" for depth in (50, 101, 152)),
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
    "senet154",
)


def _at_least(minimum: float, default: Any) -> Any:
    """A field whose number (or each of them) must not be below `minimum`."""
    return field(default=default, metadata={"min": minimum})


class ConfigError(ValueError):
    """A preset, section, key or value that does not exist or has the wrong type."""


@dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the official code's form; the paper's is one option away."""

    backbone: str = field(default="vgg16", metadata={"choices": BACKBONES})
    input_size: int = _at_least(64, 512)  # pixels; images are squashed to a square of this side
    num_classes: int = _at_least(2, 81)  # with background; training counts it in the data
    planes: int = _at_least(16, 256)  # channels of each TUM output
    num_levels: int = _at_least(1, 8)  # TUMs
    num_scales: int = _at_least(2, 6)  # maps of each TUM; fewer where the input is too small
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
    lr: float = _at_least(0, 7.5e-4)  # per device when scale_lr is on
    scale_lr: bool = True  # multiply the learning rate by the number of ranks
    warmup: int = _at_least(0, 5)  # epochs
    per_batch_size: int = _at_least(1, 7)
    gamma: Tuple[float, ...] = (0.5, 0.2, 0.1, 0.1)  # factor applied at each of lr_epochs
    lr_epochs: Tuple[int, ...] = (90, 110, 130, 150)
    total_epochs: int = _at_least(1, 160)
    num_workers: int = _at_least(1, 3)
    schedule: str = field(default="step", metadata={"choices": ("step", "cosine")})
    empty_image_negatives: int = _at_least(0, 3)  # mined from an image without boxes; official 0
    save_epochs: int = _at_least(1, 1)  # a checkpoint every so many epochs, and one at the end
    keep_checkpoints: int = _at_least(1, 5)


@dataclass(frozen=True)
class DataConfig:
    strict: bool = False  # an unreadable image ends the run instead of being reported and replaced
    allow_links: bool = False  # follow links that lead out of the data set
    random_interpolation: bool = False  # one of five for each image, as in the official code
    most_expand: float = _at_least(1, 4.0)  # sides of the image the canvas around it may have
    mosaic: float = 0.0  # probability of a training image made of four
    mixup: float = 0.0  # probability of a training image blended with another
    multi_scale: Tuple[int, ...] = ()  # input sizes to take turns; each is compiled once
    mean_bgr: Tuple[float, ...] = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class TestConfig:
    __test__ = False  # not a pytest class

    topk: int = _at_least(0, 0)  # boxes kept per image; 0 keeps all
    iou: float = 0.45  # lands in the sigma of linear soft-NMS, as in the official code
    soft_nms: bool = True
    score_threshold: float = 0.1
    keep_per_class: int = _at_least(1, 50)
    batch_size: int = _at_least(1, 1)


@dataclass(frozen=True)
class OptimizerConfig:
    type: str = field(default="SGD", metadata={"choices": ("SGD",)})
    momentum: float = 0.9
    weight_decay: float = _at_least(0, 5e-5)
    loss_scale: float = 1.0
    dampening: float = 0.0
    clip_grad_norm: float = _at_least(0, 4.0)  # global norm over all parameters; 0: no clipping


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
_TINY_TRAIN = {
    "lr": 1e-2,
    "warmup": 1,
    "per_batch_size": 8,
    "schedule": "cosine",
    "total_epochs": 20,
    "num_workers": 1,
}
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
        _preset(
            "m2det_tiny",
            random_seed=0,
            model=_TINY_MODEL,
            train=_TINY_TRAIN,
            data={"most_expand": 1.5},  # little zooming out: its maps are coarse
            optimizer={"clip_grad_norm": 10.0},
        ),
    )
}


def get_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The preset `name` with `section.key=value` overrides applied, e.g. `["model.sfam=true"]`.

    Raises:
        ConfigError: unknown preset or key, or wrong type of value; the message lists the choices.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown config {name!r}; choose from {', '.join(PRESETS)}")
    return override(PRESETS[name], overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with each `section.key=value` applied.

    Raises:
        ConfigError: as `get_config`.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"override {text!r} is not of the form section.key=value")
        config = _set(config, key.strip(), value.strip())
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
    return _from_dict(Config, values)


def _from_dict(cls: type, values: Any, prefix: str = "") -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix[:-1] or 'the configuration'} must hold keys, not {values!r}")
    made: Dict[str, Any] = {}
    for key, value in values.items():
        declared, kind = _field(cls, key, prefix)
        if dataclasses.is_dataclass(kind):
            made[key] = _from_dict(typing.cast(type, kind), value, f"{prefix}{key}.")
        else:
            made[key] = _check(value, kind, prefix + key, declared.metadata)
    return cls(**made)


def _set(node: Any, key: str, text: str, prefix: str = "") -> Any:
    """The dataclass `node` with the field at dotted `key` parsed from `text`."""
    head, _, rest = key.partition(".")
    declared, kind = _field(type(node), head, prefix)
    path = prefix + head
    if dataclasses.is_dataclass(kind):
        if not rest:
            keys = ", ".join(f"{path}.{f.name}" for f in dataclasses.fields(kind))
            raise ConfigError(f"{path} is a section; set one of {keys}")
        return replace(node, **{head: _set(getattr(node, head), rest, text, f"{path}.")})
    if rest:
        raise ConfigError(f"unknown key {prefix + key!r}; {path} has no parts")
    return replace(node, **{head: _check(_parse(text, kind), kind, path, declared.metadata)})


def _field(cls: type, key: str, prefix: str) -> Tuple[Any, Any]:
    """The declaration and resolved type of field `key` of a dataclass."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if key not in fields:
        choices = ", ".join(prefix + name for name in fields)
        raise ConfigError(f"unknown key {prefix + key!r}; choose from {choices}")
    return fields[key], typing.get_type_hints(cls)[key]


def _parse(text: str, kind: Any) -> Any:
    """Text of the command line as a JSON value; bare words stay strings and `1,2` is a list."""
    if kind is str:
        return text
    if typing.get_origin(kind) is tuple and not text.startswith("["):
        text = f"[{text}]"
    try:
        return json.loads(
            {"True": "true", "False": "false", "None": "null", "none": "null"}.get(text, text)
        )
    except ValueError:
        return text


def _check(value: Any, kind: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    """`value` as `kind`, or a ConfigError. Whole numbers are taken where any number is declared."""
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise ConfigError(f"{path} must be one of {', '.join(choices)}, not {value!r}")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        return None if value is None else _check(value, arguments[0], path, metadata)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_check(item, arguments[0], path, metadata) for item in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number and math.isfinite(value):
        value = float(value)
    elif not isinstance(value, kind if isinstance(kind, type) else ()) or (
        isinstance(value, bool) and kind is not bool
    ):
        raise ConfigError(f"{path} must be {_describe(kind)}, not {value!r}")
    if number and value < metadata.get("min", -math.inf):
        raise ConfigError(f"{path} must be at least {metadata['min']}, not {value!r}")
    return value


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list of {_describe(typing.get_args(kind)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(
        kind, str(kind)
    )
