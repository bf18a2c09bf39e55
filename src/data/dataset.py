# SPDX-License-Identifier: Apache-2.0
"""MindData pipelines over the streams of `src.data.sample_stream`."""

import functools
import gc
import logging
import os
import re
from typing import Any, Generator, Tuple, Union

import numpy as np
import psutil

from ..runtime.cpu_settings import usable_cores
from ..runtime.typed_config import ConfigError
from .records import DataError
from .sample_stream import SampleStream, limit_threads

logger = logging.getLogger(__name__)
_PREFETCH = 2  # batches ahead for each worker; MindData's 16 would be gigabytes
_QUEUE = _PREFETCH + 2  # batches in shared memory for each: those, and one on either side
_SHARED_MEMORY_FRACTION = 0.8  # of /dev/shm that may be used
TRAIN_COLUMNS = ("image", "loc_targets", "label_targets", "index")


def build_train_dataset(source: SampleStream, num_workers: int = 1) -> Any:
    """The batches of a stream as a `mindspore.dataset`.

    Columns: image (B, 3, S, S) float32 or uint8, loc_targets (B, P, 4) float32, label_targets
    (B, P) int32, index (B,) int32.

    Raises:
        ConfigError: batches so large that the memory does not hold them.
    """
    import mindspore.dataset as ds

    shard, memory = source.shard, psutil.virtual_memory().total
    needed = _QUEUE * shard.batch_size * source.sample_bytes
    if needed > memory:
        raise ConfigError(
            f"train.per_batch_size, train.accumulate: {_QUEUE} batches of {shard.batch_size:,}"
            f" images take {needed / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB"
        )
    protect_workers()
    limit_threads()  # before workers are forked: they would inherit a dead OpenCV thread pool
    ds.config.set_prefetch_size(_PREFETCH)
    workers = usable_workers(num_workers, shard.batch_size * source.sample_bytes, shard.world_size)
    return ds.GeneratorDataset(
        Batches(source),
        list(TRAIN_COLUMNS),
        shuffle=False,
        num_parallel_workers=workers,
        python_multiprocessing=workers > 1,
    )


def batches(dataset: Any) -> Generator[Tuple[np.ndarray, ...], None, None]:
    """The batches of a pipeline as NumPy arrays, with a reader's error as itself.

    Raises:
        DataError: an unreadable image under `strict`, or no readable image at all.
    """
    iterator = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
    try:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield tuple(batch)
    except RuntimeError as error:
        raise as_data_error(error) from None
    finally:
        iterator.stop()  # ends the worker processes now, not at the next garbage collection


def as_data_error(error: RuntimeError) -> Union[DataError, RuntimeError]:
    """The DataError that a worker raised, which MindData reports as text inside a RuntimeError."""
    found = re.findall(r"DataError: (.*)", str(error))
    return DataError(found[-1].strip()) if found else error


def usable_workers(requested: int, batch_bytes: int = 0, ranks: int = 1) -> int:
    """`requested`, but at least one, and no more than cores and shared memory allow.

    MindData's worker processes hand batches over in /dev/shm and die of a bus error when it is
    full; 64 MB is all that a container gets by default. One worker is a thread and needs none.
    """
    workers = max(1, min(requested, usable_cores()))
    room = int(_SHARED_MEMORY_FRACTION * shared_memory() / ranks / max(1, _QUEUE * batch_bytes))
    if workers > 1 and room < workers:
        logger.warning("/dev/shm is small: %d worker(s) instead of %d", max(1, room), workers)
        return max(1, room)
    return workers


def shared_memory() -> int:
    """Free bytes in /dev/shm."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


class Batches:
    """The samples of a stream, batch by batch.

    Workers make whole batches: MindData looks for results only ten times a second where it finds
    none, which would be the speed limit for single samples.
    """

    def __init__(self, source: SampleStream) -> None:
        self.source, self.batch_size = source, source.shard.batch_size

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    def __getitem__(self, number: int) -> Tuple[np.ndarray, ...]:
        """Each column of a sample, stacked over the batch."""
        first = int(number) * self.batch_size
        rows = [self.source[first + place] for place in range(self.batch_size)]
        return tuple(np.stack(column) for column in zip(*rows))


@functools.lru_cache(maxsize=1)
def protect_workers() -> None:
    """Keep forked workers from collecting what the parent left behind, once for the process.

    A worker that destroys an inherited pipeline of MindData's aborts, and the run hangs.
    """
    os.register_at_fork(after_in_child=gc.freeze)
