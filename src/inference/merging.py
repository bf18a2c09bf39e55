# SPDX-License-Identifier: Apache-2.0
"""Boxes of several views of an image put together. NumPy and the compiled NMS only.

Sizes and flips: weighted boxes fusion of what NMS leaves of each view, or one soft-NMS over the
candidates of all. Tiles: always the latter, and then parts of objects that seams cut are joined.
"""

from dataclasses import replace
from typing import Callable, List, Sequence, Set, Tuple

import numpy as np

from ..box_utils import iou_matrix
from .postprocess import Candidates, Detections, PostProcessor
from .tiling import cut_edges, drop_seen_whole, join_parts
from .views import View, accepts

FUSE_IOU = 0.55  # of boxes of one object, as in the paper on weighted boxes fusion
SEAM_PX = 3  # pixels of the network's input; a box that ends this near to a seam has been cut


def merge_views(
    found: Candidates,
    views: Sequence[View],
    owner: np.ndarray,
    sizes_px: Sequence[Tuple[int, int]],
    postprocess: PostProcessor,
    merge: str,
) -> List[Detections]:
    """Detections of each of I images.

    Args:
        found: candidates in pixels of the images; `image` is the number of the view.
        views: V of them.
        owner: (V,) the image of each view.
        sizes_px: (I, 2) width and height of the images.
        postprocess: NMS and limits.
        merge: "wbf" or "soft_nms".

    Raises:
        ValueError: another `merge`.
    """
    if merge not in ("wbf", "soft_nms"):
        raise ValueError(f"merge must be wbf or soft_nms, not {merge!r}")
    fuse = np.full(len(sizes_px), merge == "wbf")
    for view, image in zip(views, owner):
        fuse[image] &= view.window == (0, 0, *sizes_px[image])
    of_fused = fuse[owner[found.image]]
    fused = _fuse_views(found[of_fused], views, owner, sizes_px, postprocess)
    others = _suppress_views(found[~of_fused], views, owner, sizes_px, postprocess)
    return [a if chosen else b for chosen, a, b in zip(fuse, fused, others)]


def _suppress_views(
    found: Candidates,
    views: Sequence[View],
    owner: np.ndarray,
    sizes_px: Sequence[Tuple[int, int]],
    postprocess: PostProcessor,
) -> List[Detections]:
    cut = _cut(found, views, owner, sizes_px)
    if cut.any():
        windows, overlap = (column[found.image] for column in _windows(views))
        found = found[drop_seen_whole(found.boxes_px, windows, cut, overlap)]
    kept, scores = postprocess.select(found, owner)
    kept = replace(kept, scores=scores)
    if cut.any():
        kept = _join(kept, _cut(kept, views, owner, sizes_px), owner)
    return postprocess.split(replace(kept, image=owner[kept.image]), kept.scores, len(sizes_px))


def _fuse_views(
    found: Candidates,
    views: Sequence[View],
    owner: np.ndarray,
    sizes_px: Sequence[Tuple[int, int]],
    postprocess: PostProcessor,
) -> List[Detections]:
    # Soft-NMS would leave boxes of little score beside every object.
    each = replace(postprocess, method="hard", iou_threshold=FUSE_IOU)
    kept, _ = each.select(found)
    fused = []
    for image in range(len(sizes_px)):
        own = [view for view, number in zip(views, owner) if number == image]
        fused.append(_fuse(kept[owner[kept.image] == image], own, image))
    limited = postprocess.limit(Candidates.join(fused))
    return postprocess.split(limited, limited.scores, len(sizes_px))


def _fuse(found: Candidates, views: Sequence[View], image: int) -> Candidates:
    """The boxes of one image; each counts on every view that would have kept it."""

    def seen_by(boxes: np.ndarray) -> np.ndarray:
        return np.maximum(np.sum([accepts(view, boxes) for view in views], axis=0), 1)

    columns = (found.boxes_px, found.scores, found.labels, found.image)
    boxes, scores, labels = fuse_boxes(*columns, seen_by, FUSE_IOU)
    return Candidates(boxes, scores, labels, np.full(len(boxes), image))


