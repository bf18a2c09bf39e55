# SPDX-License-Identifier: Apache-2.0
"""A training run from its first file to its last: what train.py wires together."""

import contextlib
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from ..config import Config
from ..data.coco_utils import load_data
from ..data.records import DataError, DetectionData
from ..formats.checkpoint import Labels, load_weights, save_config
from ..model import build_model
from ..runtime.collectives import from_first_rank, share_weights
from ..runtime.cpu_settings import thread_count
from ..runtime.device import set_seed
from ..runtime.errors import printable
from ..runtime.files import locked
from ..runtime.stop_signal import StopSignal
from ..runtime.terminal import ProgressBar, bar_columns
from . import builders as setup
from .callback import Callback, CheckpointSaver, list_checkpoints
from .ema import Ema
from .resume import DrawnSeed, Resumable, UsedFolder, load_fitting, refuse_used
from .run_log import Bar, LogLines, Progress, RunLog, as_line, save_run, short_line
from .trainer import BadSteps, Run, TrainingError, train
from .validation import Evaluation

LOG = logging.getLogger("m2det.train")


@dataclass(frozen=True)
class RunOptions:
    """What a run is given besides its configuration."""

    dataset_path: Path
    train_url: Path  # the folder of the run lies in it
    pretrained_backbone: Optional[Path] = None
    finetune: Optional[Path] = None  # a checkpoint
    resume: Optional[str] = None  # "auto", or a checkpoint
    force: bool = False  # resume in spite of differences
    dry_run: bool = False
    log_interval: int = 10  # steps
    command_line: Sequence[str] = ()  # for run.json


@dataclass(frozen=True)
class Finished:
    """What a run has come to."""

    checkpoint: Path  # with the best AP; the last where nothing was scored
    ap: Optional[float]
    seconds: float
    val_data: Optional[DetectionData]  # what was scored


