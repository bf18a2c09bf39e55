# SPDX-License-Identifier: Apache-2.0
"""The environment for a GPU, in folder trees made up for it."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.runtime.gpu import libraries as gpu_libraries
from src.runtime.gpu.libraries import (
    GpuLibraryError,
    choose_plugin,
    cuda_home_for,
    find_installation,
    gpu_environment,
    make_cuda_home,
)

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"cuda_runtime": "libcudart.so.11.0", "cublas": "libcublas.so.11"}


@pytest.fixture
def site(tmp_path):
    """A site-packages folder with MindSpore's plugins and two CUDA libraries."""
    folder = tmp_path / "site packages"
    plugins = folder / "mindspore" / "lib" / "plugin"
    plugins.mkdir(parents=True)
    (folder / "mindspore" / "__init__.py").write_text("")
    for version in ("11.1", "11.6"):
        (plugins / f"libmindspore_gpu.so.{version}").write_text("")
        (plugins / f"gpu{version}").mkdir()
    for package, library in PACKAGES.items():
        path = folder / "nvidia" / package / "lib" / library
        path.parent.mkdir(parents=True)
        path.write_text("")
        (folder / f"nvidia_{package}_cu11-11.8.89.dist-info").mkdir()
    (folder / "nvidia" / "empty" / "lib").mkdir(parents=True)
    return folder


def test_what_is_installed(site):
    found = find_installation(site / "mindspore")
    assert sorted(found.plugins) == ["11.1", "11.6"]
    assert found.plugins["11.6"].name == "libmindspore_gpu.so.11.6"
    assert [folder.parent.name for folder in found.folders] == ["cublas", "cuda_runtime"]
    assert found.versions == {"cublas": "11.8.89", "cuda_runtime": "11.8.89"}


@pytest.mark.parametrize(
    ("runtime", "plugin"),
    [("11.8.89", "11.6"), ("11.6.55", "11.6"), ("11.5.117", "11.1"), ("11.1.74", "11.1")],
)
def test_the_plugin_follows_the_runtime(runtime, plugin):
    assert choose_plugin(["11.1", "11.6"], runtime) == plugin


def test_versions_are_numbers():
    assert choose_plugin(["11.6", "11.10"], "11.12.1") == "11.10"


@pytest.mark.parametrize(
    ("plugins", "runtime", "reason"),
    [
        (["11.1", "11.6"], "12.4.1", r"no plugin for CUDA 12\.4\.1; MindSpore has 11\.1, 11\.6"),
        (["11.6"], "11.1.74", r"no plugin for CUDA 11\.1"),
        (["11.6"], None, "no CUDA runtime from pip"),
        ([], "11.8.89", "no GPU plugin"),
    ],
)
def test_no_plugin_fits(plugins, runtime, reason):
    with pytest.raises(GpuLibraryError, match=reason):
        choose_plugin(plugins, runtime)


def test_the_environment(site, tmp_path):
    home = tmp_path / "home"
    inherited = f"/usr/lib/own::{site}/nvidia/cublas/lib"
    values = gpu_environment(find_installation(site / "mindspore"), home, inherited)
    assert values["CUDA_HOME"] == str(home)
    assert values["LD_LIBRARY_PATH"].split(":") == [
        f"{home}/lib64",
        f"{site}/mindspore/lib/plugin/gpu11.6",
        f"{site}/nvidia/cublas/lib",
        f"{site}/nvidia/cuda_runtime/lib",
        "/usr/lib/own",
    ]
    for name in ("libcudart.so.11.0", "libcudart.so.11.6.0"):
        assert (home / "lib64" / name).resolve() == (
            site / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.11.0"
        )


def test_the_stand_in_answers_like_the_compiler(tmp_path):
    """MindSpore looks for the words before the version, and the comma after it."""
    home = make_cuda_home(tmp_path / "a home", "11.6", tmp_path / "libcudart.so.11.0")
    said = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True)
    assert said.stdout == "Cuda compilation tools, release 11.6, V11.6.0\n"


def test_another_version_takes_its_place(tmp_path):
    home = make_cuda_home(tmp_path / "home", "11.1", tmp_path / "old.so")
    make_cuda_home(home, "11.6", tmp_path / "new.so")
    assert "release 11.6," in (home / "bin" / "nvcc").read_text()
    assert os.readlink(home / "lib64" / "libcudart.so.11.0") == str(tmp_path / "new.so")
    names = sorted(path.name for path in home.rglob("*") if not path.is_dir())
    assert "libcudart.so.11.6.0" in names
    assert not [name for name in names if name.startswith(".")]


def test_a_library_that_is_gone(site, tmp_path):
    (site / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.11.0").unlink()
    with pytest.raises(GpuLibraryError, match="is missing: pip install"):
        gpu_environment(find_installation(site / "mindspore"), tmp_path / "home")


def test_where_the_stand_in_goes(tmp_path, monkeypatch):
    assert cuda_home_for(tmp_path) == tmp_path / "share" / "m2det-cuda"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cuda_home_for(tmp_path) == Path("/elsewhere/m2det-cuda")


def source(site, tmp_path, command):
    """Runs `command` in a shell after gpu_env.sh, with a Python that sees the made-up tree."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(site))} exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    shell = f"source {shlex.quote(str(ROOT / 'scripts' / 'gpu_env.sh'))}; {command}"
    return subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHON": str(python),
            "HOME": str(tmp_path),
            "LD_LIBRARY_PATH": "/own",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_sets_the_environment(site, tmp_path):
    result = source(site, tmp_path, 'echo "$?|$CUDA_HOME|$LD_LIBRARY_PATH"')
    status, home, path = result.stdout.strip().split("|")
    assert status == "0"
    assert (Path(home) / "bin" / "nvcc").is_file()
    assert path.split(":")[1] == f"{site}/mindspore/lib/plugin/gpu11.6"
    assert path.endswith(":/own")
    assert result.stderr == ""


def test_the_script_says_what_is_missing_and_leaves_the_shell(site, tmp_path):
    for info in site.glob("nvidia_*"):
        info.rmdir()
    result = source(site, tmp_path, 'echo "$?|$LD_LIBRARY_PATH"')
    assert result.stdout == "2|/own\n"
    assert result.stderr == (
        "gpu_env.sh: no CUDA runtime from pip: pip install -r requirements-gpu.txt\n"
    )


def test_plain_sh_is_told_so():
    command = f". {shlex.quote(str(ROOT / 'scripts' / 'gpu_env.sh'))}; echo $?"
    done = subprocess.run(["dash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "2\n"
    assert done.stderr == "gpu_env.sh: to be sourced by bash or zsh, not by sh\n"


def test_the_script_finds_the_environment_beside_it(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "export CUDA_HOME=/of/$2"\n')
    python.chmod(0o755)
    script = shutil.copy(ROOT / "scripts" / "gpu_env.sh", tmp_path / ".venv")
    command = f"source {shlex.quote(str(script))}; echo $CUDA_HOME"
    bare = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", command], env=bare, capture_output=True, text=True)
    assert done.stdout == "/of/src.runtime.gpu.libraries\n"


def test_the_script_is_to_be_sourced():
    script = ROOT / "scripts" / "gpu_env.sh"
    result = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == "usage: source scripts/gpu_env.sh\n"


def test_mindspore_is_not_imported_to_find_it():
    code = (
        "import sys; from src.runtime.gpu.libraries import find_mindspore as f; "
        "f(); print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "mindspore" not in result.stdout.split()
    assert gpu_libraries.HOME_NAME
