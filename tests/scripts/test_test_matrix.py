# SPDX-License-Identifier: Apache-2.0
"""scripts/test_matrix.sh, with stand-ins for the interpreters and for run_tests.sh."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/usr/bin/env bash
[[ $2 == *"!= '{version}'"* ]]  # test_matrix.sh asks whether it is that one
"""
RUN_TESTS = """#!/usr/bin/env bash
echo "$MINDSPORE $(basename "$VENV") $(basename "$PYTHON") $LINT $*" >>"$CALLS"
case $MINDSPORE in
  2.8.0) echo "=== 12 passed, 3 skipped, 1 warning in 4.50s ===" ;;
  2.9.0) echo "== 2 failed, 10 passed, 1 error in 61.00s (0:01:01) ==" && exit 1 ;;
  *) echo "MindSpore has ended with exit code 0" ;;
esac
"""


@pytest.fixture
def matrix(tmp_path):
    """Runs a copy of the script beside stand-ins; the calls of run_tests.sh are in `calls`."""
    scripts, programs = tmp_path / "scripts", tmp_path / "bin"
    scripts.mkdir()
    programs.mkdir()
    for name in ("common.sh", "test_matrix.sh"):
        shutil.copy(ROOT / "scripts" / name, scripts)
    (scripts / "run_tests.sh").write_text(RUN_TESTS)
    for version in ("3.9", "3.11", "3.12"):
        path = programs / f"python{version}"
        path.write_text(PYTHON.format(version=version))
        path.chmod(0o755)
    pyenv = tmp_path / "pyenv" / "versions" / "3.17.4" / "bin"
    pyenv.mkdir(parents=True)
    (pyenv / "python").write_text(PYTHON.format(version="3.17"))
    (pyenv / "python").chmod(0o755)

    def run(*arguments):
        environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYENV_ROOT": str(tmp_path / "pyenv"),
            "CALLS": str(tmp_path / "calls"),
            "HOME": os.environ.get("HOME", "/"),
        }
        command = ["bash", str(scripts / "test_matrix.sh"), *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    run.folder = tmp_path
    run.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    return run


def test_a_table_of_the_results(matrix):
    result = matrix("2.8.0:3.11", "2.9.0:3.9")
    assert result.returncode == 1
    rows = [line.split() for line in result.stdout.splitlines()[-3:]]
    assert rows[0] == ["MindSpore", "Python", "result", "passed", "failed", "skipped", "seconds"]
    assert rows[1][:6] == ["2.8.0", "3.11", "ok", "12", "0", "3"]
    assert rows[2][:6] == ["2.9.0", "3.9", "FAILED", "10", "3", "0"]
    log = matrix.folder / ".matrix" / "2.9.0-py3.9.log"
    assert "2 failed" in log.read_text()


def test_arguments_reach_the_tests(matrix):
    result = matrix("2.8.0:3.17", "--", "tests/test_config.py", "-k", "a name")
    assert result.returncode == 0
    assert matrix.calls() == ["2.8.0 2.8.0-py3.17 python 0 tests/test_config.py -k a name"]


def test_the_default(matrix):
    result = matrix()
    started = [line.split()[:3] for line in matrix.calls()]
    assert started == [
        ["2.8.0", "2.8.0-py3.11", "python3.11"],
        ["2.10.0", "2.10.0-py3.12", "python3.12"],
        ["2.7.2", "2.7.2-py3.9", "python3.9"],
    ]
    assert result.returncode == 1  # two of them say nothing of tests that have passed
    assert result.stdout.splitlines()[-1].split()[2] == "FAILED"


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        ("2.8.0", "expected MINDSPORE:PYTHON, for example 2.8.0:3.11, not '2.8.0'"),
        ("2.8.0:3", "not '2.8.0:3'"),
        ("--quick", "not '--quick'"),
        ("2.8.0:3.18", "no Python 3.18 with venv found, which 2.8.0:3.18 needs"),
    ],
)
def test_bad_pairs_are_refused_before_anything_runs(matrix, pair, word):
    result = matrix("2.8.0:3.11", pair)
    assert result.returncode == 2
    assert word in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (matrix.folder / "calls").exists()
