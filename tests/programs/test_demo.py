# SPDX-License-Identifier: Apache-2.0
import csv
import errno
import io
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import demo
from src.data.records import ImageError
from src.drawing.detections import colour_of
from src.inference.detector import Detections
from src.inference.image_sources import Frames
from src.inference.video_file import VideoFile
from src.runtime.errors import UsageError


class StandIn:
    """Finds one thing in images wider than high, in their left half, and nothing in others."""

    class_names = ("cat", "dog")
    network = None

    def __call__(self, image):
        height, width = image.shape[:2]
        count = int(width > height)
        boxes = np.array([[0, 0, width / 2, height]] * count, np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(count, 0.75, np.float32), np.full(count, 2, np.int32))


@pytest.fixture
def run(monkeypatch, tmp_path):
    wanted = []

    def from_checkpoint(path, config, labels=None):
        wanted.append(config.test.score_threshold)
        return StandIn()

    monkeypatch.setattr("src.programs.demo.ArrayDetector.from_checkpoint", from_checkpoint)
    monkeypatch.setattr("src.programs.demo.prepare_device", lambda *_: (0, 1))
    (tmp_path / "m.ckpt").touch()

    def call(*arguments):
        argv = ["--checkpoint_path", str(tmp_path / "m.ckpt"), "--config", "m2det_tiny"]
        demo.main([*argv, "--output", str(tmp_path / "out"), *map(str, arguments)])
        return json.loads((tmp_path / "out" / "detections.json").read_text()), wanted

    return call


def _write(path, height, width):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def write_video(path, count=5, fps=10):
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MPEG-4")
    for number in range(count):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    return path


def test_pictures_and_json(run, tmp_path):
    wide = _write(tmp_path / "in" / "a.png", 40, 60)
    _write(tmp_path / "in" / "b.JPG", 60, 40)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    entries, wanted = run("--input", tmp_path / "in", "--score_threshold", "0.6")
    assert wanted == [0.1]  # the preset's: boxes below what is shown vote, and count for fusion
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


def test_boxes_below_the_threshold_are_left_out(run, tmp_path):
    """The detector's own threshold comes before NMS, which lowers scores further."""
    path = _write(tmp_path / "in" / "a.png", 40, 60)
    assert len(run("--input", path, "--score_threshold", "0.75")[0][0]["detections"]) == 1
    assert run("--input", path, "--score_threshold", "0.76")[0][0]["detections"] == []


def test_hidden_overlaps_are_not_drawn_and_stay_in_the_file(run, tmp_path, monkeypatch):
    """A cat and a dog in nearly one place: only the cat, which is the better, is drawn."""
    boxes = np.array([[10, 15, 50, 35], [10, 15, 50, 34]], np.float32)

    class Both(StandIn):
        def __call__(self, image):
            return Detections(boxes, np.float32([0.9, 0.8]), np.int32([1, 2]))

    monkeypatch.setattr("src.programs.demo.ArrayDetector.from_checkpoint", lambda *_: Both())
    path = _write(tmp_path / "in" / "a.png", 40, 60)

    def colours(*flags):
        entries, _ = run("--input", path, *flags)
        assert len(entries[0]["detections"]) == 2
        picture = cv2.imread(str(tmp_path / "out" / "a.png"))
        return [(picture == colour_of(label)).all(axis=2).any() for label in (1, 2)]

    assert colours() == [True, True]
    assert colours("--hide_overlaps") == [True, False]
    assert colours("--hide_overlaps", "0.99") == [True, True]
    with pytest.raises(UsageError, match="--hide_overlaps must be above 0"):
        run("--input", path, "--hide_overlaps", "0")


def test_same_name_in_two_folders(run, tmp_path):
    paths = [_write(tmp_path / folder / "a.png", 10, 20) for folder in ("one", "two", "three")]
    entries, _ = run("--input", *paths)
    assert [entry["picture"] for entry in entries] == ["a.png", "a_2.png", "a_3.png"]


