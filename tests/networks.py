# SPDX-License-Identifier: Apache-2.0
"""MindSpore networks with the weights of the PyTorch reference or of `../shared/golden`."""

import golden_values as golden
import mindspore as ms
import numpy as np
import reference_torch as ref
from mindspore.nn.utils import no_init_parameters

from src.config import get_config
from src.formats.pytorch_config import choose_config, layout_of
from src.formats.pytorch_keys import find_model
from src.formats.pytorch_weights import from_official
from src.model import build_model

SMALL = {"backbone": "resnet18", "input_size": 128, "num_classes": 5, "planes": 32, "num_levels": 2}


def network(state, config):
    """The MindSpore network with the weights of an official state dict of arrays, frozen."""
    with no_init_parameters():
        net = build_model(config)
    parameters = net.parameters_dict()
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    converted = from_official(state, shapes, layout_of(config.model).official_keys)
    for name, parameter in parameters.items():
        parameter.set_data(ms.Tensor(converted.weights[name]))
    net.set_train(False)
    return net


def arrays(reference):
    return {key: value.detach().numpy().copy() for key, value in reference.state_dict().items()}


def pair(seed=0, **options):
    """The PyTorch reference with random weights and the MindSpore network with the same."""
    options = {**SMALL, **options}
    reference = ref.randomise(ref.M2Det(**options), seed).eval()
    overrides = [f"model.{key}={str(value).lower()}" for key, value in options.items()]
    config = get_config("m2det320_vgg16", overrides)
    return reference, network(arrays(reference), config)


def images_for(size, batch=1):
    return np.random.default_rng(7).normal(0, 60, (batch, 3, size, size)).astype(np.float32)


def golden_network(name):
    state = golden.state_dict(name)
    facts = find_model({key: values.shape for key, values in state.items()})
    config, _ = choose_config(facts, [golden.FOLDER / f"{name}.pth"])
    return network(state, config)
