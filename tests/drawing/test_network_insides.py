# SPDX-License-Identifier: Apache-2.0
"""Pictures of the inside, checked at pixels where something must be; and visualize.py."""

import cv2
import numpy as np
import pytest

import visualize
from src.config import AnchorConfig, get_config
from src.drawing.detections import colour_of
from src.drawing.network_insides import (
    CAPTION_PX,
    GAP_PX,
    SIDE_PX,
    draw_activations,
    draw_matches,
    draw_priors,
    grid,
)
from src.formats.checkpoint import save_checkpoint, save_config
from tests.datasets import coco_content, write_coco, write_image

WIDE, TALL = SIDE_PX, SIDE_PX // 2
GREY = np.full((20, 40, 3), 100, np.uint8)  # panels of WIDE x TALL pixels
STEP_X, STEP_Y = WIDE + GAP_PX, TALL + CAPTION_PX + GAP_PX


def part(sheet, row, column):
    """The picture of one panel."""
    top = row * STEP_Y + CAPTION_PX
    return sheet[top : top + TALL, column * STEP_X : column * STEP_X + WIDE]


def test_grid_puts_panels_row_by_row():
    panels = [np.full((10, 20, 3), value, np.uint8) for value in (1, 2, 3)]
    sheet = grid(panels, 2)
    assert sheet.shape == (2 * (10 + GAP_PX), 2 * (20 + GAP_PX), 3)
    assert (sheet[:10, :20] == 1).all()
    assert (sheet[:10, 20 + GAP_PX : 40 + GAP_PX] == 2).all()
    assert (sheet[10 + GAP_PX : 20 + GAP_PX, :20] == 3).all()


