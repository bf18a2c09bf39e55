# SPDX-License-Identifier: Apache-2.0
"""Boxes and prior boxes in NumPy: conversions, IoU, matching, encoding and decoding.

Boxes are float32 with the coordinates last: `xyxy` (left, top, right, bottom) or `cxcywh` (centre,
size). P priors, G ground truths, N boxes. The +1 pixel convention is not used here (see `src.nms`).
"""

from dataclasses import dataclass
from typing import Tuple, Union

import numpy as np

VARIANCES = (0.1, 0.2)  # of centre and size, as in SSD (Liu et al., 2016)
_SLACK = (
    1e-4  # relative, far above float32 rounding: keeps borderline priors inside a searched range
)


@dataclass(frozen=True)
class PreparedPriors:
    """What `match` needs of the priors, whatever the image; made by `prepare_priors`."""

    cxcywh: np.ndarray  # (P, 4) float32, in the order given
    corners: np.ndarray  # (4, P) float32: x1, y1, x2, y2, sorted by area
    areas: np.ndarray  # (P,) float32, ascending
    order: np.ndarray  # (P,) int64, original index of each sorted prior


def cxcywh_to_xyxy(boxes_cxcywh: np.ndarray) -> np.ndarray:
    """(..., 4) centre form to (..., 4) corners."""
    boxes = np.asarray(boxes_cxcywh)
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def xyxy_to_cxcywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(..., 4) corners to (..., 4) centre form."""
    boxes = np.asarray(boxes_xyxy)
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def clip_boxes(boxes_xyxy: np.ndarray, width: float = 1.0, height: float = 1.0) -> np.ndarray:
    """A copy of (..., 4) corners limited to [0, width] x [0, height], in the unit of the boxes."""
    boxes = np.asarray(boxes_xyxy)
    limit = np.array([width, height, width, height], boxes.dtype)
    return np.clip(boxes, 0, limit)


def iou_matrix(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """IoU of every pair of corners: (N, 4), (M, 4) -> (N, M); 0 where both boxes are empty."""
    a, b = np.asarray(a_xyxy).T[:, :, None], np.asarray(b_xyxy).T[:, None, :]
    width = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0)
    height = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0)
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def encode(boxes_xyxy: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Regression targets of boxes against their priors (SSD paper, equation 2, with variances).

    Args:
        boxes_xyxy: (..., 4) corners with positive width and height; others give infinities.
        priors: (..., 4) `cxcywh` in the same unit, broadcast against the boxes.

    Returns:
        (..., 4): centre offset over prior size over 0.1, then log of the size ratio over 0.2.
    """
    boxes, priors = np.asarray(boxes_xyxy), np.asarray(priors)
    size = priors[..., 2:]
    centre = ((boxes[..., :2] + boxes[..., 2:]) / 2 - priors[..., :2]) / (VARIANCES[0] * size)
    extent = np.log((boxes[..., 2:] - boxes[..., :2]) / size) / VARIANCES[1]
    return np.concatenate([centre, extent], axis=-1)


