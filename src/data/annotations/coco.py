# SPDX-License-Identifier: Apache-2.0
"""COCO annotation files to records, and records to the ground truth that scorers take."""

import os
import posixpath
from collections import defaultdict
from typing import (
    Any,
    Container,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from ..images import image_header
from ..records import (
    DetectionData,
    Findings,
    ImageError,
    ImageRecord,
    PackedRecords,
    make_record,
)
from .coco_json import brief, entries_of, raw_boxes, read_json, whole
from .layout import (
    Tree,
    coco_files,
    held_out,
    image_folders,
    mindrecord_place,
    report_missing,
    unsafe_name,
)


def load_coco(tree: Tree, split: str, relative: str, findings: Findings) -> DetectionData:
    path = tree.path(relative)
    content = read_json(path)
    categories = _categories(content, path, findings)
    ids = tuple(sorted(categories))
    images = _images(content, path, findings)
    chosen = images
    if split not in coco_files(tree):
        chosen = {key: images[key] for i, key in enumerate(sorted(images)) if held_out(split, i)}
    packed = "mindrecord" in content
    places = _locate(chosen, tree, split, relative, packed, findings)
    records = _records(content, places, images, ids, findings)
    return DetectionData(
        PackedRecords(records),
        tuple(categories[key] for key in ids),
        ids,
        split,
        path,
        "coco",
        dict(findings.counts),
        "annotations" in content,
    )


def _records(
    content: Mapping[str, Any],
    places: Mapping[int, Tuple[str, int, int]],
    known: Container[int],
    category_ids: Sequence[int],
    findings: Findings,
) -> List[ImageRecord]:
    label_of = {category: label for label, category in enumerate(category_ids, 1)}
    boxes: Dict[int, List] = defaultdict(list)
    for raw in raw_boxes(content, findings, label_of):
        if raw.image_id in places:
            file_path, width, height = places[raw.image_id]
            x, y, w, h = raw.bbox_xywh
            box = findings.clip((x, y, x + w, y + h), (width, height), file_path)
            if box:
                boxes[raw.image_id].append((box, label_of[raw.category_id], raw.crowd))
        elif raw.image_id not in known:
            findings.note("boxes of unknown images", f"image_id {raw.image_id}")
    return [
        make_record(key, file_path, (width, height), boxes.get(key, ()))
        for key, (file_path, width, height) in places.items()
    ]


def _categories(content: Mapping[str, Any], path: str, findings: Findings) -> Dict[int, str]:
    """Name by category id."""
    names: Dict[int, str] = {}
    for entry in entries_of(content, "categories", path):
        entry = entry if isinstance(entry, dict) else {}
        key, name = whole(entry.get("id")), entry.get("name")
        if key is None or not isinstance(name, str) or not name.isprintable() or not name:
            findings.refuse(
                "bad categories", f"{path}: expected id and name in category {brief(entry)}"
            )
        elif names.get(key, name) != name:
            findings.refuse(
                "bad categories", f"{path}: category id {key} is both {names[key]!r} and {name!r}"
            )
        else:
            names[key] = name
    return _without_twins(names, content, path, findings)


def _without_twins(
    names: Dict[int, str], content: Mapping[str, Any], path: str, findings: Findings
) -> Dict[int, str]:
    """`names` without the categories that repeat another's name and have no box.

    Exporters list the project itself as a category, often under the name of its only class.
    """
    if len(set(names.values())) == len(names):
        return names
    entries = content.get("annotations")
    rows = [row for row in entries if isinstance(row, dict)] if isinstance(entries, list) else []
    used = {whole(row.get("category_id")) for row in rows}
    kept: Dict[str, int] = {}
    for key in sorted(names, key=lambda key: (key in used, key), reverse=True):
        other = kept.setdefault(names[key], key)
        both = f"{path}: categories {min(key, other)} and {max(key, other)} are both {names[key]!r}"
        if other != key and key in used:
            findings.refuse("bad categories", f"{both}; give each a name of its own")
        elif other != key:
            findings.warn("repeated category names", f"{both}; {key} has no boxes and is left out")
    return {key: name for name, key in sorted(kept.items(), key=lambda item: item[1])}


def _images(
    content: Mapping[str, Any], path: str, findings: Findings
) -> Dict[int, Mapping[str, Any]]:
    """Entry by image id."""
    images: Dict[int, Mapping[str, Any]] = {}
    for entry in entries_of(content, "images", path):
        entry = entry if isinstance(entry, dict) else {}
        key, name = whole(entry.get("id")), entry.get("file_name")
        if key is None or not isinstance(name, str):
            findings.refuse(
                "bad images", f"{path}: expected id and file_name in image {brief(entry)}"
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
    packed: bool,
    findings: Findings,
) -> Dict[int, Tuple[str, int, int]]:
    """Absolute path, width and height by image id, for the images that are there."""
    folders = image_folders(tree, split, posixpath.dirname(relative))
    found: Dict[int, Tuple[str, int, int]] = {}
    missing = []
    for key, entry in images.items():
        name = entry["file_name"].replace("\\", "/")
        if packed:
            place = mindrecord_place(tree, split, whole(entry.get("row")))
        else:
            place = tree.find(posixpath.normpath(name), folders)
        if place is None:
            missing.append(posixpath.join(folders[0], name))
            continue
        size = _size(entry, tree.path(place), tree.path(relative), findings)
        if size:
            found[key] = (tree.path(place), *size)
    report_missing(tree, missing, len(images), tree.path(relative), findings)
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
        findings.refuse("bad images", f"{listed_in}: width and height of {name} are {brief(sides)}")
        return None
    return width, height


def ground_truth(data: DetectionData) -> Dict[str, Any]:
    """`data` as the contents of a COCO annotation file.

    For COCO data boxes and areas are read again from the file: areas are those of the
    segmentations, and float32 or clipped boxes would move the score in its last digits.
    """
    images = [
        {"id": row.image_id, "width": row.width, "height": row.height} for row in data.records
    ]
    categories = [
        {"id": key, "name": name} for key, name in zip(data.category_ids, data.class_names)
    ]
    boxes = _coco_truth(data) if data.style == "coco" else _record_truth(data)
    return {"images": images, "categories": categories, "annotations": boxes}


def _record_truth(data: DetectionData) -> List[Dict[str, Any]]:
    rows: List[Dict[str, Any]] = []
    for record in data.records:
        for box, label, ignore in zip(record.boxes_px.tolist(), record.labels, record.ignore):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            rows.append(
                {
                    "image_id": record.image_id,
                    "category_id": data.category_ids[int(label) - 1],
                    "bbox": xywh,
                    "area": xywh[2] * xywh[3],
                    "iscrowd": int(ignore),
                    "id": len(rows) + 1,
                }
            )
    return rows


def _coco_truth(data: DetectionData) -> List[Dict[str, Any]]:
    sizes = {record.image_id: (record.width, record.height) for record in data.records}
    findings = Findings()
    rows: List[Dict[str, Any]] = []
    for raw in raw_boxes(read_json(data.annotation_path), findings, set(data.category_ids)):
        if raw.image_id not in sizes:
            continue
        x, y, w, h = raw.bbox_xywh
        clipped = findings.clip((x, y, x + w, y + h), sizes[raw.image_id], "")
        if clipped:
            rows.append(
                {
                    "image_id": raw.image_id,
                    "category_id": raw.category_id,
                    "bbox": _within_a_pixel(raw.bbox_xywh, clipped),
                    "area": raw.area,
                    "iscrowd": int(raw.crowd),
                    "id": len(rows) + 1,
                }
            )
    return rows


def _within_a_pixel(
    raw_xywh: Tuple[float, float, float, float], clipped_xyxy: Tuple[float, float, float, float]
) -> List[float]:
    """The box as it stands in the file, or clipped where it reaches further out of the image."""
    x, y, w, h = raw_xywh
    left, top, right, bottom = clipped_xyxy
    if max(left - x, top - y, x + w - right, y + h - bottom) <= 1:
        return [x, y, w, h]
    return [left, top, right - left, bottom - top]
