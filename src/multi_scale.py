# SPDX-License-Identifier: Apache-2.0
"""Priors for training at several input sizes: the shapes of one, the grids of each."""

from dataclasses import replace
from typing import Dict, Sequence

import numpy as np

from src.config import Config
from src.priors import make_priors, map_sizes, prior_shapes_per_cell


def resized_priors(
    priors: np.ndarray, sizes: Sequence[int], per_cell: Sequence[int], new_sizes: Sequence[int]
) -> np.ndarray:
    """`priors` (P, 4) cxcywh, moved from maps of `sizes` cells a side to maps of `new_sizes`.

    Shapes stay, as shares of the input: objects grow with the image.

    Raises:
        ValueError: another number of maps.
    """
    if len(sizes) != len(new_sizes):
        raise ValueError(f"{len(new_sizes)} feature maps where the network has {len(sizes)}")
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


def build_priors_by_size(config: Config) -> Dict[int, np.ndarray]:
    """Priors of every size in `data.multi_scale`; {} where that is empty.

    Raises:
        ValueError: a size the network's feature maps cannot be built for.
    """
    own = map_sizes(config.model)
    made = {}
    for size in config.data.multi_scale:
        try:
            new = map_sizes(replace(config.model, input_size=size))
            per_cell = prior_shapes_per_cell(config.anchors, len(own))
            priors = make_priors(config)
            if size != config.model.input_size:
                priors = resized_priors(priors, own, per_cell, new)
        except ValueError as error:
            raise ValueError(f"data.multi_scale: {size} does not work: {error}") from None
        made[size] = priors
    return made
