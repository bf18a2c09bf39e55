# SPDX-License-Identifier: Apache-2.0
"""Train M2Det on a data set."""

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import List, Sequence, Tuple

from ..config import get_config, with_classes
from ..data.coco_utils import load_data
from ..data.records import require_boxes
from ..drawing.tensorboard import EventLog
from ..formats.checkpoint import CheckpointError
from ..priors import build_priors
from ..runtime.device import setup_device
from ..runtime.errors import printable
from ..runtime.stop_signal import StopSignal
from ..runtime.terminal import duration, start_log
from ..training.job import Finished, Job, RunOptions
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
        start_log(logging.INFO if rank == 0 else logging.WARNING)
        data = load_data(args.dataset_path, args.split, allow_links=config.data.allow_links)
        require_boxes(data)
        config = with_classes(config, len(data.class_names) + 1)
        finished = Job(config, data, options_of(args), rank, world_size, stop, EventLog).run()
    if finished is not None and rank == 0:
        print_result(finished, args.dataset_path)


def options_of(args: argparse.Namespace) -> RunOptions:
    none = args.pretrained_backbone.lower() == "none"
    return RunOptions(
        dataset_path=args.dataset_path,
        train_url=args.train_url,
        pretrained_backbone=None if none else Path(args.pretrained_backbone),
        finetune=Path(args.finetune) if args.finetune else None,
        resume=args.resume,
        force=args.force,
        dry_run=args.dry_run,
        log_interval=args.log_interval,
        command_line=sys.argv[1:],
    )


def print_result(finished: Finished, dataset_path: Path) -> None:
    """AP, where the checkpoint lies, and the commands that go on from there."""
    path = str(finished.checkpoint)
    score = "" if finished.ap is None else f", AP {finished.ap:.4f} at best"
    print(f"\ndone in {duration(finished.seconds)}{score}")
    print(printable(f"checkpoint: {path}\n".strip()) + "\nnext:")
    checkpoint = ("--checkpoint_path", path)
    commands: List[Tuple[str, ...]] = [("export", *checkpoint)]
    if finished.val_data is not None:
        split, images = finished.val_data.split, Path(finished.val_data.records[0].path).parent
        commands = [
            (
                "eval",
                *checkpoint,
                "--dataset_path",
                str(dataset_path),
                "--split",
                split,
                "--report",
            ),
            ("demo", *checkpoint, "--input", str(images)),
            *commands,
        ]
    for command in commands:
        print(as_command(command))


def as_command(words: Sequence[str]) -> str:
    """A command as it is typed, in lines that fit a terminal of 80 columns if they can."""
    name, *rest = words
    program = f"m2det {name}" if Path(sys.argv[0]).name == "m2det" else f"python {name}.py"
    lines = [f"  {program}"]
    for part in " ".join(map(shlex.quote, rest)).replace(" --", "\0--").split("\0"):
        if len(lines[-1]) + len(part) > 77:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    return "\n".join(lines)


def check(args: argparse.Namespace) -> int:
    """What `check_data.py` says of the data set; its exit code."""
    from . import command

    flags = [str(args.dataset_path), "--config", args.config]
    if args.split != "train":
        flags += ["--split", args.split]
    return command.run("check", [*flags, *(word for text in args.set for word in ("--set", text))])
