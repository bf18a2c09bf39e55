# SPDX-License-Identifier: Apache-2.0
import json

import cv2
import numpy as np
import pytest

import demo
from src.detector import Detections


class StandIn:
    """Finds one thing in images wider than high, in their left half, and nothing in others."""

    class_names = ("cat", "dog")

    def __call__(self, image):
        height, width = image.shape[:2]
        count = int(width > height)
        boxes = np.array([[0, 0, width / 2, height]] * count, np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(count, 0.75, np.float32), np.full(count, 2, np.int32))


@pytest.fixture
def run(monkeypatch, tmp_path):
    wanted = []

    def from_checkpoint(path, config, labels):
        wanted.append(config.test.score_threshold)
        return StandIn()

    monkeypatch.setattr(demo.Detector, "from_checkpoint", from_checkpoint)
    monkeypatch.setattr(demo, "setup_device", lambda *_: (0, 1))

    def call(*arguments):
        argv = ["--checkpoint_path", str(tmp_path / "m.ckpt"), "--config", "m2det_tiny"]
        demo.main([*argv, "--output", str(tmp_path / "out"), *map(str, arguments)])
        return json.loads((tmp_path / "out" / "detections.json").read_text()), wanted

    return call


def _write(path, height, width):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def test_pictures_and_json(run, tmp_path):
    wide = _write(tmp_path / "in" / "a.png", 40, 60)
    _write(tmp_path / "in" / "b.JPG", 60, 40)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    entries, wanted = run("--input", tmp_path / "in", "--score_threshold", "0.6")
    assert wanted == [0.6]
    assert entries[0] == {
        "image": str(wide),
        "picture": "a.png",
        "width": 60,
        "height": 40,
        "detections": [{"class": "dog", "score": 0.75, "box_xyxy_px": [0.0, 0.0, 30.0, 40.0]}],
    }
    assert entries[1]["detections"] == []
    for entry in entries:
        picture = cv2.imread(str(tmp_path / "out" / entry["picture"]))
        assert picture.shape == (entry["height"], entry["width"], 3)
    assert (cv2.imread(str(tmp_path / "out" / "a.png")) != 90).any()
    assert (cv2.imread(str(tmp_path / "out" / "b.png")) == 90).all()


def test_same_name_in_two_folders(run, tmp_path):
    paths = [_write(tmp_path / folder / "a.png", 10, 20) for folder in ("one", "two", "three")]
    entries, _ = run("--input", *paths)
    assert [entry["picture"] for entry in entries] == ["a.png", "a_2.png", "a_3.png"]


def test_limit(run, tmp_path):
    for number in range(3):
        _write(tmp_path / "in" / f"{number}.png", 10, 20)
    assert len(run("--input", tmp_path / "in", "--limit", "2")[0]) == 2


def test_unreadable_images_are_passed_over(run, tmp_path, caplog):
    _write(tmp_path / "in" / "good.png", 10, 20)
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    entries, _ = run("--input", tmp_path / "in")
    assert [entry["picture"] for entry in entries] == ["good.png"]
    assert "bad.png" in caplog.text


def test_bad_input(run, tmp_path):
    with pytest.raises(ValueError, match=r"no\.png: not found"):
        run("--input", tmp_path / "no.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images"):
        run("--input", tmp_path / "empty")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="none of the 1 images"):
        run("--input", tmp_path / "bad.png")
