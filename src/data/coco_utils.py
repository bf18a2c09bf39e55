# SPDX-License-Identifier: Apache-2.0
"""Reading detection data sets: COCO in any of its layouts, Pascal VOC through `src.voc_utils`."""

import gc
import logging
import os
import posixpath
from collections import defaultdict
from typing import Any, Container, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from src.coco_json import brief, entries_of, raw_boxes, read_json, whole
from src.data.images import image_header
from src.data.records import (
    DataError,
    DetectionData,
    Findings,
    ImageError,
    ImageRecord,
    PackedRecords,
    make_record,
)
from src.data_layout import (
    Tree,
    choose_split,
    coco_files,
    held_out,
    image_folders,
    is_coco_name,
    mindrecord_place,
    report_missing,
    scan,
    unsafe_name,
)
from src.scoring import coco_results, evaluate_coco, score_coco
from src.voc_utils import is_voc, load_voc, voc_splits

__all__ = [
    "DataError",
    "DetectionData",
    "ImageRecord",
    "coco_results",
    "evaluate_coco",
    "find_splits",
    "load_data",
    "score_coco",
]

logger = logging.getLogger(__name__)


def load_data(
    root: Union[str, os.PathLike],
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
    # Millions of objects and not one cycle: the collector would look at them again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        data = _load(tree, split, findings if findings is not None else Findings())
    finally:
        if collecting:
            gc.enable()
    if data.dropped and findings is None:
        logger.warning("%s, %s: %s", data.annotation_path, data.split, data.repairs())
    return data


def find_splits(root: Union[str, os.PathLike], allow_links: bool = False) -> List[str]:
    """The splits of the data set below `root`; ["all"] for an undivided one, [] for none at all.

    Raises:
        DataError: no such directory.
    """
    tree = scan(root, allow_links)
    return sorted(coco_files(tree) if _is_coco(tree) else voc_splits(tree))


def _is_coco(tree: Tree) -> bool:
    available = coco_files(tree)
    # A stray JSON file beside a folder of XML files does not make it COCO.
    return bool(available) and (any(map(is_coco_name, available.values())) or not is_voc(tree))


def _load(tree: Tree, split: str, findings: Findings) -> DetectionData:
    if _is_coco(tree):
        available = coco_files(tree)
        name = choose_split(split, available, tree.root)
        whole_set = next(iter(available.values()))  # the only one, where `name` is a part of it
        return _load_coco(tree, name, available.get(name, whole_set), findings)
    if is_voc(tree):
        return load_voc(tree, split, findings)
    link = next((f"; {link} is a link out of it" for link in tree.outside), "")
    raise DataError(
        f"{tree.root}: no annotations; expected annotations/instances_*.json (COCO)"
        f" or Annotations/*.xml (Pascal VOC){link}"
    )


def _load_coco(tree: Tree, split: str, relative: str, findings: Findings) -> DetectionData:
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
    return names


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
