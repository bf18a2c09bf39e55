# SPDX-License-Identifier: Apache-2.0
"""Runs of train.py as processes of their own, for the slow tests of the training engine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import psutil

from src.formats.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "resnet18_64"
SMALL = (
    *("model.input_size=64", "model.num_levels=1", "model.num_scales=3", "model.planes=32"),
    *(
        "train.keep_checkpoints=3",
        "train.eval_times=0",
        "train.warmup=0",
        "train.lr=0.01",
        "train.ema=0",
    ),
    *("optimizer.type=SGD", "optimizer.weight_decay=5e-5"),
)


def flags(data: Path, out: Path, settings: Sequence[str]) -> List[str]:
    """Arguments of train.py for the small network."""
    words = ["--config", "m2det_tiny", "--dataset_path", str(data), "--train_url", str(out)]
    for text in (*SMALL, *settings):
        words += ["--set", text]
    return [*words, "--log_interval", "1"]


def start(
    data: Path,
    out: Path,
    settings: Sequence[str] = (),
    more: Sequence[str] = (),
    ranks: int = 1,
    environment: Optional[Dict[str, str]] = None,
    phase: Optional[str] = None,
) -> "subprocess.Popen[str]":
    """train.py on one rank, or through the launcher on several; `phase`: of engine_phase.py."""
    script = [str(ROOT / "tests" / "engine_phase.py"), phase] if phase else [str(ROOT / "train.py")]
    script += [*flags(data, out, settings), *more]
    if ranks > 1:
        launch = ["-m", "src.runtime.launch", "--ranks", str(ranks), "--log_dir", str(out / "logs")]
        script = [*launch, *script, "--distribute"]
    return subprocess.Popen(
        [sys.executable, *script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", code: int = 0, timeout: float = 400) -> str:
    """What it printed; it must end with `code`."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, (
        f"exit code {process.returncode}\n{out[-2000:]}\n{err[-2000:]}"
    )
    return out + err


def wait_for(process: "subprocess.Popen[str]", text: str) -> str:
    """Reads lines up to one with `text`."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came: {process.communicate()[1][-2000:]}")


def left_running(word: str, seconds: float = 10) -> List[str]:
    """Command lines that hold `word` after at most `seconds`; those are killed."""
    until = time.monotonic() + seconds
    while True:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if process.pid != os.getpid() and any(word in w for w in process.info["cmdline"] or []):
                found.append(process)
        if not found or time.monotonic() > until:
            break
        time.sleep(0.2)
    lines = [" ".join(process.info["cmdline"]) for process in found]
    for process in found:
        process.send_signal(signal.SIGKILL)
    return lines


def contents(path: Path) -> Dict[str, np.ndarray]:
    """Every value of a checkpoint."""
    return {name: value.asnumpy() for name, value in read_checkpoint(path).items()}


def assert_same(first: Path, second: Path) -> None:
    """Two checkpoints agree in every bit."""
    one, other = contents(first), contents(second)
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
