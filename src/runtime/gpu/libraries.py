# SPDX-License-Identifier: Apache-2.0
"""Where pip has put what MindSpore's GPU plugin needs, and how MindSpore is made to find it.

Only the standard library is used. `python -m src.runtime.gpu.libraries` prints the environment for
`scripts/gpu_env.sh`.

MindSpore (2.8.0) loads its GPU plugin only if `$CUDA_HOME/bin/nvcc --version` names a version it
has a plugin for, and then takes the runtime's version from a file name of the form
libcudart.so.11.6.0. pip's packages have neither nvcc nor such a name, so both are put into a small
folder. Which plugin that asks for is decided here, by the version of the runtime there is.
"""

import importlib.util
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ..errors import M2DetError
from ..files import replacing

RUNTIME = "libcudart.so.11.0"
HOME_NAME = "m2det-cuda"
_NVCC = '#!/bin/sh\n# Stands in for the compiler: MindSpore asks it for the version.\necho "{}"\n'


class GpuLibraryError(M2DetError, ValueError):
    """Something the GPU plugin needs is not installed; the message says what to do."""


@dataclass(frozen=True)
class Installation:
    """What there is.

    `plugins` has the GPU plugins of MindSpore's wheel by CUDA version ("11.6"), `folders` the
    folders of pip's CUDA libraries, `versions` those packages ("cuda_runtime": "11.8.89").
    """

    site: Path
    mindspore: Path
    plugins: Mapping[str, Path]
    folders: Sequence[Path]
    versions: Mapping[str, str]


def find_mindspore() -> Path:
    """MindSpore's folder, without importing it.

    Raises:
        GpuLibraryError: it is not installed.
    """
    spec = importlib.util.find_spec("mindspore")
    if spec is None or spec.origin is None:
        raise GpuLibraryError("MindSpore is not installed: pip install -r requirements-gpu.txt")
    return Path(spec.origin).parent


def find_installation(mindspore: Path) -> Installation:
    """What is installed beside MindSpore."""
    site = mindspore.parent
    plugins = {}
    for path in sorted((mindspore / "lib" / "plugin").glob("libmindspore_gpu.so.*")):
        plugins[path.name.split(".so.", 1)[1]] = path
    folders = sorted(folder for folder in site.glob("nvidia/*/lib") if any(folder.glob("*.so*")))
    versions = {}
    for info in sorted(site.glob("nvidia_*_cu11-*.dist-info")):
        name, version = info.name[len("nvidia_") : -len(".dist-info")].rsplit("-", 1)
        versions[name[: -len("_cu11")]] = version
    return Installation(site, mindspore, plugins, tuple(folders), versions)


def choose_plugin(plugins: Sequence[str], runtime: Optional[str]) -> str:
    """The newest plugin the CUDA runtime can serve: of its major version, and no newer.

    Args:
        plugins: CUDA versions there are plugins for, such as "11.6".
        runtime: version of the installed CUDA runtime, such as "11.8.89", or None.

    Raises:
        GpuLibraryError: there is none.
    """
    if not plugins:
        raise GpuLibraryError("this MindSpore has no GPU plugin: install it from PyPI, on Linux")
    if runtime is None:
        raise GpuLibraryError("no CUDA runtime from pip: pip install -r requirements-gpu.txt")
    limit = _numbers(runtime)
    fitting = [v for v in plugins if _numbers(v)[0] == limit[0] and _numbers(v) <= limit[:2]]
    if not fitting:
        raise GpuLibraryError(
            f"no plugin for CUDA {runtime}; MindSpore has {', '.join(sorted(plugins))}:"
            " pip install -r requirements-gpu.txt"
        )
    return max(fitting, key=_numbers)


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def make_cuda_home(folder: Path, version: str, runtime: Path) -> Path:
    """A folder that MindSpore takes for a CUDA installation of `version`, made or made anew.

    Raises:
        OSError: it cannot be written.
    """
    program = folder / "bin" / "nvcc"
    text = _NVCC.format(f"Cuda compilation tools, release {version}, V{version}.0")
    if not program.is_file() or program.read_text(encoding="utf-8") != text:
        program.parent.mkdir(parents=True, exist_ok=True)
        with replacing(program) as draft:
            draft.write_text(text, encoding="utf-8")
            draft.chmod(0o755)
    (folder / "lib64").mkdir(parents=True, exist_ok=True)
    for name in (RUNTIME, f"libcudart.so.{version}.0"):
        link = folder / "lib64" / name
        if not link.is_symlink() or os.readlink(link) != str(runtime):
            with replacing(link) as draft:
                draft.symlink_to(runtime)
    return folder


def gpu_environment(found: Installation, home: Path, inherited: str = "") -> Dict[str, str]:
    """CUDA_HOME and LD_LIBRARY_PATH for the GPU plugin; makes `home`.

    Args:
        found: what is installed.
        home: where the stand-in for a CUDA installation may be put.
        inherited: the LD_LIBRARY_PATH there is; it comes last.

    Raises:
        GpuLibraryError: something is not installed.
        OSError: `home` cannot be written.
    """
    version = choose_plugin(list(found.plugins), found.versions.get("cuda_runtime"))
    runtime = found.site / "nvidia" / "cuda_runtime" / "lib" / RUNTIME
    if not runtime.is_file():
        raise GpuLibraryError(f"{runtime} is missing: pip install -r requirements-gpu.txt")
    make_cuda_home(home, version, runtime)
    first = [home / "lib64", found.mindspore / "lib" / "plugin" / f"gpu{version}"]
    path: List[str] = [str(folder) for folder in [*first, *found.folders]]
    path += [part for part in inherited.split(":") if part and part not in path]
    return {"CUDA_HOME": str(home), "LD_LIBRARY_PATH": ":".join(path)}


def cuda_home_for(prefix: Path) -> Path:
    """Where the stand-in goes: into the Python environment, or the user's cache."""
    if os.access(prefix, os.W_OK):
        return prefix / "share" / HOME_NAME
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / HOME_NAME


def main() -> int:
    try:
        found = find_installation(find_mindspore())
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        values = gpu_environment(found, cuda_home_for(Path(sys.prefix)), inherited)
    except (GpuLibraryError, OSError) as error:
        print(f"gpu_env.sh: {error}", file=sys.stderr)
        return 2
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
