# SPDX-License-Identifier: Apache-2.0
"""Network output to detections: softmax, threshold, decode and NMS, all classes at once.

B batch, P priors, C classes with background 0, N detections. Boxes are corners in pixels.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np
from mindspore import Tensor, nn

from src import nms
from src.box_utils import decode
from src.checkpoint import Labels, load_labels, resolve_config
from src.config import Config
from src.model import build_model
from src.priors import make_priors
from src.transforms import resize, to_input
from src.utils import load_weights


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first; no rows where nothing was found."""

    boxes_px: np.ndarray  # (N, 4) float32 xyxy in pixels of the original image
    scores: np.ndarray  # (N,) float32
    labels: np.ndarray  # (N,) int32 from 1

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class PostProcessor:
    """Detections from what the network gives. The defaults are the official code's form.

    The official code passes its configured IoU (0.45) as the sigma of linear soft-NMS, which does
    not use it, so 0.3 is the threshold in effect. It neither clips boxes nor limits their number
    per image.
    """

    priors: np.ndarray  # (P, 4) cxcywh in [0, 1]
    score_threshold: float = 0.1  # class probability a box must exceed
    method: str = "linear"  # of NMS: "linear", "gaussian" or "hard"
    sigma: float = 0.45
    iou_threshold: float = 0.3
    lowest_score: float = 0.001  # a box whose score NMS lowers below is dropped
    keep_per_class: int = 50  # 0 keeps all
    topk: int = 0  # boxes kept per image; 0 keeps all
    class_agnostic: bool = False  # boxes of different classes suppress each other
    clip: bool = False  # limit boxes to the image

    def __call__(
        self, loc: np.ndarray, logits: np.ndarray, width: float, height: float
    ) -> Detections:
        """Detections of one image of `width` x `height` pixels from loc (P, 4) and logits (P, C).

        Raises:
            ValueError: as `batch`.
        """
        return self.batch(np.asarray(loc)[None], np.asarray(logits)[None], [(width, height)])[0]

    def batch(
        self, loc: np.ndarray, logits: np.ndarray, sizes_px: Sequence[Tuple[float, float]]
    ) -> List[Detections]:
        """Detections of each image of a batch.

        Args:
            loc: (B, P, 4) regression output.
            logits: (B, P, C) class scores before the softmax.
            sizes_px: (width, height) of each original image.

        Raises:
            ValueError: shapes that do not fit each other, or NaN and infinite network outputs.
        """
        loc, logits = np.asarray(loc, np.float32), np.asarray(logits, np.float32)
        images, count = len(sizes_px), len(self.priors)
        if loc.shape != (images, count, 4):
            raise ValueError(f"loc must have shape {(images, count, 4)}, not {loc.shape}")
        if logits.ndim != 3 or logits.shape[:2] != (images, count) or logits.shape[2] < 2:
            raise ValueError(f"logits must have shape {(images, count, 'C')}, not {logits.shape}")
        if not images:
            return []
        rows, labels, scores = candidates(logits.reshape(images * count, -1), self.score_threshold)
        image, prior = np.divmod(rows, count)
        boxes = self._boxes(loc.reshape(-1, 4)[rows], prior, image, sizes_px)
        usable = np.isfinite(boxes).all(1)  # sizes beyond float32 are no detections
        if not usable.all():
            image, labels, scores, boxes = (a[usable] for a in (image, labels, scores, boxes))
        groups = image if self.class_agnostic else image * logits.shape[2] + labels
        index, scores = nms.nms_per_class(
            boxes,
            scores,
            groups,
            self.sigma,
            self.iou_threshold,
            self.lowest_score,
            self.method,
            self.keep_per_class,
        )
        return self._split(boxes[index], scores, labels[index], image[index], images)

    def _boxes(
        self, loc: np.ndarray, prior: np.ndarray, image: np.ndarray, sizes_px: Sequence
    ) -> np.ndarray:
        if not np.isfinite(loc).all():
            raise ValueError("loc holds NaN or infinite values")
        scale = np.tile(np.asarray(sizes_px, np.float32).reshape(-1, 2), 2)[image]
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = decode(loc, np.asarray(self.priors, np.float32)[prior]) * scale
        return np.clip(boxes, 0, scale) if self.clip else boxes

    def _split(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        image: np.ndarray,
        images: int,
    ) -> List[Detections]:
        """One result per image; `image` is not sorted when labels come first."""
        order = np.lexsort((-scores, image))  # stable: equal scores stay by class
        boxes, scores, labels = boxes[order], scores[order], labels[order].astype(np.int32)
        stops = np.searchsorted(image[order], np.arange(images + 1))
        found = []
        for start, stop in zip(stops[:-1], stops[1:]):
            stop = min(stop, start + self.topk) if self.topk else stop
            found.append(Detections(boxes[start:stop], scores[start:stop], labels[start:stop]))
        return found


