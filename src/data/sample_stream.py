# SPDX-License-Identifier: Apache-2.0
"""Streams of samples at fixed positions, so that their order never depends on workers.

Position k of a job is image `order(epoch)[k % N]` of epoch k // N, and everything random about it
comes from (seed, epoch, image). Rank r of W takes, in step s, the positions s * B * W + r * B
onwards: every image is seen exactly once an epoch, nothing is dropped or padded, and resuming is
only a first step.
"""

import logging
import multiprocessing
import secrets
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

import cv2
import numpy as np

from ..box_utils import PreparedPriors, match, prepare_priors
from ..config import AnchorConfig, DataConfig
from . import transforms
from .images import read_image
from .records import DataError, DetectionData, ImageError, ImageRecord

logger = logging.getLogger(__name__)
MOST_NAMED = 20  # unreadable images with a line each
_DEFAULT = AnchorConfig()
_SCALE = 0x5CA1E  # separates the random generator of input sizes from those of images


class Reader:
    """Reads the images of a data set; an unreadable one is reported once by path (the first ones)
    and counted.

    The marks are shared with worker processes, so that the report comes once for all of them.
    """

    def __init__(self, data: DetectionData, strict: bool = False) -> None:
        self.records = data.records
        self.strict = strict
        self._bad = multiprocessing.Array("b", len(data.records))

    @property
    def unreadable(self) -> int:
        """How many images could not be read so far."""
        return int(np.count_nonzero(np.frombuffer(memoryview(self._bad.get_obj()), np.int8)))

    def read(self, index: int) -> Optional[np.ndarray]:
        """The (H, W, 3) uint8 image of a record, or None if it cannot be read.

        Raises:
            DataError: it cannot be read, and `strict` is set.
        """
        if self._bad.get_obj()[index]:
            return None
        record = self.records[index]
        try:
            return read_image(record.path, (record.width, record.height))
        except ImageError as error:
            if self.strict:
                raise DataError(str(error)) from None
            with self._bad.get_lock():
                first, self._bad[index] = not self._bad[index], 1
                count = self.unreadable
            if first and count <= MOST_NAMED:
                logger.warning("%s; left out (%d so far)", error, count)
            elif first and count == MOST_NAMED + 1:
                logger.warning("more images cannot be read, and are left out without a line each")
            return None


@dataclass(frozen=True)
class Shard:
    """The samples of one rank: its own batch of each step, from `start_step` on."""

    batch_size: int
    total_steps: int
    start_step: int = 0
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        """Number of samples."""
        return max(self.total_steps - self.start_step, 0) * self.batch_size

    def step(self, number: int) -> int:
        """The step of the run that sample `number` belongs to."""
        return self.start_step + number // self.batch_size

    def position(self, number: int) -> int:
        """The position in the whole job of this rank's sample `number`."""
        place = number % self.batch_size
        return (self.step(number) * self.world_size + self.rank) * self.batch_size + place


