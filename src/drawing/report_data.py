# SPDX-License-Identifier: Apache-2.0
"""What the report's page is made from, as JSON: scores, errors by score, and some pictures.

Whether a detection is correct depends only on those with higher scores. So one list, from a low
score on, serves every score threshold that is chosen on the page.
"""

import base64
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Set, Tuple

import cv2
import numpy as np

from ..data.images import read_image
from ..data.records import DetectionData, ImageError, ImageRecord
from ..evaluation.error_analysis import KINDS, ErrorSummary, ImageErrors
from ..runtime.errors import printable
from .detections import scaled

LOWEST = 0.05  # score from which detections are in the page
STEPS = 100  # of the scores in the page's counts
MOST_PICTURES = 60
MOST_MATRIX = 201  # classes with the background; a browser is slow with millions of cells
MOST_BYTES = 3_600_000  # of the pictures in base64
PICTURE_PX = 560  # longer side
_WORST, _EACH = 20, 2  # pictures with most errors; pictures of each class and kind of error
_RIGHT = 8  # pictures without errors
_ALL_KINDS = (*KINDS, "ignored")
_AVERAGES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")

Pair = Tuple[int, str]  # class and kind


def report_data(
    data: DetectionData, metrics: Mapping[str, Any], errors: ErrorSummary
) -> Dict[str, Any]:
    """Everything on the page, ready for `json.dumps`.

    Args:
        data: the split.
        metrics: of `src.evaluation.summary.all_metrics`, and optionally "images_per_second".
        errors: of the detections from `LOWEST` on.
    """
    threshold = metrics["errors"]["score_threshold"]
    names = [name for name in metrics if name.startswith(("AP", "AR_", "VOC"))]
    return {
        "classes": list(data.class_names),
        "kinds": list(KINDS),
        "images": metrics["images"],
        "detections": metrics["detections"],
        "threshold": threshold,
        "lowest": errors.score_threshold,
        "steps": STEPS,
        "totals": [
            [name, metrics[name]] for name in names if not isinstance(metrics[name], Mapping)
        ],
        "table": metrics["classes"],
        "averages": list(_AVERAGES),
        "counts": score_counts(data, errors),
        "confused": most_confused(metrics["confusion"]["rows"]),
        "confusion": metrics["confusion"]["rows"] if data.num_classes <= MOST_MATRIX else [],
        "curves": {iou: metrics["precision_recall"][iou] for iou in ("0.50", "0.75")},
        "sizes": metrics["objects_by_size"],
        "speed": metrics.get("images_per_second") or {},
        "pictures": list(pictures(data, errors, threshold)),
    }


def score_counts(data: DetectionData, errors: ErrorSummary) -> Dict[str, Any]:
    """Objects of each class, and [class, kind, score in hundredths, number] of its detections.

    Classes count from 0, kinds are places in `KINDS`; a score is rounded down. Objects found are
    those of the kind "correct".
    """
    objects = np.zeros(len(data.class_names), int)
    counts: Counter = Counter()
    for record, image in zip(data.records, errors.images):
        np.add.at(objects, record.labels[~record.ignore] - 1, 1)
        steps = np.floor(image.scores * STEPS + 1e-9).astype(int).tolist()
        rows = zip(image.labels.tolist(), image.kinds, steps)
        counts.update((label - 1, kind, step) for label, kind, step in rows if kind != "ignored")
    table = [
        [label, KINDS.index(kind), step, n] for (label, kind, step), n in sorted(counts.items())
    ]
    return {"objects": objects.tolist(), "detections": table}


def best_thresholds(counts: Mapping[str, Any]) -> List[Tuple[float, float]]:
    """For each class the score with the highest F1 at IoU 0.5, and that F1; (-1, -1) for none.

    F1 = 2 TP / (detections + objects). Of equal ones the highest score is taken.
    """
    objects = np.array(counts["objects"])
    found = np.zeros((2, len(objects), STEPS + 1), int)  # correct ones, and all
    for label, kind, step, number in counts["detections"]:
        found[0, label, step] += number * (KINDS[kind] == "correct")
        found[1, label, step] += number
    correct, total = found[:, :, ::-1].cumsum(axis=2)  # with a score of 1 first
    f1 = 2 * correct / np.maximum(total + objects[:, None], 1)
    best = f1.argmax(axis=1)
    return [
        (float((STEPS - step) / STEPS), float(row[step])) if row[step] > 0 else (-1.0, -1.0)
        for row, step in zip(f1, best)
    ]


