# SPDX-License-Identifier: Apache-2.0
"""Reading detection data sets: COCO in any of its layouts, Pascal VOC through `src.voc_utils`."""

import json
import math
import os
import posixpath
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Container, Dict, Iterator, List, Mapping, Optional, Tuple

from src.data_layout import (
    WHOLE,
    Tree,
    choose_split,
    coco_files,
    first_missing,
    held_out,
    image_folders,
    scan,
    unsafe_name,
)
from src.images import ImageError, image_header
from src.records import DataError, DetectionData, Findings, ImageRecord, PackedRecords, make_record
from src.scoring import coco_results, evaluate_coco, score_coco
from src.voc_utils import is_voc, load_voc

__all__ = [
    "DataError",
    "DetectionData",
    "ImageRecord",
    "coco_results",
    "evaluate_coco",
    "load_data",
    "score_coco",
]


@dataclass(frozen=True)
class RawBox:
    """One annotation as it stands in the file, checked for type but not clipped."""

    image_id: int
    category_id: int
    bbox_xywh: Tuple[float, float, float, float]  # pixels
    area: float  # pixels; the segmentation's where the file gives one
    crowd: bool


def load_data(
    root: str,
    split: str,
    allow_links: bool = False,
    findings: Optional[Findings] = None,
) -> DetectionData:
    """The images and boxes of one split of the data set below `root`.

    COCO with 2014 or 2017 names, one JSON file beside its images, or Pascal VOC, found by looking.
    "train" and "val" stand for what is there, e.g. train2017, trainval35k or
    ImageSets/Main/train.txt; an undivided data set is split nine to one. Boxes are clipped to the
    image, unusable ones dropped and counted. Links that lead out of `root` are refused unless
    `allow_links`. `findings` collects what is wrong instead of stopping at it.

    Raises:
        DataError: a missing directory, annotation file, split or image, or contents that make no
            sense.
    """
    tree = scan(root, allow_links)
    findings = findings if findings is not None else Findings()
    available = coco_files(tree)
    # A stray JSON file beside a folder of XML files does not make it COCO.
    named = any("instances_" in path or "annotations." in path for path in available.values())
    if available and (named or not is_voc(tree)):
        name = choose_split(split, available, tree.root)
        return _load_coco(tree, name, available.get(name, available.get(WHOLE, "")), findings)
    if is_voc(tree):
        return load_voc(tree, split, findings)
    link = next((f"; {link} is a link out of it" for link in tree.outside), "")
    raise DataError(
        f"{tree.root}: no annotations; expected annotations/instances_*.json (COCO)"
        f" or Annotations/*.xml (Pascal VOC){link}"
    )


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


def _load_coco(tree: Tree, split: str, relative: str, findings: Findings) -> DetectionData:
    path = tree.path(relative)
    content = read_json(path)
    categories = _categories(content, path, findings)
    label_of = {category: label for label, category in enumerate(sorted(categories), 1)}
    images = _images(content, path, findings)
    if relative and split not in coco_files(tree):
        images = {
            key: row for i, (key, row) in enumerate(sorted(images.items())) if held_out(split, i)
        }
    sizes = _locate(images, tree, split, relative, findings)
    boxes: Dict[int, List] = defaultdict(list)
    for raw in raw_boxes(content, findings, label_of):
        if raw.image_id in sizes:
            file_path, width, height = sizes[raw.image_id]
            x, y, w, h = raw.bbox_xywh
            box = findings.clip((x, y, x + w, y + h), (width, height), file_path)
            if box:
                boxes[raw.image_id].append((box, label_of[raw.category_id], raw.crowd))
        elif raw.image_id not in images:
            findings.note("boxes of unknown images", f"image_id {raw.image_id}")
    records = [
        make_record(key, file_path, (width, height), boxes.get(key, ()))
        for key, (file_path, width, height) in sizes.items()
    ]
    return DetectionData(
        PackedRecords(records),
        tuple(categories[category] for category in sorted(categories)),
        tuple(sorted(categories)),
        split,
        path,
        "coco",
        dict(findings.counts),
        "annotations" in content,
    )


def _entries(content: Mapping[str, Any], key: str, path: str) -> List[Any]:
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a list of {key} under {key!r}, found {_brief(entries)}")
    return entries


