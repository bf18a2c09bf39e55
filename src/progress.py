# SPDX-License-Identifier: Apache-2.0
"""How a run goes on: lines in a log, and a bar on a terminal."""

import logging
import time
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence

import psutil

from src.callback import Callback, StepReport


@dataclass(frozen=True)
class Interval:
    """Means over some steps, up to `step`. Speeds are None where they are not known yet."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    loc_loss: float
    conf_loss: float
    grad_norm: float
    learning_rate: float
    positives: float  # per image
    skipped: int  # steps without a finite gradient
    memory_mb: float  # resident, of this process
    images_per_second: Optional[float] = None
    data_share: Optional[float] = None  # of the time, spent waiting for batches
    seconds_left: Optional[float] = None


class Progress(Callback):
    """Sums steps up to an `Interval` every so often, and hands it to `sinks`.

    Args:
        sinks: called with each interval.
        every: steps in one; the first step and the last have one of their own.
    """

    def __init__(self, sinks: Sequence[Callable[[Interval], None]], every: int = 10) -> None:
        self._sinks = sinks
        self._every = every
        self._pending: List[StepReport] = []
        self._since: Optional[float] = None
        self._process = psutil.Process()

    def on_step(self, report: StepReport) -> None:
        self._pending.append(report)
        due = report.step % self._every == 0 or report.step == report.total_steps
        if due or self._since is None:
            self._flush()

    def on_stop(self, report: StepReport) -> None:
        if self._pending:
            self._flush()

    def _flush(self) -> None:
        now = time.monotonic()
        interval = summarise(
            self._pending,
            None if self._since is None else now - self._since,  # the first step compiles
            self._process.memory_info().rss / 1e6,
        )
        for sink in self._sinks:
            sink(interval)
        self._pending, self._since = [], now


def summarise(
    reports: Sequence[StepReport], seconds: Optional[float], memory_mb: float
) -> Interval:
    """`reports` of steps that took `seconds` altogether, as one interval.

    Skipped steps count in no mean; where all were skipped, the means are of those.
    """
    last = reports[-1]
    good = [report for report in reports if not report.bad_steps] or list(reports)

    def mean(name: str) -> float:
        return sum(getattr(report, name) for report in good) / len(good)

    speeds = {}
    if seconds is not None:
        seconds = max(seconds, 1e-9)
        speeds = {
            "images_per_second": sum(report.images for report in reports) / seconds,
            "data_share": sum(report.data_seconds for report in reports) / seconds,
            "seconds_left": (last.total_steps - last.step) * seconds / len(reports),
        }
    return Interval(
        step=last.step,
        total_steps=last.total_steps,
        epoch=last.epoch,
        loss=mean("loc_loss") + mean("conf_loss"),
        loc_loss=mean("loc_loss"),
        conf_loss=mean("conf_loss"),
        grad_norm=mean("grad_norm"),
        learning_rate=last.learning_rate,
        positives=mean("positives"),
        skipped=sum(bool(report.bad_steps) for report in reports),
        memory_mb=memory_mb,
        **speeds,
    )


def as_line(interval: Interval) -> str:
    """An interval in words."""
    line = (
        f"epoch {interval.epoch} step {interval.step}/{interval.total_steps}"
        f" loss {interval.loss:.4f} loc {interval.loc_loss:.4f} conf {interval.conf_loss:.4f}"
        f" grad norm {interval.grad_norm:.2f} lr {interval.learning_rate:.2e}"
        f" positives {interval.positives:.1f}"
    )
    if interval.images_per_second is not None:
        line += f" {interval.images_per_second:.1f} images/s data {interval.data_share:.0%}"
    line += f" {interval.memory_mb:.0f} MB"
    if interval.seconds_left is not None:
        line += f" to go {duration(interval.seconds_left)}"
    if interval.skipped:
        line += f" SKIPPED {interval.skipped}: gradient not finite"
    return line


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; hours may exceed a day."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


class LogLines:
    """A sink that logs a line for each interval."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def __call__(self, interval: Interval) -> None:
        self._log.info("%s", as_line(interval))


class Bar(Callback):
    """A tqdm bar on a terminal; log lines go above it. Nothing where tqdm is missing."""

    def __init__(self, total: int, start: int, log: logging.Logger) -> None:
        self._bar: Any = None
        self._redirect: Any = None
        try:
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm
        except ImportError:
            log.info("no progress bar: pip install tqdm")
            return
        self._redirect = logging_redirect_tqdm()
        self._redirect.__enter__()
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def on_step(self, report: StepReport) -> None:
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{report.loc_loss + report.conf_loss:.3f}", refresh=False)
            self._bar.update(1)

    def on_stop(self, report: StepReport) -> None:
        self.on_end()

    def on_end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._redirect.__exit__(None, None, None)
