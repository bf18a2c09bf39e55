# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from src.config import ConfigError
from src.training.lr_scheduler import learning_rates, total_steps


def test_steps_multiply_up():
    rates = learning_rates(1.0, 8, 2, 0, (1, 3), (0.5, 0.2))
    np.testing.assert_allclose(rates, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1], rtol=1e-6)
    assert rates.dtype == np.float32


def test_published_schedule():
    """7.5e-4 with factors .5 .2 .1 .1 at epochs 90, 110, 130, 150 of 160; 10 steps an epoch."""
    rates = learning_rates(7.5e-4, 1600, 10, 5, (90, 110, 130, 150), (0.5, 0.2, 0.1, 0.1))
    at = {50: 7.5e-4, 899: 7.5e-4, 900: 3.75e-4, 1100: 7.5e-5, 1300: 7.5e-6, 1599: 7.5e-7}
    for step, expected in at.items():
        assert rates[step] == pytest.approx(expected, rel=1e-5)


def test_warmup_rises_from_near_zero():
    rates = learning_rates(1.0, 10, 5, 1)
    np.testing.assert_allclose(rates[:6], [1e-6, 0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-5)


def test_epochs_need_not_be_whole_steps():
    rates = learning_rates(1.0, 6, 2.5, 0, (1,), (0.1,))
    np.testing.assert_allclose(rates, [1, 1, 1, 0.1, 0.1, 0.1], rtol=1e-6)


def test_cosine_ends_near_zero():
    rates = learning_rates(2.0, 100, 10, 0, schedule="cosine", gamma=(1.0,))
    assert rates[0] == pytest.approx(2)
    assert rates[50] == pytest.approx(1)
    assert rates[-1] < 0.01
    assert (np.diff(rates) < 0).all()


@pytest.mark.parametrize(
    ("milestones", "gamma", "schedule", "named"),
    [
        ((1, 2), (0.1, 0.1, 0.1), "step", "train.gamma"),
        ((2, 1), (0.1,), "step", "train.lr_epochs"),
        ((), (0.1,), "linear", "cosine"),
    ],
)
def test_bad_schedules(milestones, gamma, schedule, named):
    with pytest.raises(ValueError, match=named):
        learning_rates(1.0, 4, 2, 0, milestones, gamma, schedule)


def test_too_many_steps_are_refused():
    assert total_steps(160, 118_287, 1) == 18_925_920
    with pytest.raises(ConfigError, match=r"train\.total_epochs=1000000 is 118,287,000,000 steps"):
        total_steps(1_000_000, 118_287, 1)
