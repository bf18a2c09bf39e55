# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the project: frozen dataclasses, named presets and typed `section.key=value` overrides.

Only the standard library is imported here. Section and field names follow the MindSpore model zoo.
"""

import dataclasses
import json
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


class ConfigError(ValueError):
    """A preset, section, key or value that does not exist or has the wrong type."""


@dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the official code's form; the paper's is one option away."""

    backbone: str = field(default="vgg16", metadata={"choices": BACKBONES})
    input_size: int = 512  # pixels; images are squashed to a square of this side
    num_classes: int = 81  # background included; training takes it from the annotations
    planes: int = 256  # channels of each TUM output
    num_levels: int = 8  # TUMs
    num_scales: int = 6  # feature maps of each TUM (fewer where the input is too small for them)
    smooth: bool = True  # 1x1 convolution after each TUM output
    sfam: bool = False  # scale-wise attention over the levels
    shared_squeeze: bool = True  # one FFMv2 squeeze for all levels (official) or one each (paper)
    shared_sfam: bool = True  # one pair of SFAM layers for all scales (official) or one each (paper)
    upsample: str = field(default="nearest", metadata={"choices": ("nearest", "bilinear")})
    base_feature: str = field(default="every", metadata={"choices": ("every", "first")})
    neck: str = field(default="mlfpn", metadata={"choices": ("mlfpn", "ssd", "deconv")})


@dataclass(frozen=True)
class AnchorConfig:
    """Prior boxes. Empty tuples take the table of the input size, or a derived one (`src/priors.py`)."""

    scales: Tuple[float, ...] = ()  # one per feature map and one more, as a share of the input side
    steps: Tuple[float, ...] = ()  # pixels between two cells of each feature map
    ratios: Tuple[Tuple[float, ...], ...] = ((2, 3),)  # beside 1 and 1'; one row per map, or one for all
    iou_threshold: float = 0.5  # a prior above it is matched to its best ground truth


@dataclass(frozen=True)
class TrainConfig:
    lr: float = 7.5e-4  # per device when scale_lr is on
    scale_lr: bool = True  # multiply the learning rate by the number of ranks
    warmup: int = 5  # epochs
    per_batch_size: int = 7
    gamma: Tuple[float, ...] = (0.5, 0.2, 0.1, 0.1)  # factor applied at each of lr_epochs
    lr_epochs: Tuple[int, ...] = (90, 110, 130, 150)
    total_epochs: int = 160
    num_workers: int = 3
    schedule: str = field(default="step", metadata={"choices": ("step", "cosine")})
    empty_image_negatives: int = 3  # priors mined from an image without boxes; the original mines none
    save_epochs: int = 1  # a checkpoint every so many epochs, and one at the end
    keep_checkpoints: int = 5


@dataclass(frozen=True)
class DataConfig:
    strict: bool = False  # an unreadable image ends the run instead of being reported and replaced
    mean_bgr: Tuple[float, ...] = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class TestConfig:
    __test__ = False  # not a pytest class

    topk: int = 0  # boxes kept per image; 0 keeps all
    iou: float = 0.45  # lands in the sigma of linear soft-NMS, as in the official code
    soft_nms: bool = True
    score_threshold: float = 0.1
    keep_per_class: int = 50
    batch_size: int = 1


@dataclass(frozen=True)
class OptimizerConfig:
    type: str = field(default="SGD", metadata={"choices": ("SGD",)})
    momentum: float = 0.9
    weight_decay: float = 5e-5
    loss_scale: float = 1.0
    dampening: float = 0.0
    clip_grad_norm: float = 4.0  # global norm, after the reduction over ranks; 0 switches it off


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


def _preset(tag: str, model: Mapping[str, Any], **sections: Mapping[str, Any]) -> Config:
    config = Config(model=ModelConfig(**model), experiment_tag=tag)
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


