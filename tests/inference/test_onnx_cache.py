# SPDX-License-Identifier: Apache-2.0
"""A checkpoint on a CPU: written as ONNX into the cache once, then used without MindSpore."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.detector import Detector
from src.inference import onnx_cache
from src.inference.onnx_cache import cached_onnx
from src.inference.open_network import read_network_file

pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
pytestmark = pytest.mark.usefixtures("device")
ROOT = Path(__file__).resolve().parents[2]


def test_written_once_and_used_without_mindspore(exports, tmp_path, monkeypatch, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    picture = cv2.resize(noise, (64, 64))
    cv2.imwrite(str(tmp_path / "noise.png"), picture)
    by_mindspore = Detector.load(exports.checkpoint, 0.02, "CPU")(picture)
    monkeypatch.setenv("M2DET_CACHE", str(tmp_path / "cache"))
    found = Detector.load(exports.checkpoint, 0.02, "CPU")(picture)
    assert len(found) > 3
    assert found.names == by_mindspore.names
    np.testing.assert_allclose(found.boxes_px, by_mindspore.boxes_px, atol=0.02)
    np.testing.assert_allclose(found.scores, by_mindspore.scores, atol=1e-4)
    assert caplog.text.count("into the cache, once") == 1
    (file,) = (tmp_path / "cache" / "onnx").glob("*.onnx")
    code = f"""
import sys
from src.detector import Detector
print(len(Detector.load({str(exports.checkpoint)!r}, 0.02, "CPU")({str(tmp_path / "noise.png")!r})))
assert "mindspore" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(found)
    file.write_bytes(file.read_bytes()[:-9])  # as by a full disk
    again = cached_onnx(exports.checkpoint)
    assert again.path == file
    assert caplog.text.count("into the cache, once") == 2


def test_other_weights_are_another_file(exports, tmp_path):
    network = read_network_file(exports.checkpoint)
    other = tmp_path / exports.checkpoint.name
    other.write_bytes(exports.checkpoint.read_bytes() + b"\0")
    assert onnx_cache._key(replace(network, path=other)) != onnx_cache._key(network)
    other.write_bytes(exports.checkpoint.read_bytes())  # elsewhere, but the same
    assert onnx_cache._key(replace(network, path=other)) == onnx_cache._key(network)


def test_where_it_cannot_be(exports, tmp_path, monkeypatch):
    assert os.environ["M2DET_CACHE"] == "off"
    assert cached_onnx(exports.checkpoint) is None
    monkeypatch.setenv("M2DET_CACHE", str(tmp_path / "cache"))
    assert cached_onnx(exports.path("onnx boxes")) is None
    assert cached_onnx(exports.checkpoint, ["test.multi_scale=[64,96]"]) is None
    with monkeypatch.context() as patch:
        patch.setattr(onnx_cache, "LARGEST_BYTES", 1000)
        assert cached_onnx(exports.checkpoint) is None
    with monkeypatch.context() as patch:
        patch.setattr(onnx_cache, "PACKAGES", ("onnx", "a_package_that_is_not_there"))
        assert cached_onnx(exports.checkpoint) is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("M2DET_CACHE", str(tmp_path / "file"))
    assert cached_onnx(exports.checkpoint) is None
    assert not (tmp_path / "cache").exists()
