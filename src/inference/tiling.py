# SPDX-License-Identifier: Apache-2.0
"""Tiles of a large image, and how boxes cut by tile borders are merged. NumPy only.

A seam is an edge of a tile inside the image. Neighbouring tiles share a strip, the overlap. A box
that ends at a seam has been cut: where it is shorter than the overlap, a neighbour sees all of it,
and the cut one is dropped. Longer ones are joined with the part that the neighbour found.
"""

import math
from typing import List, Tuple

import numpy as np

Window = Tuple[int, int, int, int]  # xyxy in pixels of the image
SAME_OBJECT_IOU = 0.5  # IoU across the seam from which two parts are one object


def tile_windows(width: int, height: int, tile_px: int, overlap: float) -> List[Window]:
    """Tiles of at most `tile_px` a side that cover the image, row by row.

    Neighbours overlap by at least the fraction `overlap` of a side. An image no larger than a tile
    is one window.

    Raises:
        ValueError: no positive side, or an overlap outside [0, 0.9].
    """
    if min(width, height, tile_px) < 1:
        raise ValueError(f"sides must be positive, not {width} x {height} in tiles of {tile_px}")
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"the overlap of tiles must be from 0 to 0.9, not {overlap}")
    columns, rows = (_starts(side, tile_px, overlap) for side in (width, height))
    return [
        (x, y, min(x + tile_px, width), min(y + tile_px, height)) for y in rows for x in columns
    ]


def _starts(side: int, tile_px: int, overlap: float) -> List[int]:
    """First pixels of the tiles along one side, evenly spread."""
    if side <= tile_px:
        return [0]
    count = math.ceil((side - tile_px) / max(1, tile_px * (1 - overlap))) + 1
    return [round(k * (side - tile_px) / (count - 1)) for k in range(count)]


def cut_edges(
    boxes_px: np.ndarray, windows: np.ndarray, sizes_px: np.ndarray, margin: np.ndarray
) -> np.ndarray:
    """(N, 4) bool: which edges (left, top, right, bottom) of each box lie at a seam.

    Args:
        boxes_px: (N, 4) xyxy in pixels of the image.
        windows: (N, 4) xyxy, the tile each box was found in.
        sizes_px: (N, 2) width and height of the image of each box.
        margin: (N, 4) pixels from the seam that still count.
    """
    frame = np.concatenate([np.zeros_like(sizes_px), sizes_px], axis=1)
    outwards = np.array([-1, -1, 1, 1])
    reaching = (boxes_px - windows) * outwards > -margin
    return reaching & (windows != frame)


def drop_seen_whole(
    boxes_px: np.ndarray, windows: np.ndarray, cut: np.ndarray, overlap: np.ndarray
) -> np.ndarray:
    """(N,) bool: the boxes to keep, without cut ones that a neighbouring tile sees whole.

    `overlap` (N, 1) is the fraction of a side that neighbouring tiles have in common.
    """
    sides = boxes_px[:, 2:] - boxes_px[:, :2]
    strip = (windows[:, 2:] - windows[:, :2]) * overlap
    shorter = np.tile(sides < strip, 2)
    return ~(cut & shorter).any(axis=1)


def join_parts(
    boxes_px: np.ndarray, scores: np.ndarray, labels: np.ndarray, cut: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes cut by one seam from both sides made one.

    Two boxes are parts of an object where they have the same label, one is cut at its right (or
    lower) edge and the other at its left (or upper), the two touch, and their extents along the
    seam have an IoU of at least 0.5. The object gets the higher score.

    Args:
        boxes_px: (N, 4) xyxy. scores: (N,). labels: (N,). cut: (N, 4) of `cut_edges`.

    Returns:
        boxes (N, 4) and a mask (N,) of those left; the others went into one with a better score.
    """
    boxes, cut = boxes_px.copy(), cut.copy()
    alive = np.ones(len(boxes), bool)
    for best in np.argsort(-scores, kind="stable"):
        joined = alive[best] and cut[best].any()
        while joined:  # a long object goes through several tiles
            joined = False
            for edge in np.flatnonzero(cut[best]):
                part = _other_part(boxes, scores, labels, cut, alive, best, edge)
                if part >= 0:
                    boxes[best] = _around(boxes[best], boxes[part])
                    cut[best, edge] = cut[part, edge]
                    alive[part] = False
                    joined = True
                    break
    return boxes, alive


def _other_part(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    cut: np.ndarray,
    alive: np.ndarray,
    best: int,
    edge: int,
) -> int:
    """The best box that goes on where `best` is cut at `edge`; -1 if there is none."""
    own, along, across = boxes[best], edge % 2, 1 - edge % 2
    low = np.maximum(boxes[:, across], own[across])
    high = np.minimum(boxes[:, across + 2], own[across + 2])
    union = np.maximum(boxes[:, across + 2], own[across + 2]) - np.minimum(
        boxes[:, across], own[across]
    )
    same = np.clip(high - low, 0, None) >= SAME_OBJECT_IOU * union
    touching = (boxes[:, along] <= own[along + 2]) & (boxes[:, along + 2] >= own[along])
    further = (boxes[:, edge] - own[edge]) * (1 if edge >= 2 else -1) > 0
    fits = alive & (labels == labels[best]) & cut[:, (edge + 2) % 4] & same & touching & further
    fits[best] = False
    return int(np.where(fits, scores, -np.inf).argmax()) if fits.any() else -1


def _around(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])