PRESETS: Mapping[str, Config] = {
    config.experiment_tag: config
    for config in (
        _preset("m2det320_vgg16", {"input_size": 320}),
        _preset("m2det512_vgg16", {"input_size": 512}),
        _preset("m2det704_vgg16", {"input_size": 704}),
        _preset("m2det800_vgg16", {"input_size": 800}),
        _preset("m2det320_resnet101", {"backbone": "resnet101", "input_size": 320}),
        _preset("m2det512_resnet101", {"backbone": "resnet101", "input_size": 512}),
        _preset("m2det320_resnet50", {"backbone": "resnet50", "input_size": 320}),
        replace(
            _preset(
                "m2det_tiny",
                {
                    "backbone": "resnet18",
                    "input_size": 128,
                    "planes": 64,
                    "num_levels": 2,
                    "num_scales": 4,
                    "sfam": True,
                },
                train={
                    "lr": 1e-2,
                    "warmup": 1,
                    "per_batch_size": 8,
                    "gamma": (0.1,),
                    "lr_epochs": (18,),
                    "total_epochs": 24,
                    "num_workers": 1,
                },
            ),
            random_seed=0,
        ),
    )
}


def get_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The preset `name` with `section.key=value` overrides applied, e.g. `["model.sfam=true"]`.

    Raises:
        ConfigError: unknown preset or key, or a value of the wrong type; the message lists the choices.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown config {name!r}; choose from {', '.join(PRESETS)}")
    config = PRESETS[name]
    for override in overrides:
        key, sep, text = override.partition("=")
        if not sep:
            raise ConfigError(f"override {override!r} is not of the form section.key=value")
        config = _set(config, key.strip(), text.strip())
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
    return _from_dict(Config, values, "")


def _from_dict(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix or 'the configuration'} must be a section of keys, not {values!r}")
    made: Dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        declared = _field(cls, key, path)
        kind = typing.get_type_hints(cls)[key]
        if dataclasses.is_dataclass(kind):
            made[key] = _from_dict(typing.cast(type, kind), value, f"{path}.")
        else:
            made[key] = _check(value, kind, path, declared.metadata.get("choices"))
    return cls(**made)


def _set(config: Any, path: str, text: str) -> Any:
    """`config` with the field at dotted `path` parsed from `text`."""
    head, _, rest = path.partition(".")
    declared = _field(type(config), head, path)
    kind = typing.get_type_hints(type(config))[head]
    if dataclasses.is_dataclass(kind):
        keys = ", ".join(f"{head}.{f.name}" for f in dataclasses.fields(kind))
        if not rest:
            raise ConfigError(f"{head} is a section; set one of {keys}")
        return replace(config, **{head: _set_in(getattr(config, head), rest, text, head)})
    if rest:
        raise ConfigError(f"unknown key {path!r}; {head} has no parts")
    return replace(config, **{head: _check(_parse(text, kind), kind, path, declared.metadata.get("choices"))})


def _set_in(section: Any, key: str, text: str, name: str) -> Any:
    path = f"{name}.{key}"
    declared = _field(type(section), key, path)
    kind = typing.get_type_hints(type(section))[key]
    return replace(section, **{key: _check(_parse(text, kind), kind, path, declared.metadata.get("choices"))})


def _field(cls: type, key: str, path: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if key not in fields:
        prefix = path[: -len(key)] if path.endswith(key) else ""
        raise ConfigError(f"unknown key {path!r}; choose from {', '.join(prefix + name for name in fields)}")
    return fields[key]


def _parse(text: str, kind: Any) -> Any:
    """Text of the command line as a JSON value; bare words stay strings and `1,2` is a list."""
    if kind is str:
        return text
    if typing.get_origin(kind) is tuple and not text.startswith("["):
        text = f"[{text}]"
    try:
        return json.loads({"True": "true", "False": "false", "None": "null", "none": "null"}.get(text, text))
    except ValueError:
        return text


def _check(value: Any, kind: Any, path: str, choices: Optional[Sequence[Any]] = None) -> Any:
    """`value` as `kind`, or a ConfigError. Integers are taken where floats are declared."""
    if choices is not None and value not in choices:
        raise ConfigError(f"{path} must be one of {', '.join(map(str, choices))}, not {value!r}")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        return None if value is None else _check(value, arguments[0], path)
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_check(item, arguments[0], path) for item in value)
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{path} must be {_describe(kind)}, not {value!r}")


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list of {_describe(typing.get_args(kind)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(kind, str(kind))
