# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from src.drawing.detections import colour_of, draw_detections

NAMES = ("cat", "dog")
BOXES = np.array([[20.0, 30.0, 70.0, 80.0]])


def _grey(height=120, width=160):
    return np.full((height, width, 3), 90, np.uint8)


def test_nothing_found_is_a_copy():
    image = _grey()
    picture = draw_detections(image, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), NAMES)
    assert picture is not image
    assert not np.shares_memory(picture, image)
    np.testing.assert_array_equal(picture, image)


def test_frame_lies_on_the_box_and_input_stays():
    image = _grey()
    picture = draw_detections(image, BOXES, [1], [0.9], NAMES)
    assert (image == 90).all()
    frame = np.array(colour_of(1))
    for y, x in ((50, 20), (50, 70), (80, 45)):  # left, right and lower edge
        np.testing.assert_array_equal(picture[y, x], frame)
    for y, x in ((50, 45), (50, 12), (100, 45)):  # within and beside
        np.testing.assert_array_equal(picture[y, x], (90, 90, 90))


def test_text_stands_above_the_box_or_inside_at_the_edge():
    above = draw_detections(_grey(), BOXES, [1], [0.9], NAMES)
    assert (above[:29] != 90).any()
    at_edge = draw_detections(_grey(), [[20, 0, 70, 50]], [1], [0.9], NAMES)
    assert (at_edge[3:20, 22:68] != 90).any()


def test_text_contrasts_with_its_ground():
    for label in range(1, 81):
        names = [f"name{n}" for n in range(80)]
        picture = draw_detections(_grey(), BOXES, [label], [0.5], names).astype(int)
        luma = picture @ (0.114, 0.587, 0.299)
        ground = np.dot(colour_of(label), (0.114, 0.587, 0.299))
        assert np.abs(luma - ground)[:29].max() > 100


def test_ground_truth_has_a_name_and_no_score():
    named = draw_detections(_grey(), BOXES, [1], None, ["cat"])
    scored = draw_detections(_grey(), BOXES, [1], [1.0], ["cat"])
    beside = draw_detections(_grey(), BOXES, [1], [1.0], ["cat 1.00"])
    assert (named != 90).any(axis=2).sum() < (scored != 90).any(axis=2).sum()
    assert (scored != beside).any()
    np.testing.assert_array_equal(draw_detections(_grey(), BOXES, [1], None, ["cat 1.00"]), scored)


def test_names_beyond_ascii_are_drawn_without_accents():
    plain = draw_detections(_grey(), BOXES, [1], None, ["naive ?"])
    accented = draw_detections(_grey(), BOXES, [1], None, ["na\u00efve \u732b"])
    np.testing.assert_array_equal(accented, plain)


def test_best_score_is_on_top():
    boxes = np.repeat(BOXES, 2, axis=0)
    for scores, expected in (([0.9, 0.1], 1), ([0.1, 0.9], 2)):
        picture = draw_detections(_grey(), boxes, [1, 2], scores, NAMES)
        np.testing.assert_array_equal(picture[50, 20], colour_of(expected))


def test_neighbouring_classes_differ():
    colours = np.array([colour_of(label) for label in range(1, 81)], float)
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.min() > 60
    assert len(np.unique(colours, axis=0)) > 70


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 300), (64, 48), (2000, 3000)])
def test_any_size(height, width):
    image = _grey(height, width)
    boxes = [[-1e12, -50, 1e12, 1e12], [5, 5, 1, 1], [width - 1, height - 1, width, height]]
    picture = draw_detections(image, boxes, [1, 2, 1], [0.5, 1.0, 0.0], ["x" * 60, "y"])
    assert picture.shape == image.shape
    assert (picture != image).any()


def test_lines_grow_with_the_image():
    def thickness(side):
        box = [[0.2 * side, 0.2 * side, 0.8 * side, 0.8 * side]]
        picture = draw_detections(_grey(side, side), box, [1], [0.9], NAMES)
        return int((picture[side // 2, : side // 2] != 90).any(axis=1).sum())

    assert thickness(100) == 1
    assert 4 <= thickness(1500) <= 9


def test_read_only_and_strided_images():
    image = _grey()[:, ::-1]
    image.flags.writeable = False
    assert (draw_detections(image, BOXES, [1], [0.9], NAMES) != 90).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 4)), [], [], []), "image must be"),
        ((np.zeros((4, 4, 3)), [], [], []), "image must be"),
        ((_grey(), BOXES, [1, 1], [0.5]), "1 boxes, 2 labels"),
        ((_grey(), BOXES, [3], [0.5]), "labels 3 to 3"),
        ((_grey(), BOXES, [0], [0.5]), "labels 0 to 0"),
        ((_grey(), [[0, 0, np.nan, 1]], [1], [0.5]), "finite"),
        ((_grey(), BOXES, [1], [np.inf]), "finite"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(*arguments, NAMES)
