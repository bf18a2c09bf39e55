# SPDX-License-Identifier: Apache-2.0
"""The original's recipe in PyTorch: settings, start, and weights that eval.py can read."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed, see requirements-dev.txt")

import mindspore as ms  # noqa: E402

import eval as eval_script  # noqa: E402
from benchmarks.peers import official_recipe  # noqa: E402
from benchmarks.studies import recipes  # noqa: E402
from src.config import get_config, override  # noqa: E402
from src.formats.checkpoint import resolve_config  # noqa: E402
from src.model import build_model  # noqa: E402
from src.training.run_log import read_log  # noqa: E402
from tests.datasets import rendered  # noqa: E402

SMALL = ["model.input_size=64", "model.planes=32", "model.num_scales=3", "train.per_batch_size=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return rendered(tmp_path_factory, 5, 2)


@pytest.fixture(scope="module")
def run(root, device, tmp_path_factory):
    """Folder of a run of six steps, and the PyTorch network it ended with."""
    output = tmp_path_factory.mktemp("official")
    kept, build = [], official_recipe.build_network

    def keep(*arguments):
        kept.append(build(*arguments))
        return kept[-1]

    flags = [word for text in SMALL for word in ("--set", text)]
    flags += ["--steps", "6", "--log_interval", "2", "--set", "train.eval_epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(official_recipe, "build_network", keep)
        official_recipe.main(["--dataset_path", str(root), "--output", str(output), *flags])
    return output / "m2det_tiny_official", kept[0]


def small_config(*overrides):
    return override(official_recipe.official(get_config("m2det_tiny")), [*SMALL, *overrides])


def test_settings():
    changes = ["test.score_threshold=0.02", "anchors.scales=0.1,0.2", "train.accumulate=3"]
    ours = get_config("m2det_tiny", changes)
    found = official_recipe.official(ours)
    for name in official_recipe.NETWORK_OPTIONS:
        assert getattr(found.model, name) == getattr(ours.model, name)
    assert (found.train.per_batch_size, found.train.accumulate) == (24, 1)  # one step of ours
    assert found.test == ours.test
    assert found.anchors.scales == ()
    assert (found.data.max_expand_ratio, found.data.crop_prob) == (4.0, 1.0)
    assert found.data.random_interpolation
    assert (found.optimizer.type, found.optimizer.momentum) == ("SGD", 0.9)
    assert (found.optimizer.weight_decay, found.optimizer.clip_grad_norm) == (5e-4, 0.0)
    assert (found.train.lr, found.train.ema, found.train.schedule) == (0.004, 0.0, "step")
    with pytest.raises(ValueError, match="neck=ssd"):
        official_recipe.official(get_config("ssd320_vgg16"))


def test_schedule_of_a_short_run():
    """32 epochs of 10 steps: a fifth of the official 160, so every boundary is at a fifth of its
    epoch.
    """
    rates = official_recipe.schedule(small_config(), 320)
    expected = {
        0: 1e-6,
        5: 1e-6 + 0.5 * (0.004 - 1e-6),  # half of the warm-up, which is one epoch
        10: 0.004,
        179: 0.004,
        180: 0.002,  # 90 / 5 = 18 epochs
        219: 0.002,
        220: 0.0004,  # 22
        260: 0.00004,  # 26
        300: 0.000004,  # 30
        319: 0.000004,
    }
    assert {step: pytest.approx(rates[step], rel=1e-5) for step in expected} == expected


@pytest.mark.parametrize("heads", ["official", "kaiming"])
def test_starting_weights(heads):
    config = small_config("model.num_classes=4")
    net = official_recipe.build_network(config, heads == "kaiming")
    state = net.state_dict()
    # 3x3 convolutions: variance 2 / (9 outputs)
    for name in ("unet1.layers.0.conv", "reduce.conv", "base.layer3.1.conv2"):
        weight = state[f"{name}.weight"]
        expected = math.sqrt(2 / (9 * weight.shape[0]))
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
    assert state["up_reduce.conv.weight"].std().item() == pytest.approx(
        math.sqrt(2 / 512), rel=0.05
    )
    for name in ("loc.0", "conf.1"):
        weight = state[f"{name}.weight"]
        assert not state[f"{name}.bias"].any()
        fan_in, fan_out = 9 * weight.shape[1], 9 * weight.shape[0]
        if heads == "official":  # uniform within 1 / sqrt(fan in)
            assert weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.01)
            assert weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
        else:
            assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


def test_starts_from_a_backbone_of_convert_py(device, tmp_path):
    config = small_config("model.num_classes=3")
    donor = build_model(config)
    path = tmp_path / "backbone.ckpt"
    ms.save_checkpoint(donor.backbone, str(path))
    net = official_recipe.build_network(config)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    official_recipe.Twin(net, config).load_backbone(path)
    after = net.state_dict()
    trained = {k for k, v in after.items() if v.dim() == 4 and not torch.equal(v, before[k])}
    assert trained == {k for k, v in after.items() if v.dim() == 4 and k.startswith("base.")}
    first = donor.backbone.stem.conv1.weight.asnumpy()
    assert np.array_equal(after["base.conv1.weight"].numpy(), first)
    assert {m.training for m in net.base.modules()} == {False}
    assert net.unet1.training


def test_one_step_by_hand(device):
    """Weight decay reaches biases and BatchNorm; nothing is clipped; the rate is the schedule's."""
    config = small_config("model.num_classes=3")
    net = official_recipe.build_network(config).eval()  # statistics that stay, so losses agree
    rng = np.random.default_rng(0)
    images = rng.normal(0, 60, (2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        priors = net(torch.from_numpy(images))[0].shape[1]
    labels = np.zeros((2, priors), np.int32)
    labels[:, ::40] = 2
    loc = rng.normal(0, 1, (2, priors, 4)).astype(np.float32)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    step = official_recipe.TorchStep(net, config, np.array([0.5, 0.1]))
    tensors = [ms.Tensor(part) for part in (images, loc, labels, np.float32(0))]
    values = step(*tensors)
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients.values()))
    assert values[2] == pytest.approx(norm, rel=1e-4)
    assert values[3] == (labels > 0).sum()
    for name in ("Norm.weight", "conf.0.bias", "unet1.layers.0.conv.weight"):
        wanted = before[name] - 0.5 * (gradients[name] + 5e-4 * before[name])
        torch.testing.assert_close(dict(net.named_parameters())[name].detach(), wanted)


