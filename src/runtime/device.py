# SPDX-License-Identifier: Apache-2.0
"""Choosing the device, joining the ranks, seeds."""

import ctypes
import os
from typing import Optional, Tuple

import mindspore as ms
import numpy as np
from mindspore.communication import get_group_size, get_rank, init

from .cpu_settings import thread_count
from .errors import M2DetError, UsageError
from .gpu.workarounds import set_gpu_context
from .graph_cache.cached_cell import open_cache

# One of them is set by msrun, by mpirun, and for Ascend's rank tables.
RANK_VARIABLES = ("MS_ROLE", "OMPI_COMM_WORLD_RANK", "RANK_ID")


class DeviceError(M2DetError, ValueError):
    """A device that is not there or cannot be used."""


def setup_device(
    target: str, device_id: int = 0, distribute: bool = False, allow_tf32: bool = False
) -> Tuple[int, int]:
    """Select graph mode, device and cache of graphs; returns (rank, number of ranks).

    Args:
        target: "CPU", "GPU" or "Ascend".
        device_id: which of them; a rank of a launcher takes its own.
        distribute: join the other ranks.
        allow_tf32: let a GPU of Ampere or later round the inputs of float32 convolutions.

    Raises:
        DeviceError: the device is not there.
        UsageError: `distribute` without a launcher.
    """
    if distribute and not any(name in os.environ for name in RANK_VARIABLES):
        raise UsageError(
            "--distribute is for the ranks of a launcher: scripts/run_distributed_train_gpu.sh or"
            " python -m src.runtime.launch --ranks N"
        )
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_recursion_limit(10000)  # loops over all weights are unrolled: ResNets have hundreds
    if target == "CPU":
        ms.set_context(runtime_num_threads=thread_count())
    try:
        if target == "GPU":
            ctypes.CDLL("libcuda.so.1")  # MindSpore would say more than one line without a driver
        # Under msrun each rank takes its own device.
        ms.set_device(target) if distribute else ms.set_device(target, device_id)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if target == "GPU":
            reason = f"`python -m src.runtime.gpu.check_device` says what is missing ({reason})"
        raise DeviceError(f"device {target} {device_id} cannot be used: {reason}") from None
    if target == "GPU":
        set_gpu_context(allow_tf32)
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
    """Seed weight initialisation; None: another one each run."""
    if seed is not None:
        ms.set_seed(seed)
        np.random.seed(seed)
