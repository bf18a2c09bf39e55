# SPDX-License-Identifier: Apache-2.0
import pytest

from src.training.optimizers import LARGEST_LOSS_SCALE, DynamicLossScale


def test_halves_on_overflow_and_doubles_after_a_window():
    scale = DynamicLossScale(8.0, window=3)
    told = [True, True, True, False, True, True, False, True, True, True]
    seen = []
    for finite in told:
        changed = scale.update(finite)
        seen.append((scale.scale, changed))
    assert [value for value, _ in seen] == [8, 8, 16, 8, 8, 8, 4, 4, 4, 8]
    assert [changed for _, changed in seen] == [i in (2, 3, 6, 9) for i in range(10)]


@pytest.mark.parametrize(
    ("start", "finite", "end"), [(1.0, False, 1.0), (LARGEST_LOSS_SCALE, True, LARGEST_LOSS_SCALE)]
)
def test_limits(start, finite, end):
    scale = DynamicLossScale(start, window=1)
    assert not scale.update(finite)
    assert scale.scale == end


def test_resuming_goes_on_in_the_middle_of_a_window():
    straight, first = DynamicLossScale(8.0, 3), DynamicLossScale(8.0, 3)
    for scale in (straight, first):
        scale.update(False)
        scale.update(True)
    second = DynamicLossScale(99.0, 3)
    second.restore(first.state())
    for scale in (straight, second):
        scale.update(True)
        scale.update(True)
    assert second.scale == straight.scale == 8.0
