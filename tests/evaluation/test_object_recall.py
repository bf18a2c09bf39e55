# SPDX-License-Identifier: Apache-2.0
"""Recall by size and cause, worked out by hand."""

import pytest

from src.data.coco_utils import load_data
from src.evaluation.coco_metrics import coco_score
from src.evaluation.error_analysis import OUTCOMES, as_lines, judge_split, recall_by_size
from src.evaluation.summary import all_metrics, as_text
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


def content_of(names, objects):
    """Annotations whose areas are those of their boxes."""
    content = coco_content(names, objects)
    for annotation in content["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    return content


@pytest.fixture
def data(tmp_path):
    return load_data(write_coco(tmp_path, content_of(["a.jpg", "b.jpg"], OBJECTS)), "train")


def counts(**numbers):
    return {**dict.fromkeys(OUTCOMES, 0), **numbers}


def recall(data, results):
    return recall_by_size(data, judge_split(data, results))


def test_every_outcome(data):
    found = recall(data, ANSWERS)
    assert found == {
        "tiny": counts(missed=1),
        "small": counts(**{"found": 1, "class": 1, "localisation": 1}),
        "medium": counts(**{"class": 1}),
        "large": counts(),
    }
    further = [*ANSWERS[:3], entry(2, 3, [30, 5, 30, 40], 0.7)]  # IoU 920 / 2200 = 0.42
    assert recall(data, further)["medium"] == counts(both=1)


def test_a_detection_of_a_neighbour_is_no_attempt(tmp_path):
    """Two cats with an IoU of 1/3; the only detection is the first one's."""
    rows = [(1, 3, [0, 0, 20, 20]), (1, 3, [10, 0, 20, 20])]
    data = load_data(write_coco(tmp_path, content_of(["a.jpg"], rows)), "train")
    found = recall(data, [entry(1, 3, [0, 0, 20, 20], 0.9)])
    assert found["small"] == counts(found=1, missed=1)


def test_as_text(data):
    lines = as_lines(recall(data, ANSWERS))
    assert [line.split() for line in lines] == [
        ["objects", "all", *OUTCOMES],
        ["tiny", "1", "0", "0", "0", "0", "1"],
        ["small", "3", "1", "1", "1", "0", "0"],
        ["medium", "1", "0", "0", "1", "0", "0"],
    ]


def test_nothing_found(data):
    found = recall(data, [])
    assert sum(row["missed"] for row in found.values()) == 5
    assert sum(row["found"] for row in found.values()) == 0


def test_sizes_are_those_of_the_annotations(tmp_path):
    """A box of 48 x 40, medium; its segmentation of 500 pixels is small, which COCO goes by."""
    content = coco_content(["a.jpg"], [(1, 3, [0, 0, 48, 40])])
    content["annotations"][0]["area"] = 500
    data = load_data(write_coco(tmp_path, content), "train")
    results = [entry(1, 3, [0, 0, 48, 40], 0.9)]
    assert recall(data, results)["small"] == counts(found=1)
    score = coco_score(data, results)
    assert score.totals["AP_small"] == pytest.approx(1)
    assert score.totals["AP_medium"] == -1
    text = as_text(all_metrics(score, data, results, judge_split(data, results)))
    assert "AP_medium        -\n" in text
    assert "-1" not in text
