# SPDX-License-Identifier: Apache-2.0
"""Pictures of priors, matched priors and activations. NumPy and OpenCV only.

Images are (H, W, 3) uint8 BGR, priors (P, 4) cxcywh normalised by the image size.
"""

from typing import List, Sequence, Tuple

import cv2
import numpy as np

from ..box_utils import cxcywh_to_xyxy, match
from ..config import AnchorConfig
from .detections import colour_of, draw_detections, scaled
from .text import text_size, write_text

SIDE_PX = 400  # longer side of one panel
CAPTION_PX = 26  # above it
GAP_PX = 8  # between panels
_GROUND, _INK = (30, 30, 30), (235, 235, 235)
_GREY = (170, 170, 170)
_FONT_PX = 15


def panel(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture with a caption above it, in smaller letters where it would not fit."""
    height, width = picture.shape[:2]
    framed = np.full((height + CAPTION_PX, width, 3), _GROUND, np.uint8)
    framed[CAPTION_PX:] = picture
    wide, _ = text_size(text, _FONT_PX)
    font_px = _FONT_PX if wide <= width else max(7, _FONT_PX * width // wide)
    write_text(framed, text, (2, (CAPTION_PX - font_px) // 2 - 1), font_px, _INK)
    return framed


def grid(panels: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Panels of one size, row by row."""
    height, width = panels[0].shape[:2]
    rows = -(-len(panels) // columns)
    shape = (rows * (height + GAP_PX), columns * (width + GAP_PX), 3)
    sheet = np.full(shape, _GROUND, np.uint8)
    for number, part in enumerate(panels):
        y, x = (number // columns) * (height + GAP_PX), (number % columns) * (width + GAP_PX)
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
    panels = []
    ground = scaled(image, SIDE_PX) // 2
    shape = np.array(ground.shape[1::-1])
    for rows, size, count in zip(_maps(sizes, per_cell), sizes, per_cell):
        own = priors[rows].reshape(size, size, count, 4)
        picture = ground.copy()
        for x, y in (own[:, :, 0, :2].reshape(-1, 2) * shape).round().astype(int).tolist():
            cv2.circle(picture, (x, y), 1, _GREY, cv2.FILLED)
        middle = own[size // 2, size // 2]
        for number, box in enumerate(_pixels(cxcywh_to_xyxy(middle), picture)):
            cv2.rectangle(picture, box[:2], box[2:], colour_of(number + 1), 2)
        sides = np.sqrt(middle[:, 2:].prod(axis=1))
        text = (
            f"{size} x {size} cells, {count} priors, sides {sides.min():.2f} to {sides.max():.2f}"
        )
        panels.append(panel(picture, text))
    return grid(panels, _columns(len(panels)))


def draw_matches(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    priors: np.ndarray,
    matching: AnchorConfig,
    class_names: Sequence[str],
    sizes: Sequence[int],
    per_cell: Sequence[int],
) -> np.ndarray:
    """The objects by name, then a panel for each feature map: the priors trained to find them.

    A prior has the colour of its object, whose box is drawn thicker; the caption counts the objects
    that the map has priors for.

    Args:
        image: the picture.
        boxes: (G, 4) xyxy as fractions of the image; G at least 1.
        labels: (G,) from 1.
        priors: of all maps.
        matching: of priors and objects.
        class_names: name of each label.
        sizes: cells a side of each map.
        per_cell: priors in a cell of each map.
    """
    # Each ground truth as its own class, so that the targets tell which of them a prior has.
    rule = matching.iou_threshold, matching.dynamic_k
    _, target = match(boxes.astype(np.float32), np.arange(1, len(boxes) + 1), priors, *rule)
    corners = cxcywh_to_xyxy(priors)
    whole = scaled(image, SIDE_PX)
    numbers = np.arange(1, len(boxes) + 1)  # a colour for each object, not for each class
    counts = np.bincount(target, minlength=len(boxes) + 1)[1:]
    names = [f"{class_names[label - 1]}: {n}" for label, n in zip(labels, counts)]
    drawn = draw_detections(whole, np.array(_pixels(boxes, whole)), numbers, None, names)
    panels = [panel(drawn, f"{counts.sum()} priors for {_number(len(boxes), 'object')}")]
    for rows, size in zip(_maps(sizes, per_cell), sizes):
        picture = whole // 2
        matched = np.flatnonzero(target[rows]) + rows.start
        for row, prior in zip(matched, _pixels(corners[matched], picture)):
            cv2.rectangle(picture, prior[:2], prior[2:], colour_of(int(target[row])), 1)
        for number, box in zip(numbers.tolist(), _pixels(boxes, picture)):
            cv2.rectangle(picture, box[:2], box[2:], colour_of(number), 3)
        own = len(np.unique(target[matched]))
        text = f"{size} x {size} cells: {len(matched)} priors for {_number(own, 'object')}"
        panels.append(panel(picture, text))
    return grid(panels, _columns(len(panels)))


def draw_activations(image: np.ndarray, maps: Sequence[np.ndarray], levels: int) -> np.ndarray:
    """The image, and the mean activation of each level (columns) and scale (rows) over it.

    Figure 6 of the M2Det paper: deeper levels answer to larger and more complex parts. Colours go
    from blue, the least of a map, to yellow, the most, without the outermost cells: what lies
    there is the padding with zeros.

    Args:
        image: the picture.
        maps: for each scale (channels, H, W); the channels of the levels one after the other.
        levels: L.

    Raises:
        ValueError: channels that cannot be divided among the levels.
    """
    side = SIDE_PX if levels <= 3 else SIDE_PX * 2 // 3
    small = scaled(image, side)
    grey = cv2.cvtColor(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    panels: List[np.ndarray] = []
    blank = np.full_like(panel(small, ""), _GROUND)
    for scale, values in enumerate(maps):
        if len(values) % levels:
            raise ValueError(f"{len(values)} channels are not {levels} equal levels")
        panels.append(blank if scale else panel(small, "the image"))
        for level, part in enumerate(np.split(values, levels)):
            heat = _heat(part, (small.shape[1], small.shape[0]))
            mixed = cv2.addWeighted(grey, 0.25, heat, 0.75, 0)
            size = f"{values.shape[1]} x {values.shape[2]} cells"
            panels.append(panel(mixed, f"level {level + 1}, scale {scale + 1}: {size}"))
    return grid(panels, levels + 1)


def _heat(values: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Mean of positive activations (D, H, W) as colours, enlarged to a width and height."""
    mean = np.maximum(values, 0).mean(axis=0)
    inner = mean[1:-1, 1:-1] if min(mean.shape) > 3 else mean
    low, high = float(inner.min()), float(inner.max())
    scaled = ((mean - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(mean)
    enlarged = cv2.resize((scaled * 255).astype(np.uint8), size)
    return cv2.applyColorMap(enlarged, cv2.COLORMAP_VIRIDIS)


def _maps(sizes: Sequence[int], per_cell: Sequence[int]) -> List[slice]:
    """Which rows of the priors are of each map."""
    ends = np.cumsum([0] + [size * size * count for size, count in zip(sizes, per_cell)]).tolist()
    return [slice(start, end) for start, end in zip(ends, ends[1:])]


def _columns(count: int) -> int:
    """Columns of a sheet of `count` panels: up to four in two rows."""
    return count if count <= 3 else min(4, -(-count // 2))


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")


def _pixels(boxes: np.ndarray, picture: np.ndarray) -> List[Tuple[int, ...]]:
    """Boxes (N, 4) xyxy in fractions as whole pixels of a picture."""
    last = np.tile(np.array(picture.shape[1::-1]) - 1, 2)
    return [tuple(row) for row in (boxes * last).round().astype(int).tolist()]
