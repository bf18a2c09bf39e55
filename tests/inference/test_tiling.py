# SPDX-License-Identifier: Apache-2.0
"""Tiles cover the image, and boxes at their seams become whole again."""

import numpy as np
import pytest

from src.inference.tiling import cut_edges, drop_seen_whole, join_parts, tile_windows

SIZES = [(1000, 700), (512, 512), (513, 40), (20000, 100), (1, 1), (999, 1024)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_cover_the_image_and_overlap(size, overlap):
    windows = tile_windows(*size, 512, overlap)
    covered = np.zeros(size[::-1], bool)
    for x1, y1, x2, y2 in windows:
        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]
        assert max(x2 - x1, y2 - y1) <= 512
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    first_row = [window for window in windows if window[1] == 0]
    for left, right in zip(first_row, first_row[1:]):
        assert left[2] - right[0] >= int(overlap * 512) - 1


def test_windows_by_hand():
    assert tile_windows(100, 80, 100, 0.25) == [(0, 0, 100, 80)]
    # 200 - 80 = 120 are left after the first, two steps of at most 60
    assert [window[0] for window in tile_windows(200, 50, 80, 0.25)] == [0, 60, 120]
    with pytest.raises(ValueError, match=r"0 to 0\.9"):
        tile_windows(10, 10, 5, 1.0)
    with pytest.raises(ValueError, match="positive"):
        tile_windows(10, 0, 5, 0.1)


def test_cut_edges_are_at_seams_not_at_the_frame():
    window = np.array([[100, 0, 200, 100]] * 3)
    boxes = np.array([[101, 1, 150, 99.0], [120, 20, 150, 50], [110, 30, 199, 60]])
    sizes, margin = np.array([[300, 100]] * 3), np.full((3, 4), 2.0)
    expected = [
        [True, False, False, False],  # its upper and lower edge are the image's own
        [False] * 4,
        [False, False, True, False],
    ]
    assert cut_edges(boxes, window, sizes, margin).tolist() == expected


def test_a_cut_box_is_dropped_only_where_a_neighbour_sees_it_whole():
    windows = np.array([[0, 0, 100, 100]] * 3)
    boxes = np.array([[80, 0, 100, 50], [40, 0, 100, 50], [40, 0, 90, 50]])
    cut = np.array([[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    keep = drop_seen_whole(boxes, windows, cut, np.full((3, 1), 0.25))
    assert keep.tolist() == [False, True, True]  # 20 < 25 pixels shared; 60 is more


def test_parts_are_joined_across_seams():
    """One object over three tiles; another row, another class and a whole box stay alone."""
    boxes = np.array(
        [
            [40, 10, 100, 50],  # cut at the right
            [80, 11, 180, 51],  # at both sides
            [160, 10, 210, 50],  # at the left
            [40, 200, 100, 240],  # right, but further down
            [80, 10, 180, 50],  # another class
            [50, 10, 95, 50],  # not cut
        ],
        float,
    )
    cut = np.zeros((6, 4), bool)
    cut[[0, 1, 3], 2] = cut[[1, 2, 4], 0] = True
    scores = np.array([0.6, 0.9, 0.5, 0.8, 0.7, 0.4])
    labels = np.array([1, 1, 1, 1, 2, 1])
    joined, alive = join_parts(boxes, scores, labels, cut)
    assert alive.tolist() == [False, True, False, True, True, True]
    assert joined[1].tolist() == [40, 10, 210, 51]
    np.testing.assert_array_equal(joined[3:], boxes[3:])
    assert boxes[1].tolist() == [80, 11, 180, 51]  # the input stays


def test_parts_are_joined_downwards_too():
    boxes = np.array([[10, 60, 50, 100], [10, 75, 50, 150]], float)
    cut = np.array([[0, 0, 0, 1], [0, 1, 0, 0]], bool)
    joined, alive = join_parts(boxes, np.array([0.5, 0.4]), np.array([1, 1]), cut)
    assert alive.tolist() == [True, False]
    assert joined[0].tolist() == [10, 60, 50, 150]


def test_no_boxes():
    joined, alive = join_parts(np.zeros((0, 4)), np.zeros(0), np.zeros(0), np.zeros((0, 4), bool))
    assert joined.shape == (0, 4)
    assert alive.shape == (0,)
