# SPDX-License-Identifier: Apache-2.0
"""Scoring detections by the COCO metrics, for COCO and for Pascal VOC data."""

import contextlib
import io
import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..data.annotations.coco import ground_truth
from ..data.records import DataError, DetectionData
from ..runtime.cpu_settings import collector_off
from ..runtime.errors import UsageError

SCORERS = ("pycocotools", "faster-coco-eval")
COCO_NUMBERS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


def coco_results(
    image_id: int,
    boxes_px: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    category_ids: Sequence[Optional[int]],
) -> List[Dict[str, Any]]:
    """Detections of one image as entries of a COCO results file.

    Boxes are rounded to a thousandth of a pixel and scores to a millionth, which halves the file.

    Args:
        boxes_px: (N, 4) xyxy in pixels of the annotated image size.
        scores: (N,).
        labels: (N,) in 1..C-1.
        category_ids: COCO category id of each class, as in `DetectionData`; detections of a class
            with None are left out.
    """
    return [
        {
            "image_id": int(image_id),
            "category_id": int(category_id),
            "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 6),
        }
        for (x1, y1, x2, y2), score, label in zip(
            np.asarray(boxes_px, np.float64).tolist(),
            np.asarray(scores, np.float64).tolist(),
            labels,
        )
        if (category_id := category_ids[int(label) - 1]) is not None
    ]


def category_ids_for(class_names: Sequence[str], data: DetectionData) -> Tuple[int, ...]:
    """The category id in `data` of each class a network was trained on, by name.

    Raises:
        DataError: a class that `data` has not got.
    """
    if tuple(class_names) == data.class_names:
        return data.category_ids
    known = dict(zip(data.class_names, data.category_ids))
    missing = [name for name in class_names if name not in known]
    if missing:
        raise DataError(
            f"{data.annotation_path}: has no class {missing[0]!r}, which the network was trained on"
        )
    return tuple(known[name] for name in class_names)


def shared_category_ids(
    class_names: Sequence[str], data: DetectionData
) -> Tuple[Optional[int], ...]:
    """As `category_ids_for`, but None for a class that `data` has not got.

    Raises:
        DataError: no class is in both.
    """
    known = dict(zip(data.class_names, data.category_ids))
    found = tuple(map(known.get, class_names))
    if not set(known) & set(class_names):
        theirs, ours = (
            [*names[:3], "..."][: len(names)] for names in (data.class_names, class_names)
        )
        raise DataError(
            f"{data.annotation_path}: none of its classes ({', '.join(theirs)})"
            f" is one of the network's ({', '.join(ours)})"
        )
    return found


def evaluate_coco(data: DetectionData, results: Sequence[Mapping[str, Any]]) -> Dict[str, float]:
    """The 12 COCO numbers of `results` (entries as made by `coco_results`); -1 where there is
    nothing to find.

    Raises:
        DataError: `data` has no annotations, or a result is of an image that is not in it.
    """
    return score_coco(data, results)[0]


def score_coco(
    data: DetectionData, results: Sequence[Mapping[str, Any]], scorer: str = "pycocotools"
) -> Tuple[Dict[str, float], Dict[str, float]]:
    """The 12 COCO numbers, and AP by class name (-1 for a class without ground truth).

    Raises:
        DataError: as `coco_score`.
    """
    score = coco_score(data, results, scorer)
    return score.totals, score.average(score.precision[:, :, :, 0])


@dataclass(frozen=True, eq=False)
class CocoScore:
    """What a COCO scorer found, -1 where there is no ground truth.

    T IoU thresholds 0.50:0.05:0.95, R recall levels 0:0.01:1, C classes in the order of
    `class_names`, areas all, small, medium and large; up to 100 detections an image.
    """

    totals: Dict[str, float]  # the 12 numbers
    class_names: Tuple[str, ...]
    precision: np.ndarray  # (T, R, C, 4)
    recall: np.ndarray  # (T, C, 4)

    def average(self, values: np.ndarray) -> Dict[str, float]:
        """Mean by class of (..., C) values, those of -1 left out; -1 where nothing is left."""
        columns = values.reshape(-1, values.shape[-1]).T
        valid = [column[column > -1] for column in columns]
        means = [float(column.mean()) if column.size else -1.0 for column in valid]
        return dict(zip(self.class_names, means))


def coco_score(
    data: DetectionData, results: Sequence[Mapping[str, Any]], scorer: str = "pycocotools"
) -> CocoScore:
    """Scores `results` (entries as made by `coco_results`).

    Args:
        scorer: "pycocotools", or "faster-coco-eval" which gives the same numbers faster.

    Raises:
        DataError: `data` has no annotations, or a result is of an image that is not in it.
        ValueError: an unknown scorer, or one that is not installed.
    """
    if not data.annotated:
        raise DataError(
            f"{data.annotation_path}: split {data.split} has no annotations to score against"
        )
    truth = ground_truth(data)
    # Numbered anew in the same order: faster-coco-eval keeps ids as floats, of 53 bits.
    number_of = {key: n for n, key in enumerate(sorted(row["id"] for row in truth["images"]), 1)}
    for entry in results:
        if entry["image_id"] not in number_of:
            raise DataError(
                f"{data.annotation_path}: no image {entry['image_id']}, which was detected on"
            )
    for image in truth["images"]:
        image["id"] = number_of[image["id"]]
    for entry in truth["annotations"]:
        entry["image_id"] = number_of[entry["image_id"]]
    coco, evaluator = find_scorer(scorer)
    with contextlib.redirect_stdout(io.StringIO()), collector_off():
        found = dict(truth, annotations=_numbered(results, number_of))
        run = evaluator(_coco(coco, truth), _coco(coco, found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = dict(zip(data.category_ids, data.class_names))
    return CocoScore(
        {name: float(value) for name, value in zip(COCO_NUMBERS, run.stats)},
        tuple(names[category] for category in run.params.catIds),
        np.asarray(run.eval["precision"])[:, :, :, :, -1],
        np.asarray(run.eval["recall"])[:, :, :, -1],
    )


def find_scorer(name: str) -> Tuple[Any, Any]:
    """The classes that hold annotations and that score them.

    Raises:
        ValueError: an unknown scorer, or one that is not installed.
    """
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    if name not in SCORERS:
        raise ValueError(f"unknown scorer {name!r}; choose from {', '.join(SCORERS)}")
    try:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise UsageError(f"{name} is not installed; run: pip install {name}") from None
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    return FasterCOCO, COCOeval_faster


def _numbered(
    results: Sequence[Mapping[str, Any]], number_of: Mapping[int, int]
) -> List[Dict[str, Any]]:
    """Results as annotations; pycocotools' own loader fails on an empty list."""
    return [
        {
            **entry,
            "id": number,
            "image_id": number_of[entry["image_id"]],
            "area": entry["bbox"][2] * entry["bbox"][3],
            "iscrowd": 0,
        }
        for number, entry in enumerate(results, 1)
    ]


def _coco(kind: Any, content: Dict[str, Any]) -> Any:
    coco = kind()
    coco.dataset = content
    coco.createIndex()
    return coco
