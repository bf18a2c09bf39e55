# SPDX-License-Identifier: Apache-2.0
"""SSD augmentation as pure functions of (image, boxes, labels, rng).

Images are (H, W, 3) uint8 BGR, boxes (G, 4) float32 xyxy in pixels of the image handed in, labels
(G,). All randomness comes from the `numpy.random.Generator` passed in, and no argument is changed.
Ranges: Liu et al., SSD (ECCV 2016), section 2.2 and its released code; probabilities as in the
official M2Det code.
"""

from typing import Sequence, Tuple

import cv2
import numpy as np

from ..box_utils import iou_matrix
from ..config import DataConfig

BRIGHTNESS = 32.0  # added, either way
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 18  # of OpenCV's 180 steps, either way
EXPAND_PROBABILITY = 0.6  # 0.5 in SSD
ASPECT = (0.5, 2.0)  # of a crop or a canvas, relative to the image
CROP_SIDE = (0.3, 1.0)
CROP_TRIALS = 50
CROP_MODES = (
    None,
    0.1,
    0.3,
    0.5,
    0.7,
    0.9,
    0.0,
)  # least IoU with every box; None leaves the image whole
MOSAIC_POINT = (0.3, 0.7)
MIXUP_WEIGHT = (0.4, 0.6)
SMALLEST_SIDE = 0.01  # as a fraction of the image side; smaller boxes are not trained on
INTERPOLATIONS = (
    cv2.INTER_LINEAR,
    cv2.INTER_CUBIC,
    cv2.INTER_AREA,
    cv2.INTER_NEAREST,
    cv2.INTER_LANCZOS4,
)

Sample = Tuple[np.ndarray, np.ndarray, np.ndarray]  # image, boxes, labels


