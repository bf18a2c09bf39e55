# SPDX-License-Identifier: Apache-2.0
"""Packs `src/` as the package `m2det`, with the compiled NMS; the rest is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup

ROOMS = find_namespace_packages("src", exclude=["*__pycache__*"])
NETWORKS = [path.parent.name for path in Path("weights").glob("*/config.json")]
FOLDERS = {"m2det": "src", **{f"m2det.weights.{name}": f"weights/{name}" for name in NETWORKS}}
# Those of src/nms/build.py, which cannot be imported before NumPy is installed.
COMPILE_ARGS = ["-O3", "-g0", "-ffp-contract=off", "-fno-trapping-math"]

setup(
    packages=[*FOLDERS, *(f"m2det.{room}" for room in ROOMS)],
    package_dir=FOLDERS,
    package_data={"": ["*.pyx", "*.html", "*.css", "*.js", "*.json", "*.safetensors"]},
    ext_modules=[
        Extension(
            "m2det.nms.cpu_nms",
            ["src/nms/cpu_nms.pyx"],
            extra_compile_args=COMPILE_ARGS,
            optional=True,  # without a C compiler NumPy does the same more slowly
        )
    ],
)
