# SPDX-License-Identifier: Apache-2.0
"""A run's events for TensorBoard: curves of loss and AP, precision by recall, pictures."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple

import numpy as np

from ..data.images import read_image
from ..data.records import DetectionData, ImageError, ImageRecord
from ..evaluation.coco_metrics import CocoScore
from ..evaluation.result_arrays import result_arrays
from ..runtime.files import naming
from ..training.callback import Scored
from ..training.run_log import Interval
from .detections import draw_detections, scaled

FOLDER = "events"
PICTURES = 8  # images of the split, evenly spread, the same each time
PICTURE_PX = 400  # longer side
SHOWN_SCORE = 0.3
CURVES = 20  # classes with a curve of their own
_NO_VALUES = ("step", "total_steps", "epoch")


class EventLog:
    """Writes what `src.training.run_log.RunLog` gets as TensorBoard events.

    Args:
        folder: of the run.
        start_step: later events are dropped, as these steps run again.
        data: what is scored, if anything.
    """

    def __init__(
        self, folder: Path, start_step: int = 0, data: Optional[DetectionData] = None
    ) -> None:
        # After MindSpore, which sets Protobuf up for the old messages it brings along. Not its
        # SummaryWriter, whose thread dies on a full disk: training would wait for it for ever.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder, self._event, self._summary = folder / FOLDER, Event, summary
        self._folder.mkdir(parents=True, exist_ok=True)
        with naming(self._folder):
            self._file = EventsWriter(str(self._folder / "events"))
        if start_step:
            self._write(start_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._data = data

    def __call__(self, interval: Interval) -> None:
        self._scalars(interval.step, dataclasses.asdict(interval))
        self._flush()

    def scores(self, step: int, epoch: int, scored: Scored) -> None:
        """Numbers, curves and pictures of an evaluation."""
        self._scalars(step, scored.numbers)
        if scored.score is not None and scored.score.precision.size:
            self._curves(step, scored.score)
        for record, picture in self._pictures(scored.results):
            tag = f"pictures/{Path(record.path).name}"
            self._write(step, self._summary.image(tag, picture[:, :, ::-1], dataformats="HWC"))
        self._flush()

    def close(self) -> None:
        """Ends the file."""
        with naming(self._folder):
            self._file.close()

    def _write(self, step: int, summary: Any = None, session_log: Any = None) -> None:
        event = self._event(summary=summary, session_log=session_log)
        event.step, event.wall_time = step, time.time()
        with naming(self._folder):
            self._file.write_event(event)

    def _flush(self) -> None:
        with naming(self._folder):
            self._file.flush()

    def _scalars(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in _NO_VALUES and value is not None:
                self._write(step, self._summary.scalar(name, value))

    def _curves(self, step: int, score: CocoScore) -> None:
        """Of all classes together, and of the first ones."""
        for name, counts in precision_curves(score)[: CURVES + 1]:
            tag = f"precision_recall_at_IoU_50/{name}"
            curve = self._summary.pr_curve_raw(tag, *counts, num_thresholds=counts.shape[1])
            self._write(step, curve)

    def _pictures(self, results: Any) -> List[Tuple[ImageRecord, np.ndarray]]:
        if self._data is None:
            return []
        count, found = len(self._data.records), []
        for index in np.unique(np.linspace(0, count - 1, PICTURES).astype(int)).tolist():
            record = self._data.records[index]
            with contextlib.suppress(ImageError):  # reported when it was scored
                image = read_image(record.path, (record.width, record.height))
                found.append((record, draw_both(image, record, results, self._data)))
        return found


def precision_curves(score: CocoScore) -> List[Tuple[str, np.ndarray]]:
    """(name, counts) of all classes, then of each with ground truth.

    Counts are (6, 101) rows of true and false positives, true and false negatives, precision and
    recall, from recall 1 down to 0 as TensorBoard wants them. COCO's precision is interpolated, so
    they are what would give it; what counts as a true negative is not defined.
    """
    precision = score.precision[0, ::-1, :, 0]  # IoU 0.5, areas of all sizes: (R, C)
    known = precision.min(axis=0) > -1
    if not known.any():
        return []
    names = [name for name, there in zip(score.class_names, known) if there]
    columns = [precision[:, known].mean(axis=1), *precision[:, known].T]
    recall = np.linspace(1, 0, len(precision))
    found = []
    for name, column in zip(("all classes", *names), columns):
        true = np.where(column > 0, recall, 0)  # as fractions of the ground truth
        false = np.divide(true * (1 - column), column, out=np.zeros_like(true), where=column > 0)
        found.append((name, np.stack([true, false, 0 * true, 1 - true, column, recall])))
    return found


def draw_both(
    image: np.ndarray, record: ImageRecord, results: Any, data: DetectionData
) -> np.ndarray:
    """Ground truth on the left, detections above `SHOWN_SCORE` on the right.

    Args:
        image: (H, W, 3) uint8 BGR.
        results: entries of a COCO results file, of any images.
    """
    image = scaled(image, PICTURE_PX, enlarge=False)
    scale = np.tile(np.divide(image.shape[1::-1], (record.width, record.height)), 2)
    own = [e for e in results if e["image_id"] == record.image_id and e["score"] >= SHOWN_SCORE]
    found, names = result_arrays(data, own), data.class_names
    truth = draw_detections(image, record.boxes_px * scale, record.labels, None, names)
    detected = draw_detections(image, found.boxes_px * scale, found.labels, found.scores, names)
    return np.hstack([truth, detected])
