# SPDX-License-Identifier: Apache-2.0
"""The ways that are compared, and what counts as a failure."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.studies import multi_scale
from src.config import get_config
from src.data.coco_utils import load_data
from src.inference.views import ViewPlan
from tests.evaluation.test_pipeline import detector as bright_cells
from tests.evaluation.test_pipeline import root  # noqa: F401  (a fixture)


def test_sizes_lie_around_the_trained_one():
    assert multi_scale.ways(128) == [
        [],
        ["test.flip=true"],
        ["test.multi_scale=128,160,192", "test.merge=soft_nms"],
        ["test.multi_scale=96,128,160,192", "test.flip=true", "test.merge=soft_nms"],
        ["test.multi_scale=128,160,192", "test.merge=wbf"],
        ["test.multi_scale=96,128,160,192", "test.flip=true", "test.merge=wbf"],
    ]
    # 320: 0.75, 1, 1.25 and 1.5 times are multiples of 16
    assert multi_scale.ways(320)[3][0] == "test.multi_scale=240,320,400,480"


@pytest.mark.parametrize(("second", "code"), [(0.5, 0), (0.6, 0), (0.4, 1)])
def test_a_lower_score_is_a_failure(monkeypatch, capsys, second, code):
    """Scores of one look 0.5, of the next way `second`, of the others 0.7."""
    scores = iter([0.5, second, *[0.7] * 4])
    config = get_config("m2det_tiny")
    detector = SimpleNamespace(plan=ViewPlan(128, flip=True))
    network = SimpleNamespace(config=config, detector=lambda _: detector)
    monkeypatch.setattr(multi_scale, "setup_device", lambda *_: (0, 1))
    monkeypatch.setattr(multi_scale, "read_network_file", lambda *_: network)
    monkeypatch.setattr(multi_scale, "load_data", lambda *_: None)
    monkeypatch.setattr(multi_scale, "measure", lambda *_: ({"AP": next(scores)}, 0.02))
    flags = ["--checkpoint_path", "x.ckpt", "--dataset_path", str(Path("x"))]
    assert multi_scale.main(flags) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[1].split()[-7:] == ["look", "0.5000", "2.0", "x", "0.0200", "1.0", "x"]


def test_measuring(root):  # noqa: F811
    numbers, seconds = multi_scale.measure(
        bright_cells(flip=True), load_data(root, "val"), get_config("m2det_tiny")
    )
    assert numbers["AP"] == pytest.approx(1.0)
    assert seconds > 0
