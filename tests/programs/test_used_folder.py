# SPDX-License-Identifier: Apache-2.0
"""train.py and an output folder that holds a run already."""

import hashlib
import shutil

import pytest
from datasets import rendered

import train
from src.config import get_config
from src.formats.checkpoint import CheckpointError
from src.runtime.files import LockedError, locked
from src.training.callback import list_checkpoints
from src.training.job import Job, RunOptions
from src.training.resume import OtherRun, UsedFolder

pytestmark = pytest.mark.usefixtures("device")
PREFIX = "resnet18_64"
SMALL = (
    *("model.input_size=64", "model.num_levels=1", "model.num_scales=3", "model.planes=32"),
    *("train.per_batch_size=4", "train.total_epochs=3", "train.ema=0"),
    *("train.keep_checkpoints=5", "train.eval_times=0"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered(tmp_path_factory, 8, 4)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, device):
    out = tmp_path_factory.mktemp("finished")
    call(data, out)
    return out


@pytest.fixture
def used(finished, tmp_path):
    """A copy of the output of a finished run: 3 epochs of 2 steps."""
    return shutil.copytree(finished, tmp_path / "out")


def call(data, out, settings=(), more=()):
    words = ["--config", "m2det_tiny", "--dataset_path", str(data), "--train_url", str(out)]
    words += [word for text in (*SMALL, *settings) for word in ("--set", text)]
    train.main([*words, *more])


def snapshot(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in files}


def refused(error, data, used, settings=(), more=()):
    """The message; no file has changed."""
    before = snapshot(used)
    with pytest.raises(error) as caught:
        call(data, used, settings, more)
    assert snapshot(used) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fresh_run_is_refused_with_the_ways_out(data, used):
    message = refused(UsedFolder, data, used, ["train.total_epochs=1"])
    assert all(way in message for way in ("--resume auto", "--train_url", "experiment_tag"))


def test_so_is_one_that_goes_on_from_elsewhere(data, used, finished):
    path = str(finished / "m2det_tiny" / f"{PREFIX}-2_4.ckpt")
    refused(UsedFolder, data, used, (), ("--resume", path))


@pytest.mark.parametrize("elsewhere", [True, False])
def test_the_best_network_of_another_folder_is_not_this_runs(tmp_path, data, finished, elsewhere):
    path = finished / "m2det_tiny" / f"{PREFIX}-2_4.ckpt"
    options = RunOptions(data, tmp_path if elsewhere else finished, resume=str(path))
    job = Job(get_config("m2det_tiny"), None, options, 0, 1, None)
    assert job.comes_from_elsewhere == elsewhere


def test_so_is_one_that_goes_back_within_the_folder(data, used):
    path = str(used / "m2det_tiny" / f"{PREFIX}-2_4.ckpt")
    assert "3_6.ckpt" in refused(UsedFolder, data, used, (), ("--resume", path))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("model.planes=16", "model.planes was 32, is 16"),
        ("model.sfam=false", "model.sfam was true, is false"),
        ("model.upsample=bilinear", "model.upsample"),
        ("model.input_size=128", "model.input_size"),
        ("model.backbone=resnet18_slim", "model.backbone"),
        ("anchors.scales=0.1,0.2,0.4,0.7", "anchors.scales"),
        ("anchors.iou_threshold=0.4", "anchors.iou_threshold was 0.5, is 0.4"),
        ("loss.box=giou", "loss.box was"),
        ("data.mean_bgr=1,2,3", "data.mean_bgr"),
    ],
)
def test_resuming_with_another_network_or_other_targets_is_refused(setting, key, data, used):
    assert key in refused(OtherRun, data, used, [setting], ("--resume", "auto"))


def test_where_every_checkpoint_is_damaged_nothing_is_overwritten(data, used):
    for path in list_checkpoints(used / "m2det_tiny", PREFIX):
        path.write_bytes(path.read_bytes()[:1000])
    message = refused(CheckpointError, data, used, (), ("--resume", "auto"))
    assert "none of its 3 checkpoints can be read" in message


def test_damaged_ones_are_written_anew_and_not_counted(data, used):
    folder = used / "m2det_tiny"
    paths = list_checkpoints(folder, PREFIX)
    before = snapshot(folder)
    for path in paths[1:]:
        path.write_bytes(b"damaged")
    call(data, used, ["train.keep_checkpoints=1"], ("--resume", "auto"))
    assert list_checkpoints(folder, PREFIX) == [paths[-1]]
    assert snapshot(folder)[paths[-1]] == before[paths[-1]]


def test_a_second_training_in_the_folder_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.lockf", busy)  # a process does not lock itself out
    with pytest.raises(LockedError, match="in use by process"):
        call(data, tmp_path)
    monkeypatch.undo()
    with locked(tmp_path / "m2det_tiny"):
        pass
    assert not list((tmp_path / "m2det_tiny").iterdir())


def busy(*_):
    raise BlockingIOError(11, "Resource temporarily unavailable")
