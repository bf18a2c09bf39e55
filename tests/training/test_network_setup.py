# SPDX-License-Identifier: Apache-2.0
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters

from src.model.backbones import build_backbone
from src.runtime.collectives import share_weights
from src.training.network_setup import (
    SyncBatchNorm,
    freeze,
    running_statistics,
    synchronise_batch_norm,
    use_float16,
)

pytestmark = pytest.mark.usefixtures("device")


def block():
    return nn.SequentialCell(nn.Conv2d(3, 4, 1, has_bias=True), nn.BatchNorm2d(4), nn.ReLU())


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.backbone = block()
        self.head = nn.Conv2d(4, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def construct(self, x):
        return self.norm(self.head(self.backbone(x)))


class Cubes(nn.Cell):
    def __init__(self, net):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, x):
        return (self.net(x) ** 3).sum()


def trainable(net):
    return sorted(p.name for p in net.trainable_params())


HEAD = ["head.weight", "norm.beta", "norm.gamma"]
BACKBONE = ["backbone.0.bias", "backbone.0.weight"]
BACKBONE_NORM = ["backbone.1.beta", "backbone.1.gamma"]


@pytest.mark.parametrize(
    ("backbone", "batch_norm", "expected", "moving"),
    [
        (False, "none", [*BACKBONE, *BACKBONE_NORM, *HEAD], ["backbone.1", "norm"]),
        (True, "none", HEAD, ["norm"]),
        (False, "backbone", [*BACKBONE, *HEAD], ["norm"]),
        (False, "all", [*BACKBONE, "head.weight"], []),
        (True, "all", ["head.weight"], []),
    ],
)
def test_what_is_left_to_train(backbone, batch_norm, expected, moving):
    net = Net()
    freeze(net, backbone, batch_norm)
    assert trainable(net) == sorted(expected)
    names = [p.name for p in running_statistics(net)]
    assert names == [f"{n}.moving_{x}" for n in moving for x in ("mean", "variance")]


def test_first_parts_of_a_backbone_stay():
    net = Net()
    first, second = block(), block()
    net.backbone = nn.SequentialCell(first, second)
    net.backbone.parts = lambda: [first, second]
    freeze(net, parts=1)
    assert trainable(net) == sorted(
        [*(f"backbone.1.{n}" for n in ("0.bias", "0.weight", "1.beta", "1.gamma")), *HEAD]
    )
    names = [p.name for p in running_statistics(net)]
    assert [name for name in names if name.startswith("backbone.0")] == []
    assert len(names) == 4


@pytest.mark.parametrize(("name", "count"), [("vgg16", 5), ("resnet18", 5), ("resnet18_res4", 5)])
def test_parts_of_real_backbones_are_in_order(name, count):
    with no_init_parameters():
        backbone = build_backbone(name)
    parts = backbone.parts()
    names = [p.name for part in parts for p in part.get_parameters()]
    assert len(parts) == count
    own = [p.name for p in backbone.get_parameters()]
    assert names == own[: len(names)]
    assert all(name.startswith(("conv6", "conv7")) for name in own[len(names) :])


def test_frozen_batch_norm_normalises_by_its_statistics_in_training():
    norm = nn.BatchNorm2d(2)
    owner = nn.Cell()
    owner.backbone = nn.SequentialCell(norm)
    freeze(owner, batch_norm="all")
    norm.moving_mean.set_data(Tensor([1.0, 2.0], ms.float32))
    owner.set_train()
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    found = owner.backbone(Tensor(x)).asnumpy()
    np.testing.assert_allclose(found, x - np.array([1, 2]).reshape(1, 2, 1, 1), atol=1e-4)
    assert norm.moving_mean.asnumpy().tolist() == [1, 2]


def test_synchronised_batch_norm_on_one_rank_is_batch_norm(monkeypatch):
    monkeypatch.setattr(ops, "AllReduce", lambda op: nn.Identity())
    plain, changed = Net(), Net()
    names = dict(changed.parameters_dict())
    for name, parameter in plain.parameters_dict().items():
        names[name].set_data(Tensor(parameter.asnumpy()))
    synchronise_batch_norm(changed, 1)
    assert set(changed.parameters_dict()) == set(names)
    kinds = [type(c) for _, c in changed.cells_and_names() if isinstance(c, nn.BatchNorm2d)]
    assert kinds == [SyncBatchNorm] * 2
    x = Tensor(np.random.default_rng(0).normal(1, 2, (3, 3, 5, 5)).astype(np.float32))
    results = []
    for net in (plain, changed):
        net.set_train()
        gradient = ops.value_and_grad(Cubes(net), 0)
        results.append([value.asnumpy() for value in gradient(x)])
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-3)
    for name, parameter in plain.parameters_dict().items():
        found = changed.parameters_dict()[name].asnumpy()
        np.testing.assert_allclose(found, parameter.asnumpy(), rtol=1e-5, atol=1e-7, err_msg=name)