def most_confused(rows: Sequence[Sequence[int]], most: int = 6) -> List[List[int]]:
    """[class, class it was taken for, times], the most often first; classes count from 0."""
    counts = np.array(rows)[1:, 1:]
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, counts.shape))
    return [[int(i), int(j), int(counts[i, j])] for i, j in pairs if counts[i, j]]


def choose(data: DetectionData, errors: ErrorSummary, threshold: float) -> Iterator[int]:
    """Rows of the images to show, those with most errors first.

    Those with most errors; then, so that every filter finds something, those with a kind of error
    in a class that was not shown twice; then those in which everything is right.
    """
    pairs = [_pairs(*both, threshold) for both in zip(data.records, errors.images)]
    wrong = [sum(n for (_, kind), n in own.items() if kind != "correct") for own in pairs]
    order = sorted(range(len(pairs)), key=lambda row: -wrong[row])
    bad = [row for row in order if wrong[row]]
    shown: Counter = Counter()
    taken: Set[int] = set()
    for row in bad:
        new = any(shown[pair] < _EACH for pair in pairs[row] if pair[1] != "correct")
        if len(taken) < _WORST or new:
            shown.update(pairs[row].keys())
            taken.add(row)
            yield row
    good = [row for row in order if not wrong[row] and pairs[row]]
    yield from sorted(good, key=lambda row: -sum(pairs[row].values()))[:_RIGHT]
    yield from (row for row in bad if row not in taken)


def _pairs(record: ImageRecord, image: ImageErrors, threshold: float) -> "Counter[Pair]":
    """How often each class and kind stands in an image."""
    shown = image.scores >= threshold
    rows = zip(image.labels[shown].tolist(), np.array(image.kinds, object)[shown])
    pairs = Counter((label, kind) for label, kind in rows if kind != "ignored")
    missed = ~record.ignore & (image.found_by < threshold)
    pairs.update((label, "missed") for label in record.labels[missed].tolist())
    return pairs


def pictures(
    data: DetectionData, errors: ErrorSummary, threshold: float
) -> Iterator[Dict[str, Any]]:
    """The images of `choose` that fit, with their detections and objects in annotated pixels."""
    left, count = MOST_BYTES, 0
    for row in choose(data, errors, threshold):
        record, judged = data.records[row], errors.images[row]
        try:
            code = _embedded(read_image(record.path, (record.width, record.height)))
        except ImageError:  # reported when it was detected on
            continue
        left, count = left - len(code), count + 1
        if left < 0 or count > MOST_PICTURES:
            return
        kinds = [_ALL_KINDS.index(kind) for kind in judged.kinds]
        found = zip(
            judged.boxes_px.astype(float).round(1).tolist(),
            judged.labels.tolist(),
            judged.scores,
            kinds,
        )
        truth = zip(
            record.boxes_px.astype(float).round(1).tolist(),
            record.labels.tolist(),
            judged.found_by,
            record.ignore,
        )
        yield {
            "name": printable(Path(record.path).name),
            "size": [record.width, record.height],
            "code": code,
            "found": [
                [*box, label - 1, round(float(score), 3), kind] for box, label, score, kind in found
            ],
            "truth": [
                [*box, label - 1, round(float(by), 3), int(ignored)]
                for box, label, by, ignored in truth
            ],
        }


def _embedded(image: np.ndarray) -> str:
    """A JPEG of at most `PICTURE_PX` a side, in base64."""
    small = scaled(image, PICTURE_PX, enlarge=False)
    _, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 74])
    return base64.b64encode(content.tobytes()).decode("ascii")
