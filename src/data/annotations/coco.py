# SPDX-License-Identifier: Apache-2.0
"""COCO annotation files to records, and records to the ground truth that scorers take."""

import os
import posixpath
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from ...runtime.errors import printable_name
from ..images import image_header
from ..records import (
    MIN_SIDE,
    Columns,
    DetectionData,
    Findings,
    ImageError,
    PackedRecords,
    Truth,
    columns_of,
    truth_of,
)
from .coco_cache import read_cached
from .coco_file import BoxTable, CocoFile, ImageEntry
from .coco_json import brief, misfit, whole
from .image_places import image_folders
from .layout import (
    Tree,
    held_out,
    mindrecord_place,
    no_images,
    report_missing,
    split_of,
    unsafe_name,
)


def load_coco(
    tree: Tree, split: str, relative: str, undivided: bool, findings: Findings
) -> DetectionData:
    """The split that the file at `relative` annotates, or its part of an `undivided` data set.

    Raises:
        DataError: a file or image that is missing or makes no sense.
    """
    path = tree.path(relative)
    file = read_cached(path, findings)
    categories = _categories(file, path, findings)
    ids = tuple(sorted(categories))
    images = _images(file, path, findings)
    chosen = images
    if undivided:
        chosen = {key: images[key] for i, key in enumerate(sorted(images)) if held_out(split, i)}
        if images and not chosen:
            raise no_images(path, split, enough=False)
    # Of an undivided data set, "train" and "val" have the same files.
    part = split_of(posixpath.basename(relative), posixpath.dirname(relative))
    places = _locate(chosen, tree, part, relative, file.packed, findings)
    records, truth = _records(file.boxes, places, images, ids, findings)
    return DetectionData(
        records,
        tuple(categories[key] for key in ids),
        ids,
        split,
        path,
        "coco",
        dict(findings.counts),
        file.annotated,
        truth,
    )


Place = Tuple[str, int, int]  # absolute path, width, height


def _records(
    boxes: BoxTable,
    places: Mapping[int, Place],
    known: Mapping[int, Any],
    category_ids: Sequence[int],
    findings: Findings,
) -> Tuple[PackedRecords, Truth]:
    """The usable boxes by image, clipped; and the same as they stand in the file."""
    paths = [place[0] for place in places.values()]
    sizes = np.array([place[1:] for place in places.values()], np.int64).reshape(-1, 2)
    labels, listed = _index(boxes.category_ids, list(category_ids))
    for key in boxes.category_ids[~listed].tolist():
        findings.note("boxes of unknown categories", f"category_id {key}")
    owner, there = _index(boxes.image_ids, list(places))
    for key in boxes.image_ids[listed & ~there].tolist():
        if key not in known:
            findings.note("boxes of unknown images", f"image_id {key}")
    rows = np.flatnonzero(listed & there)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    clipped, truth, usable = _clipped(boxes.boxes_xywh[rows], sizes, owner[rows], paths, findings)
    rows, clipped, truth = rows[usable], clipped[usable], truth[usable]
    records = PackedRecords.of_columns(
        list(places),
        paths,
        Columns(
            sizes,
            owner[rows],
            clipped.astype(np.float32),
            (labels[rows] + 1).astype(np.int32),
            boxes.crowd[rows],
        ),
    )
    return records, Truth(truth, boxes.areas[rows])