def _windows(views: Sequence[View]) -> Tuple[np.ndarray, np.ndarray]:
    """Windows (V, 4) xyxy of the views and the fractions of a side they have in common (V, 1)."""
    windows = np.array([view.window for view in views]).reshape(-1, 4)
    return windows, np.array([[view.overlap] for view in views])


def _cut(
    found: Candidates,
    views: Sequence[View],
    owner: np.ndarray,
    sizes_px: Sequence[Tuple[int, int]],
) -> np.ndarray:
    """(N, 4) bool: the edges of each box that lie at a seam of its tile."""
    windows, _ = _windows(views)
    sizes = np.asarray(sizes_px).reshape(-1, 2)[owner]
    scale = (windows[:, 2:] - windows[:, :2]) / np.array([[view.size] for view in views])
    rows = found.image
    margin = np.tile(SEAM_PX * scale, 2)[rows]
    return cut_edges(found.boxes_px, windows[rows], sizes[rows], margin)


def _join(found: Candidates, cut: np.ndarray, owner: np.ndarray) -> Candidates:
    """Parts of objects joined, image by image."""
    boxes, alive = found.boxes_px.copy(), np.ones(len(found.scores), bool)
    for image in np.unique(owner[found.image[cut.any(axis=1)]]):
        rows = np.flatnonzero(owner[found.image] == image)
        boxes[rows], alive[rows] = join_parts(
            found.boxes_px[rows], found.scores[rows], found.labels[rows], cut[rows]
        )
    return replace(found, boxes_px=boxes)[alive]


def fuse_boxes(
    boxes_px: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    views: np.ndarray,
    seen_by: Callable[[np.ndarray], np.ndarray],
    iou_threshold: float = 0.55,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of one class each, averaged by score.

    In order of falling score a box joins the cluster whose present average it overlaps most, above
    `iou_threshold`, or starts one. A cluster has one box of each view at most: further ones are
    what NMS left beside the best, and are dropped. A cluster's score is the mean of its T boxes'
    scores times min(T, V) / V, where V is the number of views that could have found it: what only
    few of them found counts less.

    Args:
        boxes_px: (N, 4) xyxy of all views together.
        scores: (N,). labels: (N,). views: (N,) number of the view of each box.
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
        boxes, means, counts = _clusters(boxes_px[rows], scores[rows], views[rows], iou_threshold)
        able = seen_by(boxes)
        fused.append(boxes)
        values.append(means * np.minimum(counts, able) / able)
        kinds.append(np.full(len(boxes), label, labels.dtype))
    return (
        np.concatenate(fused).astype(np.float32),
        np.concatenate(values).astype(np.float32),
        np.concatenate(kinds),
    )


def _clusters(
    boxes: np.ndarray, scores: np.ndarray, views: np.ndarray, iou_threshold: float
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average boxes (K, 4), mean scores (K,) and sizes (K,) of the clusters of one class."""
    sums, weights = np.zeros((len(boxes), 4)), np.zeros(len(boxes))
    means, counts = np.zeros((len(boxes), 4)), np.zeros(len(boxes))
    members: Set[Tuple[int, int]] = set()  # clusters and the views they have a box of
    found = 0
    for box, score, view in zip(
        boxes.astype(np.float64), scores.astype(np.float64), views.tolist()
    ):
        overlap = iou_matrix(box[None], means[:found])[0]
        cluster = int(overlap.argmax()) if found else 0
        if not found or overlap[cluster] <= iou_threshold:
            cluster, found = found, found + 1
        if (cluster, view) in members:
            continue
        members.add((cluster, view))
        sums[cluster] += score * box
        weights[cluster] += score
        counts[cluster] += 1
        means[cluster] = sums[cluster] / weights[cluster]
    return means[:found], weights[:found] / counts[:found], counts[:found]
