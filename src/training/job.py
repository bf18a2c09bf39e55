# SPDX-License-Identifier: Apache-2.0
"""A training run from its first file to its last: what train.py wires together."""

import argparse
import contextlib
import logging
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np
from mindspore import nn

from ..config import Config
from ..data.coco_utils import load_data
from ..data.records import DataError, DetectionData
from ..formats.checkpoint import Labels, load_weights, save_config
from ..model import build_model
from ..runtime.collectives import from_first_rank, share_weights
from ..runtime.device import set_seed
from ..runtime.files import locked
from ..runtime.stop_signal import StopSignal
from . import builders as setup
from .callback import Callback, CheckpointSaver, list_checkpoints
from .ema import Ema
from .resume import DrawnSeed, Resumable, UsedFolder, load_fitting, refuse_used
from .run_log import Bar, LogLines, Progress, RunLog, save_run
from .trainer import BadSteps, Run, TrainingError, train
from .validation import Evaluation

LOG = logging.getLogger("m2det.train")


@dataclass
class Job:
    """A training run on this rank."""

    config: Config
    data: DetectionData
    args: argparse.Namespace
    rank: int
    world_size: int
    stop: StopSignal
    at_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def folder(self) -> Path:
        return Path(self.args.train_url) / self.config.experiment_tag

    @property
    def prefix(self) -> str:
        return f"{self.config.model.backbone}_{self.config.model.input_size}"

    def run(self) -> None:
        """Build every part, hand them to each other and train.

        Raises:
            UsedFolder: the folder holds another run.
            LockedError: a run is going on there.
            TrainingError: too many steps without a finite gradient.
        """
        with self.at_exit:
            self.build_and_train()

    def build_and_train(self) -> None:
        config, world_size = self.config, self.world_size
        set_seed(config.random_seed)
        warning = setup.batch_warning(config, world_size)
        if warning:
            LOG.warning("%s", warning)
        model = self.network()
        rates = setup.build_schedule(config, len(self.data.records), world_size)
        optimizer = setup.build_optimizer_for(config, model, rates)
        ema = Ema(list(model.get_parameters()), config.train.ema) if config.train.ema else None
        loss_scale = setup.build_loss_scale(config)
        evaluation = self.evaluation(model, ema)
        facts = setup.build_facts(config, self.data, world_size)
        drawn = self.drawn_seed()
        others = [part for part in (loss_scale, evaluation, drawn) if part is not None]
        state = Resumable(model, optimizer, facts, ema, others)
        if self.rank == 0 and not self.args.dry_run:
            self.at_exit.enter_context(locked(self.folder))
            refuse_used(self.folder, self.args.resume)
        start = self.resume(state)
        scale = loss_scale.scale if loss_scale else config.optimizer.loss_scale
        step = setup.build_step(config, model, optimizer, world_size, scale, ema)
        unseeded = drawn.value if drawn else None
        batches = setup.build_batches(
            config, self.data, start, len(rates), self.rank, world_size, unseeded
        )
        if self.args.dry_run:
            self.show(model, rates, next(batches) if start < len(rates) else ())
            batches.close()
            return
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
            self.callbacks(state, evaluation, start, len(rates)),
        )
        self.stop.defer()
        self.train(step, batches, run)
        LOG.info("done: %s", self.folder / f"{self.prefix}-final.ckpt")

    def train(self, step: setup.Step, batches: Any, run: Run) -> None:
        """All steps; an error says all there is to know."""
        try:
            train(step, batches, run)
        except BadSteps as error:
            raise TrainingError(self.explain(error)) from None

    def network(self) -> nn.Cell:
        """With the weights it begins with, and what is frozen."""
        model = build_model(self.config)
        if self.args.pretrained_backbone.lower() != "none":
            load_weights(model.backbone, self.args.pretrained_backbone, prefix="backbone.")
        if self.args.finetune:
            for line in load_fitting(model, Path(self.args.finetune)):
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

    def evaluation(self, model: nn.Cell, ema: Optional[Ema]) -> Optional[Evaluation]:
        every = setup.eval_interval(self.config, len(self.data.records), self.world_size)
        data = self.validation_data() if every else None
        if data is None:
            return None
        scorer = setup.build_scorer(
            self.config,
            model,
            data,
            Labels(self.data.class_names, self.data.category_ids),
            self.rank,
            self.world_size,
            lambda: self.stop.number is not None,
        )
        weights = model.parameters_dict
        return Evaluation(scorer, every, self.config.train.early_stop, weights, ema)

    def validation_data(self) -> Optional[DetectionData]:
        """What is scored in between; only `train.eval_epochs` insists on it."""
        wanted = self.config.train
        links = self.config.data.allow_links
        try:
            data = load_data(self.args.dataset_path, wanted.eval_split, allow_links=links)
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
        wanted, force = self.args.resume, self.args.force
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
        self, state: Resumable, evaluation: Optional[Evaluation], start: int, total: int
    ) -> List[Callback]:
        """The first rank reports and saves; all of them score."""
        if self.rank:
            return [evaluation] if evaluation else []
        save_config(self.folder, self.config, Labels(self.data.class_names, self.data.category_ids))
        facts = {"world_size": self.world_size, "start_step": start}
        save_run(self.folder, sys.argv[1:], facts)
        log = RunLog(self.folder, start)
        self.at_exit.callback(log.close)
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
        found: List[Callback] = [Progress([LogLines(LOG), log], self.args.log_interval)]
        if sys.stderr.isatty():
            found.append(Bar(total, start, LOG))
        if evaluation is not None:
            evaluation.watch(saver, log.scores)
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

    def show(self, model: nn.Cell, rates: np.ndarray, batch: Sequence[Any]) -> None:
        """What `--dry_run` prints."""
        size = sum(int(np.prod(p.shape)) for p in model.trainable_params())
        print(f"{size:,} trainable parameters")
        for name, part in zip(("images", "loc_targets", "label_targets"), batch):
            print(f"{name}: {part.shape} {part.dtype}")
        per_step = setup.images_per_step(self.config, self.world_size)
        print(f"{len(rates)} steps of {per_step} images")
        for line in setup.milestones(rates, len(self.data.records) / per_step):
            print(line)
