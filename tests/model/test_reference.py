# SPDX-License-Identifier: Apache-2.0
"""The PyTorch reference against values of the official code, and counts worked out by hand."""

import golden_values as golden
import numpy as np
import pytest
import reference_torch as ref
import torch
from reference_backbones import VARIANTS


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads collapse when the other core is busy
    yield
    torch.set_num_threads(before)


def train_batch(stored):
    """Images (3, 3, 320, 320), encoded boxes and labels of the golden training batch: tensors."""
    priors = golden.arrays("priors_320")["priors"]
    targets = [
        ref.encode_targets(stored[f"truths_{i}"], stored[f"labels_{i}"], priors) for i in range(3)
    ]
    boxes, labels = (np.stack(parts) for parts in zip(*targets))
    images = golden.as_input(stored["images_bgr_u8"])
    return torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(labels)


@pytest.mark.parametrize("name", golden.FORWARD_CASES)
def test_schema(name):
    net = ref.skeleton(**golden.FORWARD_CASES[name])
    shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
    assert shapes == {key: shape for key, (shape, _) in golden.schema(name).items()}


def test_counts():
    plain, with_sfam = ref.skeleton(), ref.skeleton(sfam=True)
    assert sum(p.numel() for p in plain.parameters()) == 132_633_140
    assert sum(p.numel() for p in with_sfam.parameters()) == 133_159_604
    assert len(plain.state_dict()) == 887


@pytest.mark.parametrize("backbone", [*VARIANTS, "vgg16"])
def test_backbone_maps(backbone):
    net = ref.skeleton(backbone=backbone).base
    shallow, deep = net(torch.empty(1, 3, 128, 128, device="meta"))
    assert shallow.shape == (1, net.channels[0], 16, 16)
    assert deep.shape == (1, net.channels[1], 8, 8)


@pytest.mark.parametrize(
    ("size", "asked", "kept", "cells"),
    [
        (320, 6, 6, (40, 20, 10, 5, 3, 1)),
        (512, 6, 6, (64, 32, 16, 8, 4, 2)),
        (256, 6, 5, (32, 16, 8, 4, 2)),
        (128, 6, 4, (16, 8, 4, 2)),
        (320, 5, 5, (40, 20, 10, 5, 3)),
    ],
)
def test_scales_that_fit(size, asked, kept, cells):
    assert ref.fitting_scales(size, asked) == kept
    options = {"backbone": "resnet18", "planes": 16, "num_levels": 2}
    net = ref.skeleton(input_size=size, num_scales=asked, **options)
    loc, logits = net(torch.empty(1, 3, size, size, device="meta"))
    assert loc.shape == (1, 6 * sum(c * c for c in cells), 4)
    assert logits.shape == (*loc.shape[:2], 81)


