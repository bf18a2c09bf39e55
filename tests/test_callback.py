# SPDX-License-Identifier: Apache-2.0
import logging

import numpy as np
import pytest
from mindspore import Tensor

from src.callback import CheckpointSaver, ProgressLog, StepReport, list_checkpoints
from src.checkpoint import read_checkpoint

pytestmark = pytest.mark.usefixtures("device")


def report(step, epoch=0, ended=False, loss=1.0):
    return StepReport(step, 10, epoch, ended, loss, 2 * loss, 5.0, 0.01, 4, 0.0)


def test_progress_shows_means_and_the_last_step(caplog):
    log = logging.getLogger("test.progress")
    with caplog.at_level(logging.INFO):
        progress = ProgressLog(log, every=4)
        for step in range(1, 11):
            progress.on_step(report(step, loss=float(step)))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" loss")[0] for line in lines] == [
        f"epoch 0 step {s}/10" for s in (1, 4, 8, 10)
    ]
    assert "loc 3.0000 conf 6.0000" in lines[1]  # steps 2, 3, 4
    assert "images/s" not in lines[0]
    assert "images/s" in lines[1]


def saver(folder, every=1, keep=2):
    return CheckpointSaver(
        folder,
        "vgg16_320",
        lambda: {"w": Tensor(np.ones(2, np.float32))},
        lambda: {"moment": Tensor(np.zeros(2, np.float32))},
        every,
        keep,
    )


def test_checkpoints_at_epochs_and_the_newest_are_kept(tmp_path):
    callback = saver(tmp_path)
    for step in range(1, 13):
        callback.on_step(report(step, epoch=step // 3, ended=step % 3 == 0))
    callback.on_end()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "vgg16_320-3_9.ckpt",
        "vgg16_320-4_12.ckpt",
        "vgg16_320-final.ckpt",
    ]
    assert [p.name for p in list_checkpoints(tmp_path, "vgg16_320")] == [
        "vgg16_320-3_9.ckpt",
        "vgg16_320-4_12.ckpt",
    ]
    assert set(read_checkpoint(tmp_path / "vgg16_320-4_12.ckpt")) == {"w", "state/moment"}
    assert set(read_checkpoint(tmp_path / "vgg16_320-final.ckpt")) == {"w"}


def test_every_second_epoch(tmp_path):
    callback = saver(tmp_path, every=2, keep=9)
    for step in range(1, 6):
        callback.on_step(report(step, epoch=step, ended=True))
    assert [p.name for p in list_checkpoints(tmp_path, "vgg16_320")] == [
        "vgg16_320-2_2.ckpt",
        "vgg16_320-4_4.ckpt",
    ]


def test_order_is_by_step_not_by_name(tmp_path):
    for name in ("a-10_100.ckpt", "a-9_90.ckpt", "a-final.ckpt", "a-x_1.ckpt", "b-11_110.ckpt"):
        (tmp_path / name).touch()
    assert [p.name for p in list_checkpoints(tmp_path, "a")] == ["a-9_90.ckpt", "a-10_100.ckpt"]
