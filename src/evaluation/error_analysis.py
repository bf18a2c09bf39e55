# SPDX-License-Identifier: Apache-2.0
"""Confusion matrix, false positives and misses by kind, recall by size and cause. NumPy only.

Detections above a score are matched with ground truths at IoU 0.5, best score first. The kinds are
those of Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (ECCV
2020), section 2.2, without their effect on AP.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from ..box_utils import iou_matrix
from ..data.records import COCO_SIZES, DetectionData, ImageRecord, truth_of
from .result_arrays import ResultArrays, result_arrays

MATCH_IOU = 0.5  # least IoU of a detection and its object
TOUCH_IOU = 0.1  # with a lower IoU a false positive counts as background
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
    found_by: np.ndarray  # (G,) score of the detection that finds each object, 0 where none does

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
    kept = [entry for entry in results if entry["score"] >= score_threshold]
    confusion = np.zeros((data.num_classes, data.num_classes), np.int64)
    images = []
    for record, _, found in result_arrays(data, kept).by_image(data.records):
        overlap = iou_matrix(found.boxes_px, record.boxes_px.astype(np.float64))
        on_ignored = _inside(found.boxes_px, record, overlap) >= MATCH_IOU
        images.append(_judge_image(record, found, overlap, on_ignored))
        _count_confusion(confusion, record, found.labels, overlap, on_ignored.any(axis=1))
    counts = dict.fromkeys(KINDS, 0)
    for image in images:
        counts["missed"] += len(image.missed)
        for kind in image.kinds:
            if kind != "ignored":
                counts[kind] += 1
    return ErrorSummary(confusion, counts, images, score_threshold)


def _inside(boxes_px: np.ndarray, record: ImageRecord, overlap: np.ndarray) -> np.ndarray:
    """(N, G) how much of each box's area lies in each ignored object, as COCO scores crowds.

    Args:
        overlap: (N, G) their IoU.
    """
    mine, theirs = (
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        for boxes in (boxes_px, record.boxes_px.astype(np.float64))
    )
    common = overlap * (mine[:, None] + theirs) / (1 + overlap)
    return np.where(record.ignore, common / np.maximum(mine, 1e-9)[:, None], 0.0)


def _take_free(overlap: np.ndarray) -> np.ndarray:
    """(N,) the object of each detection, or -1: one after another takes, of the objects that are
    free, the one it overlaps most, from `MATCH_IOU` on.
    """
    taken = np.full(len(overlap), -1)
    rows, objects = np.nonzero(overlap >= MATCH_IOU)
    free = set(objects.tolist())
    order = np.lexsort((-overlap[rows, objects], rows))  # stable: the first of equal ones
    for row, match in zip(rows[order].tolist(), objects[order].tolist()):
        if taken[row] < 0 and match in free:
            free.remove(match)
            taken[row] = match
    return taken


def _count_confusion(
    confusion: np.ndarray,
    record: ImageRecord,
    labels: np.ndarray,
    overlap: np.ndarray,
    on_ignored: np.ndarray,
) -> None:
    """Adds one image: each detection takes the free object it overlaps most, whatever its class."""
    taken = _take_free(np.where(record.ignore, -1.0, overlap))
    found = taken >= 0
    np.add.at(confusion, (record.labels[taken[found]], labels[found]), 1)
    np.add.at(confusion[0], labels[~found & ~on_ignored], 1)
    missed = ~record.ignore
    missed[taken[found]] = False
    np.add.at(confusion[:, 0], record.labels[missed], 1)


def _judge_image(
    record: ImageRecord, found: ResultArrays, overlap: np.ndarray, on_ignored: np.ndarray
) -> ImageErrors:
    """Kinds of an image's detections; the first that holds, as they stand here."""
    same = found.labels[:, None] == record.labels
    real = ~record.ignore

    def best(which: np.ndarray) -> np.ndarray:
        return np.where(which, overlap, 0.0).max(axis=1, initial=0.0)

    taken = _take_free(np.where(same & real, overlap, -1.0))
    of_class, of_others = best(same & real), best(~same & real)
    kinds = np.select(
        [
            taken >= 0,
            (same & on_ignored).any(axis=1),
            of_class >= MATCH_IOU,  # of an object that is taken
            of_others >= MATCH_IOU,
            of_class >= TOUCH_IOU,
            of_others >= TOUCH_IOU,
        ],
        ["correct", "ignored", "duplicate", "class", "localisation", "both"],
        "background",
    )
    found_by = np.zeros(len(real))
    found_by[taken[taken >= 0]] = found.scores[taken >= 0]
    missed = real.copy()
    missed[taken[taken >= 0]] = False
    return ImageErrors(
        record.image_id,
        found.boxes_px,
        found.labels,
        found.scores,
        tuple(kinds.tolist()),
        np.flatnonzero(missed),
        found_by,
    )


OUTCOMES = ("found", "localisation", "class", "both", "missed")
SIZES = ("tiny", *(name for name, _, _ in COCO_SIZES))
TINY_PX = 16  # sides of a square as large as the largest tiny object; COCO counts it as small


def recall_by_size(data: DetectionData, errors: ErrorSummary) -> Dict[str, Dict[str, int]]:
    """Number of objects found and missed by size, and the cause of each miss.

    Sizes are COCO's, and tiny below: by the area of the annotation, which is that of the
    segmentation where there is one, as in AP_small, AP_medium and AP_large.

    Found: a detection of its class, its own, with IoU 0.5. Else a miss, by what is found near it:
    localisation (its class, IoU 0.1 to 0.5), class (another one, IoU 0.5), both (another class,
    IoU 0.1 to 0.5), missed (nothing near). Crowd and difficult objects are left out.
    """
    counts = {size: dict.fromkeys(OUTCOMES, 0) for size in SIZES}
    areas = iter(truth_of(data).areas.tolist())
    for record, image in zip(data.records, errors.images):
        for ignored, outcome in zip(record.ignore, _outcomes(record, image)):
            size = _size_of(next(areas))
            counts[size][outcome] += not ignored
    return counts


def _size_of(area: float) -> str:
    if area < TINY_PX**2:
        return SIZES[0]
    return next(name for name, low, high in COCO_SIZES if low <= area < high)


def _outcomes(record: ImageRecord, image: ImageErrors) -> List[str]:
    """Of each object of an image."""
    # A detection of its class that has another object is no attempt at this one.
    free = np.array([kind != "correct" for kind in image.kinds], bool)
    overlap = iou_matrix(image.boxes_px[free], record.boxes_px.astype(np.float64))
    same = image.labels[free, None] == record.labels
    of_class = np.where(same, overlap, 0.0).max(axis=0, initial=0.0)
    of_others = np.where(same, 0.0, overlap).max(axis=0, initial=0.0)
    found = np.ones(len(record.labels), bool)
    found[image.missed] = False
    outcomes = np.select(
        [found, of_class >= TOUCH_IOU, of_others >= MATCH_IOU, of_others >= TOUCH_IOU],
        ["found", "localisation", "class", "both"],
        "missed",
    )
    return list(outcomes.tolist())


def as_lines(counts: Dict[str, Dict[str, int]]) -> Sequence[str]:
    """A table for the terminal; sizes without objects are left out."""
    rows: List[Any] = [("objects", "all", *OUTCOMES)]
    rows += [(size, sum(row.values()), *row.values()) for size, row in counts.items()]
    form = "{:<10}{:>8}{:>8}{:>14}{:>8}{:>8}{:>8}"
    return [form.format(*row) for row in rows if row[1]]
