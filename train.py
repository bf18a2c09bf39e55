# SPDX-License-Identifier: Apache-2.0
"""train.py of the model zoo; the same as `m2det train`."""

from functools import partial

from src.programs.command import run
from src.utils import run_main

main = partial(run, "train")

if __name__ == "__main__":
    run_main(main)
