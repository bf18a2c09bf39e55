# SPDX-License-Identifier: Apache-2.0
"""How a run goes on, and what it leaves for later.

Lines in a log, a bar on a terminal; `log.csv`, `log.jsonl`, TensorBoard events and `run.json`.

The tables go on where a run is resumed; rows of steps that are run once more are dropped first.
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

from ..runtime.files import write_atomically, write_json
from .callback import Callback, StepReport

LOG = logging.getLogger(__name__)
CSV_NAME = "log.csv"
JSONL_NAME = "log.jsonl"
RUN_NAME = "run.json"
EVENTS_NAME = "events"
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


COLUMNS = tuple(column.name for column in dataclasses.fields(Interval))


class RunLog:
    """Writes each interval and each score as it comes. A sink of `src.training.run_log.Progress`.

    `log.csv` has the intervals; `log.jsonl` has them and the scores, an object a line.

    Args:
        folder: of the run.
        start_step: later steps are forgotten, as they come again.
        tensorboard: events for TensorBoard, too, where tensorboardX is installed.
    """

    def __init__(self, folder: Path, start_step: int = 0, tensorboard: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._csv, self._jsonl = folder / CSV_NAME, folder / JSONL_NAME
        rows = [row for row in read_log(folder) if row["step"] <= start_step]
        write_atomically(self._jsonl, "".join(json.dumps(row) + "\n" for row in rows))
        table = [row for row in rows if "loss" in row]
        lines = [",".join(COLUMNS), *(_csv_line(row) for row in table)]
        write_atomically(self._csv, "\n".join(lines) + "\n")
        self._events = _event_writer(folder / EVENTS_NAME, start_step) if tensorboard else None

    def __call__(self, interval: Interval) -> None:
        row = {name: _plain(value) for name, value in dataclasses.asdict(interval).items()}
        with open(self._csv, "a", encoding="utf-8") as file:
            file.write(_csv_line(row) + "\n")
        self._append(row)

    def scores(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """The result of an evaluation, e.g. {"AP": 0.4, "AP50": ...}."""
        self._append({"step": step, "epoch": epoch, **{k: _plain(v) for k, v in values.items()}})

    def _append(self, row: Mapping[str, Any]) -> None:
        with open(self._jsonl, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in row.items():
                if name not in ("step", "total_steps", "epoch") and value is not None:
                    self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Writes what is still on its way to the events."""
        if self._events is not None:
            self._events.close()


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


def save_run(folder: Path, arguments: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Append to `run.json` when and how the run was started, with which versions."""
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
            **facts,
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


def _event_writer(folder: Path, start_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        LOG.info("no TensorBoard events: pip install tensorboardX")
        return None
    purge_step = start_step + 1 if start_step else None
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=2)


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv_line(row: Mapping[str, Any]) -> str:
    return ",".join("" if row.get(c) is None else str(row[c]) for c in COLUMNS)
