# SPDX-License-Identifier: Apache-2.0
"""export.py from checkpoint to file: what it writes, and that nothing wrong is left behind."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from exporting import CASES, LABELS, random_network, save_run
from mindspore import nn
from mindspore.train.mind_ir_pb2 import ModelProto

import export
from src.formats import export_network as export_file
from src.formats.export_cells import build_export_form
from src.formats.export_check import compare, hard_nms_of
from src.formats.export_metadata import Request, labels_for
from src.formats.export_network import ExportError, draft_folder, write
from src.formats.onnx_graph import append_nms
from src.model.head import MultiBoxHead
from src.programs.export import next_command
from src.runtime.files import file_sha256

onnx = pytest.importorskip("onnx", reason="requirements-onnx.txt is not installed")
pytestmark = pytest.mark.usefixtures("device")

ROOT = Path(__file__).resolve().parents[2]
# In MindSpore Lite's list for the CPU and float32, some under names of its own (deploy/README.md)
LITE = {
    *("Conv2D", "BiasAdd", "BatchNorm", "ReLU", "MaxPool", "ResizeNearestNeighbor", "Concat"),
    *("Add", "Transpose", "Reshape", "Shape", "Pad", "ReduceMean", "Sigmoid", "Mul"),
    *("Cast", "StridedSlice", "Sub", "Exp", "Softmax"),
}
PLUMBING = {"", "Constant", "Depend", "Load", "MakeTuple", "TupleGetItem", "UpdateState"}


def inside(path):
    """The metadata within a file, read with the formats' own classes."""
    if path.suffix == ".onnx":
        return {p.key: p.value for p in onnx.load(str(path)).metadata_props}["m2det"]
    model = ModelProto.FromString(path.read_bytes())
    if hasattr(model.user_info, "get"):  # from MindSpore 2.10 on
        return model.user_info["m2det"]
    return {entry.key: entry.value for entry in model.user_info}["m2det"]


def test_the_next_command_can_be_typed():
    said = next_command(Request("ONNX", outputs="boxes"), Path("my net.onnx"))
    assert said == "next: python demo.py --checkpoint_path 'my net.onnx' --input IMAGE"


@pytest.mark.parametrize("case", CASES)
def test_a_file_comes_with_its_metadata_inside_and_beside(case, exports):
    path = exports.path(case)
    beside = json.loads(path.with_name(path.name + ".json").read_text())
    assert beside.pop("file_sha256") == file_sha256(path)
    assert json.loads(inside(path)) == beside
    assert beside["class_names"] == list(LABELS.class_names)
    assert beside["category_ids"] == [4, 2, 9]
    assert (beside["input_size"], beside["mean_bgr"]) == (64, [104.0, 117.0, 123.0])
    assert beside["preset"] == "m2det_tiny"
    hard = "detections" in case
    assert beside["postprocess"]["method"] == ("hard" if hard else "linear")
    assert beside["postprocess"]["iou_threshold"] == (0.45 if hard else 0.3)
    assert beside["config"]["model"]["num_classes"] == 4


@pytest.mark.parametrize("case", [case for case in CASES if "mindir" in case])
def test_operators_are_those_of_mindspore_lite(case, exports):
    model = ModelProto.FromString(exports.path(case).read_bytes())
    nodes = [node for graph in (model.graph, *model.functions) for node in graph.node]
    operators = {re.sub(r"^REF::|:\d+$", "", node.op_type) for node in nodes}
    assert "Conv2D" in operators
    assert operators <= LITE | PLUMBING


@pytest.mark.parametrize("case", CASES)
def test_differences_are_printed_and_small(case, exports):
    lines = exports.printed(case).strip().splitlines()
    program = "deploy/infer_onnx.py" if "detections" in case else "demo.py"
    assert lines.pop().startswith(f"next: python {program} ")
    assert lines[-1].startswith("written: ")
    batches = [line.split(":")[0] for line in lines[:-1]]
    flags = CASES[case]
    fixed = flags[flags.index("--batch_size") + 1] if "--batch_size" in flags else "1"
    assert batches == (["batch 1", "batch 4"] if fixed == "0" else [f"batch {fixed}"])
    bound = 1e-4 if "onnx" in case else 1e-5
    for line in lines[:-1]:
        assert float(line.split("network ")[1].split(",")[0]) < 1e-3
        assert float(line.split(", ")[1].split(" ")[0]) <= bound


