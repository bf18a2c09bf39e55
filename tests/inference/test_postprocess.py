# SPDX-License-Identifier: Apache-2.0
"""Post-processing against plain loops over the official pipeline, and by hand."""

import math

import numpy as np
import pytest

from src.inference.postprocess import Candidates, PostProcessor, candidates

PRIORS = np.array(
    [[0.25, 0.25, 0.2, 0.2], [0.75, 0.25, 0.4, 0.3], [0.5, 0.75, 0.5, 0.5]], np.float32
)


def probabilities(logits):
    """Softmax of one row in double precision."""
    terms = [math.exp(float(x) - float(max(logits))) for x in logits]
    return [term / math.fsum(terms) for term in terms]


def decoded(loc, prior, width, height):
    x, y, w, h = map(float, prior)
    dx, dy, dw, dh = map(float, loc)
    x, y, w, h = x + dx * 0.1 * w, y + dy * 0.1 * h, w * math.exp(dw * 0.2), h * math.exp(dh * 0.2)
    corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return [c * side for c, side in zip(corners, (width, height, width, height))]


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return width * height / (areas - width * height)


def plain_pipeline(loc, logits, priors, size, keep=50, agnostic=False):
    """(score, label, box) of one image, best first, class after class with linear soft-NMS."""
    rows = [probabilities(row) for row in logits]
    groups = {}
    for label in range(1, logits.shape[1]):
        for p, row in enumerate(rows):
            if row[label] > 0.1:
                item = [row[label], label, decoded(loc[p], priors[p], *size)]
                groups.setdefault(0 if agnostic else label, []).append(item)
    result = []
    for left in groups.values():
        found = []
        while left and len(found) < keep:
            best = max(left, key=lambda item: item[0])
            left.remove(best)
            found.append(best)
            for item in left:
                iou = overlap(best[2], item[2])
                item[0] *= 1 - iou if iou > 0.3 else 1
            left = [item for item in left if item[0] >= 0.001]
        result += found
    return sorted(result, key=lambda item: -item[0])


def network_output(seed, count=120, classes=6):
    rng = np.random.default_rng(seed)
    priors = rng.uniform(0.1, 0.9, (count, 4)).astype(np.float32)
    loc = rng.normal(0, 1, (count, 4)).astype(np.float32)
    logits = rng.normal(0, 2, (count, classes)).astype(np.float32)
    logits[:, 0] += 1
    return loc, logits, priors


def assert_same(got, expected):
    assert len(got) == len(expected)
    np.testing.assert_allclose(got.scores, [score for score, _, _ in expected], atol=2e-6)
    np.testing.assert_array_equal(got.labels, [label for _, label, _ in expected])
    np.testing.assert_allclose(got.boxes_px, [box for _, _, box in expected], atol=2e-2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [3, 50])
def test_against_loops(seed, keep):
    loc, logits, priors = network_output(seed)
    got = PostProcessor(priors, keep_per_class=keep)(loc, logits, 640, 427)
    expected = plain_pipeline(loc, logits, priors, (640, 427), keep)
    assert len(expected) > 10
    assert_same(got, expected)
    assert (got.boxes_px.dtype, got.scores.dtype, got.labels.dtype) == (
        np.float32,
        np.float32,
        np.int32,
    )


