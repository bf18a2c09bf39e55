# SPDX-License-Identifier: Apache-2.0
"""check_device: what it says, here and where the CUDA libraries are installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.runtime.gpu import check_device
from src.runtime.gpu.check_device import judge_trial, plugin_findings, report
from src.runtime.gpu.findings import Finding
from src.runtime.gpu.libraries import (
    Installation,
    find_installation,
    find_mindspore,
    make_cuda_home,
)

ROOT = Path(__file__).resolve().parents[2]
WITH_GPU = shutil.which("nvidia-smi") is not None
# What the plugin wants of libcuda.so.1 before it can be loaded.
DRIVER_CALLS = (
    "cuDeviceGetAttribute",
    "cuGetErrorName",
    "cuLaunchKernel",
    "cuModuleGetFunction",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuStreamSynchronize",
)
NUMBERS = {
    "first_s": 1.0,
    "convolution_ms": 0.5,
    "step_ms": 2.0,
    "error": 1e-6,
    "loss": [1.0, 0.5],
}


@pytest.fixture
def found(tmp_path):
    plugins = {v: tmp_path / f"libmindspore_gpu.so.{v}" for v in ("11.1", "11.6")}
    return Installation(tmp_path, tmp_path, plugins, (), {"cuda_runtime": "11.8.89"})


def test_the_plugin_and_its_cuda_home(found, tmp_path):
    home = make_cuda_home(tmp_path / "home", "11.6", tmp_path / "x.so")
    assert [f.state for f in plugin_findings(found, str(home))] == ["ok", "ok"]
    make_cuda_home(home, "11.1", tmp_path / "x.so")
    for wrong in (str(home), str(tmp_path / "none"), None):
        findings = plugin_findings(found, wrong)
        assert [f.state for f in findings] == ["ok", "missing"]
        assert findings[1].advice == "source scripts/gpu_env.sh"


def test_a_runtime_without_plugin(found):
    other = Installation(found.site, found.mindspore, found.plugins, (), {"cuda_runtime": "12.1"})
    (finding,) = plugin_findings(other, None)
    assert finding.state == "missing"
    assert "no plugin for CUDA 12.1" in finding.text


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "ok", "training step 2.00 ms"),
        ({"error": 0.5}, "missing", "wrong results"),
        ({"error": float("nan")}, "missing", "wrong results"),
        ({"loss": [1.0, 1.5]}, "missing", "does not learn"),
        ({"loss": [1.0, float("nan")]}, "missing", "does not learn"),
    ],
)
def test_a_trial_is_judged(change, state, words):
    finding = judge_trial("GPU", {**NUMBERS, **change})
    assert finding.state == state
    assert words in finding.text


def test_the_report_ends_with_what_to_do(capsys):
    good, driver = Finding("ok", "a", "fine"), Finding("missing", "driver", "none", "install it")
    report([good])
    assert "The GPU works" in capsys.readouterr().out
    report([good, driver])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "The GPU cannot be used. To do:",
        "  - install it",
        "Everything but the driver is there.",
    ]
    report([driver, Finding("missing", "b", "c", "install it"), Finding("missing", "d", "e")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["  - install it", "  - d: e"]


def test_a_trial_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(check_device, "sys", type("S", (), {"executable": "/bin/false"}))
    finding = check_device.trial_finding("GPU", 0)
    assert (finding.state, finding.text) == ("missing", "failed: code 1")


@pytest.mark.skipif(WITH_GPU, reason="this machine has a GPU's driver")
def test_here(tmp_path):
    """The whole program, as it is: no driver, and a CPU that computes and learns."""
    result = check()
    lines = result.stdout.splitlines()
    assert result.returncode == 1, result.stderr
    assert any(line.split()[:2] == ["MISSING", "driver"] for line in lines)
    assert any(line.startswith("ok      CPU trial") for line in lines)
    assert "The GPU cannot be used. To do:" in lines
    assert result.stderr == ""


def test_a_gpu_that_is_too_old_for_the_kernels(tmp_path):
    """nvidia-smi is asked, and its answer is held against what the wheel has kernels for."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Tesla K80, 3.7, 470.82.01'\n")
    program.chmod(0o755)
    result = check(PATH=f"{tmp_path}:{os.environ['PATH']}")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.returncode == 1, result.stderr
    assert "MISSING driver 470.82.01" in lines
    assert "ok GPU 0 Tesla K80, compute capability 3.7" in lines
    assert any(line.startswith("MISSING kernels compute capability 3.7: too old") for line in lines)


def check(**environment):
    command = [sys.executable, "-m", "src.runtime.gpu.check_device"]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def sourced():
    """The environment after gpu_env.sh, where requirements-gpu.txt is installed."""
    if "cudnn" not in find_installation(find_mindspore()).versions:
        pytest.skip("requirements-gpu.txt is not installed in this environment")
    shell = "source scripts/gpu_env.sh && env -0"
    environment = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run(
        ["bash", "-c", shell], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in result.stdout.split("\0") if line)


def test_every_library_but_the_driver_resolves(sourced):
    lines = check(**sourced).stdout.splitlines()
    missing = [line.split()[1] for line in lines if line.startswith("MISSING")]
    assert missing == ([] if WITH_GPU else ["driver"])
    assert sum(line.startswith("ok      libcu") for line in lines) >= 8


def test_mindspore_takes_the_plugin_once_there_is_a_driver(sourced, tmp_path):
    """With a hollow library in the driver's place MindSpore's own loader chooses the GPU."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or WITH_GPU:
        pytest.skip("needs a C compiler, and no driver")
    library = tmp_path / "libcuda.so.1"
    source = tmp_path / "hollow.c"
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in DRIVER_CALLS))
    subprocess.run([compiler, "-shared", "-o", str(library), str(source)], check=True)
    code = "import mindspore as ms; ms.set_device('GPU'); print('taken')"
    path = f"{tmp_path}:{sourced['LD_LIBRARY_PATH']}"
    for environment, taken in (
        ({**sourced, "LD_LIBRARY_PATH": path}, True),
        ({**sourced, "LD_LIBRARY_PATH": path, "CUDA_HOME": ""}, False),
    ):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ("taken" in result.stdout) == taken, result.stderr
