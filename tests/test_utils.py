# SPDX-License-Identifier: Apache-2.0
"""How a program ends: exit code and what it prints."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.runtime.errors import M2DetError, UsageError, one_line
from src.utils import run_main

ROOT = Path(__file__).resolve().parents[1]


def end_of(main, capsys):
    """Exit code and stderr."""
    with pytest.raises(SystemExit) as caught:
        run_main(main)
    return caught.value.code, capsys.readouterr().err


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("a.json: no such key"), "a.json: no such key"),
        (M2DetError("line\nbreak \u202eturned"), "line\\nbreak \\u202eturned"),
        (FileNotFoundError(2, "No such file or directory", "x.ckpt"), "x.ckpt: No such file"),
        (OSError(28, "No space left on device", "out/a.csv"), "out/a.csv: No space left"),
        (OSError("no screen here"), "no screen here"),
    ],
)
def test_an_expected_error_is_one_line(error, line, capsys):
    code, printed = end_of(failing(error), capsys)
    assert code == 2
    assert printed.startswith(f"error: {line}")
    assert printed.count("\n") == 1


def test_an_unexpected_error_says_where_it_came_from(capsys):
    code, printed = end_of(lambda: np.zeros(2) + np.zeros(3), capsys)
    assert code == 1
    assert printed.count("\n") == 1
    assert "unexpected ValueError: operands could not be broadcast" in printed
    assert "tests/test_utils.py:" in printed
    assert "--debug" in printed


@pytest.mark.parametrize("error", [UsageError("wrong"), KeyError("wrong")])
def test_debug_shows_the_traceback(error, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug"])
    printed = end_of(failing(error), capsys)[1]
    assert "Traceback" in printed
    assert printed.splitlines()[-1].startswith("error: ")


def test_exit_codes(capsys):
    assert run_main(lambda: None) is None
    assert run_main(lambda: {"AP": 1.0}) is None
    assert end_of(lambda: 1, capsys) == (1, "")
    assert end_of(failing(KeyboardInterrupt()), capsys) == (130, "")


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)"])
def test_a_reader_that_leaves_early_ends_it_quietly(ending):
    script = f"""
from src.utils import run_main
def main():
    print("line\\n" * 100_000)
    {ending}
run_main(main)
"""
    command = f"{sys.executable} -c '{script}' | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "line\n141\n"
    assert done.stderr == ""


PRINTING = """
from src.utils import run_main
run_main(lambda: print("naïve 猫 " + "x" * 10))
"""


@pytest.mark.parametrize(
    ("words", "code", "printed", "error"),
    [
        ("PYTHONIOENCODING=ascii {python}", 0, "na\\xefve \\u732b xxxxxxxxxx", ""),
        ("{python} > /dev/full", 2, "", "error: standard output: No space left on device"),
        ("{python} >&-", 0, "", ""),
        ("{python} 2>&-", 0, "naïve 猫 xxxxxxxxxx", ""),
    ],
    ids=["ascii", "full disk", "no stdout", "no stderr"],
)
def test_odd_standard_output(words, code, printed, error, tmp_path):
    (tmp_path / "script.py").write_text(PRINTING, encoding="utf-8")
    command = words.format(python=f"{sys.executable} {tmp_path}/script.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (code, printed, error)


def test_the_names_of_the_zoo_are_there_and_import_mindspore_late():
    script = """
import json, sys
import src.utils
before = "mindspore" in sys.modules
from src.utils import load_weights, set_seed, setup_device
print(json.dumps([before, load_weights.__name__, set_seed.__name__, setup_device.__name__]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    expected = [False, "load_weights", "set_seed", "setup_device"]
    assert json.loads(done.stdout.splitlines()[-1]) == expected, done.stderr


def test_one_line():
    assert one_line(ValueError("a\n  b"), 2) == "a "
    assert one_line(ValueError("")) == "ValueError"


def test_a_log_into_a_closed_pipe_prints_no_traceback(monkeypatch, capsys):
    class Closed(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

    monkeypatch.setattr(logging, "raiseExceptions", True)
    log = logging.getLogger("m2det.test")
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler(Closed())])
    run_main(lambda: log.warning("written: detections.json"))
    assert capsys.readouterr().err == ""
