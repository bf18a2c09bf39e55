# SPDX-License-Identifier: Apache-2.0
"""The score of a perfect network, where it is known."""

import pytest

from benchmarks.studies import ceiling
from src.config import get_config
from src.data.coco_utils import load_data
from tests.datasets import coco_content, write_coco

SIZE = ["model.input_size=64", "model.num_scales=3"]  # cells of 8 pixels; images are 60 x 48


def data_of(tmp_path, *boxes):
    rows = [(1, 3, list(box)) for box in boxes]
    return load_data(write_coco(tmp_path, coco_content(["a.jpg"], rows)), "train")


def test_objects_apart_are_all_found(tmp_path, capsys):
    data = data_of(tmp_path, [2, 2, 12, 10], [30, 20, 20, 24])
    totals = ceiling.report(data, get_config("m2det_tiny", SIZE))
    assert totals["AP"] == pytest.approx(1.0)
    text = capsys.readouterr().out
    assert "1 images, 2 objects, 0 of them no prior's target" in text
    assert "a perfect network: AP 1.0000, AP50 1.0000" in text


def test_one_of_two_objects_with_the_same_best_prior_is_lost(tmp_path):
    """A tiny cat and a tiny dog in one place: the later has the best prior, no other is near."""
    box = [2.5, 2.5, 1.2, 1.2]
    content = coco_content(["a.jpg"], [(1, 3, box), (1, 7, box)])
    data = load_data(write_coco(tmp_path, content), "train")
    results, lost = ceiling.perfect_results(data, get_config("m2det_tiny", SIZE))
    assert lost == 1
    assert [entry["category_id"] for entry in results] == [7]
    totals = ceiling.report(data, get_config("m2det_tiny", SIZE))
    assert totals["AP50"] == pytest.approx(0.5)  # of two classes, one is found


def test_neighbours_suppress_each_other(tmp_path):
    """Two boxes with an IoU of 2/3; hard NMS at 0.45 keeps one."""
    data = data_of(tmp_path, [10, 10, 20, 20], [14, 10, 20, 20])
    flags = [*SIZE, "test.soft_nms=false"]
    results, lost = ceiling.perfect_results(data, get_config("m2det_tiny", flags))
    assert lost == 0
    assert len(results) == 1


def test_command(tmp_path, capsys):
    data_of(tmp_path, [2, 2, 12, 10])
    flags = [word for text in SIZE for word in ("--set", text)]
    assert ceiling.main(["--dataset_path", str(tmp_path), *flags])["AP"] == pytest.approx(1.0)
    capsys.readouterr()
    with pytest.raises(ValueError, match="nowhere"):
        ceiling.main(["--dataset_path", str(tmp_path), "--set", "nowhere.x=1"])
