# SPDX-License-Identifier: Apache-2.0
"""The contents of COCO annotation files, taken with care: nothing in them has the right type for
sure.
"""

import json
import math
from typing import Any, Container, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ..records import DataError, Findings


class RawBox(NamedTuple):
    """One annotation as it stands in the file, checked for type but not clipped."""

    image_id: int
    category_id: int
    bbox_xywh: Tuple[float, float, float, float]  # pixels
    area: float  # pixels; the segmentation's where the file gives one
    crowd: bool


def read_json(path: str) -> Dict[str, Any]:
    """The JSON object in the file at `path`, in UTF-8, 16 or 32.

    Raises:
        DataError: unreadable, not JSON, or not an object.
    """
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise DataError(f"{path}: not a COCO annotation file (nested too deeply)") from None
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


def raw_boxes(
    content: Mapping[str, Any], findings: Findings, categories: Container[int]
) -> Iterator[RawBox]:
    """The annotations of a COCO file that have the right types and a known category."""
    entries = content.get("annotations", [])
    if not isinstance(entries, list):
        findings.refuse(
            "malformed annotations", f"expected a list under 'annotations', found {brief(entries)}"
        )
        return
    for entry in entries:
        if not isinstance(entry, dict):
            findings.note("malformed annotations", brief(entry))
            continue
        image, category = whole(entry.get("image_id")), whole(entry.get("category_id"))
        box = numbers(entry.get("bbox"))
        if box is None and entry.get("bbox") in (None, []):
            box = around_polygons(entry.get("segmentation"))
            if box:
                findings.note("boxes made of polygons", f"annotation {brief(entry.get('id'))}")
        if image is None or box is None:
            findings.note("malformed annotations", f"annotation {brief(entry.get('id'))}")
        elif category not in categories or category is None:
            findings.note(
                "boxes of unknown categories", f"category_id {brief(entry.get('category_id'))}"
            )
        else:
            area = entry.get("area")
            if not isinstance(area, (int, float)) or not 0 < area < 1e15:
                area = box[2] * box[3]
            yield RawBox(image, category, box, float(area), flag(entry.get("iscrowd")))


def flag(value: Any) -> bool:
    """Whether `value`, a number, true or false, or either as text, says yes."""
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


def brief(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)) and len(value) > 4:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