def distort(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Brightness, contrast, hue and saturation, each with probability 1/2.

    `strength` is a factor on SSD's ranges. Every step maps one 8-bit value to another, so each
    pair is one look-up table.
    """
    levels = np.arange(256, dtype=np.float32)
    if rng.random() < 0.5:
        levels = np.clip(
            levels + rng.uniform(-BRIGHTNESS * strength, BRIGHTNESS * strength), 0, 255
        )
    if rng.random() < 0.5:
        levels = np.clip(levels * rng.uniform(*_around_1(CONTRAST, strength)), 0, 255)
    image = cv2.LUT(image, levels.astype(np.uint8))
    most = round(HUE * strength)
    hue = int(rng.integers(-most, most + 1)) if rng.random() < 0.5 else 0
    saturation = rng.uniform(*_around_1(SATURATION, strength)) if rng.random() < 0.5 else 1.0
    if hue == 0 and saturation == 1.0:
        return image
    table = np.empty((1, 256, 3), np.uint8)
    table[0, :, 0] = (np.arange(256) + hue) % 180
    table[0, :, 1] = np.clip(np.arange(256) * saturation, 0, 255)
    table[0, :, 2] = np.arange(256)
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)


def _around_1(ends: Tuple[float, float], strength: float) -> Tuple[float, float]:
    """A range of factors with its ends `strength` times as far from 1, and above 0."""
    low, high = (1 + strength * (end - 1) for end in ends)
    return max(low, 0.05), high


def crop(
    image: np.ndarray, boxes_px: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> Sample:
    """A random crop whose IoU with *every* box reaches a random limit, or the whole image.

    Boxes whose centre is inside are kept and clipped. As in the official code the limit holds for
    all boxes; in the SSD paper one is enough. The image returned is a view.
    """
    height, width = image.shape[:2]
    if not len(boxes_px):
        return image, boxes_px, labels
    while True:
        limit = CROP_MODES[rng.integers(len(CROP_MODES))]
        if limit is None:
            return image, boxes_px, labels
        windows = _windows(width, height, rng)
        centres = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
        inside = (windows[:, None, :2] < centres) & (centres < windows[:, None, 2:])
        inside = inside.all(axis=2)
        good = inside.any(axis=1)
        if limit > 0:
            good &= (iou_matrix(windows, boxes_px) >= limit).all(axis=1)
        if good.any():
            first = int(good.argmax())
            left, top, right, bottom = windows[first].tolist()
            keep = inside[first]
            low, high = _point(left, top), _point(right, bottom)
            kept = boxes_px[keep].reshape(-1, 2, 2)
            kept = (np.clip(kept, low, high) - low).reshape(-1, 4).astype(np.float32)
            return image[top:bottom, left:right], kept, labels[keep]


def _windows(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(CROP_TRIALS, 4) candidate crops, xyxy whole pixels inside the image."""
    scale = rng.uniform(*CROP_SIDE, CROP_TRIALS)
    # Both sides stay within the image: scale * ratio <= 1 and scale / ratio <= 1.
    ratio = np.sqrt(
        rng.uniform(np.maximum(ASPECT[0], scale**2), np.minimum(ASPECT[1], 1 / scale**2))
    )
    w = np.clip((scale * ratio * width).astype(np.int64), 1, width)
    h = np.clip((scale / ratio * height).astype(np.int64), 1, height)
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    return np.stack([left, top, left + w, top + h], axis=1)


def canvas(
    width: int,
    height: int,
    rng: np.random.Generator,
    most: float,
    probability: float = EXPAND_PROBABILITY,
) -> Tuple[int, int, int, int]:
    """A canvas to put a width x height image on: (canvas width, canvas height, left, top), whole
    pixels.

    With `probability` up to `most` times as long in the mean side, of aspect 1/2 to 2; else the
    image itself.
    """
    if rng.random() >= probability:
        return width, height, 0, 0
    while True:
        scale = rng.uniform(1.0, most)
        ratio = np.sqrt(rng.uniform(max(ASPECT[0], 1 / scale**2), min(ASPECT[1], scale**2)))
        if scale * ratio < 1 or scale / ratio < 1:
            continue
        wide, high = int(scale * ratio * width), int(scale / ratio * height)
        left, top = rng.integers(0, wide - width + 1), rng.integers(0, high - height + 1)
        return wide, high, int(left), int(top)


def spot(
    on_canvas: Tuple[int, int, int, int], width: int, height: int, size: int
) -> Tuple[int, int, int, int]:
    """Where a width x height image on its canvas lies once the canvas is size x size: xyxy whole
    pixels.

    Resizing the image into this place is all that is needed: at four times the sides, filling and
    shrinking the whole canvas would be 16 times the work.
    """
    wide, high, left, top = on_canvas
    x1, x2 = _rounded(left, width, size / wide, size)
    y1, y2 = _rounded(top, height, size / high, size)
    return x1, y1, x2, y2


def _point(x: float, y: float) -> np.ndarray:
    return np.array([x, y], np.float32)


def _rounded(start: int, length: int, scale: float, size: int) -> Tuple[int, int]:
    """First and last pixel of a stretch on a canvas of `size` pixels, at least one long."""
    low = min(round(start * scale), size - 1)
    return low, min(max(round((start + length) * scale), low + 1), size)


def mirror(
    image: np.ndarray,
    boxes_px: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    upside_down: bool = False,
) -> Sample:
    """Left and right exchanged, or top and bottom, with probability 1/2."""
    if rng.random() < 0.5:
        return image, boxes_px, labels
    axis = 1 if upside_down else 0
    flipped = boxes_px.copy()
    flipped[:, [axis, axis + 2]] = image.shape[1 - axis] - boxes_px[:, [axis + 2, axis]]
    return cv2.flip(image, 1 - axis), flipped, labels


def resize(
    image: np.ndarray,
    boxes_px: np.ndarray,
    size: Tuple[int, int],
    interpolation: int = cv2.INTER_LINEAR,
) -> Tuple[np.ndarray, np.ndarray]:
    """Squashed to `size` = (width, height), with the boxes in the new pixels."""
    height, width = image.shape[:2]
    scale = np.tile(_point(size[0] / width, size[1] / height), 2)
    return cv2.resize(image, size, interpolation=interpolation), boxes_px * scale


def paste(
    image: np.ndarray,
    boxes_px: np.ndarray,
    at_px: Tuple[int, int],
    size: int,
    fill_bgr: Sequence[float],
) -> Tuple[np.ndarray, np.ndarray]:
    """The image with its left top corner `at_px` on a size x size ground of one colour."""
    height, width = image.shape[:2]
    if (width, height) == (size, size):
        return image, boxes_px
    left, top = at_px
    margins = top, size - top - height, left, size - left - width
    out = cv2.copyMakeBorder(image, *margins, cv2.BORDER_CONSTANT, value=tuple(fill_bgr))
    return out, boxes_px + np.tile(_point(left, top), 2)


def augment(
    image: np.ndarray,
    boxes_px: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    size: int,
    config: DataConfig,
) -> Sample:
    """Crop, resize onto an expanded canvas, distort and mirror: a (size, size, 3) training image.

    The official order is crop, distort, expand, mirror, resize; distorting after the crop was
    resized is the same up to rounding and less work. Boxes shorter than 1/100 of the image are
    dropped; if none is left of some, the image is used as it is. Only `crop_prob` of the images
    go through the crop (which leaves some of them whole, too). With `vertical_flip` half of them
    are turned upside down as well. Without `augment` the image is only resized.
    """
    if not config.augment:
        return (*resize(image, boxes_px, (size, size)), labels)
    interpolation = cv2.INTER_LINEAR
    if config.random_interpolation:
        interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    cropped, boxes, kept = image, boxes_px, labels
    if config.crop_prob >= 1 or rng.random() < config.crop_prob:
        cropped, boxes, kept = crop(image, boxes_px, labels, rng)
    on_canvas = canvas(cropped.shape[1], cropped.shape[0], rng, config.max_expand_ratio)
    x1, y1, x2, y2 = spot(on_canvas, cropped.shape[1], cropped.shape[0], size)
    small, boxes = resize(cropped, boxes, (x2 - x1, y2 - y1), interpolation)
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > SMALLEST_SIDE * size
    if len(boxes_px) and not large.any():
        return (*resize(image, boxes_px, (size, size), interpolation), labels)
    small, boxes = paste(
        distort(small, rng, config.color_jitter), boxes[large], (x1, y1), size, config.mean_bgr
    )
    sample = mirror(small, boxes, kept[large], rng)
    return mirror(*sample, rng, upside_down=True) if config.vertical_flip else sample


def mosaic(samples: Sequence[Sample], rng: np.random.Generator, size: int) -> Sample:
    """Four images squashed into the quarters around a random point: (size, size, 3).

    The point keeps at least 3/10 of the side from every edge, so that no part gets very thin.
    """
    split_x, split_y = (round(rng.uniform(*MOSAIC_POINT) * size) for _ in range(2))
    out = np.empty((size, size, 3), np.uint8)
    boxes, labels = [], []
    for number, (image, boxes_px, own_labels) in enumerate(samples):
        x1, x2 = (split_x, size) if number % 2 else (0, split_x)
        y1, y2 = (split_y, size) if number // 2 else (0, split_y)
        small, moved = resize(image, boxes_px, (x2 - x1, y2 - y1))
        out[y1:y2, x1:x2] = small
        boxes.append(moved + np.tile(_point(x1, y1), 2))
        labels.append(own_labels)
    return out, np.concatenate(boxes), np.concatenate(labels)


def mixup(first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
    """Two images of one size blended, with the boxes of both (Zhang et al., 2018, for detection).

    Neither gets less than 4/10, so that its boxes can be seen.
    """
    weight = rng.uniform(*MIXUP_WEIGHT)
    blend = cv2.addWeighted(first[0], weight, second[0], 1 - weight, 0)
    return blend, np.concatenate([first[1], second[1]]), np.concatenate([first[2], second[2]])


def to_input(image: np.ndarray, mean_bgr: Sequence[float]) -> np.ndarray:
    """(S, S, 3) uint8 BGR to the network's (3, S, S) float32, mean subtracted."""
    out = np.empty((3, *image.shape[:2]), np.float32)
    for channel, mean in enumerate(mean_bgr):
        np.subtract(image[:, :, channel], np.float32(mean), out=out[channel])
    return out