def candidates(logits: np.ndarray, threshold: float) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the softmax of (R, C) logits exceeds `threshold`, background left out.

    A probability above t needs a logit above the background's by log(t / (1 - t)), so the
    exponentials of most rows are never computed.

    Returns:
        (N,) int64 rows, (N,) int64 classes from 1, (N,) float32 probabilities; by row, then class.

    Raises:
        ValueError: a row's background or best class is NaN or infinite.
    """
    logits = np.ascontiguousarray(logits)
    count, classes = logits.shape
    # each row is cut after its background; a reduction per piece is faster than one over an axis
    cuts = (np.arange(count)[:, None] * classes + (0, 1)).ravel()
    background, best = np.maximum.reduceat(logits.ravel(), cuts).reshape(-1, 2).T
    if not (np.isfinite(best).all() and np.isfinite(background).all()):
        raise ValueError("logits hold NaN or infinite values")
    rows = np.arange(count)
    if 0 < threshold < 1:
        margin = math.log(threshold / (1 - threshold)) - 1e-3  # room for rounding
        rows = np.flatnonzero(best - background > margin)
    part = logits[rows]
    part -= np.maximum(best, background)[rows, None]  # of the row itself, so nothing underflows
    np.exp(part, out=part)
    part /= part.sum(axis=1, keepdims=True)
    above = part > threshold
    above[:, 0] = False
    found = np.flatnonzero(above)
    row, label = np.divmod(found, classes)
    return rows[row], label, part.ravel()[found]


def build_postprocessor(config: Config) -> PostProcessor:
    """The post-processing a configuration asks for.

    With `test.soft_nms` the configured IoU is the sigma that linear soft-NMS ignores (see
    `PostProcessor`); without it, it is the threshold of hard NMS.
    """
    test = config.test
    soft = {"method": "linear", "sigma": test.iou}
    hard = {"method": "hard", "iou_threshold": test.iou}
    return PostProcessor(
        make_priors(config),
        score_threshold=test.score_threshold,
        keep_per_class=test.keep_per_class,
        topk=test.topk,
        **(soft if test.soft_nms else hard),
    )


class Detector:
    """Images in, detections out.

    Args:
        network: images (B, 3, S, S) -> loc (B, P, 4), logits (B, P, C), in evaluation mode.
        postprocess: turns those into detections.
        input_size: S.
        mean_bgr: subtracted from the image.
        labels: what the classes are called.
    """

    def __init__(
        self,
        network: nn.Cell,
        postprocess: PostProcessor,
        input_size: int,
        mean_bgr: Sequence[float],
        labels: Labels,
    ) -> None:
        self.network = network.set_train(False)
        self.postprocess = postprocess
        self.input_size = input_size
        self.mean_bgr = mean_bgr
        self.labels = labels

    @classmethod
    def from_checkpoint(
        cls,
        path: Union[str, Path],
        config: Optional[Config] = None,
        labels: Optional[Labels] = None,
    ) -> "Detector":
        """A detector from a checkpoint and the files saved beside it.

        Args:
            path: .ckpt or .safetensors.
            config: instead of the `config.json` beside it.
            labels: instead of the `labels.json` beside it; without either, classes are numbered.

        Raises:
            ValueError: a missing or damaged file, or weights that do not fit the configuration.
        """
        path = Path(path)
        config = config or resolve_config(None, (), path)
        network = build_model(config)
        load_weights(network, path)
        numbers = tuple(range(1, config.model.num_classes))
        numbered = Labels(tuple(f"class {i}" for i in numbers), numbers)
        labels = labels or load_labels(path) or numbered
        if len(labels.class_names) != len(numbers):
            raise ValueError(
                f"{path}: {len(labels.class_names)} class names for a network of {len(numbers)}"
            )
        postprocess = build_postprocessor(config)
        return cls(network, postprocess, config.model.input_size, config.data.mean_bgr, labels)

    @property
    def class_names(self) -> Tuple[str, ...]:
        """Name of each class, without the background: label i is `class_names[i - 1]`."""
        return self.labels.class_names

    def __call__(self, image: np.ndarray) -> Detections:
        """Detections of one image (H, W, 3) uint8 BGR, in its own pixels.

        Raises:
            ValueError: not an image of that form.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        resized, _ = resize(image, np.zeros((0, 4), np.float32), (self.input_size,) * 2)
        return self.batch(to_input(resized, self.mean_bgr)[None], [(width, height)])[0]

    def batch(self, inputs: np.ndarray, sizes_px: Sequence[Tuple[int, int]]) -> List[Detections]:
        """Detections of network inputs (B, 3, S, S); `sizes_px` has the images' (width, height)."""
        loc, logits = self.network(Tensor(inputs))
        return self.postprocess.batch(loc.asnumpy(), logits.asnumpy(), sizes_px)
