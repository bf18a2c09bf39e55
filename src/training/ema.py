# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of all weights, BatchNorm statistics included."""

import contextlib
from typing import Dict, Iterator, Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from .callback import Callback, StepReport

PREFIX = "ema"
_average = ops.MultitypeFuncGraph("average")


@_average.register("Tensor", "Tensor", "Tensor")
def _average_one(share: Tensor, average: Parameter, value: Parameter) -> Tensor:
    return ops.assign_add(average, share * (value - average))


def decay_at(step: int, decay: float) -> float:
    """Share of the old average that stays at `step` (from 1): small at first, `decay` later.

    min(decay, (1 + t) / (10 + t)), so that random first weights are soon forgotten.
    """
    return min(decay, (1 + step) / (10 + step))


class Ema(nn.Cell):
    """The average of `parameters`, started from what they hold.

    Args:
        parameters: of the network, trainable or not.
        decay: share of the old average that stays.
    """

    def __init__(self, parameters: Sequence[Parameter], decay: float) -> None:
        super().__init__(auto_prefix=False)  # the weights keep their names
        self.values = ParameterTuple(parameters)
        self.averages = self.values.clone(prefix=PREFIX)
        for average in self.averages:
            average.requires_grad = False
        self.decay = decay
        self.map = ops.HyperMap()

    def construct(self, share: Tensor) -> Tensor:
        """Moves the average by `share` () of the way to the present weights."""
        return ops.depend(share, self.map(ops.partial(_average, share), self.averages, self.values))

    def update(self, step: int) -> None:
        """After step number `step` (from 1)."""
        self(Tensor(1.0 - decay_at(step, self.decay), ms.float32))

    def weights(self) -> Dict[str, Parameter]:
        """The averages by the name of the weight."""
        return {value.name: average for value, average in zip(self.values, self.averages)}

    def state(self) -> Dict[str, Parameter]:
        """What resuming needs, by name."""
        return {f"{PREFIX}.{name}": average for name, average in self.weights().items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the network has the averages for weights."""
        before = [value.asnumpy().copy() for value in self.values]
        try:
            for value, average in zip(self.values, self.averages):
                value.set_data(Tensor(average.asnumpy().copy(), value.dtype))
            yield
        finally:
            for value, old in zip(self.values, before):
                value.set_data(Tensor(old, value.dtype))

    def restart(self) -> None:
        """Take the present weights for the average, as after loading some."""
        for value, average in zip(self.values, self.averages):
            average.set_data(Tensor(value.asnumpy(), average.dtype))


class EmaUpdate(Callback):
    """Moves the average after each step that was not skipped."""

    def __init__(self, ema: Ema) -> None:
        self._ema = ema

    def on_step(self, report: StepReport) -> None:
        if not report.bad_steps:
            self._ema.update(report.step)
