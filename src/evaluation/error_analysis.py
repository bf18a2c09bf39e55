# SPDX-License-Identifier: Apache-2.0
"""Confusion matrix, false positives and misses by kind, recall by size and cause. NumPy only.

Detections above a score are matched with ground truths at IoU 0.5, best score first. The kinds are
those of Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (ECCV
2020), section 2.2, without their effect on AP.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from ..box_utils import iou_matrix
from ..data.records import COCO_SIZES, DetectionData, ImageRecord

MATCH_IOU = 0.5  # a detection is of an object from here on
TOUCH_IOU = 0.1  # below, it lies on the background
KINDS = ("correct", "localisation", "class", "both", "duplicate", "background", "missed")


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """The detections of one image by kind, and its missed ground truths."""

    image_id: int
    boxes_px: np.ndarray  # (N, 4) xyxy, best first
    labels: np.ndarray  # (N,) from 1
    scores: np.ndarray  # (N,)
    kinds: Tuple[str, ...]  # of each detection; "ignored" on a crowd or difficult object
    missed: np.ndarray  # (M,) rows of the record: objects not found

    @property
    def wrong(self) -> int:
        """Number of false positives and misses."""
        return len(self.missed) + sum(kind not in ("correct", "ignored") for kind in self.kinds)


@dataclass(frozen=True, eq=False)
class ErrorSummary:
    """Errors of a whole split."""

    confusion: np.ndarray  # (C, C) int: truth by prediction, 0 the background
    counts: Dict[str, int]  # by kind of `KINDS`
    images: List[ImageErrors]
    score_threshold: float


def judge_split(
    data: DetectionData, results: Sequence[Mapping[str, Any]], score_threshold: float = 0.3
) -> ErrorSummary:
    """Errors of `results` (entries of a COCO results file) with at least `score_threshold`."""
    label_of = {category: label for label, category in enumerate(data.category_ids, 1)}
    by_image: Dict[int, List[Mapping[str, Any]]] = defaultdict(list)
    for entry in results:
        if entry["score"] >= score_threshold:
            by_image[entry["image_id"]].append(entry)
    confusion = np.zeros((data.num_classes, data.num_classes), np.int64)
    images = []
    for record in data.records:
        entries = sorted(by_image[record.image_id], key=lambda entry: -entry["score"])
        boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([label_of[entry["category_id"]] for entry in entries], np.int64)
        scores = np.array([entry["score"] for entry in entries])
        images.append(_judge_image(record, boxes, labels, scores))
        _count_confusion(confusion, record, boxes, labels)
    counts = dict.fromkeys(KINDS, 0)
    for image in images:
        counts["missed"] += len(image.missed)
        for kind in image.kinds:
            if kind != "ignored":
                counts[kind] += 1
    return ErrorSummary(confusion, counts, images, score_threshold)


def _count_confusion(
    confusion: np.ndarray, record: ImageRecord, boxes: np.ndarray, labels: np.ndarray
) -> None:
    """Adds one image: each detection takes the free object it overlaps most, whatever its class."""
    overlap = iou_matrix(boxes, record.boxes_px.astype(np.float64))
    free = ~record.ignore
    for row, label in zip(overlap, labels):
        best = int(np.where(free, row, -1).argmax()) if free.any() else -1
        if best >= 0 and row[best] >= MATCH_IOU:
            free[best] = False
            confusion[record.labels[best], label] += 1
        elif not (row[record.ignore] >= MATCH_IOU).any():
            confusion[0, label] += 1
    np.add.at(confusion[:, 0], record.labels[free], 1)


def _judge_image(
    record: ImageRecord, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> ImageErrors:
    overlap = iou_matrix(boxes, record.boxes_px.astype(np.float64))
    found = np.zeros(len(record.labels), bool)
    kinds = []
    for row, label in zip(overlap, labels):
        kind, match = _judge(row, int(label), record, found)
        kinds.append(kind)
        if match >= 0:
            found[match] = True
    missed = np.flatnonzero(~found & ~record.ignore)
    return ImageErrors(record.image_id, boxes, labels, scores, tuple(kinds), missed)


def _judge(
    overlap: np.ndarray, label: int, record: ImageRecord, found: np.ndarray
) -> Tuple[str, int]:
    """Kind of one detection, and the object it finds or -1."""
    same = record.labels == label
    real = ~record.ignore

    def best(which: np.ndarray) -> float:
        return float(overlap[which].max(initial=0.0))

    free = real & same & ~found
    if best(free) >= MATCH_IOU:
        return "correct", int(np.where(free, overlap, -1).argmax())
    if best(same & ~real) >= MATCH_IOU:
        return "ignored", -1
    if best(real & same & found) >= MATCH_IOU:
        return "duplicate", -1
    if best(real & ~same) >= MATCH_IOU:
        return "class", -1
    if best(real & same) >= TOUCH_IOU:
        return "localisation", -1
    if best(real & ~same) >= TOUCH_IOU:
        return "both", -1
    return "background", -1


OUTCOMES = ("found", "localisation", "class", "both", "missed")
SIZES = ("tiny", *(name for name, _, _ in COCO_SIZES))
TINY_PX = 16  # sides of a square as large as the largest tiny object; COCO counts it as small


def recall_by_size(
    data: DetectionData, errors: ErrorSummary, truth: Sequence[Mapping[str, Any]]
) -> Dict[str, Dict[str, int]]:
    """Number of objects found and missed by size, and what the missed ones were missed for.

    Sizes are COCO's, and tiny below: by the area of the annotation, which is that of the
    segmentation where there is one, as in AP_small, AP_medium and AP_large.

    Found: a detection of its class, its own, with IoU 0.5. Else by the detections at hand:
    localisation (its class, IoU 0.1 to 0.5), class (another one, IoU 0.5), both (another class,
    IoU 0.1 to 0.5), missed (nothing near). Crowd and difficult objects are left out.

    Args:
        truth: the annotations of a COCO file's content (`CocoScore.truth`).
    """
    counts = {size: dict.fromkeys(OUTCOMES, 0) for size in SIZES}
    annotations: Dict[int, List[Mapping[str, Any]]] = defaultdict(list)
    for entry in truth:
        annotations[entry["image_id"]].append(entry)
    for record, image in zip(data.records, errors.images):
        areas = _areas(data, record, annotations[record.image_id])
        for row in np.flatnonzero(~record.ignore):
            counts[_size_of(float(areas[row]))][_outcome(row, record, image)] += 1
    return counts


def _areas(
    data: DetectionData, record: ImageRecord, annotations: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """(G,) area of each object of a record: of the annotation of its class that it overlaps most,
    as records hold no areas.
    """
    boxes = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    overlap = iou_matrix(record.boxes_px.astype(np.float64), boxes)
    categories = np.array(data.category_ids)[record.labels - 1]
    same = categories[:, None] == np.array([entry["category_id"] for entry in annotations])
    best = np.where(same, overlap, -1.0).argmax(axis=1) if len(annotations) else []
    return np.array([annotations[row]["area"] for row in best])


def _size_of(area: float) -> str:
    if area < TINY_PX**2:
        return SIZES[0]
    return next(name for name, low, high in COCO_SIZES if low <= area < high)


def _outcome(row: int, record: ImageRecord, image: ImageErrors) -> str:
    if row not in image.missed:
        return "found"
    box = record.boxes_px[row : row + 1].astype(np.float64)
    overlap = iou_matrix(image.boxes_px, box)[:, 0]
    same = image.labels == record.labels[row]
    # A detection of its class that has another object is no attempt at this one.
    taken = np.array([kind == "correct" for kind in image.kinds], bool)
    if overlap[same & ~taken].max(initial=0) >= TOUCH_IOU:
        return "localisation"
    other = overlap[~same & ~taken].max(initial=0)
    if other >= MATCH_IOU:
        return "class"
    return "both" if other >= TOUCH_IOU else "missed"


def as_lines(counts: Dict[str, Dict[str, int]]) -> Sequence[str]:
    """A table for the terminal; sizes without objects are left out."""
    lines = [f"{'objects':<20}" + "".join(f"{name:>13}" for name in ("all", *OUTCOMES))]
    for size, row in counts.items():
        if sum(row.values()):
            numbers = (sum(row.values()), *row.values())
            lines.append(f"{size:<20}" + "".join(f"{number:>13}" for number in numbers))
    return lines
