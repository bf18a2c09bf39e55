# SPDX-License-Identifier: Apache-2.0
"""Prior (anchor) boxes of every feature map. NumPy only.

The tables are those of the official M2Det configurations and of SSD300; any other input size gets
a derived one. A prior is `(cx, cy, w, h)`, normalised by the input side.
"""

import math
from dataclasses import replace
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from .config import AnchorConfig, Config, ModelConfig
from .runtime.typed_config import ConfigError


class PriorTable(NamedTuple):
    """`scales`: one per feature map and one more, normalised by the input side. `steps`: pixels."""

    scales: Tuple[float, ...]
    steps: Tuple[float, ...]


# Official configs/m2det{320,512,800}_vgg.py and the port's 704.
_OFFICIAL_TABLES: Dict[int, PriorTable] = {
    320: PriorTable((0.08, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), (8, 16, 32, 64, 107, 320)),
    512: PriorTable((0.06, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), (8, 16, 32, 64, 128, 256)),
    704: PriorTable((0.04, 0.11, 0.23, 0.39, 0.58, 0.80, 1.05), (8, 16, 32, 64, 117, 176)),
    800: PriorTable((0.04, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), (8, 16, 32, 62, 115, 160)),
}


def feature_sizes(input_size: int, num_scales: int) -> List[int]:
    """Sides of M2Det's feature maps in cells, largest first.

    The base feature is 1/8 of the input. A TUM halves it with padded 3x3 convolutions of stride 2;
    its last map comes from an unpadded 3x3. Where that leaves nothing (256 pixels with six scales)
    there is one scale less.

    Raises:
        ConfigError: `input_size` is not a multiple of 16 (FFMv1 could not join its two maps), or
            fewer than two scales are left.
    """
    if input_size % 16:
        raise ConfigError(f"input_size must be a multiple of 16, not {input_size}")
    sizes = [input_size // 8]
    while len(sizes) < num_scales - 1 and sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    last = sizes[-1] - 2 if num_scales > 2 else (sizes[-1] + 1) // 2
    if len(sizes) == num_scales - 1 and last > 0:
        return [*sizes, last]
    if num_scales <= 2:
        raise ConfigError(f"input_size {input_size} is too small for two scales")
    return feature_sizes(input_size, num_scales - 1)


def ssd_feature_sizes(input_size: int) -> List[int]:
    """Sides of SSD's six feature maps in cells: halved three times, then two off each time.

    Raises:
        ConfigError: nothing is left for the last map.
    """
    sizes = [-(-input_size // 8)]
    for _ in range(3):
        sizes.append((sizes[-1] + 1) // 2)
    sizes += [sizes[-1] - 2, sizes[-1] - 4]
    if sizes[-1] < 1:
        raise ConfigError(f"input_size {input_size} is too small for SSD's six feature maps")
    return sizes


def derived_table(input_size: int, sizes: Sequence[int]) -> PriorTable:
    """A table for an input size the official code has none for.

    The smallest scale is about 28 pixels (what the official tables give from 512 up), within
    [0.03, 0.15]; the others go from twice that, or 0.15, to 1.05 in equal parts.
    """
    smallest = min(max(28 / input_size, 0.03), 0.15)
    others = np.linspace(max(2 * smallest, 0.15), 1.05, len(sizes)).round(4)
    return PriorTable((round(smallest, 4), *others.tolist()), tuple(input_size / f for f in sizes))


def prior_boxes(
    sizes: Sequence[int],
    steps: Sequence[float],
    scales: Sequence[float],
    ratios: Sequence[Sequence[float]],
    input_size: int,
) -> np.ndarray:
    """Priors of all maps: (P, 4) float32 `cxcywh`, clipped to [0, 1].

    Order: map, row, column, then box: the scale as a square, the geometric mean with the next
    scale as a square, then for each ratio r the boxes r times as wide as high and the reverse
    (official layers/functions/prior_box.py).
    """
    maps = []
    for k, (size, step) in enumerate(zip(sizes, steps)):
        scale, between = scales[k], math.sqrt(scales[k] * scales[k + 1])
        shapes = [(scale, scale), (between, between)]
        for ratio in ratios[k]:
            root = math.sqrt(ratio)
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        centres = (np.arange(size) + 0.5) * (step / input_size)
        cy, cx = np.meshgrid(centres, centres, indexing="ij")
        boxes = np.empty((size, size, len(shapes), 4))
        boxes[..., 0], boxes[..., 1], boxes[..., 2:] = cx[..., None], cy[..., None], shapes
        maps.append(boxes.reshape(-1, 4))
    return np.concatenate(maps).clip(0, 1).astype(np.float32)


def prior_shapes_per_cell(anchors: AnchorConfig, num_maps: int) -> List[int]:
    """Number of priors in a cell of each feature map."""
    return [2 + 2 * len(row) for row in ratio_rows(anchors, num_maps)]


def make_priors(config: Config) -> np.ndarray:
    """The priors of a configuration: (P, 4) float32 `cxcywh` in [0, 1].

    Raises:
        ConfigError: scales, steps or ratios whose number does not fit the feature maps.
    """
    sizes = map_sizes(config.model)
    table = table_for(config.anchors, config.model.input_size, sizes)
    ratios = ratio_rows(config.anchors, len(sizes))
    return prior_boxes(sizes, table.steps, table.scales, ratios, config.model.input_size)


def map_sizes(model: ModelConfig) -> List[int]:
    """Sides in cells of the feature maps the network of `model` predicts from."""
    if model.neck == "mlfpn":
        return feature_sizes(model.input_size, model.num_scales)
    return ssd_feature_sizes(model.input_size)


def table_for(anchors: AnchorConfig, input_size: int, sizes: Sequence[int]) -> PriorTable:
    """The scales and steps asked for; where none are, those of the input size.

    Raises:
        ConfigError: their number does not fit the feature maps.
    """
    table = _OFFICIAL_TABLES.get(input_size)
    if table is None or len(table.steps) != len(sizes):
        table = derived_table(input_size, sizes)
    scales, steps = anchors.scales or table.scales, anchors.steps or table.steps
    if len(scales) != len(sizes) + 1:
        raise ConfigError(f"anchors.scales needs {len(sizes) + 1} values, not {len(scales)}")
    if len(steps) != len(sizes):
        raise ConfigError(f"anchors.steps needs {len(sizes)} values, not {len(steps)}")
    return PriorTable(tuple(scales), tuple(steps))


def ratio_rows(anchors: AnchorConfig, num_maps: int) -> Sequence[Sequence[float]]:
    """The aspect ratios of each feature map, beside 1.

    Raises:
        ConfigError: their number does not fit the feature maps.
    """
    rows = anchors.ratios * num_maps if len(anchors.ratios) == 1 else anchors.ratios
    if len(rows) != num_maps:
        raise ConfigError(f"anchors.ratios needs 1 or {num_maps} rows, not {len(rows)}")
    return rows


def best_iou(
    boxes: np.ndarray, priors: np.ndarray, map_sizes: Sequence[int], per_cell: Sequence[int]
) -> np.ndarray:
    """(G,) IoU of each ground truth with its best prior, without trying them all.

    Among priors of one shape the best is the one whose centre is nearest: the overlap falls with
    the distance in x and in y. So one prior of each map and shape is tried.

    Args:
        boxes: (G, 4) cxcywh in [0, 1].
        priors: (P, 4) cxcywh, ordered map, row, column, shape as by `src.priors`.
        map_sizes: cells along a side of each map.
        per_cell: priors in a cell of each map.
    """
    best = np.zeros(len(boxes), np.float32)
    start = 0
    for size, shapes in zip(map_sizes, per_cell):
        grid = priors[start : start + size * size * shapes].reshape(size, size, shapes, 4)
        start += size * size * shapes
        away = []  # distance to the nearest centre, in x and in y
        for axis, centres in ((0, grid[0, :, 0, 0]), (1, grid[:, 0, 0, 1])):
            between = (centres[1:] + centres[:-1]) / 2
            nearest = centres[np.searchsorted(between, boxes[:, axis])]
            away.append(np.abs(boxes[:, axis] - nearest))
        for width, height in grid[0, 0, :, 2:]:
            inter = np.ones(len(boxes), np.float32)
            for axis, side in ((0, width), (1, height)):
                other = boxes[:, 2 + axis]
                overlap = (side + other) / 2 - away[axis]
                inter *= np.clip(overlap, 0, np.minimum(side, other))
            union = width * height + boxes[:, 2] * boxes[:, 3] - inter
            np.maximum(best, inter / union, out=best)
    return best


def build_priors(config: Config, size: int) -> np.ndarray:
    """Priors (P', 4) at input `size` of a network whose own is `model.input_size`; for training at
    several sizes and for detecting at them.

    The network sees pixels, so priors keep their size in pixels. Only where it is trained at this
    size too (`data.multi_scale`) do they scale with the input.

    Raises:
        ConfigError: the network cannot take that size.
    """
    trained = size in config.data.multi_scale
    if size == config.model.input_size:
        return make_priors(config)
    try:
        old, new = map_sizes(config.model), map_sizes(replace(config.model, input_size=size))
        if config.model.neck == "deconv" and _halves(old) != _halves(new):
            sides = " ".join(map(str, old))
            raise ConfigError(f"its deconvolutions are made for maps of {sides} cells a side")
        per_cell = prior_shapes_per_cell(config.anchors, len(old))
        priors = resized_priors(make_priors(config), old, per_cell, new)
    except ConfigError as error:
        key = "data" if trained else "test"
        raise ConfigError(f"{key}.multi_scale: {size} does not work: {error}") from None
    if not trained:
        priors[:, 2:] *= config.model.input_size / size
    return priors


def _halves(sizes: Sequence[int]) -> List[int]:
    """How far each of the first maps is from twice the next: 0 or -1."""
    return [before - 2 * after for before, after in zip(sizes[:3], sizes[1:4])]


def resized_priors(
    priors: np.ndarray, sizes: Sequence[int], per_cell: Sequence[int], new_sizes: Sequence[int]
) -> np.ndarray:
    """`priors` (P, 4) cxcywh, moved from maps of `sizes` cells a side to maps of `new_sizes`.

    Shapes stay as fractions of the input: objects grow with the image.

    Raises:
        ConfigError: another number of maps.
    """
    if len(sizes) != len(new_sizes):
        raise ConfigError(f"{len(new_sizes)} feature maps where the network has {len(sizes)}")
    start, maps = 0, []
    for size, count, new in zip(sizes, per_cell, new_sizes):
        shapes = priors[start : start + count, 2:]
        start += size * size * count
        centres = (np.arange(new) + 0.5) / new
        y, x = np.meshgrid(centres, centres, indexing="ij")
        boxes = np.empty((new, new, count, 4), np.float32)
        boxes[..., 0], boxes[..., 1], boxes[..., 2:] = x[..., None], y[..., None], shapes
        maps.append(boxes.reshape(-1, 4))
    return np.concatenate(maps)
