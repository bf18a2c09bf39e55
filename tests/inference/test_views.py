# SPDX-License-Identifier: Apache-2.0
"""Which views are taken, what goes in, and the way back, by hand."""

import math

import cv2
import numpy as np
import pytest

from src.inference.postprocess import Candidates
from src.inference.views import View, ViewPlan, accepts, map_to_image, view_input

WHOLE = (0, 0, 200, 100)


def test_one_view_by_default():
    assert ViewPlan(64).views(200, 100) == [View(64, WHOLE)]


def test_the_trained_size_is_always_among_them():
    plan = ViewPlan(128, (64, 256), smallest_prior=0.1, flip=True)
    views = plan.views(200, 100)
    assert [(view.size, view.flip) for view in views] == [
        (size, flip) for size in (64, 128, 256) for flip in (False, True)
    ]
    ranges = {view.size: (view.smallest, view.largest) for view in views}
    # A prior of 0.1 x 128 pixels is a fifth of 64; 0.7 x 128 pixels are 0.35 of 256.
    assert ranges == {
        64: (pytest.approx(0.2), math.inf),
        128: (0.0, math.inf),
        256: (0.0, pytest.approx(0.35)),
    }


def test_tiles_are_for_images_larger_than_one():
    plan = ViewPlan(64, tile_px=100, tile_overlap=0.5)
    assert plan.views(100, 80) == [View(64, (0, 0, 100, 80))]
    windows = [view.window for view in plan.views(200, 100)]
    assert windows == [WHOLE, (0, 0, 100, 100), (50, 0, 150, 100), (100, 0, 200, 100)]


def test_inputs_are_parts_of_the_image_mirrored_or_not():
    image = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    mean = (104, 117, 123)
    part = cv2.resize(image[20:60, 50:130], (32, 32), interpolation=cv2.INTER_LINEAR)
    expected = part.transpose(2, 0, 1).astype(np.float32) - np.float32(mean).reshape(3, 1, 1)
    window = (50, 20, 130, 60)
    np.testing.assert_array_equal(view_input(image, View(32, window), mean), expected)
    mirrored = view_input(image, View(32, window, flip=True), mean)
    np.testing.assert_array_equal(mirrored, expected[..., ::-1])


def candidates(boxes, views):
    count = len(boxes)
    return Candidates(
        np.float32(boxes), np.linspace(0.9, 0.5, count), np.ones(count, int), np.array(views)
    )


def test_boxes_come_back_to_the_image():
    views = [View(64, WHOLE), View(64, WHOLE, True), View(64, (100, 20, 180, 60), True)]
    found = candidates([[10, 20, 30, 50]] * 2 + [[0, 5, 30, 15]], [0, 1, 2])
    placed = map_to_image(found, views, np.array([[200, 100]] * 3))
    # Mirrored in 200: 200 - 30 to 200 - 10. In the tile of 80: 80 - 30 to 80, then 100 further.
    expected = [[10, 20, 30, 50], [170, 20, 190, 50], [150, 25, 180, 35]]
    np.testing.assert_allclose(placed.boxes_px, expected)
    np.testing.assert_array_equal(placed.image, found.image)


def test_sizes_are_left_to_the_views_that_see_them_better():
    views = [View(64, WHOLE, smallest=0.3), View(256, WHOLE, largest=0.3)]
    small, large = [0, 0, 20, 10], [0, 0, 100, 50]  # roots of 1/100 and 1/4 of the area
    found = candidates([small, large] * 2, [0, 0, 1, 1])
    placed = map_to_image(found, views, np.array([[200, 100]] * 2))
    np.testing.assert_array_equal(placed.boxes_px, [large, small])
    np.testing.assert_array_equal(placed.image, [0, 1])
    boxes = np.float32([small, large])
    assert [accepts(view, boxes).tolist() for view in views] == [[False, True], [True, False]]
