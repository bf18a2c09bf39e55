# SPDX-License-Identifier: Apache-2.0
"""Detections drawn onto an image. NumPy, OpenCV and Pillow only."""

from typing import Optional, Sequence, Tuple

import cv2
import numpy as np

from ..nms import hard_nms
from .label_places import place_labels
from .text import drawable, text_size, write_text

Colour = Tuple[int, int, int]
_SHADES = ((230, 255), (230, 160), (110, 255), (120, 190))  # saturation and brightness, of 255


def colour_of(label: int) -> Colour:
    """A bright BGR colour for class `label`, far from those of its neighbours."""
    # Steps of the golden ratio around the colour circle stay apart for any number of classes; the
    # 8th comes near the first again, and is of another shade.
    hue = int(label * 0.61803398875 % 1 * 180)
    bright = np.array([[[hue, *_SHADES[label // 8 % 4]]]], np.uint8)
    blue, green, red = cv2.cvtColor(bright, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def scaled(image: np.ndarray, longer_px: int, enlarge: bool = True) -> np.ndarray:
    """(H, W, 3) with a longer side of `longer_px`; where not `enlarge`, of that at most."""
    scale = longer_px / max(image.shape[:2])
    if scale >= 1 and not enlarge:
        return image
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def ink_on(ground: Colour) -> Colour:
    """Black or white, whichever can be read better on a BGR colour (always 4.5 to 1 or more)."""
    srgb = np.array(ground) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.0722, 0.7152, 0.2126))  # of WCAG 2.1
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def apart(boxes_px: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Rows of the boxes left by class-agnostic hard NMS at `iou_threshold`."""
    scores = np.asarray(scores, np.float32)
    return hard_nms(np.concatenate([boxes_px, scores[:, None]], axis=1), iou_threshold)


def draw_detections(
    image: np.ndarray,
    boxes_px: np.ndarray,
    labels: np.ndarray,
    scores: Optional[np.ndarray],
    class_names: Sequence[str],
) -> np.ndarray:
    """A copy of `image` with a frame, a name and a score for each detection, the best on top.

    Names stand beside their boxes and not on each other; in a crowd those with the lowest scores
    that find no room are left out. Lines and letters grow with the image.

    Args:
        image: (H, W, 3) uint8 BGR; it stays as it is.
        boxes_px: (N, 4) xyxy in pixels of `image`; N may be 0, and boxes may reach outside.
        labels: (N,) whole numbers in 1..C-1, 0 being the background.
        scores: (N,) in [0, 1]; None for ground truth, which has none.
        class_names: C-1 names in any script, without the background.

    Raises:
        ValueError: shapes that do not belong together, a label without a name, a box or score
            that is not finite.
    """
    boxes_px, labels = np.asarray(boxes_px, float).reshape(-1, 4), np.asarray(labels).reshape(-1)
    given = scores is not None
    scores = np.asarray(scores if given else np.ones(len(labels)), float).reshape(-1)
    _check(image, boxes_px, labels, scores, class_names)
    picture = np.ascontiguousarray(image).copy()
    height, width = picture.shape[:2]
    order = np.argsort(-scores, kind="stable")
    # OpenCV takes no coordinates beyond 32 bits, and a far corner would never be seen anyway.
    corners = np.clip(np.round(boxes_px), 0, (width - 1, height - 1) * 2).astype(int)[order]
    kinds = labels[order].astype(int).tolist()
    texts = [
        drawable(class_names[label - 1], f"class {label}") + (f" {score:.2f}" if given else "")
        for label, score in zip(kinds, scores[order])
    ]
    line_px = _line_width(picture)
    for box, label in zip(corners[::-1], kinds[::-1]):
        cv2.rectangle(picture, box[:2].tolist(), box[2:].tolist(), colour_of(label), line_px)
    _draw_texts(picture, corners, texts, kinds, line_px)
    return picture


def _draw_texts(
    picture: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    labels: Sequence[int],
    line_px: int,
) -> None:
    """Names on grounds of their colour, in place; after all frames, so that none crosses a name."""
    height, width = picture.shape[:2]
    fonts = [_font_px(text, height, width) for text in texts]
    sizes = [
        (wide + 2 * line_px + 2, tall)
        for wide, tall in (text_size(text, font_px) for text, font_px in zip(texts, fonts))
    ]
    places = place_labels(boxes, sizes, width, height)
    rows = list(zip(boxes.tolist(), texts, fonts, sizes, labels, places))
    for box, text, font_px, (wide, tall), label, place in reversed(rows):
        if place is None:
            continue
        (x, y), ground = place, colour_of(label)
        _draw_lead(picture, box, (x, y, x + wide, y + tall), ground)
        cv2.rectangle(picture, (x, y), (x + wide - 1, y + tall - 1), ground, cv2.FILLED)
        write_text(picture, text, (x + line_px + 1, y), font_px, ink_on(ground))


def _draw_lead(
    picture: np.ndarray, box: Sequence[int], name: Sequence[int], colour: Colour
) -> None:
    """A thin line from a name to a box that it does not touch."""
    ends = []
    for axis in (0, 1):
        low, high = max(box[axis], name[axis]), min(box[axis + 2], name[axis + 2])
        if low <= high:  # side by side along this axis
            ends.append((low, low))
        else:
            ends.append((high, low) if name[axis] > box[axis] else (low, high))
    (box_x, name_x), (box_y, name_y) = ends
    if box_x != name_x or box_y != name_y:
        cv2.line(picture, (box_x, box_y), (name_x, name_y), colour, 1, cv2.LINE_AA)


def _line_width(picture: np.ndarray) -> int:
    return max(1, round(min(picture.shape[:2]) / 200))


def _font_px(text: str, height: int, width: int) -> int:
    """Size of the letters, so that `text` fits into the width if 6 pixels are enough for that."""
    font_px = int(np.clip(min(height, width) / 30, 12, 120))
    wide, _ = text_size(text, font_px)
    return font_px if wide <= 0.95 * width else max(6, int(font_px * 0.95 * width / wide))


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
