# SPDX-License-Identifier: Apache-2.0
"""convert.py of the model zoo; the same as `m2det convert`."""

from functools import partial

from src.programs.command import run
from src.utils import run_main

main = partial(run, "convert")

if __name__ == "__main__":
    run_main(main)
