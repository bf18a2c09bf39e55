# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from src.drawing.detections import apart, colour_of, draw_detections, ink_on

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


def test_text_stands_above_the_box_or_below_at_the_edge():
    above = draw_detections(_grey(), BOXES, [1], [0.9], NAMES)
    assert (above[15:29, 22:68] != 90).any()
    at_edge = draw_detections(_grey(), [[20, 0, 70, 50]], [1], [0.9], NAMES)
    assert (at_edge[52:64, 22:60] != 90).any()
    assert (at_edge[3:48, 22:68] == 90).all()


def luminance(bgr):
    """Of WCAG 2.1, channel by channel."""
    parts = [
        c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in bgr
    ]
    return 0.0722 * parts[0] + 0.7152 * parts[1] + 0.2126 * parts[2]


def test_text_can_be_read_on_the_colour_of_every_class():
    for label in range(1, 81):
        light, dark = luminance(colour_of(label)), luminance(ink_on(colour_of(label)))
        assert (max(light, dark) + 0.05) / (min(light, dark) + 0.05) >= 4.5
    picture = draw_detections(_grey(), BOXES, [7], [0.5], ["name"] * 7)
    assert (picture[:29] == ink_on(colour_of(7))).all(axis=2).any()


def test_ground_truth_has_a_name_and_no_score():
    named = draw_detections(_grey(), BOXES, [1], None, ["cat"])
    scored = draw_detections(_grey(), BOXES, [1], [1.0], ["cat"])
    beside = draw_detections(_grey(), BOXES, [1], [1.0], ["cat 1.00"])
    assert (named != 90).any(axis=2).sum() < (scored != 90).any(axis=2).sum()
    assert (scored != beside).any()
    np.testing.assert_array_equal(draw_detections(_grey(), BOXES, [1], None, ["cat 1.00"]), scored)


def test_names_of_other_scripts_are_drawn_as_they_are():
    pictures = [
        draw_detections(_grey(), BOXES, [1], None, [name])
        for name in (
            "naive",
            "na\u00efve",
            "\u03b3\u03ac\u03c4\u03b1",
            "\u043a\u043e\u0442",
            "????",
        )
    ]
    for number, one in enumerate(pictures):
        for other in pictures[:number]:
            assert (one != other).any()


def test_apart_keeps_the_best_of_what_overlaps_whatever_its_class():
    boxes = np.array([[0, 0, 99, 99], [0, 0, 99, 89], [200, 0, 299, 99], [0, 50, 99, 149]], float)
    # IoU with the second: 0.9, 0, 1/3.5 (pixels count both edges)
    assert apart(boxes, np.array([0.5, 0.9, 0.4, 0.3]), 0.6).tolist() == [1, 2, 3]
    assert apart(boxes, np.array([0.5, 0.9, 0.4, 0.3]), 0.25).tolist() == [1, 2]
    assert apart(boxes[:0], np.zeros(0), 0.6).tolist() == []


def test_a_name_without_room_beside_its_box_is_led_to_it():
    """Boxes of one place: the fifth name stands off, a line of its colour goes to the box."""
    boxes = np.repeat([[70.0, 60.0, 80.0, 70.0]], 9, axis=0)
    names = [f"name {number}" for number in range(9)]
    many = draw_detections(_grey(), boxes, np.arange(1, 10), np.linspace(0.9, 0.5, 9), names)
    shown = [(many == colour_of(label)).all(axis=2).sum() for label in range(1, 10)]
    assert min(shown[:5]) > 100  # their grounds


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
