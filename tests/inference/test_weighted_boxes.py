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
        boxes, np.float32([0.9, 0.3, 0.8]), np.ones(3, int), every(2)
    )
    # x: (0.9 * 0 + 0.3 * 2) / 1.2 = 0.5; score (0.9 + 0.3) / 2. Alone: 0.8 * 1 / 2.
    np.testing.assert_allclose(fused, [[0.5, 0, 10.5, 10], [50, 50, 60, 60]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.6, 0.4], rtol=1e-6)
    assert labels.tolist() == [1, 1]


def test_more_boxes_than_views_gain_nothing():
    boxes = np.tile(np.float32([[0, 0, 10, 10]]), (5, 1))
    _, scores, _ = fuse_boxes(boxes, np.full(5, 0.5), np.ones(5, int), every(2))
    assert scores.tolist() == [0.5]


def test_classes_stay_apart():
    boxes = np.tile(np.float32([[0, 0, 10, 10]]), (2, 1))
    fused, _, labels = fuse_boxes(boxes, np.float32([0.5, 0.6]), np.array([4, 2]), every(1))
    assert len(fused) == 2
    assert labels.tolist() == [2, 4]


def plain(boxes, scores, views, threshold):
    """One class, clusters as lists of (score, box)."""
    clusters = []
    for score, box in sorted(zip(scores, boxes.tolist()), key=lambda row: -row[0]):
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
        clusters.append([(score, box)]) if best is None else best.append((score, box))
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
    fused, values, _ = fuse_boxes(boxes, scores, np.ones(60, int), every(3))
    expected = np.array(plain(boxes, scores, 3, 0.55))
    assert 8 <= len(expected) < 50
    np.testing.assert_allclose(np.column_stack([fused, values]), expected, rtol=1e-5)


def test_nothing():
    boxes, scores, labels = fuse_boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), every(1))
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