def test_files_can_be_read_by_all_and_folders_stay_as_they_are(exports):
    for case in CASES:
        assert exports.path(case).stat().st_mode & 0o777 == 0o644
    folder = exports.path(next(iter(CASES))).parent
    assert folder.stat().st_mode & 0o777 == 0o755
    assert len(list(folder.iterdir())) == 2 * len(CASES)  # and nothing hidden


def test_the_checksum_is_of_the_weights(exports):
    metadata = [json.loads(inside(exports.path(case))) for case in CASES]
    assert len({m["weights_sha256"] for m in metadata}) == 1  # folded or not


def run(exports, output, *flags):
    export.main(["--checkpoint_path", str(exports.checkpoint), "--output", str(output), *flags])


REFUSED = {
    "ending": ("n.onnx", [], r"must end in \.mindir"),
    "nms": ("n.mindir", ["--outputs", "detections"], "MINDIR has no NMS"),
    "batch": ("n.mindir", ["--batch_size", "-1"], "0 or more"),
    "operator": (
        "n.onnx",
        ["--file_format", "ONNX", "--set", "model.upsample=bilinear"],
        "bilinear",
    ),
    "agnostic": (
        "n.onnx",
        ["--file_format=ONNX", "--outputs=detections", "--set=test.class_agnostic=true"],
        "class_agnostic",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(case, exports, tmp_path):
    name, flags, reason = REFUSED[case]
    with pytest.raises(ExportError, match=reason) as caught:
        run(exports, tmp_path / name, *flags)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to(exports, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(exports, tmp_path / "file" / "n.mindir")
    (tmp_path / "n.mindir").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        run(exports, tmp_path / "n.mindir")


def test_a_file_that_differs_is_not_kept(exports, tmp_path, monkeypatch):
    monkeypatch.setitem(export_file.TOLERANCE, "ONNX", -1)
    with pytest.raises(ExportError, match="differs from the network by"):
        run(exports, tmp_path / "n.onnx", "--file_format", "ONNX")
    assert not list(tmp_path.iterdir())


def test_nms_that_differs_is_not_kept(exports, tmp_path, monkeypatch):
    def other(path, **limits):
        append_nms(path, **{**limits, "iou_threshold": 0.9})

    monkeypatch.setattr(export_file, "append_nms", other)
    with pytest.raises(ValueError, match="its NMS differs"):
        run(exports, tmp_path / "n.onnx", "--file_format", "ONNX", "--outputs", "detections")
    assert not list(tmp_path.iterdir())


def test_what_mindspore_would_write_as_many_files(exports, tmp_path, monkeypatch):
    monkeypatch.setattr("mindspore.train.serialization.TOTAL_SAVE", 1)
    with pytest.raises(ExportError, match="above 1 GB"):
        run(exports, tmp_path / "n.mindir")
    assert not list(tmp_path.iterdir())


def test_an_operator_without_a_form_in_onnx(tmp_path):
    network, config = random_network("model.upsample=bilinear")
    form = build_export_form(network, config)
    with pytest.raises(ExportError, match="ResizeBilinearV2") as caught:
        write(form, Request("ONNX"), 64, tmp_path / "n.onnx", "{}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_the_onnx_package(exports, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-onnx\.txt"):
        run(exports, tmp_path / "n.onnx", "--file_format", "ONNX")
    assert not list(tmp_path.iterdir())


def test_classes_are_numbered_where_nobody_named_them(exports):
    labels = labels_for(random_network()[1], None, exports.checkpoint)
    assert labels.class_names == ("class 1", "class 2", "class 3")
    assert labels.category_ids == (1, 2, 3)


def test_labels_of_another_network_are_refused(tmp_path):
    network, config = random_network("model.num_classes=7")
    checkpoint = save_run(tmp_path, network, config)
    with pytest.raises(ValueError, match="3 class names for a network of 6"):
        export.main(["--checkpoint_path", str(checkpoint)])


def test_difference_by_hand():
    found, own = np.array([[1.0, -3.5]]), np.array([[1.5, -4.0]])
    difference = compare([found, own], [own, own])
    assert (difference.batch_size, difference.absolute) == (1, 0.5)
    assert difference.relative == 0.125
    assert compare([own[:, :1]], [own]).relative == float("inf")
    assert compare([own * np.nan], [own]).relative == float("inf")


def test_infinite_outputs_have_to_agree():
    """Boxes of a diverged network: exp gives infinity."""
    own, found = np.array([[np.inf, 2.0, -4.0]]), np.array([[np.inf, 2.5, -4.0]])
    difference = compare([found], [own])
    assert (difference.absolute, difference.relative) == (0.5, 0.125)
    for wrong in (-np.inf, np.nan, 1e30):
        assert compare([np.array([[wrong, 2.0, -4.0]])], [own]).relative == float("inf")
    assert compare([np.array([[np.inf, np.inf, -4.0]])], [own]).relative == float("inf")


def test_hard_nms_by_hand():
    """Two images; in the first, B overlaps A by 0.6, C by nothing; D is of another class."""
    a, b, c = [0.0, 0, 0.4, 0.4], [0.1, 0, 0.5, 0.4], [0.6, 0.6, 0.9, 0.9]
    boxes = np.array([[a, b, c, a], [c, b, a, a]], np.float32)
    scores = np.zeros((2, 4, 2), np.float32)
    scores[0, :, 0] = 0.5, 0.9, 0.3, 0.05
    scores[0, 3, 1] = 0.8
    scores[1, 0, 1] = 0.4
    found = hard_nms_of(boxes, scores, 0.1, 0.5, 0)
    np.testing.assert_array_equal(found[0], np.array([b, c, a, c], np.float32))
    np.testing.assert_allclose(found[1], [0.9, 0.3, 0.8, 0.4])
    assert found[2].tolist() == [1, 1, 2, 2]
    assert found[3].tolist() == [0, 0, 0, 1]
    assert len(hard_nms_of(boxes, scores, 0.1, 0.7, 0)[1]) == 5
    assert len(hard_nms_of(boxes, scores, 0.1, 0.7, 1)[1]) == 3


def test_the_mode_is_graph_mode_again(exports):
    assert ms.get_context("mode") == ms.GRAPH_MODE


class _OneMap(nn.Cell):
    """A head on one map, large enough to go through one convolution."""

    def __init__(self):
        super().__init__()
        self.head = MultiBoxHead([8], [2], 3)

    def construct(self, x):
        return self.head((x,))


def test_onnx_of_the_head_of_a_large_map(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    net, x = _OneMap().set_train(False), np.random.default_rng(0).random((1, 8, 20, 20), np.float32)
    ms.export(net, ms.Tensor(x), file_name=str(tmp_path / "head"), file_format="ONNX")
    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"))
    found = session.run(None, {session.get_inputs()[0].name: x})
    for own, other in zip(net(ms.Tensor(x)), found):
        np.testing.assert_allclose(other, own.asnumpy(), rtol=0, atol=1e-6)


def test_folders_of_killed_exports_are_removed_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "m2det-export-nobody_1").mkdir()
    (tmp_path / "m2det-export-nobody_1" / "network.onnx").write_bytes(b"half")
    os.utime(tmp_path / "m2det-export-nobody_1", (0, 0))  # a new one may be about to be locked
    (tmp_path / "keep").mkdir()
    (tmp_path / "m2det-export-link").symlink_to(tmp_path / "keep")
    code = f"""
import tempfile, time
from src.formats.export_network import draft_folder
tempfile.tempdir = {str(tmp_path)!r}
with draft_folder():
    print("there", flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"there\n"
        (held,) = tmp_path.glob("m2det-export-*/.lock")
        with draft_folder() as own:
            assert own.is_dir()
            assert held.is_file()
        process.kill()
    with draft_folder() as own:
        assert {path.name for path in tmp_path.iterdir()} == {"keep", "m2det-export-link", own.name}
    assert not own.exists()
