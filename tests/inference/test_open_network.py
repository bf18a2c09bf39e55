# SPDX-License-Identifier: Apache-2.0
"""eval.py and the detector give the same for a checkpoint and for the files exported from it."""

import json

import cv2
import numpy as np
import pytest

import eval as evaluate
from src.config import ConfigError
from src.formats.checkpoint import CheckpointError
from src.formats.metadata_check import ExportedError
from src.inference.open_network import read_network_file
from tests.datasets import coco_content, write_coco

CASES = ("mindir raw any", pytest.param("onnx raw image", marks=pytest.mark.slow))
THRESHOLD = "test.score_threshold=0.02"  # the weights are random


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five noisy images of the exported network's classes, in another order."""
    root = tmp_path_factory.mktemp("data")
    names = [f"{number}.png" for number in range(5)]
    content = coco_content(names, [(1, 2, [5, 5, 30, 30])])
    classes = {2: "naïve bird", 4: "cat", 9: "dog"}
    content["categories"] = [{"id": key, "name": name} for key, name in classes.items()]
    write_coco(root, content, "val2017", "annotations/instances_val2017.json")
    rng = np.random.default_rng(0)
    for name in names:
        noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(root / "val2017" / name), cv2.resize(noise, (60, 48)))
    return root


def detections(path, data, out):
    flags = ["--checkpoint_path", str(path), "--dataset_path", str(data), "--output", str(out)]
    evaluate.main([*flags, "--set", THRESHOLD, "--set", "test.batch_size=2"])
    return json.loads((out / "detections.json").read_text())


@pytest.fixture(scope="module")
def expected(exports, data, tmp_path_factory):
    return detections(exports.checkpoint, data, tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("case", CASES)
def test_evaluation_of_an_exported_file_is_that_of_its_checkpoint(
    exports, data, expected, tmp_path, case
):
    found = detections(exports.path(case), data, tmp_path)
    assert len(expected) > 10
    assert len(found) == len(expected)
    for own, other in zip(expected, found):
        assert (own["image_id"], own["category_id"]) == (other["image_id"], other["category_id"])
        assert own["score"] == pytest.approx(other["score"], abs=1e-4)
        np.testing.assert_allclose(own["bbox"], other["bbox"], atol=0.02)


def test_what_an_exported_file_cannot_do_is_named(exports):
    path = exports.path(CASES[0])
    with pytest.raises(ConfigError, match="leave out --config"):
        read_network_file(path, "m2det_tiny")
    with pytest.raises(ConfigError, match="cannot be changed"):
        read_network_file(path, None, ["model.input_size=96"])
    network = read_network_file(path, None, ["test.multi_scale=[64,96]", "test.flip=true"])
    with pytest.raises(ExportedError, match="takes 64 pixels"):
        network.detector(network.config)
    flipped = read_network_file(path, None, ["test.flip=true"])
    found = flipped.detector(flipped.config)(np.zeros((20, 30, 3), np.uint8))
    assert found.boxes_px.shape == (len(found), 4)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ExportedError, match=r"x\.mindir: not found"):
        read_network_file(tmp_path / "x.mindir")
    with pytest.raises(CheckpointError, match=r"x\.ckpt not found"):
        read_network_file(tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").touch()
    with pytest.raises(ConfigError, match="--config"):
        read_network_file(tmp_path / "x.ckpt")
