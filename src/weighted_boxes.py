# SPDX-License-Identifier: Apache-2.0
"""Weighted boxes fusion: boxes that several views found become their average. NumPy only.

Source: Solovyev, Wang, Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object
detection models" (2019), section 3. Views of one network take the place of their models.
"""

from typing import Callable, List, Tuple

import numpy as np


def fuse_boxes(
    boxes_px: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    seen_by: Callable[[np.ndarray], np.ndarray],
    iou_threshold: float = 0.55,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of one class each, averaged by score.

    In order of falling score a box joins the cluster whose present average it overlaps most, above
    `iou_threshold`, or starts one. A cluster's score is the mean of its T boxes' scores times
    min(T, V) / V, where V is the number of views that could have found it: what only few of them
    found counts less.

    Args:
        boxes_px: (N, 4) xyxy of all views together.
        scores: (N,). labels: (N,).
        seen_by: V of each of boxes (K, 4), as (K,) numbers of at least 1.
        iou_threshold: overlap of one object's boxes.

    Returns:
        boxes (K, 4) float32, scores (K,) float32 and labels (K,), by class.
    """
    fused: List[np.ndarray] = [np.zeros((0, 4))]
    values: List[np.ndarray] = [np.zeros(0)]
    kinds: List[np.ndarray] = [labels[:0]]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        boxes, means, counts = _clusters(boxes_px[rows], scores[rows], iou_threshold)
        views = seen_by(boxes)
        fused.append(boxes)
        values.append(means * np.minimum(counts, views) / views)
        kinds.append(np.full(len(boxes), label, labels.dtype))
    return (
        np.concatenate(fused).astype(np.float32),
        np.concatenate(values).astype(np.float32),
        np.concatenate(kinds),
    )


def _clusters(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average boxes (K, 4), mean scores (K,) and sizes (K,) of the clusters of one class."""
    sums, weights = np.zeros((len(boxes), 4)), np.zeros(len(boxes))
    means, counts = np.zeros((len(boxes), 4)), np.zeros(len(boxes))
    found = 0
    for box, score in zip(boxes.astype(np.float64), scores.astype(np.float64)):
        overlap = _iou(box, means[:found])
        cluster = int(overlap.argmax()) if found else 0
        if not found or overlap[cluster] <= iou_threshold:
            cluster, found = found, found + 1
        sums[cluster] += score * box
        weights[cluster] += score
        counts[cluster] += 1
        means[cluster] = sums[cluster] / weights[cluster]
    return means[:found], weights[:found] / counts[:found], counts[:found]


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with (K, 4), corners without the +1 of the official code."""
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    inter = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return inter / np.maximum(areas - inter, 1e-12)
