# SPDX-License-Identifier: Apache-2.0
"""Boxes and prior boxes in NumPy: conversions, IoU, matching, encoding and decoding.

Boxes are float32 with the coordinates last: `xyxy` (left, top, right, bottom) or `cxcywh` (centre,
size). P priors, G ground truths, N boxes. The +1 pixel convention is not used here (see `src.nms`).
"""

from dataclasses import dataclass
from typing import Tuple, Union

import numpy as np

VARIANCES = (0.1, 0.2)  # of centre and size, as in SSD (Liu et al., 2016)
_SLACK = 1e-4  # relative, far above float32 rounding: keeps borderline priors in a search
_MOST_PAIRS = 1 << 16  # overlaps computed at a time, about 5 MB


@dataclass(frozen=True, eq=False)
class PreparedPriors:
    """What `match` needs of the priors, whatever the image; made by `prepare_priors`.

    Priors are grouped into K octaves of area. `table`, `order` and `keys` hold all of them twice:
    sorted within each octave by the centre's x, then by its y.
    """

    cxcywh: np.ndarray  # (P, 4) float32, in the order given
    table: np.ndarray  # (5, 2P) float32: x1, y1, x2, y2, area
    order: np.ndarray  # (2P,) int64: original index
    keys: np.ndarray  # (2, P) float64, ascending: octave x stride + centre - origin
    origin: np.ndarray  # (2,) float64: least centre
    stride: float
    areas: np.ndarray  # (2, K) float32: least and greatest area of each octave


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
    """Sorts (P, 4) `cxcywh` priors for `match`; made once for many images.

    Raises:
        ValueError: no priors, another shape, or values that are not finite.
    """
    priors = np.ascontiguousarray(priors, np.float32)
    if priors.ndim != 2 or priors.shape[1] != 4 or not len(priors):
        raise ValueError(f"priors must have shape (P, 4) with P > 0, not {priors.shape}")
    if not np.isfinite(priors).all():
        raise ValueError("priors contain NaN or infinite values")
    x1, y1, x2, y2 = cxcywh_to_xyxy(priors).T
    area = (x2 - x1) * (y2 - y1)
    exponent = np.frexp(area)[1]
    exponent -= exponent.min()
    members = np.bincount(exponent)
    octave = (np.cumsum(members > 0) - 1)[exponent]
    centre = priors[:, :2].T.astype(np.float64)
    origin = centre.min(axis=1)
    stride = 2 * float((centre.max(axis=1) - origin).max()) + 1
    keys = octave * stride + centre - origin[:, None]
    order = np.argsort(keys, axis=1, kind="stable")  # fast on sorted runs, as rows are
    keys = np.take_along_axis(keys, order, axis=1)
    table = np.stack([column.take(order.ravel()) for column in (x1, y1, x2, y2, area)])
    members = members[members > 0]
    begins = np.cumsum(members) - members
    sorted_area = table[4, : len(area)]
    areas = np.stack([ufunc.reduceat(sorted_area, begins) for ufunc in (np.minimum, np.maximum)])
    return PreparedPriors(priors, table, order.ravel(), keys, origin, stride, areas)


