# SPDX-License-Identifier: Apache-2.0
"""Common data types: an image with its boxes, a data set, and the error all readers raise."""

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, overload

import numpy as np

from ..runtime.errors import M2DetError, printable

logger = logging.getLogger(__name__)
MIN_SIDE = 0.01  # pixels; thinner boxes have no area worth encoding


class DataError(M2DetError, ValueError):
    """A data set that cannot be used; the message is one line: the file, and what was expected."""


class MissingData(DataError):
    """No such data set, or no such split of it."""


class NothingHeldOut(MissingData):
    """An undivided data set of too few images to hold one out for "val"."""


@dataclass(frozen=True)
class ImageRecord:
    """One annotated image.

    Boxes are in pixels of the annotated `width` x `height`, left top right bottom, clipped to the
    image.
    """

    image_id: int
    path: str  # absolute
    width: int  # as annotated; the file's own size where the annotation gives none
    height: int
    boxes_px: np.ndarray  # (G, 4) float32 xyxy
    labels: np.ndarray  # (G,) int32 in 1..C-1
    ignore: np.ndarray  # (G,) bool: crowd in COCO, difficult in VOC; never a training positive


@dataclass(frozen=True)
class DetectionData:
    """A split of a data set. Label i stands for `class_names[i - 1]`; background is 0."""

    records: Sequence[ImageRecord]
    class_names: Tuple[str, ...]  # without background
    category_ids: Tuple[int, ...]  # COCO category id of each class
    split: str
    annotation_path: str  # the file that names the images, or the folder of annotation files
    style: str  # "coco", "voc", "yolo", "labelme" or "csv"
    dropped: Mapping[str, int] = field(
        default_factory=dict
    )  # repaired or dropped annotations, by reason
    annotated: bool = True  # False for a test split without ground truth
    truth: Optional["Truth"] = None  # what to score against, if not the boxes of the records

    @property
    def num_classes(self) -> int:
        """C, background included."""
        return len(self.class_names) + 1

    def subset(self, rows: Sequence[int]) -> "DetectionData":
        """The images in these rows, in this order, and what to score them against."""
        truth = self.truth
        if truth is not None:
            image = columns_of(self).image
            boxes = [box for row in rows for box in np.flatnonzero(image == row)]
            truth = Truth(truth.boxes_xywh[boxes], truth.areas[boxes])
        return replace(self, records=[self.records[row] for row in rows], truth=truth)

    def repairs(self) -> str:
        """What was dropped or repaired while reading, e.g. "2 zero-area boxes"; empty if nothing
        was.
        """
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))


def require_boxes(data: DetectionData) -> None:
    """Refuse a data set without a box to train on.

    Raises:
        DataError: no box but ignored ones, or all in the first pixel of their images.
    """
    columns = columns_of(data)
    where = f"{data.annotation_path}: split {data.split}"
    boxes = columns.boxes_px[~columns.ignore]
    if not len(boxes):
        found = [f"{len(columns.ignore)} crowd or difficult"] if len(columns.ignore) else []
        found += [data.repairs()] if data.repairs() else []
        text = ", ".join(found) or "it has no annotations"
        if data.style == "coco":
            text += "; expected bbox [x, y, width, height] in pixels"
        raise DataError(f"{where} has no usable box to train on: {text}")
    if boxes.max() <= 1 and columns.sizes.min() > 1:
        text = "has all boxes in the first pixel; expected pixels, not normalised coordinates"
        raise DataError(f"{where} {text}")


class Truth(NamedTuple):
    """The G boxes of `Columns` as they stand in the annotation file."""

    boxes_xywh: np.ndarray  # (G, 4) float64, pixels
    areas: np.ndarray  # (G,) float64, pixels; of the segmentation where there is one


class Columns(NamedTuple):
    """The boxes of N images as arrays of G rows."""

    sizes: np.ndarray  # (N, 2) int64 width, height
    image: np.ndarray  # (G,) int64, which of the N
    boxes_px: np.ndarray  # (G, 4) float32 xyxy
    labels: np.ndarray  # (G,) int32
    ignore: np.ndarray  # (G,) bool


