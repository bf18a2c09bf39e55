# SPDX-License-Identifier: Apache-2.0
"""Other ways to compute a 3x3 convolution in MindSpore: `python -m benchmarks.convolutions`.

oneDNN unfolds the image of every convolution into memory of its own, which is most of what a
training step holds. Here a chain of equal convolutions is trained in other forms that need no
unfolding there. The forms take turns; time and memory are compared with MindSpore's own.
"""

import argparse
import statistics
from typing import Callable, Dict, List, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from benchmarks.peers.sides import Run
from benchmarks.run import Worker, take_turns
from src.runtime.device import setup_device

PEER = "3x3"
DEPTH = 8  # convolutions in the chain
# Channels and side of the maps: an early layer of VGG-16 at 320 pixels, and a layer of a TUM.
SHAPES = ((64, 160), (256, 40))
BATCH = 2


class Plain(nn.Cell):
    """(B, C, H, W) -> the same, as the network does it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, pad_mode="pad", padding=1)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Shifted(nn.Cell):
    """The same by one 1x1 convolution to nine times the channels, then nine shifted maps added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 9 * channels, 1)

    def construct(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        parts = self.conv(x)
        tall = ops.zeros((batch, 9 * channels, 1, width), x.dtype)
        wide = ops.zeros((batch, 9 * channels, height + 2, 1), x.dtype)
        parts = ops.cat((tall, parts, tall), 2)
        parts = ops.cat((wide, parts, wide), 3)
        out = parts[:, :channels, :height, :width]
        for i in range(1, 9):
            top, left = i // 3, i % 3
            first = i * channels
            out += parts[:, first : first + channels, top : top + height, left : left + width]
        return out


class Unfolded(nn.Cell):
    """The same by unfolding the image in MindSpore's pool, then one matrix product."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = ms.Parameter(
            Tensor(
                np.random.default_rng(0).normal(0, 0.02, (1, channels, 9 * channels)), ms.float32
            )
        )

    def construct(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        columns = ops.unfold(x, 3, padding=1).reshape(batch, 9 * channels, height * width)
        return ops.matmul(self.weight, columns).reshape(x.shape)


FORMS: Dict[str, Callable[[int], nn.Cell]] = {
    PEER: Plain,
    "1x1, shifted, added": Shifted,
    "unfolded, product": Unfolded,
}


def prepare(form: str, channels: int, side: int) -> Run:
    """One forward and backward pass through the chain, compiled at the first call."""
    setup_device("CPU")
    cells = [cell for _ in range(DEPTH) for cell in (FORMS[form](channels), nn.ReLU())]
    chain = nn.SequentialCell(cells)
    weights = chain.trainable_params()

    def total(x: Tensor) -> Tensor:
        return chain(x).sum()

    @ms.jit
    def gradients(x: Tensor) -> Tensor:
        return ms.grad(total, None, weights)(x)

    x = Tensor(np.random.default_rng(0).normal(0, 1, (BATCH, channels, side, side)), ms.float32)
    return lambda: [g.asnumpy() for g in gradients(x)]


def rows(shape: Sequence[int], rounds: int) -> List[str]:
    """Lines of the table for one shape."""
    channels, side = shape
    workers = {form: Worker(prepare, form, channels, side) for form in FORMS}
    found = take_turns(workers, rounds)
    peer = found[PEER].times
    lines = []
    for form, one in found.items():
        ratio = statistics.median(a / b for a, b in zip(one.times, peer))
        cells = [f"{channels} x {side} x {side}", form, f"{statistics.median(one.times):.3f}"]
        lines.append(f"| {' | '.join([*cells, f'{ratio:.2f}', f'{one.peak_gb:.2f}'])} |")
    return lines


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each form (%(default)s)")
    args = parser.parse_args(argv)
    print("| map | form | median s | to 3x3 | peak GB |\n|---|---|---|---|---|")
    for shape in SHAPES:
        print("\n".join(rows(shape, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