def test_priors_of_the_middle_cell_and_the_centres_of_all():
    """Maps of 2 x 2 and 1 x 1 cells with one prior of half the side each."""
    centres = [(x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    priors = np.array([(*c, 0.5, 0.5) for c in (*centres, (0.5, 0.5))], np.float32)
    sheet = draw_priors(GREY, priors, [2, 1], [1, 1])
    first, second = part(sheet, 0, 0), part(sheet, 0, 1)
    for y in (TALL // 4, 3 * TALL // 4):
        for x in (WIDE // 4, 3 * WIDE // 4):
            assert first[y, x].tolist() == [170] * 3
    # Cell 1, 1 is the middle one of the first map: from a half to the end.
    colour = list(colour_of(1))
    assert first[3 * TALL // 4, WIDE // 2].tolist() == colour
    assert second[TALL // 2, WIDE // 4].tolist() == colour
    assert second[10, 10].tolist() == [50] * 3  # the image, half as bright


def test_matches_show_the_priors_of_each_object_by_map():
    """Maps of one prior each: the first is on the first object, the second on both's place."""
    priors = np.array([[0.25, 0.25, 0.4, 0.4], [0.7, 0.75, 0.4, 0.3]], np.float32)
    boxes = np.array([[0.05, 0.05, 0.5, 0.45], [0.5, 0.55, 0.9, 0.95]])
    names = ("cat", "dog")
    sheet = draw_matches(
        GREY, boxes, np.array([2, 2]), priors, AnchorConfig(), names, [1, 1], [1, 1]
    )
    assert sheet.shape[1] == 3 * STEP_X  # the objects, and two maps
    whole, first, second = (part(sheet, 0, column) for column in range(3))
    y = round(0.25 * (TALL - 1))
    edge, prior_edge = round(0.5 * (WIDE - 1)), round(0.45 * (WIDE - 1))
    for picture in (whole, first, second):  # objects are everywhere, in a colour of their own
        assert picture[y, edge].tolist() == list(colour_of(1))
        assert picture[round(0.75 * (TALL - 1)), edge].tolist() == list(colour_of(2))
    assert first[y, prior_edge].tolist() == list(colour_of(1))
    assert second[y, prior_edge].tolist() == [50] * 3
    low = round(0.6 * (TALL - 1))
    inside = round(0.7 * (WIDE - 1))
    assert second[low, inside].tolist() == list(colour_of(2))  # the upper edge of its prior
    assert first[low, inside].tolist() == [50] * 3
    assert whole[y, prior_edge].tolist() == [100] * 3


def test_activations_show_levels_in_columns_and_scales_in_rows():
    """Level 2 of scale 1 is active in its left half alone; everything else is flat."""
    first, second = np.zeros((4, 8, 8)), np.zeros((4, 4, 4))
    first[2:, :, :4] = 5
    sheet = draw_activations(GREY, [first, second], levels=2).astype(int)
    assert sheet.shape == (2 * STEP_Y, 3 * STEP_X, 3)
    assert (part(sheet, 0, 0) == 100).all()  # the image itself
    flat = part(sheet, 0, 1)[TALL // 2, WIDE // 8]
    np.testing.assert_array_equal(part(sheet, 0, 1)[TALL // 2, 7 * WIDE // 8], flat)
    active = part(sheet, 0, 2)
    left, right = active[TALL // 2, WIDE // 8], active[TALL // 2, 7 * WIDE // 8]
    assert np.abs(left - right).max() > 40  # the colours of least and most
    np.testing.assert_array_equal(right, flat)
    with pytest.raises(ValueError, match="4 channels are not 3 equal levels"):
        draw_activations(GREY, [first], levels=3)


def test_the_padding_at_the_edge_does_not_hide_what_lies_inside():
    """An edge a hundred times as active as the object within."""
    values = np.full((1, 8, 8), 100.0)
    values[0, 1:-1, 1:-1] = 0
    values[0, 3:5, 3:5] = 1
    picture = part(draw_activations(GREY, [values], levels=1).astype(int), 0, 1)
    object_, ground = picture[TALL // 2, WIDE // 2], picture[TALL // 2, WIDE * 5 // 16]
    assert np.abs(object_ - ground).max() > 40


def run(tmp_path, *flags):
    output = tmp_path / "out.png"
    visualize.main([*map(str, flags), "--output", str(output)])
    return cv2.imread(str(output))


def test_priors_and_matches_from_the_command_line(tmp_path):
    image = write_image(tmp_path / "a.png")
    made = run(tmp_path, "priors", "--config", "m2det_tiny", "--image", image)
    assert made.shape[1] == 2 * STEP_X  # four maps
    rows = [(1, 3, [0, 0, 30, 30]), (1, 7, [20, 20, 20, 20]), (1, 7, [0, 0, 9, 9], 1)]
    data = write_coco(tmp_path / "data", coco_content(["a.jpg", "b.jpg"], rows))
    made = run(tmp_path, "matches", "--config", "m2det_tiny", "--dataset_path", data)
    assert made.shape[1] == 3 * STEP_X  # four maps and the objects


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["priors"], "needs --image"),
        (["activations", "--image", "a.png"], "needs --checkpoint_path"),
        (["matches", "--config", "m2det_tiny", "--dataset_path", "D", "--index", "9"], "0 to 1"),
        (
            ["matches", "--config", "m2det_tiny", "--dataset_path", "D", "--index", "1"],
            "no objects",
        ),
    ],
)
def test_bad_input_is_named(tmp_path, flags, message):
    data = coco_content(["a.jpg", "b.jpg"], [(1, 3, [0, 0, 30, 30])])
    root = write_coco(tmp_path / "data", data)
    flags = [str(root) if flag == "D" else flag for flag in flags]
    with pytest.raises(ValueError, match=message):
        run(tmp_path, *flags)


@pytest.mark.slow
def test_activations_of_a_network(tmp_path, device):
    from src.model import build_model

    config = get_config("m2det_tiny", ["model.input_size=64", "model.num_scales=3"])
    save_checkpoint(build_model(config).parameters_dict(), tmp_path / "run" / "m.ckpt")
    save_config(tmp_path / "run", config)
    image = write_image(tmp_path / "a.png")
    checkpoint = tmp_path / "run" / "m.ckpt"
    made = run(tmp_path, "activations", "--checkpoint_path", checkpoint, "--image", image)
    assert made.shape[1] == 3 * STEP_X  # two levels and the image
