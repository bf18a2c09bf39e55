# SPDX-License-Identifier: Apache-2.0
"""What rounding alone does to the PyTorch reference, and so what to allow beside it.

The input of a ReLU may lie within a rounding of zero, and a batch statistic over three values may
divide by next to nothing: which way a sum is rounded then shows, and that differs between
processors and numbers of threads. So what is expected comes from float64, and what is allowed from
how far the reference itself gets from there in float32.
"""

import copy

import numpy as np
import torch

# Relative. Float32 rounds to 2**-24, its sums over hundreds of products to some times that.
NUDGE = 2**-21


def in_float64_and_spread(reference, compute, nudged=4):
    """What `compute(network, dtype)` ({name: array}) gives in float64, and how far float32 is off.

    The distance is one number for each name: the largest over the elements of its array, and over
    one run from the weights as they are and `nudged` runs from weights that are off by NUDGE. Every
    run has its own copy of `reference`.
    """

    def run(net, dtype):
        made = compute(net.to(dtype), dtype)
        return {name: np.array(values, np.float64) for name, values in made.items()}

    expected = run(copy.deepcopy(reference), torch.float64)
    spread = dict.fromkeys(expected, 0.0)
    for seed in range(nudged + 1):
        net = copy.deepcopy(reference)
        if seed > 0:
            _nudge(net, seed)
        for name, values in run(net, torch.float32).items():
            spread[name] = max(spread[name], np.abs(values - expected[name]).max())
    return expected, spread


def _nudge(net, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1 + NUDGE * torch.randn(parameter.shape, generator=generator))


def assert_within(found, expected, spread, multiple=3):
    """Every array of `found` within a multiple of its spread and a few roundings of its own."""
    assert set(found) == set(expected)
    for name, values in found.items():
        bound = multiple * spread[name] + 2**-22 * np.abs(expected[name]).max()
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=bound, err_msg=str(name))
