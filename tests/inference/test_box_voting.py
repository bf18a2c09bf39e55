# SPDX-License-Identifier: Apache-2.0
"""Box voting by hand."""

import numpy as np
import pytest

from src.inference.box_voting import vote
from src.inference.postprocess import Candidates, PostProcessor

# 10 x 10; the same moved by 1, IoU 90 / 110 = 0.82, and by 4, IoU 60 / 140 = 0.43; far away
BOXES = np.float32([[0, 0, 10, 10], [1, 0, 11, 10], [4, 0, 14, 10], [50, 50, 60, 60]])
SCORES = np.float32([0.6, 0.2, 0.9, 0.5])
ONE_KIND = np.zeros(4, int)


def test_average_by_score():
    voted = vote(np.array([0, 3]), BOXES, SCORES, ONE_KIND, 0.5)
    np.testing.assert_allclose(voted, [[0.25, 0, 10.25, 10], [50, 50, 60, 60]], rtol=1e-6)
    assert voted.dtype == np.float32
    # with the third: (0.2 * 1 + 0.9 * 4) / 1.7
    lower = vote(np.array([0]), BOXES, SCORES, ONE_KIND, 0.4)
    np.testing.assert_allclose(lower[0, 0], 3.8 / 1.7, rtol=1e-6)


def test_other_kinds_have_no_vote():
    voted = vote(np.array([0, 1]), BOXES, SCORES, np.array([0, 1, 0, 0]), 0.5)
    np.testing.assert_array_equal(voted, BOXES[:2])


def test_nothing_kept_and_boxes_without_an_area():
    assert vote(np.zeros(0, int), BOXES, SCORES, ONE_KIND, 0.5).shape == (0, 4)
    point = np.float32([[5, 5, 5, 5]])
    np.testing.assert_array_equal(vote(np.array([0]), point, SCORES[:1], ONE_KIND[:1], 0.5), point)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_what_nms_suppresses_votes_in_its_own_image_and_class(class_agnostic):
    """The second box of image 0 is another class, that of image 1 the same."""
    found = Candidates(
        np.float32([BOXES[0], BOXES[1], BOXES[0], BOXES[1]]),
        np.float32([0.6, 0.5, 0.6, 0.2]),
        np.array([1, 2, 1, 1]),
        np.array([0, 0, 1, 1]),
    )
    post = PostProcessor(
        np.zeros((4, 4), np.float32),
        method="hard",
        iou_threshold=0.45,
        class_agnostic=class_agnostic,
        voting_iou=0.7,
    )
    first, second = post.suppress(found, 2)
    np.testing.assert_array_equal(first.boxes_px, BOXES[:1] if class_agnostic else BOXES[:2])
    np.testing.assert_allclose(second.boxes_px, [[0.25, 0, 10.25, 10]], rtol=1e-6)
    np.testing.assert_allclose(second.scores, [0.6])


def test_boxes_of_all_views_of_an_image_vote_together():
    """Views 0 and 1 are of one image, view 2 of another."""
    found = Candidates(
        BOXES[[0, 1, 1]], np.float32([0.6, 0.2, 0.5]), np.ones(3, int), np.array([0, 1, 2])
    )
    post = PostProcessor(np.zeros((3, 4), np.float32), method="hard", voting_iou=0.7)
    kept, scores = post.select(found, np.array([0, 0, 1]))
    np.testing.assert_allclose(kept.boxes_px, [[0.25, 0, 10.25, 10], [1, 0, 11, 10]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.6, 0.5])
