# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of all weights, BatchNorm statistics included."""

import contextlib
from typing import Dict, Iterator, List, Mapping, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from .packing import Packing

PREFIX = "ema"


class Ema(nn.Cell):
    """The average of `parameters`, started from what they hold.

    It is stored in a few large tensors, which four kernels update. Its graph is not that of the
    step: a weight that is read again after its update in one graph is copied twice by MindSpore.

    Args:
        parameters: of the network, trainable or not.
        decay: of the average; (1 + t) / (10 + t) at step t as long as that is smaller, because
            the first weights are random.
    """

    def __init__(self, parameters: Sequence[Parameter], decay: float) -> None:
        super().__init__(auto_prefix=False)  # the weights keep their names
        self.values = ParameterTuple(parameters)
        self.packing = Packing([p.shape for p in parameters])
        self.averages = ParameterTuple(
            [
                Parameter(Tensor(x), name=f"{PREFIX}_{i}", requires_grad=False)
                for i, x in enumerate(self.packing.pack_arrays(self._values()))
            ]
        )
        self.smallest_weight = Tensor(1.0 - decay, ms.float32)

    def construct(self, step: Tensor) -> Tensor:
        """Moves the average towards the present weights, after step number `step` (1,) (from 1)."""
        weight = ops.maximum(self.smallest_weight, 9.0 / (10.0 + step.astype(ms.float32)))
        done = weight
        for average, value in zip(self.averages, self.packing.pack(self.values)):
            moved = ops.assign_add(average, weight * (value - average))
            done = ops.depend(done, moved)
        return done

    def weights(self) -> Dict[str, Tensor]:
        """The averages by the name of the weight."""
        arrays = self.packing.unpack_arrays(self.averages)
        return {value.name: Tensor(x, value.dtype) for value, x in zip(self.values, arrays)}

    def state(self) -> Dict[str, Tensor]:
        """What resuming needs, by name."""
        return {f"{PREFIX}.{name}": average for name, average in self.weights().items()}

    def shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Shapes of the tensors of `state`, by name."""
        return {f"{PREFIX}.{value.name}": tuple(value.shape) for value in self.values}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the averages in `state`; those it lacks start from the present weights."""
        names = [f"{PREFIX}.{value.name}" for value in self.values]
        arrays = [state.get(name, now) for name, now in zip(names, self._values())]
        for average, packed in zip(self.averages, self.packing.pack_arrays(arrays)):
            average.set_data(Tensor(packed))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Context manager: the network's weights are the averages inside."""
        before = [values.copy() for values in self._values()]
        try:
            for value, average in zip(self.values, self.packing.unpack_arrays(self.averages)):
                value.set_data(Tensor(average.copy(), value.dtype))
            yield
        finally:
            for value, old in zip(self.values, before):
                value.set_data(Tensor(old, value.dtype))

    def _values(self) -> List[np.ndarray]:
        return [value.asnumpy() for value in self.values]
