# SPDX-License-Identifier: Apache-2.0
"""Where names of boxes go: beside what they name, and not onto each other. NumPy only."""

from typing import List, Optional, Sequence, Tuple

import numpy as np

_ROWS = 5  # label heights that a name may move away from its box
_MOST_HIDDEN = 0.3  # fraction of a name that others may lie on; it is left out beyond

Place = Tuple[int, int]  # x, y of the upper left corner


def place_labels(
    boxes: np.ndarray, sizes: Sequence[Tuple[int, int]], width: int, height: int
) -> List[Optional[Place]]:
    """The upper left corner of each box's name, within the picture.

    Each takes the best place that is left: just above or below its box, then inside, beside, and
    further off; a name costs by what it covers of other names, of its own box and of others.

    Args:
        boxes: (N, 4) xyxy in pixels within the picture, the most important first.
        sizes: width and height of each name.
        width, height: of the picture.

    Returns:
        N places; None for a name that would lie on others wherever it went.
    """
    placed = np.zeros((0, 4))
    places: List[Optional[Place]] = []
    for row, (box, size) in enumerate(zip(boxes, sizes)):
        spots = _spots(box, size, width, height)
        hidden = _overlap_fractions(spots, placed, of_spot=True).sum(axis=1, initial=0)
        covered = _overlap_fractions(spots, boxes, of_spot=False)
        own = covered[:, row].copy()
        covered[:, row] = 0
        away = _distance(spots, box) / size[1]
        order = np.arange(len(spots)) * 0.02
        cost = 50 * hidden + 3 * own + 2 * covered.sum(axis=1) + 0.5 * away + order
        best = int(cost.argmin())
        if hidden[best] > _MOST_HIDDEN:
            places.append(None)
            continue
        places.append((int(spots[best, 0]), int(spots[best, 1])))
        placed = np.concatenate([placed, spots[best : best + 1]])
    return places


def _spots(box: np.ndarray, size: Tuple[int, int], width: int, height: int) -> np.ndarray:
    """(K, 4) places for a name, xyxy within the picture, the usual ones first."""
    (x1, y1, x2, y2), (wide, tall) = box, size
    lefts = (x1, x2 - wide, (x1 + x2 - wide) / 2)
    corners = [(x, y) for y in (y1 - tall, y2, y1, y2 - tall) for x in lefts]
    corners += [(x, y) for x in (x2, x1 - wide) for y in (y1, y2 - tall)]
    for step in range(1, _ROWS):
        rows = (y1 - (step + 1) * tall, y2 + step * tall, y1 + step * tall)
        corners += [(x, y) for y in rows for x in (*lefts[:2], x2, x1 - wide)]
    spots = np.array(corners)
    spots[:, 0] = spots[:, 0].clip(0, max(0, width - wide))
    spots[:, 1] = spots[:, 1].clip(0, max(0, height - tall))
    spots = np.round(spots)
    return np.concatenate([spots, spots + size], axis=1)


def _overlap_fractions(spots: np.ndarray, boxes: np.ndarray, of_spot: bool) -> np.ndarray:
    """(K, N) intersection of each spot and box, as a fraction of the spot or else of the box."""
    low = np.maximum(spots[:, None, :2], boxes[None, :, :2])
    high = np.minimum(spots[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    whole = spots[:, None] if of_spot else boxes[None]
    return common / (whole[..., 2:] - whole[..., :2]).prod(axis=2).clip(1)


def _distance(spots: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(K,) pixels between each spot and the box; 0 where they touch."""
    gap = np.maximum(spots[:, :2] - box[2:], box[:2] - spots[:, 2:]).clip(0)
    return np.hypot(gap[:, 0], gap[:, 1])
