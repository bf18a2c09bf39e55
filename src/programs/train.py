# SPDX-License-Identifier: Apache-2.0
"""Train M2Det on a data set."""

import argparse
import contextlib
import logging
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import List, Sequence, Tuple

import mindspore as ms
import numpy as np

from ..config import get_config, with_classes
from ..data.coco_utils import load_data
from ..data.records import require_boxes
from ..drawing.tensorboard import EventLog
from ..formats.checkpoint import no_checkpoint
from ..priors import build_priors
from ..runtime.cpu_settings import thread_count
from ..runtime.device import setup_device
from ..runtime.errors import printable
from ..runtime.stop_signal import StopSignal
from ..runtime.terminal import duration, start_log
from ..training.builders import milestones
from ..training.expected_speed import expected_speed, remember_speed
from ..training.job import LOG, Finished, Job, Plan, RunOptions
from ..training.resume import refuse_used


def main(args: argparse.Namespace) -> None:
    config = get_config(args.config, args.set)
    for size in (config.model.input_size, *config.data.multi_scale):
        build_priors(config, size)  # refuses anchors and sizes before anything is written
    if args.check:
        sys.exit(check(args))
    refuse_used(args.train_url / config.experiment_tag, args.resume)
    if args.resume not in (None, "auto") and not Path(args.resume).is_file():
        raise no_checkpoint(Path(args.resume))
    with StopSignal() as stop:
        rank, world_size = setup_device(
            args.device_target, args.device_id, args.distribute, config.train.allow_tf32
        )
        start_log(logging.INFO if rank == 0 else logging.WARNING)
        data = load_data(args.dataset_path, args.split, allow_links=config.data.allow_links)
        require_boxes(data)
        config = with_classes(config, len(data.class_names) + 1)
        job = Job(config, data, options_of(args), rank, world_size, stop, EventLog)
        if args.dry_run:
            print_dry_run(job, *job.dry_run())
            return
        finished = job.run(partial(announce, job))
    if rank == 0:
        remember_speed(config, job.folder, device_of(job))
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
        log_interval=args.log_interval,
        command_line=sys.argv[1:],
    )


def announce(job: Job, plan: Plan) -> None:
    """Logs what is going to happen."""
    for line in describe(job, plan):
        LOG.info("%s", line)
    LOG.info("output   %s", printable(str(plan.folder)))
    left = len(plan.rates) - plan.start
    expected = expected_speed(job.config, plan.folder, device_of(job))
    if left and expected:
        seconds = left * plan.images_per_step / expected[0]
        LOG.info("time     about %s, %s", duration(max(seconds, 1)), expected[1])
    if left:
        LOG.info("compiling, about 20 s the first time; the time left is known after that")


def device_of(job: Job) -> str:
    """The device in words."""
    target = ms.get_context("device_target")
    device = f"{target}, {thread_count()} threads" if target == "CPU" else target
    return device + (f", {job.world_size} ranks" if job.world_size > 1 else "")


def describe(job: Job, plan: Plan) -> List[str]:
    """Network, device, data, and how long it will be trained, a line each."""
    model, data = job.config.model, job.data
    size, images = model.input_size, len(data.records)
    epochs = len(plan.rates) * plan.images_per_step / images
    done = f"; {plan.start} are done" if plan.start else ""
    lines = [
        f"network  {model.backbone}, {size} x {size} px, {plan.trainable:,} trainable parameters",
        f"device   {device_of(job)}",
        f"data     {data.split}: {images} images, {len(data.class_names)} classes",
        f"length   {len(plan.rates)} steps of {plan.images_per_step} images, {epochs:.1f} epochs"
        + done,
    ]
    if plan.val_data is not None:
        often = "each epoch" if plan.eval_interval == 1 else f"every {plan.eval_interval} epochs"
        count = len(plan.val_data.records)
        lines.append(f"scores   {plan.val_data.split}: {count} images, {often}")
    return lines


def print_dry_run(job: Job, plan: Plan, batch: Sequence[np.ndarray]) -> None:
    """The plan, the shapes of a batch and the schedule."""
    print("\n".join(describe(job, plan)))
    for name, part in zip(("images", "loc_targets", "label_targets"), batch):
        print(f"{name}: {part.shape} {part.dtype}")
    print("\n".join(milestones(plan.rates, len(job.data.records) / plan.images_per_step)))


def print_result(finished: Finished, dataset_path: Path) -> None:
    """Prints AP, the checkpoint, and the commands to use it."""
    path = str(finished.checkpoint)
    score = "" if finished.ap is None else f", AP {finished.ap:.4f} at best"
    print(f"\ndone in {duration(finished.seconds)}{score}")
    print(f"checkpoint: {printable(path)}\nnext:")
    checkpoint = ("--checkpoint_path", path)
    commands: List[Tuple[str, ...]] = [("export", *checkpoint)]
    if finished.val_data is not None:
        images = Path(finished.val_data.records[0].path).parent
        with contextlib.suppress(ValueError):  # as the user calls the folder
            images = dataset_path / images.relative_to(dataset_path.resolve())
        where = ("--dataset_path", str(dataset_path), "--split", finished.val_data.split)
        commands = [
            ("eval", *checkpoint, *where, "--report"),
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
    return "\n".join(map(printable, lines))


def check(args: argparse.Namespace) -> int:
    """What `check_data.py` says of the data set; its exit code."""
    from . import command

    flags = [str(args.dataset_path), "--config", args.config]
    if args.split != "train":
        flags += ["--split", args.split]
    return command.run("check", [*flags, *(word for text in args.set for word in ("--set", text))])
