# SPDX-License-Identifier: Apache-2.0
"""The comparison's arithmetic, and a run of its smallest suite."""

import pytest

torch = pytest.importorskip("torch")

from benchmarks import run  # noqa: E402
from benchmarks.peers import sides  # noqa: E402
from benchmarks.peers.cases import Case  # noqa: E402


def test_ratios_are_medians_over_turns():
    peer = run.Measured(first=5.0, times=[2.0, 4.0, 8.0], peak_gb=2.0)
    ours = run.Measured(first=9.0, times=[1.0, 3.0, 8.0], peak_gb=3.0)
    network = sides.Network(parameters=1, multiply_adds=10**9, priors=1)
    # turn by turn 0.5, 0.75 and 1.0; a step is three passes over a batch of 2
    first, second = run.rows(
        Case("training", 320, 2), network, {"pytorch": peer, "mindspore": ours}, 6e9
    )
    assert first.split(" | ")[2:] == ["5.00", "4.000", "1.00", "2.00", "1.00", "25% |"]
    assert second.split(" | ")[1:] == [
        "mindspore",
        "9.00",
        "3.000",
        "0.75",
        "3.00",
        "1.50",
        "33% |",
    ]


def test_multiply_adds_are_counted():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)
            self.full = torch.nn.Linear(5, 7)

        def forward(self, x):
            pooled = self.conv(x).mean((2, 3))
            return self.full(pooled)[:, :, None], None

    # 4 x 4 positions, 5 outputs of 27 products each; then 7 outputs of 5
    assert sides._count(Net(), 8) == (16 * 5 * 27 + 35, 7)


def test_one_side_of_a_case_that_fails_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="error is above"):
        run.Worker(run.SIDES["pytorch"], Case("inference", 64, 1, "resnet18", 2), tmp_path)


@pytest.mark.slow
def test_small_suite(tmp_path):
    run.main(["--suite", "small", "--output", str(tmp_path / "table.md")])
    table = (tmp_path / "table.md").read_text()
    assert table.count("| mindspore |") == 2
    assert table.count("| onnxruntime |") == 1
