# SPDX-License-Identifier: Apache-2.0
"""A training run from its first file to its last: what train.py wires together."""

import contextlib
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np
from mindspore import nn

from ..config import Config
from ..data.records import DetectionData
from ..formats.checkpoint import Labels, load_weights, save_config
from ..model import build_model
from ..runtime.collectives import from_first_rank, share_weights
from ..runtime.device import set_seed
from ..runtime.files import locked
from ..runtime.stop_signal import StopSignal
from ..runtime.terminal import ProgressBar, lines_beside_bar
from . import builders as setup
from .callback import Callback, CheckpointSaver, list_checkpoints
from .ema import Ema
from .optimizers import DynamicLossScale, build_optimizer
from .resume import DrawnSeed, Resumable, UsedFolder, load_fitting, refuse_used
from .run_log import Bar, LogLines, Progress, RunLog, as_line, save_run, short_line
from .trainer import BadSteps, Run, TrainingError, train
from .validation import Evaluation, load_validation_data

LOG = logging.getLogger("m2det.train")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that are not part of its configuration."""

    dataset_path: Path
    train_url: Path  # the folder of the run lies in it
    pretrained_backbone: Optional[Path] = None
    finetune: Optional[Path] = None  # a checkpoint
    resume: Optional[str] = None  # "auto", or a checkpoint
    force: bool = False  # resume in spite of differences
    log_interval: int = 10  # steps
    command_line: Sequence[str] = ()  # for run.json


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run is going to do."""

    trainable: int  # weights
    rates: np.ndarray  # (steps,) learning rates
    start: int  # steps done before
    images_per_step: int
    val_data: Optional[DetectionData]  # what is scored
    eval_interval: int  # epochs
    folder: Path


@dataclass(frozen=True)
class Finished:
    """The result of a run."""

    checkpoint: Path  # with the best AP; the last where nothing was scored
    ap: Optional[float]
    seconds: float
    val_data: Optional[DetectionData]  # what was scored


