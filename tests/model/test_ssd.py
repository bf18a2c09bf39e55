# SPDX-License-Identifier: Apache-2.0
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.config import get_config
from src.model import build_model
from src.model.ssd import DeconvNeck, L2Norm, SSDNeck
from src.priors import build_priors, make_priors, ssd_feature_sizes
from src.runtime.typed_config import ConfigError

pytestmark = pytest.mark.usefixtures("device")


def maps(size, channels=(8, 16)):
    rng = np.random.default_rng(0)
    shapes = [(1, channels[0], size, size), (1, channels[1], (size + 1) // 2, (size + 1) // 2)]
    return [Tensor(rng.normal(size=shape), ms.float32) for shape in shapes]


def test_l2norm_gives_every_cell_length_20():
    x = np.random.default_rng(0).normal(size=(2, 6, 3, 4)).astype(np.float32)
    out = L2Norm(6)(Tensor(x)).asnumpy()
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 20, rtol=1e-5)
    np.testing.assert_allclose(out[0, :, 1, 2], 20 * x[0, :, 1, 2] / np.linalg.norm(x[0, :, 1, 2]))


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_l2norm_in_float16(level):
    """The squares of a vector longer than 256 are too large for float16."""
    x = np.zeros((1, 512, 1, 2), np.float32)
    x[0, :, 0, 0] = 30.0  # length 679; the other cell is 0
    net = ms.amp.auto_mixed_precision(L2Norm(512), level)
    out = net(Tensor(x)).asnumpy().astype(np.float32)
    assert np.linalg.norm(out[0, :, 0, 0]) == pytest.approx(20, rel=2e-3)
    assert not out[0, :, 0, 1].any()


def test_steps_down_are_those_of_figure_2():
    for sizes in ([38, 19, 10, 5, 3, 1], [64, 32, 16, 8, 6, 4]):
        convolutions = [extra[2] for extra in SSDNeck((8, 16), sizes).extras]
        assert [(c.stride[0], c.padding) for c in convolutions] == [(2, 1), (2, 1), (1, 0), (1, 0)]


@pytest.mark.parametrize("sizes", [[38, 19, 10, 5, 3, 1], [40, 20, 10, 5, 3, 1]])
def test_map_sizes(sizes):
    inputs = maps(sizes[0])
    plain = SSDNeck((8, 16), sizes)
    assert [m.shape[1:] for m in plain(*inputs)] == [
        (c, s, s) for c, s in zip((8, 16, 512, 256, 256, 256), sizes)
    ]
    deconv = DeconvNeck((8, 16), sizes, planes=32)
    assert [m.shape[1:] for m in deconv(*inputs)] == [(32, s, s) for s in sizes]


def test_ssd300_has_the_parameters_of_the_pytorch_one():
    """Reduced VGG 20,483,904 weights; the rest by hand from the layers of figure 2."""
    extras = 0
    channels = 1024
    for squeezed, cout in ((256, 512), (128, 256), (128, 256), (128, 256)):
        extras += channels * squeezed + squeezed + squeezed * 9 * cout + cout
        channels = cout
    outputs = zip((512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4))
    heads = sum((c * 9 + 1) * boxes * (4 + 21) for c, boxes in outputs)
    net = build_model(get_config("ssd300_vgg16", ["model.num_classes=21"]))
    count = sum(int(np.prod(p.shape)) for p in net.trainable_params())
    assert count == 20_483_904 + extras + 512 + heads
    assert count == 26_285_486  # published for VOC


@pytest.mark.parametrize("neck", ["ssd", "deconv"])
def test_outputs_fit_the_priors_at_another_size(neck):
    sizes = [40, 20, 10, 5, 3, 1] if neck == "ssd" else [48, 24, 12, 6, 4, 2]
    necks = {"ssd": SSDNeck, "deconv": DeconvNeck}
    net = necks[neck]((8, 16), sizes, *([32] if neck == "deconv" else []))
    assert [m.shape[-1] for m in net(*maps(64))] == ssd_feature_sizes(512)
    config = get_config(f"{neck}320_vgg16", ["data.multi_scale=320,352"])
    if neck == "deconv":  # 44 cells are twice 22, but 11 not twice 5
        with pytest.raises(ConfigError, match="352 does not work: its deconvolutions"):
            build_priors(config, 352)
    else:
        assert len(build_priors(config, 352)) == 6 * sum(s * s for s in ssd_feature_sizes(352))


@pytest.mark.parametrize("neck", ["ssd", "deconv"])
def test_outputs_fit_the_priors(neck):
    overrides = [f"model.neck={neck}", "model.input_size=264", "model.planes=32"]
    config = get_config("m2det_tiny", overrides)
    net = build_model(config).set_train(False)
    loc, logits = net(Tensor(np.ones((1, 3, 264, 264), np.float32)))
    assert loc.shape == (1, len(make_priors(config)), 4)
    assert logits.shape == (1, len(make_priors(config)), 81)
