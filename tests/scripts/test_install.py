# SPDX-License-Identifier: Apache-2.0
"""`pip install .`: one package, which works from any folder and brings what it needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
USE = """
import sys
import m2det, m2det.utils, m2det.config
assert not {"mindspore", "torch"} & set(sys.modules)  # they take seconds
from m2det.nms import BACKEND
from m2det import Detector
from m2det.formats.shipped import PHOTOS
print(Detector.__module__, BACKEND, PHOTOS.parent)
"""


def python(*arguments, cwd, **environment):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip has filled, from a copy without what was built in place."""
    folder = tmp_path_factory.mktemp("install")
    source, target = folder / "source", folder / "target"
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.c")
    shutil.copytree(ROOT / "src", source / "src", ignore=built)
    for path in (*(ROOT / name for name in FILES), *ROOT.glob("requirements*.txt")):
        shutil.copy(path, source)
    network = source / "weights" / "photos"  # a stand-in for megabytes
    network.mkdir(parents=True)
    for name in ("photos.safetensors", "config.json", "labels.json"):
        (network / name).write_text("{}")
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--quiet")
    python("-m", "pip", "install", *flags, "--target", target, source, cwd=folder)
    return target


def test_one_package(installed):
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names - {"bin"} == {"m2det"}


def test_every_file_of_src_is_in_it(installed):
    def files(folder):
        found = (path for path in folder.rglob("*") if path.is_file())
        left_out = {".so", ".c", ".pyc"}
        return {path.relative_to(folder) for path in found if path.suffix not in left_out}

    inside = files(installed / "m2det")
    assert {path for path in inside if path.parts[0] != "weights"} == files(ROOT / "src")
    weights = {path for path in inside - files(ROOT / "src") if path.suffix == ".safetensors"}
    assert weights == {Path("weights/photos/photos.safetensors")}


def test_it_works_from_any_folder(installed, tmp_path):
    module, backend, home = python("-c", USE, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert module == "m2det.detector"
    assert Path(home) == installed / "m2det" / "weights" / "photos"
    assert backend == ("cython" if shutil.which("cc") or shutil.which("gcc") else "numpy")


def test_imports_inside_the_package_are_relative():
    """`import src...` would find nothing, or another checkout, once it is installed as m2det."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (src|m2det)\b", path.read_text(), re.M), path


def test_the_nms_is_compiled_as_in_place():
    """Contraction to fused multiply-add would make other results than NumPy's."""
    from src.nms.build import COMPILE_ARGS

    flags = re.search(r"^COMPILE_ARGS = \[(.*)\]", (ROOT / "setup.py").read_text(), re.M)[1]
    assert re.findall(r'"(.*?)"', flags) == COMPILE_ARGS


def test_a_name_that_is_not_there():
    import src

    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        src.Detectr  # noqa: B018
