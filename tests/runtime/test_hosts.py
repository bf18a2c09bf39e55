# SPDX-License-Identifier: Apache-2.0
"""Two hosts, which are two network namespaces of this machine: together, and one cut off."""

import os
import subprocess
import sys
import time

import pytest
from engine_runs import ROOT, finish, flags, left_running, wait_for

from src.data.synthetic_shapes import write_dataset
from src.training.run_log import read_log

pytestmark = pytest.mark.slow
NAMES = ("m2det-a", "m2det-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
WIRES = ("m2det-wire-a", "m2det-wire-b")


def ip(*words, check=True):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def hosts():
    """Two namespaces joined by a wire."""
    for name in NAMES:
        ip("netns", "delete", name, check=False)
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", WIRES[0], "type", "veth", "peer", "name", WIRES[1])
        for name, wire, address in zip(NAMES, WIRES, ADDRESSES):
            ip("link", "set", wire, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", wire)
            ip("-n", name, "link", "set", wire, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield NAMES
    finally:
        for name in NAMES:
            ip("netns", "delete", name, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_dataset(folder, (("train2017", 8),), seed=0)
    return folder


def start(host, data, out, epochs):
    """One rank in a namespace."""
    settings = ["train.per_batch_size=2", f"train.total_epochs={epochs}", "train.save_epochs=1000"]
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(ROOT), "GLOG_v": "3", "NNODES": "2", "NODE_RANK": str(host)},
        **{"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "8118"},
    }
    launch = [
        sys.executable,
        "-m",
        "src.runtime.launch",
        "--ranks",
        "1",
        "--log_dir",
        str(out / "logs"),
    ]
    script = [str(ROOT / "train.py"), *flags(data, out, settings), "--distribute"]
    return subprocess.Popen(
        ["ip", "netns", "exec", NAMES[host], *launch, *script],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def both(data, tmp_path, epochs):
    return [start(host, data, tmp_path / NAMES[host], epochs) for host in (0, 1)]


def test_two_hosts_train_together(hosts, data, tmp_path):
    for process in both(data, tmp_path, 2):
        finish(process)
    rows = [row for row in read_log(tmp_path / NAMES[0] / "m2det_tiny") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]  # 8 images twice, 2 + 2 a step
    assert not (tmp_path / NAMES[1] / "m2det_tiny").exists()


def test_when_one_is_cut_off_the_other_stops(hosts, data, tmp_path):
    processes = both(data, tmp_path, 100_000)
    wait_for(processes[0], "step 5/")
    ip("-n", NAMES[1], "link", "set", WIRES[1], "down")
    began = time.monotonic()
    try:
        printed = processes[0].communicate(timeout=120)
        assert processes[0].returncode not in (0, None)
        assert "failed" in printed[1]
        print(f"stopped after {time.monotonic() - began:.0f} s")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        left_running(str(tmp_path), 0)
