# SPDX-License-Identifier: Apache-2.0
"""MindData pipelines: a stream of samples at fixed positions, so that order never depends on
workers.

Position k of a job is image `order(epoch)[k % N]` of epoch k // N, and everything random about it
comes from (seed, epoch, image). Rank r of W takes, in step s, the positions s * B * W + r * B
onwards: every image is seen exactly once an epoch, nothing is dropped or padded, and resuming is
only a first step.
"""

import functools
import gc
import logging
import multiprocessing
import os
import re
import secrets
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from src import transforms
from src.box_utils import PreparedPriors, match, prepare_priors
from src.images import ImageError, read_image
from src.records import DataError, DetectionData, ImageRecord

logger = logging.getLogger(__name__)
TRAIN_COLUMNS = ("image", "loc_targets", "label_targets", "index")
EVAL_COLUMNS = ("image", "index")


class Reader:
    """Reads the images of a data set; an unreadable one is reported once by path and counted.

    The marks are shared with worker processes, so that the report comes once for all of them.
    """

    def __init__(self, data: DetectionData, strict: bool = False) -> None:
        self.records = data.records
        self.strict = strict
        self._bad = multiprocessing.RawArray("b", len(data.records))

    @property
    def unreadable(self) -> int:
        """How many images could not be read so far."""
        return sum(1 for mark in self._bad if mark)

    def read(self, index: int) -> Optional[np.ndarray]:
        """The (H, W, 3) uint8 image of a record, or None if it cannot be read.

        Raises:
            DataError: it cannot be read, and `strict` is set.
        """
        if self._bad[index]:
            return None
        record = self.records[index]
        try:
            return read_image(record.path, (record.width, record.height))
        except ImageError as error:
            if self.strict:
                raise DataError(str(error)) from None
            self._bad[index] = 1
            logger.warning("%s; left out", error)
            return None


class SampleStream:
    """The training samples of one rank, by number from `start_step` on: a MindData random-access
    source.
    """

    def __init__(
        self,
        data: DetectionData,
        priors: np.ndarray,
        *,
        input_size: int,
        mean_bgr: Sequence[float],
        batch_size: int,
        start_step: int = 0,
        total_steps: int,
        seed: Optional[int] = None,
        rank: int = 0,
        world_size: int = 1,
        iou_threshold: float = 0.5,
        strict: bool = False,
        random_interpolation: bool = False,
    ) -> None:
        if not len(data.records):
            raise DataError(f"{data.annotation_path}: split {data.split} has no images to train on")
        self.reader = Reader(data, strict)
        self.priors: PreparedPriors = prepare_priors(priors)
        self.size, self.mean_bgr = input_size, tuple(mean_bgr)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.start_step, self.total_steps = start_step, total_steps
        self.iou_threshold, self.random_interpolation = iou_threshold, random_interpolation
        self.shuffled = seed is not None
        # Without a seed the order is that of the annotations, and augmentation differs from run to
        # run.
        self.seed = seed if seed is not None else secrets.randbits(63)
        self._order: Tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return max(self.total_steps - self.start_step, 0) * self.batch_size

    def position(self, number: int) -> int:
        """The position in the whole job of this rank's sample `number`."""
        step, place = divmod(number, self.batch_size)
        step += self.start_step
        return (step * self.world_size + self.rank) * self.batch_size + place

    def order(self, epoch: int) -> np.ndarray:
        """(N,) image numbers in the order of `epoch`."""
        if self._order[0] != epoch:
            count = len(self.reader.records)
            if self.shuffled:
                order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(count)
            else:
                order = np.arange(count)
            self._order = (epoch, order)
        return self._order[1]

    def __getitem__(self, number: int) -> Tuple[np.ndarray, ...]:
        """Image (3, S, S) float32, loc targets (P, 4) float32, labels (P,) int32, image number ()
        int32.

        An unreadable image is replaced by the next readable one in the stream.
        """
        limit_threads()
        position, count = self.position(int(number)), len(self.reader.records)
        for offset in range(count):
            epoch, place = divmod(position + offset, count)
            index = int(self.order(epoch)[place])
            image = self.reader.read(index)
            if image is not None:
                return self._sample(image, index, epoch)
        raise DataError(f"{self.reader.records[0].path}: none of the {count} images can be read")

    def _sample(self, image: np.ndarray, index: int, epoch: int) -> Tuple[np.ndarray, ...]:
        rng = np.random.default_rng([self.seed, epoch, index])
        boxes, labels = training_boxes(self.reader.records[index], image)
        image, boxes, labels = transforms.augment(
            image, boxes, labels, rng, self.size, self.mean_bgr, self.random_interpolation
        )
        loc, label = match(boxes / np.float32(self.size), labels, self.priors, self.iou_threshold)
        return transforms.to_input(image, self.mean_bgr), loc, label, np.array(index, np.int32)


