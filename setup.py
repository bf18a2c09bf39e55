# SPDX-License-Identifier: Apache-2.0
"""Packs `src/` as the package `m2det`, with the compiled NMS; the rest is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup

ROOMS = find_namespace_packages("src", exclude=["*__pycache__*"])
FOLDERS = {"m2det": "src"}
if Path("weights").is_dir():
    FOLDERS["m2det.weights"] = "weights"

setup(
    packages=[*FOLDERS, *(f"m2det.{room}" for room in ROOMS)],
    package_dir=FOLDERS,
    package_data={"": ["*.pyx", "*.html", "*.css", "*.js", "*.json"], "m2det.weights": ["*"]},
    ext_modules=[
        Extension(
            "m2det.nms.cpu_nms",
            ["src/nms/cpu_nms.pyx"],
            extra_compile_args=runpy.run_path("src/nms/build.py")["COMPILE_ARGS"],
            optional=True,  # without a C compiler NumPy does the same more slowly
        )
    ],
)
