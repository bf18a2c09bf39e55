# SPDX-License-Identifier: Apache-2.0
"""Network output to detections: softmax, threshold, decode and NMS, all classes at once.

B batch, P priors, C classes with background 0, N detections. Boxes are corners in pixels.
NumPy and the compiled NMS only.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .. import box_utils, nms
from ..runtime.errors import M2DetError
from .box_voting import vote

Outputs = Tuple[np.ndarray, np.ndarray]  # loc (P, 4), logits (P, C) of one view, or decoded
Network = Callable[[np.ndarray], Outputs]  # (B, 3, S, S) -> loc (B, P, 4), logits (B, P, C)


class NotFiniteError(M2DetError, ValueError):
    """The network's outputs hold NaN or infinity: its weights are damaged or have diverged."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first; no rows where nothing was found."""

    boxes_px: np.ndarray  # (N, 4) float32 xyxy in pixels of the original image
    scores: np.ndarray  # (N,) float32
    labels: np.ndarray  # (N,) int32 from 1

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes of several images whose score passed the threshold, before NMS."""

    boxes_px: np.ndarray  # (N, 4) float32 xyxy
    scores: np.ndarray  # (N,) float32
    labels: np.ndarray  # (N,) int64 from 1
    image: np.ndarray  # (N,) int64, which image

    def __getitem__(self, rows: np.ndarray) -> "Candidates":
        """Some of them, by index or mask (N,)."""
        return Candidates(
            self.boxes_px[rows], self.scores[rows], self.labels[rows], self.image[rows]
        )

    @classmethod
    def join(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """All of `parts`, one after the other."""
        none = np.zeros(0, np.int64)
        parts = [cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none, none), *parts]
        columns = ("boxes_px", "scores", "labels", "image")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


@dataclass(frozen=True, eq=False)
class PostProcessor:
    """Detections from what the network gives. The defaults are the official code's form.

    The official code passes its configured IoU (0.45) as the sigma of linear soft-NMS, which does
    not use it, so 0.3 is the threshold in effect. It neither clips boxes nor limits their number
    per image.
    """

    priors: np.ndarray  # (P, 4) cxcywh in [0, 1]
    score_threshold: float = 0.1  # class probability a box must exceed
    method: str = "linear"  # of NMS: "linear", "gaussian" or "hard"
    sigma: float = 0.45
    iou_threshold: float = 0.3
    lowest_score: float = 0.001  # a box whose score NMS lowers below is dropped
    keep_per_class: int = 50  # 0 keeps all
    topk: int = 0  # boxes kept per image; 0 keeps all
    class_agnostic: bool = False  # boxes of different classes suppress each other
    clip: bool = False  # limit boxes to the image
    voting_iou: float = 0.0  # see `vote`; 0: boxes stay as NMS leaves them

    def settings(self) -> Dict[str, Any]:
        """Everything but the priors, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["priors"]
        return values

    def __call__(
        self, loc: np.ndarray, logits: np.ndarray, width: float, height: float
    ) -> Detections:
        """Detections of one image of `width` x `height` pixels from loc (P, 4) and logits (P, C).

        Raises:
            ValueError: as `batch`.
        """
        return self.batch(np.asarray(loc)[None], np.asarray(logits)[None], [(width, height)])[0]

    def batch(
        self, loc: np.ndarray, logits: np.ndarray, sizes_px: Sequence[Tuple[float, float]]
    ) -> List[Detections]:
        """Detections of each image of a batch.

        Args:
            loc: (B, P, 4) regression output.
            logits: (B, P, C) class scores before the softmax.
            sizes_px: (width, height) of each original image.

        Raises:
            ValueError: shapes that do not fit each other, or NaN and infinite network outputs.
        """
        return self.suppress(self.decode(loc, logits, sizes_px), len(sizes_px))

    def decode(
        self, loc: np.ndarray, logits: np.ndarray, sizes_px: Sequence[Tuple[float, float]]
    ) -> Candidates:
        """The first half of `batch`: softmax, threshold and boxes in pixels.

        Raises:
            ValueError: as `batch`.
        """
        loc, logits = np.asarray(loc, np.float32), np.asarray(logits, np.float32)
        images, count = len(sizes_px), len(self.priors)
        if loc.shape != (images, count, 4):
            raise ValueError(f"loc must have shape {(images, count, 4)}, not {loc.shape}")
        if logits.ndim != 3 or logits.shape[:2] != (images, count) or logits.shape[2] < 2:
            raise ValueError(f"logits must have shape {(images, count, 'C')}, not {logits.shape}")
        rows, labels, scores = candidates(
            logits.reshape(images * count, logits.shape[2]), self.score_threshold
        )
        image, prior = np.divmod(rows, count)
        found = Candidates(
            self._boxes(loc.reshape(-1, 4)[rows], prior, image, sizes_px), scores, labels, image
        )
        usable = np.isfinite(found.boxes_px).all(1)  # sizes beyond float32 are no detections
        return found if usable.all() else found[usable]

    def threshold(
        self, boxes: np.ndarray, scores: np.ndarray, sizes_px: Sequence[Tuple[float, float]]
    ) -> Candidates:
        """As `decode`, of boxes (B, P, 4), xyxy in [0, 1], and probabilities (B, P, C - 1) of the
        classes without the background.

        Raises:
            ValueError: as `batch`.
        """
        boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
        shape = (len(sizes_px), len(self.priors))
        if boxes.shape != (*shape, 4) or scores.ndim != 3 or scores.shape[:2] != shape:
            raise ValueError(
                f"boxes and scores must have shape {(*shape, 4)} and {(*shape, 'C - 1')},"
                f" not {boxes.shape} and {scores.shape}"
            )
        if not np.isfinite(scores).all():
            raise NotFiniteError("scores hold NaN or infinite values")
        image, prior, label = np.nonzero(scores > self.score_threshold)
        scale = np.tile(np.asarray(sizes_px, np.float32).reshape(-1, 2), 2)[image]
        boxes_px = boxes[image, prior] * scale
        if self.clip:
            boxes_px = np.clip(boxes_px, 0, scale)
        found = Candidates(boxes_px, scores[image, prior, label], label + 1, image)
        return found[np.isfinite(boxes_px).all(1)]

    def suppress(self, found: Candidates, images: int) -> List[Detections]:
        """The second half of `batch`: NMS and the limits, for images numbered below `images`."""
        return self.split(*self.select(found), images)

    def select(
        self, found: Candidates, owner: Optional[np.ndarray] = None
    ) -> Tuple[Candidates, np.ndarray]:
        """What NMS leaves of each image (and class), boxes voted upon, and its new scores (M,).

        With `owner`, `image` is the number of a view, and `owner` (V,) the image of each view.
        """
        image = found.image if owner is None else owner[found.image]
        index, scores = nms.nms_per_class(
            found.boxes_px,
            found.scores,
            self._groups(image, found.labels),
            self.sigma,
            self.iou_threshold,
            self.lowest_score,
            self.method,
            self.keep_per_class,
        )
        kept = found[index]
        if self.voting_iou:
            kind = _kinds(image, found.labels)
            boxes = vote(index, found.boxes_px, found.scores, kind, self.voting_iou)
            kept = replace(kept, boxes_px=boxes)
        return kept, scores

    def split(self, kept: Candidates, scores: np.ndarray, images: int) -> List[Detections]:
        """One result, best first, for each of `images` images; at most `topk` of them each."""
        order = np.lexsort((-scores, kept.image))  # stable: equal scores stay by class
        boxes, scores, labels = kept.boxes_px[order], scores[order], kept.labels[order]
        stops = np.searchsorted(kept.image[order], np.arange(images + 1))
        found = []
        for start, stop in zip(stops[:-1], stops[1:]):
            stop = min(stop, start + self.topk) if self.topk else stop
            rows = slice(start, stop)
            found.append(Detections(boxes[rows], scores[rows], labels[rows].astype(np.int32)))
        return found

    def limit(self, found: Candidates) -> Candidates:
        """The best `keep_per_class` of each image and class, by their scores as they are."""
        index, _ = nms.nms_per_class(
            found.boxes_px,
            found.scores,
            self._groups(found.image, found.labels),
            iou_threshold=2.0,  # above any IoU: nothing is suppressed
            score_threshold=self.lowest_score,
            method="hard",
            keep_per_class=self.keep_per_class,
        )
        return found[index]

    def _groups(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """A number (N,) for each image and class; NMS compares boxes of equal numbers only."""
        return image if self.class_agnostic else _kinds(image, labels)

    def _boxes(
        self, loc: np.ndarray, prior: np.ndarray, image: np.ndarray, sizes_px: Sequence
    ) -> np.ndarray:
        if not np.isfinite(loc).all():
            raise NotFiniteError("loc holds NaN or infinite values")
        scale = np.tile(np.asarray(sizes_px, np.float32).reshape(-1, 2), 2)[image]
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = box_utils.decode(loc, np.asarray(self.priors, np.float32)[prior]) * scale
        return np.clip(boxes, 0, scale) if self.clip else boxes


def _kinds(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A number (N,) for each image and class."""
    return image * (int(labels.max(initial=0)) + 1) + labels


def candidates(logits: np.ndarray, threshold: float) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the softmax of (R, C) logits exceeds `threshold`, background left out.

    A probability above t needs a logit above the background's by log(t / (1 - t)), so the
    exponentials of most rows are never computed.

    Returns:
        (N,) int64 rows, (N,) int64 classes from 1, (N,) float32 probabilities; by row, then class.

    Raises:
        NotFiniteError: a row's background or best class is NaN or infinite.
    """
    logits = np.ascontiguousarray(logits)
    count, classes = logits.shape
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    # each row is cut after its background; a reduction per piece is faster than one over an axis
    cuts = (np.arange(count)[:, None] * classes + (0, 1)).ravel()
    background, best = np.maximum.reduceat(logits.ravel(), cuts).reshape(-1, 2).T
    if not (np.isfinite(best).all() and np.isfinite(background).all()):
        raise NotFiniteError("logits hold NaN or infinite values")
    rows = np.arange(count)
    if 0 < threshold < 1:
        margin = math.log(threshold / (1 - threshold)) - 1e-3  # tolerance for rounding
        rows = np.flatnonzero(best - background > margin)
    part = logits[rows]
    part -= np.maximum(best, background)[rows, None]  # of the row itself, so nothing underflows
    np.exp(part, out=part)
    part /= part.sum(axis=1, keepdims=True)
    above = part > threshold
    above[:, 0] = False
    found = np.flatnonzero(above)
    row, label = np.divmod(found, classes)
    return rows[row], label, part.ravel()[found]
