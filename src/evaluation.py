# SPDX-License-Identifier: Apache-2.0
"""A detector over a whole split."""

from typing import Any, Callable, Dict, Iterable, List, Sequence

import numpy as np

from src.detector import Detector
from src.records import DetectionData
from src.scoring import coco_results


def detect_split(
    detector: Detector,
    data: DetectionData,
    batches: Iterable[Sequence[np.ndarray]],
    category_ids: Sequence[int],
    progress: Callable[[int], None] = lambda done: None,
) -> List[Dict[str, Any]]:
    """Every detection in a split, as entries of a COCO results file.

    Args:
        detector: network and post-processing.
        data: the split.
        batches: (images (B, 3, S, S), record numbers (B,)); -1 marks what fills up a batch.
        category_ids: the data set's id of each class of the detector.
        progress: told the number of images done, after each batch.
    """
    results: List[Dict[str, Any]] = []
    done = 0
    for images, indices in batches:
        records = [data.records[int(i)] if i >= 0 else None for i in indices]
        sizes = [(r.width, r.height) if r else (1, 1) for r in records]
        found = detector.batch(images, sizes)
        for record, detections in zip(records, found):
            if record is not None:
                results += coco_results(
                    record.image_id,
                    detections.boxes_px,
                    detections.scores,
                    detections.labels,
                    category_ids,
                )
                done += 1
        progress(done)
    return results