def match(
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    priors: Union[np.ndarray, PreparedPriors],
    iou_threshold: float = 0.5,
    dynamic_k: int = 0,
) -> Tuple[np.ndarray, np.ndarray]:
    """Training targets of one image, matched the SSD way.

    A prior takes the ground truth it overlaps most (the first of equals) if their IoU reaches
    `iou_threshold`. Beyond that, each ground truth keeps its best prior (the first of equals),
    whatever the IoU; where two claim the same prior the later one has it.

    With `dynamic_k` a ground truth is matched, instead of by the threshold, to as many of its best
    priors as its `dynamic_k` greatest IoUs add up to (as in OTA, Ge et al., 2021, section 3.3, with
    the IoU of the prior in place of that of the prediction).

    Args:
        boxes_xyxy: (G, 4) corners in the unit of the priors; G may be 0. Drop empty boxes before.
        labels: (G,) whole numbers from 1; 0 is the background.
        priors: (P, 4) `cxcywh`, or the result of `prepare_priors`, which is faster for many images.
        iou_threshold: least IoU of a match.
        dynamic_k: 0, or how many IoUs are added up.

    Returns:
        (P, 4) float32 encoded boxes, 0 where the prior is background, and (P,) int32 labels.

    Raises:
        ValueError: wrong shapes, a label below 1, a box that is not finite or has no area (with
            its row).
    """
    prepared = priors if isinstance(priors, PreparedPriors) else prepare_priors(priors)
    boxes, labels = _check_truths(boxes_xyxy, labels)
    if dynamic_k:
        owner = _assign_dynamic(boxes, prepared.cxcywh, dynamic_k)
    else:
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
    with np.errstate(invalid="ignore"):
        size = boxes[:, 2:] - boxes[:, :2]
        usable = (size > 0).all(axis=1) & (size.prod(axis=1) > 0)
    bad = ~(usable & np.isfinite(boxes).all(axis=1))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"box {row} is not finite or has no area: {boxes[row].tolist()}")
    if len(labels) and labels.min() < 1:
        raise ValueError(
            f"label {labels.argmin()} is {labels.min()}; 0 is background, classes begin at 1"
        )
    return boxes, labels


def _assign(boxes: np.ndarray, priors: PreparedPriors, threshold: float) -> np.ndarray:
    """(P,) int64: the ground truth of each prior, -1 for none."""
    min_iou = np.full(len(boxes), float(threshold))
    top, forced, (prior, row, iou) = _search(boxes, priors, min_iou, threshold)
    # a box without a prior of the threshold's IoU still needs its best one: look wider and wider
    missed = np.flatnonzero(top < min_iou)
    while len(missed):
        min_iou = np.maximum(top, min_iou / 2)[top < min_iou]
        min_iou[min_iou < 1e-3] = 0  # everywhere
        top, forced[missed], _ = _search(boxes[missed], priors, min_iou, threshold)
        missed = missed[top < min_iou]
    return _owners(len(priors.cxcywh), prior, row, iou, forced)


def _assign_dynamic(boxes: np.ndarray, priors_cxcywh: np.ndarray, most: int) -> np.ndarray:
    """As `_assign`, for `dynamic_k` of `most`."""
    iou = iou_matrix(boxes, cxcywh_to_xyxy(priors_cxcywh))
    ranked = _greatest(iou, min(most, iou.shape[1]))
    best = np.take_along_axis(iou, ranked, axis=1)
    wanted = np.maximum(best.sum(axis=1).astype(np.int64), 1)
    row, place = np.nonzero(np.arange(ranked.shape[1]) < wanted[:, None])
    pairs = ranked[row, place], row, best[row, place]
    return _owners(len(priors_cxcywh), *pairs, forced=ranked[:, 0])


def _greatest(values: np.ndarray, count: int) -> np.ndarray:
    """(G, count) int64: where in each row of (G, P) the greatest are, in order, the first of equals
    first.
    """
    places = np.zeros((len(values), count), np.int64)
    for row, place in zip(values, places):
        near = np.flatnonzero(row > 0)  # few, where most boxes and priors lie apart
        if len(near) > count:
            overlap = row[near]
            near = near[overlap >= np.partition(overlap, -count)[-count]]
        near = near[np.argsort(-row[near], kind="stable")][:count]
        place[: len(near)] = near
        if len(near) < count:
            place[len(near) :] = np.flatnonzero(~(row > 0))[: count - len(near)]
    return places


def _owners(
    count: int, prior: np.ndarray, row: np.ndarray, iou: np.ndarray, forced: np.ndarray
) -> np.ndarray:
    """(count,) int64: the box of each prior, -1 for none.

    Of the pairs (prior, row, iou), each (N,), that of the greatest IoU counts for a prior, then
    that of the first box; before them, `forced` (G,), the one prior that each box has in any case.
    """
    owner = np.full(count, -1, np.int64)
    order = np.lexsort((-row, iou))  # of several values set for one prior the last stays
    owner[prior[order]] = row[order]
    owner[forced] = np.arange(len(forced))
    return owner


