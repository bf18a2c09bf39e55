# SPDX-License-Identifier: Apache-2.0
"""Checks of the parts of a GPU set-up: driver, libraries, kernels.

Only the standard library is used.
"""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Set, Tuple

from .libraries import Installation

DRIVER = "libcuda.so.1"
INSTALL = "pip install -r requirements-gpu.txt, then: source scripts/gpu_env.sh"
NEWEST_CAPABILITY = (9, 0)  # that the libraries of CUDA 11.8 know
OLDEST_DRIVER = 510  # serves CUDA 11.6
QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")


@dataclass(frozen=True)
class Finding:
    """One line of the report: `state` is "ok", "missing" or "note"; `advice` is what to do."""

    state: str
    name: str
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Gpu:
    """A line of what nvidia-smi answers to `QUERY`."""

    name: str
    capability: Tuple[int, int]
    driver: str


def parse_gpus(text: str) -> List[Gpu]:
    """The GPUs in nvidia-smi's answer; none where it is a word of failure."""
    rows = re.findall(r"^(.+), (\d+)\.(\d+), (\d+[.\d]*)$", text, re.MULTILINE)
    return [Gpu(name, (int(major), int(minor)), driver) for name, major, minor, driver in rows]


def driver_findings(text: str, loads: bool = False) -> List[Finding]:
    """On the driver and its GPUs.

    Args:
        text: nvidia-smi's answer to `QUERY`, empty where it is not installed.
        loads: the driver's library is found, which some containers have without nvidia-smi.
    """
    gpus = parse_gpus(text)
    advice = f"install NVIDIA's driver, {OLDEST_DRIVER} or newer, or run where there is a GPU"
    if not gpus:
        said = text.strip().splitlines() or ["nvidia-smi not found"]
        if not text and loads:
            return [Finding("note", "driver", f"{said[0]}; {DRIVER} is there")]
        return [Finding("missing", "driver", said[0], advice)]
    good = int(gpus[0].driver.split(".")[0]) >= OLDEST_DRIVER
    state, advice = ("ok", "") if good else ("missing", advice)
    findings = [Finding(state, "driver", gpus[0].driver, advice)]
    for number, gpu in enumerate(gpus):
        text = f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        findings.append(Finding("ok", f"GPU {number}", text))
    return findings


def parse_ldd(text: str) -> Dict[str, Optional[str]]:
    """Path of each library in ldd's output, None where it was not found."""
    found: Dict[str, Optional[str]] = {}
    for line in text.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow:
            found[name] = None if "not found" in rest else rest.split(" (")[0]
    return found


def library_findings(libraries: Mapping[str, Optional[str]], found: Installation) -> List[Finding]:
    """One finding for each CUDA library, and one for whatever else does not resolve."""
    findings = []
    for name, path in sorted(libraries.items()):
        if name == DRIVER:
            continue
        if path is None:
            findings.append(Finding("missing", name, "not found", INSTALL))
        elif re.match(r"lib(cu|nv|nccl)", name) and not Path(path).is_relative_to(found.mindspore):
            package = Path(path).resolve().parent.parent.name
            version = found.versions.get(package, "not from pip, version unknown")
            findings.append(Finding("ok", name, f"{version}  {path}"))
    return findings


def kernel_targets(library: Path) -> Tuple[Set[Tuple[int, int]], Set[Tuple[int, int]]]:
    """Compute capabilities a library of kernels holds machine code for, and those of its PTX.

    Machine code lies in ELF images of machine 190 whose flags end in the capability; PTX is text.
    """
    code: Set[Tuple[int, int]] = set()
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        for match in re.finditer(rb"\x7fELF", data):
            start = match.start()
            if data[start + 18 : start + 20] == b"\xbe\x00":
                code.add(divmod(data[start + 48], 10))
        ptx = {divmod(int(number), 10) for number in re.findall(rb"\.target sm_(\d+)", data)}
    return code, ptx


def kernel_finding(
    capability: Tuple[int, int], code: Iterable[Tuple[int, int]], ptx: Iterable[Tuple[int, int]]
) -> Finding:
    """Whether a GPU of compute capability `capability` can run the kernels.

    Machine code runs on the same major version from its own minor one on; PTX on anything newer,
    after the driver has compiled it.
    """
    text = f"compute capability {capability[0]}.{capability[1]}"
    if any(c[0] == capability[0] and c[1] <= capability[1] for c in code):
        return Finding("ok", "kernels", f"{text}: the wheel has machine code for it")
    if capability > NEWEST_CAPABILITY:
        return Finding(
            "missing",
            "kernels",
            f"{text}: newer than the libraries of CUDA 11 know",
            "use a GPU of compute capability 6.0 to 9.0",
        )
    if any(p <= capability for p in ptx):
        return Finding("ok", "kernels", f"{text}: compiled by the driver at the first start, once")
    return Finding(
        "missing", "kernels", f"{text}: too old for this wheel", "use a GPU of 6.0 or newer"
    )
