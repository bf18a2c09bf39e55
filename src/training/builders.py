# SPDX-License-Identifier: Apache-2.0
"""The parts of a training run, built as a configuration asks for."""

import logging
from dataclasses import asdict
from typing import Any, Callable, Dict, Generator, List, Optional, Tuple

import mindspore as ms
import numpy as np
from mindspore import nn

from ..config import Config
from ..data.dataset import batches, build_train_dataset
from ..data.records import DetectionData
from ..data.sample_stream import SampleStream, Shard
from ..evaluation.coco_metrics import category_ids_for
from ..formats.checkpoint import Labels
from ..inference.detector import ArrayDetector
from ..inference.mindspore_network import cell_network
from ..loss import ModelWithLoss, MultiBoxLoss
from ..model.cpu_layers import fit_to_device
from ..priors import build_priors
from ..runtime.collectives import share_values
from ..runtime.gpu.transfer import GpuTransfer, Transfer
from ..runtime.graph_cache.cached_cell import Cached
from ..runtime.typed_config import ConfigError
from .accumulation import AccumulatedStep
from .callback import Scored
from .ema import Ema
from .lr_scheduler import learning_rates, total_steps
from .network_setup import (
    freeze,
    running_statistics,
    synchronise_batch_norm,
    use_float16,
)
from .optimizers import FIRST_LOSS_SCALE, DynamicLossScale, Optimizer
from .train_step import Gradients, Step, TrainStep, Update
from .validation import Score, SplitScorer

LOG = logging.getLogger("m2det.train")
LONGEST_WARMUP = 0.3  # of all steps
KNOWN_BATCH = 32  # largest total batch with which results without rescaling are known


def build_schedule(config: Config, num_images: int, world_size: int) -> np.ndarray:
    """One learning rate for each step of the run, (steps,) float32.

    The warm-up is in epochs, the length may be in steps: it ends after `LONGEST_WARMUP` of them.
    """
    per_step = images_per_step(config, world_size)
    steps = config.train.total_steps or total_steps(config.train.total_epochs, num_images, per_step)
    return learning_rates(
        config.train.lr * (world_size if config.train.scale_lr else 1),
        steps,
        num_images / per_step,
        min(config.train.warmup, LONGEST_WARMUP * steps * per_step / num_images),
        config.train.lr_epochs,
        config.train.gamma,
        config.train.schedule,
    )


def eval_interval(config: Config, num_images: int, world_size: int) -> int:
    """Whole epochs from one scoring to the next; 0: never."""
    train, per_step = config.train, images_per_step(config, world_size)
    if train.eval_epochs or not train.eval_times:
        return train.eval_epochs
    steps = train.total_steps or total_steps(train.total_epochs, num_images, per_step)
    return max(1, round(steps * per_step / num_images / train.eval_times))


def images_per_step(config: Config, world_size: int) -> int:
    """Images whose gradients make one update."""
    return config.train.per_batch_size * config.train.accumulate * world_size


def batch_warning(config: Config, world_size: int) -> Optional[str]:
    """A warning where the total batch is larger than the range known to work."""
    total = images_per_step(config, world_size)
    rescaled = config.train.scale_lr and total <= KNOWN_BATCH * world_size and world_size > 1
    if total <= KNOWN_BATCH or rescaled:
        return None
    return (
        f"total batch {total} with a learning rate that is not scaled to it: beyond {KNOWN_BATCH}"
        " AP 22 instead of 33 has been reported; see train.scale_lr, train.lr"
    )


def refuse_frozen(config: Config) -> None:
    """For a backbone that has only its random weights.

    Raises:
        ConfigError: layers of it would stay so.
    """
    chosen = {
        "train.freeze_backbone": config.train.freeze_backbone,
        "train.freeze_stages": config.train.freeze_stages,
    }
    for name, value in chosen.items():
        if value:
            raise ConfigError(
                f"{name}: what is frozen of the backbone would stay random; give it weights with"
                " --finetune or --pretrained_backbone, or train all of it:"
                f" --set {name}={'0' if value is not True else 'false'}"
                " --set train.freeze_batch_norm=none"
            )


def prepare_network(config: Config, model: nn.Cell, world_size: int) -> None:
    """Freeze and synchronise layers in place, once weights have been loaded."""
    train = config.train
    freeze(model, train.freeze_backbone, train.freeze_batch_norm, train.freeze_stages)
    if config.train.sync_batch_norm and world_size > 1:
        synchronise_batch_norm(model, world_size)
    if not model.trainable_params():
        raise ConfigError("train.freeze_backbone, train.freeze_batch_norm: nothing left to train")
    fit_to_device(model)


def build_loss_scale(config: Config) -> Optional[DynamicLossScale]:
    """A dynamic loss scale with float16; else None, and `optimizer.loss_scale` is constant."""
    if config.train.amp_level == "O0":
        return None
    start = config.optimizer.loss_scale
    return DynamicLossScale(start if start > 1 else FIRST_LOSS_SCALE)


