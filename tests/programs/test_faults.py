# SPDX-License-Identifier: Apache-2.0
"""What may go wrong around a run: full disk, read-only folder, dead data worker; and its memory."""

import os
import subprocess
import time

import numpy as np
import pytest
from engine_runs import PREFIX, contents, finish, left_running, start, wait_for

from src.data.synthetic_shapes import write_dataset
from src.runtime.cpu_settings import usable_cores
from src.training.callback import list_checkpoints
from src.training.run_log import read_log

pytestmark = pytest.mark.slow
STEPS = int(os.environ.get("M2DET_STEPS", "2000"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_dataset(folder, (("train2017", 8),), seed=0)
    return folder


def mount(folder, size):
    """A file system of its own at `folder`."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    mount(folder, "120m")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


def error_line(printed):
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in printed
    assert len(lines) == 1, printed
    return lines[0]


def test_a_full_disk_leaves_the_older_checkpoint(data, small_disk):
    """A checkpoint of this network is some 90 MB."""
    settings = ["train.per_batch_size=4", "train.total_epochs=50"]
    line = error_line(finish(start(data, small_disk, settings), 2))
    assert "cannot be written" in line
    assert "space" in line.lower()
    saved = list_checkpoints(small_disk / "m2det_tiny", PREFIX)
    assert saved
    for path in saved:
        assert contents(path)["state/global_step"] > 0
    assert not [p for p in (small_disk / "m2det_tiny").iterdir() if p.name.startswith(".")]


def test_a_read_only_folder_is_one_line(data, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = error_line(finish(start(data, small_disk, ["train.per_batch_size=4"]), 2))
    assert str(small_disk) in line


def test_a_dead_data_worker_ends_the_run(data, tmp_path):
    if usable_cores() < 2:
        pytest.skip("one core: the data worker is a thread")
    settings = ["train.per_batch_size=4", "train.total_epochs=1000", "train.num_workers=2"]
    process = start(data, tmp_path, settings, phase="worker")
    assert int(wait_for(process, "PHASE-BEGINS").split()[1]) >= 2
    began = time.monotonic()
    line = error_line(finish(process, 2, timeout=60))
    assert "the data pipeline failed in step" in line or "data worker" in line
    print(f"ended after {time.monotonic() - began:.1f} s: {line}")
    assert not left_running(str(tmp_path))


def test_memory_stays(data, tmp_path):
    """Less than 2 % more resident memory in the last tenth of the steps than after the first."""
    more = ("model.planes=16", "model.num_scales=2", "train.save_epochs=100000")
    settings = [*more, "train.per_batch_size=2", f"train.total_epochs={STEPS // 4}"]
    finish(start(data, tmp_path, settings, ("--log_interval", "10")), timeout=5000)
    rows = {row["step"]: row["memory_mb"] for row in read_log(tmp_path / "m2det_tiny")}
    tenth = STEPS // 10
    early = np.median([rows[step] for step in range(tenth, 2 * tenth, 10)])
    late = np.median([rows[step] for step in range(STEPS - tenth, STEPS, 10)])
    print(f"resident memory in {STEPS} steps: {early:.0f} MB, at the end {late:.0f} MB")
    assert late < 1.02 * early
