# SPDX-License-Identifier: Apache-2.0
"""Boxes: hand-worked values, a double-loop matcher and the official matching results."""

from pathlib import Path

import numpy as np
import pytest

from src import box_utils

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def naive_iou(a, b):
    """IoU of two corner boxes in float32, one operation at a time."""
    a, b = np.float32(a), np.float32(b)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), np.float32(0))
    height = max(min(a[3], b[3]) - max(a[1], b[1]), np.float32(0))
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


def naive_labels(boxes, labels, priors, threshold):
    """Label of each prior by plain loops over the definition of SSD matching."""
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in np.float32(priors)]
    table = [[naive_iou(box, corner) for corner in corners] for box in boxes]
    owner = [-1] * len(priors)
    for p in range(len(priors)):
        column = [row[p] for row in table]
        if column and max(column) >= threshold:
            owner[p] = column.index(max(column))
    for g, row in enumerate(table):
        owner[row.index(max(row))] = g
    return [0 if g < 0 else labels[g] for g in owner], owner


def grid_priors(cells=6, sizes=((0.2, 0.2), (0.3, 0.15), (0.5, 0.5), (1.0, 1.0))):
    centre = (np.arange(cells) + 0.5) / cells
    y, x = np.meshgrid(centre, centre, indexing="ij")
    rows = [(cx, cy, w, h) for cy, cx in zip(y.ravel(), x.ravel()) for w, h in sizes]
    return np.array(rows, np.float32)


def random_boxes(rng, count, smallest=0.02):
    size = rng.uniform(smallest, 0.9, (count, 2)) ** 1.5
    low = rng.uniform(0, 1, (count, 2)) * (1 - size)
    return np.concatenate([low, low + size], 1).astype(np.float32)


def test_conversions_by_hand():
    cxcywh = np.array([[0.5, 0.4, 0.2, 0.6]], np.float32)
    xyxy = np.array([[0.4, 0.1, 0.6, 0.7]], np.float32)
    np.testing.assert_allclose(box_utils.cxcywh_to_xyxy(cxcywh), xyxy, atol=1e-7)
    np.testing.assert_allclose(box_utils.xyxy_to_cxcywh(xyxy), cxcywh, atol=1e-7)


def test_clip_leaves_the_input_alone():
    boxes = np.array([[-0.5, 0.2, 1.5, 0.9], [3.0, -4.0, 700.0, 300.0]], np.float32)
    before = boxes.copy()
    np.testing.assert_array_equal(box_utils.clip_boxes(boxes)[0], np.float32([0, 0.2, 1, 0.9]))
    np.testing.assert_array_equal(box_utils.clip_boxes(boxes, 640, 200)[1], [3, 0, 640, 200])
    np.testing.assert_array_equal(boxes, before)


def test_iou_by_hand():
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.float32)
    b = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 1, 2], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(
        box_utils.iou_matrix(a, b), [[1, 1 / 7, 0, 0.5, 0], [0] * 5], atol=1e-7
    )
    assert box_utils.iou_matrix(a[:0], b).shape == (0, 5)


def test_encode_by_hand():
    # offset 0.1 of a 0.5-wide prior is 0.2 widths, over variance 0.1: 2; size doubled: ln 2 / 0.2
    prior = np.array([0.5, 0.5, 0.5, 0.25])
    box = np.array([0.1, 0.375, 1.1, 0.625])
    np.testing.assert_allclose(box_utils.encode(box, prior), [2, 0, np.log(2) / 0.2, 0], atol=1e-12)


def test_decode_by_hand_and_in_batches():
    prior = np.array([[0.5, 0.5, 0.5, 0.25]], np.float32)
    loc = np.array([[2, 0, np.log(2) / 0.2, 0]], np.float32)
    expected = np.array([[0.1, 0.375, 1.1, 0.625]])
    np.testing.assert_allclose(box_utils.decode(loc, prior), expected, atol=1e-6)
    batch = box_utils.decode(np.stack([loc, loc * 0]), prior)
    np.testing.assert_allclose(batch, [expected, [[0.25, 0.375, 0.75, 0.625]]], atol=1e-6)


