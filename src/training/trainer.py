# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

import contextlib
import math
import multiprocessing
import re
import signal
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, Union

import mindspore as ms
import numpy as np

from ..runtime.errors import M2DetError
from ..runtime.stop_signal import Stopped
from .callback import Callback, StepReport
from .optimizers import DynamicLossScale
from .train_step import StepOutcome


class TrainingError(M2DetError, ValueError):
    """Training cannot go on."""


class BadSteps(TrainingError):
    """Too many consecutive steps without a finite gradient; `images` are those of the last one."""

    def __init__(self, step: int, count: int, images: np.ndarray) -> None:
        super().__init__(f"no finite gradient in {count} steps up to step {step}")
        self.images = images


@dataclass
class Run:
    """What the loop needs to know of a run.

    Args:
        learning_rates: one per step of the whole run.
        num_images: images in the data set.
        images_per_step: batch size times ranks (times accumulated parts).
        start_step: steps done before.
        max_bad_steps: consecutive steps without a finite gradient after which the run ends.
        world_size: number of ranks.
        loss_scale: where it is dynamic.
        stop_number: gives the number of the signal received, or None.
        should_stop: called after each step; True ends the run before its last step.
        callbacks: called with the report of every step.
    """

    learning_rates: Union[Sequence[float], np.ndarray]
    num_images: int
    images_per_step: int
    start_step: int = 0
    max_bad_steps: int = 20
    world_size: int = 1
    loss_scale: Optional[DynamicLossScale] = None
    stop_number: Callable[[], Optional[int]] = lambda: None
    should_stop: Callable[[], bool] = lambda: False
    callbacks: Sequence[Callback] = field(default_factory=tuple)


def train(
    step: Any,
    batches: Iterator[Tuple[np.ndarray, ...]],
    run: Run,
) -> None:
    """Run the steps from `run.start_step` to the end of the learning rates.

    Args:
        step: as `src.training.train_step.TrainStep`.
        batches: images, loc_targets, label_targets, image numbers; one tuple a step, beginning with
            that of `start_step`.
        run: everything else.

    Raises:
        BadSteps: no finite gradient in `max_bad_steps` consecutive steps.
        TrainingError: too few batches.
        Stopped: by a signal; the callbacks have saved.
    """
    bad_steps, total = 0, len(run.learning_rates)
    with contextlib.closing(_Batches(batches)) as source:
        for number in range(run.start_step, total):
            batch, waited = source.next(number, total)
            stop = ms.Tensor(float(run.stop_number() is not None), ms.float32)
            outcome = step(*map(ms.Tensor, batch[:3]), stop)
            finite = math.isfinite(outcome.grad_norm)
            bad_steps = 0 if finite else bad_steps + 1
            if run.loss_scale is not None and run.loss_scale.update(finite):
                step.loss_scale.set_data(ms.Tensor(run.loss_scale.scale, ms.float32))
            report = _report(number, outcome, waited, bad_steps, run)
            for callback in run.callbacks:
                callback.on_step(report)
            if bad_steps >= run.max_bad_steps:
                raise BadSteps(number + 1, bad_steps, batch[3])
            _stop_on_signal(outcome.stop, run, report, source)
            if run.should_stop():
                break
    for callback in run.callbacks:
        callback.on_end()


def _stop_on_signal(stop: float, run: Run, report: StepReport, source: "_Batches") -> None:
    """All ranks stop at the step at which the first of them received a signal.

    MindData sends its own process a SIGTERM when a worker has died.
    """
    number = run.stop_number()
    if stop > 0 or (run.world_size == 1 and number is not None):
        for callback in run.callbacks:
            callback.on_stop(report)
        source.check_workers(report.step)
        raise Stopped(number or signal.SIGTERM)


class _Batches:
    """The batches with the time that was spent waiting for them."""

    def __init__(self, batches: Iterator[Tuple[np.ndarray, ...]]) -> None:
        self._batches: Any = iter(batches)
        self._workers: List[Any] = []

    def next(self, step: int, total: int) -> Tuple[Tuple[np.ndarray, ...], float]:
        began = time.monotonic()
        try:
            batch = next(self._batches, None)
        except RuntimeError as error:  # what MindData raises when a worker has died
            reason = re.findall(r"\w*(?:Error|Exception): *(\S.*)", str(error)) or [str(error)]
            text = " ".join(reason[-1].split())[:200]
            raise TrainingError(f"the data pipeline failed in step {step + 1}: {text}") from None
        if batch is None:
            raise TrainingError(f"the data ended after step {step} of {total}")
        if not self._workers:
            self._workers = multiprocessing.active_children()
        return batch, time.monotonic() - began

    def check_workers(self, step: int) -> None:
        """Raises TrainingError if a worker has died by itself, not by the end of the run."""
        for worker in self._workers:
            try:
                pid, code = worker.pid, worker.exitcode
            except ValueError:  # already closed
                continue
            if code not in (None, 0, -signal.SIGTERM, 128 + signal.SIGTERM):
                raise TrainingError(f"data worker {pid} died by step {step} (exit code {code})")

    def close(self) -> None:
        """Ends the workers."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def _report(step: int, outcome: StepOutcome, waited: float, bad_steps: int, run: Run) -> StepReport:
    epoch = (step + 1) * run.images_per_step // run.num_images
    return StepReport(
        step=step + 1,
        total_steps=len(run.learning_rates),
        epoch=epoch,
        epoch_ended=epoch > step * run.images_per_step // run.num_images,
        loc_loss=outcome.loc_loss,
        conf_loss=outcome.conf_loss,
        grad_norm=outcome.grad_norm,
        learning_rate=float(run.learning_rates[step]),
        images=run.images_per_step,
        data_seconds=waited,
        positives=outcome.positives * run.world_size / run.images_per_step,
        bad_steps=bad_steps,
    )