class Plus(nn.Cell):
    """An AllReduce over two ranks whose other one has sent `other`."""

    def __init__(self, other):
        super().__init__()
        self.other = Tensor(other, ms.float32)

    def construct(self, x):
        return x + self.other


class Weighted(nn.Cell):
    """sum(weight y), which has the gradient `weight`."""

    def __init__(self, net, weight):
        super().__init__(auto_prefix=False)
        self.net, self.weight = net, Tensor(weight, ms.float32)

    def construct(self, x):
        return (self.net(x).astype(ms.float32) * self.weight).sum()


def central_differences(function, at, step=1e-6):
    slopes = np.empty(at.shape)
    for place in np.ndindex(at.shape):
        value = at[place]
        at[place] = value + step
        above = function()
        at[place] = value - step
        slopes[place] = (above - function()) / (2 * step)
        at[place] = value
    return slopes


@pytest.mark.parametrize(("kind", "bound"), [(ms.float32, 1e-5), (ms.float16, 1e-2)])
def test_gradients_of_synchronised_batch_norm_over_two_ranks(monkeypatch, kind, bound):
    """Against differences, in float64, of the loss of both ranks together."""
    random = np.random.default_rng(0)
    x = random.normal((1, 5, -2), (2, 1, 3), (2, 3, 4, 2, 3)).transpose(0, 1, 4, 2, 3)
    x = x.astype(np.float16).astype(np.float64)
    weight = random.normal(size=x.shape)
    gamma, beta = random.normal(size=(2, 3))
    usual = random.normal(size=3)

    def column(values):
        return values.reshape(-1, 1, 1)

    def normal():
        mean, variance = x.mean((0, 1, 3, 4)), x.var((0, 1, 3, 4))
        return (x - column(mean)) / column(np.sqrt(variance + 1e-5))

    def loss():
        return (weight * (normal() * column(gamma) + column(beta))).sum()

    dx, dgamma, dbeta = (central_differences(loss, values) for values in (x, gamma, beta))
    found = []
    for rank in (0, 1):
        sent = x[1 - rank] - column(usual), weight[1 - rank], weight[1 - rank] * normal()[1 - rank]
        statistics = [values.mean((0, 2, 3)) for values in (sent[0], sent[0] ** 2)]
        gradients = [values.sum((0, 2, 3)) for values in sent[1:]]
        sums = iter([Plus(np.stack(statistics)), Plus(np.stack(gradients))])
        monkeypatch.setattr(ops, "AllReduce", lambda op, sums=sums: next(sums))
        norm = SyncBatchNorm(nn.BatchNorm2d(3), 2)
        for parameter, values in zip(
            (norm.gamma, norm.beta, norm.moving_mean), (gamma, beta, usual)
        ):
            parameter.set_data(Tensor(values, ms.float32))
        norm.set_train()
        gradient = ops.grad(Weighted(norm, weight[rank]), 0, [norm.gamma, norm.beta])
        found.append(gradient(Tensor(x[rank], kind)))
    for rank in (0, 1):
        assert found[rank][0].dtype == kind
        own = found[rank][0].asnumpy().astype(np.float64)
        np.testing.assert_allclose(own, dx[rank], rtol=0, atol=bound * np.abs(dx).max())
    for place, expected in enumerate((dgamma, dbeta)):
        total = sum(grads[1][place].asnumpy() for grads in found)
        np.testing.assert_allclose(total, expected, rtol=0, atol=bound * np.abs(expected).max())


def test_all_ranks_begin_with_the_weights_of_the_first(monkeypatch):
    first, second = Net(), Net()
    sent = []
    monkeypatch.setattr(ops, "AllReduce", lambda op: lambda x: sent.append(x) or x)
    share_weights(first, 0)
    values = iter([x.asnumpy() for x in sent])
    sum_of_two = lambda x: Tensor(x.asnumpy() + next(values))  # noqa: E731
    monkeypatch.setattr(ops, "AllReduce", lambda op: sum_of_two)
    share_weights(second, 1)
    for name, parameter in second.parameters_dict().items():
        np.testing.assert_array_equal(parameter.asnumpy(), first.parameters_dict()[name].asnumpy())


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_float16_keeps_parameters_and_their_names(level):
    net = Net()
    names = list(net.parameters_dict())
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    expected = net.set_train(False)(Tensor(x)).asnumpy()
    cell = use_float16(net, level)
    assert list(net.parameters_dict()) == names
    assert all(p.dtype == ms.float32 for p in net.get_parameters())
    found = cell.set_train(False)(Tensor(x)).asnumpy().astype(np.float32)
    assert 0 < np.abs(found - expected).max() < 0.02
    assert use_float16(net, "O0") is net
