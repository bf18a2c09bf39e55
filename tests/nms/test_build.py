# SPDX-License-Identifier: Apache-2.0
"""Building the extension: what is missing is named in one line, and nothing is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.nms import build

MAKE = Path(__file__).parents[2] / "scripts" / "make.sh"


def test_make_without_a_compiler_is_one_line():
    run = subprocess.run(
        ["bash", str(MAKE)],
        env={**os.environ, "PYTHON": sys.executable, "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "no-such-compiler" in run.stderr


def test_make_shows_its_usage():
    run = subprocess.run(
        ["bash", str(MAKE), "-h"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("usage:")


def test_wrong_source_is_one_line(tmp_path):
    bad = tmp_path / "bad.pyx"
    bad.write_text("cdef int f(:\n")
    with pytest.raises(build.BuildError, match=r"bad\.pyx"):
        build.build(bad)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pyx"]


def test_unwritable_target_is_one_line(tmp_path):
    source = tmp_path / "tiny.pyx"
    source.write_text("VALUE = 3\n")
    with pytest.raises(build.BuildError, match=r"cannot write .*missing"):
        build.build(source, tmp_path / "missing")


def test_missing_cython_is_named():
    code = (
        "import sys; sys.modules['Cython'] = None; "
        "from src.nms import build; sys.exit(build.main([]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=MAKE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: Cython is not installed")
    assert run.stderr.count("\n") == 1
