# SPDX-License-Identifier: Apache-2.0
"""Many tensors as a few large ones: one kernel, or one AllReduce, instead of hundreds."""

from typing import List, Sequence, Tuple

import numpy as np
from mindspore import Tensor, nn, ops

ROW = 1024  # packed tensors are (rows, ROW), so that sums go over rows first
LARGEST = 2**24  # elements of a packed tensor, unless it is of one alone: 64 MiB of float32


class Packing(nn.Cell):
    """Float32 tensors of the shapes given, joined in their order and filled up with zeros."""

    def __init__(self, shapes: Sequence[Tuple[int, ...]], largest: int = LARGEST) -> None:
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.groups: List[Tuple[int, int]] = []  # first and last + 1 of each packed tensor
        first, total = 0, 0
        for i, size in enumerate(self.sizes):
            if total and total + size > largest:
                self.groups.append((first, i))
                first, total = i, 0
            total += size
        self.groups.append((first, len(self.sizes)))
        self.fillings = [
            Tensor(np.zeros(-sum(self.sizes[a:b]) % ROW, np.float32)) for a, b in self.groups
        ]

    def packed_shapes(self) -> List[Tuple[int, int]]:
        """Shapes of the packed tensors."""
        totals = [sum(self.sizes[first:last]) for first, last in self.groups]
        return [(-(-total // ROW), ROW) for total in totals]

    def pack(self, tensors: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """The packed tensors, each (rows, ROW)."""
        packed = []
        for (first, last), filling in zip(self.groups, self.fillings):
            flat = [x.reshape(-1) for x in tensors[first:last]]
            if filling.size > 0:
                flat.append(filling)
            packed.append(ops.cat(flat).reshape(-1, ROW))
        return tuple(packed)

    def unpack(self, packed: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """The tensors in their own shapes."""
        tensors = []
        for (first, last), x in zip(self.groups, packed):
            flat, start = x.reshape(-1), 0
            for i in range(first, last):
                part = flat[start : start + self.sizes[i]]
                tensors.append(part.reshape(self.shapes[i]))
                start += self.sizes[i]
        return tuple(tensors)

    def unpack_arrays(self, packed: Sequence[Tensor]) -> List[np.ndarray]:
        """As `unpack`, on the host."""
        arrays: List[np.ndarray] = []
        for (first, last), x in zip(self.groups, packed):
            ends = np.cumsum(self.sizes[first:last])
            parts = np.split(x.asnumpy().reshape(-1)[: ends[-1]], ends[:-1])
            shapes = self.shapes[first:last]
            arrays += [part.reshape(shape) for part, shape in zip(parts, shapes)]
        return arrays

    def pack_arrays(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """As `pack`, on the host."""
        packed = []
        for (first, last), filling in zip(self.groups, self.fillings):
            flat = [np.ravel(x) for x in arrays[first:last]]
            whole = np.concatenate([*flat, np.zeros(filling.size, np.float32)])
            packed.append(whole.astype(np.float32).reshape(-1, ROW))
        return packed
