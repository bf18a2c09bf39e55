# SPDX-License-Identifier: Apache-2.0
"""Sums, copies and means over the ranks of a run."""

import json
from typing import Any, List, Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class MeanOverRanks(nn.Cell):
    """The mean of a scalar over all ranks; itself where there is one."""

    def __init__(self, world_size: int = 1) -> None:
        super().__init__()
        self.world_size = world_size
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM) if world_size > 1 else nn.Identity()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x) / self.world_size


def gather(value: Any, rank: int, world_size: int) -> List[Any]:
    """A JSON value of each rank, on every rank; by sums alone, which all devices have."""
    if world_size == 1:
        return [value]
    total = ops.AllReduce(ops.ReduceOp.SUM)
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.float32)
    counts = np.zeros(world_size, np.int64)
    counts[rank] = len(mine)
    # float32 counts exactly up to 2**24 only, hence in two parts
    high, low = np.divmod(counts, 4096)
    high, low = (total(Tensor(part.astype(np.float32))).asnumpy() for part in (high, low))
    lengths = (high.astype(np.int64) * 4096 + low.astype(np.int64)).tolist()
    everything = np.zeros(sum(lengths), np.float32)
    start = sum(lengths[:rank])
    everything[start : start + len(mine)] = mine
    text = total(Tensor(everything)).asnumpy().astype(np.uint8).tobytes()
    ends = np.cumsum(lengths).tolist()
    return [json.loads(text[end - n : end].decode()) for end, n in zip(ends, lengths)]


def share_weights(model: nn.Cell, rank: int) -> None:
    """Give every rank the weights of the first, as where no seed makes them the same."""
    for parameter in model.get_parameters():
        values = from_first_rank(parameter.asnumpy(), rank)
        parameter.set_data(Tensor(values, parameter.dtype))


def share_values(parameters: Sequence[Parameter], rank: int) -> None:
    """Give every rank the first one's values of float32 parameters, by one sum."""
    own = [p.asnumpy() for p in parameters]
    shared = from_first_rank(np.concatenate([values.ravel() for values in own]), rank)
    parts = np.split(shared, np.cumsum([values.size for values in own])[:-1])
    for parameter, part in zip(parameters, parts):
        parameter.set_data(Tensor(part.reshape(parameter.shape)))


def from_first_rank(values: np.ndarray, rank: int) -> np.ndarray:
    """The float32 `values` of the first of several ranks, on each of them."""
    own = values if rank == 0 else np.zeros(values.shape, np.float32)
    return ops.AllReduce(ops.ReduceOp.SUM)(Tensor(own)).asnumpy()
