# SPDX-License-Identifier: Apache-2.0
"""Settings for the CPU: instruction set of oneDNN, number of threads, garbage collector."""

import contextlib
import gc
import importlib.metadata
import math
import os
from pathlib import Path
from typing import Iterator, MutableMapping, Optional, Set

from .errors import UsageError

# oneDNN 3.10, which these releases bundle, takes its reference convolution for MindSpore's plain
# layouts where it could use AVX-512: some hundred times slower. Kept to AVX2, it does not.
FAULTY_RELEASES = ("2.9", "2.10")
ISA_NAMES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def avoid_reference_convolution(
    environment: MutableMapping[str, str], root: Path = Path("/")
) -> None:
    """Keep oneDNN to AVX2 where `environment` (os.environ) leaves it the choice and it errs.

    oneDNN reads its setting at the first convolution, so this must come before it.
    """
    if any(name in environment for name in ISA_NAMES):
        return
    if cpu_flags(root) >= AVX512 and is_faulty(mindspore_version()):
        environment[ISA_NAMES[0]] = "AVX2"


def mindspore_version() -> Optional[str]:
    """Of the installed package, which is not imported; None where there is none."""
    try:
        return importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        return None


def is_faulty(version: Optional[str]) -> bool:
    """Whether this release of MindSpore has the slow convolution."""
    return version is not None and ".".join(version.split(".")[:2]) in FAULTY_RELEASES


def cpu_flags(root: Path = Path("/")) -> Set[str]:
    """Names of the instruction sets of the first core; empty where Linux does not list them."""
    try:
        with open(root / "proc" / "cpuinfo", encoding="utf-8") as lines:
            # The file is made while it is read, core by core: one is enough.
            return next((set(line.split()) for line in lines if line.startswith("flags")), set())
    except OSError:
        return set()


def thread_count(root: Path = Path("/")) -> int:
    """Threads to compute with: OMP_NUM_THREADS, else every usable core.

    Raises:
        UsageError: OMP_NUM_THREADS is no number.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2" is for nesting
    if text and not text.isdigit():
        raise UsageError(f"OMP_NUM_THREADS: expected a whole number, not {text!r}")
    return int(text or 0) or usable_cores(root)


def usable_cores(root: Path = Path("/")) -> int:
    """Cores this process may use: its affinity, and no more than its cgroups' quota, rounded up."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in cgroup_quotas(root))]))


def cgroup_quotas(root: Path = Path("/")) -> Iterator[float]:
    """Cores that this process's groups and the groups around them are limited to."""
    try:
        memberships = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for membership in memberships:
        number, controllers, group = membership.split(":", 2)
        base = root / "sys" / "fs" / "cgroup"
        if number != "0":  # cgroups of version 1 have a tree for each controller
            if "cpu" not in controllers.split(","):
                continue
            base = base / controllers
        # In a container the path may be the host's, and the container's own group the root.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            quota = _quota(base.joinpath(*parts[:depth]))
            if quota:
                yield quota


def _quota(folder: Path) -> Optional[float]:
    """The limit in one group's folder, or None."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file
        return None


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Without Python's search for cycles: of millions of objects without one it takes a sixth of
    the time.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
