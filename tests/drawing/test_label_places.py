# SPDX-License-Identifier: Apache-2.0
"""Names beside their boxes: where they go, worked out by hand."""

import numpy as np

from src.drawing.label_places import place_labels

SIZE = (40, 10)


def place(boxes, size=SIZE, width=200, height=100):
    return place_labels(np.array(boxes, float), [size] * len(boxes), width, height)


def covers(a, b, size=SIZE):
    return abs(a[0] - b[0]) < size[0] and abs(a[1] - b[1]) < size[1]


def test_alone_it_stands_above_or_below_at_the_upper_edge():
    assert place([[20, 30, 90, 80]]) == [(20, 20)]
    assert place([[20, 0, 90, 50]]) == [(20, 50)]


def test_in_a_box_that_fills_the_picture_it_stands_inside():
    assert place([[0, 0, 200, 100]]) == [(0, 0)]


def test_it_stays_in_the_picture():
    for box in ([0, 0, 5, 5], [195, 95, 200, 100], [195, 0, 200, 5], [100, 98, 100, 98]):
        ((x, y),) = place([box])
        assert 0 <= x <= 160
        assert 0 <= y <= 90
    assert place([[0, 0, 20, 8]], size=(40, 10), width=20, height=8) == [(0, 0)]


def test_the_better_one_has_its_place_and_the_other_goes_elsewhere():
    first, second = place([[20, 30, 90, 80], [22, 30, 92, 80]])
    assert first == (20, 20)
    assert not covers(first, second)


def test_a_small_box_is_not_hidden_by_the_name_of_its_neighbour():
    """Above the large box lies a small one: the name goes elsewhere."""
    large, small = [20, 30, 120, 80], [22, 18, 50, 29]
    (x, y), _ = place([large, small])
    assert not (x < 50 and x + 40 > 22 and y < 29 and y + 10 > 18)


def test_in_a_crowd_none_lies_on_another():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, (180, 80), (60, 2))
    places = place(np.concatenate([low, low + rng.uniform(4, 20, (60, 2))], axis=1))
    shown = [p for p in places if p is not None]
    assert len(shown) >= 30  # of the 50 that would fill the picture
    assert places[0] is not None
    for number, one in enumerate(shown):
        for other in shown[:number]:
            wide = max(0, 40 - abs(one[0] - other[0]))
            tall = max(0, 10 - abs(one[1] - other[1]))
            assert wide * tall <= 0.3 * 400
