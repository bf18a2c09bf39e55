# SPDX-License-Identifier: Apache-2.0
"""What the parts of a GPU set-up tell of themselves: driver, libraries, kernels.

Only the standard library is used.
"""

import ctypes
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from .libraries import Installation

DRIVER = "libcuda.so.1"
INSTALL = "pip install -r requirements-gpu.txt, then: source scripts/gpu_env.sh"
NEWEST_CAPABILITY = (9, 0)  # that the libraries of CUDA 11.8 know
OLDEST_DRIVER = (11, 6)  # CUDA version; 510 on Linux


@dataclass(frozen=True)
class Finding:
    """One line of the report: `state` is "ok", "missing" or "note"; `advice` is what to do."""

    state: str
    name: str
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Driver:
    """What the driver says: the CUDA version it serves, and (name, capability) of each GPU."""

    cuda: Tuple[int, int]
    gpus: Sequence[Tuple[str, Tuple[int, int]]]


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


def ask_driver() -> Optional[Driver]:
    """What the driver says, or None where there is none.

    Raises:
        OSError: it is there and does not work; the message has its error number.
    """
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    status = cuda.cuInit(0)
    if status:
        raise OSError(f"the driver is there and fails with error {status} (cuInit)")
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    cuda.cuDeviceGetCount(ctypes.byref(number))
    gpus = []
    for device in range(number.value):
        name = ctypes.create_string_buffer(100)
        cuda.cuDeviceGetName(name, 100, device)
        parts = []
        for attribute in (75, 76):  # compute capability, major and minor
            value = ctypes.c_int()
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            parts.append(value.value)
        gpus.append((name.value.decode(), (parts[0], parts[1])))
    return Driver(version, gpus)


def driver_findings(driver: Optional[Driver]) -> List[Finding]:
    """On the driver and its GPUs."""
    advice = "install NVIDIA's driver, 510 or newer, or run where there is a GPU"
    if driver is None:
        return [Finding("missing", "driver", f"{DRIVER} not found", advice)]
    version = f"serves CUDA {driver.cuda[0]}.{driver.cuda[1]}"
    good = driver.cuda >= OLDEST_DRIVER
    findings = [Finding("ok" if good else "missing", "driver", version, "" if good else advice)]
    if not driver.gpus:
        advice = "see whether CUDA_VISIBLE_DEVICES hides them"
        findings.append(Finding("missing", "GPU", "the driver shows none", advice))
    for number, (name, capability) in enumerate(driver.gpus):
        text = f"{name}, compute capability {capability[0]}.{capability[1]}"
        findings.append(Finding("ok", f"GPU {number}", text))
    return findings