def test_class_agnostic_against_loops():
    loc, logits, priors = network_output(9)
    got = PostProcessor(priors, class_agnostic=True)(loc, logits, 300, 500)
    assert_same(got, plain_pipeline(loc, logits, priors, (300, 500), agnostic=True))


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_batch_is_its_images(agnostic):
    outputs = [network_output(seed) for seed in (1, 2, 3)]
    outputs[1][1][:, 0] += 50  # nothing in the second
    sizes = [(640, 480), (33, 2000), (1, 1)]
    process = PostProcessor(outputs[0][2], class_agnostic=agnostic)
    batch = process.batch(
        np.stack([loc for loc, _, _ in outputs]), np.stack([x for _, x, _ in outputs]), sizes
    )
    assert [len(found) > 0 for found in batch] == [True, False, True]
    for (loc, logits, _), size, found in zip(outputs, sizes, batch):
        single = process(loc, logits, *size)
        for name in ("boxes_px", "scores", "labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(single, name))
    assert process.batch(np.zeros((0, 120, 4)), np.zeros((0, 120, 6)), []) == []


def test_by_hand():
    # probabilities 0.8 and 0.5 of classes 2 and 1; the third prior is background
    logits = np.log(np.array([[0.1, 0.1, 0.8], [0.4, 0.5, 0.1], [0.9, 0.05, 0.05]])) + 7
    found = PostProcessor(PRIORS)(np.zeros((3, 4)), logits, 200, 100)
    np.testing.assert_allclose(found.scores, [0.8, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(found.labels, [2, 1])
    np.testing.assert_allclose(found.boxes_px, [[30, 15, 70, 35], [110, 10, 190, 40]], atol=1e-4)


def test_nothing_found_is_a_result():
    logits = np.tile(np.float32([9, 0, 0]), (3, 1))
    found = PostProcessor(PRIORS)(np.zeros((3, 4)), logits, 200, 100)
    assert len(found) == 0
    assert (found.boxes_px.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_topk_and_clip():
    logits = np.float32([[0, 3, 0], [0, 5, 0], [0, 4, 0]])
    loc = np.zeros((3, 4), np.float32)
    loc[1, 2:] = 10  # e^2 times as wide and high
    found = PostProcessor(PRIORS, topk=2, clip=True)(loc, logits, 200, 100)
    assert len(found) == 2
    assert found.scores[0] > found.scores[1]
    np.testing.assert_array_equal(
        found.boxes_px[0], [0, 0, 200, 100]
    )  # 591 wide around 150, 222 high
    whole = PostProcessor(PRIORS)(loc, logits, 200, 100)
    assert len(whole) == 3
    assert whole.boxes_px[0, 2] == pytest.approx(150 + 40 * math.exp(2), rel=1e-5)


def test_large_scores_and_every_threshold():
    logits = np.float32([[-80, 80, 79], [80, -80, -80], [-80, -80, -80]])
    for threshold in (0.0, 0.3, 0.999, 1.0):
        rows, labels, scores = candidates(logits, threshold)
        expected = [
            (r, c, p)
            for r, row in enumerate(logits)
            for c, p in enumerate(probabilities(row))
            if c > 0 and np.float32(p) > threshold
        ]
        np.testing.assert_array_equal(rows, [r for r, _, _ in expected])
        np.testing.assert_array_equal(labels, [c for _, c, _ in expected])
        np.testing.assert_allclose(scores, [p for _, _, p in expected], rtol=1e-5)


def test_a_box_beyond_float32_is_left_out():
    logits = np.tile(np.float32([0, 5]), (3, 1))
    loc = np.zeros((3, 4), np.float32)
    loc[1, 2] = 3e38
    assert len(PostProcessor(PRIORS)(loc, logits, 200, 100)) == 2


@pytest.mark.parametrize(
    ("loc", "logits", "message"),
    [
        (np.zeros((2, 4)), np.zeros((3, 5)), r"loc must have shape \(1, 3, 4\)"),
        (np.zeros((3, 4)), np.zeros((2, 5)), r"logits must have shape \(1, 3, 'C'\)"),
        (np.zeros((3, 4)), np.zeros((3, 1)), "logits must have shape"),
        (np.zeros((3, 4)), np.full((3, 5), np.nan), "logits hold NaN"),
        (np.full((3, 4), np.nan), np.tile([0.0, 9.0], (3, 1)), "loc holds NaN"),
    ],
)
def test_bad_network_output_is_named(loc, logits, message):
    with pytest.raises(ValueError, match=message):
        PostProcessor(PRIORS)(loc, logits, 10, 10)


def test_limit_keeps_the_best_of_each_image_and_class():
    boxes = np.tile(np.float32([[0, 0, 9, 9]]), (6, 1))
    scores = np.float32([0.5, 0.9, 0.7, 0.6, 0.2, 0.0001])
    found = Candidates(boxes, scores, np.array([1, 1, 1, 2, 1, 1]), np.array([0, 0, 0, 0, 1, 1]))
    kept = PostProcessor(PRIORS, keep_per_class=2).limit(found)
    rows = sorted(zip(kept.image.tolist(), kept.labels.tolist(), kept.scores.tolist()))
    expected = [(0, 1, 0.7), (0, 1, 0.9), (0, 2, 0.6), (1, 1, 0.2)]  # 0.0001 is below the lowest
    assert rows == [(i, label, pytest.approx(score)) for i, label, score in expected]


def test_owner_groups_the_views_of_an_image():
    """Two views of one image found the same box; those of different images do not meet."""
    boxes = np.float32([[0, 0, 99, 99]] * 3)
    found = Candidates(boxes, np.float32([0.9, 0.8, 0.7]), np.ones(3, int), np.arange(3))
    kept, scores = PostProcessor(PRIORS).select(found, owner=np.array([0, 0, 1]))
    assert sorted(kept.image.tolist()) == [0, 2]
    assert sorted(scores.tolist()) == pytest.approx([0.7, 0.9])


def test_nothing_joined_is_nothing():
    assert Candidates.join([]).boxes_px.shape == (0, 4)
