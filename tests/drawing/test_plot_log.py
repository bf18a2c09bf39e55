# SPDX-License-Identifier: Apache-2.0
import json

import cv2
import numpy as np
import pytest

from src.drawing import plot_log
from src.drawing.plot_log import curves, draw_run, limits, place

ROWS = [
    {"step": 10, "loss": 9.0, "loc_loss": 3.0, "conf_loss": 6.0, "learning_rate": 1e-3},
    {"step": 10, "AP": 0.1, "AP50": 0.2},
    {"step": 20, "loss": None, "loc_loss": 2.0, "conf_loss": 3.0, "learning_rate": 1e-3},
    {"step": 20, "AP": 0.2, "AP50": 0.4},
]


def test_curves_leave_out_what_is_missing():
    found = curves(ROWS, ("loss", "AP", "AP_ema"))
    assert found == {"loss": [(10, 9.0)], "AP": [(10, 0.1), (20, 0.2)]}


def test_corners_of_a_panel():
    left, right = plot_log.LEFT, plot_log.WIDTH - plot_log.RIGHT
    top, bottom = plot_log.TOP, plot_log.HEIGHT - plot_log.BOTTOM
    points = [(0, 0.0), (100, 2.0), (50, 9.0)]
    assert place(points, 100, 0.0, 2.0) == [
        (left, bottom),
        (right, top),
        ((left + right) // 2, top),
    ]


def test_one_huge_first_loss_does_not_flatten_the_rest():
    assert limits([500.0] + [4.0] * 20) == (0.0, 12.0)
    assert limits([]) == (0.0, 1.0)
    assert limits([-1.0, -1.0]) == (-1.0, 0.0)


def test_a_higher_curve_is_drawn_higher():
    picture = draw_run([{"step": s, "loss": v} for s, v in ((0, 0.0), (100, 10.0))])
    assert picture.shape == (plot_log.HEIGHT, plot_log.WIDTH, 3)  # nothing but a loss to show
    ys, xs = np.nonzero((picture[plot_log.TOP : plot_log.HEIGHT] == (190, 120, 40)).all(2))
    assert ys[xs < xs.min() + 30].mean() > ys[xs > xs.max() - 30].mean() + 150


def test_command(tmp_path, capsys):
    assert plot_log.main([str(tmp_path)]) == 2
    assert "log.jsonl" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    assert plot_log.main([str(tmp_path)]) == 2
    assert "no curves to draw" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert plot_log.main([str(tmp_path)]) == 0
    assert cv2.imread(str(tmp_path / "log.png")).shape[1] == plot_log.WIDTH
    with pytest.raises(ValueError, match="no steps"):
        draw_run([])
    with pytest.raises(ValueError, match="no curves"):
        draw_run([{"step": 1}])


def test_a_panel_for_each_kind_of_curve():
    picture = draw_run([{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 2, "AP": 0.5}])
    assert picture.shape[0] == 3 * plot_log.HEIGHT
