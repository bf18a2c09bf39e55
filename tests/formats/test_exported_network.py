# SPDX-License-Identifier: Apache-2.0
"""Exported files, loaded again: the same numbers whatever their form, and one line for bad ones."""

import json
import shutil
import sys

import mindspore as ms
import numpy as np
import onnx
import pytest
from exporting import LABELS, images_for

from src.formats.export_check import network_outputs
from src.formats.exported_network import (
    METADATA_KEY,
    load_exported,
    onnx_session,
    run_in_batches,
)
from src.formats.metadata_check import ExportedError

pytestmark = pytest.mark.usefixtures("device")

RAW = ("mindir raw any", "onnx raw image")


@pytest.fixture(scope="module")
def expected(exports):
    """Network inputs (3, 3, S, S), and what the network makes of them."""
    _, tensor = images_for(exports.config, 3)
    return tensor, network_outputs(exports.network, tensor)


@pytest.fixture(scope="module")
def loaded(exports):
    return {case: load_exported(exports.path(case)) for case in RAW}


@pytest.mark.parametrize("case", RAW)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_of_a_file(case, batch, loaded, expected):
    tensor, outputs = expected
    found = loaded[case].network(tensor[:batch])
    for own, other in zip(outputs, found):
        assert other.dtype == np.float32
        bound = 1e-5 * np.abs(own).max()
        np.testing.assert_allclose(other, own[:batch], rtol=0, atol=bound)


@pytest.mark.parametrize("case", RAW)
def test_what_a_file_says_of_itself(case, loaded, exports):
    assert loaded[case].config == exports.config
    assert loaded[case].labels == LABELS


def test_a_fixed_batch_is_filled_up():
    """A file for two: five inputs go in three times, and the sixth, all zero, is not given back."""
    seen = []

    def run(inputs):
        seen.append(inputs.copy())
        return inputs * 2, inputs[:, 0]

    inputs = np.arange(1, 16, dtype=np.float32).reshape(5, 3)
    doubled, first = run_in_batches(run, inputs, 2)
    np.testing.assert_array_equal(doubled, inputs * 2)
    np.testing.assert_array_equal(first, inputs[:, 0])
    assert [len(part) for part in seen] == [2, 2, 2]
    assert not seen[-1][1].any()


WRONG = {
    "size": np.zeros((1, 3, 32, 32), np.float32),
    "layout": np.zeros((1, 64, 64, 3), np.float32),
    "type": np.zeros((1, 3, 64, 64), np.float64),
    "no batch": np.zeros((3, 64, 64), np.float32),
    "nothing": np.zeros((0, 3, 64, 64), np.float32),
}


@pytest.mark.parametrize("case", RAW)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_inputs(case, wrong, loaded):
    with pytest.raises(ExportedError, match="images must be") as caught:
        loaded[case].network(WRONG[wrong])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.5, 200.0, -150.0])
def test_a_file_that_takes_pixels_takes_nothing_else(value, loaded):
    images = np.full((1, 3, 64, 64), value, np.float32)
    with pytest.raises(ExportedError, match="uint8 pixels"):
        loaded["onnx raw image"].network(images)


