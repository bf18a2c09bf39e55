# SPDX-License-Identifier: Apache-2.0
"""Train M2Det on a data set."""

import argparse
import logging
import sys
from pathlib import Path

from ..config import get_config, with_classes
from ..data.coco_utils import load_data
from ..data.records import require_boxes
from ..formats.checkpoint import CheckpointError
from ..priors import build_priors
from ..runtime.device import setup_device
from ..runtime.stop_signal import StopSignal
from ..training.job import LOG, Job
from ..training.resume import refuse_used


def main(args: argparse.Namespace) -> None:
    config = get_config(args.config, args.set)
    for size in (config.model.input_size, *config.data.multi_scale):
        build_priors(config, size)  # refuses anchors and sizes before anything is written
    if args.check:
        sys.exit(check(args))
    refuse_used(args.train_url / config.experiment_tag, args.resume)
    if args.resume not in (None, "auto") and not Path(args.resume).is_file():
        raise CheckpointError(f"checkpoint {args.resume} not found")
    with StopSignal() as stop:
        rank, world_size = setup_device(args.device_target, args.device_id, args.distribute)
        logging.basicConfig(
            level=logging.INFO if rank == 0 else logging.WARNING,
            format="%(asctime)s %(message)s",
            stream=sys.stdout,
        )
        data = load_data(args.dataset_path, args.split, allow_links=config.data.allow_links)
        require_boxes(data)
        config = with_classes(config, len(data.class_names) + 1)
        images, classes = len(data.records), len(data.class_names)
        text = "%s on %d images, %d classes, %d rank(s)"
        LOG.info(text, args.config, images, classes, world_size)
        Job(config, data, args, rank, world_size, stop).run()


def check(args: argparse.Namespace) -> int:
    """What `check_data.py` says of the data set; its exit code."""
    from . import command

    flags = [str(args.dataset_path), "--config", args.config]
    if args.split != "train":
        flags += ["--split", args.split]
    return command.run("check", [*flags, *(word for text in args.set for word in ("--set", text))])