def decode(loc: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """The inverse of `encode`: (..., 4) regression output, `cxcywh` priors -> (..., 4) corners.

    A leading batch axis of `loc` broadcasts over the priors. Nothing is clipped; sizes beyond
    float32 come out infinite.
    """
    loc, priors = np.asarray(loc), np.asarray(priors)
    size = priors[..., 2:]
    centre = priors[..., :2] + loc[..., :2] * VARIANCES[0] * size
    with np.errstate(over="ignore"):
        half = size * np.exp(loc[..., 2:] * VARIANCES[1]) / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def prepare_priors(priors: np.ndarray) -> PreparedPriors:
    """Corners and areas of (P, 4) `cxcywh` priors, sorted by area; made once for many images.

    Raises:
        ValueError: no priors, another shape, or values that are not finite.
    """
    priors = np.ascontiguousarray(priors, np.float32)
    if priors.ndim != 2 or priors.shape[1] != 4 or not len(priors):
        raise ValueError(f"priors must have shape (P, 4) with P > 0, not {priors.shape}")
    if not np.isfinite(priors).all():
        raise ValueError("priors contain NaN or infinite values")
    corners = cxcywh_to_xyxy(priors).T
    areas = (corners[2] - corners[0]) * (corners[3] - corners[1])
    order = np.argsort(areas, kind="stable")
    return PreparedPriors(priors, np.ascontiguousarray(corners[:, order]), areas[order], order)


def match(
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    priors: Union[np.ndarray, PreparedPriors],
    iou_threshold: float = 0.5,
) -> Tuple[np.ndarray, np.ndarray]:
    """Training targets of one image, matched the SSD way.

    A prior takes the ground truth it overlaps most (the first of equals) if their IoU reaches
    `iou_threshold`. Beyond that, each ground truth keeps its best prior (the first of equals),
    whatever the IoU; where two claim the same prior the later one has it.

    Args:
        boxes_xyxy: (G, 4) corners in the unit of the priors; G may be 0. Drop empty boxes before.
        labels: (G,) whole numbers from 1; 0 is the background.
        priors: (P, 4) `cxcywh`, or the result of `prepare_priors`, which is faster for many images.
        iou_threshold: least IoU of a match.

    Returns:
        (P, 4) float32 encoded boxes, 0 where the prior is background, and (P,) int32 labels.

    Raises:
        ValueError: wrong shapes, a label below 1, a box that is not finite or has no area (with
            its row).
    """
    prepared = priors if isinstance(priors, PreparedPriors) else prepare_priors(priors)
    boxes, labels = _check_truths(boxes_xyxy, labels)
    owner = _assign(boxes, prepared, iou_threshold)
    loc = np.zeros_like(prepared.cxcywh)
    targets = np.zeros(len(loc), np.int32)
    positive = np.flatnonzero(owner >= 0)
    chosen = owner[positive]
    loc[positive] = encode(boxes[chosen], prepared.cxcywh[positive])
    targets[positive] = labels[chosen]
    return loc, targets


def _check_truths(boxes_xyxy: np.ndarray, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    boxes = np.asarray(boxes_xyxy, np.float32)
    labels = np.asarray(labels)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (G, 4), not {boxes.shape}")
    if labels.shape != (len(boxes),):
        raise ValueError(
            f"labels must have shape ({len(boxes)},) like the boxes, not {labels.shape}"
        )
    # not (a < b), as NaN fails the comparison and is caught with the empty boxes
    bad = ~(np.isfinite(boxes).all(1) & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3]))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"box {row} is not finite or has no area: {boxes[row].tolist()}")
    if len(labels) and labels.min() < 1:
        raise ValueError(
            f"label {labels.argmin()} is {labels.min()}; 0 is background, classes begin at 1"
        )
    return boxes, labels


def _assign(boxes: np.ndarray, priors: PreparedPriors, threshold: float) -> np.ndarray:
    """(P,) int64: the ground truth of each prior, -1 for none.

    IoU cannot exceed the ratio of the areas, so only priors whose area is within that ratio of
    the box's can reach the threshold, and they lie together once sorted. Where none reaches it,
    the best IoU found bounds a second, wider search for the best prior.
    """
    count = len(priors.areas)
    best = np.full(count, -1, np.float32)
    owner = np.full(count, -1, np.int64)
    forced = np.empty(len(boxes), np.int64)
    scratch = np.empty((2, count), np.float32)
    for row, box in enumerate(boxes):
        start, iou = _iou_in_range(box, priors, threshold, scratch)
        top = iou.max(initial=0)
        if top < threshold:
            start, iou = _iou_in_range(box, priors, top, scratch)
            top = iou.max(initial=0)
        forced[row] = priors.order[start + np.flatnonzero(iou == top)].min()
        near = np.flatnonzero(iou >= threshold)
        better = near[iou[near] > best[start + near]] + start
        best[better] = iou[better - start]
        owner[better] = row
    result = np.full(count, -1, np.int64)
    result[priors.order] = owner
    for row, prior in enumerate(forced):  # in order: of two claims the later stands
        result[prior] = row
    return result


def _iou_in_range(
    box: np.ndarray, priors: PreparedPriors, ratio: float, scratch: np.ndarray
) -> Tuple[int, np.ndarray]:
    """IoU of a box with the sorted priors whose area allows `ratio`: first position, values."""
    left, top, right, bottom = box
    area = (right - left) * (bottom - top)
    start, stop = 0, len(priors.areas)
    if ratio > 0:
        bounds = (area * ratio * (1 - _SLACK), area / ratio * (1 + _SLACK))
        start, stop = np.searchsorted(priors.areas, np.asarray(bounds, np.float32))
    x1, y1, x2, y2 = priors.corners[:, start:stop]
    inter, work = scratch[:, : stop - start]
    np.minimum(x2, right, out=inter)
    inter -= np.maximum(x1, left, out=work)
    np.maximum(inter, 0, out=inter)
    height = np.minimum(y2, bottom)
    height -= np.maximum(y1, top, out=work)
    inter *= np.maximum(height, 0, out=height)
    # the official order of operations, so that thresholds and ties fall alike in float32
    union = np.add(priors.areas[start:stop], area, out=work)
    union -= inter
    inter /= union
    return int(start), inter
