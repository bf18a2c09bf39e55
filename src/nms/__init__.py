# SPDX-License-Identifier: Apache-2.0
"""Soft and hard non-maximum suppression, compiled where `scripts/make.sh` was run, NumPy elsewhere.

Both give the same results; `BACKEND` says which is in use ("cython" or "numpy"). Boxes are corners
in pixels, and sizes count one pixel more than the difference of the corners (x2 - x1 + 1), as in
the official code. Inputs are never modified. N boxes in, M boxes left.
"""

import importlib
import warnings
from types import ModuleType
from typing import Tuple

import numpy as np

from . import numpy_nms

METHODS = {"hard": 0, "linear": 1, "gaussian": 2}
_INTERFACE = 1  # number of the compiled functions' form; the same constant stands in cpu_nms.pyx


def _choose_backend() -> Tuple[str, ModuleType]:
    try:
        compiled = importlib.import_module(".cpu_nms", __name__)
        if compiled.INTERFACE != _INTERFACE:
            raise ImportError("it was built from another version of its source")
    except ModuleNotFoundError as error:
        if error.name == f"{__name__}.cpu_nms":
            return "numpy", numpy_nms
        reason: Exception = error
    except Exception as error:  # a foreign or damaged library fails in many ways; none may stop us
        reason = error
    else:
        return "cython", compiled
    warnings.warn(
        f"compiled NMS not usable ({reason}); NumPy is used. Run: bash scripts/make.sh",
        RuntimeWarning,
        stacklevel=2,
    )
    return "numpy", numpy_nms


BACKEND, _backend = _choose_backend()


def soft_nms(
    dets: np.ndarray,
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    method: str = "linear",
) -> np.ndarray:
    """Soft-NMS (Bodla et al., 2017): scores of boxes that overlap a better one are lowered.

    Args:
        dets: (N, 5) x1, y1, x2, y2 in pixels and score.
        sigma: width of the gaussian decay; the other methods do not use it.
        iou_threshold: overlap above which "linear" and "hard" act; "gaussian" does not use it.
        score_threshold: a box whose lowered score falls below is dropped.
        method: "linear" (score x (1 - IoU)), "gaussian" (score x exp(-IoU^2 / sigma)) or "hard".

    Returns:
        (M, 5) float32: the boxes left with their new scores, in the order found, best first.

    Raises:
        ValueError: wrong shape, values that are not finite, unknown method, sigma not positive.
    """
    boxes, scores = _split(dets)
    one = np.zeros(len(scores), np.int64)
    index, scores = nms_per_class(boxes, scores, one, sigma, iou_threshold, score_threshold, method)
    return np.concatenate([boxes[index], scores[:, None]], axis=1)


def hard_nms(dets: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy NMS: a box that overlaps a better kept one by `iou_threshold` or more is dropped.

    Args:
        dets: (N, 5) x1, y1, x2, y2 in pixels and score.
        iou_threshold: least overlap that drops a box.

    Returns:
        (M,) int64 indices of the boxes kept, best first; the first of equal scores comes first.

    Raises:
        ValueError: wrong shape or values that are not finite.
    """
    boxes, scores = _split(dets)
    _check_finite(boxes, scores)
    order = np.argsort(-scores, kind="stable")
    return order[_backend.hard(np.ascontiguousarray(boxes[order]), float(iou_threshold))]


def nms_per_class(
    boxes_px: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    method: str = "linear",
    keep_per_class: int = 0,
) -> Tuple[np.ndarray, np.ndarray]:
    """`soft_nms` within each class of an image, all classes in one call.

    Equal labels for all boxes make it class-agnostic; labels numbered through several images do a
    whole batch at once.

    Args:
        boxes_px: (N, 4) corners in pixels.
        scores: (N,).
        labels: (N,) whole numbers from 0; boxes of different labels do not affect each other.
        sigma, iou_threshold, score_threshold, method: as in `soft_nms`.
        keep_per_class: most boxes left of each label, 0 for all.

    Returns:
        (M,) int64 indices and (M,) float32 new scores; labels ascending, best first within each.

    Raises:
        ValueError: as `soft_nms`, and for arrays of different lengths and numbers below 0.
    """
    if method not in METHODS:
        raise ValueError(f"unknown NMS method {method!r}; choose from {', '.join(METHODS)}")
    if method == "gaussian" and not sigma > 0:
        raise ValueError(f"sigma must be positive, not {sigma}")
    if keep_per_class < 0:
        raise ValueError(f"keep_per_class must be 0 or more, not {keep_per_class}")
    boxes = np.ascontiguousarray(boxes_px, np.float32)
    scores = np.ascontiguousarray(scores, np.float32)
    groups, labels = _check_groups(boxes, scores, np.asarray(labels))
    rule = (float(sigma), float(iou_threshold), float(score_threshold), METHODS[method])
    return _backend.soft(boxes, scores, labels, groups, *rule, int(keep_per_class))


def _check_groups(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> Tuple[int, np.ndarray]:
    """A number above every label, and the labels as int64."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), not {boxes.shape}")
    if scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
        raise ValueError(
            f"scores and labels must have shape ({len(boxes)},) like the boxes, "
            f"not {scores.shape} and {labels.shape}"
        )
    _check_finite(boxes, scores)
    if not len(labels):
        return 1, np.zeros(0, np.int64)
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError("labels must be whole numbers from 0")
    groups = int(labels.max()) + 1
    if groups > 1 << 20:  # far apart numbers: count only those there are
        values, labels = np.unique(labels, return_inverse=True)
        groups = len(values)
    return groups, np.ascontiguousarray(labels, np.int64)


def _split(dets: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(N, 5) detections as contiguous boxes (N, 4) and scores (N,)."""
    dets = np.asarray(dets, np.float32)
    if dets.ndim != 2 or dets.shape[1] != 5:
        raise ValueError(f"detections must have shape (N, 5), not {dets.shape}")
    boxes, scores = np.ascontiguousarray(dets[:, :4]), np.ascontiguousarray(dets[:, 4])
    return boxes, scores


def _check_finite(boxes: np.ndarray, scores: np.ndarray) -> None:
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("boxes or scores contain NaN or infinite values")
