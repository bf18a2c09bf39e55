# SPDX-License-Identifier: Apache-2.0
"""The network that comes with the project: the file, and how such a file is made."""

import hashlib
import os

import mindspore as ms
import numpy as np
import pytest

from src.config import get_config
from src.formats import shipped
from src.formats.checkpoint import (
    CheckpointError,
    Labels,
    read_checkpoint,
    save_checkpoint,
    save_config,
)
from src.formats.shipped import PHOTOS, SUMS, write_half
from src.inference.open_network import read_network_file
from src.model import build_model

VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run's last checkpoint of a small network, as training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    config = get_config("m2det_tiny", ["model.num_classes=3", "model.num_levels=1"])
    model = build_model(config)
    weights = dict(model.parameters_dict())
    save_checkpoint({**weights, "state/global_step": ms.Tensor([5])}, folder / "x-final.ckpt")
    save_config(folder, config, Labels(("cup", "mug"), (4, 9)))
    return folder


def test_half_of_a_checkpoint_is_the_same_network(run_folder, tmp_path, device):
    path = write_half(run_folder / "x-final.ckpt", tmp_path / "out")
    assert sorted(os.listdir(path.parent)) == [SUMS, "config.json", "labels.json", path.name]
    assert path.stat().st_size < 0.6 * (run_folder / "x-final.ckpt").stat().st_size
    digest, name = (path.parent / SUMS).read_text().split()
    assert (digest, name) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    network = read_network_file(path)
    assert network.detector(network.config).class_names == ("cup", "mug")
    full, half = (read_checkpoint(p) for p in (run_folder / "x-final.ckpt", path))
    assert set(half) == set(full) - {"state/global_step"}
    for name, weights in half.items():
        expected = full[name].asnumpy().astype(np.float16)
        np.testing.assert_array_equal(weights.asnumpy(), expected, err_msg=name)


def test_what_cannot_be_halved_is_refused(run_folder, tmp_path, capsys):
    source = tmp_path / "x.ckpt"
    (tmp_path / "config.json").write_text((run_folder / "config.json").read_text())
    save_checkpoint({"a.weight": ms.Tensor(np.array([1.0, 7e4], np.float32))}, source)
    with pytest.raises(CheckpointError, match=r"x\.ckpt: no labels\.json beside it"):
        write_half(source, tmp_path / "out")
    (tmp_path / "labels.json").write_text((run_folder / "labels.json").read_text())
    with pytest.raises(CheckpointError, match=r"x\.ckpt: a\.weight does not fit into float16"):
        write_half(source, tmp_path / "out")
    assert shipped.main(["--checkpoint_path", str(source), "--output", str(tmp_path / "out")]) == 2
    assert "does not fit into float16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_file_that_comes_along():
    """It is whole, small enough for a repository, and what `--finetune photos` builds."""
    digest, name = (PHOTOS.parent / SUMS).read_text().split()
    assert name == PHOTOS.name
    assert hashlib.sha256(PHOTOS.read_bytes()).hexdigest() == digest
    assert PHOTOS.stat().st_size <= 30e6
    network = read_network_file(PHOTOS)
    assert network.labels.class_names == VOC
    assert network.config.model == get_config(shipped.PRESET, ["model.num_classes=21"]).model
    assert network.config.anchors == get_config(shipped.PRESET).anchors
