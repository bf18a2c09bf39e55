# SPDX-License-Identifier: Apache-2.0
"""src/detector.py: loading a detector, and the results it returns."""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import mindspore as ms
import numpy as np
import pytest
from exporting import LABELS

from src.detector import Detection, Detector
from src.formats.checkpoint import Labels
from src.inference.detector import ArrayDetector
from src.inference.postprocess import PostProcessor
from src.inference.views import ViewPlan
from src.runtime.errors import M2DetError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def detector():
    """Finds a dog in the left half of every picture, score 0.9, and a cat in the right, 0.6."""
    priors = np.array([[0.25, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1]], np.float32)
    scores = np.array([[[0, 0.9], [0.6, 0]]], np.float32)

    def network(inputs):
        boxes = [[[0, 0, 0.5, 1], [0.5, 0, 1, 1]]] * len(inputs)
        return np.array(boxes, np.float32), np.repeat(scores, len(inputs), axis=0)

    labels = Labels(("cat", "dog"), (1, 2))
    post = PostProcessor(priors)
    found = ArrayDetector(network, post, ViewPlan(32), (0, 0, 0), labels, decoded=True)
    return Detector(found, 0.5)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "pictures" / "street.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    return path


def test_a_result_is_a_sequence_of_named_boxes(detector, photo):
    result = detector(photo)
    dog, cat = result
    assert dog == Detection("dog", pytest.approx(0.9), (0, 0, 30, 40))
    assert cat == Detection("cat", pytest.approx(0.6), (30, 0, 60, 40))
    assert result[-1] == cat
    assert list(result[1:]) == [cat]
    assert result.names == ("dog", "cat")
    assert (len(result), result.labels.tolist()) == (2, [2, 1])
    assert repr(result) == f"Result({photo}: dog 0.90, cat 0.60)"


def test_pictures_in_every_form_give_the_same(detector, photo):
    from PIL import Image

    array = cv2.imread(str(photo))
    for picture in (str(photo), photo, array, Image.open(photo), Image.open(photo).convert("RGBA")):
        found = detector(picture)
        np.testing.assert_array_equal(found.boxes_px, detector(array).boxes_px)
        np.testing.assert_array_equal(found.image, array)


def test_colours_of_a_pil_image_are_those_of_its_file(detector, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 6), (255, 128, 0)).save(tmp_path / "orange.png")
    path = tmp_path / "orange.png"
    pil, file = detector(Image.open(path)), detector(path)
    assert pil.image[0, 0].tolist() == file.image[0, 0].tolist() == [0, 128, 255]


def test_a_folder_gives_a_result_for_each_picture(detector, photo, caplog):
    cv2.imwrite(str(photo.with_name("b.png")), np.full((10, 20, 3), 9, np.uint8))
    photo.with_name("bad.png").write_bytes(b"nothing")
    results = detector(photo.parent)
    assert [Path(result.path).name for result in results] == ["b.png", "street.png"]
    assert "bad.png" in caplog.text
    assert [len(r) for r in results.filter(names="cat")] == [1, 1]
    assert [len(r) for r in detector([photo, np.zeros((4, 5, 3), np.uint8)])] == [2, 2]
    content = results.to_coco()
    assert [image["width"] for image in content["images"]] == [20, 60]
    assert [a["image_id"] for a in content["annotations"]] == [1, 1, 2, 2]


def test_a_list_goes_on_after_what_cannot_be_read(detector, photo, caplog):
    results = detector([photo, photo.with_name("none.png"), cv2.imread(str(photo))])
    assert [len(result) for result in results] == [2, 2]
    assert "passed over" in caplog.text


def test_filter(detector, photo):
    result = detector(photo)
    assert result.filter(score=0.7).names == ("dog",)
    assert result.filter(names=["cat"]).names == ("cat",)
    assert result.filter(0.7, "cat").names == ()
    assert result.filter(0.7, "cat").filter(names="dog").names == ()
    with pytest.raises(M2DetError, match="no class 'bird'; the network has cat, dog"):
        result.filter(names=["bird"])
    assert result.names == ("dog", "cat")  # as it was


def test_pictures_and_files_of_a_result(detector, photo, tmp_path):
    result = detector(photo)
    drawn = result.plot()
    assert drawn.shape == (40, 60, 3)
    assert (drawn != result.image).any()
    assert result.save(tmp_path / "new" / "x.png") == tmp_path / "new" / "x.png"
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "x.png")), drawn)
    assert result.save(tmp_path / "out") == tmp_path / "out" / "street.png"
    saved = detector([photo, photo]).save(tmp_path / "out")
    assert [path.name for path in saved] == ["street.png", "street_2.png"]
    shown = cv2.imdecode(np.frombuffer(result._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown, drawn)
    large = detector(np.zeros((3000, 2000, 3), np.uint8))._repr_png_()
    assert cv2.imdecode(np.frombuffer(large, np.uint8), cv2.IMREAD_COLOR).shape == (1000, 667, 3)
    with pytest.raises(OSError, match=r"street\.png"):
        result.save(photo / "x.png")  # a file where a folder should be


def test_no_picture_of_several_is_written_over_another(detector, photo, tmp_path):
    for name in ("street.jpg", "street_2.bmp"):
        cv2.imwrite(str(photo.parent / name), np.zeros((8, 8, 3), np.uint8))
    saved = detector(photo.parent).save(tmp_path / "out")
    assert [path.name for path in saved] == ["street.png", "street_2.png", "street_2_2.png"]


def test_the_pictures_themselves_are_not_drawn_over(detector, photo):
    before = photo.read_bytes()
    with pytest.raises(M2DetError, match=r"street\.png: is one of the inputs"):
        detector(photo).save(photo.parent)
    cv2.imwrite(str(photo.with_suffix(".jpg")), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(M2DetError, match=r"street\.png: is one of the inputs"):
        detector(photo.parent).save(photo.parent)
    assert photo.read_bytes() == before


def test_a_pil_image_of_16_bits_is_as_its_file(detector, tmp_path):
    from PIL import Image

    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0x0000, 0x1234, 0xFFFF]], np.uint16)).save(path)
    pil, file = detector(Image.open(path)), detector(path)
    assert pil.image[0].tolist() == file.image[0].tolist() == [[0] * 3, [0x12] * 3, [0xFF] * 3]


