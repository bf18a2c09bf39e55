# SPDX-License-Identifier: Apache-2.0
"""deploy/: programs of their own that find what the ArrayDetector finds."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from exporting import LABELS, unmatched
from source_imports import imports_of

from src.data.images import read_image
from src.data.transforms import to_input
from src.drawing.detections import colour_of, draw_detections
from src.formats.export_check import decoded, hard_nms_of, network_outputs
from src.formats.exported_network import load_exported
from src.inference.detector import ArrayDetector
from src.inference.mindspore_network import cell_network
from src.inference.postprocess import Detections, PostProcessor
from src.priors import make_priors
from src.programs.arguments import demo_arguments

onnx = pytest.importorskip("onnx", reason="requirements-onnx.txt is not installed")
pytestmark = pytest.mark.usefixtures("device")

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROGRAMS = {
    "mindir boxes image folded": "infer_mindir.py",
    "onnx boxes": "infer_onnx.py",
    "onnx detections folded": "infer_onnx.py",
}


def load_program(name):
    spec = importlib.util.spec_from_file_location(name[:-3], DEPLOY / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def programs(exports):
    """Program, network and metadata of each case."""
    found = {}
    for case, name in PROGRAMS.items():
        module = load_program(name)
        found[case] = (module, *module.load(exports.path(case)))
    return found


@pytest.fixture(scope="module")
def photographs(coco_tiny):
    paths = sorted((coco_tiny / "val2017").glob("*.jpg"))
    assert len(paths) == 80
    return [read_image(str(path)) for path in paths]


@pytest.fixture(scope="module")
def detected(exports, photographs):
    """What the ArrayDetector finds in each photograph."""
    network = cell_network(exports.network)
    detector = ArrayDetector.from_network(network, exports.config, LABELS, "net")
    return [detector(image) for image in photographs]


@pytest.mark.parametrize("name", sorted(set(PROGRAMS.values())))
def test_a_program_is_short_and_stands_alone(name):
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    runtime = {"infer_mindir.py": "mindspore", "infer_onnx.py": "onnxruntime"}[name]
    allowed = {"argparse", "io", "json", "os", "re", "sys", "pathlib", "cv2", "numpy", runtime}
    names, parts = imports_of(DEPLOY / name)
    assert names <= allowed | {"m2det"}
    assert text.count("m2det.") == 1  # that one import,
    assert "try:  # optional" in text
    assert not parts


@pytest.mark.parametrize("case", [case for case in PROGRAMS if "boxes" in case])
def test_the_same_boxes_as_the_detector(case, programs, photographs, detected):
    module, run, about = programs[case]
    total = missing = 0
    for image, own in zip(photographs, detected):
        found = module.detect(run, about, image)
        total += len(own)
        missing += unmatched(own, found, LABELS.class_names)
    assert total > 800  # the network finds something wherever it looks
    assert missing <= total * 1e-3, f"{missing} of {total}"


@pytest.mark.parametrize("case", ["mindir raw any", "onnx raw image"])
def test_the_same_boxes_from_raw_files(case, exports, photographs, detected):
    """As eval.py uses them: loaded for a ArrayDetector, four images at a time."""
    file = load_exported(exports.path(case))
    detector = ArrayDetector.from_network(file.network, file.config, file.labels, case)
    missing = 0
    for own, found in zip(detected, detector.detect_batch(photographs, 4)):
        entries = [
            {"class": LABELS.class_names[label - 1], "score": score, "box_xyxy_px": box}
            for box, score, label in zip(found.boxes_px, found.scores, found.labels)
        ]
        missing += unmatched(own, entries, LABELS.class_names) + abs(len(own) - len(found))
    assert missing <= sum(map(len, detected)) * 1e-3, missing


def test_nms_in_the_file(programs, exports, photographs):
    """Against NumPy's hard NMS of the network's own outputs."""
    module, run, about = programs["onnx detections folded"]
    limits = {"score_threshold": 0.1, "iou_threshold": 0.45, "keep_per_class": 50}
    for image in photographs[:5]:
        small = cv2.resize(image, (64, 64))
        inputs = to_input(small, exports.config.data.mean_bgr)[None]
        raw = network_outputs(exports.network, inputs)
        boxes, scores, labels, _ = hard_nms_of(
            *decoded(*raw, make_priors(exports.config)), **limits
        )
        boxes = boxes * np.tile(np.float32(image.shape[1::-1]), 2)
        found = module.detect(run, about, image)
        assert len(scores) > 5
        own = Detections(boxes, scores, labels)
        assert unmatched(own, found, LABELS.class_names) == 0
        assert len(found) == len(own)
        best_first = [entry["score"] for entry in found]
        assert best_first == sorted(best_first, reverse=True)


RULES = {
    "linear": {},
    "gaussian": {"method": "gaussian", "sigma": 0.3},
    "hard": {"method": "hard", "iou_threshold": 0.45},
    "together": {"class_agnostic": True, "topk": 7},
    "few": {"keep_per_class": 3},
    "all": {"keep_per_class": 0, "lowest_score": 0.05},
    "voting": {"voting_iou": 0.5},
    "voting, classes together": {"voting_iou": 0.5, "class_agnostic": True},
}


@pytest.mark.parametrize("name", ["infer_mindir.py", "infer_onnx.py"])
@pytest.mark.parametrize("rule", RULES)
def test_post_processing_follows_the_rule(name, rule):
    """Random boxes, through the project's own post-processing and the program's."""
    rng = np.random.default_rng(5)
    priors = np.concatenate([rng.uniform(0.2, 0.8, (300, 2)), rng.uniform(0.1, 0.5, (300, 2))], 1)
    post = PostProcessor(priors.astype(np.float32), **RULES[rule])
    loc = rng.normal(0, 0.5, (300, 4)).astype(np.float32)
    logits = rng.normal(0, 1.5, (300, 5)).astype(np.float32)
    own = post(loc, logits, 300, 200)
    boxes, scores = decoded(loc, logits, post.priors)
    values = {f.name: getattr(post, f.name) for f in dataclasses.fields(post)}
    scale = np.array([300, 200, 300, 200], np.float32)
    found = load_program(name).select(boxes * scale, scores, values)
    np.testing.assert_allclose(found[0], own.boxes_px, atol=1e-3)
    np.testing.assert_allclose(found[1], own.scores, atol=1e-5)
    np.testing.assert_array_equal(found[2] + 1, own.labels)


@pytest.mark.parametrize("case", ["mindir boxes image folded", "onnx detections folded"])
def test_on_the_command_line(case, exports, tmp_path, monkeypatch, capsys):
    """With a file name that is not UTF-8, which OpenCV crashes at."""
    name = os.fsdecode(b"a \xe9")
    image = np.random.default_rng(0).integers(0, 255, (50, 90, 3))
    (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    module = load_program(PROGRAMS[case])
    arguments = [
        str(exports.path(case)),
        str(tmp_path / f"{name}.png"),
        "--output",
        str(tmp_path / "o"),
        *("--score_threshold", "0.2"),
    ]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    module.main()
    entry = json.loads((tmp_path / "o" / f"{name}.json").read_text())
    assert set(entry["detections"][0]) == {"class", "score", "box_xyxy_px"}
    assert entry["detections"][0]["class"] in LABELS.class_names
    drawn = np.frombuffer((tmp_path / "o" / f"{name}.png").read_bytes(), np.uint8)
    assert cv2.imdecode(drawn, cv2.IMREAD_COLOR).shape == (50, 90, 3)
    assert min(found["score"] for found in entry["detections"]) >= 0.2
    assert f"{len(entry['detections'])} found" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(set(PROGRAMS.values())))
@pytest.mark.parametrize("installed", [False, True])
def test_pictures_have_the_colours_of_demo(name, installed, monkeypatch):
    """The frame of each class, with the package and without; the better of two lies on top."""
    module = load_program(name)
    monkeypatch.setattr(module, "draw_detections", draw_detections if installed else None)
    names = [f"n\u00e4me {number}" for number in range(40)]
    boxes = {1: [50, 60, 90, 100], 17: [50, 60, 90, 190], 40: [-1e9, 150, 150, 1e9]}
    found = [
        {"class": names[label - 1], "score": 0.9 - 0.1 * row, "box_xyxy_px": box}
        for row, (label, box) in enumerate(boxes.items())
    ]
    picture = module.draw(np.full((200, 200, 3), 90, np.uint8), found, names)
    assert picture[80, 50].tolist() == list(colour_of(1))
    assert picture[120, 50].tolist() == list(colour_of(17))
    assert picture[180, 150].tolist() == list(colour_of(40))
    assert picture[5, 5].tolist() == [90, 90, 90]


def test_the_lowest_score_shown_is_that_of_demo():
    wanted = demo_arguments(["--input", "x"]).score_threshold
    for name in sorted(set(PROGRAMS.values())):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        assert f'"--score_threshold", type=float, default={wanted},' in text


def test_the_mindir_alone_is_enough(exports, tmp_path):
    case = "mindir boxes image folded"
    shutil.copy(exports.path(case), tmp_path / "alone.mindir")
    _, about = load_program(PROGRAMS[case]).load(tmp_path / "alone.mindir")
    assert about["class_names"] == list(LABELS.class_names)


@pytest.mark.parametrize("name", ["infer_mindir.py", "infer_onnx.py"])
def test_what_is_no_network_for_them(name, exports, tmp_path):
    module = load_program(name)
    ending = ".mindir" if "mindir" in name else ".onnx"
    path = tmp_path / f"n{ending}"
    path.write_bytes(b"nothing of the kind" * 99)
    with pytest.raises(ValueError, match="cannot be loaded"):
        module.load(path)
    raw = next(c for c in ("mindir raw any", "onnx raw image") if c.startswith(ending[1:]))
    with pytest.raises(ValueError, match=r"not written by export\.py --outputs boxes"):
        module.load(exports.path(raw))


def test_an_error_is_one_line_and_exit_code_2(exports, tmp_path):
    """onnxruntime starts in a moment; the other program ends the same way."""
    (tmp_path / "empty.jpg").write_bytes(b"")
    path = exports.path("onnx boxes")
    for arguments in ([path, tmp_path / "empty.jpg"], [path, tmp_path / "gone.jpg"], ["x", "y"]):
        command = [sys.executable, str(DEPLOY / "infer_onnx.py"), *map(str, arguments)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname"])
def test_weights_outside_of_an_onnx_file_are_refused(location, exports, tmp_path):
    model = onnx.load(str(exports.path("onnx boxes")))
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="expected all weights inside"):
        load_program("infer_onnx.py").load(tmp_path / "n.onnx")


@pytest.mark.parametrize("text", ["{", "[]", '{"outputs": []}', "[" * 99_999])
def test_odd_text_inside_of_a_file(text, exports, tmp_path):
    model = onnx.load(str(exports.path("onnx boxes")))
    onnx.helper.set_model_props(model, {"m2det": text})
    (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"n\.onnx: (cannot be loaded|not written by export)"):
        load_program("infer_onnx.py").load(tmp_path / "n.onnx")
