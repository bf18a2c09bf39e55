# SPDX-License-Identifier: Apache-2.0
"""The configuration that belongs to converted weights. Standard library only."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..config import PRESETS, Config, ModelConfig, get_config, override
from ..priors import map_sizes
from .pytorch_keys import ConversionError, Layout

KNOWN_SIZES = (320, 512, 704, 800)
_DEFAULT = "m2det512_vgg16"
_SIZE_KEY = "model.input_size"
_BACKBONE_KEY = "model.backbone"


def choose_config(
    found: Mapping[str, Any],
    files: Sequence[Path],
    name: Optional[str] = None,
    overrides: Sequence[str] = (),
) -> Tuple[Config, List[str]]:
    """The configuration of a whole model, and notes on what was assumed for it.

    Args:
        found: fields of `ModelConfig` as they are in the checkpoint.
        files: paths whose names may hold the input size, which is in no checkpoint.
        name: preset asked for, or None.
        overrides: `section.key=value` asked for.

    Raises:
        ConversionError: preset or overrides contradict the checkpoint or its file name.
    """
    named = _named_size(files)
    asked = any(text.split("=")[0].strip() == _SIZE_KEY for text in overrides)
    if name is not None:
        config = get_config(name, overrides)
        compare(config, found, f"config {name}")
        size = config.model.input_size
        if named not in (None, size) and not asked:
            raise ConversionError(
                f"expected {size} pixels by config {name}, found {named} in the file name; add"
                f" --set {_SIZE_KEY}={size} if that is meant"
            )
        return config, []
    size = named or ModelConfig.input_size
    tag = f"m2det{size}_{found['backbone']}"
    preset = PRESETS.get(tag, replace(PRESETS[_DEFAULT], experiment_tag=tag))
    config = override(replace(preset, model=ModelConfig(input_size=size, **found)), overrides)
    compare(config, found, "--set")
    if asked:
        return config, []
    origin = "by the file name" if named else "assumed"
    return config, [f"input size: {size} pixels, {origin}; another with --set {_SIZE_KEY}=..."]


def asked_backbone(name: Optional[str], overrides: Sequence[str]) -> Optional[str]:
    """The backbone that a preset or overrides name; None where they name none.

    Raises:
        ConfigError: unknown names or values.
    """
    if name is None and not any(text.split("=")[0].strip() == _BACKBONE_KEY for text in overrides):
        return None
    return get_config(name or _DEFAULT, overrides).model.backbone


def check_backbone(backbone: str, name: Optional[str], overrides: Sequence[str]) -> None:
    """Refuse a preset or overrides for another backbone than the one found.

    Raises:
        ConversionError: they contradict.
    """
    if name is None:
        preset = replace(PRESETS[_DEFAULT], model=ModelConfig(backbone=backbone))
        compare(override(preset, overrides), {"backbone": backbone}, "--set")
    else:
        compare(get_config(name, overrides), {"backbone": backbone}, f"config {name}")


def compare(config: Config, found: Mapping[str, Any], origin: str) -> None:
    """Refuse fields that differ from `config.model`; `origin` says where the latter is from.

    Raises:
        ConversionError: naming each field with expected and found.
    """
    wanted: Dict[str, Any] = {**asdict(config.model), "num_scales": len(map_sizes(config.model))}
    differences = [
        f"expected model.{key}={_text(wanted[key])} by {origin}, found {_text(value)}"
        for key, value in found.items()
        if wanted[key] != value
    ]
    if differences:
        raise ConversionError("; ".join(differences))


def layout_of(model: ModelConfig) -> Layout:
    """What decides the names in a checkpoint of `model`."""
    return Layout(
        backbone=model.backbone,
        num_levels=model.num_levels,
        num_scales=len(map_sizes(model)),
        shared_squeeze=model.shared_squeeze,
        shared_sfam=model.shared_sfam,
        base_feature=model.base_feature,
    )


def describe(model: ModelConfig) -> str:
    """One line on a network, for people."""
    return (
        f"{model.backbone}, {model.num_classes} classes with background, {model.num_levels} levels"
        f" of {model.planes} planes, {len(map_sizes(model))} scales"
        f"{', SFAM' if model.sfam else ''}"
    )


def unofficial_options(model: ModelConfig) -> List[str]:
    """The options of `model`, as `key=value`, that the official code has no form for."""
    official = {"shared_squeeze": True, "upsample": "nearest", "base_feature": "every"}
    if model.sfam:
        official["shared_sfam"] = True
    chosen = {key: getattr(model, key) for key in official}
    return [f"{k}={_text(v)}" for k, v in chosen.items() if v != official[k]]


def _named_size(files: Sequence[Path]) -> Optional[int]:
    """The one usual input size in the first file name that has one."""
    for path in files:
        sizes = {int(n) for n in re.findall(r"\d+", path.stem)}.intersection(KNOWN_SIZES)
        if len(sizes) == 1:
            return sizes.pop()
    return None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
