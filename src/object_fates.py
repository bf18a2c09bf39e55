# SPDX-License-Identifier: Apache-2.0
"""What became of each object, by its size: found, or what kept it from being found. NumPy only.

Where `src/detection_errors.py` judges detections, this judges objects; the two share IoU limits.
"""

from typing import Dict, Sequence

import numpy as np

from src.box_utils import iou_matrix
from src.data.records import COCO_SIZES, DetectionData, ImageRecord
from src.detection_errors import MATCH_IOU, TOUCH_IOU, ErrorSummary, ImageErrors

FATES = ("found", "localisation", "class", "both", "missed")
SIZES = ("tiny", *(name for name, _, _ in COCO_SIZES))
TINY_PX = 16  # sides of a square as large as the largest tiny object; COCO counts it as small


def fates_by_size(data: DetectionData, errors: ErrorSummary) -> Dict[str, Dict[str, int]]:
    """Number of objects of each fate by size (pixels of the image, COCO's limits, and tiny below).

    Found: a detection of its class, its own, with IoU 0.5. Else by the detections at hand:
    localisation (its class, IoU 0.1 to 0.5), class (another one, IoU 0.5), both (another class,
    IoU 0.1 to 0.5), missed (nothing near). Crowd and difficult objects are left out.
    """
    counts = {size: dict.fromkeys(FATES, 0) for size in SIZES}
    for record, image in zip(data.records, errors.images):
        sides = record.boxes_px[:, 2:] - record.boxes_px[:, :2]
        for row in np.flatnonzero(~record.ignore):
            counts[_size_of(float(sides[row].prod()))][_fate(row, record, image)] += 1
    return counts


def _size_of(area: float) -> str:
    if area < TINY_PX**2:
        return SIZES[0]
    return next(name for name, low, high in COCO_SIZES if low <= area < high)


def _fate(row: int, record: ImageRecord, image: ImageErrors) -> str:
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
    lines = [f"{'objects':<20}" + "".join(f"{name:>13}" for name in ("all", *FATES))]
    for size, row in counts.items():
        if sum(row.values()):
            numbers = (sum(row.values()), *row.values())
            lines.append(f"{size:<20}" + "".join(f"{number:>13}" for number in numbers))
    return lines
