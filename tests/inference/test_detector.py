# SPDX-License-Identifier: Apache-2.0
"""The detector around networks of a few lines: preparation, batches, views, configuration."""

import numpy as np
import pytest

from src.config import get_config
from src.formats.checkpoint import Labels
from src.inference.detector import ArrayDetector, PostProcessor, build_plan, build_postprocessor
from src.inference.postprocess import Candidates
from src.inference.views import ViewPlan
from src.priors import build_priors, make_priors

LABELS = Labels(("a", "b"), (1, 2))
MEAN = (104, 117, 123)


def test_prepares_the_image_and_answers_in_its_pixels():
    """A grey 200 x 100 image: every pixel less the mean; boxes are the priors times (200, 100)."""
    priors = np.array([[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.1, 0.2]], np.float32)
    expected = np.tile(np.array([96, 83, 77], np.float32).reshape(1, 3, 1, 1), (1, 1, 32, 32))

    def network(inputs):
        np.testing.assert_array_equal(inputs, expected)
        logits = np.array([[[0, 0, 9], [0, 8, 0]]], np.float32)
        return np.zeros((1, 2, 4), np.float32), logits

    detector = ArrayDetector(network, PostProcessor(priors), ViewPlan(32), MEAN, LABELS)
    found = detector(np.full((100, 200, 3), 200, np.uint8))
    np.testing.assert_allclose(found.boxes_px, [[80, 30, 120, 70], [10, 10, 30, 30]], rtol=1e-5)
    assert found.labels.tolist() == [2, 1]
    assert detector.class_names == ("a", "b")


def bright_spot(inputs):
    """A network with a prior for each of 4 x 4 cells; sure of those that are bright: class a."""
    size = inputs.shape[-1]
    cells = inputs.reshape(len(inputs), 3, 4, size // 4, 4, size // 4).mean(axis=(1, 3, 5))
    bright = cells.reshape(len(inputs), 16) > 50
    logits = np.zeros((len(inputs), 16, 3), np.float32)
    logits[..., 0] = 5
    logits[..., 1] = np.where(bright, 12, -5)
    return np.zeros((len(inputs), 16, 4), np.float32), logits


def grid():
    centres = (np.arange(4) + 0.5) / 4
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x, y, np.full((4, 4), 0.25), np.full((4, 4), 0.25)], -1).reshape(16, 4)


def spotted(width, height, *spots):
    """A black image with white rectangles (xyxy)."""
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in spots:
        image[y1:y2, x1:x2] = 255
    return image


def detector(**plan):
    priors = {size: grid().astype(np.float32) for size in plan.get("sizes", ())}
    post = PostProcessor(grid().astype(np.float32))
    return ArrayDetector(bright_spot, post, ViewPlan(64, **plan), MEAN, LABELS, priors)