def _search(
    boxes: np.ndarray, priors: PreparedPriors, min_iou: np.ndarray, threshold: float
) -> Tuple[np.ndarray, np.ndarray, Tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Overlaps of (G, 4) boxes with all priors that can have an IoU of their `min_iou` (G,).

    Returns:
        (G,) float32 best IoU, (G,) int64 its first prior, both meaningless below `min_iou`; and
        prior, box and IoU of the pairs that attain `threshold`.
    """
    starts, counts = _runs(boxes, priors, min_iou)
    total = counts.sum(axis=1)
    top, best = np.zeros(len(boxes), np.float32), np.zeros(len(boxes), np.int64)
    pairs = [(best[:0], best[:0], top[:0])]
    full = np.cumsum(total) // _MOST_PAIRS
    for rows in np.split(np.arange(len(boxes)), np.flatnonzero(np.diff(full)) + 1):
        rows = rows[total[rows] > 0]
        if not len(rows):
            continue
        prior, iou = _overlaps(boxes[rows], priors, starts[rows], counts[rows])
        begin = np.cumsum(total[rows]) - total[rows]
        top[rows] = np.maximum.reduceat(iou, begin)
        ties = np.flatnonzero(iou == np.repeat(top[rows], total[rows]))
        best[rows] = np.minimum.reduceat(prior[ties], np.searchsorted(ties, begin))
        near = np.flatnonzero(iou >= threshold)
        owners = rows[np.searchsorted(begin, near, side="right") - 1]
        pairs.append((prior[near], owners, iou[near]))
    prior, row, near_iou = (np.concatenate(column) for column in zip(*pairs))
    return top, best, (prior, row, near_iou)


def _runs(
    boxes: np.ndarray, priors: PreparedPriors, min_iou: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Where in `priors.table` an IoU of `min_iou` is possible: (G, K) starts and lengths of runs.

    IoU r needs areas within a factor r of each other. It needs the shared width to be r times the
    greater width, so centres lie within max(1 - r, (1 / r - 1) / 2) box widths; heights likewise.
    """
    size = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    area = size.prod(axis=1, keepdims=True)
    middle = (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2 - priors.origin
    count, extent = len(priors.cxcywh), (priors.stride - 1) / 2
    min_iou = np.maximum(min_iou, 0)[:, None]
    fits = (priors.areas[1] >= area * min_iou * (1 - _SLACK)) & (
        priors.areas[0] * min_iou <= area * (1 + _SLACK)
    )
    with np.errstate(divide="ignore"):  # 0: an infinite window, so every prior
        window = size * np.maximum(1 - min_iou, (1 / min_iou - 1) / 2) * (1 + _SLACK)
    window += _SLACK * 1e-2 * extent
    octaves = np.arange(priors.areas.shape[1]) * priors.stride
    starts, counts = [], []
    for axis in (0, 1):
        low = np.clip(middle[:, axis] - window[:, axis], 0, extent)[:, None] + octaves
        high = np.clip(middle[:, axis] + window[:, axis], 0, extent)[:, None] + octaves
        first = np.searchsorted(priors.keys[axis], low)
        last = np.searchsorted(priors.keys[axis], high, side="right")
        starts.append(first + axis * count)
        counts.append(np.where(fits, last - first, 0))
    use_y = (counts[1].sum(axis=1) < counts[0].sum(axis=1))[:, None]
    return np.where(use_y, starts[1], starts[0]), np.where(use_y, counts[1], counts[0])


def _overlaps(
    boxes: np.ndarray, priors: PreparedPriors, starts: np.ndarray, counts: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Original prior index and IoU of every pair in the runs, box by box."""
    lengths = counts.ravel()
    ends = np.cumsum(lengths)
    at = np.arange(ends[-1]) + np.repeat(starts.ravel() - ends + lengths, lengths)
    x1, y1, x2, y2, area = (column.take(at) for column in priors.table)
    total = counts.sum(axis=1)
    left, top, right, bottom = (np.repeat(column, total) for column in boxes.T)
    own = np.repeat((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), total)
    # the official order of operations, so that float32 rounding and ties are the same
    inter = np.maximum(np.minimum(right, x2) - np.maximum(left, x1), 0)
    inter *= np.maximum(np.minimum(bottom, y2) - np.maximum(top, y1), 0)
    return priors.order.take(at), inter / (own + area - inter)
