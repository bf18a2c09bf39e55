# SPDX-License-Identifier: Apache-2.0
"""What tests share: the device, and the reference data where it is there."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_v", "3")  # MindSpore's warnings would drown the report

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def device() -> None:
    """MindSpore on the CPU, graph mode."""
    from src.utils import setup_device

    setup_device("CPU")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference values of the official code."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("../shared/golden (values of the official code) is not here")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """80 + 80 real COCO images."""
    if not (SHARED / "data" / "coco_tiny").is_dir():
        pytest.skip("../shared/data/coco_tiny (real COCO images) is not here")
    return SHARED / "data" / "coco_tiny"