@pytest.mark.parametrize("plan", [{}, {"flip": True}, {"sizes": (48, 64, 96)}])
def test_every_plan_finds_the_spot_where_it_is(plan):
    found = detector(**plan)(spotted(400, 200, (300, 50, 400, 100)))
    np.testing.assert_allclose(found.boxes_px, [[300, 50, 400, 100]], atol=0.5)
    assert found.labels.tolist() == [1]
    assert found.scores[0] > 0.9


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("plan", [{}, {"flip": True, "sizes": (48, 64)}, {"tile_px": 150}])
def test_any_batch_size_gives_the_same(plan, batch_size):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(9):
        x, y = rng.integers(0, 4) * 100, rng.integers(0, 4) * 50
        images.append(spotted(400, 200, (x, y, x + 100, y + 50)))
    images[4] = spotted(60, 40)  # nothing in it
    single = [detector(**plan)(image) for image in images]
    many = detector(**plan).detect_batch(images, batch_size)
    assert [len(found) > 0 for found in single] == [index != 4 for index in range(9)]
    for one, other in zip(single, many):
        for name in ("boxes_px", "scores", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_outputs_of_many_tiles_are_not_kept():
    """Those of 8,000 x 6,000 pixels at 512 with 80 classes would be 4 GB."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (600, 800, 3), np.uint8)
    image[100:140, 200:260] = 250
    found = {}
    for most in (1000, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("src.inference.detector.MOST_RAW", most)
            engine = detector(tile_px=100)
            tasks = engine.plan.views(800, 600)
            raw = engine.forward(tasks, lambda row: np.zeros((3, 64, 64), np.float32), 4)
            assert isinstance(raw, Candidates) == (most == 7)
            found[most] = engine.detect_batch([image], 4)[0]
    assert len(found[7]) > 0
    for name in ("boxes_px", "scores", "labels"):
        np.testing.assert_array_equal(getattr(found[7], name), getattr(found[1000], name))


def test_tiles_find_what_the_whole_image_is_too_coarse_for():
    """A spot of 20 x 20 in 800 x 400: a fortieth of the side, but a quarter of a tile's."""
    image = spotted(800, 400, (40, 40, 60, 60))
    assert len(detector()(image)) == 0
    found = detector(tile_px=80, tile_overlap=0.5)(image)
    assert len(found) >= 1
    np.testing.assert_allclose(found.boxes_px[0], [40, 40, 60, 60], atol=1)


@pytest.mark.parametrize("shape", [(1, 1, 3), (100, 20000, 3), (3, 1, 3)])
@pytest.mark.parametrize("plan", [{}, {"flip": True, "sizes": (48, 64)}, {"tile_px": 512}])
def test_odd_sizes_are_a_defined_result(shape, plan):
    found = detector(**plan)(np.full(shape, 255, np.uint8))
    assert found.boxes_px.shape == (len(found), 4)
    assert np.isfinite(found.boxes_px).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8"):
        detector()(image)


def test_configured_post_processing():
    official = build_postprocessor(get_config("m2det_tiny"))
    assert (official.method, official.iou_threshold, official.score_threshold) == (
        "linear",
        0.3,
        0.1,
    )
    assert (official.keep_per_class, official.topk, official.class_agnostic) == (50, 0, False)
    paper = build_postprocessor(get_config("m2det_tiny", ["test=paper"]))
    assert (paper.method, paper.score_threshold) == ("linear", 0.05)
    gaussian = build_postprocessor(
        get_config("m2det_tiny", ["test.soft_nms_method=gaussian", "test.class_agnostic=true"])
    )
    assert (gaussian.method, gaussian.sigma, gaussian.class_agnostic) == ("gaussian", 0.5, True)
    hard = build_postprocessor(get_config("m2det_tiny", ["test.soft_nms=false"]))
    assert (hard.method, hard.iou_threshold, hard.voting_iou) == ("hard", 0.45, 0)
    assert build_postprocessor(get_config("m2det_tiny", ["test.voting_iou=0.7"])).voting_iou == 0.7


def test_priors_of_other_sizes_keep_their_pixels():
    config = get_config("m2det_tiny", ["test.multi_scale=[128,192]"])
    own, larger = make_priors(config), build_priors(config, 192)
    assert len(own) == 6 * (16**2 + 8**2 + 4**2 + 2**2)
    assert len(larger) == 6 * (24**2 + 12**2 + 6**2 + 4**2)
    np.testing.assert_allclose(larger[:6, 2:] * 192, own[:6, 2:] * 128, rtol=1e-6)
    np.testing.assert_allclose(larger[0, :2], 0.5 / 24)
    np.testing.assert_array_equal(build_priors(config, 128), own)
    trained = get_config("m2det_tiny", ["data.multi_scale=[128,192]"])
    np.testing.assert_allclose(build_priors(trained, 192)[:6, 2:], own[:6, 2:], rtol=1e-6)
    with pytest.raises(ValueError, match=r"test\.multi_scale: 100 does not work"):
        build_priors(config, 100)
    assert build_plan(config).sizes == (128, 192)


def test_labels_must_fit():
    config = get_config("m2det_tiny", ["model.num_classes=5"])
    with pytest.raises(ValueError, match=r"x\.ckpt: 2 class names for a network of 4"):
        ArrayDetector.from_network(bright_spot, config, LABELS, "x.ckpt")
