# SPDX-License-Identifier: Apache-2.0
import pytest

from benchmarks.studies import one_class
from src.data.coco_utils import load_data
from src.runtime.errors import UsageError
from tests.datasets import coco_content, write_coco

BOXES = [(1, 7, [2, 3, 10, 20]), (1, 3, [20, 5, 30, 8]), (2, 3, [1, 1, 9, 9], 1)]


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "both"
    write_coco(root, coco_content(["a.jpg", "b.jpg"], BOXES))
    return root


def words(data, name):
    split = "train2017"
    return ["--dataset_path", str(data), "--name", name, "--output", str(data / "cats"), split]


def test_all_images_with_the_boxes_of_one_class(data, capsys):
    one_class.main(words(data, "cat"))
    assert capsys.readouterr().out == "train2017: 2 images, 2 boxes\n"
    first, second = load_data(data / "cats", "train2017").records
    assert (first.boxes_px.tolist(), first.labels.tolist()) == ([[20, 5, 50, 13]], [1])
    assert (second.boxes_px.tolist(), second.ignore.tolist()) == ([[1, 1, 10, 10]], [True])
    assert first.path.endswith("000001.jpg")


def test_another_class_is_refused_and_nothing_written(data):
    with pytest.raises(UsageError, match="--name bird: must be one of "):
        one_class.main(words(data, "bird"))
    assert not (data / "cats").exists()
