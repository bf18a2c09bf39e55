# SPDX-License-Identifier: Apache-2.0
"""Every number of an evaluation in one structure, and as text. Without a framework."""

from collections import Counter
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from ..data.records import DetectionData
from ..runtime.terminal import wrapped
from .coco_metrics import CocoScore
from .error_analysis import ErrorSummary, as_lines, recall_by_size
from .voc_metrics import voc_mean_ap

RECALLS = np.linspace(0, 1, 101)  # of the curves
CURVES = {"0.50": 0, "0.75": 5}  # IoU and its row among the thresholds
_COLUMNS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")


def class_table(
    score: CocoScore, data: DetectionData, results: Sequence[Mapping[str, Any]]
) -> List[Dict[str, Any]]:
    """A row for each class: its name, objects, detections, AP by IoU and by size, and recall.

    -1 stands where there is no ground truth; ignored objects (crowd, difficult) are not counted.
    """
    objects: Counter = Counter()
    for record in data.records:
        objects.update(record.labels[~record.ignore].tolist())
    detections = Counter(entry["category_id"] for entry in results)
    columns = {
        "AP": score.average(score.precision[..., 0]),
        "AP50": score.average(score.precision[0, ..., 0]),
        "AP75": score.average(score.precision[5, ..., 0]),
        "AP_small": score.average(score.precision[..., 1]),
        "AP_medium": score.average(score.precision[..., 2]),
        "AP_large": score.average(score.precision[..., 3]),
        "AR_100": score.average(score.recall[..., 0]),
    }
    rows = []
    for label, (name, category) in enumerate(zip(data.class_names, data.category_ids), 1):
        counts = {"objects": objects[label], "detections": detections[category]}
        rows.append({"class": name, **counts, **{key: columns[key][name] for key in _COLUMNS}})
    return rows


def precision_recall(score: CocoScore) -> Dict[str, Dict[str, List[float]]]:
    """Precision at `RECALLS` by IoU ("0.50", "0.75") and class name; "all" is the mean of those
    with ground truth, and classes without are left out.
    """
    curves: Dict[str, Dict[str, List[float]]] = {}
    for iou, row in CURVES.items():
        by_class = {
            name: np.round(score.precision[row, :, column, 0], 4).tolist()
            for column, name in enumerate(score.class_names)
            if (score.precision[row, :, column, 0] > -1).all()
        }
        mean = np.round(np.mean(list(by_class.values()), axis=0), 4).tolist() if by_class else []
        curves[iou] = {"all": mean, **by_class}
    return curves


def voc_numbers(data: DetectionData, results: Sequence[Mapping[str, Any]]) -> Dict[str, float]:
    """mAP at IoU 0.5 by both metrics of Pascal VOC; -1 without ground truth."""
    numbers = {}
    for name, metric in (("VOC07_mAP", "11point"), ("VOC12_mAP", "area")):
        value = voc_mean_ap(data, results, metric=metric)[0]
        numbers[name] = -1.0 if np.isnan(value) else value
    return numbers


def all_metrics(
    score: CocoScore,
    data: DetectionData,
    results: Sequence[Mapping[str, Any]],
    errors: ErrorSummary,
) -> Dict[str, Any]:
    """What `metrics.json` holds, but for the speed."""
    table = class_table(score, data, results)
    return {
        **score.totals,
        **(voc_numbers(data, results) if data.style == "voc" else {}),
        "AP_by_class": {row["class"]: row["AP"] for row in table},
        "images": len(data.records),
        "detections": len(results),
        "classes": table,
        "errors": {"score_threshold": errors.score_threshold, **errors.counts},
        "objects_by_size": recall_by_size(data, errors),
        "confusion": {
            "classes": ["background", *data.class_names],
            "rows": errors.confusion.tolist(),
        },
        "precision_recall": {"recall": RECALLS.round(2).tolist(), **precision_recall(score)},
    }


def as_text(metrics: Mapping[str, Any]) -> str:
    """The numbers and the table by class, for the terminal."""
    names = [name for name in metrics if name.startswith(("AP", "AR_", "VOC"))]
    lines = [
        f"{name:<10} {_number(metrics[name], 7, 4)}"
        for name in names
        if not isinstance(metrics[name], Mapping)
    ]
    heads = ("objects", "found", "AP", "AP50", "AP75", "small", "medium", "large", "AR")
    width = max([15, *(len(row["class"]) for row in metrics["classes"])])
    lines.append(f"\n{'class':<{width}}{heads[0]:>8}{heads[1]:>8}")
    lines[-1] += "".join(f"{head:>7}" for head in heads[2:])
    for row in metrics["classes"]:
        if row["objects"] or row["detections"]:
            numbers = "".join(_number(row[key], 7) for key in _COLUMNS)
            lines.append(f"{row['class']:<{width}}{row['objects']:8}{row['detections']:8}{numbers}")
    found = metrics["errors"]
    kinds = [f"{count}\0{kind}" for kind, count in found.items() if kind != "score_threshold"]
    text = f"score {found['score_threshold']} and above: {', '.join(kinds)}"
    lines += ["", wrapped(text).replace("\0", " ")]  # a count stays with its kind
    return "\n".join([*lines, "", *as_lines(metrics["objects_by_size"])])


def _number(value: float, width: int, digits: int = 3) -> str:
    """A number for a column; a dash where there is no ground truth."""
    return f"{value:{width}.{digits}f}" if value >= 0 else f"{'-':>{width}}"
