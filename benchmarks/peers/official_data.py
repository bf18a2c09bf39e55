# SPDX-License-Identifier: Apache-2.0
"""The steps of the official M2Det recipe in a PyTorch DataLoader, written for the benchmark.

What is measured is the way of working: boxes tried one crop at a time, colours changed in float,
the expanded canvas filled in full, one of five interpolations, and matching with dense IoU
matrices once the batch is made.
"""

import math
import random
from typing import Any, Iterator, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from src.data.records import DetectionData

MEAN = (104, 117, 123)
_MODES = (None, 0.1, 0.3, 0.5, 0.7, 0.9, -1.0)
_INTERPOLATIONS = (0, 1, 2, 3, 4)


class OfficialDataset(Dataset):
    """(3, S, S) float32 image and (G, 5) targets in [0, 1] with the label last."""

    def __init__(self, data: DetectionData, size: int) -> None:
        self.rows = [(r.path, r.boxes_px.copy(), r.labels.copy()) for r in data.records]
        self.size = size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tuple[torch.Tensor, np.ndarray]:
        path, boxes, labels = self.rows[index]
        image = cv2.imread(path, cv2.IMREAD_COLOR)
        height, width = image.shape[:2]
        whole, all_boxes = image, boxes / np.array([width, height, width, height], np.float32)
        image, boxes, kept = crop(image, boxes, labels)
        image = distort(image)
        image, boxes = expand(image, boxes)
        if random.randrange(2):
            image = image[:, ::-1]
            boxes = boxes.copy()
            boxes[:, 0::2] = image.shape[1] - boxes[:, 2::-2]
        height, width = image.shape[:2]
        boxes = boxes / np.array([width, height, width, height], np.float32)
        large = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) > 0.01
        boxes, kept = boxes[large], kept[large]
        if not len(boxes):
            image, boxes, kept = whole, all_boxes, labels
        return self._finish(image), np.column_stack([boxes, kept]).astype(np.float32)

    def _finish(self, image: np.ndarray) -> torch.Tensor:
        how = random.choice(_INTERPOLATIONS)
        image = cv2.resize(image, (self.size, self.size), interpolation=how).astype(np.float32)
        image -= MEAN
        return torch.from_numpy(image.transpose(2, 0, 1))


def crop(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> Tuple:
    """One crop after the other until one fits, up to 50 of a mode."""
    height, width = image.shape[:2]
    if not len(boxes):
        return image, boxes, labels
    while True:
        limit = random.choice(_MODES)
        if limit is None:
            return image, boxes, labels
        for _ in range(50):
            scale = random.uniform(0.3, 1.0)
            bounds = max(0.5, scale * scale), min(2.0, 1 / scale / scale)
            ratio = math.sqrt(random.uniform(*bounds))
            w, h = int(scale * ratio * width), int(scale / ratio * height)
            left, top = random.randrange(width - w + 1), random.randrange(height - h + 1)
            window = np.array((left, top, left + w, top + h))
            if matrix_iou(boxes, window[np.newaxis]).min() < limit:
                continue
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = np.logical_and(window[:2] < centres, centres < window[2:]).all(axis=1)
            if not inside.any():
                continue
            kept = boxes[inside].copy()
            kept[:, :2] = np.maximum(kept[:, :2], window[:2]) - window[:2]
            kept[:, 2:] = np.minimum(kept[:, 2:], window[2:]) - window[:2]
            return image[top : top + h, left : left + w], kept, labels[inside]


def matrix_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[:, np.newaxis, :2], b[:, :2])
    high = np.minimum(a[:, np.newaxis, 2:], b[:, 2:])
    inter = np.prod(high - low, axis=2) * (low < high).all(axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    return inter / (area_a[:, np.newaxis] + area_b - inter)


def distort(image: np.ndarray) -> np.ndarray:
    """Brightness, contrast, hue and saturation by float arithmetic on whole channels."""
    image = image.copy()

    def convert(part: np.ndarray, factor: float = 1.0, offset: float = 0.0) -> None:
        changed = part.astype(float) * factor + offset
        changed[changed < 0] = 0
        changed[changed > 255] = 255
        part[:] = changed

    if random.randrange(2):
        convert(image, offset=random.uniform(-32, 32))
    if random.randrange(2):
        convert(image, factor=random.uniform(0.5, 1.5))
    image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if random.randrange(2):
        hue = image[:, :, 0].astype(int) + random.randint(-18, 18)
        image[:, :, 0] = hue % 180
    if random.randrange(2):
        convert(image[:, :, 1], factor=random.uniform(0.5, 1.5))
    return cv2.cvtColor(image, cv2.COLOR_HSV2BGR)


def expand(image: np.ndarray, boxes: np.ndarray, probability: float = 0.6) -> Tuple:
    """The image on a canvas of up to 16 times its area."""
    if random.random() > probability:
        return image, boxes
    height, width, depth = image.shape
    while True:
        scale = random.uniform(1, 4)
        bounds = max(0.5, 1 / scale / scale), min(2.0, scale * scale)
        ratio = math.sqrt(random.uniform(*bounds))
        if scale * ratio < 1 or scale / ratio < 1:
            continue
        w, h = int(scale * ratio * width), int(scale / ratio * height)
        left, top = random.randint(0, w - width), random.randint(0, h - height)
        canvas = np.empty((h, w, depth), dtype=image.dtype)
        canvas[:, :] = MEAN
        canvas[top : top + height, left : left + width] = image
        return canvas, boxes + np.array([left, top, left, top], np.float32)


def collate(batch: Sequence[Tuple[torch.Tensor, np.ndarray]]) -> Tuple:
    return torch.stack([row[0] for row in batch]), [torch.from_numpy(row[1]) for row in batch]


def match(targets: torch.Tensor, priors: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Dense matching of one image: offsets (P, 4) and labels (P,)."""
    corners = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    boxes = targets[:, :4]
    low = torch.max(boxes[:, None, :2], corners[None, :, :2])
    high = torch.min(boxes[:, None, 2:], corners[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
    iou = inter / (area + priors[:, 2:].prod(1)[None] - inter)
    best_prior = iou.max(1)[1]
    best_iou, best_truth = iou.max(0)
    best_iou.index_fill_(0, best_prior, 2)
    for row in range(len(best_prior)):
        best_truth[best_prior[row]] = row
    labels = targets[best_truth, 4].clone()
    labels[best_iou < 0.5] = 0
    matched = boxes[best_truth]
    centre = ((matched[:, :2] + matched[:, 2:]) / 2 - priors[:, :2]) / (0.1 * priors[:, 2:])
    size = torch.log((matched[:, 2:] - matched[:, :2]) / priors[:, 2:]) / 0.2
    return torch.cat([centre, size], 1), labels.long()


def official_batches(
    data: DetectionData, priors: np.ndarray, size: int, batch_size: int, workers: int
) -> Iterator[List[Any]]:
    """Images, offsets and labels of one epoch, each stacked over the batch."""
    table = torch.from_numpy(priors)
    loader = DataLoader(
        OfficialDataset(data, size),
        batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        drop_last=True,
    )
    for images, targets in loader:
        made = [match(rows, table) for rows in targets]
        yield [images, torch.stack([row[0] for row in made]), torch.stack([r[1] for r in made])]
