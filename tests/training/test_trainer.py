# SPDX-License-Identifier: Apache-2.0
"""The loop around a step that only counts."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from src.runtime.stop_signal import Stopped
from src.training.callback import Callback
from src.training.lr_scheduler import total_steps
from src.training.optimizers import DynamicLossScale
from src.training.train_step import StepOutcome
from src.training.trainer import BadSteps, Run, TrainingError, train

pytestmark = pytest.mark.usefixtures("device")
NAN = float("nan")


class Step:
    """Gives norms in turn; remembers stop flags and loss scales."""

    def __init__(self, norms=(), stop_at=None):
        self.norms, self.stop_at, self.flags, self.scales = list(norms), stop_at, [], []
        self.loss_scale = self

    def set_data(self, value):
        self.scales.append(float(value.asnumpy()))

    def __call__(self, images, loc_targets, label_targets, stop):
        self.flags.append(float(stop.asnumpy()))
        norm = self.norms.pop(0) if self.norms else 1.0
        any_rank = max(self.flags[-1], float(len(self.flags) == self.stop_at))
        return StepOutcome(1.0, 2.0, norm, 6.0, any_rank)


class Told(Callback):
    def __init__(self):
        self.steps, self.reports, self.end = [], [], ""

    def on_step(self, report):
        self.steps.append(report.step)
        self.reports.append(report)

    def on_stop(self, report):
        self.end = f"stop {report.step}"

    def on_end(self):
        self.end = "end"


def batches(count, log=None):
    try:
        for number in range(count):
            yield (
                *(np.zeros((2, 1), np.float32) for _ in range(3)),
                np.array([number, 40 + number]),
            )
    finally:
        if log is not None:
            log.append("closed")


def run(told, steps=6, **options):
    return Run([0.1] * steps, 5, 2, callbacks=[told], **options)


def test_epochs_and_what_a_report_holds():
    told = Told()
    train(Step(), batches(6), run(told))
    # 5 images, 2 a step: the second epoch begins within step 3
    assert [r.epoch for r in told.reports] == [0, 0, 1, 1, 2, 2]
    assert [r.epoch_ended for r in told.reports] == [False, False, True, False, True, False]
    first = told.reports[0]
    assert (first.loc_loss, first.conf_loss, first.images) == (1.0, 2.0, 2)
    assert first.positives == 3.0  # six in a batch of two
    assert told.end == "end"


def test_a_signal_ends_the_run_after_the_step():
    told, numbers, log = Told(), [None, None, 15, 15], []
    with pytest.raises(Stopped) as caught:
        train(Step(), batches(6, log), run(told, stop_number=lambda: numbers.pop(0)))
    assert caught.value.code == 143
    assert told.steps == [1, 2]  # the number is looked at before and after each step
    assert told.end == "stop 2"
    assert log == ["closed"]


def test_a_rank_stops_when_another_was_told_to():
    told = Told()
    with pytest.raises(Stopped) as caught:
        train(Step(stop_at=3), batches(6), run(told, world_size=2))
    assert (told.steps, told.end, caught.value.code) == ([1, 2, 3], "stop 3", 143)


def test_a_rank_that_was_told_waits_for_the_sum():
    told, step = Told(), Step()
    numbers = [None, 2, 2, 2, 2, 2]  # the signal comes during the first step
    with pytest.raises(Stopped) as caught:
        train(step, batches(6), run(told, world_size=2, stop_number=lambda: numbers.pop(0)))
    assert (told.steps, step.flags, caught.value.code) == ([1, 2], [0.0, 1.0], 130)


def test_bad_steps_in_a_row_end_the_run():
    told = Told()
    with pytest.raises(BadSteps, match="3 steps up to step 5") as caught:
        train(Step([NAN, 1, NAN, NAN, NAN]), batches(6), run(told, max_bad_steps=3))
    assert [r.bad_steps for r in told.reports] == [1, 0, 1, 2, 3]
    assert caught.value.images.tolist() == [4, 44]


def test_the_loss_scale_follows():
    step = Step([NAN, 1, 1, NAN])
    scale = DynamicLossScale(8.0, window=2)
    train(step, batches(6), run(Told(), loss_scale=scale))
    assert step.scales == [4.0, 8.0, 4.0, 8.0]


def test_early_end():
    told = Told()
    train(Step(), batches(6), run(told, should_stop=lambda: len(told.steps) == 4))
    assert (told.steps, told.end) == ([1, 2, 3, 4], "end")


def test_too_few_batches_and_an_error_of_the_pipeline():
    with pytest.raises(TrainingError, match="after step 3 of 6"):
        train(Step(), batches(3), run(Told()))

    def failing():
        yield from batches(2)
        raise RuntimeError(
            "Exception thrown\n----\nTraceback:\nRuntimeError: worker is gone\n---\nx.cc(1)"
        )

    with pytest.raises(TrainingError, match=r"failed in step 3: worker is gone$"):
        train(Step(), failing(), run(Told()))


def test_a_worker_that_was_killed_is_an_error_not_a_stop():
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    told = Told()

    def number():
        if len(told.steps) < 2:
            return None
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        return 15  # as MindData tells

    with pytest.raises(TrainingError, match=rf"data worker {worker.pid} died by step 2 .*-9"):
        train(Step(), batches(6), run(told, stop_number=number))
    assert told.end == "stop 2"


def test_total_steps():
    assert total_steps(2, 5, 2) == 5
    assert total_steps(1, 5, 2) == 3
