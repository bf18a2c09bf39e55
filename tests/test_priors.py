# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from src.config import get_config
from src.priors import derived_table, feature_sizes, make_priors, prior_boxes, ssd_feature_sizes


@pytest.mark.parametrize(
    ("input_size", "num_scales", "expected"),
    [
        (320, 6, [40, 20, 10, 5, 3, 1]),
        (512, 6, [64, 32, 16, 8, 4, 2]),
        (704, 6, [88, 44, 22, 11, 6, 4]),
        (800, 6, [100, 50, 25, 13, 7, 5]),
        (1024, 6, [128, 64, 32, 16, 8, 6]),
        (320, 5, [40, 20, 10, 5, 3]),
        (256, 6, [32, 16, 8, 4, 2]),  # nothing left for the sixth
        (128, 4, [16, 8, 4, 2]),
        (320, 3, [40, 20, 18]),
        (320, 2, [40, 20]),
    ],
)
def test_feature_sizes(input_size, num_scales, expected):
    assert feature_sizes(input_size, num_scales) == expected


@pytest.mark.parametrize("size", [300, 321, 328])
def test_sizes_that_ffmv1_cannot_join_are_refused(size):
    with pytest.raises(ValueError, match=str(size)):
        feature_sizes(size, 6)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("m2det320_vgg16", 12810),
        ("m2det512_vgg16", 32760),
        ("m2det704_vgg16", 62022),
        ("m2det800_vgg16", 80208),
    ],
)
def test_counts_of_the_official_sizes(name, count):
    priors = make_priors(get_config(name))
    assert priors.shape == (count, 4)
    assert priors.dtype == np.float32


def test_small_table_by_hand():
    """One map of 2x2 cells, step 4 in 8 pixels, scales 0.25 and 1, ratio 4."""
    priors = prior_boxes([2], [4], [0.25, 1.0], [[4]], 8)
    cell = [[0.25, 0.25], [0.5, 0.5], [0.5, 0.125], [0.125, 0.5]]  # w, h
    expected = [[cx, cy, w, h] for cy in (0.25, 0.75) for cx in (0.25, 0.75) for w, h in cell]
    np.testing.assert_allclose(priors, expected, atol=1e-7)


def test_first_and_last_prior_at_320():
    priors = make_priors(get_config("m2det320_vgg16"))
    np.testing.assert_allclose(priors[0], [4 / 320, 4 / 320, 0.08, 0.08], atol=1e-7)
    # the one cell of the last map: scale 0.87 with ratio 1/3, its height clipped
    np.testing.assert_allclose(priors[-1], [0.5, 0.5, 0.87 / 3**0.5, 1.0], atol=1e-6)


def test_derived_tables_cover_other_sizes():
    # 28 pixels of 256 are 0.1094; four equal parts of 0.2078 from twice that to 1.05
    by_hand = (0.1094, 0.2188, 0.4266, 0.6344, 0.8422, 1.05)
    assert derived_table(256, [32, 16, 8, 4, 2]).scales == by_hand
    assert derived_table(128, [16, 8, 4, 2]).scales == (0.15, 0.3, 0.55, 0.8, 1.05)
    for size, count in ((256, 8184), (1024, (128**2 + 64**2 + 32**2 + 16**2 + 8**2 + 6**2) * 6)):
        priors = make_priors(get_config("m2det320_vgg16", [f"model.input_size={size}"]))
        assert len(priors) == count
        assert priors.min() >= 0
        assert priors.max() <= 1


def test_own_anchors():
    overrides = ["anchors.scales=0.1,0.2,0.3,0.4,0.5", "anchors.ratios=[[2]]"]
    priors = make_priors(get_config("m2det_tiny", overrides))
    assert len(priors) == (16**2 + 8**2 + 4**2 + 2**2) * 4
    np.testing.assert_allclose(priors[0, 2:], 0.1, atol=1e-7)


@pytest.mark.parametrize(
    "override", ["anchors.scales=0.1,0.2", "anchors.steps=8", "anchors.ratios=[[2],[3]]"]
)
def test_anchors_that_do_not_fit_the_maps(override):
    with pytest.raises(ValueError, match=override.split("=")[0]):
        make_priors(get_config("m2det_tiny", [override]))


@pytest.mark.parametrize("size", [320, 512])
def test_against_the_official_code(golden, size):
    expected = np.load(golden / f"priors_{size}.npz")["priors"]
    ours = make_priors(get_config(f"m2det{size}_vgg16"))
    assert np.abs(ours - expected).max() <= 1e-6


def test_ssd300_has_its_8732_priors():
    priors = make_priors(get_config("ssd300_vgg16"))
    assert priors.shape == (8732, 4)
    # 4 boxes a cell on the 38x38 map: 30 and sqrt(30 * 60) pixels, then ratio 2
    centre, between = 4 / 300, (30 * 60) ** 0.5 / 300
    expected = [[centre] * 2 + size for size in ([0.1, 0.1], [between] * 2)]
    np.testing.assert_allclose(priors[:2], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(300, [38, 19, 10, 5, 3, 1]), (320, [40, 20, 10, 5, 3, 1]), (512, [64, 32, 16, 8, 6, 4])],
)
def test_ssd_feature_sizes(size, expected):
    assert ssd_feature_sizes(size) == expected


def test_ssd_needs_room_for_six_maps():
    with pytest.raises(ValueError, match="128"):
        ssd_feature_sizes(128)
