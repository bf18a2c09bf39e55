# SPDX-License-Identifier: Apache-2.0
"""Box voting: what NMS suppresses helps to place the boxes it keeps. NumPy only.

Gidaris and Komodakis, "Object detection via a multi-region and semantic segmentation-aware CNN
model", ICCV 2015, section 5.
"""

import numpy as np

from ..box_utils import iou_matrix


def vote(
    index: np.ndarray, boxes_px: np.ndarray, scores: np.ndarray, kind: np.ndarray, iou: float
) -> np.ndarray:
    """Kept boxes, each the average, weighted by score, of the boxes of its kind that overlap it.

    Args:
        index: (M,) rows that NMS kept.
        boxes_px: (N, 4) xyxy of all candidates.
        scores: (N,) above 0, before NMS.
        kind: (N,) a number for each image and class.
        iou: least overlap with the kept box, above 0 and at most 1.

    Returns:
        (M, 4) float32; a box without an area stays as it is.
    """
    voted = boxes_px[index].astype(np.float32)
    for number in np.unique(kind[index]):
        mine, rows = kind[index] == number, kind == number
        kept, boxes = boxes_px[index[mine]].astype(np.float64), boxes_px[rows].astype(np.float64)
        weights = np.where(iou_matrix(kept, boxes) >= iou, scores[rows], 0)
        total = weights.sum(axis=1, keepdims=True)
        voted[mine] = np.divide(weights @ boxes, total, out=kept, where=total > 0)
    return voted
