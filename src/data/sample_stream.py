# SPDX-License-Identifier: Apache-2.0
"""Streams of samples at fixed positions, so that their order never depends on workers.

Position k of a job is image `order(epoch)[k % N]` of epoch k // N, and everything random about it
comes from (seed, epoch, image). Rank r of W takes, in step s, the positions s * B * W + r * B
onwards: every image is seen exactly once an epoch, nothing is dropped or padded, and resuming is
only a first step.
"""

import functools
import logging
import multiprocessing
import secrets
from typing import Callable, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from ..box_utils import PreparedPriors, match, prepare_priors
from . import transforms
from .images import read_image
from .records import DataError, DetectionData, ImageError, ImageRecord

logger = logging.getLogger(__name__)
_SCALE = 0x5CA1E  # tells the generator of sizes from those of images


class Reader:
    """Reads the images of a data set; an unreadable one is reported once by path and counted.

    The marks are shared with worker processes, so that the report comes once for all of them.
    """

    def __init__(self, data: DetectionData, strict: bool = False) -> None:
        self.records = data.records
        self.strict = strict
        self._bad = multiprocessing.Array("b", len(data.records))

    @property
    def unreadable(self) -> int:
        """How many images could not be read so far."""
        return sum(self._bad.get_obj())

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
            if first:
                logger.warning("%s; left out (%d so far)", error, self.unreadable)
            return None


class SampleStream:
    """The training samples of one rank by number, from `start_step` on; a source for MindData."""

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
        unseeded: Optional[int] = None,
        rank: int = 0,
        world_size: int = 1,
        iou_threshold: float = 0.5,
        strict: bool = False,
        augment: bool = True,
        random_interpolation: bool = False,
        max_expand_ratio: float = transforms.MAX_EXPAND_RATIO,
        crop_prob: float = 1.0,
        vertical_flip: bool = False,
        mosaic: float = 0.0,
        mixup: float = 0.0,
        multi_scale: Optional[Mapping[int, np.ndarray]] = None,
        raw: bool = False,
    ) -> None:
        """`multi_scale` gives the priors (P', 4) of every input size to take turns, step by step,
        the same on all ranks; `priors` and `input_size` are then not used. `mosaic` and `mixup`
        are probabilities. Without `augment` images are only resized (after a mosaic, before a
        mixup). Without `seed` the augmentation follows from `unseeded`, or from chance. `raw`
        leaves images as uint8, for the step to subtract the mean.

        Raises:
            DataError: a data set without images.
        """
        if not len(data.records):
            raise DataError(f"{data.annotation_path}: split {data.split} has no images to train on")
        self.reader = Reader(data, strict)
        by_size = multi_scale or {input_size: priors}
        self.scales = [(size, prepare_priors(table)) for size, table in sorted(by_size.items())]
        self.raw, pixel = raw, 1 if raw else 4
        self.sample_bytes = max(
            3 * s**2 * pixel + 4 * (5 * len(p.cxcywh) + 1) for s, p in self.scales
        )
        self.mean_bgr = tuple(mean_bgr)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.start_step, self.total_steps = start_step, total_steps
        self.iou_threshold = iou_threshold
        self.mosaic, self.mixup = mosaic, mixup
        self._augment: Callable[..., transforms.Sample] = functools.partial(
            transforms.augment,
            mean_bgr=self.mean_bgr,
            random_interpolation=random_interpolation,
            max_expand_ratio=max_expand_ratio,
            crop_prob=crop_prob,
            vertical_flip=vertical_flip,
        )
        if not augment:
            self._augment = _only_resized
        self.shuffled = seed is not None
        # Without a seed images keep their order, and augmentation differs from run to run.
        chosen = unseeded if seed is None else seed
        self.seed = chosen % 2**64 if chosen is not None else secrets.randbits(63)
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

    def scale(self, number: int) -> int:
        """Which of `scales` sample `number` has: one for all samples of a step."""
        if len(self.scales) == 1:
            return 0
        step = self.start_step + number // self.batch_size
        return int(np.random.default_rng([self.seed, _SCALE, step]).integers(len(self.scales)))

    def __getitem__(self, number: int) -> Tuple[np.ndarray, ...]:
        """Image (3, S, S), loc targets (P, 4), both float32, labels (P,) and image number () int32.

        With `raw` the image is uint8. An unreadable image is replaced by the next readable one in
        the stream.

        Raises:
            DataError: no image can be read, or one cannot and the reader is strict.
        """
        limit_threads()
        number = int(number)
        position, count = self.position(number), len(self.reader.records)
        for offset in range(2 * count):  # holds one epoch from end to end
            epoch, place = divmod(position + offset, count)
            index = int(self.order(epoch)[place])
            sample = self._sample(index, epoch, *self.scales[self.scale(number)])
            if sample is not None:
                return sample
        raise DataError(f"{self.reader.records[0].path}: none of the {count} images can be read")

    def _sample(
        self, index: int, epoch: int, size: int, priors: PreparedPriors
    ) -> Optional[Tuple[np.ndarray, ...]]:
        rng = np.random.default_rng([self.seed, epoch, index])
        made = self._augmented(index, rng, size)
        # Probabilities are compared only where they are set: extras leave other samples alone.
        if made is not None and self.mixup and rng.random() < self.mixup:
            other = self._augmented(self._another(rng), rng, size)
            made = transforms.mixup(made, other, rng) if other is not None else made
        if made is None:
            return None
        image, boxes, labels = made
        loc, label = match(boxes / np.float32(size), labels, priors, self.iou_threshold)
        if self.raw:
            pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        else:
            pixels = transforms.to_input(image, self.mean_bgr)
        return pixels, loc, label, np.array(index, np.int32)

    def _augmented(
        self, index: int, rng: np.random.Generator, size: int
    ) -> Optional[transforms.Sample]:
        """One image, or four of them, augmented; None if it cannot be read."""
        made = self._plain(index)
        if made is not None and self.mosaic and rng.random() < self.mosaic:
            parts = [made, *(self._plain(self._another(rng)) for _ in range(3))]
            readable = [part for part in parts if part is not None]
            if len(readable) == 4:
                made = transforms.mosaic(readable, rng, size)
        if made is None:
            return None
        return self._augment(*made, rng, size)

    def _another(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.reader.records)))

    def _plain(self, index: int) -> Optional[transforms.Sample]:
        image = self.reader.read(index)
        if image is None:
            return None
        return (image, *training_boxes(self.reader.records[index], image))


def _only_resized(
    image: np.ndarray,
    boxes_px: np.ndarray,
    labels: np.ndarray,
    _rng: np.random.Generator,
    size: int,
) -> transforms.Sample:
    return (*transforms.resize(image, boxes_px, (size, size)), labels)


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