def test_log(run):
    rows = read_log(run[0])
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 4, 6]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in losses)
    # 5 images in batches of 2: epochs end in the 3rd and 5th step; the last step is scored too
    assert [row["step"] for row in rows if "AP50" in row] == [3, 5, 6]


def test_converted_weights(run):
    folder, source = run
    path = folder / "resnet18_64-final.ckpt"
    config = resolve_config(None, [], path)
    assert config.model.num_classes == 4
    twin = official_recipe.Twin(source, config)
    from src.formats.checkpoint import load_weights

    load_weights(twin.cell, path)  # what the file holds, not what the network does now
    twin.cell.set_train(False)
    images = np.random.default_rng(1).normal(0, 60, (2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = [part.numpy() for part in source.eval()(torch.from_numpy(images))]
    found = [part.asnumpy() for part in twin.cell(ms.Tensor(images))]
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def test_figure(run, root, tmp_path, capsys):
    folder = run[0]
    path = folder / "resnet18_64-final.ckpt"
    flags = ["--checkpoint_path", str(path), "--dataset_path", str(root), "--output", str(folder)]
    numbers = eval_script.main(flags)
    capsys.readouterr()
    recipes.main([f"a={folder}", f"b={folder}", "--output", str(tmp_path / "both.png")])
    text = capsys.readouterr().out
    assert f"| a | 6 | {read_log(folder)[-2]['loss']:.3f} | {numbers['AP']:.3f} |" in text
    assert (tmp_path / "both.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, not 0"),
        (["--dataset_path", "/no/such"], "/no/such"),
        (["--config", "no"], "unknown config 'no'"),
        (["--set", "anchors.ratios=[[2]]"], "six|6 priors a cell"),
    ],
)
def test_bad_input(root, device, tmp_path, flags, message):
    with pytest.raises((ValueError, OSError), match=message):
        official_recipe.main(["--dataset_path", str(root), "--output", str(tmp_path), *flags])


def test_runs_that_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match=r"log\.jsonl: no steps in it"):
        recipes.main([str(tmp_path)])
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metrics\.json: expected JSON with AP"):
        recipes.main([str(tmp_path), "--output", str(tmp_path / "x.png")])
