# SPDX-License-Identifier: Apache-2.0
"""The metadata of an exported file, read and checked key by key: people edit it. No framework.

S input side, C classes with background 0.
"""

import json
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

from ..config import Config, ConfigError, from_json
from ..runtime.errors import M2DetError, printable_name

EXPORT_VERSION = 1
Shape = Tuple[Optional[int], ...]  # None: of any size


class ExportedError(M2DetError, ValueError):
    """An exported file that is missing, damaged or foreign, or an input that does not fit it."""


def parse_json(text: str, where: Path) -> Dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        ExportedError: it is none.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ExportedError(f"{where}: expected the JSON object that export.py writes")
    return content


def check_metadata(metadata: Mapping[str, Any], where: Path) -> Config:
    """The configuration in an exported file's metadata, every value of which is checked.

    Args:
        metadata: as `src.formats.export_metadata.describe` makes it.
        where: the file it was read from, for messages.

    Raises:
        ExportedError: naming file and key.
    """
    if metadata.get("version") != EXPORT_VERSION:
        raise ExportedError(f"{where}: written by another version of export.py; export it again")
    for key, (wanted, fits) in _WANTED.items():
        if key not in metadata:
            raise ExportedError(f"{where}: {key} is missing, which must be {wanted}")
        if not fits(metadata[key]):
            _refuse(where, key, wanted, metadata[key])
    try:
        config = from_json(json.dumps(metadata["config"]))
    except (ConfigError, RecursionError) as error:
        raise ExportedError(f"{where}: config: {error}") from None
    wanted_by_config: Dict[str, Tuple[int, Any]] = {
        "input_size": (config.model.input_size, metadata["input_size"]),
        "number of class_names": (config.model.num_classes - 1, len(metadata["class_names"])),
        "number of category_ids": (len(metadata["class_names"]), len(metadata["category_ids"])),
    }
    for key, (expected, found) in wanted_by_config.items():
        if expected != found:
            _refuse(where, key, f"{expected}, as the rest of the file says", found)
    return config


def check_input(metadata: Mapping[str, Any], shape: Sequence[Optional[int]], where: Path) -> None:
    """Compare the input described in `metadata` with that of the network in the file.

    Raises:
        ExportedError: they differ.
    """
    size = metadata["input_size"]
    rest = (size, size, 3) if metadata["input"] == "image" else (3, size, size)
    told = (metadata["batch_size"], *rest)
    if told != tuple(shape):
        raise ExportedError(
            f"{where}: input, input_size and batch_size must be those of the network's input,"
            f" {_text(shape)}, not {_text(told)}"
        )


def _text(shape: Sequence[Optional[int]]) -> str:
    return "x".join("any" if side is None else str(side) for side in shape)


def _refuse(where: Path, key: str, wanted: str, found: Any) -> None:
    shown = json.dumps(found) if _shallow(found) else type(found).__name__
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise ExportedError(f"{where}: {key} must be {wanted}, not {shown}")


def _shallow(value: Any) -> bool:
    """Whether `json.dumps` can show it: deep nesting is beyond it."""
    return not isinstance(value, (list, dict)) or not any(
        isinstance(inner, (list, dict)) for inner in value
    )


def _number(value: Any, lowest: float, highest: float, whole: bool = False) -> bool:
    kinds = (int,) if whole else (int, float)
    return type(value) in kinds and lowest <= value <= highest  # which NaN is not


def _all(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


# {key: (what it must be, whether a value is that)}
_WANTED: Mapping[str, Tuple[str, Callable[[Any], bool]]] = {
    "input": ('"tensor" or "image"', lambda v: v in ("tensor", "image")),
    "outputs": ('"raw", "boxes" or "detections"', lambda v: v in ("raw", "boxes", "detections")),
    "input_size": ("a number of pixels", lambda v: _number(v, 1, 2**16, whole=True)),
    "batch_size": (
        "a number of images, or null for any",
        lambda v: v is None or _number(v, 1, 2**16, whole=True),
    ),
    "mean_bgr": (
        "three numbers from 0 to 255",
        lambda v: _all(v, lambda x: _number(x, 0, 255)) and len(v) == 3,
    ),
    "class_names": ("a list of printable names", lambda v: _all(v, printable_name)),
    "category_ids": (
        "a list of whole numbers",
        lambda v: _all(v, lambda x: _number(x, -(2**63), 2**63 - 1, whole=True)),
    ),
    "postprocess": ("an object", lambda v: isinstance(v, dict)),
    "config": ("an object", lambda v: isinstance(v, dict)),
}
