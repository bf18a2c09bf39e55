# SPDX-License-Identifier: Apache-2.0
"""Train M2Det on a COCO or Pascal VOC data set."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Iterator, Optional, Sequence, Tuple

import numpy as np
from mindspore import Tensor, nn

from src.callback import CheckpointSaver, ProgressLog, list_checkpoints
from src.checkpoint import CheckpointError, Labels, resolve_config, save_config
from src.coco_utils import load_data
from src.config import Config, override
from src.dataset import batches, build_train_dataset
from src.loss import ModelWithLoss, MultiBoxLoss, TrainOneStepCell
from src.lr_scheduler import learning_rates
from src.model import build_model
from src.priors import make_priors
from src.records import DetectionData
from src.trainer import build_optimizer, optimizer_state, resume, total_steps, train
from src.utils import (
    add_common_arguments,
    load_weights,
    run_main,
    set_seed,
    setup_device,
    with_classes,
)

LOG = logging.getLogger("m2det.train")


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", required=True, type=Path, help="COCO or VOC folder")
    parser.add_argument("--split", default="train", help="split to train on (default: train)")
    parser.add_argument(
        "--pretrained_backbone", default="none", help="converted backbone weights, or none"
    )
    parser.add_argument("--train_url", default="outputs", type=Path, help="output folder")
    parser.add_argument("--resume", metavar="PATH|auto", help="go on from a checkpoint")
    parser.add_argument("--distribute", action="store_true", help="one of several msrun ranks")
    parser.add_argument("--log_interval", type=int, default=10, help="steps between log lines")
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    config = resolve_config(args.config, args.set)
    rank, world_size = setup_device(args.device_target, args.device_id, args.distribute)
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format="%(asctime)s %(message)s",
        stream=sys.stdout,
    )
    data = load_data(args.dataset_path, args.split, allow_links=config.data.allow_links)
    config = with_classes(config, len(data.class_names) + 1)
    LOG.info(
        "%d images, %d classes, %d rank(s)", len(data.records), len(data.class_names), world_size
    )
    folder = args.train_url / config.experiment_tag
    run(config, data, args, folder, rank, world_size)


def run(
    config: Config,
    data: DetectionData,
    args: argparse.Namespace,
    folder: Path,
    rank: int,
    world_size: int,
) -> None:
    """Build every part, hand them to each other and train."""
    set_seed(config.random_seed)
    model = build_model(config)
    if args.pretrained_backbone.lower() != "none":
        load_weights(model.backbone, args.pretrained_backbone, prefix="backbone.")
    rates = schedule(config, len(data.records), world_size)
    optimizer = build_optimizer(
        model,
        rates,
        config.optimizer.momentum,
        config.optimizer.weight_decay,
        config.optimizer.dampening,
    )
    prefix = f"{config.model.backbone}_{config.model.input_size}"
    start_step = resume_run(args.resume, folder, prefix, model, optimizer)
    steps = training_batches(config, data, start_step, len(rates), rank, world_size)
    callbacks = []
    if rank == 0:
        save_config(folder, config, Labels(data.class_names, data.category_ids))
        saver = CheckpointSaver(
            folder,
            prefix,
            model.parameters_dict,
            lambda: optimizer_state(optimizer),
            config.train.save_epochs,
            config.train.keep_checkpoints,
        )
        callbacks = [ProgressLog(LOG, args.log_interval), saver]
    train(
        training_step(config, model, optimizer, world_size),
        steps,
        rates,
        len(data.records),
        config.train.per_batch_size * world_size,
        start_step,
        callbacks,
    )
    LOG.info("done: %s", folder / f"{prefix}-final.ckpt")


def schedule(config: Config, num_images: int, world_size: int) -> np.ndarray:
    """One learning rate for each step of the run."""
    images_per_step = config.train.per_batch_size * world_size
    return learning_rates(
        config.train.lr * (world_size if config.train.scale_lr else 1),
        total_steps(config.train.total_epochs, num_images, images_per_step),
        num_images / images_per_step,
        config.train.warmup,
        config.train.lr_epochs,
        config.train.gamma,
        config.train.schedule,
    )


def training_step(
    config: Config, model: nn.Cell, optimizer: nn.Optimizer, world_size: int
) -> TrainOneStepCell:
    """The network with its loss and update."""
    criterion = MultiBoxLoss(
        config.model.num_classes,
        empty_image_negatives=config.train.empty_image_negatives,
        world_size=world_size,
    )
    return TrainOneStepCell(
        ModelWithLoss(model, criterion),
        optimizer,
        config.optimizer.clip_grad_norm,
        config.optimizer.loss_scale,
        world_size,
    )


def training_batches(
    config: Config, data: DetectionData, start: int, total: int, rank: int, world_size: int
) -> Iterator[Tuple[Tensor, ...]]:
    """(images, loc targets, label targets) of the steps `start` to `total`."""
    scales = {
        size: make_priors(override(config, [f"model.input_size={size}"]))
        for size in config.data.multi_scale
    }
    dataset = build_train_dataset(
        data,
        make_priors(config),
        input_size=config.model.input_size,
        mean_bgr=config.data.mean_bgr,
        batch_size=config.train.per_batch_size,
        start_step=start,
        total_steps=total,
        seed=config.random_seed,
        rank=rank,
        world_size=world_size,
        num_workers=config.train.num_workers,
        iou_threshold=config.anchors.iou_threshold,
        strict=config.data.strict,
        random_interpolation=config.data.random_interpolation,
        most_expand=config.data.most_expand,
        mosaic=config.data.mosaic,
        mixup=config.data.mixup,
        multi_scale=scales,
    )
    return (tuple(map(Tensor, batch[:3])) for batch in batches(dataset))


def resume_run(
    wanted: Optional[str], folder: Path, prefix: str, model: nn.Cell, optimizer: nn.Optimizer
) -> int:
    """Restore `wanted` (a path, or "auto" for the newest good checkpoint); returns its step."""
    if wanted is None:
        return 0
    if wanted != "auto":
        return resume(Path(wanted), model, optimizer)
    for path in reversed(list_checkpoints(folder, prefix)):
        try:
            step = resume(path, model, optimizer)
        except CheckpointError as error:
            LOG.warning("passed over: %s", error)
            continue
        LOG.info("going on from %s, step %d", path, step)
        return step
    LOG.info("nothing to resume in %s: starting anew", folder)
    return 0


if __name__ == "__main__":
    run_main(main)
