# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.runtime import cpu_settings
from src.runtime.cpu_settings import avoid_reference_convolution, cpu_flags, is_faulty, usable_cores

ROOT = Path(__file__).resolve().parents[2]
CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu sse4_2 avx2{more}
bugs\t\t:
processor\t: 1
flags\t\t: none of these
"""
AVX512 = " avx512f avx512dq avx512bw avx512vl"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files of /proc and /sys under a folder, on a machine of 8 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        *(("2.9.0", True), ("2.10.0", True), ("2.10.1rc1", True)),
        *(("2.7.2", False), ("2.8.0", False), ("2.1.0", False), ("2.90.0", False), (None, False)),
    ],
)
def test_releases(version, expected):
    assert is_faulty(version) is expected


@pytest.mark.parametrize(
    ("version", "flags", "given", "expected"),
    [
        ("2.10.0", AVX512, {}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        ("2.9.0", AVX512 + " amx_tile", {"HOME": "/"}, {"HOME": "/", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
        ("2.8.0", AVX512, {}, {}),
        ("2.10.0", "", {}, {}),
        ("2.10.0", " avx512f", {}, {}),  # oneDNN wants the others too
        ("2.10.0", AVX512, {"ONEDNN_MAX_CPU_ISA": "ALL"}, {"ONEDNN_MAX_CPU_ISA": "ALL"}),
        ("2.10.0", AVX512, {"DNNL_MAX_CPU_ISA": "SSE41"}, {"DNNL_MAX_CPU_ISA": "SSE41"}),
    ],
)
def test_onednn_is_limited_where_it_must_be(monkeypatch, machine, version, flags, given, expected):
    monkeypatch.setattr(cpu_settings, "mindspore_version", lambda: version)
    avoid_reference_convolution(given, machine({"proc/cpuinfo": CPUINFO.format(more=flags)}))
    assert given == expected


def test_flags_of_the_first_core(machine, tmp_path):
    assert cpu_flags(tmp_path) == set()  # no such file
    assert cpu_flags(machine({"proc/cpuinfo": "processor : 0\n"})) == set()
    root = machine({"proc/cpuinfo": CPUINFO.format(more="")})
    assert cpu_flags(root) >= {"fpu", "avx2"}
    assert not cpu_flags(root) & {"avx512f", "none"}


def test_the_setting_is_there_for_every_program_that_imports_src():
    code = (
        "import os, sys, src, src.runtime.cpu_settings as s\n"
        "needed = s.is_faulty(s.mindspore_version()) and s.cpu_flags() >= s.AVX512\n"
        "assert os.environ.get('ONEDNN_MAX_CPU_ISA') == ('AVX2' if needed else None)\n"
        "assert 'mindspore' not in sys.modules"
    )
    hidden = cpu_settings.ISA_NAMES
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/a/b\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
    ],
)
def test_quota_of_version_2(machine, files, expected):
    assert usable_cores(machine(files)) == expected


def test_the_tightest_group_around_counts(machine):
    root = machine(
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            "sys/fs/cgroup/user.slice/job/cpu.max": "500000 100000\n",
            "sys/fs/cgroup/user.slice/cpu.max": "100000 50000\n",
        }
    )
    assert usable_cores(root) == 2


def test_quota_of_version_1(machine):
    cpu = "sys/fs/cgroup/cpu,cpuacct"
    files = {
        "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n",
        f"{cpu}/cpu.cfs_quota_us": "250000\n",  # the host's path is not seen in the container
        f"{cpu}/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/docker/abc/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/memory/docker/abc/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cores(machine(files)) == 3
    assert usable_cores(machine({f"{cpu}/cpu.cfs_quota_us": "-1\n"})) == 8
    inner = {f"{cpu}/docker/abc/cpu.cfs_quota_us": "100000\n"}
    inner[f"{cpu}/docker/abc/cpu.cfs_period_us"] = "100000\n"
    assert usable_cores(machine(inner)) == 1


def test_affinity_counts(monkeypatch, machine):
    root = machine({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert usable_cores(root) == 1


def test_threads(monkeypatch, tmp_path, machine):
    root = machine({})
    for text, expected in ((None, 8), ("", 8), ("0", 8), ("3", 3), ("4,2", 4)):
        if text is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert cpu_settings.thread_count(root) == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS: expected a whole number, not 'many'"):
        cpu_settings.thread_count(root)


def test_convolutions_are_not_the_reference_ones(device):
    """A 3x3 convolution reaches a twentieth of a matrix product's rate; the faulty one does not."""
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    generator = np.random.default_rng(0)
    images = Tensor(generator.normal(size=(1, 128, 40, 40)).astype(np.float32))
    matrix = Tensor(generator.normal(size=(768, 768)).astype(np.float32))
    convolution = nn.Conv2d(128, 128, 3, pad_mode="same")
    product = ops.MatMul()

    def seconds(call):
        times = []
        for _ in range(6):  # the first compiles
            start = time.process_time()  # of the CPU, which other programs do not stretch
            call().asnumpy()
            times.append(time.process_time() - start)
        return min(times)

    convolution_rate = 128 * 128 * 9 * 40 * 40 / seconds(lambda: convolution(images))
    product_rate = 768**3 / seconds(lambda: product(matrix, matrix))
    ratio = product_rate / convolution_rate
    print(f"MindSpore {ms.__version__}: a convolution takes {ratio:.1f} x a product's time")
    assert ratio < 20
