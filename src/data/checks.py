# SPDX-License-Identifier: Apache-2.0
"""What is in a data set and what is wrong with it: numbers, image checks, recall of the priors."""

import contextlib
import hashlib
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Tuple

import cv2
import numpy as np

from .images import checked_header, decode, read_bytes
from .records import (
    COCO_SIZES,
    Columns,
    DataError,
    DetectionData,
    Findings,
    ImageError,
)

DAMAGED = "images with damaged data"
NO_BOX = "splits without a box to train on"  # which may still be scored
# Warnings: what training repairs, or what may be as it should.
HARMLESS = (
    NO_BOX,
    "zero-area boxes",
    "boxes clipped to the image",
    "boxes outside the image",
    "duplicate boxes",
    "duplicate images",
    "repeated images",
    "repeated category names",
    "boxes made of polygons",
    "shapes without an area",
    "labels without an image",
    "EXIF-rotated images",
    DAMAGED,
)
SIDES_PX = (0, 4, 8, 16, 32, 64, 128, 256, 100_000)  # bins of the square root of a box's area


@dataclass(frozen=True)
class PriorRecall:
    """How many of `total` ground truths have a prior that matches them by IoU."""

    name: str
    total: int
    matched: int

    @property
    def recall(self) -> float:
        """A fraction; NaN without ground truths."""
        return self.matched / self.total if self.total else float("nan")


def boxes_cxcywh(columns: Columns) -> np.ndarray:
    """(G, 4) float32 boxes normalised by the image size, as the network sees them."""
    size = columns.sizes[columns.image].astype(np.float32)
    low, high = columns.boxes_px[:, :2] / size, columns.boxes_px[:, 2:] / size
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def prior_recall_by_coco_size(
    columns: Columns, iou: np.ndarray, threshold: float
) -> List[PriorRecall]:
    """Recall for small, medium and large boxes, by their pixels in the original image."""
    area = (columns.boxes_px[:, 2:] - columns.boxes_px[:, :2]).prod(axis=1)
    return [
        _prior_recall(name, (area >= low) & (area < high) & ~columns.ignore, iou, threshold)
        for name, low, high in COCO_SIZES
    ]


def prior_recall_by_side(
    columns: Columns, iou: np.ndarray, threshold: float, input_size: int
) -> List[PriorRecall]:
    """Recall by the side of a square as large as the box, in pixels of the network's input."""
    side = np.sqrt(boxes_cxcywh(columns)[:, 2:].prod(axis=1)) * input_size
    return [
        _prior_recall(
            f"{low}-{high}" if high < SIDES_PX[-1] else f"over {low}",
            (side >= low) & (side < high) & ~columns.ignore,
            iou,
            threshold,
        )
        for low, high in zip(SIDES_PX, SIDES_PX[1:])
    ]


def _prior_recall(name: str, chosen: np.ndarray, iou: np.ndarray, threshold: float) -> PriorRecall:
    return PriorRecall(name, int(chosen.sum()), int((iou[chosen] >= threshold).sum()))


def class_counts(data: DetectionData, columns: Columns) -> Dict[str, int]:
    """Number of boxes by class name."""
    counts = np.bincount(columns.labels, minlength=data.num_classes)
    return {name: int(counts[i + 1]) for i, name in enumerate(data.class_names)}


def find_duplicate_boxes(data: DetectionData, columns: Columns, findings: Findings) -> None:
    """Note boxes that repeat another of the same image and class exactly."""
    if not len(columns.labels):
        return
    rows = np.column_stack([columns.image, columns.labels, columns.boxes_px.astype(np.float64)])
    order = np.lexsort(rows.T)
    again = (rows[order][1:] == rows[order][:-1]).all(axis=1)
    for row in order[1:][again]:
        findings.note("duplicate boxes", data.records[int(columns.image[row])].path)


def check_images(
    data: DetectionData,
    decoding: bool,
    workers: int,
    findings: Findings,
    on_image: Callable[[], object] = lambda: None,
) -> Dict[bytes, str]:
    """Look at every image file, in parallel; returns path by digest of the contents.

    `on_image` is called after each.

    Raises:
        DataError: a worker process died.
    """
    jobs = [(row.path, row.width, row.height, decoding) for row in data.records]
    seen: Dict[bytes, str] = {}
    with ProcessPoolExecutor(workers) as pool:
        try:
            for job, result in zip(jobs, pool.map(check_image, jobs, chunksize=16)):
                digest, problems = result
                for kind, message in problems:
                    findings.note(kind, message, error=kind not in HARMLESS)
                if digest and seen.setdefault(digest, job[0]) != job[0]:
                    findings.note("duplicate images", f"{job[0]}: the same as {seen[digest]}")
                on_image()
        except BrokenProcessPool:
            raise DataError("a worker died while checking images (out of memory?)") from None
    return seen


def check_image(job: Tuple[str, int, int, bool]) -> Tuple[bytes, List[Tuple[str, str]]]:
    """Digest of one file, and (kind, message) of what is wrong with it.

    `job` is path, annotated width and height, and whether to decode the pixels.
    """
    path, width, height, decoding = job
    problems = []
    cv2.setNumThreads(0)
    try:
        data = read_bytes(path)
        header = checked_header(path, data)
        stored = (header.width, header.height)
        turned = header.orientation >= 5 and stored == (height, width) != (width, height)
        if header.orientation != 1:
            how = "annotated as shown" if turned else "annotated as stored"
            message = f"{path}: EXIF orientation {header.orientation}, {how}"
            problems.append(("EXIF-rotated images", message))
        if stored != (width, height) and not turned:
            message = f"{path}: {stored[0]} x {stored[1]}, annotated as {width} x {height}"
            problems.append(("mis-sized images", message))
        if decoding:
            with decoder_messages() as said:
                decode(path, data, header)
            problems += [(DAMAGED, f"{path}: {line}") for line in said[:1]]
    except ImageError as error:
        return b"", [(error.kind, str(error))]
    return hashlib.blake2b(data, digest_size=16).digest(), problems


@contextlib.contextmanager
def decoder_messages() -> Iterator[List[str]]:
    """The lines that decoders print on standard error in this block, there at its end.

    libjpeg goes on after damage, and says so only there. For a process that prints nothing else
    meanwhile.
    """
    lines: List[str] = []
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
        file.seek(0)
        text = file.read(10_000).decode(errors="replace")
        lines += [line for line in text.splitlines() if not line.startswith("libpng warning")]
