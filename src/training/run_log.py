# SPDX-License-Identifier: Apache-2.0
"""Progress of a run: log lines, a bar, `log.jsonl`, `run.json`.

`log.jsonl` goes on where a run is resumed; rows of steps that are run once more are dropped first.
"""

import dataclasses
import json
import logging
import math
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import psutil

from ..runtime.files import append, write_atomically, write_json
from ..runtime.terminal import ProgressBar, duration
from .callback import Callback, Scored, StepReport

JSONL_NAME = "log.jsonl"
RUN_NAME = "run.json"
PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "pycocotools", "tensorboardX", "tqdm")


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
        self._compiled = (0, 0.0)  # the first step, and when it was done
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
        now, last = time.monotonic(), self._pending[-1]
        seconds = pace = None
        if self._since is None:  # the first step compiles
            self._compiled = last.step, now
        else:
            seconds = now - self._since
            pace = (now - self._compiled[1]) / (last.step - self._compiled[0])
        memory_mb = self._process.memory_info().rss / 1e6
        interval = summarise(self._pending, seconds, memory_mb, pace)
        for sink in self._sinks:
            sink(interval)
        self._pending, self._since = [], now


def summarise(
    reports: Sequence[StepReport],
    seconds: Optional[float],
    memory_mb: float,
    step_seconds: Optional[float] = None,
) -> Interval:
    """`reports` of steps that took `seconds` altogether, as one interval.

    `step_seconds` is the mean over the run so far, with scoring and saving, if known. Skipped steps
    count in no mean; where all were skipped, the means are of those.
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
            "seconds_left": (last.total_steps - last.step)
            * (step_seconds or seconds / len(reports)),
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
    """An interval in words, for a log file."""
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
    return line + _skipped(interval)


def short_line(interval: Interval) -> str:
    """The same within 70 columns, above a bar that shows speed and time left."""
    return (
        f"epoch {interval.epoch} step {interval.step}/{interval.total_steps}"
        f" loss {interval.loss:.2f} loc {interval.loc_loss:.2f} conf {interval.conf_loss:.2f}"
        f" lr {interval.learning_rate:.1e}{_skipped(interval)}"
    )


def _skipped(interval: Interval) -> str:
    return f" SKIPPED {interval.skipped}: gradient not finite" if interval.skipped else ""


class LogLines:
    """A sink that logs a line for each interval."""

    def __init__(self, log: logging.Logger, words: Callable[[Interval], str] = as_line) -> None:
        self._log, self._words = log, words

    def __call__(self, interval: Interval) -> None:
        self._log.info("%s", self._words(interval))


class Bar(Callback):
    """Moves a bar, and logs once how long compiling took and how long the run will take.

    Args:
        estimate_after: steps after which the time left is logged, the first not counted.
    """

    def __init__(self, bar: ProgressBar, log: logging.Logger, estimate_after: int = 3) -> None:
        self._bar, self._log, self._steps = bar, log, estimate_after
        self._began: Optional[float] = time.monotonic()
        bar.wait_for("compiling")

    def on_step(self, report: StepReport) -> None:
        compiled = self._began is not None
        self._bar.update(1, f"loss {report.loc_loss + report.conf_loss:.2f}", timed=not compiled)
        if self._began is not None:
            self._log.info("compiled in %.0f s", time.monotonic() - self._began)
            self._began = None
        left = self._bar.seconds_left()
        if self._steps == 0 and left:
            until = time.strftime("%a %H:%M", time.localtime(time.time() + left))
            self._log.info("about %s left, until %s", duration(left), until)
        self._steps -= 1

    def on_stop(self, report: StepReport) -> None:
        self._bar.close()

    def on_end(self) -> None:
        self._bar.close()


class RunLog:
    """Writes `log.jsonl`, an object a line: each interval and each score as it comes.

    Args:
        folder: of the run.
        start_step: rows of later steps are dropped, as these steps run again.
    """

    def __init__(self, folder: Path, start_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JSONL_NAME
        rows = [row for row in read_log(folder) if row["step"] <= start_step]
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def __call__(self, interval: Interval) -> None:
        self._append(dataclasses.asdict(interval))

    def scores(self, step: int, epoch: int, scored: Scored) -> None:
        """The numbers of an evaluation, e.g. {"AP": 0.4, "AP50": ...}."""
        self._append({"step": step, "epoch": epoch, **scored.numbers})

    def _append(self, row: Mapping[str, Any]) -> None:
        plain = {name: None if _not_json(value) else value for name, value in row.items()}
        append(self._path, json.dumps(plain) + "\n")


def _not_json(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def read_log(folder: Path) -> List[Dict[str, Any]]:
    """The rows of `log.jsonl`; none where it is missing. A last line cut short is left out."""
    path = folder / JSONL_NAME
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def save_run(folder: Path, arguments: Sequence[str], fields: Mapping[str, Any]) -> None:
    """Append to `run.json` when and how the run was started, the versions, and `fields`."""
    path = folder / RUN_NAME
    starts: List[Any] = []
    if path.is_file():
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        except (ValueError, KeyError, TypeError):
            starts = []
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "arguments": list(arguments),
            "git_revision": git_revision(Path(__file__).resolve().parents[1]),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            **fields,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"starts": starts}, indent=2)


def git_revision(folder: Path) -> Optional[str]:
    """The commit of a checkout, with "-dirty" where files differ from it; None outside of one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> Optional[str]:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
