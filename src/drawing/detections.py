# SPDX-License-Identifier: Apache-2.0
"""Detections drawn onto an image. NumPy and OpenCV only."""

import unicodedata
from typing import Optional, Sequence, Tuple

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour_of(label: int) -> Tuple[int, int, int]:
    """A bright BGR colour for class `label`, far from those of its neighbours."""
    # Steps of the golden ratio around the colour circle stay apart for any number of classes.
    hue = int(label * 0.61803398875 % 1 * 180)
    bright = np.array([[[hue, 210, 255 if label % 2 else 200]]], np.uint8)
    blue, green, red = cv2.cvtColor(bright, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def draw_detections(
    image: np.ndarray,
    boxes_px: np.ndarray,
    labels: np.ndarray,
    scores: Optional[np.ndarray],
    class_names: Sequence[str],
) -> np.ndarray:
    """A copy of `image` with a frame, a name and a score for each detection, the best on top.

    Args:
        image: (H, W, 3) uint8 BGR; it stays as it is.
        boxes_px: (N, 4) xyxy in pixels of `image`; N may be 0, and boxes may reach outside.
        labels: (N,) whole numbers in 1..C-1, 0 being the background.
        scores: (N,) in [0, 1]; None for ground truth, which has none.
        class_names: C-1 names, without the background.

    Raises:
        ValueError: shapes that do not belong together, a label without a name, a box or score
            that is not finite.
    """
    boxes_px, labels = np.asarray(boxes_px, float).reshape(-1, 4), np.asarray(labels).reshape(-1)
    given = scores is not None
    scores = np.asarray(scores if given else np.ones(len(labels)), float).reshape(-1)
    _check(image, boxes_px, labels, scores, class_names)
    picture = np.ascontiguousarray(image).copy()
    order = np.argsort(scores, kind="stable")
    corners = [_draw_frame(picture, boxes_px[index], int(labels[index])) for index in order]
    for index, corner in zip(order, corners):  # after all frames, so that none crosses a name
        label = int(labels[index])
        text = _drawable(class_names[label - 1]) + (f" {scores[index]:.2f}" if given else "")
        _draw_text(picture, corner, text, label)
    return picture


def _drawable(name: str) -> str:
    """`name` in the letters that OpenCV's fonts have: accents dropped, others as question marks."""
    plain = unicodedata.normalize("NFKD", name)
    return (
        "".join(c for c in plain if not unicodedata.combining(c))
        .encode("ascii", "replace")
        .decode()
    )


def _check(
    image: np.ndarray,
    boxes_px: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if not len(boxes_px) == len(labels) == len(scores):
        raise ValueError(
            f"{len(boxes_px)} boxes, {len(labels)} labels and {len(scores)} scores do not match"
        )
    if not (np.isfinite(boxes_px).all() and np.isfinite(scores).all()):
        raise ValueError("boxes and scores must be finite")
    if len(labels) and not 1 <= labels.min() <= labels.max() <= len(class_names):
        raise ValueError(
            f"labels {labels.min()} to {labels.max()} do not fit {len(class_names)} class names"
        )


def _draw_frame(picture: np.ndarray, box_px: np.ndarray, label: int) -> Tuple[int, int]:
    """Draws the frame in place; its upper left corner (x, y) within the picture."""
    height, width = picture.shape[:2]
    # OpenCV takes no coordinates beyond 32 bits, and a far corner would never be seen anyway.
    x1, x2 = (int(edge) for edge in np.clip(np.round(box_px[[0, 2]]), 0, width - 1))
    y1, y2 = (int(edge) for edge in np.clip(np.round(box_px[[1, 3]]), 0, height - 1))
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour_of(label), _line_width(picture))
    return x1, y1


def _draw_text(picture: np.ndarray, corner: Tuple[int, int], text: str, label: int) -> None:
    """Draws `text` on a coloured ground in place, above `corner` or below where that is outside."""
    (height, width), (x1, y1), colour = picture.shape[:2], corner, colour_of(label)
    scale, thickness, (text_width, text_height), below = _fit(text, height, width)
    pad = _line_width(picture) + 1
    tall = text_height + below + 2 * pad
    left = max(0, min(x1, width - text_width - 2 * pad))
    top = y1 - tall if y1 >= tall else min(y1, max(0, height - tall))
    right, bottom = left + text_width + 2 * pad, top + tall
    cv2.rectangle(picture, (left, top), (right, bottom), colour, cv2.FILLED)
    # Rec. 601 luma decides between black and white letters.
    dark = np.dot(colour, (0.114, 0.587, 0.299)) > 128
    ink = (0, 0, 0) if dark else (255, 255, 255)
    origin = (left + pad, top + pad + text_height)
    cv2.putText(picture, text, origin, _FONT, scale, ink, thickness, cv2.LINE_AA)


def _line_width(picture: np.ndarray) -> int:
    return max(1, round(min(picture.shape[:2]) / 250))


def _fit(text: str, height: int, width: int) -> Tuple[float, int, Tuple[int, int], int]:
    """Font scale, stroke, (width, height) and depth below the line, so that `text` fits."""
    scale = float(np.clip(min(height, width) / 900, 0.35, 3.0))
    while True:
        thickness = max(1, round(1.6 * scale))
        (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, thickness)
        if text_width <= 0.95 * width or scale <= 0.2:
            return scale, thickness, (text_width, text_height), below
        scale *= 0.85
