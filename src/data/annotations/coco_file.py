# SPDX-License-Identifier: Apache-2.0
"""A COCO annotation file read into arrays, fast for files like COCO's, with every type checked.

msgspec checks the types of each annotation while it reads, and passes over segmentations, which are
most of a file. What is not as expected is looked at again by `coco_json`.
"""

import json
from array import array
from dataclasses import dataclass
from typing import Annotated, Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

import msgspec
import numpy as np

from ..records import Findings
from .coco_json import (
    around_polygons,
    brief,
    entries_of,
    flag,
    misfit,
    numbers,
    parse_json,
    read,
    whole,
)

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class ImageEntry(msgspec.Struct, gc=False):
    """An entry of "images"; the size may be of any type."""

    id: Int64
    file_name: str
    width: Any = None
    height: Any = None
    row: Any = None  # in a MindRecord file


class BoxEntry(msgspec.Struct, gc=False):
    """An entry of "annotations"."""

    image_id: Int64
    category_id: Int64
    bbox: Tuple[float, float, float, float]  # xywh in pixels; may be infinite or NaN
    area: float = 0.0  # of the segmentation where the file gives one
    iscrowd: int = 0


@dataclass(eq=False)
class BoxTable:
    """N annotations as they stand in the file, checked for type but not clipped."""

    image_ids: np.ndarray  # (N,) int64
    category_ids: np.ndarray  # (N,) int64
    boxes_xywh: np.ndarray  # (N, 4) float64, pixels
    areas: np.ndarray  # (N,) float64, pixels
    crowd: np.ndarray  # (N,) bool


@dataclass(eq=False)
class CocoFile:
    """What is taken from a file. Entries of images and categories that make no sense stay as they
    are, to be named in an error.
    """

    images: List[Any]  # ImageEntry
    categories: List[Any]
    boxes: BoxTable
    annotated: bool  # there is a list of annotations, be it empty
    packed: bool  # images are in MindRecord files


def read_coco(path: str, findings: Findings) -> CocoFile:
    """The file at `path`, in UTF-8, 16 or 32.

    Raises:
        DataError: unreadable, not JSON, or without images and categories.
    """
    content = _content(read(path), path)
    categories, images = (entries_of(content, key, path) for key in ("categories", "images"))
    rows = content.get("annotations", [])
    if not isinstance(rows, list):
        message = f"{path}: expected a list under 'annotations', found {brief(rows)}"
        findings.refuse("malformed annotations", message)
        rows = []
    return CocoFile(
        [_image(entry) for entry in images],
        categories,
        _table(rows, findings),
        "annotations" in content,
        "mindrecord" in content,
    )


def _content(data: bytes, path: str) -> Mapping[str, Any]:
    """The parts of the file: annotations unread (`msgspec.Raw`), images as `ImageEntry`; all as
    Python's own reader has them where one of the two readers does not take it.
    """
    try:
        parts = msgspec.json.decode(data, type=Dict[str, msgspec.Raw])
        content: Dict[str, Any] = {
            key: _any(parts[key]) for key in ("categories", "mindrecord") if key in parts
        }
        for key, kind in (("images", List[ImageEntry]), ("annotations", List[msgspec.Raw])):
            if key in parts:
                try:
                    content[key] = msgspec.json.decode(parts[key], type=kind)
                except msgspec.ValidationError:
                    content[key] = _any(parts[key])
        return content
    except (ValueError, RecursionError):
        return parse_json(data, path)


def _any(raw: msgspec.Raw) -> Any:
    return json.loads(bytes(raw))


def _image(entry: Any) -> Any:
    """An `ImageEntry`, or what cannot be made one."""
    if isinstance(entry, dict):
        key, name = whole(entry.get("id")), entry.get("file_name")
        if key is not None and isinstance(name, str):
            return ImageEntry(key, name, *(entry.get(k) for k in ("width", "height", "row")))
    return entry


def _table(rows: Iterable[Any], findings: Findings) -> BoxTable:
    images, categories, crowd = array("q"), array("q"), array("b")
    boxes, areas = array("d"), array("d")
    decode: Callable[[msgspec.Raw], BoxEntry] = msgspec.json.Decoder(BoxEntry).decode
    for row in rows:
        try:
            entry: Optional[BoxEntry] = decode(row)
        except (msgspec.DecodeError, TypeError):
            entry = _careful(_any(row) if isinstance(row, msgspec.Raw) else row, findings)
        if entry is not None:
            images.append(entry.image_id)
            categories.append(entry.category_id)
            boxes.extend(entry.bbox)
            areas.append(entry.area)
            crowd.append(entry.iscrowd != 0)
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    given = np.array(areas, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        area = np.where((given > 0) & (given < 1e15), given, xywh[:, 2] * xywh[:, 3])
    image_ids, category_ids = np.array(images, np.int64), np.array(categories, np.int64)
    return BoxTable(image_ids, category_ids, xywh, area, np.array(crowd, bool))


def _careful(entry: Any, findings: Findings) -> Optional[BoxEntry]:
    """An annotation that has not the types of COCO's, if it can be used."""
    if not isinstance(entry, dict):
        findings.note("malformed annotations", brief(entry))
        return None
    image, category = whole(entry.get("image_id")), whole(entry.get("category_id"))
    box, area = numbers(entry.get("bbox")), entry.get("area")
    if box is None and entry.get("bbox") in (None, []):
        box = around_polygons(entry.get("segmentation"))
        if box:
            findings.note("boxes made of polygons", f"annotation {brief(entry.get('id'))}")
    if image is None or box is None:
        wrong = misfit(entry, "image_id" if image is None else "bbox")
        findings.note("malformed annotations", f"annotation {brief(entry.get('id'))}: {wrong}")
        return None
    if category is None:
        message = f"annotation {brief(entry.get('id'))}: {misfit(entry, 'category_id')}"
        findings.note("boxes of unknown categories", message)
        return None
    given = float(area) if isinstance(area, (int, float)) and 0 < area < 1e15 else 0.0
    return BoxEntry(image, category, box, given, flag(entry.get("iscrowd")))
