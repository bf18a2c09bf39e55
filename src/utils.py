# SPDX-License-Identifier: Apache-2.0
"""Device, ranks, seeds, strict loading of weights, and what the command lines share."""

import argparse
import sys
from typing import Any, Callable, Optional, Tuple

import mindspore as ms
import numpy as np
from mindspore.communication import get_group_size, get_rank, init

from src.config import PRESETS
from src.cpu_settings import thread_count
from src.formats.checkpoint import load_weights
from src.graph_cache import open_cache

__all__ = [
    "add_common_arguments",
    "add_config_arguments",
    "load_weights",
    "run_main",
    "set_seed",
    "setup_device",
]


def run_main(main: Callable[[], Any]) -> None:
    """Call a script's `main`; an expected error becomes one line on stderr and exit code 2."""
    try:
        main()
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--set`, `--device_target` and `--device_id`."""
    add_config_arguments(parser)
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "GPU", "Ascend"))
    parser.add_argument("--device_id", type=int, default=0)


def add_config_arguments(parser: argparse.ArgumentParser, preset: Optional[str] = None) -> None:
    """`--config`, where left out `preset`, and `--set`."""
    choices = ", ".join(PRESETS)
    parser.add_argument("--config", metavar="NAME", default=preset, help=f"preset: {choices}")
    parser.add_argument(
        "--set",
        metavar="section.key=value",
        action="append",
        default=[],
        help="override a parameter of src/config.py; may be given several times",
    )


def setup_device(target: str, device_id: int = 0, distribute: bool = False) -> Tuple[int, int]:
    """Select graph mode, device and cache of graphs; returns (rank, number of ranks).

    Raises:
        ValueError: the device is not there.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    if target == "CPU":
        ms.set_context(runtime_num_threads=thread_count())
    try:
        # Under msrun each rank takes its own device.
        ms.set_device(target) if distribute else ms.set_device(target, device_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if target == "GPU":
            reason = f"`python -m src.check_device` says what is missing ({reason})"
        raise ValueError(f"device {target} {device_id} cannot be used: {reason}") from None
    rank, world_size = 0, 1
    if distribute:
        init()
        rank, world_size = get_rank(), get_group_size()
        ms.set_auto_parallel_context(
            parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=world_size
        )
    open_cache(target, rank, world_size)
    return rank, world_size


def set_seed(seed: Optional[int]) -> None:
    """Seed weight initialisation; None leaves it to chance."""
    if seed is not None:
        ms.set_seed(seed)
        np.random.seed(seed)
