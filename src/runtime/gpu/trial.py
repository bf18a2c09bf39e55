# SPDX-License-Identifier: Apache-2.0
"""A convolution and a training step on a device, timed; a process of its own, which may crash.

usage: python -m src.runtime.gpu.trial CPU|GPU [DEVICE_ID]
"""

import json
import sys
import time
from typing import Any, Callable, Dict, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

REPEATS = 20


class Step(nn.Cell):
    """Two convolutions and a mean square, to have something to train: images to a number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.SequentialCell(
            nn.Conv2d(3, width, 3, pad_mode="same"),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, pad_mode="same"),
        )

    def construct(self, images: Tensor) -> Tensor:
        return (self.layers(images) - 1.0).square().mean()


def milliseconds(call: Callable[[], Tensor]) -> float:
    """Time of one call, after a first that compiles; results are fetched."""
    call().asnumpy()
    began = time.perf_counter()
    for _ in range(REPEATS):
        last = call()
    last.asnumpy()
    return (time.perf_counter() - began) / REPEATS * 1000


def trial(target: str, device_id: int = 0) -> Dict[str, Any]:
    """Times in ms, the convolution's error against NumPy, and the loss before and after training.

    Raises:
        RuntimeError: the device cannot be used; MindSpore's message.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device(target, device_id if target != "CPU" else 0)
    images = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    inputs = Tensor(images)
    convolution = nn.Conv2d(3, 32, 1)
    began = time.perf_counter()
    result = convolution(inputs).asnumpy()
    first = time.perf_counter() - began
    weight = convolution.weight.asnumpy()[:, :, 0, 0]
    error = float(np.abs(np.einsum("oc,bchw->bohw", weight, images) - result).max())
    network = Step(32)
    train = nn.TrainOneStepCell(network, nn.Momentum(network.trainable_params(), 0.01, 0.9))
    loss = float(train(inputs).asnumpy())
    step = milliseconds(lambda: train(inputs))
    return {
        "first_s": first,
        "convolution_ms": milliseconds(lambda: convolution(inputs)),
        "error": error,
        "step_ms": step,
        "loss": [loss, float(train(inputs).asnumpy())],
    }


def main(argv: Sequence[str]) -> None:
    print(json.dumps(trial(argv[0], int(argv[1]) if len(argv) > 1 else 0)))


if __name__ == "__main__":
    main(sys.argv[1:])
