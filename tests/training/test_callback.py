# SPDX-License-Identifier: Apache-2.0
import os

import numpy as np
import pytest
from mindspore import Tensor

from src.formats.checkpoint import read_checkpoint
from src.training.callback import CheckpointSaver, StepReport, list_checkpoints

pytestmark = pytest.mark.usefixtures("device")


def report(step, epoch=0, ended=False, bad_steps=0):
    return StepReport(step, 10, epoch, ended, 1.0, 2.0, 5.0, 0.01, 4, 0.0, bad_steps=bad_steps)


def saver(folder, every=1, max_to_keep=2, **more):
    return CheckpointSaver(
        folder,
        "vgg16_320",
        lambda: {"w": Tensor(np.ones(2, np.float32))},
        lambda: {"moment": Tensor(np.zeros(2, np.float32))},
        every,
        max_to_keep,
        **more,
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
    callback = saver(tmp_path, every=2, max_to_keep=9)
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


def names(folder):
    return [path.name for path in list_checkpoints(folder, "vgg16_320")]


def test_between_epochs_and_at_a_stop(tmp_path):
    callback = saver(tmp_path, every_steps=4, max_to_keep=9)
    for step in range(1, 11):
        callback.on_step(report(step, epoch=step // 6, ended=step == 6))
    callback.on_stop(report(10, epoch=1))
    expected = ["0_4", "1_6", "1_8", "1_10"]
    assert names(tmp_path) == [f"vgg16_320-{name}.ckpt" for name in expected]


def test_nothing_is_saved_while_steps_are_skipped(tmp_path):
    callback = saver(tmp_path)
    callback.on_step(report(1, 1, True, bad_steps=1))
    callback.on_stop(report(2, 1, bad_steps=2))
    assert not list(tmp_path.iterdir())


def test_best_and_final_stay_beside_the_newest(tmp_path):
    average = {"w": Tensor(np.full(2, 7, np.float32))}
    callback = saver(tmp_path, max_to_keep=1, final_weights=lambda: average)
    callback.save_best({"w": Tensor(np.zeros(2, np.float32))})
    for step in range(1, 4):
        callback.on_step(report(step, step, True))
    callback.on_end()
    assert names(tmp_path) == ["vgg16_320-3_3.ckpt"]
    assert read_checkpoint(callback.best_path)["w"].asnumpy().tolist() == [0, 0]
    assert read_checkpoint(callback.final_path)["w"].asnumpy().tolist() == [7, 7]


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / ".999999999.vgg16_320-1_5.ckpt"
    alive = tmp_path / f".{os.getppid()}.vgg16_320-1_5.ckpt"
    other = tmp_path / ".999999999.config.json"
    for path in (left, alive, other):
        path.touch()
    saver(tmp_path)
    assert list(tmp_path.iterdir()) == [alive]
