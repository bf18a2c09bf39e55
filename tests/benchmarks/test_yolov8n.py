# SPDX-License-Identifier: Apache-2.0
"""What is handed to YOLOv8n and back; the peer itself is not installed."""

import numpy as np
import pytest

from benchmarks.peers import yolov8n
from src.data.records import DetectionData, ImageRecord
from src.runtime.errors import UsageError

RECORD = ImageRecord(
    image_id=7,
    path="/x/a.jpg",
    width=200,
    height=100,
    boxes_px=np.array([[20, 10, 60, 30], [0, 0, 200, 100], [5, 5, 10, 10]], np.float32),
    labels=np.array([2, 1, 1], np.int32),
    ignore=np.array([False, False, True]),
)
DATA = DetectionData([RECORD], ("cat", "dog"), (3, 9), "val", "/x/val.json", "voc")


def test_a_label_line_is_class_centre_and_size_as_shares():
    assert yolov8n.label_lines(RECORD) == [
        "1 0.200000 0.200000 0.200000 0.200000",
        "0 0.500000 0.500000 1.000000 1.000000",
    ]


def test_the_objects_themselves_score_one():
    boxes = RECORD.boxes_px[:2].tolist()
    scores = yolov8n.score(DATA, [["000000", boxes, [0.9, 0.8], [1, 0]]])
    assert scores["AP"] == pytest.approx(1)
    # The classes the other way round find nothing.
    assert yolov8n.score(DATA, [["000000", boxes, [0.9, 0.8], [0, 1]]])["AP"] == 0


def test_a_used_folder_is_refused(tmp_path):
    flags = ["--dataset_path", "x", "--python", "x", "--minutes", "1", "--output", str(tmp_path)]
    with pytest.raises(UsageError, match="exists already"):
        yolov8n.main(flags)
