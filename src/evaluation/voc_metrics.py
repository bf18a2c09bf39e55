# SPDX-License-Identifier: Apache-2.0
"""The two metrics of Pascal VOC: 11-point AP of 2007, and area under the curve since 2010."""

from collections import defaultdict
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

import numpy as np

from ..box_utils import iou_matrix
from ..data.records import DetectionData


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
        x, y, w, h = entry["bbox"]
        overlap = iou_matrix(np.array([[x, y, x + w, y + h]]), boxes)[0]
        best = int(overlap.argmax()) if len(boxes) else -1
        if best < 0 or overlap[best] < iou_threshold:
            hits.append(False)
        elif not ignore[best]:
            key = (entry["image_id"], best)
            hits.append(key not in taken)
            taken.add(key)
    found = np.cumsum(np.array(hits, np.float64))
    return voc_average_precision(found / positives, found / np.arange(1, len(hits) + 1), metric)