@dataclass
class Job:
    """A training run on this rank.

    `open_events(folder, start step, data that is scored)` gives one more log with the methods of
    `RunLog`, and `close`.
    """

    config: Config
    data: DetectionData
    options: RunOptions
    rank: int
    world_size: int
    stop: StopSignal
    open_events: Optional[Callable[[Path, int, Optional[DetectionData]], Any]] = None
    at_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def folder(self) -> Path:
        return self.options.train_url / self.config.experiment_tag

    @property
    def prefix(self) -> str:
        return f"{self.config.model.backbone}_{self.config.model.input_size}"

    def run(self) -> Optional[Finished]:
        """Build every part, hand them to each other and train; None for a dry run.

        Raises:
            UsedFolder: the folder holds another run.
            LockedError: a run is going on there.
            TrainingError: too many steps without a finite gradient.
        """
        with self.at_exit:
            return self.build_and_train()

    def build_and_train(self) -> Optional[Finished]:
        config, world_size, began = self.config, self.world_size, time.monotonic()
        set_seed(config.random_seed)
        warning = setup.batch_warning(config, world_size)
        if warning:
            LOG.warning("%s", warning)
        model = self.network()
        rates = setup.build_schedule(config, len(self.data.records), world_size)
        optimizer = setup.build_optimizer_for(config, model, rates)
        ema = Ema(list(model.get_parameters()), config.train.ema) if config.train.ema else None
        loss_scale = setup.build_loss_scale(config)
        val_data = self.validation_data()
        evaluation = self.evaluation(model, ema, val_data) if val_data else None
        facts = setup.build_facts(config, self.data, world_size)
        drawn = self.drawn_seed()
        others = [part for part in (loss_scale, evaluation, drawn) if part is not None]
        state = Resumable(model, optimizer, facts, ema, others)
        if self.rank == 0 and not self.options.dry_run:
            self.at_exit.enter_context(locked(self.folder))
            refuse_used(self.folder, self.options.resume)
        start = self.resume(state)
        scale = loss_scale.scale if loss_scale else config.optimizer.loss_scale
        step = setup.build_step(config, model, optimizer, world_size, scale, ema)
        unseeded = drawn.value if drawn else None
        batches = setup.build_batches(
            config, self.data, start, len(rates), self.rank, world_size, unseeded
        )
        lines = self.describe(model, len(rates), start, val_data)
        if self.options.dry_run:
            print("\n".join(lines))
            self.show(rates, next(batches) if start < len(rates) else ())
            batches.close()
            return None
        for line in lines:
            LOG.info("%s", line)
        run = Run(
            rates,
            len(self.data.records),
            setup.images_per_step(config, world_size),
            start,
            config.train.max_bad_steps,
            world_size,
            loss_scale,
            lambda: self.stop.number,
            lambda: evaluation is not None and evaluation.should_stop,
            self.callbacks(state, evaluation, val_data, start, len(rates)),
        )
        self.stop.defer()
        self.train(step, batches, run)
        scored = evaluation is not None and evaluation.best >= 0
        return Finished(
            self.folder / f"{self.prefix}-{'best' if scored else 'final'}.ckpt",
            evaluation.best if evaluation is not None and scored else None,
            time.monotonic() - began,
            val_data,
        )

    def train(self, step: setup.Step, batches: Any, run: Run) -> None:
        """All steps; an error says all there is to know."""
        try:
            train(step, batches, run)
        except BadSteps as error:
            raise TrainingError(self.explain(error)) from None

    def network(self) -> nn.Cell:
        """With the weights it begins with, and what is frozen."""
        model = build_model(self.config)
        if self.options.pretrained_backbone is not None:
            load_weights(model.backbone, self.options.pretrained_backbone, prefix="backbone.")
        if self.options.finetune is not None:
            for line in load_fitting(model, self.options.finetune):
                LOG.info("%s", line)
        if self.world_size > 1 and self.config.random_seed is None:
            share_weights(model, self.rank)
        setup.prepare_network(self.config, model, self.world_size)
        return model

    def drawn_seed(self) -> Optional[DrawnSeed]:
        """One for all ranks, where the configuration has none."""
        if self.config.random_seed is not None:
            return None
        value = np.array([secrets.randbits(24)], np.float32)
        if self.world_size > 1:
            value = from_first_rank(value, self.rank)
        return DrawnSeed(int(value[0]))

    @property
    def eval_interval(self) -> int:
        """Epochs from one scoring to the next; 0: never."""
        return setup.eval_interval(self.config, len(self.data.records), self.world_size)

    def evaluation(self, model: nn.Cell, ema: Optional[Ema], data: DetectionData) -> Evaluation:
        scorer = setup.build_scorer(
            self.config,
            model,
            data,
            Labels(self.data.class_names, self.data.category_ids),
            self.rank,
            self.world_size,
            lambda: self.stop.number is not None,
        )
        weights, patience = model.parameters_dict, self.config.train.early_stop
        return Evaluation(scorer, self.eval_interval, patience, weights, ema)

    def validation_data(self) -> Optional[DetectionData]:
        """What is scored in between; only `train.eval_epochs` insists on it."""
        wanted = self.config.train
        links = self.config.data.allow_links
        if not self.eval_interval:
            return None
        try:
            data = load_data(self.options.dataset_path, wanted.eval_split, allow_links=links)
        except DataError as error:
            if wanted.eval_epochs:
                raise
            LOG.info("no scores in between: %s", error)
            return None
        shared = {r.path for r in self.data.records} & {r.path for r in data.records}
        if shared and not wanted.eval_epochs:
            text = "no scores in between: %d of the %d images of %s are trained on"
            LOG.info(text, len(shared), len(data.records), data.split)
            return None
        return data

    def resume(self, state: Resumable) -> int:
        """The number of steps done before."""
        wanted, force = self.options.resume, self.options.force
        if wanted is None:
            return 0
        if wanted == "auto":
            return state.restore_newest(self.folder, self.prefix, force)
        step = state.restore(Path(wanted), force)
        newest = list_checkpoints(self.folder, self.prefix)[-1:]
        if newest and newest[0].absolute() != Path(wanted).absolute():
            raise UsedFolder(
                f"{self.folder} holds the later {newest[0].name}: --resume auto goes on from there,"
                " or choose another --train_url"
            )
        return step

    def callbacks(
        self,
        state: Resumable,
        evaluation: Optional[Evaluation],
        val_data: Optional[DetectionData],
        start: int,
        total: int,
    ) -> List[Callback]:
        """The first rank reports and saves; all of them score."""
        if self.rank:
            return [evaluation] if evaluation else []
        save_config(self.folder, self.config, Labels(self.data.class_names, self.data.category_ids))
        facts = {"world_size": self.world_size, "start_step": start}
        save_run(self.folder, self.options.command_line, facts)
        logs: List[Any] = [RunLog(self.folder, start)]
        if self.open_events is not None:
            logs.append(self.open_events(self.folder, start, val_data))
            self.at_exit.callback(logs[-1].close)
        bar = ProgressBar(total, "steps", done=start)
        self.at_exit.callback(bar.close)
        train_config = self.config.train
        saver = CheckpointSaver(
            self.folder,
            self.prefix,
            state.model.parameters_dict,
            state.state,
            train_config.save_epochs,
            train_config.keep_checkpoints,
            train_config.save_steps,
            state.ema.weights if state.ema else None,
        )
        lines = LogLines(LOG, short_line if bar_columns() else as_line)
        found = [Bar(bar, LOG), Progress([lines, *logs], self.options.log_interval)]
        if evaluation is not None:
            evaluation.watch(saver, [log.scores for log in logs], bar.show)
            found.append(evaluation)
        return [*found, saver]

    def explain(self, error: BadSteps) -> str:
        """The error with names of images and the last good checkpoint."""
        numbers = sorted({int(number) for number in error.images})
        names = [str(self.data.records[number].path) for number in numbers[:8]]
        more = ", ..." if len(numbers) > 8 else ""
        saved = list_checkpoints(self.folder, self.prefix)
        last = f"last good checkpoint: {saved[-1]}" if saved else "no checkpoint was saved"
        return f"{error}, of which the last one saw {', '.join(names)}{more}; {last}"

    def describe(
        self, model: nn.Cell, total: int, start: int, val_data: Optional[DetectionData]
    ) -> List[str]:
        """What is going to happen, in a few lines."""
        config, size = self.config, self.config.model.input_size
        weights = sum(int(np.prod(p.shape)) for p in model.trainable_params())
        target = ms.get_context("device_target")
        per_step = setup.images_per_step(config, self.world_size)
        images, classes = len(self.data.records), len(self.data.class_names)
        lines = [
            f"network  {config.model.backbone}, {size} x {size} px,"
            f" {weights:,} trainable parameters",
            f"device   {target}"
            + (f", {thread_count()} threads" if target == "CPU" else "")
            + (f", {self.world_size} ranks" if self.world_size > 1 else ""),
            f"data     {self.data.split}: {images} images, {classes} classes",
        ]
        if val_data is not None:
            n, every = len(val_data.records), self.eval_interval
            lines.append(f"scores   {val_data.split}: {n} images, every {every} epochs")
        lines.append(
            f"length   {total} steps of {per_step} images, {total * per_step / images:.1f} epochs"
            + (f"; {start} are done" if start else "")
        )
        if not self.options.dry_run:
            lines.append(f"output   {printable(str(self.folder))}")
            lines.append("compiling, about 20 s the first time; the time left is known after that")
        return lines

    def show(self, rates: np.ndarray, batch: Sequence[Any]) -> None:
        """What `--dry_run` prints besides."""
        for name, part in zip(("images", "loc_targets", "label_targets"), batch):
            print(f"{name}: {part.shape} {part.dtype}")
        per_step = setup.images_per_step(self.config, self.world_size)
        for line in setup.milestones(rates, len(self.data.records) / per_step):
            print(line)
