# SPDX-License-Identifier: Apache-2.0
"""Training callbacks and the checkpoint writer."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import mindspore as ms

from ..evaluation.coco_metrics import CocoScore
from ..formats.checkpoint import STATE_PREFIX, save_checkpoint
from ..runtime.files import remove_leftovers


@dataclass(frozen=True)
class StepReport:
    """One finished step. `step` counts from 1 over the whole run, `epoch` the finished epochs."""

    step: int
    total_steps: int
    epoch: int
    epoch_ended: bool
    loc_loss: float
    conf_loss: float
    grad_norm: float  # before clipping; not finite in a step that was skipped
    learning_rate: float
    images: int
    data_seconds: float  # spent waiting for the batch
    positives: float = 0.0  # matched priors per image
    bad_steps: int = 0  # consecutive skipped steps, up to this one


@dataclass(frozen=True, eq=False)
class Scored:
    """An evaluation: its numbers, and on the first rank what they were made from.

    `numbers` are the 12 COCO numbers by name, those of averaged weights with "_ema" behind; `score`
    and `results`, the entries of a COCO results file, are those of the better of the two.
    """

    numbers: Mapping[str, float]
    score: Optional[CocoScore] = None
    results: Sequence[Mapping[str, Any]] = ()


class Callback:
    """Base class, whose methods do nothing."""

    def on_step(self, report: StepReport) -> None:
        """After each step."""

    def on_stop(self, report: StepReport) -> None:
        """After the last step before a signal ends the run early."""

    def on_end(self) -> None:
        """After the last step."""


class CheckpointSaver(Callback):
    """Writes `PREFIX-EPOCH_STEP.ckpt` every so often and `PREFIX-final.ckpt` at the end.

    The former hold the state of optimiser and run too, for resuming; the newest `max_to_keep` of
    them stay. While steps are being skipped nothing is saved: the weights may be what is wrong.

    Args:
        folder: where they go.
        prefix: backbone and size, e.g. "vgg16_320".
        weights: gives the network's parameters by name.
        state: gives what resuming needs besides them.
        every_epochs: distance between checkpoints.
        max_to_keep: how many of them stay.
        every_steps: further checkpoints between them; 0: none.
        final_weights: gives what the last file holds, if not `weights`: their moving average.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        weights: Callable[[], Mapping[str, ms.Tensor]],
        state: Callable[[], Mapping[str, ms.Tensor]],
        every_epochs: int,
        max_to_keep: int,
        every_steps: int = 0,
        final_weights: Optional[Callable[[], Mapping[str, ms.Tensor]]] = None,
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._weights = weights
        self._state = state
        self._every = every_epochs
        self._every_steps = every_steps
        self._max_to_keep = max_to_keep
        self._final_weights = final_weights or weights
        self._newest: Optional[Path] = None
        remove_leftovers(folder)

    @property
    def final_path(self) -> Path:
        """Where the finished network goes."""
        return self._folder / f"{self._prefix}-final.ckpt"

    @property
    def best_path(self) -> Path:
        """Where the network with the best AP so far goes."""
        return self._folder / f"{self._prefix}-best.ckpt"

    def on_step(self, report: StepReport) -> None:
        due = report.epoch_ended and report.epoch % self._every == 0
        if due or (self._every_steps and report.step % self._every_steps == 0):
            self._save(report)

    def on_stop(self, report: StepReport) -> None:
        self._save(report)

    def _save(self, report: StepReport) -> None:
        path = self._folder / f"{self._prefix}-{report.epoch}_{report.step}.ckpt"
        if report.bad_steps or path == self._newest:
            return
        state = {STATE_PREFIX + name: value for name, value in self._state().items()}
        save_checkpoint({**self._weights(), **state}, path)
        self._newest = path
        saved = list_checkpoints(self._folder, self._prefix)
        for old in saved[: saved.index(path) + 1][: -self._max_to_keep]:  # later ones are damaged
            with contextlib.suppress(FileNotFoundError):
                old.unlink()

    def save_best(self, weights: Mapping[str, ms.Tensor]) -> None:
        """Put `weights` in the place of the best so far."""
        save_checkpoint(weights, self.best_path)

    def on_end(self) -> None:
        save_checkpoint(self._final_weights(), self.final_path)


def list_checkpoints(folder: Path, prefix: str) -> List[Path]:
    """The resumable checkpoints of a run, oldest first."""
    pattern = re.compile(re.escape(prefix) + r"-(\d+)_(\d+)\.ckpt")
    found: List[Tuple[int, Path]] = []
    for path in folder.glob(f"{prefix}-*.ckpt"):
        match = pattern.fullmatch(path.name)
        if match:
            found.append((int(match.group(2)), path))
    return [path for _, path in sorted(found)]
