# SPDX-License-Identifier: Apache-2.0
"""Scales of prior boxes that fit the ground truths of a data set. NumPy only.

Boxes are (G, 4) `cxcywh` normalised by the image size, scales by the input side.
"""

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from ..config import Config
from ..priors import best_iou, map_sizes, prior_boxes, ratio_rows, table_for
from .records import DataError

SMALLEST, LARGEST = 0.01, 1.05
STEPS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25)  # factors that a scale is multiplied with on trial
ROUNDS = 20  # upper limit of iterations
MOST_BOXES = 5000  # looked at while searching
GAP = 1.1  # least ratio of two neighbouring scales


class Grid(NamedTuple):
    """The feature maps: cells and pixels between cells of each, ratios of each, input side."""

    sizes: Sequence[int]
    steps: Sequence[float]
    ratios: Sequence[Sequence[float]]
    input_size: int


class AnchorFit(NamedTuple):
    """How well priors fit boxes; ordered by recall first."""

    recall: float  # fraction of the boxes with a prior of at least the threshold's IoU
    mean_iou: float  # mean over the boxes of their best IoU


def build_grid(config: Config) -> Tuple[Grid, Tuple[float, ...]]:
    """The feature maps of a configuration, and the scales it has now."""
    sizes = map_sizes(config.model)
    table = table_for(config.anchors, config.model.input_size, sizes)
    rows = ratio_rows(config.anchors, len(sizes))
    return Grid(sizes, table.steps, rows, config.model.input_size), table.scales


def evaluate_scales(
    boxes: np.ndarray, scales: Sequence[float], grid: Grid, threshold: float = 0.5
) -> AnchorFit:
    """How well the priors of `scales` (one a map and one more) fit `boxes`."""
    priors = prior_boxes(grid.sizes, grid.steps, scales, grid.ratios, grid.input_size)
    per_cell = [2 + 2 * len(row) for row in grid.ratios]
    iou = best_iou(boxes, priors, grid.sizes, per_cell)
    return AnchorFit(float((iou >= threshold).mean()), float(iou.mean()))


def suggest_scales(
    boxes: np.ndarray, grid: Grid, start: Sequence[float] = (), threshold: float = 0.5
) -> Tuple[float, ...]:
    """Ascending scales, one a map and one more, that fit `boxes`.

    Begins with the better of `start` and the quantiles of the boxes' sizes (square root of the
    area), and changes one scale at a time while that helps: first the fraction of boxes
    with a prior of IoU `threshold` or more, then the mean of their best IoU.

    Raises:
        DataError: no boxes.
        ValueError: `start` of another length.
    """
    count = len(grid.sizes) + 1
    if not len(boxes):
        raise DataError("no boxes to fit anchors to")
    if len(start) not in (0, count):
        raise ValueError(f"expected {count} scales to start from, not {len(start)}")
    seen = boxes[:: -(-len(boxes) // MOST_BOXES)]
    starts = [_quantile_scales(seen, count)] + ([list(start)] if start else [])
    best = max(starts, key=lambda scales: evaluate_scales(seen, scales, grid, threshold))
    best_fit = evaluate_scales(seen, best, grid, threshold)
    for _ in range(ROUNDS):
        before = best_fit
        for place in range(count):
            for candidate in _neighbours(best, place):
                fit = evaluate_scales(seen, candidate, grid, threshold)
                if fit > best_fit:
                    best, best_fit = candidate, fit
        if best_fit == before:
            break
    return tuple(best)


def _quantile_scales(boxes: np.ndarray, count: int) -> List[float]:
    """Quantiles of the box sizes, with a least ratio between neighbours."""
    sides = np.sqrt(boxes[:, 2:].prod(axis=1))
    scales = np.quantile(sides, np.linspace(0.05, 0.98, count)).clip(SMALLEST, LARGEST)
    for i in range(1, count):
        scales[i] = max(scales[i], scales[i - 1] * GAP)
    scales = np.minimum(scales, LARGEST / GAP ** np.arange(count - 1, -1, -1))
    return scales.round(4).tolist()


def _neighbours(scales: Sequence[float], place: int) -> List[List[float]]:
    """`scales` with the one at `place` changed, where they still ascend."""
    found = []
    for factor in STEPS:
        changed = list(scales)
        changed[place] = round(changed[place] * factor, 4)
        apart = all(b >= a * 1.05 for a, b in zip(changed, changed[1:]))
        if apart and changed[0] >= SMALLEST and changed[-1] <= LARGEST:
            found.append(changed)
    return found
