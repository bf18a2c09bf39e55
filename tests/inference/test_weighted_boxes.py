# SPDX-License-Identifier: Apache-2.0
"""Weighted boxes fusion by hand and against a plain loop."""

import numpy as np
import pytest

from src.inference.merging import fuse_boxes


def every(count):
    return lambda boxes: np.full(len(boxes), count)


def test_by_hand():
    """Two of two views found one object, one of them the other."""
    boxes = np.float32([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    fused, scores, labels = fuse_boxes(
        boxes, np.float32([0.9, 0.3, 0.8]), np.ones(3, int), np.array([0, 1, 1]), every(2)
    )
    # x: (0.9 * 0 + 0.3 * 2) / 1.2 = 0.5; score (0.9 + 0.3) / 2. Alone: 0.8 * 1 / 2.
    np.testing.assert_allclose(fused, [[0.5, 0, 10.5, 10], [50, 50, 60, 60]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.6, 0.4], rtol=1e-6)
    assert labels.tolist() == [1, 1]


def test_what_nms_left_of_one_view_beside_its_best_does_not_lower_the_score():
    """A cat by two views, and three boxes of little score around it, as at a threshold of 0.01."""
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], *[[1, 0, 11, 10]] * 3])
    scores, views = np.float32([0.9, 0.7, 0.03, 0.02, 0.01]), np.array([0, 1, 0, 1, 0])
    fused, found, _ = fuse_boxes(boxes, scores, np.ones(5, int), views, every(2))
    np.testing.assert_allclose(fused, [[0, 0, 10, 10]])
    np.testing.assert_allclose(found, [0.8], rtol=1e-6)


def test_classes_stay_apart():
    boxes = np.tile(np.float32([[0, 0, 10, 10]]), (2, 1))
    fused, _, labels = fuse_boxes(
        boxes, np.float32([0.5, 0.6]), np.array([4, 2]), np.zeros(2, int), every(1)
    )
    assert len(fused) == 2
    assert labels.tolist() == [2, 4]


def plain(boxes, scores, view_of, views, threshold):
    """One class, clusters as lists of (score, box) and of the views in them."""
    clusters, views_in = [], []
    rows = zip(scores, boxes.tolist(), view_of)
    for score, box, view in sorted(rows, key=lambda row: -row[0]):
        best, most = None, threshold
        for cluster in clusters:
            total = sum(s for s, _ in cluster)
            mean = [sum(s * b[k] for s, b in cluster) / total for k in range(4)]
            width = min(box[2], mean[2]) - max(box[0], mean[0])
            height = min(box[3], mean[3]) - max(box[1], mean[1])
            inter = max(width, 0) * max(height, 0)
            areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, mean))
            if inter / (areas - inter) > most:
                best, most = cluster, inter / (areas - inter)
        if best is None:
            clusters.append([(score, box)])
            views_in.append([view])
            continue
        number = [cluster is best for cluster in clusters].index(True)
        if view not in views_in[number]:
            best.append((score, box))
            views_in[number].append(view)
    rows = []
    for cluster in clusters:
        total = sum(s for s, _ in cluster)
        mean = [sum(s * b[k] for s, b in cluster) / total for k in range(4)]
        rows.append((*mean, total / len(cluster) * min(len(cluster), views) / views))
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_against_loops(seed):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 200, (8, 2))[rng.integers(0, 8, 60)] + rng.normal(0, 4, (60, 2))
    half = rng.uniform(15, 25, (60, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    scores = rng.uniform(0.05, 1, 60)
    views = rng.integers(0, 3, 60)
    fused, values, _ = fuse_boxes(boxes, scores, np.ones(60, int), views, every(3))
    expected = np.array(plain(boxes, scores, views, 3, 0.55))
    assert 8 <= len(expected) < 50
    np.testing.assert_allclose(np.column_stack([fused, values]), expected, rtol=1e-5)


def test_nothing():
    none = np.zeros(0, int)
    boxes, scores, labels = fuse_boxes(np.zeros((0, 4)), np.zeros(0), none, none, every(1))
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