def test_inputs_are_not_drawn_over(run, tmp_path, monkeypatch, caplog):
    kept = [_write(tmp_path / "out" / name, 10, 20) for name in ("a.jpg", "a.png")]
    before = [path.read_bytes() for path in kept]
    # a.jpg would be drawn into a.png.
    with pytest.raises(ValueError, match=r"a\.png: is one of the inputs"):
        run("--input", tmp_path / "out")
    other = _write(tmp_path / "in" / "b.png", 10, 20)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{kept[1]}\n{other}\n"))
    assert [entry["picture"] for entry in run("--input", "-")[0]] == ["b.png"]
    assert "is one of the inputs" in caplog.text
    assert len(run("--input", tmp_path / "out" / "a.*", "--no_pictures")[0]) == 2
    assert [path.read_bytes() for path in kept] == before


def test_nor_are_inputs_that_standard_input_names_later(run, tmp_path, monkeypatch, caplog):
    kept = [_write(tmp_path / "out" / name, 10, 20) for name in ("a.jpg", "a.png")]
    before = kept[1].read_bytes()
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in kept)))
    entries, _ = run("--input", "-")
    assert [entry["picture"] for entry in entries] == ["a_2.png"]  # of a.png
    assert "a.png: is there already" in caplog.text
    assert kept[1].read_bytes() == before


def test_a_threshold_below_the_networks_own_counts(run, tmp_path):
    _, wanted = run("--input", _write(tmp_path / "in" / "a.png", 9, 9), "--score_threshold", "0.02")
    assert wanted == [0.02]


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
    with pytest.raises(ValueError, match="empty: no images or videos"):
        run("--input", tmp_path / "empty")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="none of the 1 inputs"):
        run("--input", tmp_path / "bad.png")
    with pytest.raises(ValueError, match=r"x\*\.png: not found"):
        run("--input", tmp_path / "x*.png")


def test_patterns_take_what_matches(run, tmp_path):
    for name in ("a1.png", "a2.png", "b1.png"):
        _write(tmp_path / "in" / name, 10, 20)
    entries, _ = run("--input", tmp_path / "in" / "a*.png")
    assert [entry["picture"] for entry in entries] == ["a1.png", "a2.png"]


def test_paths_from_standard_input(run, tmp_path, monkeypatch, caplog):
    good = _write(tmp_path / "in" / "good one.png", 10, 20)
    lines = f"{good}\r\n\n{tmp_path / 'missing.png'}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    entries, _ = run("--input", "-")
    assert [entry["image"] for entry in entries] == [str(good)]
    assert "missing.png" in caplog.text


def test_a_video_becomes_a_video(run, tmp_path):
    path = write_video(tmp_path / "in" / "clip.mp4")
    entries, _ = run("--input", path)
    assert [entry["frame"] for entry in entries] == [0, 1, 2, 3, 4]
    assert {entry["picture"] for entry in entries} == {"clip.mp4"}
    assert len(entries[0]["detections"]) == 1
    made = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert made.get(cv2.CAP_PROP_FPS) == 10
    frames = 0
    while True:
        good, frame = made.read()
        if not good:
            break
        assert frame.shape == (48, 64, 3)
        frames += 1
    assert frames == 5


def test_limit_cuts_a_video(run, tmp_path):
    path = write_video(tmp_path / "in" / "clip.mp4")
    assert len(run("--input", path, "--limit", "2")[0]) == 2