def test_decode_undoes_encode():
    rng = np.random.default_rng(0)
    boxes, priors = random_boxes(rng, 50), box_utils.xyxy_to_cxcywh(random_boxes(rng, 50))
    again = box_utils.decode(box_utils.encode(boxes, priors), priors)
    np.testing.assert_allclose(again, boxes, atol=1e-5)
    assert again.dtype == np.float32


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_match_against_loops(seed, threshold):
    rng = np.random.default_rng(seed)
    priors = grid_priors()
    boxes = random_boxes(rng, 1 + 3 * seed)
    labels = rng.integers(1, 81, len(boxes))
    expected, owner = naive_labels(boxes, labels, priors, threshold)
    loc, got = box_utils.match(boxes, labels, priors, threshold)
    np.testing.assert_array_equal(got, expected)
    assert (loc.dtype, loc.shape, got.dtype) == (np.float32, (len(priors), 4), np.int32)
    for p in np.flatnonzero(got):
        x, y, w, h = priors[p]
        x1, y1, x2, y2 = boxes[owner[p]]
        values = [((x1 + x2) / 2 - x) / w / 0.1, ((y1 + y2) / 2 - y) / h / 0.1]
        values += [np.log((x2 - x1) / w) / 0.2, np.log((y2 - y1) / h) / 0.2]
        np.testing.assert_allclose(loc[p], values, rtol=1e-4, atol=1e-5)
    assert not loc[got == 0].any()


@pytest.mark.parametrize("seed", range(4))
def test_match_with_priors_of_no_order(seed):
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-2, 2.5, (150, 2))  # in pixels, some empty
    size[::40] = 0
    priors = np.concatenate([rng.uniform(0, 300, (150, 2)), size], 1).astype(np.float32)
    boxes = random_boxes(rng, 15) * np.float32(300)
    labels = np.arange(1, 16)
    expected, _ = naive_labels(boxes, labels, priors, 0.4)
    np.testing.assert_array_equal(box_utils.match(boxes, labels, priors, 0.4)[1], expected)


def test_match_in_pieces_is_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    boxes, labels = random_boxes(rng, 12), np.arange(1, 13)
    whole = box_utils.match(boxes, labels, grid_priors())
    monkeypatch.setattr(box_utils, "_MOST_PAIRS", 100)
    for one, other in zip(whole, box_utils.match(boxes, labels, grid_priors())):
        np.testing.assert_array_equal(one, other)


def test_boxes_far_smaller_than_every_prior_keep_one_each():
    priors = grid_priors()
    boxes = np.array(
        [[0.08, 0.08, 0.085, 0.085], [0.9, 0.1, 0.9001, 0.9], [0.5, 0.5, 0.50001, 0.50001]]
    )
    _, labels = box_utils.match(boxes, [1, 2, 3], priors)
    assert sorted(labels[labels > 0]) == [1, 2, 3]
    np.testing.assert_array_equal(labels, naive_labels(boxes, [1, 2, 3], priors, 0.5)[0])


def test_later_ground_truth_wins_a_shared_prior():
    priors = np.array([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]], np.float32)
    boxes = np.array([[0.3, 0.3, 0.7, 0.7], [0.35, 0.35, 0.7, 0.7]], np.float32)  # IoU 1 and 0.77
    np.testing.assert_array_equal(box_utils.match(boxes, [5, 6], priors)[1], [6, 0])


def test_equal_boxes_and_equal_priors():
    priors = np.array([[0.5, 0.5, 0.4, 0.4]] * 3, np.float32)
    boxes = np.array([[0.3, 0.3, 0.7, 0.7]] * 2, np.float32)
    # first of equal priors is forced, by the later box; the others take the first of equal boxes
    np.testing.assert_array_equal(box_utils.match(boxes, [5, 6], priors)[1], [6, 5, 5])


def test_box_beside_every_prior_takes_the_first():
    priors = np.array([[0.2, 0.2, 0.1, 0.1], [0.4, 0.4, 0.05, 0.05]], np.float32)
    np.testing.assert_array_equal(box_utils.match([[0.8, 0.8, 0.9, 0.9]], [7], priors)[1], [7, 0])


def test_no_ground_truth_is_all_background():
    for empty in (np.zeros((0, 4), np.float32), []):
        loc, labels = box_utils.match(empty, np.zeros(0, np.int32), grid_priors())
        assert not loc.any()
        assert not labels.any()
        assert (loc.dtype, labels.dtype, len(loc)) == (np.float32, np.int32, 144)


