# SPDX-License-Identifier: Apache-2.0
"""Train M2Det on a COCO or Pascal VOC data set."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Optional, Sequence

from src.config import default_preset, get_config, with_classes
from src.data.coco_utils import load_data
from src.data.records import require_boxes
from src.formats import shipped
from src.formats.checkpoint import CheckpointError
from src.priors import build_priors
from src.runtime.device import setup_device
from src.runtime.stop_signal import StopSignal
from src.training.job import LOG, Job
from src.training.resume import refuse_used
from src.utils import add_common_arguments, run_main


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", required=True, type=Path, help="COCO or VOC folder")
    parser.add_argument("--split", default="train", help="split to train on (default: train)")
    parser.add_argument(
        "--pretrained_backbone", default="none", help="converted backbone weights, or none"
    )
    parser.add_argument("--train_url", default="outputs", type=Path, help="output folder")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", metavar="PATH|auto", help="go on from a checkpoint")
    begin.add_argument(
        "--finetune",
        metavar=f"PATH|{shipped.NAME}",
        help="begin with what fits of a checkpoint, or of the network that comes with the project",
    )
    parser.add_argument(
        "--force", action="store_true", help="resume in spite of other classes, ranks or schedule"
    )
    parser.add_argument("--check", action="store_true", help="check the data set and stop")
    parser.add_argument("--dry_run", action="store_true", help="build, show a batch, and stop")
    parser.add_argument("--distribute", action="store_true", help="one of several msrun ranks")
    parser.add_argument("--log_interval", type=int, default=10, help="steps between log lines")
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.log_interval < 1:
        parser.error(f"--log_interval must be at least 1, not {args.log_interval}")
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    if args.finetune == shipped.NAME:
        args.finetune, args.config = str(shipped.PHOTOS), args.config or shipped.PRESET
    args.config = args.config or default_preset(args.device_target)
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
    import check_data

    flags = [str(args.dataset_path), "--config", args.config]
    return check_data.main([*flags, *(word for text in args.set for word in ("--set", text))])


if __name__ == "__main__":
    run_main(main)
