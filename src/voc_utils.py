# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: reading its folders of XML files, and its two ways of scoring.

Boxes of VOC count pixels from 1 and include the last one. Here they are edges in pixels from 0, so
that width = xmax - xmin + 1 of the development kit becomes right - left, and no + 1 appears
anywhere else.
"""

import posixpath
import re
from collections import defaultdict
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple
from xml.etree import ElementTree

import numpy as np

from src.data_layout import (
    WHOLE,
    Tree,
    choose_split,
    first_missing,
    held_out,
    image_folders,
    image_stems,
    unsafe_name,
)
from src.images import ImageError, image_header
from src.records import DataError, DetectionData, Findings, PackedRecords, make_record

MAX_XML_BYTES = 16 * 1024 * 1024


class _Folder:
    """One folder of XML files with its splits: lists of stems."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self.folder = folder
        self.stems = sorted(
            name[:-4] for name in tree.files[folder] if name.lower().endswith(".xml")
        )
        self.names = {
            name[:-4]: name for name in tree.files[folder] if name.lower().endswith(".xml")
        }
        self.parent = posixpath.dirname(folder)
        self.lists = (
            posixpath.join(self.parent, "ImageSets/Main") if self.parent else "ImageSets/Main"
        )
        self.splits = {
            name[:-4]: posixpath.join(self.lists, name)
            for name in tree.files.get(self.lists, ())
            if name.endswith(".txt")
        }


def is_voc(tree: Tree) -> bool:
    """Whether there are XML files below the root."""
    return bool(_folders(tree))


def _folders(tree: Tree) -> List[_Folder]:
    """Folders of XML files; where some are named Annotations only those."""
    holding = [
        folder
        for folder in sorted(tree.files)
        if any(name.lower().endswith(".xml") for name in tree.files[folder])
    ]
    named = [folder for folder in holding if posixpath.basename(folder).lower() == "annotations"]
    return [_Folder(tree, folder) for folder in named or holding]


def load_voc(tree: Tree, split: str, findings: Findings) -> DetectionData:
    """One split of a Pascal VOC data set: ImageSets/Main lists, folders named as splits, or
    undivided.

    Several years side by side (VOCdevkit/VOC2007, VOC2012) are put together. Class names are all
    those in the XML files, sorted, so that every split has the same labels. An image's id is its
    place in the split, from 1.

    Raises:
        DataError: a missing split, file or image, or a file that makes no sense.
    """
    folders = _folders(tree)
    chosen, members = _members(tree, folders, split)
    parsed: Dict[str, Optional[Dict[str, Any]]] = {}
    wanted = {posixpath.join(folder.folder, folder.names[stem]) for folder, stem in members}
    for folder in folders:
        for stem in folder.stems:
            relative = posixpath.join(folder.folder, folder.names[stem])
            parsed[relative] = _parse(tree.path(relative), relative in wanted, findings)
    names = sorted({row[0] for content in parsed.values() if content for row in content["objects"]})
    if not names:
        raise DataError(f"{tree.path(folders[0].folder)}: no XML file with an object in it")
    labels = {name: label for label, name in enumerate(names, 1)}
    records, missing = [], []
    for number, (folder, stem) in enumerate(members, 1):
        content = parsed[posixpath.join(folder.folder, folder.names[stem])]
        if content is None:
            continue
        place = _image_of(tree, folder, stem, content["filename"], chosen)
        if place is None:
            missing.append(
                tree.path(posixpath.join(folder.parent, "JPEGImages", content["filename"] or stem))
            )
            continue
        record = _record(tree.path(place), number, content, labels, findings)
        records += [record] if record else []
    for path in missing[:1] if not findings.collect else missing:
        where = tree.path(folders[0].folder)
        findings.refuse(
            "missing images",
            path
            if findings.collect
            else first_missing(missing, len(members), where) + _links(tree),
        )
    return DetectionData(
        PackedRecords(records),
        tuple(names),
        tuple(range(1, len(names) + 1)),
        chosen,
        tree.path(folders[0].folder),
        "voc",
        dict(findings.counts),
    )


def _links(tree: Tree) -> str:
    return "".join(
        f"; {link} is a link out of the data set, refused" for link in list(tree.outside)[:1]
    )


