# SPDX-License-Identifier: Apache-2.0
"""Two ranks on the CPU: the same training as one, resumed bit for bit, stopped together."""

import shutil
import signal

import numpy as np
import pytest
from datasets import rendered
from engine_runs import PREFIX, assert_same, contents, finish, left_running, start, wait_for

from src.training.callback import list_checkpoints
from src.training.run_log import read_log

pytestmark = pytest.mark.slow
# 10 images, 4 a step: 5 steps; the epoch ends within the third.
SETTINGS = (
    *("train.total_epochs=2", "train.scale_lr=false", "train.freeze_batch_norm=all"),
    *("train.save_steps=1", "train.keep_checkpoints=9", "train.eval_epochs=2"),
    "train.ema=0.5",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered(tmp_path_factory, 10, 5)


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """Folder of a run of two ranks with batches of 2."""
    out = tmp_path_factory.mktemp("two")
    finish(start(data, out, [*SETTINGS, "train.per_batch_size=2"], ranks=2))
    return out / "m2det_tiny"


def test_two_ranks_train_like_one_with_twice_the_batch(two, data, tmp_path):
    finish(start(data, tmp_path, [*SETTINGS, "train.per_batch_size=4"]))
    one = tmp_path / "m2det_tiny"
    first, second = (contents(f / f"{PREFIX}-0_1.ckpt") for f in (one, two))
    moved = 0.0
    for name, value in first.items():
        if name != "state/run":
            largest = float(np.abs(value).max())
            np.testing.assert_allclose(second[name], value, rtol=0, atol=1e-5, err_msg=name)
            if "moments" in name:  # the gradients
                bound, moved = 1e-4 * largest, max(moved, largest)
                np.testing.assert_allclose(second[name], value, rtol=0, atol=bound, err_msg=name)
    assert moved > 0.01
    # the losses in the log are those of both ranks, and every image is scored once
    rows = [[row for row in read_log(f) if "loss" in row] for f in (one, two)]
    for a, b in zip(*rows):
        # later steps of a fresh network carry rounding on
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5 if a["step"] == 1 else 1e-2)
        assert b["positives"] == pytest.approx(a["positives"])
    scores = [[row for row in read_log(f) if "AP" in row][-1] for f in (one, two)]
    for name, value in scores[0].items():
        assert scores[1][name] == pytest.approx(value, abs=0.02), name


def test_synchronised_batch_norm_sees_the_batches_of_both_ranks(data, tmp_path):
    settings = ["train.total_epochs=1", "train.scale_lr=false", "train.save_steps=1"]
    paths = []
    for ranks in (1, 2):
        own = [f"train.per_batch_size={4 // ranks}", f"train.sync_batch_norm={ranks > 1}".lower()]
        finish(start(data, tmp_path / str(ranks), [*settings, *own], ranks=ranks))
        paths.append(tmp_path / str(ranks) / "m2det_tiny" / f"{PREFIX}-0_1.ckpt")
    first, second = (contents(path) for path in paths)
    assert set(first) == set(second)
    statistics = [name for name in first if "moving_" in name]
    assert len(statistics) > 50
    for name in statistics:  # the deepest see single pixels of four images: rounding grows
        bound = 1e-3 * float(np.abs(first[name]).max())
        np.testing.assert_allclose(second[name], first[name], rtol=0, atol=bound, err_msg=name)


def test_resuming_two_ranks_equals_the_straight_run_bit_for_bit(two, data, tmp_path):
    folder = tmp_path / "m2det_tiny"
    folder.mkdir()
    shutil.copy(two / f"{PREFIX}-1_3.ckpt", folder)
    settings = [*SETTINGS, "train.per_batch_size=2"]
    printed = finish(start(data, tmp_path, settings, ("--resume", "auto"), ranks=2))
    assert "step 3" in printed
    assert_same(two / f"{PREFIX}-2_5.ckpt", folder / f"{PREFIX}-2_5.ckpt")
    assert_same(two / f"{PREFIX}-final.ckpt", folder / f"{PREFIX}-final.ckpt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_ranks_stop_and_save_together(data, tmp_path, number):
    settings = ["train.total_epochs=2000", "train.per_batch_size=2", "train.save_epochs=2000"]
    process = start(data, tmp_path, settings, ranks=2)
    wait_for(process, "step 5/")
    process.send_signal(number)
    finish(process, 128 + number)
    folder = tmp_path / "m2det_tiny"
    saved = list_checkpoints(folder, PREFIX)
    assert len(saved) == 1
    assert not list(folder.glob(".*"))
    logs = [(tmp_path / "logs" / f"worker_{rank}.log").read_text() for rank in (0, 1)]
    assert "Traceback" not in logs[0] + logs[1]
    assert not left_running(str(tmp_path))
