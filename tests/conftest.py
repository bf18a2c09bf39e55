# SPDX-License-Identifier: Apache-2.0
"""What tests share: the device, and the reference data where it is there."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_v", "3")  # MindSpore's warnings would drown the report
os.environ["M2DET_CACHE"] = "off"  # no test depends on another, nor on what a user has kept

TORCH_TESTS = ["test_convert*.py", "test_parity*.py", "test_reference.py"]
collect_ignore_glob = [] if importlib.util.find_spec("torch") else TORCH_TESTS

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_report_header() -> str:
    if not collect_ignore_glob:
        return ""
    return f"PyTorch is not installed: left out {', '.join(TORCH_TESTS)}"


@pytest.fixture(scope="session")
def device() -> None:
    """MindSpore on the CPU, graph mode."""
    from src.runtime.device import setup_device

    setup_device("CPU")


@pytest.fixture
def graph(device) -> None:
    """Graph mode again, whatever the test before has set."""
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def one_torch_thread():
    """PyTorch's sums come in another order with two."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _device_before_operators(request: pytest.FixtureRequest) -> None:
    """From 2.10 on MindSpore takes no device after its first operator, whichever test runs it."""
    if "mindspore" in sys.modules:  # some test file has imported it
        request.getfixturevalue("device")


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


@pytest.fixture(scope="session")
def exports(device, tmp_path_factory):
    """A small network exported in every way, each made on first use."""
    pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    from exporting import Exports

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Exports(shared / "exports of one network")
