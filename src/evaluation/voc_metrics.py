# SPDX-License-Identifier: Apache-2.0
"""The two metrics of Pascal VOC: 11-point AP of 2007, and area under the curve since 2010."""

from typing import Any, Dict, Mapping, Sequence, Tuple

import numpy as np

from ..box_utils import iou_matrix
from ..data.records import DetectionData
from .result_arrays import ResultArrays, result_arrays


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
    entries as made by `src.evaluation.coco_metrics.coco_results`.
    """
    found = result_arrays(data, results)
    hits, counted, positives = _match(data, found, iou_threshold)
    scores = {}
    for label, name in enumerate(data.class_names, 1):
        mine = hits[counted & (found.labels == label)]
        right = np.cumsum(mine, dtype=np.float64)
        recall = right / max(positives[label], 1)
        precision = right / np.arange(1, len(mine) + 1)
        ap = voc_average_precision(recall, precision, metric)
        scores[name] = ap if positives[label] else float("nan")
    valid = [value for value in scores.values() if not np.isnan(value)]
    return (float(np.mean(valid)) if valid else float("nan")), scores


def _match(
    data: DetectionData, found: ResultArrays, iou_threshold: float
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) bool, whether a detection is right; (N,) bool, whether it counts; (C,) objects by label.

    Each belongs to the object of its class that it overlaps most. The best one of an object is a
    true positive; those of ignored objects do not count.
    """
    objects, counted = np.full(len(found.labels), -1), np.ones(len(found.labels), bool)
    positives = np.zeros(data.num_classes, np.int64)
    before = 0  # objects of earlier images
    for record, rows, mine in found.by_image(data.records):
        positives += np.bincount(record.labels[~record.ignore], minlength=data.num_classes)
        if len(record.labels) and len(rows):
            same = mine.labels[:, None] == record.labels
            overlap = iou_matrix(mine.boxes_px, record.boxes_px.astype(np.float64))
            overlap = np.where(same, overlap, -1.0)
            best = overlap.argmax(axis=1)
            near = overlap.max(axis=1) >= iou_threshold
            objects[rows[near]] = before + best[near]
            counted[rows[near]] = ~record.ignore[best[near]]
        before += len(record.labels)
    hits = np.zeros(len(objects), bool)
    hits[np.unique(objects, return_index=True)[1]] = True  # best scores come first
    return hits & (objects >= 0), counted, positives
