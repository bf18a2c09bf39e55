# SPDX-License-Identifier: Apache-2.0
"""NMS in NumPy, with the same float32 arithmetic and order of ties as `cpu_nms.pyx`.

The functions here and there have the same form; `src.nms` checks arguments and calls one of them.
"""

from typing import Tuple

import numpy as np

LINEAR, GAUSSIAN = 1, 2  # any other number is "hard"


def soft(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    groups: int,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    method: int,
    max_boxes: int,
) -> Tuple[np.ndarray, np.ndarray]:
    """Soft-NMS within each label.

    Args:
        boxes: (N, 4) float32 corners in pixels.
        scores: (N,) float32.
        labels: (N,) int64 below `groups`.
        max_boxes: of a label, 0 for all. The rest as in `src.nms.soft_nms`.

    Returns:
        (M,) int64 indices and (M,) float32 scores, by label, then in the order found.
    """
    order = np.argsort(labels, kind="stable")
    stops = np.cumsum(np.bincount(labels, minlength=groups))
    indices, values = [order[:0]], [scores[:0]]
    for members in np.split(order, stops[:-1]):
        if len(members):
            columns = np.concatenate([boxes[members].T, scores[members][None]])
            index, lowered = _one_group(
                columns, sigma, iou_threshold, score_threshold, method, max_boxes or len(members)
            )
            indices.append(members[index])
            values.append(lowered)
    return np.concatenate(indices), np.concatenate(values)


def _one_group(
    columns: np.ndarray,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    method: int,
    max_boxes: int,
) -> Tuple[np.ndarray, np.ndarray]:
    """Soft-NMS of the rows x1, y1, x2, y2, score, in place: indices and scores as found."""
    index = np.arange(columns.shape[1])
    lowest = np.float32(score_threshold)
    i, count = 0, len(index)
    while i < min(count, max_boxes):
        best = i + int(columns[4, i:count].argmax())
        columns[:, [i, best]] = columns[:, [best, i]]
        index[[i, best]] = index[[best, i]]
        rest = columns[:, i + 1 : count]
        overlap = _overlap(columns[:4, i], rest[:4])
        touching = overlap > 0
        rest[4] *= _weight(overlap, sigma, iou_threshold, method)
        dropped = touching & (rest[4] < lowest)
        if dropped.any():
            count = _compact(columns, index, i + 1, count, dropped)
        i += 1
    return index[:i], columns[4, :i].copy()


def _compact(
    columns: np.ndarray, index: np.ndarray, start: int, count: int, dropped: np.ndarray
) -> int:
    """Fill holes with boxes from the end, as the compiled loop does; the number of boxes left."""
    left = count - int(dropped.sum())
    holes = start + np.flatnonzero(dropped[: left - start])
    movers = (left + np.flatnonzero(~dropped[left - start :]))[::-1]
    columns[:, holes] = columns[:, movers]
    index[holes] = index[movers]
    return left


def _weight(overlap: np.ndarray, sigma: float, iou_threshold: float, method: int) -> np.ndarray:
    if method == GAUSSIAN:
        exponent = -(overlap * overlap) / np.float32(sigma)
        return np.exp(exponent.astype(np.float64)).astype(np.float32)
    over = overlap > np.float32(iou_threshold)
    return np.where(over, 1 - overlap if method == LINEAR else np.float32(0), np.float32(1))


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU in the +1 pixel convention of one box (4,) with (4, N) others, in float32."""
    one = np.float32(1)
    width = np.maximum(np.minimum(box[2], others[2]) - np.maximum(box[0], others[0]) + one, 0)
    height = np.maximum(np.minimum(box[3], others[3]) - np.maximum(box[1], others[1]) + one, 0)
    inter = width * height
    area = (others[2] - others[0] + one) * (others[3] - others[1] + one)
    union = (box[2] - box[0] + one) * (box[3] - box[1] + one) + area - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)


def hard(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Kept indices of (N, 4) float32 corners sorted by falling score, by greedy NMS."""
    alive = np.arange(len(boxes))
    columns = np.ascontiguousarray(boxes.T)
    keep = []
    while len(alive):
        keep.append(alive[0])
        overlap = _overlap(columns[:, alive[0]], columns[:, alive[1:]])
        alive = alive[1:][overlap < np.float32(iou_threshold)]
    return np.array(keep, np.int64)