def test_a_result_is_shown_on_one_line(detector, photo):
    odd = photo.rename(photo.with_name("a\nb.png"))
    assert repr(detector(odd)).startswith(f"Result({photo.parent}/a\\nb.png: dog 0.90")


def test_to_coco_reads_back(detector, photo):
    content = detector(photo).to_coco()
    assert content["images"][0]["file_name"] == str(photo)
    names = {category["id"]: category["name"] for category in content["categories"]}
    rows = [(names[a["category_id"]], a["bbox"], a["score"]) for a in content["annotations"]]
    assert rows == [("dog", [0, 0, 30, 40], 0.9), ("cat", [30, 0, 30, 40], 0.6)]


def test_to_pandas(detector, photo, monkeypatch):
    """With a stand-in: pandas is not among the packages of the tests."""
    stand_in = SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns))
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    rows, columns = detector(photo).to_pandas()
    assert columns == ("image", "name", "score", "x1", "y1", "x2", "y2")
    assert rows[1] == (str(photo), "cat", pytest.approx(0.6), 30, 0, 60, 40)


def test_without_pandas_is_one_line(detector, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        detector(photo).to_pandas()


def test_what_is_no_picture_is_refused(detector, photo, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    for picture, reason in (
        (3.5, "a path, an array or a PIL image, not float"),
        (tmp_path / "gone.png", "gone.png: not found"),
        (tmp_path / "clip.mp4", r"clip\.mp4: .*not a JPEG"),
        ("http://x.org/cat.jpg", "not found"),
    ):
        with pytest.raises(M2DetError, match=reason):
            detector(picture)


def test_a_checkpoint_runs_in_graph_mode_and_says_that_it_compiles(exports, photo, caplog):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        detector = Detector.load(exports.checkpoint, score_threshold=0.02)
        assert ms.get_context("mode") == ms.GRAPH_MODE
        ms.set_context(mode=ms.PYNATIVE_MODE)
        own = Detector.from_checkpoint(exports.checkpoint)
        assert ms.get_context("mode") == ms.GRAPH_MODE
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    assert detector.class_names == own.class_names == LABELS.class_names
    with caplog.at_level(logging.WARNING):
        first, second = detector(photo), detector(photo)
    assert caplog.text.count("compiling the network") == 1
    np.testing.assert_array_equal(first.boxes_px, second.boxes_px)


@pytest.mark.parametrize("case", ["mindir raw any", "mindir boxes image folded", "onnx boxes"])
def test_exported_files_find_what_the_checkpoint_does(case, exports, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    picture = cv2.resize(noise, (64, 64))
    expected = Detector.load(exports.checkpoint, 0.02)(picture)
    found = Detector.load(exports.path(case), 0.02)(picture)
    assert len(expected) > 3
    assert found.names == expected.names
    np.testing.assert_allclose(found.boxes_px, expected.boxes_px, atol=0.02)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_bad_files_and_thresholds(exports, tmp_path, monkeypatch):
    with pytest.raises(M2DetError, match=r"x\.ckpt not found"):
        Detector.load(tmp_path / "x.ckpt")
    with pytest.raises(M2DetError, match=r"x\.onnx: not found"):
        Detector.load(tmp_path / "x.onnx")
    with pytest.raises(M2DetError, match="export with --outputs boxes"):
        Detector.load(exports.path("onnx detections folded"))
    for value in (float("nan"), -0.1, 1.5):
        with pytest.raises(M2DetError, match="score_threshold must be from 0 to 1"):
            Detector.load(exports.checkpoint, value)
    monkeypatch.setattr("src.detector.PHOTOS", tmp_path / "none.safetensors")
    with pytest.raises(M2DetError, match="name a checkpoint, MINDIR or ONNX file"):
        Detector.load()
    monkeypatch.setattr("src.detector.PHOTOS", exports.checkpoint)
    assert Detector.load().class_names == LABELS.class_names


def test_an_onnx_file_needs_no_mindspore(exports, photo):
    """Nor does what `--help` of the programs imports."""
    code = f"""
import sys
import demo, eval, visualize
from src.detector import Detector
Detector.load({str(exports.path("onnx boxes"))!r})({str(photo)!r})
assert "onnxruntime" in sys.modules
assert not {{"mindspore", "torch", "pycocotools"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
