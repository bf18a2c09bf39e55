# SPDX-License-Identifier: Apache-2.0
"""Events read back as TensorBoard does: records of length, checksum, message, checksum."""

import struct

import cv2
import numpy as np
import pytest
from datasets import write_image

from src.data.records import DetectionData, ImageRecord
from src.drawing.tensorboard import EventLog, precision_curves
from src.evaluation.coco_metrics import coco_score
from src.training.callback import Scored
from src.training.run_log import Interval

CAT, DOG = 3, 7  # category ids


def messages_of(folder):
    """The events in all files, oldest first."""
    from tensorboardX.proto.event_pb2 import Event  # after MindSpore

    found = []
    for path in sorted((folder / "events").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def events_of(folder):
    """[(step, tag, value)]."""
    return [(e.step, value.tag, value) for e in messages_of(folder) for value in e.summary.value]


@pytest.fixture
def data(tmp_path):
    """Two images of 120 x 96, annotated as 60 x 48: a cat in one, a cat and a dog in the other."""
    rows = []
    for number, labels in enumerate(([1], [1, 2]), 1):
        path = write_image(tmp_path / f"{number}.png", 120, 96)
        boxes = np.array([[5, 5, 25, 25], [30, 10, 50, 40]], np.float32)[: len(labels)]
        ignore = np.zeros(len(labels), bool)
        rows.append(
            ImageRecord(number, str(path), 60, 48, boxes, np.array(labels, np.int32), ignore)
        )
    return DetectionData(rows, ("cat", "dog"), (CAT, DOG), "val", "Annotations", "voc")


def found(image_id, category, bbox, score):
    return {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score}


RESULTS = [
    found(1, CAT, [5, 5, 20, 20], 0.9),
    found(1, CAT, [40, 30, 10, 10], 0.8),  # nothing there
    found(2, CAT, [5, 5, 20, 20], 0.7),
    found(2, DOG, [30, 10, 20, 30], 0.6),
]


def test_curves_of_loss_and_ap(tmp_path):
    log = EventLog(tmp_path)
    log(Interval(10, 100, 1, 3.0, 1.0, 2.0, 5.0, 0.01, 7.0, 0, 100.0))
    log.scores(10, 1, Scored({"AP": 0.25, "AP_ema": 0.5}))
    log.close()
    values = {tag: (step, value.simple_value) for step, tag, value in events_of(tmp_path)}
    assert values["loss"] == (10, 3.0)
    assert values["AP"] == (10, 0.25)
    assert values["AP_ema"] == (10, 0.5)
    assert "images_per_second" not in values  # not known of the first step
    assert "step" not in values


def test_pictures_with_truth_and_detections(tmp_path, data):
    log = EventLog(tmp_path, data=data)
    log.scores(20, 2, Scored({"AP": 0.5}, None, RESULTS))
    log.close()
    pictures = {
        tag: cv2.imdecode(np.frombuffer(value.image.encoded_image_string, np.uint8), 1)
        for step, tag, value in events_of(tmp_path)
        if tag.startswith("pictures/")
    }
    assert set(pictures) == {"pictures/1.png", "pictures/2.png"}
    truth, detections = np.hsplit(pictures["pictures/1.png"], 2)
    assert truth.shape == (96, 120, 3)
    # the frames of the true box, in the pixels of the file; then the one that is wrong
    for half, frames in ((truth, [(10, 30)]), (detections, [(10, 30), (80, 70)])):
        for x, y in frames:
            assert (half[y - 1 : y + 2, x - 1 : x + 2] != 90).any(), (x, y)
    assert (truth[66:74, 78:82] == 90).all()


def test_precision_by_recall(tmp_path, data):
    score = coco_score(data, RESULTS)
    names, counts = zip(*precision_curves(score))
    assert names == ("all classes", "cat", "dog")
    cat = counts[1]
    recall, precision = cat[5], cat[4]
    assert recall[[0, -1]].tolist() == [1, 0]
    # one of two cats is found at once, the other after a wrong box
    assert precision[recall <= 0.5] == pytest.approx(1)
    assert precision[recall > 0.5] == pytest.approx(2 / 3)
    assert counts[2][4] == pytest.approx(1)
    assert counts[0][4] == pytest.approx((cat[4] + 1) / 2)
    true, false = cat[0], cat[1]
    assert true / np.maximum(true + false, 1e-9) == pytest.approx(
        np.where(recall > 0, precision, 0)
    )
    log = EventLog(tmp_path, data=data)
    log.scores(20, 2, Scored(score.totals, score, RESULTS))
    log.close()
    curves = {tag: value for _, tag, value in events_of(tmp_path) if "recall_at" in tag}
    assert [tag.split("/")[1] for tag in curves] == ["all classes", "cat", "dog"]
    curve = curves["precision_recall_at_IoU_50/cat"]
    assert curve.metadata.plugin_data.plugin_name == "pr_curves"
    assert np.array(curve.tensor.float_val).reshape(6, -1) == pytest.approx(cat, abs=1e-6)


def test_a_resumed_run_forgets_what_comes_again(tmp_path):
    EventLog(tmp_path).close()
    log = EventLog(tmp_path, start_step=20)
    log.close()
    starts = [event.step for event in messages_of(tmp_path) if event.session_log.status == 1]
    assert starts == [21]  # TensorBoard drops what was written for this step and later ones