def _categories(content: Mapping[str, Any], path: str, findings: Findings) -> Dict[int, str]:
    """Name by category id."""
    names: Dict[int, str] = {}
    for entry in _entries(content, "categories", path):
        entry = entry if isinstance(entry, dict) else {}
        key, name = whole(entry.get("id")), entry.get("name")
        if key is None or not isinstance(name, str) or not name.strip():
            findings.refuse(
                "bad categories", f"{path}: expected id and name in category {_brief(entry)}"
            )
        elif names.get(key, name) != name:
            findings.refuse(
                "bad categories", f"{path}: category id {key} is both {names[key]!r} and {name!r}"
            )
        else:
            names[key] = name
    return names


def _images(
    content: Mapping[str, Any], path: str, findings: Findings
) -> Dict[int, Mapping[str, Any]]:
    """Entry by image id."""
    images: Dict[int, Mapping[str, Any]] = {}
    for entry in _entries(content, "images", path):
        entry = entry if isinstance(entry, dict) else {}
        key, name = whole(entry.get("id")), entry.get("file_name")
        if key is None or not isinstance(name, str):
            findings.refuse(
                "bad images", f"{path}: expected id and file_name in image {_brief(entry)}"
            )
        elif key in images and images[key]["file_name"] == name:
            findings.note("repeated images", name)
        elif key in images:
            findings.refuse(
                "bad images",
                f"{path}: image id {key} is both {images[key]['file_name']} and {name}",
            )
        elif unsafe_name(name):
            findings.refuse("unsafe paths", f"{path}: file_name {name!r} {unsafe_name(name)}")
        else:
            images[key] = entry
    return images


def _locate(
    images: Mapping[int, Mapping[str, Any]],
    tree: Tree,
    split: str,
    relative: str,
    findings: Findings,
) -> Dict[int, Tuple[str, int, int]]:
    """Absolute path, width and height by image id, for the images that are there."""
    folders = image_folders(tree, split, posixpath.dirname(relative))
    found: Dict[int, Tuple[str, int, int]] = {}
    missing = []
    for key, entry in images.items():
        name = entry["file_name"].replace("\\", "/")
        place = tree.find(posixpath.normpath(name), folders)
        if place is None:
            missing.append(tree.path(posixpath.join(folders[0], name)))
            continue
        size = _size(entry, tree.path(place), tree.path(relative), findings)
        if size:
            found[key] = (tree.path(place), *size)
    if missing and tree.outside:
        link = tree.link_out(posixpath.relpath(missing[0], tree.root))
        findings.refuse(
            "links out of the data set",
            f"{tree.path(link or '')}: is a link out of {tree.root}, which is refused;"
            f" {len(missing)} images were not found (data.allow_links=true follows it)",
        )
    for path in missing[:1] if not findings.collect else missing:
        message = first_missing([path, *missing[1:]], len(images), tree.path(relative))
        findings.refuse("missing images", path if findings.collect else message)
    return found


def _size(
    entry: Mapping[str, Any], path: str, listed_in: str, findings: Findings
) -> Optional[Tuple[int, int]]:
    """(width, height) as annotated, or from the file where the annotation leaves it out."""
    sides = [entry.get("width"), entry.get("height")]
    if sides[0] in (None, 0) or sides[1] in (None, 0):
        try:
            header = image_header(path)
            return header.width, header.height
        except ImageError as error:
            findings.refuse("unreadable images", str(error))
            return None
    width, height = whole(sides[0]), whole(sides[1])
    if width is None or height is None or not (0 < width < 10**6 and 0 < height < 10**6):
        name = os.path.basename(path)
        findings.refuse(
            "bad images", f"{listed_in}: width and height of {name} are {_brief(sides)}"
        )
        return None
    return width, height


def raw_boxes(
    content: Mapping[str, Any], findings: Findings, categories: Container[int]
) -> Iterator[RawBox]:
    """The annotations of a COCO file that have the right types and a known category."""
    entries = content.get("annotations", [])
    if not isinstance(entries, list):
        findings.refuse(
            "malformed annotations", f"expected a list under 'annotations', found {_brief(entries)}"
        )
        return
    for entry in entries:
        if not isinstance(entry, dict):
            findings.note("malformed annotations", _brief(entry))
            continue
        image, category = whole(entry.get("image_id")), whole(entry.get("category_id"))
        box = numbers(entry.get("bbox"))
        if image is None or box is None:
            findings.note("malformed annotations", f"annotation {_brief(entry.get('id'))}")
        elif category not in categories or category is None:
            findings.note(
                "boxes of unknown categories", f"category_id {_brief(entry.get('category_id'))}"
            )
        else:
            area = entry.get("area")
            if not isinstance(area, (int, float)) or not 0 < area < 1e15:
                area = box[2] * box[3]
            yield RawBox(image, category, box, float(area), bool(entry.get("iscrowd")))


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


def _brief(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)) and len(value) > 4:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
