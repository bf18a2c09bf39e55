# SPDX-License-Identifier: Apache-2.0
import dataclasses
import logging
import time

import pytest

from src.runtime.terminal import ProgressBar
from src.training.callback import StepReport
from src.training.run_log import (
    Bar,
    Interval,
    LogLines,
    Progress,
    as_line,
    short_line,
    summarise,
)


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


def test_the_time_to_go_counts_no_compiling(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = []
    progress = Progress([told.append], every=2)
    for step, seconds in enumerate((50, 1, 1, 3, 3), 1):  # the first step compiles
        now[0] += seconds
        progress.on_step(report(step))
    assert told[0].seconds_left is None
    assert told[1].seconds_left == 8  # after one step of a second
    assert told[2].seconds_left == pytest.approx(6 * 5 / 3)  # three steps took five


def test_a_line_above_the_bar_fits_the_terminal():
    large = summarise([report(3)], None, 1.0)
    large = dataclasses.replace(large, step=2_700_000, total_steps=2_703_360, epoch=159)
    assert len("21:07:44 " + short_line(large)) <= 80
    nan = summarise([report(2, float("nan"), 1)], None, 1.0)
    assert "SKIPPED 1" in short_line(nan)


def test_compiling_and_the_estimate_are_told_once(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    callback = Bar(ProgressBar(100, "steps"), logging.getLogger("test.progress"))
    with caplog.at_level(logging.INFO):
        for step, seconds in enumerate((20, 2, 2, 2, 2, 2), 1):
            now[0] += seconds
            callback.on_step(report(step))
        callback.on_end()
    compiled, estimate = caplog.messages
    assert compiled == "compiled in 20 s"
    assert estimate.startswith("about 00:03:12 left, until ")  # 96 steps of two seconds
