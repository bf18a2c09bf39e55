# SPDX-License-Identifier: Apache-2.0
"""A network run by MindSpore, as the function of arrays that `ArrayDetector` takes."""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from ..config import Config
from ..formats.checkpoint import load_weights
from ..model import M2Det, build_model
from ..model.cpu_layers import fit_to_device
from ..runtime.device import setup_device
from ..runtime.device_choice import device_there
from ..runtime.graph_cache.cached_cell import Cached
from .postprocess import Network, Outputs


def ensure_graph_mode() -> None:
    """Graph mode on the device that the machine has, unless it is on: in MindSpore's default mode
    networks run 4 to 8 times slower.

    Raises:
        ValueError: the device is not there.
    """
    if ms.get_context("mode") != ms.GRAPH_MODE:
        setup_device(device_there())


def load_network(config: Config, path: Path) -> M2Det:
    """The network of a configuration with the weights of a checkpoint, in evaluation mode.

    Raises:
        ValueError: a missing or damaged file, or weights that do not fit.
    """
    with no_init_parameters():  # drawing 132 million numbers takes 4 s
        network = build_model(config)
    load_weights(network, path)
    network.set_train(False)
    return network


def cell_network(cell: nn.Cell) -> Network:
    """A network cell, in evaluation mode, as a function of arrays."""
    fit_to_device(cell)
    cell.set_train(False)
    cached = Cached(cell)

    def run(inputs: np.ndarray) -> Outputs:
        loc, logits = cached(Tensor(inputs))
        return loc.asnumpy(), logits.asnumpy()

    return run
