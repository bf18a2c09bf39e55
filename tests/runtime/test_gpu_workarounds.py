# SPDX-License-Identifier: Apache-2.0
"""Numbers on a GPU, with what is known of MindSpore's kernels there modelled on the CPU."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.device_context.gpu import op_precision

from src.loss import MultiBoxLoss
from src.runtime import device as device_module
from src.training.optimizers import SGD, AdamW
from src.training.train_step import Update

pytestmark = pytest.mark.usefixtures("device")
CLIP, RATE, DECAY = 4.0, 0.1, 0.01
WEIGHTS = np.random.default_rng(0).normal(0, 1, (2, 40)).astype(np.float32)
DIRECTION = np.random.default_rng(1).normal(0, 1, (2, 40))
DIRECTION /= np.linalg.norm(DIRECTION)
SCALES = [2.0**power for power in range(0, 25, 4)]
NORMS = [10.0**power for power in range(-3, 7)]


def _product(x, y):
    return ops.select(ops.abs(y) < 2e-7, ops.zeros_like(x), x * y)


def gpu_mul_no_nan():
    """In the place of the operator: the GPU's kernel takes a small y for zero."""
    return _product


class Apply(nn.Cell):
    """An update by one gradient; returns its norm."""

    def __init__(self, optimizer, **settings):
        super().__init__(auto_prefix=False)
        self.update = Update(optimizer, CLIP, **settings)

    def construct(self, grad, scale):
        return self.update((grad,), scale, scale)


def clipped(norm):
    return DIRECTION * norm * min(CLIP / (norm + 1e-6), 1)


def sgd_by_hand(norms):
    w, v = WEIGHTS.astype(np.float64), 0.0
    for norm in norms:
        v = 0.9 * v + clipped(norm) + DECAY * w
        w = w - RATE * v
    return w, [v]


def adamw_by_hand(norms):
    w, m, v = WEIGHTS.astype(np.float64), 0.0, 0.0
    for t, norm in enumerate(norms, 1):
        m = 0.9 * m + 0.1 * clipped(norm)
        v = 0.999 * v + 0.001 * clipped(norm) ** 2
        unbiased = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - RATE * (unbiased + DECAY * w)
    return w, [m, v]


@pytest.mark.parametrize(("kind", "by_hand"), [(SGD, sgd_by_hand), (AdamW, adamw_by_hand)])
def test_the_update_follows_the_reference_at_every_loss_scale(kind, by_hand, monkeypatch):
    monkeypatch.setattr(ops, "MulNoNan", gpu_mul_no_nan)
    weight = Parameter(Tensor(WEIGHTS), name="w")
    optimizer = kind([weight], [DECAY], [RATE] * 2)
    update, state = Apply(optimizer), optimizer.state().values()
    begin = [(p, p.asnumpy().copy()) for p in (weight, *state)]
    for scale in SCALES:
        for norm in NORMS:
            for parameter, value in begin:
                parameter.set_data(Tensor(value))
            norms = (norm, norm / 3)
            for wanted in norms:
                grad = Tensor((DIRECTION * wanted * scale).astype(np.float32))
                found = update(grad, Tensor(scale, ms.float32))
                assert float(found.asnumpy()) == pytest.approx(wanted, rel=1e-5)
            expected = [by_hand(norms)[0], *by_hand(norms)[1]]
            for value, parameter in zip(expected, (weight, *list(state)[:-1])):
                bound = 2e-6 * np.abs(value).max()
                np.testing.assert_allclose(parameter.asnumpy(), value, rtol=1e-4, atol=bound)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_gradient_that_is_not_finite_changes_nothing(kind, monkeypatch):
    monkeypatch.setattr(ops, "MulNoNan", gpu_mul_no_nan)
    weight = Parameter(Tensor(WEIGHTS), name="w")
    optimizer = kind([weight], [DECAY], [RATE] * 4)
    update = Apply(optimizer)
    changing = [weight, *optimizer.state().values()][:-1]  # but for the number of the step
    update(Tensor(DIRECTION.astype(np.float32)), Tensor(1.0))
    before = [p.asnumpy().copy() for p in changing]
    for bad in (np.nan, np.inf, -np.inf):
        grad = DIRECTION.astype(np.float32)
        grad[1, 3] = bad
        assert not np.isfinite(update(Tensor(grad), Tensor(1.0)).asnumpy())
        for parameter, old in zip(changing, before):
            np.testing.assert_array_equal(parameter.asnumpy(), old)


