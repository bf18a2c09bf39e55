# SPDX-License-Identifier: Apache-2.0
"""export.py of the model zoo; the same as `m2det export`."""

from functools import partial

from src.programs.command import run
from src.utils import run_main

main = partial(run, "export")

if __name__ == "__main__":
    run_main(main)