class PackedRecords(Sequence[ImageRecord]):
    """A sequence of `ImageRecord` kept in a handful of arrays; each record is made when it is asked
    for.

    A list of 118,000 records is a million Python objects, which forked workers copy page by page as
    they touch reference counts; arrays stay shared.
    """

    def __init__(self, records: Iterable[ImageRecord]) -> None:
        rows = list(records)
        columns = Columns(
            np.array([(row.width, row.height) for row in rows], np.int64).reshape(-1, 2),
            np.repeat(np.arange(len(rows)), [len(row.labels) for row in rows]),
            _joined([row.boxes_px for row in rows], np.zeros((0, 4), np.float32)),
            _joined([row.labels for row in rows], np.zeros(0, np.int32)),
            _joined([row.ignore for row in rows], np.zeros(0, bool)),
        )
        self._fill([row.image_id for row in rows], [row.path for row in rows], columns)

    @classmethod
    def of_columns(
        cls, image_ids: Sequence[int], paths: Sequence[str], columns: "Columns"
    ) -> "PackedRecords":
        """Records of N images from their ids, absolute paths and boxes, which are in the order of
        the images.
        """
        made = cls.__new__(cls)
        made._fill(image_ids, paths, columns)
        return made

    def _fill(self, image_ids: Sequence[int], paths: Sequence[str], columns: "Columns") -> None:
        self._ids = np.array(image_ids, np.int64)
        self._columns = columns
        counts = np.bincount(columns.image, minlength=len(self._ids))
        self._box_ends = np.cumsum(np.concatenate([[0], counts]))
        # surrogateescape: Linux file names are bytes and need not be UTF-8.
        names = [path.encode("utf-8", "surrogateescape") for path in paths]
        self._paths = b"".join(names)
        self._path_ends = np.cumsum([0] + [len(name) for name in names])

    def __len__(self) -> int:
        return len(self._ids)

    def columns(self) -> "Columns":
        """Everything about the boxes at once."""
        return self._columns

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> List[ImageRecord]: ...
    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index %= len(self)
        boxes = slice(self._box_ends[index], self._box_ends[index + 1])
        path = self._paths[self._path_ends[index] : self._path_ends[index + 1]]
        width, height = self._columns.sizes[index].tolist()
        return ImageRecord(
            int(self._ids[index]),
            path.decode("utf-8", "surrogateescape"),
            width,
            height,
            self._columns.boxes_px[boxes],
            self._columns.labels[boxes],
            self._columns.ignore[boxes],
        )


def columns_of(data: DetectionData) -> Columns:
    """The boxes of a data set as arrays."""
    records = data.records
    return (records if isinstance(records, PackedRecords) else PackedRecords(records)).columns()


def truth_of(data: DetectionData) -> Truth:
    """The boxes and areas to score against, in the order of `columns_of`.

    Those of COCO's annotation file where there is one: areas are of the segmentations, and float32
    or clipped boxes would move the score in its last digits.
    """
    columns = columns_of(data)
    if data.truth is None:
        sides = columns.boxes_px[:, 2:].astype(np.float64) - columns.boxes_px[:, :2]
        return Truth(np.hstack([columns.boxes_px[:, :2], sides]), sides.prod(axis=1))
    if len(data.truth.areas) != len(columns.labels):
        raise ValueError("records and truth are of different images; see DetectionData.subset")
    return data.truth


def _joined(parts: List[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *parts]).astype(empty.dtype)


class Findings:
    """Problems found while reading: counts and a few examples by kind.

    Reading for use (`collect=False`) stops with a DataError at the first thing that makes the data
    set unusable; checking (`collect=True`) notes it too and goes on.
    """

    def __init__(self, collect: bool = False, examples: int = 5) -> None:
        self.collect = collect
        self.counts: Counter = Counter()
        self.errors: Counter = Counter()
        self.examples: Dict[str, List[str]] = {}
        self._most = examples

    def note(self, kind: str, where: str, error: bool = False) -> None:
        """Something repaired or dropped (or, with `error`, met while checking)."""
        (self.errors if error else self.counts)[kind] += 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < self._most:
            shown.append(where)

    def warn(self, kind: str, message: str) -> None:
        """Something repaired that the user should read about: counted, and logged in use."""
        self.note(kind, message)
        if not self.collect:
            logger.warning("%s", printable(message))

    def refuse(self, kind: str, message: str) -> None:
        """Something that makes the data set unusable.

        Raises:
            DataError: with `message`, unless findings are being collected.
        """
        if not self.collect:
            raise DataError(message)
        self.note(kind, message, error=True)

    def clip(
        self, box_xyxy: Sequence[float], size: Tuple[int, int], where: str
    ) -> Optional[Tuple[float, float, float, float]]:
        """The box (pixels) clipped to the (width, height) image; None, and a note, if nothing is
        left.
        """
        x1, y1, x2, y2 = box_xyxy
        if not (isfinite(x1) and isfinite(y1) and isfinite(x2) and isfinite(y2)):
            self.note("non-finite boxes", where)
            return None
        if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
            self.note("zero-area boxes", where)
            return None
        clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))
        if clipped[2] - clipped[0] < MIN_SIDE or clipped[3] - clipped[1] < MIN_SIDE:
            self.note("boxes outside the image", where)
            return None
        # One pixel is the usual difference between 0-based and 1-based tools: not reported.
        if x1 < -1 or y1 < -1 or x2 > size[0] + 1 or y2 > size[1] + 1:
            self.note("boxes clipped to the image", where)
        return clipped


def make_record(
    image_id: int,
    path: str,
    size: Tuple[int, int],
    boxes: Sequence[Tuple[Sequence[float], int, bool]],
) -> ImageRecord:
    """A record from rows of (xyxy pixels, label, ignore); `size` is (width, height)."""
    return ImageRecord(
        image_id,
        path,
        size[0],
        size[1],
        np.array([row[0] for row in boxes], np.float32).reshape(-1, 4),
        np.array([row[1] for row in boxes], np.int32),
        np.array([row[2] for row in boxes], bool),
    )


class ImageError(M2DetError, ValueError):
    """An image that cannot be used; the message is one line that starts with its path."""

    def __init__(self, message: str, kind: str = "unreadable images") -> None:
        super().__init__(message)
        self.kind = kind  # unreadable, truncated or oversized


COCO_SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, 1e10))