def below_the_largest_float16(grads):
    """In the place of `amp.all_finite`: an overflow that has left no infinity."""
    return (ops.abs(grads[0]) < 65504).all()


def test_an_overflow_that_an_ascend_saturates_changes_nothing(monkeypatch):
    monkeypatch.setattr(ms.amp, "all_finite", below_the_largest_float16)
    weight = Parameter(Tensor(WEIGHTS), name="w")
    update = Apply(SGD([weight], [DECAY], [RATE] * 4), saturating=True)
    grad = DIRECTION.astype(np.float32)
    assert np.isfinite(update(Tensor(grad), Tensor(1.0)).asnumpy())
    before = weight.asnumpy().copy()
    assert np.abs(before - WEIGHTS).max() > 1e-3
    grad[1, 3] = 65504
    assert np.isnan(update(Tensor(grad), Tensor(1.0)).asnumpy())
    np.testing.assert_array_equal(weight.asnumpy(), before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_mining_sorts_finite_float32_and_the_loss_shows_what_is_not(bad, monkeypatch):
    """More than 4,096 values: there the GPU sorts with a TopK that does not end on others."""
    logits = np.zeros((1, 5000, 3), np.float32)
    labels = np.zeros((1, 5000), np.int32)
    logits[0, 4321, 0], labels[0, 7] = bad, 1
    criterion = MultiBoxLoss(3)
    zeros = np.zeros((1, 5000, 4), np.float32)
    _, loss = criterion(*map(Tensor, (zeros, logits, zeros, labels)))
    assert not np.isfinite(loss.asnumpy())
    seen = []
    sort = ops.sort
    monkeypatch.setattr(ops, "sort", lambda x, *rest: seen.append(x) or sort(x, *rest))
    entropy = criterion._cross_entropy(Tensor(logits), Tensor(labels))
    assert not np.isfinite(entropy.asnumpy()).all()
    chosen = criterion._mine(entropy, Tensor(labels > 0)).asnumpy()
    assert chosen[0, 4321]
    assert chosen.sum() == 3
    [sorted_] = seen
    assert sorted_.dtype == ms.float32
    assert np.isfinite(sorted_.asnumpy()).all()


def test_what_setup_device_sets_for_a_gpu(monkeypatch):
    told = {}
    monkeypatch.setattr(ms, "set_context", lambda **options: told.update(options))
    monkeypatch.setattr(ms, "set_device", lambda *words: None)
    monkeypatch.setattr(op_precision, "conv_allow_tf32", lambda value: told.update(tf32=value))
    monkeypatch.setattr(device_module.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(device_module, "open_cache", lambda *words: None)
    device_module.setup_device("CPU")
    assert "disable_format_transform" not in told
    device_module.setup_device("GPU")
    assert told["disable_format_transform"] is True
    assert told["tf32"] is False
    device_module.setup_device("GPU", allow_tf32=True)
    assert told["tf32"] is True


def test_without_a_driver_mindspore_is_not_asked(monkeypatch):
    """It would print two ERROR lines of its own before ours."""

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    asked = []
    monkeypatch.setattr(device_module.ctypes, "CDLL", missing)
    monkeypatch.setattr(ms, "set_device", lambda *words: asked.append(words))
    with pytest.raises(device_module.DeviceError, match=r"check_device.*libcuda\.so\.1"):
        device_module.setup_device("GPU")
    assert asked == []
