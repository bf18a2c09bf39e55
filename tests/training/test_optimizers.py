# SPDX-License-Identifier: Apache-2.0
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.training.optimizers import SGD, AdamW, weight_decays

pytestmark = pytest.mark.usefixtures("device")
RATES = [0.1, 0.05, 0.2, 0.1, 0.1]
GRADS = np.random.default_rng(0).normal(0, 1, (5, 3)).astype(np.float32)
START = np.array([1.0, -2.0, 0.5], np.float32)


def by_loop_sgd(momentum, dampening, decay):
    w, v = START.astype(np.float64), np.zeros(3)
    for step, (rate, grad) in enumerate(zip(RATES, GRADS)):
        share = 1 if step == 0 else 1 - dampening
        v = momentum * v + share * (grad + decay * w)
        w = w - rate * v
    return w


def by_loop_adamw(beta1, beta2, decay):
    w, m, v = START.astype(np.float64), np.zeros(3), np.zeros(3)
    for step, (rate, grad) in enumerate(zip(RATES, GRADS), 1):
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad.astype(np.float64) ** 2
        unbiased = m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + 1e-8)
        w = w - rate * (unbiased + decay * w)
    return w


def run(kind, decay, *options, bad_before=None):
    """The optimiser after all steps, with one to be skipped before step number `bad_before`."""
    weight = Parameter(Tensor(START), name="x.weight")
    optimizer = kind([weight], [decay], RATES, *options)
    for step, grad in enumerate(GRADS):
        if step == bad_before:
            before = [p.asnumpy().copy() for p in (weight, *optimizer.state().values())]
            optimizer((Tensor(np.zeros(3, np.float32)),), Tensor(False))
            after = [p.asnumpy() for p in (weight, *optimizer.state().values())]
            for old, new in zip(before[:-1], after[:-1]):
                np.testing.assert_array_equal(old, new)
            assert after[-1] == before[-1] + 1  # the schedule goes on
            optimizer.global_step.set_data(Tensor([step], ms.int32))
        optimizer((Tensor(grad),), Tensor(True))
    return weight.asnumpy()


@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_sgd(dampening):
    found = run(SGD, 0.1, 0.9, dampening, bad_before=3)
    np.testing.assert_allclose(found, by_loop_sgd(0.9, dampening, 0.1), rtol=1e-5)


def test_adamw():
    found = run(AdamW, 0.1, 0.9, 0.99, bad_before=3)
    np.testing.assert_allclose(found, by_loop_adamw(0.9, 0.99, 0.1), rtol=1e-5)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_factor_on_the_learning_rate_is_a_smaller_rate(kind):
    """Two weights, one with a tenth of the rate: it ends where a tenth of all rates ends."""
    names = ("backbone.weight", "head.weight")
    weights = [Parameter(Tensor(START), name=name) for name in names]
    both = kind(weights, [0.1, 0.1], RATES, lr_factors=[0.1, 1.0])
    slow = Parameter(Tensor(START), name="slow.weight")
    alone = kind([slow], [0.1], [rate / 10 for rate in RATES])
    for grad in GRADS:
        both((Tensor(grad), Tensor(grad)), Tensor(True))
        alone((Tensor(grad),), Tensor(True))
    np.testing.assert_allclose(weights[0].asnumpy(), slow.asnumpy(), rtol=1e-6)
    assert np.abs(weights[1].asnumpy() - slow.asnumpy()).max() > 0.01


def test_state_names_everything_that_changes():
    weight = Parameter(Tensor(START), name="x.weight")
    assert set(SGD([weight], [0], RATES).state()) == {"moments.x.weight", "global_step"}
    expected = {"moment1.x.weight", "moment2.x.weight", "global_step"}
    assert set(AdamW([weight], [0], RATES).state()) == expected


def test_biases_and_norms_are_not_decayed():
    names = ["a.weight", "a.bias", "bn.gamma", "bn.beta"]
    assert weight_decays(names, 0.5) == [0.5, 0, 0, 0]
    assert weight_decays(names, 0.5, bias_and_norm=True) == [0.5] * 4
