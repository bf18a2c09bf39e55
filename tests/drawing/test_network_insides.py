# SPDX-License-Identifier: Apache-2.0
"""Pictures of the inside, checked at pixels where something must be; and visualize.py."""

import cv2
import numpy as np
import pytest

import visualize
from src.config import get_config
from src.drawing.detections import colour_of
from src.drawing.network_insides import SIDE_PX, draw_activations, draw_matches, draw_priors, grid
from src.formats.checkpoint import save_checkpoint, save_config
from tests.datasets import coco_content, write_coco, write_image

GREY = np.full((30, 50, 3), 100, np.uint8)
CAPTION = 24  # pixels above each panel


def test_grid_puts_panels_row_by_row():
    panels = [np.full((10, 20, 3), value, np.uint8) for value in (1, 2, 3)]
    sheet = grid(panels, 2)
    assert sheet.shape == (32, 52, 3)
    assert (sheet[:10, :20] == 1).all()
    assert (sheet[:10, 26:46] == 2).all()
    assert (sheet[16:26, :20] == 3).all()


def test_priors_of_the_middle_cell_and_the_centres_of_all():
    """Maps of 2 x 2 and 1 x 1 cells with one prior of half the side each."""
    centres = [(x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    priors = np.array([(*c, 0.5, 0.5) for c in (*centres, (0.5, 0.5))], np.float32)
    sheet = draw_priors(GREY, priors, [2, 1], [1, 1])
    first = sheet[CAPTION : CAPTION + SIDE_PX, :SIDE_PX]
    second = sheet[CAPTION : CAPTION + SIDE_PX, SIDE_PX + 6 : 2 * SIDE_PX + 6]
    quarter, three = SIDE_PX // 4, 3 * SIDE_PX // 4
    for y in (quarter, three):
        for x in (quarter, three):
            assert first[y, x].tolist() == [150] * 3
    # Cell 1, 1 is the middle one of the first map: from a half to the end.
    colour = list(colour_of(1))
    assert first[three, SIDE_PX // 2].tolist() == colour
    assert second[SIDE_PX // 2, quarter].tolist() == colour
    assert second[10, 10].tolist() == [50] * 3  # the image, half as bright


def test_matches_show_the_priors_of_each_object():
    """Two priors: one on the object, one far off."""
    priors = np.array([[0.25, 0.25, 0.4, 0.4], [0.75, 0.75, 0.4, 0.4]], np.float32)
    boxes = np.array([[0.05, 0.05, 0.5, 0.45]])
    sheet = draw_matches(GREY, boxes, np.array([2]), priors, 0.5, ("cat", "dog"))
    picture = sheet[CAPTION : CAPTION + SIDE_PX, :SIDE_PX]
    edge = SIDE_PX - 1
    assert picture[round(0.25 * edge), round(0.5 * edge)].tolist() == list(colour_of(2))
    assert picture[round(0.25 * edge), round(0.45 * edge)].tolist() == [150] * 3
    assert picture[round(0.75 * edge), round(0.55 * edge)].tolist() == [50] * 3  # not drawn


def test_activations_show_levels_in_rows_and_scales_in_columns():
    """Level 2 of scale 1 is active in its left half alone; everything else is flat."""
    first, second = np.zeros((4, 8, 8)), np.zeros((4, 4, 4))
    first[2:, :, :4] = 5
    sheet = draw_activations(GREY, [first, second], levels=2).astype(int)
    side = SIDE_PX // 2
    assert sheet.shape == (2 * (side + CAPTION + 6), 2 * (side + 6), 3)
    rows = [row * (side + CAPTION + 6) + CAPTION + side // 2 for row in (0, 1)]
    columns = (side // 8, 7 * side // 8)
    flat = sheet[rows[0], columns[0]]
    np.testing.assert_array_equal(sheet[rows[0], columns[1]], flat)
    left, right = (sheet[rows[1], column] for column in columns)
    assert np.abs(left - right).max() > 40  # the colours of least and most
    np.testing.assert_array_equal(right, flat)
    with pytest.raises(ValueError, match="4 channels are not 3 equal levels"):
        draw_activations(GREY, [first], levels=3)


def run(tmp_path, *flags):
    output = tmp_path / "out.png"
    visualize.main([*map(str, flags), "--output", str(output)])
    return cv2.imread(str(output))


def test_priors_and_matches_from_the_command_line(tmp_path):
    image = write_image(tmp_path / "a.png")
    made = run(tmp_path, "priors", "--config", "m2det_tiny", "--image", image)
    assert made.shape == (2 * (SIDE_PX + CAPTION + 6), 3 * (SIDE_PX + 6), 3)  # four maps
    rows = [(1, 3, [0, 0, 30, 30]), (1, 7, [20, 20, 20, 20]), (1, 7, [0, 0, 9, 9], 1)]
    data = write_coco(tmp_path / "data", coco_content(["a.jpg", "b.jpg"], rows))
    made = run(tmp_path, "matches", "--config", "m2det_tiny", "--dataset_path", data)
    assert made.shape[1] == 2 * (SIDE_PX + 6)  # the crowd is not trained on


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
    side = SIDE_PX // 2
    assert made.shape == (2 * (side + CAPTION + 6), 3 * (side + 6), 3)
