# SPDX-License-Identifier: Apache-2.0
"""The contents of COCO annotation files, with the type of every value checked."""

import json
import math
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..records import DataError


def read_json(path: str) -> Dict[str, Any]:
    """The JSON object in the file at `path`, in UTF-8, 16 or 32.

    Raises:
        DataError: unreadable, not JSON, or not an object.
    """
    return parse_json(read(path), path)


def read(path: str) -> bytes:
    """The contents of a file.

    Raises:
        DataError: unreadable.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def parse_json(data: bytes, path: str) -> Dict[str, Any]:
    """The JSON object in `data`, the contents of `path`.

    Raises:
        DataError: not JSON, or not an object.
    """
    try:
        content = json.loads(data)
    except RecursionError:
        raise DataError(f"{path}: not an annotation file (nested too deeply)") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({str(error)[:80]})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object with images, annotations and categories")
    return content


def entries_of(content: Mapping[str, Any], key: str, path: str) -> List[Any]:
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a list of {key} under {key!r}, found {brief(entries)}")
    return entries


def flag(value: Any) -> bool:
    """Whether `value`, a number, true or false, or either as text, means true."""
    if isinstance(value, str):
        return value.strip().lower() in ("1", "true", "yes")
    return isinstance(value, (int, float)) and bool(value)


def around_polygons(value: Any) -> Optional[Tuple[float, float, float, float]]:
    """The bounding box, xywh in pixels, of COCO polygons ([[x, y, x, y, ...], ...]), or None."""
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        return None
    try:
        points = [float(number) for part in value for number in part]
    except (TypeError, ValueError, OverflowError):
        return None
    if any(len(part) % 2 for part in value) or not points or not all(map(math.isfinite, points)):
        return None
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def whole(value: Any) -> Optional[int]:
    """`value` as a 64-bit whole number, or None."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    return None


def numbers(value: Any) -> Optional[Tuple[float, float, float, float]]:
    """`value` as four floats, which may be infinite or NaN, or None."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(item, (int, float)) for item in value):
        return None
    try:
        return tuple(map(float, value))  # type: ignore[return-value]
    except OverflowError:
        return (math.inf,) * 4


_KINDS = {"bbox": "[x, y, width, height]", "name": "a printable text", "file_name": "a text"}


def misfit(entry: Mapping[str, Any], key: str) -> str:
    """What was expected under `key`, where that is no use, and what was found."""
    return f"expected {_KINDS.get(key, 'a whole number')} as {key}, found {brief(entry.get(key))}"


def brief(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)) and len(value) > 4:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
