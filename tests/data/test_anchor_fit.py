# SPDX-License-Identifier: Apache-2.0
"""Scales found for boxes whose best scales are known."""

import numpy as np
import pytest

from src.config import get_config
from src.data.anchor_fit import Grid, build_grid, evaluate_scales, suggest_scales

ONE_CELL = Grid((1, 1), (64, 64), ((), ()), 64)  # two maps of one cell, squares only


def centred(*sides):
    """Squares in the middle of the image."""
    return np.array([[0.5, 0.5, side, side] for side in sides], np.float32)


def test_fit_by_hand():
    # Scales .2, .4, .8: squares of .2, sqrt(.2 * .4) = .2828, .4 and sqrt(.4 * .8) = .5657.
    fit = evaluate_scales(centred(0.2, 0.3, 0.1), (0.2, 0.4, 0.8), ONE_CELL)
    best = [1, 0.08 / 0.09, 0.01 / 0.04]
    assert fit.recall == pytest.approx(2 / 3)
    assert fit.mean_iou == pytest.approx(np.mean(best), rel=1e-5)


def test_scales_move_to_the_boxes():
    boxes = centred(*[0.05] * 50, *[0.3] * 50)
    start = (0.2, 0.5, 1.0)
    assert evaluate_scales(boxes, start, ONE_CELL).recall == 0.5
    found = suggest_scales(boxes, ONE_CELL, start)
    assert evaluate_scales(boxes, found, ONE_CELL).recall == 1
    assert evaluate_scales(boxes, found, ONE_CELL).mean_iou > 0.9
    assert list(found) == sorted(found)


def test_never_worse_than_the_start():
    """Boxes of the very shapes of the priors cannot be reached better."""
    boxes = centred(0.2, 0.4, 0.2828427, 0.5656854)
    assert suggest_scales(boxes, ONE_CELL, (0.2, 0.4, 0.8)) == (0.2, 0.4, 0.8)


def test_scales_fit_the_network():
    grid, now = build_grid(get_config("m2det_tiny"))
    rng = np.random.default_rng(0)
    sides = rng.uniform(0.01, 0.06, (300, 1))
    boxes = np.hstack([rng.uniform(0.1, 0.9, (300, 2)), sides, sides]).astype(np.float32)
    found = suggest_scales(boxes, grid, now)
    assert len(found) == len(now) == 5
    assert all(0 < a < b <= 1.05 for a, b in zip(found, found[1:]))
    assert evaluate_scales(boxes, found, grid).recall > evaluate_scales(boxes, now, grid).recall
    get_config("m2det_tiny", [f"anchors.scales={','.join(map(str, found))}"])


def test_one_box_and_equal_boxes():
    for boxes in (centred(0.3), centred(*[0.3] * 40), centred(1.0), centred(0.002)):
        found = suggest_scales(boxes, ONE_CELL)
        assert len(found) == 3
        assert list(found) == sorted(found)
        assert found[0] >= 0.01


def test_what_cannot_be_fitted():
    with pytest.raises(ValueError, match="no boxes"):
        suggest_scales(np.zeros((0, 4), np.float32), ONE_CELL)
    with pytest.raises(ValueError, match="expected 3 scales to start from, not 2"):
        suggest_scales(centred(0.3), ONE_CELL, (0.1, 0.2))
