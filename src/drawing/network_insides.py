# SPDX-License-Identifier: Apache-2.0
"""Pictures of what happens inside: prior boxes, matches, activations. NumPy and OpenCV only.

Images are (H, W, 3) uint8 BGR, priors (P, 4) cxcywh as shares of the image.
"""

from typing import List, Sequence, Tuple

import cv2
import numpy as np

from ..box_utils import cxcywh_to_xyxy, match
from .detections import colour_of

SIDE_PX = 320  # of one panel
_GROUND, _INK = (30, 30, 30), (235, 235, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def panel(image: np.ndarray, text: str, side_px: int = SIDE_PX) -> np.ndarray:
    """An image resized to `side_px` wide and high (its shape as the network sees it), captioned."""
    framed = np.full((side_px + 24, side_px, 3), _GROUND, np.uint8)
    framed[24:] = cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA)
    cv2.putText(framed, text, (5, 17), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    return framed


def grid(panels: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Panels of one size, row by row."""
    height, width = panels[0].shape[:2]
    rows = -(-len(panels) // columns)
    sheet = np.full((rows * (height + 6), columns * (width + 6), 3), _GROUND, np.uint8)
    for number, part in enumerate(panels):
        y, x = (number // columns) * (height + 6), (number % columns) * (width + 6)
        sheet[y : y + height, x : x + width] = part
    return sheet


def draw_priors(
    image: np.ndarray, priors: np.ndarray, sizes: Sequence[int], per_cell: Sequence[int]
) -> np.ndarray:
    """A panel for each feature map: its cells' centres, and the priors of the middle cell.

    Args:
        image: behind them.
        priors: of all maps.
        sizes: cells a side of each map.
        per_cell: priors in a cell of each map.
    """
    panels, start = [], 0
    for size, count in zip(sizes, per_cell):
        own = priors[start : start + size * size * count].reshape(size, size, count, 4)
        start += size * size * count
        picture = cv2.resize(image, (SIDE_PX, SIDE_PX)) // 2
        for x, y in (own[:, :, 0, :2].reshape(-1, 2) * SIDE_PX).round().astype(int).tolist():
            cv2.circle(picture, (x, y), 1, (150, 150, 150), cv2.FILLED)
        middle = own[size // 2, size // 2]
        for number, box in enumerate(_pixels(cxcywh_to_xyxy(middle))):
            cv2.rectangle(picture, box[:2], box[2:], colour_of(number + 1), 1)
        sides = np.sqrt(middle[:, 2:].prod(axis=1))
        text = f"{size} x {size} cells, {count} priors, {sides.min():.2f} to {sides.max():.2f}"
        panels.append(panel(picture, text))
    return grid(panels, min(len(panels), 3))


def draw_matches(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    priors: np.ndarray,
    iou_threshold: float,
    class_names: Sequence[str],
) -> np.ndarray:
    """A panel for each ground truth: the box, and the priors that are trained to find it.

    Args:
        image: the picture.
        boxes: (G, 4) xyxy as shares of the image; G at least 1.
        labels: (G,) from 1.
        priors: of all maps.
        iou_threshold: of `match`.
        class_names: name of each label.
    """
    # Each ground truth as its own class, so that the targets tell which of them a prior has.
    _, target = match(boxes.astype(np.float32), np.arange(1, len(boxes) + 1), priors, iou_threshold)
    corners = cxcywh_to_xyxy(priors)
    panels = []
    for number, (box, label) in enumerate(zip(boxes, labels), 1):
        picture = cv2.resize(image, (SIDE_PX, SIDE_PX)) // 2
        rows = np.flatnonzero(target == number)
        for prior in _pixels(corners[rows]):
            cv2.rectangle(picture, prior[:2], prior[2:], (150, 150, 150), 1)
        (own,) = _pixels(box[None])
        cv2.rectangle(picture, own[:2], own[2:], colour_of(int(label)), 2)
        panels.append(panel(picture, f"{class_names[label - 1]}: {len(rows)} priors"))
    return grid(panels, min(len(panels), 4))


def draw_activations(image: np.ndarray, maps: Sequence[np.ndarray], levels: int) -> np.ndarray:
    """The mean activation of each level (rows) and scale (columns) over the image.

    Figure 6 of the M2Det paper: deeper levels answer to larger and more complex parts.

    Args:
        image: the picture.
        maps: for each scale (channels, H, W); the channels of the levels one after the other.
        levels: L.

    Raises:
        ValueError: channels that cannot be divided among the levels.
    """
    side = SIDE_PX // 2
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    panels: List[np.ndarray] = []
    for level in range(levels):
        for scale, values in enumerate(maps):
            if len(values) % levels:
                raise ValueError(f"{len(values)} channels are not {levels} equal levels")
            width = len(values) // levels
            heat = _heat(values[level * width : (level + 1) * width], side)
            mixed = cv2.addWeighted(small, 0.35, heat, 0.65, 0)
            panels.append(panel(mixed, f"level {level + 1}, scale {scale + 1}", side))
    return grid(panels, len(maps))


def _heat(values: np.ndarray, side: int) -> np.ndarray:
    """Mean of positive activations (D, H, W) as colours, from the least to the most of this map."""
    mean = np.maximum(values, 0).mean(axis=0)
    spread = float(mean.max() - mean.min())
    scaled = (mean - mean.min()) / spread if spread > 0 else np.zeros_like(mean)
    enlarged = cv2.resize((scaled * 255).astype(np.uint8), (side, side))
    return cv2.applyColorMap(enlarged, cv2.COLORMAP_TURBO)


def _pixels(boxes: np.ndarray) -> List[Tuple[int, ...]]:
    """Boxes (N, 4) xyxy in shares as whole pixels of a panel."""
    return [tuple(row) for row in (boxes * (SIDE_PX - 1)).round().astype(int).tolist()]
