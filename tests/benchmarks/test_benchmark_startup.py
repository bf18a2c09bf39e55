# SPDX-License-Identifier: Apache-2.0
"""The table of start-up times, and a small run of it (slow)."""

import pytest

pytest.importorskip("torch")

from benchmarks import startup
from benchmarks.peers.cases import Case


def times(imports, network, first):
    return {
        "imports": imports,
        "network": network,
        "first": first,
        "all": imports + network + first,
    }


def test_rows_hold_medians_over_the_rounds():
    found = {
        ("pytorch", ""): [times(1, 1, 2), times(1, 1, 3), times(2, 2, 6)],  # 4, 5, 10
        ("mindspore", "cold"): [times(1, 3, 16), times(1, 2, 2), times(2, 3, 5)],  # 20, 5, 10
    }
    peer, ours = startup.rows(Case("training", 320, 2), found)
    assert peer == "| training vgg16 320, batch 2 | pytorch |  | 5.0 | 1.00 | 1.0 | 1.0 | 3.0 |  |"
    assert ours == "|  | mindspore | cold | 10.0 | 1.00 | 1.0 | 3.0 | 5.0 | 30 s |"


@pytest.mark.slow
def test_a_small_run(capfd):
    small = ["--size", "64", "--backbone", "resnet18", "--num_levels", "2", "--rounds", "1"]
    startup.main(small)
    lines = capfd.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")][1:]
    assert [row[2].strip() for row in rows] == ["", "cold", "warm"] * 2
    for cold, warm in (rows[1:3], rows[4:6]):
        assert float(warm[7]) < float(cold[7])  # the first call: nothing to compile