@pytest.mark.parametrize("damage", ["nothing", "garbage", "cut"])
def test_a_damaged_video_is_one_line(run, tmp_path, caplog, damage):
    path = write_video(tmp_path / "in" / "clip.mp4", 30)
    data = path.read_bytes()
    path.write_bytes(
        {"nothing": b"", "garbage": b"\xff" * 500, "cut": data[: len(data) // 2]}[damage]
    )
    good = _write(tmp_path / "in" / "good.png", 10, 20)
    entries, _ = run("--input", path, good)
    assert entries[-1]["image"] == str(good)
    lines = [line for line in caplog.text.splitlines() if "clip.mp4" in line]
    assert len(lines) == 1
    assert "video" in lines[0] or "frames could be read" in lines[0]


@pytest.mark.parametrize(("name", "trusted"), [("clip.mp4", True), ("clip.mkv", False)])
def test_a_count_of_frames_that_is_the_sounds_is_no_damage(run, tmp_path, name, trusted, caplog):
    path = write_video(tmp_path / "in" / "clip.mp4")
    path = path.rename(path.with_name(name))  # OpenCV goes by what is in it
    begin = Frames.__init__

    def longer(self, *arguments):
        begin(self, *arguments)
        self.count += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frames, "__init__", longer)
        assert len(run("--input", path)[0]) == 5
    assert ("5 of 6 frames" in caplog.text) == trusted


def test_a_missing_camera_is_one_line(run, capfd):
    with pytest.raises(ImageError, match="none of the 1 inputs could be read"):
        run("--input", "97")
    assert capfd.readouterr().err == ""


KINDS = ("grey", "rgba", "cmyk", "16bit", "pixel", "long")


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind(run, tmp_path, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    path, size = folder / "x.png", (30, 20)
    if kind == "cmyk":
        image = pytest.importorskip("PIL.Image")
        path = folder / "x.jpg"
        image.new("CMYK", size, (10, 20, 30, 40)).save(path)
    else:
        shapes = {"grey": (20, 30), "rgba": (20, 30, 4), "16bit": (20, 30, 3)}
        shape = {**shapes, "pixel": (1, 1, 3), "long": (100, 20000, 3)}[kind]
        size = (shape[1], shape[0])
        cv2.imwrite(str(path), np.full(shape, 77, np.uint16 if kind == "16bit" else np.uint8))
    entries, _ = run("--input", path)
    assert (entries[0]["width"], entries[0]["height"]) == size
    assert len(entries[0]["detections"]) == int(size[0] > size[1])


def test_every_format(run, tmp_path):
    """One box, the left half of 60 x 40, class dog (the second), score 0.75."""
    path = _write(tmp_path / "in" / "a.png", 40, 60)
    _write(tmp_path / "in" / "empty.png", 60, 40)
    run("--input", tmp_path / "in", "--no_pictures", "--format", "json", "csv", "yolo", "coco")
    out = tmp_path / "out"
    with open(out / "detections.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["image", "frame", "class", "score", "x1", "y1", "x2", "y2"],
        [str(path), "", "dog", "0.75", "0.0", "0.0", "30.0", "40.0"],
    ]
    line = "1 0.250000 0.500000 0.500000 1.000000 0.7500\n"
    assert (out / "labels" / "a.txt").read_text() == line
    assert (out / "labels" / "empty.txt").read_text() == ""
    assert (out / "classes.txt").read_text() == "cat\ndog\n"
    coco = json.loads((out / "detections_coco.json").read_text())
    assert [image["id"] for image in coco["images"]] == [1, 2]
    assert coco["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert coco["annotations"] == [
        {
            **{"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 30, 40]},
            **{"area": 1200, "iscrowd": 0, "score": 0.75},
        }
    ]
    assert not list(out.glob("*.png"))


def test_show_without_a_screen_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    path = _write(tmp_path / "in" / "a.png", 40, 60)
    with pytest.raises(UsageError, match="--show: no screen here"):
        run("--input", path, "--show")


def test_an_interrupt_keeps_what_was_found(run, tmp_path, monkeypatch):
    """Ctrl-C is how one stops with a camera."""
    path = write_video(tmp_path / "in" / "clip.mp4")
    looked = []

    class Interrupted(StandIn):
        def __call__(self, image):
            looked.append(1)
            if len(looked) == 3:
                raise KeyboardInterrupt
            return super().__call__(image)

    monkeypatch.setattr("src.programs.demo.ArrayDetector.from_checkpoint", lambda *_: Interrupted())
    entries, _ = run("--input", path)
    assert [entry["frame"] for entry in entries] == [0, 1]
    assert cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1.01"])
def test_a_threshold_is_a_probability(run, tmp_path, value):
    with pytest.raises(UsageError, match="--score_threshold must be from 0 to 1"):
        run("--input", tmp_path, "--score_threshold", value)


def test_a_camera_number_beyond_32_bits(run, capfd):
    for text in ("99999999999999", "\u00b2"):
        with pytest.raises(ImageError, match=r"none of the 1 inputs|not found"):
            run("--input", text)
    assert "Traceback" not in capfd.readouterr().err


def test_names_that_are_not_utf8(run, tmp_path):
    """A picture and a video with a byte of Latin-1 in their names, from a folder with one."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    plain = _write(tmp_path / "in" / "a.png", 40, 60)
    os.rename(plain, folder + b"/na\xefve.png")
    os.rename(write_video(tmp_path / "in" / "b.mp4", 3), folder + b"/vid\xe9o.mp4")
    entries, _ = run("--input", os.fsdecode(folder), "--format", "json", "csv", "yolo", "coco")
    assert [entry["picture"] for entry in entries] == ["na_xefve.png", *["vid_xe9o.mp4"] * 3]
    assert os.fsencode(entries[0]["image"]) == folder + b"/na\xefve.png"
    assert folder + b"/na\xefve.png" in (tmp_path / "out" / "detections.csv").read_bytes()
    assert (tmp_path / "out" / "labels" / "na_xefve.txt").is_file()
    made = cv2.VideoCapture(str(tmp_path / "out" / "vid_xe9o.mp4"))
    assert made.get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_results_in_a_folder_that_is_not_utf8(run, tmp_path):
    path = write_video(tmp_path / "in" / "clip.mp4", 3)
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    run("--input", path, _write(tmp_path / "in" / "a.png", 4, 6), "--output", tmp_path / "out")
    argv = ["--checkpoint_path", str(tmp_path / "m.ckpt"), "--config", "m2det_tiny"]
    demo.main([*argv, "--input", str(path), "--output", out])
    assert sorted(os.listdir(out)) == ["clip.mp4", "detections.json"]
    assert Path(out, "clip.mp4").read_bytes() == (tmp_path / "out" / "clip.mp4").read_bytes()


def test_bad_lines_on_standard_input_are_passed_over(run, tmp_path, monkeypatch, caplog):
    good = _write(tmp_path / "in" / "good.png", 10, 20)
    lines = b"\xff\xfe.png\nnul\0byte.png\n/\n" + b"x" * 5000 + b"\n" + os.fsencode(good) + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    entries, _ = run("--input", "-")
    assert [entry["image"] for entry in entries] == [str(good)]
    assert caplog.text.count("passed over") == 4


def test_closed_standard_input_is_one_line(run, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        run("--input", "-")
    assert not (tmp_path / "out").exists()


def test_nothing_that_can_be_read_leaves_no_folder(run, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("missing.png\n"))
    with pytest.raises(ImageError, match="none of the 1 inputs"):
        run("--input", "-")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.png", "detections.csv", "detections_coco.json", "a.txt"])
def test_a_full_disk_names_the_file_and_leaves_no_half_of_one(run, tmp_path, monkeypatch, name):
    path = _write(tmp_path / "in" / "a.png", 40, 60)
    write = Path.write_bytes

    def full(target, content):
        if target.name.endswith(name):
            write(target, content[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(target, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run("--input", path, "--format", "csv", "yolo", "coco")
    assert Path(caught.value.filename).name == name
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert name not in left
    assert not [entry for entry in left if entry.startswith(".")]


def test_a_video_cut_by_a_full_disk_is_not_kept(tmp_path, monkeypatch):
    """OpenCV writes on without a word: the file's frames are counted."""
    video = VideoFile(tmp_path / "x.mp4", (64, 48), 10)
    for _ in range(5):
        video.write(np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setattr(cv2.VideoCapture, "get", lambda *_: 2.0, raising=False)
    with pytest.raises(OSError, match=r"x\.mp4: only 2 of 5 frames"):
        video.close()
    assert not list(tmp_path.iterdir())
