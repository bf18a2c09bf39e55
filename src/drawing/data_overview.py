# SPDX-License-Identifier: Apache-2.0
"""A picture of a data set: box sizes against priors, class histogram, images with their boxes."""

from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np

from ..data.images import read_image
from ..data.records import DetectionData, ImageError
from ..data.sample_stream import training_boxes
from .detections import colour_of

PANEL = 640  # side of the two upper panels, pixels
COLUMNS, ROWS = 6, 3  # of the contact sheet
MARGIN = 60
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _GREY, _BLUE, _RED = (40, 40, 40), (200, 200, 200), (190, 120, 40), (40, 40, 200)


def draw_report(
    data: DetectionData,
    sides_px: np.ndarray,
    prior_sides_px: np.ndarray,
    counts: Dict[str, int],
    input_size: int,
) -> np.ndarray:
    """The whole picture, (H, W, 3) uint8 BGR.

    Args:
        data: for the contact sheet.
        sides_px: (G, 2) width and height of every box in pixels of the network's input.
        prior_sides_px: (K, 2) the same of the shapes of priors.
        counts: boxes by class name.
        input_size: side of the network's input.
    """
    upper = [draw_scatter(sides_px, prior_sides_px, input_size), draw_histogram(counts)]
    return np.vstack([np.hstack(upper), draw_sheet(data, 2 * PANEL)])


def draw_scatter(sides_px: np.ndarray, priors_px: np.ndarray, input_size: int) -> np.ndarray:
    """Width against height on logarithmic axes from one pixel to the input size."""
    panel = _panel(f"box sizes at {input_size} px: boxes blue, priors red")
    span = np.log2(max(input_size, 2))

    def place(sides: np.ndarray) -> np.ndarray:
        share = np.log2(np.clip(sides, 1, input_size)) / span
        inner = PANEL - 2 * MARGIN
        x, y = MARGIN + share[:, 0] * inner, PANEL - MARGIN - share[:, 1] * inner
        return np.column_stack([x, y]).round().astype(int)

    for power in range(0, int(span) + 1):
        (x, y) = place(np.array([[2.0**power] * 2]))[0]
        cv2.line(panel, (x, MARGIN), (x, PANEL - MARGIN), _GREY, 1)
        cv2.line(panel, (MARGIN, y), (PANEL - MARGIN, y), _GREY, 1)
        _write(panel, str(2**power), (x - 8, PANEL - MARGIN + 18), 0.4)
        _write(panel, str(2**power), (MARGIN - 34, y + 4), 0.4)
    _write(panel, "width, px", (PANEL // 2 - 30, PANEL - 18), 0.45)
    _write(panel, "height", (4, MARGIN - 12), 0.45)
    step = max(1, len(sides_px) // 50_000)
    for x, y in place(sides_px[::step]):
        panel[y : y + 2, x : x + 2] = _BLUE
    for x, y in place(priors_px):
        cv2.drawMarker(panel, (int(x), int(y)), _RED, cv2.MARKER_CROSS, 9, 1)
    return panel


def draw_histogram(counts: Dict[str, int], most: int = 24) -> np.ndarray:
    """Boxes by class, the most frequent first, on a linear scale."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown = ranked[:most]
    title = f"boxes by class ({len(counts)} classes"
    panel = _panel(title + (f", the first {most})" if len(counts) > most else ")"))
    peak = max([count for _, count in shown] + [1])
    pitch = (PANEL - 2 * MARGIN) // max(len(shown), 8)
    for i, (name, count) in enumerate(shown):
        top = MARGIN + i * pitch
        right = 200 + int((PANEL - 300) * count / peak)
        cv2.rectangle(panel, (200, top), (right, top + pitch - 5), _BLUE, cv2.FILLED)
        _write(panel, _plain(name)[:22], (10, top + pitch // 2 + 2), 0.42)
        _write(panel, str(count), (right + 6, top + pitch // 2 + 2), 0.42)
    return panel


def draw_sheet(data: DetectionData, width: int) -> np.ndarray:
    """Images from the whole length of the data set with the boxes that training uses."""
    side = width // COLUMNS
    count = len(data.records)
    wanted = np.linspace(0, count - 1, min(COLUMNS * ROWS, count)).astype(int)
    tiles = [_tile(data, int(i), side) for i in wanted]
    blank = np.full((side, side, 3), 255, np.uint8)
    tiles += [blank] * (COLUMNS * ROWS - len(tiles))
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, COLUMNS * ROWS, COLUMNS)]
    sheet = np.vstack(rows)
    spare = width - sheet.shape[1]
    return cv2.copyMakeBorder(sheet, 0, 0, 0, spare, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _tile(data: DetectionData, index: int, side: int) -> np.ndarray:
    tile = np.full((side, side, 3), 255, np.uint8)
    record = data.records[index]
    try:
        image = read_image(record.path, (record.width, record.height))
    except ImageError:
        _write(tile, "unreadable", (10, side // 2), 0.5)
        return tile
    height, width = image.shape[:2]
    scale = (side - 6) / max(height, width)
    small = cv2.resize(
        image,
        (max(1, int(width * scale)), max(1, int(height * scale))),
        interpolation=cv2.INTER_AREA,
    )
    boxes, labels = training_boxes(record, image)
    for box, label in zip(boxes * scale, labels):
        x1, y1, x2, y2 = np.round(box).astype(int).tolist()
        cv2.rectangle(small, (x1, y1), (x2, y2), colour_of(int(label)), 1)
    tile[3 : 3 + small.shape[0], 3 : 3 + small.shape[1]] = small
    return tile


def _panel(title: str) -> np.ndarray:
    panel = np.full((PANEL, PANEL, 3), 255, np.uint8)
    _write(panel, title, (MARGIN, 30), 0.6)
    return panel


def _write(picture: np.ndarray, text: str, at: Tuple[int, int], scale: float) -> None:
    cv2.putText(picture, text, at, _FONT, scale, _INK, 1, cv2.LINE_AA)


def _plain(name: str) -> str:
    """OpenCV's letters are ASCII."""
    return name.encode("ascii", "replace").decode("ascii")


def prior_shapes_px(
    priors: np.ndarray, map_sizes: Sequence[int], per_cell: Sequence[int], input_size: int
) -> np.ndarray:
    """(K, 2) width and height in input pixels of every shape of prior."""
    starts: List[int] = np.cumsum([0] + [s * s * n for s, n in zip(map_sizes, per_cell)]).tolist()
    first = [priors[start : start + n, 2:] for start, n in zip(starts, per_cell)]
    return np.concatenate(first) * input_size