@pytest.mark.parametrize("name", golden.FORWARD_CASES)
def test_forward(name):
    stored = golden.arrays(f"forward_{name}")
    net = ref.with_weights(golden.state_dict(name), **golden.FORWARD_CASES[name])
    with torch.no_grad():
        loc, logits = net(torch.from_numpy(golden.as_input(stored["image_bgr_u8"])))
    scale = np.abs(stored["loc"]).max()
    np.testing.assert_allclose(loc[0].numpy(), stored["loc"], rtol=0, atol=1e-4 * scale)
    probabilities = logits[0].softmax(1).numpy()[::7]
    np.testing.assert_allclose(probabilities, stored["conf_every_7th"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", golden.LOSS_CASES)
def test_loss(name):
    stored = golden.arrays(name)
    loc = torch.from_numpy(stored["loc"]).requires_grad_()
    logits = torch.from_numpy(stored["conf"]).requires_grad_()
    labels = torch.from_numpy(stored["conf_targets"]).long()
    losses = ref.multibox_loss(loc, logits, torch.from_numpy(stored["loc_targets"]), labels)
    expected = [float(stored["loss_l"]), float(stored["loss_c"])]
    np.testing.assert_allclose([x.item() for x in losses], expected, rtol=1e-5)
    sum(losses).backward()
    for found, wanted in ((loc.grad, stored["grad_loc"]), (logits.grad, stored["grad_conf"])):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("size", [320, 512])
def test_encode_targets(size):
    stored, priors = golden.arrays(f"match_{size}"), golden.arrays(f"priors_{size}")["priors"]
    for i in range(6):
        boxes, labels = ref.encode_targets(stored[f"{i}_truths"], stored[f"{i}_labels"], priors)
        np.testing.assert_array_equal(labels, stored[f"{i}_conf"])
        np.testing.assert_allclose(
            boxes[labels > 0], stored[f"{i}_loc_of_positives"], rtol=1e-4, atol=1e-5
        )


def test_loss_by_hand():
    """Two classes, one positive: three of the four negatives count, those with the low margins."""
    logits = torch.tensor([[[0.0, 0.0], [5.0, 0.0], [0.0, 1.0], [2.0, 0.0], [1.0, 0.0]]])
    loc = torch.tensor([[[0.5, 0.0, 3.0, 0.0]] + [[9.0] * 4] * 4])
    labels = torch.tensor([[1, 0, 0, 0, 0]])
    loss_l, loss_c = ref.multibox_loss(loc, logits, torch.zeros_like(loc), labels)
    assert loss_l.item() == pytest.approx(0.5 * 0.5**2 + (3 - 0.5))
    entropies = [np.log(2), np.log1p(np.exp(1)), np.log1p(np.exp(-2)), np.log1p(np.exp(-1))]
    assert loss_c.item() == pytest.approx(sum(entropies), rel=1e-6)


@pytest.mark.slow
def test_training_mode():
    stored = golden.arrays("train_vgg16_320_sfam")
    net = ref.with_weights(golden.state_dict("vgg16_320_sfam"), sfam=True).train().double()
    images, boxes, labels = train_batch(stored)
    with torch.no_grad():
        losses = ref.multibox_loss(*net(images.double()), boxes.double(), labels)
    # Batch statistics over 1x1 maps of three images amplify rounding. From float64, the stored
    # values are up to 7e-3 off (norms 2e-4), and float32 on two threads, or from weights nudged by
    # a rounding, as much.
    np.testing.assert_allclose(losses, stored["train_mode_loss_l_loss_c"], rtol=1.5e-2)
    state = net.state_dict()
    norms = [state[str(name)].norm().item() for name in stored["stat_names"]]
    np.testing.assert_allclose(norms, stored["stat_norms_after_one_train_forward"], rtol=5e-4)


@pytest.mark.slow
def test_training_steps():
    stored = golden.arrays("train_vgg16_320_sfam")
    net = ref.with_weights(golden.state_dict("vgg16_320_sfam"), sfam=True)
    seen = np.array(ref.train_steps(net, *train_batch(stored), steps=3))
    expected = stored["loss_l_loss_c_gradnorm"]
    np.testing.assert_allclose(seen[:, :2], expected[:, :2], rtol=golden.STEP_LOSSES_RTOL)
    for norm, wanted, rtol in zip(seen[:, 2], expected[:, 2], golden.STEP_NORMS_RTOL):
        assert norm == pytest.approx(wanted, rel=rtol)
    # The stored norms are torch's float32 sums, themselves up to 3e-4 off: compare like with like.
    norms = {name: p.detach().norm().item() for name, p in net.named_parameters()}
    assert set(norms) == set(stored["param_names"])
    found = [norms[name] for name in stored["param_names"]]
    np.testing.assert_allclose(found, stored["param_norms"], rtol=golden.PARAMETER_NORMS_RTOL)


def test_randomised_network_is_tame():
    net = ref.randomise(ref.M2Det("se_resnet50", 128, 5, planes=32, num_levels=2, sfam=True)).eval()
    images = torch.from_numpy(np.random.default_rng(0).normal(0, 60, (1, 3, 128, 128))).float()
    with torch.no_grad():
        loc, logits = net(images)
    assert 0.05 < loc.std() < 5
    assert 0.05 < logits.std() < 5
