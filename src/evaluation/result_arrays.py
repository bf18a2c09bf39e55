# SPDX-License-Identifier: Apache-2.0
"""Entries of a COCO results file as arrays, image by image. NumPy only."""

from typing import Any, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from ..data.records import DetectionData, ImageRecord


class ResultArrays(NamedTuple):
    """N detections, best score first; equal scores in the order of the results."""

    image: np.ndarray  # (N,) int64, which of the records
    boxes_px: np.ndarray  # (N, 4) float64 xyxy
    labels: np.ndarray  # (N,) int64 from 1
    scores: np.ndarray  # (N,) float64

    def take(self, rows: np.ndarray) -> "ResultArrays":
        """A subset, by index or mask."""
        return ResultArrays(*(values[rows] for values in self))

    def by_image(
        self, records: Sequence[ImageRecord]
    ) -> Iterator[Tuple[ImageRecord, np.ndarray, "ResultArrays"]]:
        """For every image: its record, the rows of its detections, and these detections."""
        order = np.argsort(self.image, kind="stable")
        ends = np.searchsorted(self.image[order], np.arange(len(records) + 1))
        for record, start, end in zip(records, ends, ends[1:]):
            rows = order[start:end]
            yield record, rows, self.take(rows)


def result_arrays(data: DetectionData, results: Sequence[Mapping[str, Any]]) -> ResultArrays:
    """The detections of the images and classes of `data`."""
    row_of = {record.image_id: row for row, record in enumerate(data.records)}
    label_of = {category: label for label, category in enumerate(data.category_ids, 1)}
    boxes: List[Sequence[float]] = [entry["bbox"] for entry in results]
    arrays = ResultArrays(
        np.array([row_of[entry["image_id"]] for entry in results], np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array([label_of[entry["category_id"]] for entry in results], np.int64),
        np.array([entry["score"] for entry in results], np.float64),
    )
    arrays.boxes_px[:, 2:] += arrays.boxes_px[:, :2]
    return arrays.take(np.argsort(-arrays.scores, kind="stable"))