def build_criterion(config: Config, world_size: int) -> MultiBoxLoss:
    """The configured loss."""
    return MultiBoxLoss(
        config.model.num_classes,
        config.loss,
        empty_image_negatives=config.train.empty_image_negatives,
        world_size=world_size,
    )


def build_step(
    config: Config,
    model: nn.Cell,
    optimizer: Optimizer,
    world_size: int,
    loss_scale: float,
    ema: Optional[Ema] = None,
) -> Step:
    """The network with its loss and update, in training mode."""
    statistics = running_statistics(model)
    criterion = build_criterion(config, world_size)
    cell = ModelWithLoss(use_float16(model, config.train.amp_level), criterion)
    cell.set_train()
    target = ms.get_context("device_target")
    clip = config.optimizer.clip_grad_norm
    update = Update(optimizer, clip, world_size, target != "CPU", saturating=target == "Ascend")
    gradients = Gradients(cell, update, loss_scale, config.data.mean_bgr)
    transfer = GpuTransfer(config.model.num_classes) if target == "GPU" else Transfer()
    parts = config.train.accumulate
    if parts > 1:
        return AccumulatedStep(gradients, update, parts, statistics, ema, Cached, transfer)
    return TrainStep(gradients, update, statistics, ema, Cached, transfer)


def build_batches(
    config: Config,
    data: DetectionData,
    start: int,
    total: int,
    rank: int,
    world_size: int,
    unseeded: Optional[int] = None,
) -> Generator[Tuple[np.ndarray, ...], None, None]:
    """(images, loc targets, label targets, image numbers) of the steps `start` to `total`.

    `unseeded` is the seed of the augmentation where the configuration has none.
    """
    sizes = config.data.multi_scale or (config.model.input_size,)
    train, seed = config.train, config.random_seed
    stream = SampleStream(
        data,
        {size: build_priors(config, size) for size in sizes},
        config.data,
        Shard(train.per_batch_size * train.accumulate, total, start, rank, world_size),
        seed=unseeded if seed is None else seed,
        shuffled=seed is not None,
        matching=config.anchors,
        raw=True,
    )
    return batches(build_train_dataset(stream, train.num_workers))


def build_fingerprint(config: Config, data: DetectionData, world_size: int) -> Dict[str, Any]:
    """Settings and data that must be the same when a run is resumed."""
    train = config.train
    network = {k: v for k, v in asdict(config.model).items() if k != "num_classes"}
    return {
        "model": network,
        "anchors": asdict(config.anchors),
        "loss": asdict(config.loss),
        "data": {"mean_bgr": config.data.mean_bgr, "multi_scale": config.data.multi_scale},
        "classes": list(data.class_names),
        "world_size": world_size,
        "images_per_step": images_per_step(config, world_size),
        "num_images": len(data.records),
        "random_seed": config.random_seed,
        "schedule": [train.schedule, train.lr, train.scale_lr, train.total_epochs, train.warmup],
        "total_steps": train.total_steps,
        "milestones": [list(train.lr_epochs), list(train.gamma)],
        "optimizer": config.optimizer.type,
    }


def build_scorer(
    config: Config,
    model: nn.Cell,
    data: DetectionData,
    labels: Labels,
    rank: int,
    world_size: int,
    stopping: Callable[[], bool],
) -> Score:
    """Scores `model` on `data` as `eval.py` would.

    Ranks that do not synchronise their BatchNorm take the first one's statistics for it, which are
    those of the checkpoints; training does not use them.
    """

    def make_detector() -> ArrayDetector:
        return ArrayDetector.from_network(cell_network(model), config, labels, "the network")

    scorer = SplitScorer(
        model,
        make_detector,
        data,
        category_ids_for(labels.class_names, data),
        config.test.batch_size,
        config.train.num_workers,
        rank,
        world_size,
        stopping,
    )
    statistics = running_statistics(model)

    def score(show: Callable[[str], None]) -> Optional[Scored]:
        if world_size > 1 and statistics:
            share_values(statistics, rank)
        return scorer(show)

    return score


def milestones(rates: np.ndarray, steps_per_epoch: float) -> List[str]:
    """A line for the first step, the last, and each at which the rate jumps."""
    table = rates.astype(np.float64)
    change = np.abs(np.diff(table))
    # a drop by a tenth or more, after which the rate stays or changes far less
    jumps = (change[:-1] > 0.1 * table[:-2]) & (change[:-1] > 5 * change[1:])
    turns = [s + 1 for s in np.flatnonzero(jumps).tolist() if s + 1 > int(table.argmax())]
    steps = sorted({0, int(table.argmax()), *turns, len(table) - 1})
    return [f"epoch {s / steps_per_epoch:.2f} step {s + 1}: lr {rates[s]:.3e}" for s in steps]
