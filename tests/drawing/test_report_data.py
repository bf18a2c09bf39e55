# SPDX-License-Identifier: Apache-2.0
"""The numbers and pictures in the report, worked out by hand."""

import base64

import cv2
import numpy as np
import pytest
from report_examples import large_split, small_split

from src.drawing import report_data
from src.drawing.report_data import (
    LOWEST,
    best_thresholds,
    choose,
    most_confused,
    pictures,
    score_counts,
)
from src.evaluation.error_analysis import KINDS, judge_split

CORRECT, CLASS, DUPLICATE = (KINDS.index(kind) for kind in ("correct", "class", "duplicate"))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """The data and what is wrong in it, from the lowest score on."""
    data, results = small_split(tmp_path_factory.mktemp("data"))
    return data, judge_split(data, results, LOWEST)


def test_counts_by_class_kind_and_score(split):
    """Classes in the order of the data: cat (id 3) is label 1, dog (id 7) label 2."""
    data, errors = split
    assert data.category_ids == (3, 7)
    assert score_counts(data, errors) == {
        "objects": [2, 1],
        "detections": [
            [0, CORRECT, 20, 1],
            [0, CORRECT, 80, 1],
            [0, DUPLICATE, 40, 1],
            [1, CLASS, 90, 1],
        ],
    }


def test_the_best_threshold_has_the_highest_f1(split):
    """Cats: at 0.8 one of two found and no error, F1 2/3; at 0.2 both and one error, 4/5."""
    best = best_thresholds(score_counts(*split))
    assert best[0] == (0.2, pytest.approx(0.8))
    assert best[1] == (-1.0, -1.0)  # no dog was found at any score
    counts = {"objects": [1, 0], "detections": [[0, CORRECT, 50, 1], [1, CLASS, 50, 1]]}
    assert best_thresholds(counts) == [(0.5, 1.0), (-1.0, -1.0)]


def test_the_most_confused_classes():
    """Neither the background, in row and column 0, nor what is right counts."""
    rows = [[0, 9, 9, 9], [9, 9, 2, 0], [9, 5, 9, 1], [9, 0, 0, 9]]
    assert most_confused(rows) == [[1, 0, 5], [0, 1, 2], [1, 2, 1]]
    assert most_confused(rows, 1) == [[1, 0, 5]]
    assert most_confused([[0]]) == []


def test_pictures_hold_every_box_and_what_it_is(split):
    data, errors = split
    first, second = pictures(data, errors, 0.3)
    assert first["name"] == "a<b>&.jpg"
    assert first["size"] == [60, 48]
    assert first["found"] == [
        [0.0, 0.0, 20.0, 20.0, 1, 0.9, CLASS],
        [0.0, 0.0, 20.0, 20.0, 0, 0.2, CORRECT],
    ]
    assert first["truth"] == [[0, 0, 20, 20, 0, 0.2, 0], [30, 10, 50, 30, 1, 0, 0]]
    assert [box[5:] for box in second["found"]] == [[0.8, CORRECT], [0.4, DUPLICATE]]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(first["code"]), np.uint8), 1)
    assert image.shape == (48, 60, 3)


def test_the_worst_comes_first_and_images_without_errors_last(split):
    data, errors = split
    assert list(choose(data, errors, 0.3)) == [0, 1]  # three errors, one error
    assert list(choose(data, errors, 0.5)) == [0, 1]  # the second has none any more


def test_every_kind_of_error_in_every_class_has_pictures(tmp_path):
    """Of what there is at all; before the pictures without errors and the rest."""
    data, results = large_split(tmp_path, 120, classes=5)
    errors = judge_split(data, results, LOWEST)

    def pairs(rows):
        found = set()
        for row in rows:
            image, record = errors.images[row], data.records[row]
            found |= {(k, n) for k, n, s in zip(image.kinds, image.labels, image.scores) if s > 0.3}
            found |= {("missed", n) for n in record.labels[image.found_by < 0.3]}
        return {pair for pair in found if pair[0] not in ("correct", "ignored")}

    order = list(choose(data, errors, 0.3))
    assert len(order) == len(set(order)) <= 120
    assert pairs(order[:60]) == pairs(range(120))
    assert len(pairs(range(120))) > 20


def test_pictures_stay_within_their_bytes(tmp_path, monkeypatch):
    data, results = large_split(tmp_path, 10, classes=3, image_px=(900, 600))
    errors = judge_split(data, results, LOWEST)
    made = list(pictures(data, errors, 0.3))
    assert len(made) == 10
    size = len(made[0]["code"])
    image = cv2.imdecode(np.frombuffer(base64.b64decode(made[0]["code"]), np.uint8), 1)
    assert image.shape == (373, 560, 3)
    monkeypatch.setattr(report_data, "MOST_BYTES", int(3.5 * size))
    assert len(list(pictures(data, errors, 0.3))) == 3


def test_images_that_are_gone_are_left_out(tmp_path):
    data, results = small_split(tmp_path)
    (tmp_path / "train2017" / "a<b>&.jpg").unlink()
    errors = judge_split(data, results, LOWEST)
    assert [picture["name"] for picture in pictures(data, errors, 0.3)] == ["c.jpg"]
