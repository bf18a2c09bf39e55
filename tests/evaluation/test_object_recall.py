# SPDX-License-Identifier: Apache-2.0
"""The fate of each object, worked out by hand."""

import pytest

from src.data.coco_utils import load_data
from src.evaluation.error_analysis import FATES, as_lines, fates_by_size, judge_split
from tests.datasets import coco_content, write_coco
from tests.evaluation.test_error_analysis import entry

OBJECTS = [
    (1, 3, [0, 0, 20, 20]),  # cat, 400 pixels: small
    (1, 7, [30, 0, 20, 20]),  # dog, called a cat
    (1, 3, [0, 28, 20, 20]),  # cat, found beside its place
    (1, 3, [30, 28, 12, 12]),  # tiny, 144 pixels: nothing near
    (1, 3, [50, 30, 10, 18], 1),  # a crowd
    (2, 7, [5, 5, 48, 40]),  # dog, 1920 pixels: medium, a cat beside its place
]
ANSWERS = [
    entry(1, 3, [0, 0, 20, 20], 0.95),
    entry(1, 3, [31, 0, 20, 20], 0.9),
    entry(1, 3, [10, 28, 20, 20], 0.8),  # IoU 1/3
    entry(2, 3, [25, 5, 35, 40], 0.7),  # IoU 28 * 40 / (1920 + 1400 - 1120) = 0.51
]


@pytest.fixture
def data(tmp_path):
    return load_data(write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], OBJECTS)), "train")


def counts(**fates):
    return {**dict.fromkeys(FATES, 0), **fates}


def test_every_fate(data):
    found = fates_by_size(data, judge_split(data, ANSWERS))
    assert found == {
        "tiny": counts(missed=1),
        "small": counts(**{"found": 1, "class": 1, "localisation": 1}),
        "medium": counts(**{"class": 1}),
        "large": counts(),
    }
    further = [*ANSWERS[:3], entry(2, 3, [30, 5, 30, 40], 0.7)]  # IoU 920 / 2200 = 0.42
    assert fates_by_size(data, judge_split(data, further))["medium"] == counts(both=1)


def test_a_detection_of_a_neighbour_is_no_attempt(tmp_path):
    """Two cats with an IoU of 1/3; the only detection is the first one's."""
    rows = [(1, 3, [0, 0, 20, 20]), (1, 3, [10, 0, 20, 20])]
    data = load_data(write_coco(tmp_path, coco_content(["a.jpg"], rows)), "train")
    found = fates_by_size(data, judge_split(data, [entry(1, 3, [0, 0, 20, 20], 0.9)]))
    assert found["small"] == counts(found=1, missed=1)


def test_as_text(data):
    lines = as_lines(fates_by_size(data, judge_split(data, ANSWERS)))
    assert [line.split() for line in lines] == [
        ["objects", "all", *FATES],
        ["tiny", "1", "0", "0", "0", "0", "1"],
        ["small", "3", "1", "1", "1", "0", "0"],
        ["medium", "1", "0", "0", "1", "0", "0"],
    ]


def test_nothing_found(data):
    found = fates_by_size(data, judge_split(data, []))
    assert sum(row["missed"] for row in found.values()) == 5
    assert sum(row["found"] for row in found.values()) == 0
