# SPDX-License-Identifier: Apache-2.0
"""export.py --int8: a smaller file that finds nearly the same, and refusals before any work."""

import json
import re

import cv2
import numpy as np
import pytest
from exporting import LABELS

import export
from src.formats.exported_network import load_exported
from src.runtime.errors import M2DetError
from tests.datasets import coco_content, write_coco

onnx = pytest.importorskip("onnx", reason="requirements-onnx.txt is not installed")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("device")


def pictures(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(noise, (60, 48)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A COCO data set of the exported network's classes, for training and validation."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train2017", 5), ("val2017", 3)):
        names = [f"{number}.png" for number in range(count)]
        content = coco_content(names, [(1, 2, [5, 5, 30, 30])])
        pairs = zip(LABELS.category_ids, LABELS.class_names)
        content["categories"] = [{"id": key, "name": name} for key, name in pairs]
        write_coco(root, content, split, f"annotations/instances_{split}.json")
        pictures(root / split, names)
    return root


def run(exports, output, place, *flags):
    kind = () if "--file_format" in flags else ("--file_format", "ONNX")
    paths = ["--checkpoint_path", str(exports.checkpoint), "--output", str(output)]
    export.main([*paths, "--int8", str(place), *kind, *flags])


@pytest.mark.parametrize(
    "flags", [(), ("--inputs", "image", "--outputs", "raw", "--batch_size", "2")]
)
def test_a_smaller_file_of_nearly_the_same_outputs(flags, exports, data, tmp_path, capsys):
    run(exports, tmp_path / "n.onnx", data, *flags)
    whole, small = tmp_path / "n.onnx", tmp_path / "n_int8.onnx"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["n.onnx", "n.onnx.json", "n_int8.onnx", "n_int8.onnx.json"]
    assert small.stat().st_size < 0.7 * whole.stat().st_size
    operators = {node.op_type for node in onnx.load(str(small)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators
    about = json.loads((tmp_path / "n_int8.onnx.json").read_text())
    assert about["quantised"] == {"convolutions": "int8", "calibration_images": 5}
    image = cv2.imread(str(data / "val2017" / "0.png"))
    inputs = cv2.resize(image, (64, 64)).astype(np.float32).transpose(2, 0, 1)[None]
    inputs -= np.float32(exports.config.data.mean_bgr).reshape(3, 1, 1)
    for own, other in zip(
        load_exported(whole).network(inputs), load_exported(small).network(inputs)
    ):
        error = np.abs(own - other).max() / np.abs(own).max()
        assert 0 < error < 0.1
    printed = capsys.readouterr().out
    assert re.search(r"^size: [\d.]+ MB, in int8 [\d.]+ MB$", printed, re.M)
    assert re.search(r"^network alone, one image: \d+ ms, in int8 \d+ ms$", printed, re.M)
    assert re.search(r"^AP on 3 images: [\d.]+, in int8 [\d.]+$", printed, re.M)
    assert printed.endswith(f"next: python demo.py --checkpoint_path {small} --input IMAGE\n")


def test_the_heads_stay_in_float32(exports, data, tmp_path):
    """They are the convolutions that no other one comes after."""
    run(exports, tmp_path / "n.onnx", data)
    graph = onnx.load(str(tmp_path / "n_int8.onnx")).graph
    maker = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    before, left = set(), [name for node in convolutions for name in node.input]
    while left:
        name = left.pop()
        if name in maker and name not in before:
            before.add(name)
            left += maker[name].input
    heads = [node for node in convolutions if node.output[0] not in before]
    kinds = {node.name: getattr(maker.get(node.input[1]), "op_type", "") for node in convolutions}
    assert {kinds.pop(node.name) for node in heads} == {""}  # weights as they are
    assert len(kinds) > len(heads) > 1
    assert set(kinds.values()) == {"DequantizeLinear"}


def test_sums_of_two_products_fit_16_bits(exports, data, tmp_path):
    """Processors without VNNI add them so: 2 x 255 x 64 = 32,640 of at most 32,767."""
    run(exports, tmp_path / "n.onnx", data)
    graph = onnx.load(str(tmp_path / "n_int8.onnx")).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [array for array in arrays.values() if array.dtype == np.int8 and array.ndim == 4]
    assert len(weights) > 10
    assert max(int(np.abs(array.astype(int)).max()) for array in weights) == 64


def test_a_folder_of_images_gives_no_ap(exports, tmp_path, capsys):
    place = pictures(tmp_path / "images", ["a.png", "b.jpg"])
    run(exports, tmp_path / "n.onnx", place)
    assert "AP: not measured" in capsys.readouterr().out
    assert (tmp_path / "n_int8.onnx").is_file()


def test_links_out_of_the_data_set_are_followed_on_demand(exports, data, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt  # all images have been read

    monkeypatch.setattr("src.programs.export.setup_device", stop)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "annotations").symlink_to(data / "annotations")
    for split in ("train2017", "val2017"):
        (tmp_path / "data" / split).symlink_to(data / split)
    with pytest.raises(M2DetError):
        run(exports, tmp_path / "n.onnx", tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        run(exports, tmp_path / "n.onnx", tmp_path / "data", "--set", "data.allow_links=true")


def test_refusals_leave_nothing_behind(exports, data, tmp_path):
    place = pictures(tmp_path / "images", ["a.png"])
    (tmp_path / "empty").mkdir()
    other = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    other["categories"][0]["name"] = "wolf"
    write_coco(tmp_path / "other", other, "train2017", "annotations/instances_train2017.json")
    write_coco(tmp_path / "other", other, "val2017", "annotations/instances_val2017.json")
    before = sorted(tmp_path.iterdir())
    for where, flags, reason in (
        (tmp_path / "gone", (), "gone: expected a folder of images, or a data set"),
        (place / "a.png", (), r"a\.png: expected a folder"),
        (tmp_path / "empty", (), "empty: no images"),
        (tmp_path / "other", (), "has no class 'cat'"),
        (place, ("--file_format", "MINDIR"), "needs --file_format ONNX"),
        (place, ("--outputs", "detections"), "--outputs boxes or raw"),
    ):
        name = "n.mindir" if "MINDIR" in flags else "n.onnx"
        with pytest.raises(M2DetError, match=reason):
            run(exports, tmp_path / name, where, *flags)
    (place / "a.png").write_bytes(b"nothing")
    with pytest.raises(M2DetError, match=r"a\.png"):
        run(exports, tmp_path / "n.onnx", place)
    assert sorted(tmp_path.iterdir()) == before
