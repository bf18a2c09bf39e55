# SPDX-License-Identifier: Apache-2.0
"""What watches a training run: progress lines and checkpoints."""

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Mapping, Optional, Tuple

import mindspore as ms

from src.checkpoint import STATE_PREFIX, save_checkpoint


@dataclass(frozen=True)
class StepReport:
    """One finished step. `step` counts from 1 over the whole run, `epoch` the finished epochs."""

    step: int
    total_steps: int
    epoch: int
    epoch_ended: bool
    loc_loss: float
    conf_loss: float
    grad_norm: float
    learning_rate: float
    images: int
    data_seconds: float


class Callback:
    """Does nothing; the parent of those that do."""

    def on_step(self, report: StepReport) -> None:
        """After each step."""

    def on_end(self) -> None:
        """After the last step."""


class ProgressLog(Callback):
    """Logs means over the last `every` steps: loss parts, gradient norm, speed and time to go."""

    def __init__(self, log: logging.Logger, every: int = 10) -> None:
        self._log = log
        self._every = every
        self._pending: List[StepReport] = []
        self._since: Optional[float] = None
        self._rate: Optional[float] = None

    def on_step(self, report: StepReport) -> None:
        self._pending.append(report)
        first = report.step == 1
        due = report.step % self._every == 0 or report.step == report.total_steps
        if first or due or self._since is None:
            self._write(report)

    def _write(self, report: StepReport) -> None:
        now = time.monotonic()
        count = len(self._pending)
        mean = {
            key: sum(getattr(r, key) for r in self._pending) / count
            for key in ("loc_loss", "conf_loss", "grad_norm")
        }
        line = (
            f"epoch {report.epoch} step {report.step}/{report.total_steps}"
            f" loss {mean['loc_loss'] + mean['conf_loss']:.4f}"
            f" loc {mean['loc_loss']:.4f} conf {mean['conf_loss']:.4f}"
            f" grad norm {mean['grad_norm']:.2f} lr {report.learning_rate:.2e}"
        )
        if self._since is not None:  # the first step compiles and says nothing about speed
            seconds = max(now - self._since, 1e-9)
            images = sum(r.images for r in self._pending)
            waited = sum(r.data_seconds for r in self._pending)
            left = (report.total_steps - report.step) * seconds / count
            line += f" {images / seconds:.1f} images/s data {waited / seconds:.0%}"
            line += f" to go {time.strftime('%H:%M:%S', time.gmtime(left))}"
        self._log.info(line)
        self._pending, self._since = [], now


class CheckpointSaver(Callback):
    """Writes `PREFIX-EPOCH_STEP.ckpt` every so many epochs and `PREFIX-final.ckpt` at the end.

    The former hold the optimiser's state too, for resuming; the newest `keep` of them stay.

    Args:
        folder: where they go.
        prefix: backbone and size, e.g. "vgg16_320".
        weights: gives the network's parameters by name.
        state: gives what resuming needs beside them.
        every_epochs: distance between checkpoints.
        keep: how many stay.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        weights: Callable[[], Mapping[str, ms.Tensor]],
        state: Callable[[], Mapping[str, ms.Tensor]],
        every_epochs: int,
        keep: int,
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._weights = weights
        self._state = state
        self._every = every_epochs
        self._keep = keep

    @property
    def final_path(self) -> Path:
        """Where the finished network goes."""
        return self._folder / f"{self._prefix}-final.ckpt"

    def on_step(self, report: StepReport) -> None:
        if not report.epoch_ended or report.epoch % self._every:
            return
        path = self._folder / f"{self._prefix}-{report.epoch}_{report.step}.ckpt"
        state = {STATE_PREFIX + name: value for name, value in self._state().items()}
        save_checkpoint({**self._weights(), **state}, path)
        for old in list_checkpoints(self._folder, self._prefix)[: -self._keep]:
            if old != path:
                old.unlink()

    def on_end(self) -> None:
        save_checkpoint(self._weights(), self.final_path)


def list_checkpoints(folder: Path, prefix: str) -> List[Path]:
    """The resumable checkpoints of a run, oldest first."""
    pattern = re.compile(re.escape(prefix) + r"-(\d+)_(\d+)\.ckpt")
    found: List[Tuple[int, Path]] = []
    for path in folder.glob(f"{prefix}-*.ckpt"):
        match = pattern.fullmatch(path.name)
        if match:
            found.append((int(match.group(2)), path))
    return [path for _, path in sorted(found)]
