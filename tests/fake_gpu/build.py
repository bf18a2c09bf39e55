# SPDX-License-Identifier: Apache-2.0
"""Builds `fake_gpu.c` and what MindSpore's GPU plugin needs to take it for a GPU.

Every function that the plugin wants from CUDA, NCCL or MindSpore's library of kernels and that
`fake_gpu.c` does not have becomes one that counts its calls and returns 0.
"""

import re
import subprocess
from pathlib import Path
from typing import Dict, List, Set

SOURCE = Path(__file__).resolve().parent / "fake_gpu.c"
FROM_NVIDIA = re.compile(r"(cu|nccl|nvrtc)[A-Za-z]")
NVIDIA_LIBRARY = re.compile(r"lib(cu|nv)")
CPP_LIBRARY = re.compile(r"_ZNK?St|_ZT|_ZNSs")  # the compiler's own, not kernels
# What the plugin looks up by name at run time.
LOADED = {
    *("cuInit", "cuDriverGetVersion", "ncclAllGather", "ncclBroadcast", "ncclCommAbort"),
    *("ncclCommDestroy", "ncclGroupStart", "ncclGroupEnd", "ncclRecv", "ncclReduceScatter"),
    *("ncclSend", "ncclGetErrorString"),
}
NVCC = '#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.124"\n'


def build(mindspore: Path, folder: Path) -> Dict[str, str]:
    """Builds into `folder`; the variables that make the MindSpore in that folder use it."""
    plugins = mindspore / "lib" / "plugin"
    wanted = _symbols(plugins / "libmindspore_gpu.so.11.6", "--undefined-only")
    kernels = plugins / "gpu" / "libcuda_ops.so.11"
    provided = _symbols(kernels, "--defined-only") & wanted
    wanted |= {s for s in _symbols(kernels, "--undefined-only") if FROM_NVIDIA.match(s)}
    names = {s.split("@")[0] for s in wanted if FROM_NVIDIA.match(s)} | LOADED
    names |= {s for s in provided if not CPP_LIBRARY.match(s)}

    folder.mkdir(parents=True, exist_ok=True)
    rest = folder / "rest.c"
    rest.write_text(_counting(sorted(names)))
    versions: Dict[str, List[str]] = {}  # of each library, as the plugin asks for them
    for name, _, library in (symbol.partition("@") for symbol in sorted(wanted)):
        if NVIDIA_LIBRARY.match(library):
            versions.setdefault(library, []).append(name)
    script = folder / "versions"
    script.write_text(
        "".join(f"{lib} {{ global: {'; '.join(own)}; }};\n" for lib, own in versions.items())
    )
    library = folder / "libcuda.so.1"
    form = ["-shared", "-fPIC", "-O1", "-w", "-Wl,-soname,libcuda.so.1"]
    form += ["-Wl,-Bsymbolic", f"-Wl,--version-script={script}"]
    subprocess.run(["gcc", *form, "-o", library, SOURCE, rest], check=True)

    home = folder / "cuda"
    for place in (home / "bin", home / "lib64"):
        place.mkdir(parents=True, exist_ok=True)
    (home / "bin" / "nvcc").write_text(NVCC)
    (home / "bin" / "nvcc").chmod(0o755)
    for link in (*(folder / name for name in versions), home / "lib64" / "libcudart.so.11.6.0"):
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    return {
        "CUDA_HOME": str(home),
        "LD_LIBRARY_PATH": f"{folder}:{home / 'lib64'}",
        "LD_PRELOAD": str(library),  # or the plugin's own path would lead to the real NCCL
    }


def _symbols(library: Path, which: str) -> Set[str]:
    listing = subprocess.run(
        ["nm", "--dynamic", which, library], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].replace("@@", "@") for line in listing.stdout.splitlines()}


def _counting(names: List[str]) -> str:
    """C with a function for each name, which one of the same name elsewhere replaces."""
    lines = ["struct call { const char *name; long count; };", "struct call fake_calls[];"]
    lines.append("int fake_gpu_create(void **made);")
    for number, name in enumerate(names):
        creates = re.match(r"(cuda|cudnn|cublas|cufft|curand|cusolverDn|cusparse)\w*Create", name)
        result = "fake_gpu_create(made)" if creates else "0"
        count = f"__sync_fetch_and_add(&fake_calls[{number}].count, 1)"
        lines.append(
            f"__attribute__((weak)) int {name}(void **made) {{ {count}; return {result}; }}"
        )
    table = ", ".join(f'{{"{name}", 0}}' for name in names)
    lines.append(f"struct call fake_calls[] = {{{table}, {{0, 0}}}};")
    return "\n".join([*lines, ""])