class SampleStream:
    """The training samples of one rank by number; a source for MindData.

    Args:
        data: the split.
        priors: (P, 4) cxcywh for each input size; where there are several they take turns, step by
            step, the same on all ranks.
        config: how images are read and augmented. Without `augment` they are only resized (after a
            mosaic, before a mixup).
        shard: which samples.
        seed: order and augmentation follow from it; None: from chance.
        shuffled: a new order in every epoch, or that of the data set.
        matching: of priors and ground truth.
        raw: leave images as uint8, for the step to subtract the mean.

    Raises:
        DataError: a data set without images.
    """

    def __init__(
        self,
        data: DetectionData,
        priors: Mapping[int, np.ndarray],
        config: DataConfig,
        shard: Shard,
        *,
        seed: Optional[int] = None,
        shuffled: bool = True,
        matching: AnchorConfig = _DEFAULT,
        raw: bool = False,
    ) -> None:
        if not len(data.records):
            raise DataError(f"{data.annotation_path}: split {data.split} has no images to train on")
        self.reader = Reader(data, config.strict)
        self.scales = [(size, prepare_priors(table)) for size, table in sorted(priors.items())]
        self.config, self.shard = config, shard
        self.seed = seed % 2**64 if seed is not None else secrets.randbits(63)
        self.shuffled, self.matching, self.raw = shuffled, matching, raw
        self._order: Tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def sample_bytes(self) -> int:
        """Bytes of the largest sample."""
        pixel = 1 if self.raw else 4
        return max(3 * s**2 * pixel + 4 * (5 * len(p.cxcywh) + 1) for s, p in self.scales)

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

    def scale(self, number: int) -> int:
        """Which of `scales` sample `number` has: one for all samples of a step."""
        if len(self.scales) == 1:
            return 0
        rng = np.random.default_rng([self.seed, _SCALE, self.shard.step(number)])
        return int(rng.integers(len(self.scales)))

    def __getitem__(self, number: int) -> Tuple[np.ndarray, ...]:
        """Image (3, S, S), loc targets (P, 4), both float32, labels (P,) and image number () int32.

        With `raw` the image is uint8. An unreadable image is replaced by the next readable one in
        the stream.

        Raises:
            DataError: no image can be read, or one cannot and the reader is strict.
        """
        limit_threads()
        number = int(number)
        position, count = self.shard.position(number), len(self.reader.records)
        in_fours = self.config.mosaic
        if self.shard.step(number) >= self.config.mosaic_until * self.shard.total_steps:
            in_fours = 0.0
        for offset in range(2 * count):  # holds one epoch from end to end
            epoch, place = divmod(position + offset, count)
            index = int(self.order(epoch)[place])
            sample = self._sample(index, epoch, in_fours, *self.scales[self.scale(number)])
            if sample is not None:
                return sample
        raise DataError(f"{self.reader.records[0].path}: none of the {count} images can be read")

    def _sample(
        self, index: int, epoch: int, in_fours: float, size: int, priors: PreparedPriors
    ) -> Optional[Tuple[np.ndarray, ...]]:
        rng = np.random.default_rng([self.seed, epoch, index])
        made = self._augmented(index, rng, size, in_fours)
        # No random number is drawn where an option is off, so that the other samples do not change.
        if made is not None and self.config.mixup and rng.random() < self.config.mixup:
            other = self._augmented(self._another(rng), rng, size, in_fours)
            made = transforms.mixup(made, other, rng) if other is not None else made
        if made is None:
            return None
        image, boxes, labels = made
        rule = self.matching.iou_threshold, self.matching.dynamic_k
        loc, label = match(boxes / np.float32(size), labels, priors, *rule)
        if self.raw:
            pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        else:
            pixels = transforms.to_input(image, self.config.mean_bgr)
        return pixels, loc, label, np.array(index, np.int32)

    def _augmented(
        self, index: int, rng: np.random.Generator, size: int, in_fours: float
    ) -> Optional[transforms.Sample]:
        """One image, or with probability `in_fours` four, augmented; None if it cannot be read."""
        made = self._plain(index)
        if made is not None and in_fours and rng.random() < in_fours:
            parts = [made, *(self._plain(self._another(rng)) for _ in range(3))]
            readable = [part for part in parts if part is not None]
            if len(readable) == 4:
                made = transforms.mosaic(readable, rng, size)
        if made is None:
            return None
        return transforms.augment(*made, rng, size, self.config)

    def _another(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.reader.records)))

    def _plain(self, index: int) -> Optional[transforms.Sample]:
        image = self.reader.read(index)
        if image is None:
            return None
        return (image, *training_boxes(self.reader.records[index], image))


def training_boxes(record: ImageRecord, image: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes (G, 4) in pixels of `image` and labels (G,) without the ignored ones.

    The annotated size is the frame of the boxes; a file of another size is the same picture
    resized.
    """
    height, width = image.shape[:2]
    keep = ~record.ignore
    scale = np.array([width / record.width, height / record.height] * 2, np.float32)
    return record.boxes_px[keep] * scale, record.labels[keep]


def limit_threads() -> None:
    """One OpenCV thread: workers, not images, are what runs in parallel."""
    if cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)
