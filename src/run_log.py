# SPDX-License-Identifier: Apache-2.0
"""What a run leaves for later: `log.csv`, `log.jsonl`, TensorBoard events and `run.json`.

The tables go on where a run is resumed; rows of steps that are run once more are dropped first.
"""

import dataclasses
import json
import logging
import math
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from src.progress import Interval
from src.runtime.files import write_atomically

LOG = logging.getLogger(__name__)
CSV_NAME = "log.csv"
JSONL_NAME = "log.jsonl"
RUN_NAME = "run.json"
EVENTS_NAME = "events"
COLUMNS = tuple(column.name for column in dataclasses.fields(Interval))
PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "pycocotools", "tensorboardX", "tqdm")


class RunLog:
    """Writes each interval and each score as it comes. A sink of `src.progress.Progress`.

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
    write_atomically(path, json.dumps({"starts": starts}, indent=2) + "\n")


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
