# SPDX-License-Identifier: Apache-2.0
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.config import get_config
from src.model import build_model
from src.model.head import MultiBoxHead
from src.model.mlfpn import SFAM, TUM
from src.priors import make_priors

pytestmark = pytest.mark.usefixtures("device")


def count(net):
    return sum(int(np.prod(p.shape)) for p in net.trainable_params())


@pytest.mark.parametrize(("sfam", "expected"), [("false", 132_633_140), ("true", 133_159_604)])
def test_parameters_of_the_published_network(sfam, expected):
    assert count(build_model(get_config("m2det320_vgg16", [f"model.sfam={sfam}"]))) == expected


def images(batch, size):
    return Tensor(np.random.default_rng(0).uniform(-120, 130, (batch, 3, size, size)), ms.float32)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.num_levels=3", "model.num_scales=3", "model.planes=32", "model.sfam=false"],
        ["model.num_levels=1", "model.smooth=false", "model.num_classes=2"],
        ["model.shared_squeeze=false", "model.shared_sfam=false", "model.upsample=bilinear"],
        ["model.base_feature=first", "model.input_size=64"],
    ],
    ids=lambda overrides: ",".join(o.split(".")[1] for o in overrides) or "preset",
)
def test_outputs_fit_the_priors(overrides):
    config = get_config("m2det_tiny", overrides)
    net = build_model(config).set_train(False)
    loc, logits = net(images(2, config.model.input_size))
    priors = len(make_priors(config))
    assert loc.shape == (2, priors, 4)
    assert logits.shape == (2, priors, config.model.num_classes)
    assert np.isfinite(loc.asnumpy()).all()


def test_options_change_the_number_of_parameters_as_counted_by_hand():
    """D 64, L 2, K 4: a squeeze is 768 x 32 and a BatchNorm, an SFAM pair 128-8-128."""
    base = count(build_model(get_config("m2det_tiny")))
    squeeze, pair = 768 * 32 + 2 * 32, 128 * 8 + 8 + 8 * 128 + 128
    smoothing = 3 * (64 * 64 + 2 * 64)  # of one TUM
    changes = {
        "model.shared_squeeze=false": squeeze,
        "model.shared_sfam=false": 3 * pair,
        "model.sfam=false": -pair,
        "model.smooth=false": -2 * smoothing,
        # the second TUM loses the 32 squeezed channels of two 3x3 convolutions
        "model.base_feature=first": -2 * 9 * 32 * 64,
        "model.num_classes=91": (91 - 81) * 4 * 6 * (128 * 9 + 1),
    }
    for override, difference in changes.items():
        assert count(build_model(get_config("m2det_tiny", [override]))) - base == difference


def test_tum_maps_run_from_small_to_large():
    tum = TUM(8, 16, 5).set_train(False)
    maps = tum(Tensor(np.ones((1, 8, 40, 40), np.float32)))
    assert [m.shape for m in maps] == [(1, 16, s, s) for s in (3, 5, 10, 20, 40)]


def test_sfam_scales_channels_by_a_hand_worked_gate():
    """One scale of 16 channels: with zero weights the gate is the sigmoid of the second bias."""
    sfam = SFAM(16, 1)
    for p in sfam.get_parameters():
        p.set_data(Tensor(np.zeros(p.shape, np.float32)))
    sfam.fc2[0].bias.set_data(Tensor(np.linspace(-2, 2, 16, dtype=np.float32)))
    x = np.random.default_rng(0).normal(size=(2, 16, 3, 3)).astype(np.float32)
    (out,) = sfam((Tensor(x),))
    gate = 1 / (1 + np.exp(-np.linspace(-2, 2, 16)))
    np.testing.assert_allclose(out.asnumpy(), x * gate[None, :, None, None], rtol=1e-5)


@pytest.mark.parametrize("side", [2, 20])
def test_head_rows_are_ordered_like_the_priors(side):
    """Biases number the boxes of a cell; a weight on the centre tap copies the cell's own value."""
    head = MultiBoxHead([1], [2], 3)
    head.loc[0].bias.set_data(Tensor(np.arange(8, dtype=np.float32)))
    head.loc[0].weight.set_data(Tensor(np.zeros((8, 1, 3, 3), np.float32)))
    head.conf[0].bias.set_data(Tensor(np.arange(6, dtype=np.float32)))
    kernel = np.zeros((6, 1, 3, 3), np.float32)
    kernel[:, 0, 1, 1] = 1
    head.conf[0].weight.set_data(Tensor(kernel))
    cells = 100 * np.arange(1, side**2 + 1, dtype=np.float32)
    loc, logits = head((Tensor(cells.reshape(1, 1, side, side)),))
    np.testing.assert_array_equal(loc.asnumpy()[0], [[0, 1, 2, 3], [4, 5, 6, 7]] * side**2)
    expected = [[c + 3 * n + k for k in range(3)] for c in cells for n in range(2)]
    np.testing.assert_array_equal(logits.asnumpy()[0], expected)


def test_a_fresh_head_starts_small():
    net = build_model(get_config("m2det_tiny"))
    for conv in [*net.head.loc, *net.head.conf]:
        assert conv.weight.asnumpy().std() == pytest.approx(0.01, rel=0.1)
        assert not conv.bias.asnumpy().any()