def refused(path, reason):
    with pytest.raises(ExportedError, match=reason) as caught:
        load_exported(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", RAW)
def test_damaged_files(case, exports, tmp_path):
    source = exports.path(case)
    path = tmp_path / source.name
    content = source.read_bytes()
    damages = {
        "empty": b"",
        "cut off": content[: len(content) // 3],
        "text": b"this is no network\n" * 100,
        "other format": exports.path(RAW[1 - RAW.index(case)]).read_bytes(),
        "noise": np.random.default_rng(0).bytes(10_000),
    }
    for damage in damages.values():
        path.write_bytes(damage)
        refused(path, "damaged, or no|cut off|says nothing")


@pytest.mark.parametrize("case", RAW)
def test_one_flipped_bit_is_noticed_by_the_file_beside(case, exports, tmp_path):
    source = exports.path(case)
    path = tmp_path / source.name
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    shutil.copy(f"{source}.json", f"{path}.json")
    refused(path, "damaged, or not the file")


@pytest.mark.parametrize("case", RAW)
def test_the_file_alone_is_enough(case, exports, tmp_path, expected):
    path = tmp_path / "alone" / exports.path(case).name
    path.parent.mkdir()
    shutil.copy(exports.path(case), path)
    alone = load_exported(path)
    assert alone.labels == LABELS
    loc, _ = alone.network(expected[0][:1])
    assert loc.shape == expected[1][0][:1].shape


@pytest.mark.parametrize("case", RAW)
def test_metadata_that_does_not_fit(case, exports, tmp_path):
    source = exports.path(case)
    path = tmp_path / source.name
    shutil.copy(source, path)
    beside = tmp_path / f"{path.name}.json"
    good = json.loads((source.parent / beside.name).read_text(encoding="utf-8"))
    for change, reason in (
        ({"version": 99}, "another version"),
        ({"batch_size": "many"}, "batch_size must be a number of images"),
        ({"batch_size": 3}, "batch_size must be those of the network's input, anyx"),
        ({"config": {"model": {"wheels": 4}}}, "model.wheels"),
        ({"class_names": ["a", "b", "c\u202e"]}, "class_names must be a list of printable names"),
        ({"file_sha256": None}, "damaged, or not the file"),
    ):
        beside.write_text(json.dumps({**good, **change}))
        refused(path, reason)
    beside.write_text(json.dumps({k: v for k, v in good.items() if k != "file_sha256"}))
    refused(path, r"\.json: file_sha256 is missing")
    beside.write_text(json.dumps(good), encoding="utf-8-sig")  # as editors of Windows save it
    assert load_exported(path).metadata == good
    beside.write_text("{")
    refused(path, r"\.json: expected the JSON")
    beside.write_bytes(json.dumps(good, ensure_ascii=False).encode("latin-1"))
    refused(path, r"\.json: expected UTF-8")


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "secret"])
def test_weights_outside_of_an_onnx_file(place, location, tmp_path):
    """onnxruntime would give what is in any file of this machine."""
    path = tmp_path / "inner" / "net.onnx"
    path.parent.mkdir()
    np.arange(4, dtype=np.float32).tofile(tmp_path / "secret")
    save_with_outside(path, place, location)
    for call in (load_exported, onnx_session):
        with pytest.raises(ExportedError, match=r"net\.onnx: expected all weights inside"):
            call(path)


def test_a_class_called_location_is_no_weight_outside(tmp_path):
    path = tmp_path / "net.onnx"
    save_with_outside(path, "none", "")
    assert b"location" in path.read_bytes()
    assert onnx_session(path).get_inputs()[0].name == "x"


def save_with_outside(path, place, location):
    """A network that adds a tensor kept in another file to its input."""
    helper = onnx.helper
    floats = onnx.TensorProto.FLOAT
    outside = helper.make_tensor("w", floats, [4], np.zeros(4, np.float32))
    if location:
        outside.ClearField("float_data")
        outside.data_location = onnx.TensorProto.EXTERNAL
        outside.external_data.add(key="location", value=location)
    x, y, w = (helper.make_tensor_value_info(name, floats, [4]) for name in "xyw")
    constant = helper.make_node("Constant", [], ["w"], value=outside)
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    if place == "subgraph":
        inner = helper.make_graph([constant], "inner", [], [w])
        yes = helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])
        branch = helper.make_node("If", ["yes"], ["w"], then_branch=inner, else_branch=inner)
        nodes = [helper.make_node("Constant", [], ["yes"], value=yes), branch, *nodes]
    elif place == "constant":
        nodes = [constant, *nodes]
    inside = [outside] if place in ("initializer", "none") else []
    graph = helper.make_graph(nodes, "g", [x], [y], inside)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: json.dumps({"class_names": ["location"]})})
    path.write_bytes(model.SerializeToString())


def test_a_foreign_network(tmp_path):
    cell = ms.nn.ReLU()
    x = ms.Tensor(np.zeros((1, 3), np.float32))
    ms.export(cell, x, file_name=str(tmp_path / "relu.mindir"), file_format="MINDIR")
    refused(tmp_path / "relu.mindir", "says nothing of its classes")


def test_a_file_with_nms_inside_is_refused(exports):
    refused(exports.path("onnx detections folded"), "gives detections, .* --outputs boxes")


def test_names_and_places(tmp_path):
    refused(tmp_path / "gone.mindir", "not found")
    refused(tmp_path / "net.ckpt", r"ends in \.mindir or \.onnx")


def test_without_onnxruntime(exports, monkeypatch):
    path = exports.path("onnx raw image")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(path, r"pip install -r requirements-onnx\.txt")
