# SPDX-License-Identifier: Apache-2.0
"""Builds the compiled NMS, `cpu_nms.pyx`, in place: `python -m src.nms.build` or make.sh."""

import argparse
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Optional, Sequence

from ..runtime.errors import M2DetError
from ..runtime.files import replacing

SOURCE = Path(__file__).with_name("cpu_nms.pyx")
# no contraction to fused multiply-add, so that results equal NumPy's bit for bit on every machine
COMPILE_ARGS = ["-O3", "-g0", "-ffp-contract=off", "-fno-trapping-math"]


class BuildError(M2DetError, RuntimeError):
    """The extension cannot be built here; the message says what is missing."""


def build(source: Path = SOURCE, target: Optional[Path] = None) -> Path:
    """Compiles one Cython file into a Python extension.

    Args:
        source: the `.pyx` file.
        target: folder of the result, the source's by default. An older build is replaced at once,
            so that programs running at the time keep theirs.

    Returns:
        Path of the library.

    Raises:
        BuildError: Cython, a C compiler or Python's headers are missing, or the source is wrong.
    """
    try:
        import Cython
        import setuptools  # noqa: F401  (supplies the compiler classes)
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError
    except ImportError as error:
        raise BuildError(
            f"{error.name} is not installed; run: pip install cython setuptools"
        ) from None
    if int(Cython.__version__.split(".")[0]) < 3:
        raise BuildError(f"Cython 3 is needed, {Cython.__version__} is installed")
    target = Path(target or source.parent)
    with tempfile.TemporaryDirectory() as work:
        try:
            modules = cythonize([_extension(source)], build_dir=work, force=True, quiet=True)
        except CompileError as error:
            raise BuildError(f"{source} does not compile: {_last_line(error)}") from None
        made = _compile(modules, Path(work))
        return _install(made, target)


def _extension(source: Path):
    import numpy
    from setuptools import Extension

    return Extension(
        source.stem,
        [str(source)],
        include_dirs=[numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=COMPILE_ARGS,
    )


def _compile(modules: Sequence, work: Path) -> Path:
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise BuildError(
            f"no C compiler: {compiler!r} not found; on Debian or Ubuntu: apt install gcc"
        )
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        raise BuildError("Python.h not found; on Debian or Ubuntu: apt install python3-dev")
    command = build_ext(Distribution({"ext_modules": list(modules)}))
    command.build_lib = command.build_temp = str(work)
    command.ensure_finalized()
    try:
        command.run()
    except Exception as error:  # each version of setuptools raises classes of its own
        raise BuildError(f"{compiler} failed: {_last_line(error)}") from None
    return Path(command.get_ext_fullpath(modules[0].name))


def _install(made: Path, target: Path) -> Path:
    final = target / made.name
    try:
        with replacing(final) as beside:
            shutil.copy2(made, beside)
    except OSError as error:
        raise BuildError(f"cannot write {final}: {error.strerror}") from None
    return final


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line on stderr."""
    argparse.ArgumentParser(prog="python -m src.nms.build", description=__doc__).parse_args(argv)
    try:
        print(f"built {build()}")
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
