# SPDX-License-Identifier: Apache-2.0
"""visualize.py of the model zoo; the same as `m2det visualize`."""

from functools import partial

from src.programs.command import run
from src.utils import run_main

main = partial(run, "visualize")

if __name__ == "__main__":
    run_main(main)
