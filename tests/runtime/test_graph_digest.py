# SPDX-License-Identifier: Apache-2.0
"""The digest of a cell: the same in every process, another one for whatever is in its graph."""

import subprocess
import sys
import threading
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from src.config import PRESETS, get_config
from src.model import build_model
from src.runtime.graph_cache.graph_digest import Unknown, graph_digest
from src.training.builders import build_schedule, build_step, prepare_network
from src.training.optimizers import build_optimizer

pytestmark = pytest.mark.usefixtures("device")
ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("model.input_size=64", "model.num_levels=1", "model.num_scales=3", "model.planes=32"),
    *("train.total_epochs=3", "optimizer.type=SGD", "optimizer.weight_decay=5e-5"),
)


def step_digest(*overrides, images=10, preset="m2det_tiny"):
    """Of the training step of a configuration, small unless it is another preset."""
    config = get_config(preset, (*SMALL, *overrides))
    model = build_model(config)
    prepare_network(config, model, 1)
    optimizer = build_optimizer(model, build_schedule(config, images, 1), config.optimizer)
    return graph_digest(build_step(config, model, optimizer, 1, 1.0)._step.cell, [])


@pytest.fixture(scope="module")
def usual():
    return step_digest()


CONSTANTS = [
    *("train.lr=0.002", "train.warmup=0.5", "train.total_epochs=4", "train.schedule=step"),
    *("train.per_batch_size=5", "train.empty_image_negatives=2", "train.amp_level=O2"),
    *("train.freeze_batch_norm=all", "train.freeze_backbone=true", "model.num_classes=5"),
    *("optimizer.clip_grad_norm=3", "optimizer.momentum=0.8", "optimizer.weight_decay=1e-4"),
    *("optimizer.dampening=0.1", "optimizer.type=AdamW", "optimizer.decay_bias_and_norm=true"),
    *("model.sfam=false", "model.upsample=bilinear", "model.smooth=false", "model.planes=48"),
]


@pytest.mark.parametrize("override", CONSTANTS)
def test_what_is_a_constant_of_the_graph_counts(usual, override):
    assert step_digest(override) != usual


def test_so_does_the_number_of_images(usual):
    assert step_digest(images=40) != usual


@pytest.mark.parametrize(
    "override", ["random_seed=5", "test.iou=0.4", "train.keep_checkpoints=2", "data.mosaic=0.5"]
)
def test_what_is_not_in_the_graph_does_not(usual, override):
    assert step_digest(override) == usual


def test_another_process_finds_the_same(usual):
    code = "import test_graph_digest as t; t.ms.set_context(mode=0); print(t.step_digest())"
    folders = [str(ROOT), str(Path(__file__).parent)]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {folders}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[-1] == usual


def test_a_network_that_has_been_called_is_the_same():
    net = nn.SequentialCell(nn.Conv2d(3, 4, 3, weight_init="ones"), nn.BatchNorm2d(4))
    net.set_train(False)
    x = Tensor(np.ones((1, 3, 8, 8), np.float32))
    before = graph_digest(net, [x])
    net(x)
    assert graph_digest(net, [x]) == before
    assert graph_digest(net, [Tensor(np.ones((2, 3, 8, 8), np.float32))]) != before
    assert graph_digest(net, [x.astype(ms.float16)]) != before
    net.set_train(True)
    assert graph_digest(net, [x]) != before


@pytest.mark.parametrize("preset", ["m2det_tiny", "ssd300_vgg16"])
def test_every_kind_of_network_can_be_described(preset):
    assert preset in PRESETS
    net = build_model(get_config(preset))
    assert graph_digest(net, []) == graph_digest(net, [])


class Holder(nn.Cell):
    """Holds anything."""

    def __init__(self, value):
        super().__init__()
        self.value = value


def test_values_of_constants_count_and_those_of_parameters_do_not():
    assert graph_digest(Holder(Tensor([1.0])), []) != graph_digest(Holder(Tensor([2.0])), [])
    assert graph_digest(Holder(np.arange(3)), []) != graph_digest(Holder(np.arange(1, 4)), [])
    one, two = (Parameter(Tensor([x]), "p") for x in (1.0, 2.0))
    assert graph_digest(Holder(one), []) == graph_digest(Holder(two), [])
    other = Parameter(Tensor([1.0]), "q")
    assert graph_digest(Holder(one), []) != graph_digest(Holder(other), [])
    fixed = Parameter(Tensor([1.0]), "p", requires_grad=False)
    assert graph_digest(Holder(one), []) != graph_digest(Holder(fixed), [])


def test_numbers_and_functions_count():
    def scaled(factor):
        return lambda x: x * factor

    assert graph_digest(Holder(1), []) != graph_digest(Holder(1.0), [])
    assert graph_digest(Holder(True), []) != graph_digest(Holder(1), [])
    assert graph_digest(Holder(scaled(2)), []) != graph_digest(Holder(scaled(3)), [])
    assert graph_digest(Holder((1, (2, 3))), []) != graph_digest(Holder(((1, 2), 3)), [])


def test_what_is_not_understood_is_refused():
    with pytest.raises(Unknown, match="lock"):
        graph_digest(Holder(threading.Lock()), [])
