# SPDX-License-Identifier: Apache-2.0
"""SGD with momentum and AdamW, which leave everything as it is where a gradient is not finite.

MindSpore's own optimisers take gradients only: given zeros in place of NaN they still follow their
momentum and decay the weights. Here the same fused operators run in such a step with rate 0 and
decay factors of 1, so that weights and moments keep every bit, without a branch in the graph. The
gradients of such a step must be zeros.
"""

from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..config import OptimizerConfig

ADAM_EPSILON = 1e-8


class Optimizer(nn.Cell):
    """Base class: the parameters, a weight decay for each, and the learning rates.

    Args:
        parameters: what is optimised.
        decays: weight decay of each parameter.
        learning_rates: one per step of the whole run.
        lr_factors: on the learning rate of each parameter; none: 1.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        decays: Sequence[float],
        learning_rates: Union[Sequence[float], np.ndarray],
        lr_factors: Sequence[float] = (),
    ) -> None:
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.parameters = ParameterTuple(parameters)
        self.decays = tuple(float(decay) for decay in decays)
        self.lr_factors = tuple(map(float, lr_factors)) or (1.0,) * len(self.decays)
        self.learning_rates = Tensor(np.asarray(learning_rates, np.float32))
        self.global_step = Parameter(Tensor([0], ms.int32), "global_step", requires_grad=False)
        self.map = ops.HyperMap()

    def state(self) -> Dict[str, Parameter]:
        """What resuming needs besides the weights, by name."""
        moments = [p for table in self.moment_tables() for p in table]
        return {p.name: p for p in [*moments, self.global_step]}

    def moment_tables(self) -> List[ParameterTuple]:
        """The averages of gradients that it keeps, one table for each kind."""
        raise NotImplementedError


_decay = ops.MultitypeFuncGraph("decay")


@_decay.register("Tuple", "Number", "Tensor", "Tensor")
def _decay_one(scalars, decay, grad, parameter):
    decay_scale, grad_scale = scalars
    if decay > 0:
        grad = grad + (decay * decay_scale) * parameter
    return grad if grad_scale is None else grad * grad_scale


_apply_sgd = ops.MultitypeFuncGraph("apply_sgd")


@_apply_sgd.register("Function", "Tuple", "Number", "Tensor", "Tensor", "Tensor")
def _apply_sgd_to_one(apply, scalars, lr_factor, grad, parameter, moment):
    rate, momentum = scalars
    if lr_factor != 1:
        rate = rate * lr_factor
    return apply(parameter, moment, rate, grad, momentum)


class SGD(Optimizer):
    """v = momentum v + (1 - dampening) (g + decay w); w = w - rate v.

    Dampening begins with the second step, as in torch.optim.SGD.

    Args:
        parameters, decays, learning_rates, lr_factors: as `Optimizer`.
        momentum: coefficient of the velocity, as in torch.optim.SGD.
        dampening: fraction of the gradient that does not enter the velocity.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        decays: Sequence[float],
        learning_rates: Union[Sequence[float], np.ndarray],
        momentum: float = 0.9,
        dampening: float = 0.0,
        lr_factors: Sequence[float] = (),
    ) -> None:
        super().__init__(parameters, decays, learning_rates, lr_factors)
        self.momentum, self.dampening = momentum, dampening
        self.moments = self.parameters.clone(prefix="moments", init="zeros")
        self.apply_momentum = ops.ApplyMomentum()

    def moment_tables(self) -> List[ParameterTuple]:
        return [self.moments]

    def construct(self, grads: Tuple[Tensor, ...], finite: Tensor) -> Tensor:
        """One step; unless `finite`, the gradients must be zeros, and only `global_step` moves."""
        step = self.global_step[0]
        rate = ops.select(finite, self.learning_rates[step], _number(0.0))
        momentum = ops.select(finite, _number(self.momentum), _number(1.0))
        decay_scale, grad_scale = finite.astype(ms.float32), None
        if self.dampening > 0:
            grad_scale = ops.select(step == 0, _number(1.0), _number(1.0 - self.dampening))
        # Every parameter is read before the first is updated: a GPU joins the updates to one node
        # (CombineScaleMomentum, seen in 2.8.0), which could not come after a part of itself.
        decay = ops.partial(_decay, (decay_scale, grad_scale))
        grads = self.map(decay, self.decays, grads, self.parameters)
        one = ops.partial(_apply_sgd, self.apply_momentum, (rate, momentum))
        done = self.map(one, self.lr_factors, grads, self.parameters, self.moments)
        return ops.depend(ops.assign_add(self.global_step, Tensor([1], ms.int32)), done)


_apply_adam = ops.MultitypeFuncGraph("apply_adam")


