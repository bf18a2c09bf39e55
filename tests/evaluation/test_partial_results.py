# SPDX-License-Identifier: Apache-2.0
"""Parts of an evaluation: continued, never mixed up, merged."""

import pytest

from src.data.coco_utils import load_data
from src.evaluation.partial_results import PartialResults, settings_key
from tests.datasets import coco_content, write_coco, write_image

ROW = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}


def results_of(path, key):
    """What a part holds, by image id."""
    return PartialResults(path, key).results


def test_goes_on_where_it_was(tmp_path):
    path = tmp_path / "deep" / "part.jsonl"
    PartialResults(path, "key").append([1, 2], [[ROW], []])
    again = PartialResults(path, "key")
    assert set(again.results) == {1, 2}
    again.append([3], [[ROW, ROW]])
    assert results_of(path, "key") == {1: [ROW], 2: [], 3: [ROW, ROW]}


def test_another_key_starts_anew(tmp_path):
    path = tmp_path / "part.jsonl"
    PartialResults(path, "one").append([1], [[ROW]])
    assert results_of(path, "two") == {}
    assert results_of(path, "one") == {}  # and nothing of the old one is left


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_off_is_forgotten(tmp_path, cut):
    path = tmp_path / "part.jsonl"
    part = PartialResults(path, "key")
    part.append([1], [[ROW]])
    size = path.stat().st_size
    part.append([2], [[ROW]])
    with open(path, "r+b") as file:
        file.truncate(size + cut)
    again = PartialResults(path, "key")
    assert set(again.results) == {1}
    again.append([3], [[]])
    assert results_of(path, "key") == {1: [ROW], 3: []}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\n", b"[]\n", b'{"key": "other"}\n{}\n'])
def test_a_damaged_file_is_started_anew(tmp_path, content):
    path = tmp_path / "part.jsonl"
    path.write_bytes(content)
    part = PartialResults(path, "key")
    assert part.results == {}
    part.append([1], [[]])
    assert results_of(path, "key") == {1: []}


def test_what_is_appended_is_there_at_once(tmp_path):
    part = PartialResults(tmp_path / "part.jsonl", "key")
    part.append([1, 2], [[ROW], []])
    assert part.results == {1: [ROW], 2: []}


def test_the_key_stands_for_everything_that_matters(tmp_path):
    data = load_data(write_coco(tmp_path / "data", coco_content(["a.jpg", "b.jpg"])), "train")
    weights = tmp_path / "x.ckpt"
    weights.write_bytes(b"weights")
    keys = [settings_key([weights], "settings", data, 1)]
    assert settings_key([weights], "settings", data, 1) == keys[0]
    keys.append(settings_key([weights], "other", data, 1))
    keys.append(settings_key([weights], "settings", data, 2))
    fewer = data.subset([0])
    keys.append(settings_key([weights], "settings", fewer, 1))
    write_image(tmp_path / "data" / "train2017" / "a.jpg", 61, 48, 17)
    keys.append(settings_key([weights], "settings", data, 1))
    weights.write_bytes(b"others!")
    keys.append(settings_key([weights], "settings", data, 1))
    assert len(set(keys)) == len(keys)
    with pytest.raises(OSError, match="gone"):
        settings_key([tmp_path / "gone.ckpt"], "settings", data, 1)
