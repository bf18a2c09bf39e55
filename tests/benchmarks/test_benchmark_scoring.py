# SPDX-License-Identifier: Apache-2.0
"""A small run of the scoring benchmark, and its table."""

import pytest

from benchmarks import scoring
from benchmarks.scoring import OURS, PLAIN, Measured


def test_both_sides_find_the_same(tmp_path):
    scoring.write_split(tmp_path, images=6, each=10)
    plain, ours = (scoring.run(side, tmp_path) for side in (PLAIN, OURS))
    assert len(plain.numbers) == 12
    assert 0.05 < plain.numbers[0] < 0.95
    assert ours.numbers == pytest.approx(plain.numbers, abs=1e-12)


def test_rows_hold_medians_over_the_rounds():
    plain, ours = (
        [Measured(seconds, gigabytes, (0.25,) * 12) for seconds, gigabytes in runs]
        for runs in (((10, 1), (12, 1), (20, 2)), ((12, 3), (12, 1), (22, 2)))
    )
    assert scoring.rows({PLAIN: plain, OURS: ours}) == [
        "| pycocotools | 12.0 | 1.00 | 1.00 | 0.2500 |",
        "| ours | 12.0 | 1.10 | 2.00 | 0.2500 |",  # 1.2, 1.0, 1.1
    ]


def test_other_numbers_are_an_error(tmp_path, monkeypatch):
    answers = iter([Measured(1, 1, (0.5,)), Measured(1, 1, (0.6,))])
    monkeypatch.setattr(scoring, "in_own_process", lambda *_: next(answers))
    with pytest.raises(RuntimeError, match="ours"):
        scoring.compare(tmp_path, 1)
