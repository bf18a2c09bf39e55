# SPDX-License-Identifier: Apache-2.0
"""The README's commands from one end to the other, with less training than they ask for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.data import synthetic_shapes as shapes

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def _run(*command, cwd, **environment):
    environment = {**os.environ, "DEVICE_TARGET": "CPU", "PYTHON": sys.executable, **environment}
    result = subprocess.run(
        ["bash", *map(str, command)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_quickstart(tmp_path):
    if sys.prefix == sys.base_prefix:
        pytest.skip("pytest does not run in a virtual environment that could be used again")
    out = tmp_path / "out"
    flags = ("--set", "train.total_epochs=1")
    printed = _run(ROOT / "scripts/quickstart.sh", *flags, cwd=tmp_path, VENV=sys.prefix, OUT=out)
    metrics = json.loads((out / "eval" / "metrics.json").read_text())
    assert f"AP (0.50:0.95) on images it has not seen: {metrics['AP']:.3f}" in printed
    assert (out / "m2det_tiny.mindir").stat().st_size > 1_000_000
    assert len(list((out / "pictures").glob("*.png"))) == 16
    assert sorted(p.stem for p in (out / "photos").glob("*.png")) == ["astronaut", "cat"]
    for line in printed.splitlines()[-6:]:
        path = Path(line.split()[1])
        assert list(path.parent.glob(path.name)), line


def test_two_ranks_train(tmp_path):
    data = tmp_path / "data"
    shapes.write_dataset(data, (("train2017", 20), ("val2017", 4)), seed=0)
    flags = ("--config", "m2det_tiny", "--set", "train.total_epochs=1", "--train_url", "runs")
    script = ROOT / "scripts" / "run_distributed_train_gpu.sh"
    _run(script, "2", "0", "none", data, *flags, cwd=tmp_path)
    assert list((tmp_path / "runs" / "m2det_tiny").glob("*-final.ckpt"))
    (logs,) = (path for path in (tmp_path / "logs").iterdir() if path.is_dir())
    assert {"worker_0.log", "worker_1.log"} <= {path.name for path in logs.iterdir()}
