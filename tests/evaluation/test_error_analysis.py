# SPDX-License-Identifier: Apache-2.0
"""Kinds of errors and the confusion matrix, worked out by hand."""

import numpy as np
import pytest

from src.data.coco_utils import load_data
from src.evaluation.error_analysis import judge_split
from tests.datasets import coco_content, write_coco

CAT, DOG = 1, 2  # labels; the category ids are 3 and 7


@pytest.fixture
def data(tmp_path):
    rows = [
        (1, 3, [0, 0, 20, 20]),
        (1, 7, [30, 0, 20, 20]),
        (1, 3, [0, 28, 20, 20]),
        (1, 3, [40, 30, 18, 18], 1),  # a crowd
        (2, 7, [5, 5, 10, 10]),
    ]
    return load_data(write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], rows)), "train")


def entry(image, category, bbox, score):
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score}


ANSWERS = [
    (entry(1, 3, [0, 0, 20, 20], 0.95), "correct"),
    (entry(1, 3, [1, 0, 20, 20], 0.9), "duplicate"),
    (entry(1, 3, [30, 0, 20, 20], 0.85), "class"),  # on the dog
    (entry(1, 3, [10, 28, 20, 20], 0.8), "localisation"),  # IoU 1/3 with the lower cat
    (entry(1, 3, [40, 30, 18, 18], 0.75), "ignored"),
    (entry(2, 3, [10, 5, 10, 10], 0.7), "both"),  # IoU 1/3 with the dog
    (entry(2, 7, [40, 30, 9, 9], 0.6), "background"),
    (entry(2, 7, [5, 5, 10, 10], 0.1), None),  # below the threshold
]


def test_every_kind(data):
    summary = judge_split(data, [row for row, _ in reversed(ANSWERS)])
    kinds = [kind for image in summary.images for kind in image.kinds]
    assert kinds == [kind for _, kind in ANSWERS if kind]
    assert summary.counts == {
        **{"correct": 1, "duplicate": 1, "class": 1, "localisation": 1, "both": 1},
        **{"background": 1, "missed": 3},  # dog and lower cat in the first, dog in the second
    }
    assert [image.wrong for image in summary.images] == [5, 3]


def test_confusion_matrix(data):
    summary = judge_split(data, [row for row, _ in ANSWERS])
    expected = np.zeros((3, 3), int)
    expected[CAT, CAT] = 1
    expected[DOG, CAT] = 1  # a dog taken for a cat
    expected[CAT, 0] = 1  # the lower cat
    expected[DOG, 0] = 1  # the dog of the second image
    expected[0, CAT] = 3  # the duplicate, the cat beside its place, and the one near the dog
    expected[0, DOG] = 1
    np.testing.assert_array_equal(summary.confusion, expected)


def test_single_detections_within_a_crowd_are_neither_right_nor_wrong(tmp_path):
    """As COCO scores them: by how much of the detection lies in the crowd."""
    rows = [(1, 3, [0, 0, 40, 40], 1), (1, 7, [44, 30, 10, 10])]
    data = load_data(write_coco(tmp_path, coco_content(["a.jpg"], rows)), "train")
    inside = [entry(1, 3, [x, y, 10, 10], 0.9) for x in (2, 20) for y in (2, 20)]
    half_out = entry(1, 3, [30, 0, 12, 10], 0.8)  # 10 of 12
    outside = entry(1, 3, [36, 0, 10, 10], 0.7)  # 4 of 10
    summary = judge_split(data, [*inside, half_out, outside, entry(1, 7, [44, 30, 10, 10], 0.6)])
    assert list(summary.images[0].kinds) == ["ignored"] * 5 + ["background", "correct"]
    assert summary.confusion.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_nothing_found(data):
    summary = judge_split(data, [])
    assert summary.counts["missed"] == 4
    assert summary.confusion[:, 0].tolist() == [0, 2, 2]
    assert summary.confusion[:, 1:].sum() == 0


def test_perfect(data):
    results = [
        entry(row.image_id, data.category_ids[label - 1], [*box[:2], *(box[2:] - box[:2])], 0.9)
        for row in data.records
        for box, label in zip(row.boxes_px, row.labels)
    ]
    summary = judge_split(data, results)
    assert sum(summary.counts.values()) == summary.counts["correct"] == 4
    np.testing.assert_array_equal(summary.confusion, np.diag([0, 2, 2]))
