# SPDX-License-Identifier: Apache-2.0
"""The picture of a data set: an even grid of whole images with names, axes of whole steps."""

import numpy as np
import pytest

from src.data.coco_utils import load_data
from src.drawing import data_overview
from tests.datasets import coco_content, write_coco, write_image

VALUE = 90  # of all pixels of the test images
WHITE = 255


def data_of(tmp_path, count, rows=(), **changes):
    names = [f"{number:02}.jpg" for number in range(count)]
    return load_data(write_coco(tmp_path, coco_content(names, rows, **changes)), "train")


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 2, 1), (2, 2, 1), (3, 3, 1), (5, 4, 2), (40, 4, 3)]
)
def test_images_stand_in_an_even_grid_without_empty_rows(tmp_path, count, columns, rows):
    sheet = data_overview.draw_sheet(data_of(tmp_path, count), 1200)
    side = 1200 // columns
    assert sheet.shape == (rows * side, 1200, 3)
    for number in range(min(count, 12)):
        row, column = divmod(number, columns)
        tile = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert abs(int(tile[side // 2, side // 2, 0]) - VALUE) < 3
        shown = np.abs(tile[..., 0].astype(int) - VALUE) < 3
        ys, xs = np.nonzero(shown)
        # 60 x 48 pixels fill the width and stand in the middle of the height.
        assert abs(int(xs.min()) + int(xs.max()) - side) <= 3
        assert abs(int(ys.min()) + int(ys.max()) - side) <= 3
        assert (xs.max() - xs.min()) / (ys.max() - ys.min()) == pytest.approx(60 / 48, rel=0.05)


def test_boxes_have_the_names_of_their_classes(tmp_path, monkeypatch):
    told = []
    draw = data_overview.draw_detections

    def listen(image, boxes, labels, scores, names):
        told.append((np.asarray(boxes).tolist(), [names[label - 1] for label in labels]))
        return draw(image, boxes, labels, scores, names)

    monkeypatch.setattr(data_overview, "draw_detections", listen)
    names = [{"id": 1, "name": "кошка"}, {"id": 2, "name": "dog"}]
    rows = [(1, 2, [6, 12, 30, 24]), (1, 1, [0, 0, 60, 48]), (1, 2, [1, 1, 9, 9], 1)]
    data_overview.draw_sheet(data_of(tmp_path, 1, rows, categories=names), 1216)
    scale = (608 - 8) / 60  # the tile less its margin, over the width of the image
    ((boxes, words),) = told
    assert words == ["dog", "кошка"]  # no crowd: it is not trained on
    np.testing.assert_allclose(boxes, np.array([[6, 12, 36, 36], [0, 0, 60, 48]]) * scale)


def test_an_unreadable_image_leaves_its_place_in_the_grid(tmp_path):
    data = data_of(tmp_path, 2)
    write_image(tmp_path / "train2017" / "00.jpg").write_bytes(b"no image")
    sheet = data_overview.draw_sheet(data, 1200)
    assert abs(int(sheet[300, 900, 0]) - VALUE) < 3
    assert (sheet[:, :600] < 128).any()  # a word


@pytest.mark.parametrize("size", [320, 512])
def test_lines_of_the_axes_are_evenly_apart(size):
    panel = data_overview.draw_scatter(np.zeros((0, 2)), np.zeros((0, 2)), size)
    middle = data_overview.PANEL // 2 + 7
    inner = panel[middle, data_overview.MARGIN - 1 : data_overview.PANEL - data_overview.MARGIN + 2]
    steps = np.diff(np.nonzero(inner[:, 0] < WHITE)[0])
    assert len(steps) == 9  # 1 to 512
    assert steps.max() - steps.min() <= 1


def test_long_and_odd_names_fit_beside_their_bars():
    counts = {"x" * 200: 5, "a\nb": 3, "": 1}
    panel = data_overview.draw_histogram(counts)
    assert (panel[:, : data_overview.NAME_PX] < 128).any()
    left = (panel[60:90, :6] < WHITE).any()
    assert not left
