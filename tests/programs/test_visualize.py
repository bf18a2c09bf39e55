# SPDX-License-Identifier: Apache-2.0
"""visualize.py: what it refuses, and the file it writes."""

import os

import cv2
import numpy as np
import pytest

import visualize
from src.runtime.errors import M2DetError


@pytest.fixture
def image(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "priors needs --config, or --checkpoint_path"),
        (["--checkpoint_path", "gone.ckpt"], r"checkpoint gone\.ckpt not found"),
        (["--config", "m2det_tiny", "--output", "x.txt"], r"x\.txt: expected a file .*\.png"),
        (["--config", "m2det_tiny", "--output", "."], "expected a file"),
        (["--config", "m2det_tiny", "--output", "a.png"], r"a\.png: is one of the inputs"),
    ],
)
def test_bad_arguments_are_one_line(flags, reason, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(M2DetError, match=reason):
        visualize.main(["priors", "--image", str(image), *flags])
    assert os.listdir(tmp_path) == ["a.png"]


def test_names_that_are_not_utf8_and_new_folders(image, tmp_path, capsys):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    os.rename(image, odd)
    output = os.fsdecode(os.fsencode(tmp_path) + b"/new/\xe9.PNG")
    visualize.main(["priors", "--image", odd, "--config", "m2det_tiny", "--output", output])
    with open(output, "rb") as file:
        assert cv2.imdecode(np.frombuffer(file.read(), np.uint8), 1).ndim == 3
    assert "\\udce9.PNG" in capsys.readouterr().out
