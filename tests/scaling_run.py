# SPDX-License-Identifier: Apache-2.0
"""A process of its own that compiles a graph for each length: scaling_run.py FACTOR LENGTH..."""

import logging
import os
import signal
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mindspore import Parameter, Tensor, nn

from src.runtime.device import setup_device
from src.runtime.graph_cache.cached_cell import Cached
from src.runtime.graph_cache.store import Store


class Scaling(nn.Cell):
    """x times a constant of the graph plus the input's length and a parameter."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.offset = Parameter(Tensor([0.5]), "offset")

    def construct(self, x):
        return x * self.factor + x.shape[0] + self.offset


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    setup_device("CPU")
    if "KILL_BEFORE_KEEPING" in os.environ:
        Store.put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    cell = Cached(Scaling(float(sys.argv[1])))
    for length in map(int, sys.argv[2:]):
        for _ in range(2):
            print("sum", float(cell(Tensor(np.ones(length, np.float32))).asnumpy().sum()))


if __name__ == "__main__":
    main()
