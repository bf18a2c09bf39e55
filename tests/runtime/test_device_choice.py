# SPDX-License-Identifier: Apache-2.0
import argparse

import pytest

from src.runtime.device_choice import device_there
from src.utils import add_common_arguments


@pytest.mark.parametrize(
    ("files", "expected"),
    [([], "CPU"), (["nvidia0"], "GPU"), (["davinci0"], "Ascend"), (["davinci0", "nvidia0"], "GPU")],
)
def test_the_device_is_what_the_machine_has(tmp_path, monkeypatch, files, expected):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    (tmp_path / "dev").mkdir()
    for name in files:
        (tmp_path / "dev" / name).touch()
    assert device_there(tmp_path) == expected


@pytest.mark.parametrize(("code", "expected"), [(0, "GPU"), (9, "CPU")])
def test_a_gpu_that_only_nvidia_smi_knows(tmp_path, monkeypatch, code, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_there(tmp_path) == expected
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    if code == 0:
        assert parser.parse_args([]).device_target == "GPU"
    assert parser.parse_args(["--device_target", "CPU"]).device_target == "CPU"
