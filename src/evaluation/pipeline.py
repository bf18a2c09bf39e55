# SPDX-License-Identifier: Apache-2.0
"""A detector over a whole split: reading, network and post-processing at the same time.

Images are read and prepared by threads ahead of the network, and NMS, which releases the GIL, runs
in one more thread behind it. OpenCV and the network release it too.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Deque, Iterable, Iterator, List, Mapping, Optional, Sequence

import numpy as np

from ..data.records import DataError, DetectionData, ImageRecord
from ..data.sample_stream import Reader, limit_threads
from ..inference.detector import STAGES, ArrayDetector, Forwarded
from ..inference.views import View, view_input
from ..runtime.stopwatch import Stopwatch
from .coco_metrics import coco_results

READY_VIEWS = 32  # of an image with more (tiles) inputs are made batch by batch, to save memory
AHEAD = 2  # batches prepared, and batches waiting for NMS, at most

Results = List[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on its way through the network; without views where it could not be read."""

    record: ImageRecord
    image: np.ndarray  # (H, W, 3) uint8 BGR; empty where the inputs are ready
    size_px: Sequence[int]  # width and height of the file's picture
    views: List[View]
    inputs: List[np.ndarray]

    def input(self, number: int, mean_bgr: Sequence[float]) -> np.ndarray:
        """Network input (3, S, S) of one view."""
        if self.inputs:
            return self.inputs[number]
        return view_input(self.image, self.views[number], mean_bgr)


def detect_split(
    detector: ArrayDetector,
    data: DetectionData,
    indices: Iterable[int],
    category_ids: Sequence[Optional[int]],
    on_batch: Callable[[List[int], List[Results]], None],
    *,
    batch_size: int = 1,
    num_workers: int = 1,
    strict: bool = False,
    reader: Optional[Reader] = None,
    watch: Optional[Stopwatch] = None,
) -> None:
    """Detects in some images of a split, calling `on_batch` with the results of each batch.

    Args:
        indices: which records of `data`.
        category_ids: the data set's id of each class of the detector; None: leave it out.
        on_batch: called with the image ids of a batch and each image's entries of a COCO results
            file; from another thread, one call at a time.
        batch_size: views the network sees at once.
        num_workers: threads that read images.
        strict: an unreadable image is an error; otherwise it is reported and nothing found in it.
        reader: of `data`, in place of `strict`; it reports each unreadable image once.
        watch: adds up the time of each stage; with `STAGES` of `src.inference.detector`.

    Raises:
        DataError: an unreadable image, where `strict`; or no readable one.
    """
    watch = watch or Stopwatch(STAGES)
    reader = reader or Reader(data, strict)
    if not any(reader.read(index) is not None for index in range(len(data.records))):
        where = f"{data.annotation_path}: split {data.split}"
        raise DataError(f"{where} has no image that can be read")
    prepare = partial(_prepare, detector, reader, watch)
    finish = partial(_finish, detector, category_ids, watch, on_batch)
    waiting: Deque[Future] = deque()
    with ThreadPoolExecutor(max(1, num_workers)) as readers, ThreadPoolExecutor(1) as finisher:
        for batch in _batches(_in_order(readers, prepare, indices, AHEAD * batch_size), batch_size):
            with watch.stage("network"):
                outputs = _forward(detector, batch, batch_size)
            waiting.append(finisher.submit(finish, batch, outputs))
            if len(waiting) > AHEAD:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def rank_indices(count: int, rank: int, world_size: int) -> range:
    """Indices of the images of a rank, of `count` in all: every `world_size`-th."""
    return range(rank, count, world_size)


def _forward(detector: ArrayDetector, batch: Sequence[Prepared], batch_size: int) -> Forwarded:
    """What the network gives for every view of every image, image by image."""
    tasks = [(part, number) for part in batch for number in range(len(part.views))]

    def make_input(row: int) -> np.ndarray:
        part, number = tasks[row]
        return part.input(number, detector.mean_bgr)

    return detector.forward([part.views[number] for part, number in tasks], make_input, batch_size)


def _finish(
    detector: ArrayDetector,
    category_ids: Sequence[Optional[int]],
    watch: Stopwatch,
    on_batch: Callable[[List[int], List[Results]], None],
    batch: Sequence[Prepared],
    outputs: Forwarded,
) -> None:
    """Post-processing of a batch; calls `on_batch` with the results."""
    sizes = [(part.size_px[0], part.size_px[1]) for part in batch]
    found = detector.postprocess([part.views for part in batch], outputs, sizes, watch)
    entries: List[Results] = []
    for part, detections in zip(batch, found):
        scale = np.divide([part.record.width, part.record.height], part.size_px)
        boxes = detections.boxes_px * np.tile(scale, 2)  # to the annotated size
        row = (part.record.image_id, boxes, detections.scores, detections.labels)
        entries.append(list(coco_results(*row, category_ids)))
    on_batch([part.record.image_id for part in batch], entries)


def _prepare(detector: ArrayDetector, reader: Reader, watch: Stopwatch, index: int) -> Prepared:
    limit_threads()
    record = reader.records[index]
    with watch.stage("load"):
        image = reader.read(index)
    if image is None:
        return Prepared(record, np.empty(0), (record.width, record.height), [], [])
    with watch.stage("preprocess"):
        height, width = image.shape[:2]
        views = detector.plan.views(width, height)
        if len(views) > READY_VIEWS:
            return Prepared(record, image, (width, height), views, [])
        inputs = [view_input(image, view, detector.mean_bgr) for view in views]
        return Prepared(record, np.empty(0), (width, height), views, inputs)


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[int], Prepared],
    indices: Iterable[int],
    ahead: int,
) -> Iterator[Prepared]:
    """The results of `work` in order, computed by the pool at most `ahead` before their turn."""
    pending: Deque[Future] = deque()
    try:
        for index in indices:
            pending.append(pool.submit(work, index))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _batches(items: Iterator[Prepared], size: int) -> Iterator[List[Prepared]]:
    batch: List[Prepared] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
