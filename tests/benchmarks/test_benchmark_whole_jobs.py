# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the comparison of whole jobs, and a run of it (slow)."""

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import whole_jobs as jobs


def test_rows_hold_medians_over_the_turns():
    peer = [jobs.Timed(10.0, 8.0), jobs.Timed(20.0, 10.0), jobs.Timed(30.0, 10.0)]
    ours = [jobs.Timed(5.0, 4.0), jobs.Timed(16.0, 10.0), jobs.Timed(27.0, 18.0)]
    # turn by turn 0.5, 0.8, 0.9 of the peer; 1.25, 1.6, 1.5 times the network alone
    first, second = jobs.rows("evaluation", {"pytorch": peer, "mindspore": ours})
    assert first == "| evaluation | pytorch | 20.0 | 1.00 | 10.0 | 2.00 |"
    assert second == "|  | mindspore | 16.0 | 0.80 | 10.0 | 1.50 |"


def test_calls_alone_are_as_many_as_the_job_makes():
    calls = []
    jobs._timed(lambda: calls.append("call"), 5, lambda: calls.append("job"))
    assert calls == ["call"] * (jobs.WARM_UP + 2) + ["job"] + ["call"] * 3


def test_threshold_lets_the_wanted_number_of_candidates_pass():
    logits = np.random.default_rng(0).normal(0, 1, (4000, 5)).astype(np.float32)
    terms = np.exp(logits.astype(np.float64))
    scores = (terms / terms.sum(axis=1, keepdims=True))[:, 1:]
    assert abs((scores > jobs.threshold(logits)).sum() - jobs.CANDIDATES) <= 1


@pytest.mark.slow
def test_all_jobs(capfd):
    jobs.main(["--images", "6", "--size", "64", "--backbone", "resnet18", "--num_levels", "2"])
    assert capfd.readouterr().out.count("| mindspore |") == 2
