# SPDX-License-Identifier: Apache-2.0
"""eval.py killed outright, and eval.py on two ranks, end with the same file as one whole run."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from exporting import random_network, save_run

from tests.datasets import coco_content, write_coco

ROOT = Path(__file__).resolve().parents[2]
EVAL = ROOT / "eval.py"
COUNT = 150


@pytest.fixture(scope="module")
def case(tmp_path_factory, device):
    """Flags for a small network and 150 images, and the bytes of what a whole run finds."""
    root = tmp_path_factory.mktemp("case")
    names = [f"{number}.png" for number in range(COUNT)]
    content = coco_content(names, [(1, 2, [5, 5, 30, 30])])
    classes = {2: "naïve bird", 4: "cat", 9: "dog"}
    content["categories"] = [{"id": key, "name": name} for key, name in classes.items()]
    write_coco(root / "data", content, "val2017", "annotations/instances_val2017.json")
    rng = np.random.default_rng(0)
    for name in names:
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (60, 48))
        cv2.imwrite(str(root / "data" / "val2017" / name), image)
    checkpoint = save_run(root / "run", *random_network())
    flags = ["--checkpoint_path", str(checkpoint), "--dataset_path", str(root / "data")]
    flags += ["--set", "test.score_threshold=0.02", "--set", "test.flip=true"]
    run([str(EVAL), *flags, "--output", str(root / "out")])
    return flags, (root / "out" / "detections.json").read_bytes()


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3", "OMP_NUM_THREADS": "1"}


def run(arguments):
    """What a Python program prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_and_started_again(case, tmp_path, number):
    flags, expected = case
    out, part = tmp_path / "out", tmp_path / "out" / "partial" / "rank_0.jsonl"
    arguments = [str(EVAL), *flags, "--output", str(out)]
    with subprocess.Popen([sys.executable, *arguments], env=environment()) as process:
        deadline = time.monotonic() + 300
        while not (part.exists() and part.read_bytes().count(b"\n") > 9):
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        process.wait(timeout=60)
    assert not (out / "detections.json").exists()
    before = int(re.search(rf"going on: (\d+) of {COUNT}", run(arguments))[1])
    assert 9 <= before < COUNT
    assert (out / "detections.json").read_bytes() == expected


@pytest.mark.slow
def test_two_ranks_find_what_one_does(case, tmp_path):
    flags, expected = case
    launch = ["-m", "src.runtime.launch", "--ranks", "2", "--log_dir", str(tmp_path / "logs")]
    run([*launch, str(EVAL), "--distribute", *flags, "--output", str(tmp_path / "out")])
    assert (tmp_path / "out" / "detections.json").read_bytes() == expected
    assert not (tmp_path / "out" / "partial").exists()