def training_boxes(record: ImageRecord, image: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes (G, 4) in pixels of `image` and labels (G,) without the ignored ones.

    The annotated size is the frame of the boxes; a file of another size is the same picture
    resized.
    """
    height, width = image.shape[:2]
    keep = ~record.ignore
    scale = np.array([width / record.width, height / record.height] * 2, np.float32)
    return record.boxes_px[keep] * scale, record.labels[keep]


class EvalStream:
    """The images of one rank in order, padded to whole batches: a MindData random-access source.

    Rank r of W takes images r, r + W, ... An unreadable image comes as an empty one of index -1,
    which, like padding, must not be scored.
    """

    def __init__(
        self,
        data: DetectionData,
        *,
        input_size: int,
        mean_bgr: Sequence[float],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        strict: bool = False,
    ) -> None:
        self.reader = Reader(data, strict)
        self.size, self.mean_bgr = input_size, tuple(mean_bgr)
        self.indices = np.arange(rank, len(data.records), world_size)
        self._length = -(-len(self.indices) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Tuple[np.ndarray, np.ndarray]:
        """Image (3, S, S) float32 and record number () int32."""
        limit_threads()
        index = int(self.indices[number]) if number < len(self.indices) else -1
        image = self.reader.read(index) if index >= 0 else None
        if image is None:
            return np.zeros((3, self.size, self.size), np.float32), np.array(-1, np.int32)
        image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return transforms.to_input(image, self.mean_bgr), np.array(index, np.int32)


def build_train_dataset(
    data: DetectionData,
    priors: np.ndarray,
    *,
    batch_size: int,
    num_workers: int = 1,
    **stream: Any,
) -> Any:
    """Batches for training as a `mindspore.dataset`, `total_steps - start_step` of them.

    `stream` are the arguments of `SampleStream`. Columns: image (B, 3, S, S) float32, loc_targets
    (B, P, 4) float32, label_targets (B, P) int32, index (B,) int32.

    Raises:
        DataError: a data set without images.
    """
    source = SampleStream(data, priors, batch_size=batch_size, **stream)
    return _pipeline(source, TRAIN_COLUMNS, batch_size, num_workers)


def build_eval_dataset(
    data: DetectionData,
    *,
    batch_size: int,
    num_workers: int = 1,
    **stream: Any,
) -> Any:
    """Batches for evaluation as a `mindspore.dataset`; `stream` are the arguments of `EvalStream`.

    Columns: image (B, 3, S, S) float32, index (B,) int32: the record, or -1 for padding.

    Raises:
        DataError: a data set without images.
    """
    source = EvalStream(data, batch_size=batch_size, **stream)
    if not len(data.records):
        raise DataError(f"{data.annotation_path}: split {data.split} has no images to evaluate")
    return _pipeline(source, EVAL_COLUMNS, batch_size, num_workers)


def batches(dataset: Any) -> Iterator[Tuple[np.ndarray, ...]]:
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
        iterator.stop()  # ends the worker processes now, not at some garbage collection


def as_data_error(error: RuntimeError) -> Union[DataError, RuntimeError]:
    """The DataError that a worker raised, which MindData reports as text inside a RuntimeError."""
    found = re.findall(r"DataError: (.*)", str(error))
    return DataError(found[-1].strip()) if found else error


def usable_workers(requested: int) -> int:
    """`requested`, but at least one and no more than the cores this process may use."""
    return max(1, min(requested, len(os.sched_getaffinity(0))))


def limit_threads() -> None:
    """One OpenCV thread: workers, not images, are what runs in parallel."""
    if cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)


@functools.lru_cache(maxsize=1)
def protect_workers() -> None:
    """Keep forked workers from collecting what the parent left behind, once for the process.

    A worker that destroys an inherited pipeline of MindData's aborts, and the run hangs.
    """
    os.register_at_fork(after_in_child=gc.freeze)


def _pipeline(source: Any, columns: Sequence[str], batch_size: int, num_workers: int) -> Any:
    import mindspore.dataset as ds

    protect_workers()
    workers = usable_workers(num_workers)
    names: List[str] = list(columns)
    dataset = ds.GeneratorDataset(
        source,
        names,
        shuffle=False,
        num_parallel_workers=workers,
        python_multiprocessing=workers > 1,
    )
    return dataset.batch(batch_size, num_parallel_workers=1)