def _index(values: np.ndarray, keys: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
    """The index of each value in `keys`, and whether it is there."""
    if not keys:
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    order = np.argsort(keys)
    ranked = np.asarray(keys, np.int64)[order]
    place = np.searchsorted(ranked, values).clip(max=len(keys) - 1)
    return order[place], ranked[place] == values


def _clipped(
    xywh: np.ndarray,
    sizes: np.ndarray,
    owner: np.ndarray,
    paths: Sequence[str],
    findings: Findings,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 4) corners within the images, (N, 4) xywh to score against, and which are usable.

    A box is scored as it stands in the file, unless it reaches more than a pixel out of its image.
    """
    truth = xywh.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        inside = (xywh[:, :2] >= 0) & (xyxy[:, 2:] <= sizes[owner])
        usable = (inside & (xyxy[:, 2:] - xyxy[:, :2] >= MIN_SIDE)).all(axis=1)
    for row in np.flatnonzero(~usable).tolist():  # these are few
        image, raw = int(owner[row]), xyxy[row].copy()
        width, height = sizes[image].tolist()
        box = findings.clip(raw.tolist(), (width, height), paths[image])
        if box:
            xyxy[row], usable[row] = box, True
            if np.abs(xyxy[row] - raw).max() > 1:
                truth[row] = *box[:2], box[2] - box[0], box[3] - box[1]
    return xyxy, truth, usable


def _categories(file: CocoFile, path: str, findings: Findings) -> Dict[int, str]:
    """Name by category id."""
    names: Dict[int, str] = {}
    for entry in file.categories:
        entry = entry if isinstance(entry, dict) else {}
        key, name = whole(entry.get("id")), entry.get("name")
        if key is None or not isinstance(name, str) or not printable_name(name):
            wrong = misfit(entry, "id" if key is None else "name")
            findings.refuse("bad categories", f"{path}: category {brief(entry)}: {wrong}")
        elif names.get(key, name) != name:
            findings.refuse(
                "bad categories", f"{path}: category id {key} is both {names[key]!r} and {name!r}"
            )
        else:
            names[key] = name
    return _without_duplicate_names(names, file.boxes, path, findings)


def _without_duplicate_names(
    names: Dict[int, str], boxes: BoxTable, path: str, findings: Findings
) -> Dict[int, str]:
    """`names` without the categories that repeat another's name and have no box.

    Exporters list the project itself as a category, often under the name of its only class.
    """
    if len(set(names.values())) == len(names):
        return names
    used = set(np.unique(boxes.category_ids).tolist())
    kept: Dict[str, int] = {}
    for key in sorted(names, key=lambda key: (key in used, key), reverse=True):
        other = kept.setdefault(names[key], key)
        both = f"{path}: categories {min(key, other)} and {max(key, other)} are both {names[key]!r}"
        if other != key and key in used:
            findings.refuse("bad categories", f"{both}; give each a name of its own")
        elif other != key:
            findings.warn("repeated category names", f"{both}; {key} has no boxes and is left out")
    return {key: name for name, key in sorted(kept.items(), key=lambda item: item[1])}


def _images(file: CocoFile, path: str, findings: Findings) -> Dict[int, ImageEntry]:
    """Entry by image id."""
    images: Dict[int, ImageEntry] = {}
    for entry in file.images:
        if not isinstance(entry, ImageEntry):
            fields = entry if isinstance(entry, dict) else {}
            wrong = misfit(fields, "id" if whole(fields.get("id")) is None else "file_name")
            findings.refuse("bad images", f"{path}: image {brief(entry)}: {wrong}")
            continue
        key, name = entry.id, entry.file_name
        if key in images and images[key].file_name == name:
            findings.note("repeated images", name)
        elif key in images:
            other = images[key].file_name
            findings.refuse("bad images", f"{path}: image id {key} is both {other} and {name}")
        elif unsafe_name(name):
            findings.refuse("unsafe paths", f"{path}: file_name {name!r} {unsafe_name(name)}")
        else:
            images[key] = entry
    return images


def _locate(
    images: Mapping[int, ImageEntry],
    tree: Tree,
    split: str,
    relative: str,
    packed: bool,
    findings: Findings,
) -> Dict[int, Place]:
    """The images that are there, by id."""
    folders = image_folders(tree, split, posixpath.dirname(relative))
    listed_in = tree.path(relative)
    packed_as = posixpath.basename(relative).removeprefix("instances_").removesuffix(".json")
    found: Dict[int, Place] = {}
    missing = []
    for key, entry in images.items():
        name = entry.file_name.replace("\\", "/")
        if packed:
            place = mindrecord_place(tree, packed_as, whole(entry.row))
        else:
            place = tree.find(posixpath.normpath(name), folders)
        if place is None:
            missing.append(posixpath.join(folders[0], name))
            continue
        path = tree.path(place)
        size = _size(entry, path, listed_in, findings)
        if size:
            found[key] = (path, *size)
    report_missing(tree, missing, len(images), listed_in, findings)
    return found


def _size(
    entry: ImageEntry, path: str, listed_in: str, findings: Findings
) -> Optional[Tuple[int, int]]:
    """(width, height) as annotated, or from the file where the annotation leaves it out."""
    sides = [entry.width, entry.height]
    if type(sides[0]) is int is type(sides[1]) and min(sides) > 0 and max(sides) < 10**6:
        return sides[0], sides[1]  # as nearly always
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
    """`data` as the contents of a COCO annotation file, with the boxes of `truth_of`."""
    images = [
        {"id": row.image_id, "width": row.width, "height": row.height} for row in data.records
    ]
    categories = [
        {"id": key, "name": name} for key, name in zip(data.category_ids, data.class_names)
    ]
    columns, truth = columns_of(data), truth_of(data)
    rows = zip(
        columns.image.tolist(),
        columns.labels.tolist(),
        truth.boxes_xywh.tolist(),
        truth.areas.tolist(),
        columns.ignore.tolist(),
    )
    annotations = [
        {
            "image_id": images[image]["id"],
            "category_id": data.category_ids[label - 1],
            "bbox": box,
            "area": area,
            "iscrowd": int(ignore),
            "id": number,
        }
        for number, (image, label, box, area, ignore) in enumerate(rows, 1)
    ]
    return {"images": images, "categories": categories, "annotations": annotations}
