# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import cv2
import pytest

from src.drawing import plot_log
from src.drawing.plot_log import curves, limits, plot_run, write_png

ROWS = [
    {"step": 10, "loss": 9.0, "loc_loss": 3.0, "conf_loss": 6.0, "learning_rate": 1e-3},
    {"step": 10, "AP": 0.1, "AP50": 0.2},
    {"step": 20, "loss": None, "loc_loss": 2.0, "conf_loss": 3.0, "learning_rate": 1e-3},
    {"step": 20, "AP": 0.2, "AP50": 0.4},
]


def test_curves_leave_out_missing_values():
    found = curves(ROWS, ("loss", "AP", "AP_ema"))
    assert found == {"loss": [(10, 9.0)], "AP": [(10, 0.1), (20, 0.2)]}


def test_one_huge_first_loss_does_not_flatten_the_rest():
    assert limits([500.0] + [4.0] * 20) == pytest.approx((0.0, 12.6))
    assert limits([]) == (0.0, 1.0)
    assert limits([-1.0, -1.0]) == (-1.0, 0.0)


def test_each_panel_names_its_axes_and_curves():
    loss, scores, rate = plot_run(ROWS).axes
    assert [axes.get_ylabel() for axes in (loss, scores, rate)] == ["loss", "AP", "learning rate"]
    assert rate.get_xlabel() == "step"
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["AP", "AP50"]
    assert scores.lines[1].get_xydata().tolist() == [[10, 0.2], [20, 0.4]]
    assert loss.lines[0].get_marker() == "o"  # a single point makes no line


def test_panels_without_values_are_left_out():
    rows = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 2, "AP": 0.5}]
    assert len(plot_run(rows).axes) == 3
    assert len(plot_run(rows[1:]).axes) == 1


@pytest.mark.parametrize("last", [1, 7, 937])
def test_ticks_are_whole_steps(last):
    (axes,) = plot_run([{"step": step, "loss": 1.0} for step in (1, last)]).axes
    ticks = axes.get_xticks()
    assert len(ticks) > 1
    assert all(tick == round(tick) for tick in ticks)
    assert axes.get_xlim()[0] == 0


def test_the_png_has_every_colour_of_the_curves(tmp_path):
    write_png(tmp_path / "a.png", plot_run(ROWS[:1]))
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture.shape == (640, 900, 3)  # two panels
    for blue, green, red in ((180, 119, 31), (14, 127, 255), (44, 160, 44)):
        assert (picture[:320] == (blue, green, red)).all(2).any()


def test_command(tmp_path, capsys):
    assert plot_log.main([str(tmp_path)]) == 2
    assert "log.jsonl" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    assert plot_log.main([str(tmp_path)]) == 2
    assert "no curves to draw" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert plot_log.main([str(tmp_path)]) == 0
    assert cv2.imread(str(tmp_path / "log.png")).shape[1] == 900
    assert plot_log.main([str(tmp_path), "--output", str(tmp_path / "none" / "a.png")]) == 2
    assert "none/a.png cannot be written" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no steps"):
        plot_run([])


def test_matplotlib_is_imported_only_for_a_picture():
    code = "import sys, src.drawing.plot_log; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
