# SPDX-License-Identifier: Apache-2.0
"""Priors at several input sizes."""

import numpy as np
import pytest

from src.config import ConfigError, get_config
from src.inference.detector import ArrayDetector
from src.priors import build_priors, make_priors, resized_priors
from src.training import builders


def test_shapes_stay_and_grids_follow_the_size():
    config = get_config("m2det320_vgg16", ["data.multi_scale=320,352"])
    tables = {size: build_priors(config, size) for size in (320, 352)}
    np.testing.assert_array_equal(tables[320], make_priors(config))
    # Maps of 352: 44 22 11 6 3 1 cells, six priors each.
    assert tables[352].shape == ((44**2 + 22**2 + 11**2 + 6**2 + 3**2 + 1) * 6, 4)
    assert {tuple(row) for row in tables[352][:, 2:]} == {tuple(row) for row in tables[320][:, 2:]}
    # The second cell of the first row, and the first of the second.
    np.testing.assert_allclose(tables[352][6, :2], [1.5 / 44, 0.5 / 44])
    np.testing.assert_allclose(tables[352][44 * 6, :2], [0.5 / 44, 1.5 / 44])


def test_by_hand_for_one_map():
    priors = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    expected = [[x, y, 0.2, 0.4] for y in (0.25, 0.75) for x in (0.25, 0.75)]
    np.testing.assert_allclose(resized_priors(priors, [1], [1], [2]), expected)


@pytest.mark.parametrize("size", [250, 256])  # no multiple of 16; five maps instead of six
def test_unusable_sizes_are_named(size):
    config = get_config("m2det320_vgg16", [f"data.multi_scale={size}"])
    with pytest.raises(ConfigError, match=f"data.multi_scale: {size} does not work"):
        build_priors(config, size)


def test_training_and_detecting_match_with_the_same_priors(monkeypatch):
    """512 has a table of its own, with another first scale, which neither may take here."""
    config = get_config("m2det320_vgg16", ["data.multi_scale=320,512", "test.multi_scale=512"])
    handed = {}
    monkeypatch.setattr(builders, "SampleStream", lambda *parts, **_: handed.update(parts[1]))
    monkeypatch.setattr(builders, "build_train_dataset", lambda *_: None)
    monkeypatch.setattr(builders, "batches", lambda _: None)
    builders.build_batches(config, None, 0, 1, 0, 1)
    detector = ArrayDetector.from_network(None, config, None, "a test")
    np.testing.assert_array_equal(handed[512], detector._by_size[512].priors)
    np.testing.assert_array_equal(handed[320], detector._by_size[320].priors)
