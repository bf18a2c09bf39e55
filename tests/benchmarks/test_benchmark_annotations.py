# SPDX-License-Identifier: Apache-2.0
"""The benchmark of annotations: all sides read the same data set, ratios are round by round."""

import re

from benchmarks import annotations


def test_the_table_of_a_small_data_set(capsys):
    annotations.main(["--images", "20", "--boxes", "2500", "--rounds", "1"])  # in two chunks
    lines = capsys.readouterr().out.splitlines()
    assert "20 images, 2500 boxes" in "\n".join(lines)
    names = [line.split(" | ")[0] for line in lines[-3:]]
    assert names == ["| pycocotools", "| load_data, first", "| load_data, later"]
    assert all(re.search(r"\| \d+\.\d \| \d+\.\d\d \|$", line) for line in lines[-3:])


def test_ratios_are_of_each_round():
    found = {"pycocotools": [(10, 8, 100), (20, 8, 100), (30, 8, 100)]}
    found["first"] = [(5, 2, 50), (20, 4, 50), (3, 6, 25)]
    assert annotations.rows_of(found)[1] == (
        "| load_data, first | 5.0 | 0.50 | 4.0 | 0.50 | 50.0 | 0.50 |"
    )