def _members(
    tree: Tree, folders: Sequence[_Folder], split: str
) -> Tuple[str, List[Tuple[_Folder, str]]]:
    """The resolved split and its (folder, stem) pairs."""
    available: Dict[str, bool] = {name: True for folder in folders for name in folder.splits}
    if not available:
        by_folder = len(folders) > 1
        available = (
            {posixpath.basename(f.folder) or WHOLE: True for f in folders}
            if by_folder
            else {WHOLE: True}
        )
        chosen = choose_split(split, available, tree.root)
        if by_folder:
            kept = [f for f in folders if (posixpath.basename(f.folder) or WHOLE) == chosen]
            return chosen, [(f, stem) for f in kept for stem in f.stems]
        return chosen, [
            (folders[0], s) for i, s in enumerate(folders[0].stems) if held_out(chosen, i)
        ]
    chosen = choose_split(split, available, tree.root)
    members = []
    for folder in folders:
        if chosen in folder.splits:
            path = tree.path(folder.splits[chosen])
            for stem in _listed(path):
                if stem not in folder.names:
                    xml = tree.path(posixpath.join(folder.folder, stem + ".xml"))
                    raise DataError(f"{xml}: no such file, listed in {path}")
                members.append((folder, stem))
    if not members:
        raise DataError(f"{tree.root}: split {chosen!r} lists no images")
    return chosen, members


