# SPDX-License-Identifier: Apache-2.0
"""The figure of docs/how-m2det-works.md has the channels and sizes of the network."""

import mindspore as ms
import numpy as np
import pytest

from docs.make_figure import PICTURE, PRESET, picture, shapes
from src.config import get_config
from src.model import build_model


def test_shapes_are_those_of_the_network(device):
    """m2det_tiny, part by part."""
    config = get_config("m2det_tiny")
    drawn, net = shapes(config), build_model(config).set_train(False)
    channels, side = drawn.image
    images = ms.Tensor(np.zeros((1, channels, side, side)), ms.float32)
    shallow, deep = net.backbone(images)
    base = net.neck.fuse(shallow, deep)
    squeezed = net.neck.squeeze[0](base)
    levels = [squeezed, net.neck.tums[0](squeezed)[-1]]
    levels[1] = ms.ops.cat((squeezed, levels[1]), 1)
    outputs = [tum(x) for tum, x in zip(net.neck.tums, levels)]
    pyramid = net.neck(shallow, deep)
    loc, logits = net.head(pyramid)

    def built(maps):
        return [(m.shape[1], m.shape[2]) for m in maps]

    assert [drawn.shallow, drawn.deep, drawn.base] == built([shallow, deep, base])
    assert drawn.tum_inputs == built(levels)
    assert all(drawn.tum_outputs == built(maps)[::-1] for maps in outputs)
    assert drawn.pyramid == built(pyramid)
    priors = sum(size**2 * n for (_, size), n in zip(drawn.pyramid, drawn.priors_per_cell))
    assert loc.shape == (1, priors, 4)
    assert logits.shape == (1, priors, drawn.num_classes)


def test_shapes_of_the_published_network():
    """Zhao et al., section 3, and the official code's configuration for 320 pixels."""
    drawn = shapes(get_config(PRESET))
    assert (drawn.shallow, drawn.deep, drawn.base) == ((512, 40), (1024, 20), (768, 40))
    assert drawn.tum_inputs == [(128, 40)] + [(384, 40)] * 7
    assert drawn.tum_outputs == [(256, side) for side in (40, 20, 10, 5, 3, 1)]
    assert drawn.pyramid == [(2048, side) for side in (40, 20, 10, 5, 3, 1)]
    assert drawn.priors_per_cell == [6] * 6


@pytest.mark.parametrize("preset", [PRESET, "m2det_tiny", "m2det_small"])
def test_every_preset_can_be_drawn(preset):
    config = get_config(preset)
    svg = picture(config, config.model.backbone)
    assert svg.count(b"<svg") == 1
    assert svg == picture(config, config.model.backbone)  # the same file each time


def test_the_picture_in_the_repository_is_an_svg_that_fits():
    assert b"</svg>" in PICTURE.read_bytes()
    assert PICTURE.stat().st_size < 200_000
