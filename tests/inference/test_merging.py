# SPDX-License-Identifier: Apache-2.0
"""Boxes of several views put together, by hand."""

import numpy as np
import pytest

from src.inference.merging import merge_views
from src.inference.postprocess import Candidates, PostProcessor
from src.inference.views import View

POST = PostProcessor(np.zeros((1, 4), np.float32))


def merge(rows, views, owner, sizes, kind, post=POST):
    """`rows` are (view, box, score)."""
    found = Candidates(
        np.float32([row[1] for row in rows]).reshape(-1, 4),
        np.float32([row[2] for row in rows]),
        np.ones(len(rows), np.int64),
        np.array([row[0] for row in rows], np.int64),
    )
    return merge_views(found, views, np.array(owner), sizes, post, kind)


WHOLE = (0, 0, 100, 100)
PAIR = [View(64, WHOLE), View(64, WHOLE, flip=True)]


def test_fusion_averages_the_views_of_an_image():
    rows = [
        *[(0, [10, 10, 50, 50], 0.9), (1, [10, 10, 54, 50], 0.6)],
        (0, [12, 10, 50, 50], 0.5),  # a second box of the same view: NMS takes it away first
        (1, [70, 70, 90, 90], 0.4),  # seen by one view of two
        (3, [10, 10, 50, 50], 0.8),  # the other image
    ]
    first, second = merge(rows, PAIR * 2, [0, 0, 1, 1], [(100, 100)] * 2, "wbf")
    np.testing.assert_allclose(first.boxes_px, [[10, 10, 51.6, 50], [70, 70, 90, 90]], rtol=1e-5)
    np.testing.assert_allclose(first.scores, [0.75, 0.2], rtol=1e-5)
    np.testing.assert_allclose(second.scores, [0.4], rtol=1e-5)


def test_only_views_that_could_have_kept_a_box_count():
    views = [View(64, WHOLE), View(128, WHOLE, largest=0.3)]
    found = merge([(0, [10, 10, 60, 60], 0.8)], views, [0, 0], [(100, 100)], "wbf")
    assert found[0].scores.tolist() == [pytest.approx(0.8)]  # too large for the second view


def test_soft_nms_lowers_what_another_view_found_too():
    rows = [(0, [10, 10, 49, 49], 0.9), (1, [10, 10, 49, 49], 0.6)]
    (found,) = merge(rows, PAIR, [0, 0], [(100, 100)], "soft_nms")
    assert found.scores.tolist() == [pytest.approx(0.9)]  # 0.6 x (1 - 1) is dropped


def test_limits_hold_for_both():
    post = PostProcessor(np.zeros((1, 4), np.float32), keep_per_class=3, topk=2)
    rows = [(0, [20 * k, 0, 20 * k + 9, 9], 0.9 - 0.1 * k) for k in range(5)]
    for kind in ("wbf", "soft_nms"):
        (found,) = merge(rows, PAIR, [0, 0], [(100, 100)], kind, post)
        assert len(found) == 2
        assert found.boxes_px[:, 0].tolist() == [0, 20]


def test_tiles_are_merged_at_their_seams():
    """Tiles of 100 pixels, 20 in common, over 180 x 100, each shown to the network at 100."""
    size, views = (
        (180, 100),
        [
            View(100, (0, 0, 180, 100)),
            View(100, (0, 0, 100, 100), overlap=0.2),
            View(100, (80, 0, 180, 100), overlap=0.2),
        ],
    )
    rows = [
        # 15 pixels cut off by the first tile, whole in the second: dropped
        *[(1, [86, 10, 100, 30], 0.9), (2, [86, 10, 116, 30], 0.7)],
        # an object of 100 pixels, cut in both
        *[(1, [40, 50, 100, 90], 0.8), (2, [80, 50, 140, 90], 0.6)],
        # seen whole by both
        *[(1, [82, 40, 96, 46], 0.5), (2, [82, 40, 96, 46], 0.4)],
    ]
    (found,) = merge(rows, views, [0, 0, 0], [size], "wbf")
    expected = {(40, 50, 140, 90): 0.8, (86, 10, 116, 30): 0.7, (82, 40, 96, 46): 0.5}
    got = {tuple(np.round(box).astype(int)): s for box, s in zip(found.boxes_px, found.scores)}
    assert got == {box: pytest.approx(score) for box, score in expected.items()}


def test_an_image_without_tiles_is_fused_whatever_shares_its_batch():
    rows = [(0, [10, 10, 50, 50], 0.9), (1, [10, 10, 54, 50], 0.6)]
    (alone,) = merge(rows, PAIR, [0, 0], [(100, 100)], "wbf")
    tiles = [View(64, (0, 0, 180, 100)), View(64, (80, 0, 180, 100), overlap=0.2)]
    more = [*rows, (2, [20, 20, 60, 60], 0.7)]
    first, second = merge(more, [*PAIR, *tiles], [0, 0, 1, 1], [(100, 100), (180, 100)], "wbf")
    np.testing.assert_array_equal(first.boxes_px, alone.boxes_px)
    np.testing.assert_array_equal(first.scores, alone.scores)
    assert second.scores.tolist() == [pytest.approx(0.7)]


def test_nothing_at_all():
    for kind in ("wbf", "soft_nms"):
        (found,) = merge([], PAIR, [0, 0], [(100, 100)], kind)
        assert len(found) == 0
    with pytest.raises(ValueError, match="wbf or soft_nms"):
        merge([], PAIR, [0, 0], [(100, 100)], "other")