def _listed(path: str) -> List[str]:
    """The stems in an ImageSets list, once each; a list for one class marks those without by -1."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            rows = [line.split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of image names ({error})") from None
    flagged = all(len(row) == 2 and row[1] in ("-1", "0", "1") for row in rows if row)
    if flagged:
        return list(dict.fromkeys(row[0] for row in rows if row and row[1] != "-1"))
    return list(dict.fromkeys(" ".join(row) for row in rows if row))


def _parse(path: str, wanted: bool, findings: Findings) -> Optional[Dict[str, Any]]:
    """File name, size and objects of one XML file; None if it is unusable (fatal only when
    `wanted`).
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_XML_BYTES + 1)
        # Entities are the way to make a small XML file large, or to read another file through it.
        if len(text) > MAX_XML_BYTES or re.search(rb"<!(DOCTYPE|ENTITY)", text):
            raise ValueError("too large, or with a document type, which is refused")
        root = ElementTree.fromstring(text)
        if root.tag != "annotation":
            raise ValueError(f"expected <annotation>, found <{root.tag[:40]}>")
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        if wanted:
            findings.refuse(
                "bad XML files", f"{path}: not a Pascal VOC annotation ({str(error)[:100]})"
            )
        return None
    objects = []
    for item in root.findall("object"):
        name = (item.findtext("name") or "").strip()
        box = tuple(
            _number(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        if not name or None in box:
            if wanted:
                findings.note("malformed annotations", path)
            continue
        difficult = (item.findtext("difficult") or "0").strip() not in ("0", "", "Unspecified")
        objects.append((name, box, difficult))
    size = tuple(_number(root.findtext(f"size/{key}")) or 0 for key in ("width", "height"))
    return {"filename": (root.findtext("filename") or "").strip(), "size": size, "objects": objects}


def _number(text: Optional[str]) -> Optional[float]:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _image_of(tree: Tree, folder: _Folder, stem: str, filename: str, split: str) -> Optional[str]:
    """The image of an XML file: by its stem, else by the <filename> in it."""
    near = posixpath.join(folder.parent, "JPEGImages") if folder.parent else "JPEGImages"
    places = [near, *image_folders(tree, split, folder.folder)]
    for place in places:
        for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG"):
            if stem + suffix in tree.files.get(place, ()):
                return posixpath.join(place, stem + suffix) if place else stem + suffix
    for place in places:
        if stem in image_stems(tree, place):
            return posixpath.join(place, image_stems(tree, place)[stem])
    return None if unsafe_name(filename) else tree.find(filename.replace("\\", "/"), places)


def _record(
    path: str,
    number: int,
    content: Mapping[str, Any],
    labels: Mapping[str, int],
    findings: Findings,
) -> Any:
    """The record of one image, or None if its size is not to be had."""
    width, height = content["size"]
    if not (
        0 < width < 10**6 and 0 < height < 10**6 and width == int(width) and height == int(height)
    ):
        try:
            header = image_header(path)
        except ImageError as error:
            findings.refuse("unreadable images", str(error))
            return None
        width, height = header.width, header.height
    size = int(width), int(height)
    boxes = []
    for name, (xmin, ymin, xmax, ymax), difficult in content["objects"]:
        if xmax <= xmin or ymax <= ymin:
            findings.note("zero-area boxes", path)
            continue
        box = findings.clip((xmin - 1, ymin - 1, xmax, ymax), size, path)
        if box:
            boxes.append((box, labels[name], difficult))
    return make_record(number, path, size, boxes)


def voc_average_precision(recall: np.ndarray, precision: np.ndarray, metric: str = "area") -> float:
    """AP from the curve of one class, points in order of falling score.

    Source: Everingham et al., The Pascal VOC Challenge (IJCV 2010), section 4.2 (11 points), and
    the VOC2010 development kit (area under the monotone curve).

    Args:
        recall: (N,) non-decreasing.
        precision: (N,).
        metric: "area" or "11point".
    """
    if metric == "11point":
        # Recalls are counts over counts: compare with slack below one count in a million.
        return float(
            np.mean(
                [
                    precision[recall >= level - 1e-9].max()
                    if (recall >= level - 1e-9).any()
                    else 0.0
                    for level in np.arange(11) / 10
                ]
            )
        )
    if metric != "area":
        raise ValueError(f"metric must be 'area' or '11point', not {metric!r}")
    steps = np.diff(np.concatenate([[0.0], recall]))
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((steps * ceiling).sum())


def voc_mean_ap(
    data: DetectionData,
    results: Sequence[Mapping[str, Any]],
    iou_threshold: float = 0.5,
    metric: str = "area",
) -> Tuple[float, Dict[str, float]]:
    """Mean AP over the classes that have ground truth, and AP by class name (NaN for the others).

    Ground truths flagged `ignore` (difficult) count neither as found nor as missed. `results` are
    entries as made by `src.scoring.coco_results`.
    """
    by_class: Dict[int, List[Mapping[str, Any]]] = defaultdict(list)
    for entry in results:
        by_class[entry["category_id"]].append(entry)
    scores = {
        name: _class_ap(data, label, by_class[category], iou_threshold, metric)
        for label, (name, category) in enumerate(zip(data.class_names, data.category_ids), 1)
    }
    valid = [value for value in scores.values() if not np.isnan(value)]
    return (float(np.mean(valid)) if valid else float("nan")), scores


def _class_ap(
    data: DetectionData,
    label: int,
    entries: Sequence[Mapping[str, Any]],
    iou_threshold: float,
    metric: str,
) -> float:
    truth, positives = {}, 0
    for record in data.records:
        mine = record.labels == label
        truth[record.image_id] = (record.boxes_px[mine].astype(np.float64), record.ignore[mine])
        positives += int((~record.ignore[mine]).sum())
    if not positives:
        return float("nan")
    taken: Set[Tuple[int, int]] = set()
    hits = []
    for entry in sorted(entries, key=lambda item: -item["score"]):
        boxes, ignore = truth[entry["image_id"]]
        overlap = _iou(entry["bbox"], boxes)
        best = int(overlap.argmax()) if len(boxes) else -1
        if best < 0 or overlap[best] < iou_threshold:
            hits.append(False)
        elif not ignore[best]:
            key = (entry["image_id"], best)
            hits.append(key not in taken)
            taken.add(key)
    found = np.cumsum(np.array(hits, np.float64))
    return voc_average_precision(found / positives, found / np.arange(1, len(hits) + 1), metric)


def _iou(bbox_xywh: Sequence[float], boxes_xyxy: np.ndarray) -> np.ndarray:
    x, y, w, h = bbox_xywh
    low = np.maximum(boxes_xyxy[:, :2], (x, y))
    high = np.minimum(boxes_xyxy[:, 2:], (x + w, y + h))
    inter = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    return inter / (areas + w * h - inter)
