# SPDX-License-Identifier: Apache-2.0
"""The window, on a screen that only exists in memory where the machine has none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.inference.window import Screen

ROOT = Path(__file__).resolve().parents[2]
SHOWS = """
import numpy as np
from src.inference.window import Screen
screen = Screen("test")
for side in (1, 50, 2000):
    screen.show(np.full((side, side, 3), 90, np.uint8))
    print(screen._label.winfo_width())
screen.close()
screen.show(np.zeros((5, 5, 3), np.uint8))
"""


def test_without_a_screen_it_says_so(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(OSError, match="DISPLAY is not set"):
        Screen("test")
    pytest.importorskip("tkinter")
    monkeypatch.setenv("DISPLAY", ":9999")
    with pytest.raises(OSError, match="no screen here"):
        Screen("test")


def test_pictures_are_shown():
    pytest.importorskip("tkinter")
    command = [sys.executable, "-c", SHOWS]
    if not os.environ.get("DISPLAY"):
        if not shutil.which("xvfb-run"):
            pytest.skip("no screen and no xvfb-run here")
        command = ["xvfb-run", "-a", *command]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    widths = [int(line) for line in done.stdout.split()]
    assert widths[0] < 20
    assert 50 <= widths[1] < 70
    assert 900 <= widths[2] < 920  # reduced to fit
