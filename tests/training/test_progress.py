# SPDX-License-Identifier: Apache-2.0
import logging
import sys

import pytest

from src.training.callback import StepReport
from src.training.run_log import Bar, Interval, LogLines, Progress, as_line, duration, summarise


def report(step, loss=1.0, bad_steps=0, norm=5.0):
    return StepReport(step, 10, 0, False, loss, 2 * loss, norm, 0.01, 4, 0.25, 7.0, bad_steps)


def test_lines_show_means_and_the_last_step(caplog):
    log = logging.getLogger("test.progress")
    with caplog.at_level(logging.INFO):
        progress = Progress([LogLines(log)], every=4)
        for step in range(1, 11):
            progress.on_step(report(step, loss=float(step)))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" loss")[0] for line in lines] == [
        f"epoch 0 step {s}/10" for s in (1, 4, 8, 10)
    ]
    assert "loc 3.0000 conf 6.0000" in lines[1]  # steps 2, 3, 4
    assert "images/s" not in lines[0]
    assert "images/s" in lines[1]


def test_speed_share_of_waiting_and_time_to_go():
    found = summarise([report(3), report(4)], seconds=2.0, memory_mb=100.0)
    assert found.images_per_second == 4
    assert found.data_share == 0.25
    assert found.seconds_left == 6  # six steps of a second
    assert found.positives == 7
    line = as_line(found)
    for part in ("4.0 images/s", "data 25%", "to go 00:00:06", "positives 7.0", "100 MB"):
        assert part in line


def test_skipped_steps_count_in_no_mean():
    nan = float("nan")
    found = summarise([report(1), report(2, nan, 1, nan), report(3, nan, 2, nan)], None, 1.0)
    assert (found.loss, found.grad_norm, found.skipped) == (3.0, 5.0, 2)
    assert "SKIPPED 2" in as_line(found)
    assert summarise([report(2, nan, 1, nan)], None, 1.0).loss != 3.0


def test_the_last_steps_before_a_stop_are_told():
    told = []
    progress = Progress([told.append], every=100)
    for step in (1, 2, 3):
        progress.on_step(report(step))
    progress.on_stop(report(3))
    assert [interval.step for interval in told] == [1, 3]
    assert isinstance(told[0], Interval)


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "00:01:00"), (360_000, "100:00:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_bar_goes_on_from_where_a_run_was_resumed(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    bar = Bar(10, 7, logging.getLogger("test.progress"))
    for step in (8, 9):
        bar.on_step(report(step))
    bar.on_stop(report(9))
    shown = capsys.readouterr().err
    assert "7/10" in shown
    assert "9/10" in shown


def test_without_tqdm_there_is_no_bar(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with caplog.at_level(logging.INFO):
        bar = Bar(10, 0, logging.getLogger("test.progress"))
    bar.on_step(report(1))
    bar.on_end()
    assert "pip install tqdm" in caplog.text