@dataclass(frozen=True, eq=False)
class Parts:  # of a run, built and resumed
    plan: Plan
    state: Resumable
    loss_scale: Optional[DynamicLossScale]
    evaluation: Optional[Evaluation]
    step: setup.Step
    batches: Any


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

    def run(self, announce: Callable[[Plan], None] = lambda _: None) -> Finished:
        """Build every part, hand them to each other and train; `announce` gets the plan first.

        Raises:
            UsedFolder: the folder holds another run.
            LockedError: a run is going on there.
            TrainingError: too many steps without a finite gradient.
        """
        began = time.monotonic()
        with self.at_exit:
            parts = self.build(self.claim_folder)
            announce(parts.plan)
            run = self.loop(parts)
            self.stop.defer()
            try:
                train(parts.step, parts.batches, run)
            except BadSteps as error:
                raise TrainingError(self.explain(error)) from None
        best = parts.evaluation.best if parts.evaluation is not None else -1.0
        path = self.folder / f"{self.prefix}-{'best' if best >= 0 else 'final'}.ckpt"
        ap = best if best >= 0 else None
        return Finished(path, ap, time.monotonic() - began, parts.plan.val_data)

    def dry_run(self) -> Tuple[Plan, Sequence[np.ndarray]]:
        """The plan and the first batch, () where no step is left. Writes nothing."""
        parts = self.build()
        with contextlib.closing(parts.batches) as batches:
            return parts.plan, next(batches) if parts.plan.start < len(parts.plan.rates) else ()

    def claim_folder(self) -> None:
        """Keeps other runs out of the folder until this one ends."""
        if self.rank == 0:
            self.at_exit.enter_context(locked(self.folder))
            refuse_used(self.folder, self.options.resume)

    def build(self, claim_folder: Callable[[], None] = lambda: None) -> Parts:
        """Every part, restored where a run is resumed.

        The folder is claimed after what needs no folder, so that refused input leaves none.
        """
        config, world_size = self.config, self.world_size
        set_seed(config.random_seed)
        warning = setup.batch_warning(config, world_size)
        if warning:
            LOG.warning("%s", warning)
        model = self.network()
        rates = setup.build_schedule(config, len(self.data.records), world_size)
        optimizer = build_optimizer(model, rates, config.optimizer)
        ema = Ema(list(model.get_parameters()), config.train.ema) if config.train.ema else None
        loss_scale = setup.build_loss_scale(config)
        val_data = self.validation_data()
        evaluation = self.evaluation(model, ema, val_data) if val_data else None
        fingerprint = setup.build_fingerprint(config, self.data, world_size)
        drawn = self.drawn_seed()
        others = [part for part in (loss_scale, evaluation, drawn) if part is not None]
        state = Resumable(model, optimizer, fingerprint, ema, others)
        claim_folder()
        start = self.resume(state)
        if evaluation is not None and self.comes_from_elsewhere:
            evaluation.forget_best()
        scale = loss_scale.scale if loss_scale else config.optimizer.loss_scale
        step = setup.build_step(config, model, optimizer, world_size, scale, ema)
        unseeded = drawn.value if drawn else None
        batches = setup.build_batches(
            config, self.data, start, len(rates), self.rank, world_size, unseeded
        )
        trainable = sum(int(np.prod(p.shape)) for p in model.trainable_params())
        per_step = setup.images_per_step(config, world_size)
        plan = Plan(trainable, rates, start, per_step, val_data, self.eval_interval, self.folder)
        return Parts(plan, state, loss_scale, evaluation, step, batches)

    def loop(self, parts: Parts) -> Run:
        """What the training loop has to know, with its callbacks."""
        plan, evaluation = parts.plan, parts.evaluation
        return Run(
            plan.rates,
            len(self.data.records),
            plan.images_per_step,
            plan.start,
            self.config.train.max_bad_steps,
            self.world_size,
            parts.loss_scale,
            lambda: self.stop.number,
            lambda: evaluation is not None and evaluation.should_stop,
            self.callbacks(parts),
        )

    def network(self) -> nn.Cell:
        """The network with its initial weights and frozen layers."""
        model = build_model(self.config)
        trained = self.goes_on
        if self.options.pretrained_backbone is not None:
            load_weights(model.backbone, self.options.pretrained_backbone, prefix="backbone.")
            trained = True
        if self.options.finetune is not None:
            lines = load_fitting(model, self.options.finetune)
            for line in lines:
                LOG.info("%s", line)
            anew = {line.partition(":")[0] for line in lines}
            trained |= not anew.issuperset(model.backbone.parameters_dict())
        if not trained:
            setup.refuse_frozen(self.config)
        if self.world_size > 1 and self.config.random_seed is None:
            share_weights(model, self.rank)
        setup.prepare_network(self.config, model, self.world_size)
        return model

    def drawn_seed(self) -> Optional[DrawnSeed]:
        """A seed shared by all ranks, where the configuration has none."""
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
        """The split scored while training."""
        if not self.eval_interval:
            return None
        config, path = self.config, self.options.dataset_path
        return load_validation_data(path, self.data, config.train, config.data.allow_links)

    def resume(self, state: Resumable) -> int:
        """The number of steps done before."""
        source, force = self.options.resume, self.options.force
        if source is None:
            return 0
        if source == "auto":
            return state.restore_newest(self.folder, self.prefix, force)
        step = state.restore(Path(source), force)
        newest = list_checkpoints(self.folder, self.prefix)[-1:]
        if newest and newest[0].absolute() != Path(source).absolute():
            raise UsedFolder(
                f"{self.folder} holds the later {newest[0].name}: --resume auto goes on from there,"
                " or choose another --train_url"
            )
        return step

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint to resume."""
        if self.options.resume != "auto":
            return self.options.resume is not None
        return bool(list_checkpoints(self.folder, self.prefix))

    @property
    def comes_from_elsewhere(self) -> bool:
        """Whether the run goes on from a checkpoint in another folder; the same on all ranks."""
        source = self.options.resume
        return source not in (None, "auto") and (
            Path(source).absolute().parent != self.folder.absolute()
        )

    def callbacks(self, parts: Parts) -> List[Callback]:
        """The first rank reports and saves; all of them score."""
        plan, state, evaluation = parts.plan, parts.state, parts.evaluation
        if self.rank:
            return [evaluation] if evaluation else []
        save_config(self.folder, self.config, Labels(self.data.class_names, self.data.category_ids))
        fields = {"world_size": self.world_size, "start_step": plan.start}
        save_run(self.folder, self.options.command_line, fields)
        logs: List[Any] = [RunLog(self.folder, plan.start)]
        if self.open_events is not None:
            logs.append(self.open_events(self.folder, plan.start, plan.val_data))
            self.at_exit.callback(logs[-1].close)
        bar = ProgressBar(len(plan.rates), "steps", done=plan.start)
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
        lines = LogLines(LOG, short_line if lines_beside_bar() else as_line)
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