def test_prepared_priors_give_the_same():
    rng = np.random.default_rng(3)
    boxes, priors = random_boxes(rng, 20), grid_priors()
    labels = np.arange(1, 21)
    plain = box_utils.match(boxes, labels, priors)
    prepared = box_utils.match(boxes, labels, box_utils.prepare_priors(priors))
    for one, other in zip(plain, prepared):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        (
            [[0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.3, 0.5]],
            [1, 1],
            "box 1 is not finite or has no area",
        ),
        ([[0.1, 0.5, 0.2, 0.2]], [1], "box 0 .* no area"),
        ([[0.1, np.nan, 0.2, 0.2]], [1], "box 0 is not finite"),
        ([[0.1, 0.1, np.inf, 0.2]], [1], "box 0 is not finite"),
        ([[-np.inf, 0.1, np.inf, 0.2]], [1], "box 0 is not finite"),
        ([[np.inf, 0.1, np.inf, 0.2]], [1], "box 0 is not finite"),
        ([[0, 0, 1e-30, 1e-30]], [1], "no area"),
        ([[0.1, 0.1, 0.2]], [1], r"shape \(G, 4\), not \(1, 3\)"),
        ([[0.1, 0.1, 0.2, 0.2]], [1, 2], r"shape \(1,\) like the boxes, not \(2,\)"),
        ([[0.1, 0.1, 0.2, 0.2]], [0], "label 0 is 0"),
    ],
)
def test_bad_ground_truth_is_named(boxes, labels, message):
    with pytest.raises(ValueError, match=message):
        box_utils.match(boxes, labels, grid_priors())


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        (np.zeros((0, 4)), "P > 0"),
        (np.zeros((3, 5)), r"not \(3, 5\)"),
        (np.full((2, 4), np.nan), "NaN"),
    ],
)
def test_bad_priors_are_named(priors, message):
    with pytest.raises(ValueError, match=message):
        box_utils.match([[0.1, 0.1, 0.2, 0.2]], [1], priors)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("size", [320, 512])
def test_match_equals_the_official_code(size, case):
    path = GOLDEN / f"match_{size}.npz"
    if not path.exists():
        pytest.skip(f"reference values {path} are not here")
    data = np.load(path)
    priors = np.load(GOLDEN / f"priors_{size}.npz")["priors"]
    loc, labels = box_utils.match(data[f"{case}_truths"], data[f"{case}_labels"], priors)
    np.testing.assert_array_equal(labels, data[f"{case}_conf"])
    np.testing.assert_allclose(
        loc[labels > 0], data[f"{case}_loc_of_positives"], rtol=1e-4, atol=1e-5
    )


def naive_dynamic_labels(boxes, labels, priors, most):
    """By plain loops: each box wants as many priors as its greatest IoUs add up to."""
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in np.float32(priors)]
    table = [[naive_iou(box, corner) for corner in corners] for box in boxes]
    taken = {}
    for g, row in enumerate(table):
        ranked = sorted(range(len(priors)), key=lambda p: -row[p])[:most]
        for p in ranked[: max(int(sum(row[p] for p in ranked)), 1)]:
            if p not in taken or table[taken[p]][p] < row[p]:
                taken[p] = g
    for g, row in enumerate(table):
        taken[row.index(max(row))] = g
    return [labels[taken[p]] if p in taken else 0 for p in range(len(priors))]


@pytest.mark.parametrize("seed", range(20))
def test_dynamic_matching_equals_plain_loops(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.8, (5, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.02, 0.5, (5, 2))], axis=1).astype(np.float32)
    labels, priors = np.arange(1, 6), grid_priors()
    loc, target = box_utils.match(boxes, labels, priors, dynamic_k=20)
    assert target.tolist() == naive_dynamic_labels(boxes, labels, priors, 20)
    found = np.flatnonzero(target)
    np.testing.assert_allclose(
        box_utils.decode(loc, priors)[found], boxes[target[found] - 1], atol=1e-5
    )


@pytest.mark.parametrize("most", [1, 3, 20, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_dynamic_matching_of_many_equals_takes_the_first_priors(seed, most):
    """Boxes on the lattice of the priors, which come twice, and a box beside all of them."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 5, (5, 2)) / 6
    boxes = np.concatenate([low, low + rng.integers(1, 4, (5, 2)) / 6], axis=1).astype(np.float32)
    boxes[3] += 9
    labels, priors = np.arange(1, 6), np.concatenate([grid_priors(), grid_priors()])
    target = box_utils.match(boxes, labels, priors, dynamic_k=most)[1]
    assert target.tolist() == naive_dynamic_labels(boxes, labels, priors, most)
    iou = box_utils.iou_matrix(boxes, box_utils.cxcywh_to_xyxy(priors))
    ranked = np.argsort(-iou, axis=1, kind="stable")[:, :most]
    np.testing.assert_array_equal(box_utils._greatest(iou, ranked.shape[1]), ranked)


def test_dynamic_matching_by_hand():
    """A box on four equal priors wants four; one that hardly fits has its best."""
    priors = np.array([[0.5, 0.5, 0.4, 0.4]] * 4 + [[0.1, 0.1, 0.1, 0.1]], np.float32)
    boxes = np.array([[0.3, 0.3, 0.7, 0.7], [0.06, 0.06, 0.08, 0.08]], np.float32)
    _, target = box_utils.match(boxes, np.array([1, 2]), priors, dynamic_k=5)
    assert target.tolist() == [1, 1, 1, 1, 2]
    _, target = box_utils.match(boxes[:0], np.zeros(0, int), priors, dynamic_k=5)
    assert not target.any()
