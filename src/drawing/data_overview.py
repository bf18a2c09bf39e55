# SPDX-License-Identifier: Apache-2.0
"""A picture of a data set: box sizes against priors, class histogram, images with their boxes."""

from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np

from ..data.images import read_image
from ..data.records import DetectionData, ImageError
from ..data.sample_stream import training_boxes
from .detections import draw_detections, scaled
from .text import drawable, text_size, write_text

PANEL = 640  # side of the two upper panels, pixels
COLUMNS, ROWS = 4, 3  # of the contact sheet, at most
GAP = 8  # around each of its images
MARGIN = 60
NAME_PX = 190  # for names of classes, left of the bars
_FONT_PX, _TITLE_PX = 13, 18
_INK, _GREY, _BLUE, _RED = (40, 40, 40), (200, 200, 200), (190, 120, 40), (40, 40, 200)
_PAPER, _GROUND = (255, 255, 255), (235, 235, 235)


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
    powers = int(np.ceil(np.log2(max(input_size, 2))))  # whole steps make an even grid
    inner = PANEL - 2 * MARGIN

    def place(sides: np.ndarray) -> np.ndarray:
        share = np.log2(np.clip(sides, 1, 2**powers)) / powers
        x, y = MARGIN + share[:, 0] * inner, PANEL - MARGIN - share[:, 1] * inner
        return np.column_stack([x, y]).round().astype(int)

    for power in range(powers + 1):
        ((x, y),) = place(np.array([[2.0**power] * 2])).tolist()
        cv2.line(panel, (x, MARGIN), (x, PANEL - MARGIN), _GREY, 1)
        cv2.line(panel, (MARGIN, y), (PANEL - MARGIN, y), _GREY, 1)
        wide, tall = text_size(str(2**power), _FONT_PX)
        _write(panel, str(2**power), (x - wide // 2, PANEL - MARGIN + 4))
        _write(panel, str(2**power), (MARGIN - 6 - wide, y - tall // 2))
    _write(panel, "width, px", (PANEL // 2 - 30, PANEL - MARGIN + 26))
    _write(panel, "height, px", (6, MARGIN - 24))
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
        right = NAME_PX + 10 + int((PANEL - NAME_PX - 100) * count / peak)
        cv2.rectangle(panel, (NAME_PX + 10, top), (right, top + pitch - 5), _BLUE, cv2.FILLED)
        text = _fitting(drawable(name, f"class of {count} boxes"), NAME_PX - 10)
        wide, tall = text_size(text, _FONT_PX)
        middle = top + (pitch - 5 - tall) // 2
        _write(panel, text, (NAME_PX - wide, middle))
        _write(panel, str(count), (right + 6, middle))
    return panel


def draw_sheet(data: DetectionData, width: int) -> np.ndarray:
    """Images from the whole length of the data set with the boxes that training uses."""
    count = min(COLUMNS * ROWS, len(data.records))
    columns = min(COLUMNS, max(count, 1))
    side = width // columns if columns > 1 else width // 2
    wanted = np.linspace(0, len(data.records) - 1, count).astype(int).tolist()
    sheet = np.full((-(-count // columns) * side, width, 3), _PAPER, np.uint8)
    for number, index in enumerate(wanted):
        row, column = divmod(number, columns)
        sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = _tile(
            data, index, side
        )
    return sheet


def _tile(data: DetectionData, index: int, side: int) -> np.ndarray:
    """(side, side, 3) uint8: one image with boxes and names in the middle of a square."""
    tile = np.full((side, side, 3), _PAPER, np.uint8)
    inner = tile[GAP // 2 : side - GAP // 2, GAP // 2 : side - GAP // 2]
    inner[:] = _GROUND
    record = data.records[index]
    try:
        image = read_image(record.path, (record.width, record.height))
    except ImageError:
        _write(tile, "unreadable", (GAP, side // 2))
        return tile
    boxes, labels = training_boxes(record, image)
    scale = inner.shape[0] / max(image.shape[:2])
    small = scaled(image, inner.shape[0])
    small = draw_detections(small, boxes * scale, labels, None, data.class_names)
    height, width = small.shape[:2]
    x, y = (inner.shape[1] - width) // 2, (inner.shape[0] - height) // 2
    inner[y : y + height, x : x + width] = small
    return tile


def _panel(title: str) -> np.ndarray:
    panel = np.full((PANEL, PANEL, 3), 255, np.uint8)
    write_text(panel, title, (MARGIN, 14), _TITLE_PX, _INK)
    return panel


def _write(picture: np.ndarray, text: str, left_top: Tuple[int, int]) -> None:
    write_text(picture, text, left_top, _FONT_PX, _INK)


def _fitting(text: str, most_px: int) -> str:
    """`text`, or its beginning that is no wider than so many pixels."""
    if text_size(text, _FONT_PX)[0] <= most_px:
        return text
    while text and text_size(text + "...", _FONT_PX)[0] > most_px:
        text = text[:-1]
    return text + "..."


def prior_shapes_px(
    priors: np.ndarray, map_sizes: Sequence[int], per_cell: Sequence[int], input_size: int
) -> np.ndarray:
    """(K, 2) width and height in input pixels of every shape of prior."""
    starts: List[int] = np.cumsum([0] + [s * s * n for s, n in zip(map_sizes, per_cell)]).tolist()
    first = [priors[start : start + n, 2:] for start, n in zip(starts, per_cell)]
    return np.concatenate(first) * input_size
