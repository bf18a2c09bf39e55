# SPDX-License-Identifier: Apache-2.0
"""Whether an exported file computes what the network does.

B batch, S input side, P priors, C classes with background 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import nn

from .. import nms
from ..box_utils import decode
from ..data.transforms import to_input
from .exported_network import open_exported
from .metadata_check import ExportedError

# Boxes in [0, 1] are compared in units of 2^-23, so that the pixel NMS adds to sizes is nothing.
_UNIT = np.float32(1 << 23)


@dataclass(frozen=True)
class Difference:
    """Difference between a file's outputs and the network's."""

    batch_size: int
    absolute: float
    relative: float  # to the network's largest output


def noise(batch: int, size: int) -> np.ndarray:
    """Images (B, S, S, 3) uint8 that excite every part of a network."""
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)


def as_inputs(images: np.ndarray, inputs: str, mean_bgr: Sequence[float]) -> np.ndarray:
    """Images (B, S, S, 3) uint8 as a file takes them; see `src.formats.export_metadata.Request`."""
    if inputs == "image":
        return images
    return np.stack([to_input(image, mean_bgr) for image in images])


def network_outputs(network: nn.Cell, inputs: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """loc (B, P, 4) and logits (B, P, C) of (B, 3, S, S) inputs, without compiling a graph."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        loc, logits = network(ms.Tensor(inputs))
        return loc.asnumpy(), logits.asnumpy()
    finally:
        ms.set_context(mode=mode)


def decoded(
    loc: np.ndarray, logits: np.ndarray, priors: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes (B, P, 4) xyxy in [0, 1] and probabilities (B, P, C - 1) without the background."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return decode(loc, priors), (powers / powers.sum(-1, keepdims=True))[..., 1:]


def compare(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Difference:
    """The largest difference of any output; infinite where shapes, NaN or infinity do not fit."""
    absolute = relative = 0.0
    for own, other in zip(expected, found):
        if own.shape != other.shape:
            absolute = relative = float("inf")
            continue
        with np.errstate(invalid="ignore"):  # infinite in both is no difference
            gap = float(np.where(other == own, 0, np.abs(other - own)).max())
        gap = gap if np.isfinite(gap) else float("inf")
        largest = float(np.abs(own[np.isfinite(own)]).max(initial=1e-30))
        absolute, relative = max(absolute, gap), max(relative, gap / largest)
    return Difference(len(expected[0]), absolute, relative)


def compare_file(
    path: Path, inputs: np.ndarray, expected: Sequence[np.ndarray], batches: Sequence[int]
) -> List[Difference]:
    """The differences of a file's outputs for the first 1, 4, ... of the inputs.

    Raises:
        ExportedError: the file cannot be loaded.
    """
    run = open_exported(path)[0]
    return [
        compare(run(np.ascontiguousarray(inputs[:count])), [a[:count] for a in expected])
        for count in batches
    ]


def check_detections(path: Path, plain: Path, inputs: np.ndarray, limits: Mapping[str, Any]) -> int:
    """The number of detections of a file that ends in NMS.

    Args:
        path: the file.
        plain: the same network, giving boxes and scores.
        inputs: for both.
        limits: score_threshold, iou_threshold and keep_per_class of hard NMS.

    Raises:
        ExportedError: they are not what NumPy makes of the plain file's outputs.
    """
    boxes, scores = open_exported(plain)[0](inputs)
    found = open_exported(path)[0](inputs)
    expected = hard_nms_of(boxes, scores, **limits)
    for own, other in zip(expected, found):
        if own.shape != other.shape or not np.allclose(own, other, rtol=0, atol=1e-6):
            raise ExportedError(f"its NMS differs: {len(other)} found instead of {len(own)}")
    return len(found[1])


def hard_nms_of(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    iou_threshold: float,
    keep_per_class: int,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hard NMS by class of boxes (B, P, 4) with scores (B, P, C - 1), as `append_nms` gives it."""
    classes = scores.shape[2]
    image, prior, label = np.nonzero(scores > score_threshold)
    chosen = boxes[image, prior]
    index, kept = nms.nms_per_class(
        chosen * _UNIT,
        scores[image, prior, label],
        image * classes + label,
        iou_threshold=iou_threshold,
        method="hard",
        keep_per_class=keep_per_class,
    )
    return chosen[index], kept, label[index] + 1, image[index]