@_apply_adam.register(
    *("Function", "Tuple", "Number", "Number"), *("Tensor", "Tensor", "Tensor", "Tensor")
)
def _apply_adam_to_one(apply, scalars, decay, lr_factor, grad, parameter, m, v):
    rate, beta1, beta2, epsilon, decay_scale = scalars
    if lr_factor != 1:
        rate = rate * lr_factor
    return apply(parameter, m, v, rate, beta1, beta2, epsilon, decay * decay_scale, grad)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2).

    Bias correction is folded into rate and epsilon (Kingma and Ba, 2015, end of section 2), and
    taken out of the decay again.

    Args:
        parameters, decays, learning_rates, lr_factors: as `Optimizer`.
        beta1, beta2: decay of the averages of the gradient and of its square.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        decays: Sequence[float],
        learning_rates: Union[Sequence[float], np.ndarray],
        beta1: float = 0.9,
        beta2: float = 0.999,
        lr_factors: Sequence[float] = (),
    ) -> None:
        super().__init__(parameters, decays, learning_rates, lr_factors)
        self.beta1, self.beta2 = beta1, beta2
        self.first = self.parameters.clone(prefix="moment1", init="zeros")
        self.second = self.parameters.clone(prefix="moment2", init="zeros")
        self.apply_adam = ops.AdamWeightDecay()

    def moment_tables(self) -> List[ParameterTuple]:
        return [self.first, self.second]

    def construct(self, grads: Tuple[Tensor, ...], finite: Tensor) -> Tensor:
        """As `SGD`."""
        step = self.global_step[0]
        taken = (step + 1).astype(ms.float32)
        correction = ops.sqrt(1.0 - ops.pow(_number(self.beta2), taken))
        decay_scale = (1.0 - ops.pow(_number(self.beta1), taken)) / correction
        rate = ops.select(finite, self.learning_rates[step] / decay_scale, _number(0.0))
        beta1 = ops.select(finite, _number(self.beta1), _number(1.0))
        beta2 = ops.select(finite, _number(self.beta2), _number(1.0))
        epsilon = ADAM_EPSILON * correction
        scalars = (rate, beta1, beta2, epsilon, decay_scale)
        one = ops.partial(_apply_adam, self.apply_adam, scalars)
        settings = (self.decays, self.lr_factors)
        done = self.map(one, *settings, grads, self.parameters, self.first, self.second)
        return ops.depend(ops.assign_add(self.global_step, Tensor([1], ms.int32)), done)


def _number(value: float) -> Tensor:
    return Tensor(value, ms.float32)


def weight_decays(
    names: Sequence[str], weight_decay: float, bias_and_norm: bool = False
) -> List[float]:
    """The weight decay of each parameter: none on biases and BatchNorm unless `bias_and_norm`."""
    return [weight_decay if bias_and_norm or name.endswith(".weight") else 0.0 for name in names]


def build_optimizer(
    model: nn.Cell,
    learning_rates: Union[Sequence[float], np.ndarray],
    config: OptimizerConfig,
) -> Optimizer:
    """The configured optimiser over the trainable parameters of `model`.

    `learning_rates` are one per step of the whole run. `backbone_lr` is a factor on those of
    parameters called `backbone.`
    """
    parameters: List[Parameter] = model.trainable_params()
    names = [p.name for p in parameters]
    decays = weight_decays(names, config.weight_decay, config.decay_bias_and_norm)
    factors = [config.backbone_lr if name.startswith("backbone.") else 1.0 for name in names]
    common = (parameters, decays, learning_rates, config.momentum)
    if config.type == "AdamW":
        return AdamW(*common, config.beta2, lr_factors=factors)
    return SGD(*common, config.dampening, lr_factors=factors)


FIRST_LOSS_SCALE = 65536.0
LARGEST_LOSS_SCALE = 2.0**24
SMALLEST_LOSS_SCALE = 1.0


class DynamicLossScale:
    """Halved at each step that overflows, doubled after `window` good steps in a row.

    Args:
        scale: where it starts.
        window: good steps before it grows.
    """

    def __init__(self, scale: float = FIRST_LOSS_SCALE, window: int = 2000) -> None:
        self.scale = float(scale)
        self.window = window
        self._good = 0

    def update(self, finite: bool) -> bool:
        """To be called after each step; returns True if the scale has changed."""
        before = self.scale
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.scale = max(self.scale / 2, SMALLEST_LOSS_SCALE)
        elif self._good == self.window:
            self.scale, self._good = min(self.scale * 2, LARGEST_LOSS_SCALE), 0
        return self.scale != before

    def state(self) -> Dict[str, np.ndarray]:
        """What resuming needs, by name."""
        return {"loss_scale": np.array([self.scale, self._good], np.float32)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` gave."""
        self.scale, good = (float(value) for value in state["loss_scale"])
        self._good = int(good)
